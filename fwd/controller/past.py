"""How everything was in the last hour: states by name, as changes of them, so that a page can show any moment; no IO.

Bounded by time and by the number of changes: whoever flaps shortens what is known, and makes nothing grow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

HOUR_S: Final = 3600.0
CHANGES_MAX: Final = 20_000  # of single states
GONE: Final = ""
UNKNOWN: Final = "unknown"
States = Mapping[str, str]


class Past:
    """See the module."""

    def __init__(self) -> None:
        self.began_at: float | None = None  # from when on it is known, by the wall clock
        self.listens_since: float | None = None  # the same, however long ago
        self._first: dict[str, str] = {}  # how it was then
        self._last: dict[str, str] = {}
        self._changes: deque[tuple[float, dict[str, str]]] = deque()
        self._count = 0
        self._since: dict[str, float] = {}
        self._earlier: set[str] = set()  # what was so before anybody listened, as far as anybody knows

    def note(self, states: States, wall: float) -> bool:
        """Take how everything is now; returns whether anything is another than before. A clock that was set back makes
        no time twice: it goes on from then.
        """
        if self.began_at is None:
            self.began_at, self._first, self._last = wall, dict(states), dict(states)
            self.listens_since, self._earlier = wall, set(states)
            return True
        changed = {key: state for key, state in states.items() if self._last.get(key) != state}
        changed |= dict.fromkeys(self._last.keys() - states.keys(), GONE)
        if changed:
            self._date(changed, wall)
            self._changes.append((wall, changed))
            self._last = dict(states)
            self._count += len(changed)

        # What is older than an hour, or too much, becomes how it was at first.
        while self._changes and (self._count > CHANGES_MAX or wall - self._changes[0][0] > HOUR_S):
            self.began_at, oldest = self._changes.popleft()
            self._count -= len(oldest)
            _apply(self._first, oldest)
        self.began_at = min(max(self.began_at, wall - HOUR_S), wall)
        return bool(changed)

    def at(self, wall: float) -> States | None:
        """Say how everything was at a moment; None: that is not known."""
        if self.began_at is None or wall < self.began_at:
            return None
        found = dict(self._first)
        for when, changed in self._changes:
            if when > wall:
                break
            _apply(found, changed)
        return found

    def since(self, key: str) -> float | None:
        """Say since when something is as it is; None: since before anybody listened."""
        return self._since.get(key)

    def _date(self, changed: States, wall: float) -> None:
        """Note since when changed states hold: what was unknown at first may have been so before."""
        for key, state in changed.items():
            if key in self._earlier and self._last.get(key) == UNKNOWN and state != GONE:
                continue
            self._earlier.discard(key)
            self._since[key] = wall
            if state == GONE:
                del self._since[key]


def _apply(states: dict[str, str], changed: States) -> None:
    for key, state in changed.items():
        if state == GONE:
            states.pop(key, None)
        else:
            states[key] = state

"""How often what others take away is restored, and how often that is told: pure, of time.

At once, as a rule. What is gone within SOON_S of its restoration, several times in a row, somebody else removes on
purpose: then it is restored less and less often, so that two that fight over it do not spin.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

What = TypeVar("What")
SOON_S: Final = 2.0
CALM_S: Final = 5.0  # that it must stand for before all is forgiven
STRIKES: Final = 5  # in a row: a fight
FIRST_S: Final = 0.5
LONGEST_S: Final = 30.0
TOLD_AT_ONCE: Final = 10
TOLD_EVERY_S: Final = 60.0


@dataclass
class _Known:
    missing_since: float | None = None
    restored_at: float = float("-inf")
    strikes: int = 0
    times: int = 0  # restored, in this fight
    refusals: int = 0
    tried_at: float = float("-inf")


class Patience(Generic[What]):
    """Of one peering; `what` is anything that can be missing. `longest_s`: between two attempts."""

    def __init__(self, longest_s: float = LONGEST_S) -> None:
        self._longest_s = longest_s
        self._known: dict[What, _Known] = {}

    @property
    def knows_any(self) -> bool:
        """Whether anything is missing, or was lately."""
        return bool(self._known)

    def may_restore(self, what: What, now: float) -> bool:
        """Take note that it is missing; whether it is to be restored now."""
        known = self._known.setdefault(what, _Known())
        if known.missing_since is None:
            known.missing_since = now
            known.strikes = known.strikes + 1 if now - known.restored_at < SOON_S else 0
        doublings = max(known.strikes - STRIKES, known.refusals - 1)
        wait_s = min(FIRST_S * 2.0 ** min(doublings, 10), self._longest_s) if doublings >= 0 else 0.0
        if now - known.tried_at < wait_s:
            return False
        known.tried_at = now
        return True

    def restored(self, what: What, now: float) -> None:
        """It was restored."""
        known = self._known[what]
        known.missing_since, known.restored_at, known.refusals = None, now, 0
        known.times += 1

    def refused(self, what: What) -> None:
        """It could not be restored: the next attempt waits longer."""
        self._known[what].refusals += 1

    def hope(self) -> None:
        """Something has changed: what could not be restored may be tried at once."""
        for known in self._known.values():
            known.refusals = 0

    def forget(self, missing: Collection[What], now: float) -> None:
        """Of what is not missing, forget what has stood for CALM_S, or came back by itself."""
        self._known = {
            what: known for what, known in self._known.items() if what in missing or now - known.restored_at < CALM_S
        }
        for what in self._known.keys() - set(missing):
            self._known[what].missing_since = None

    def fought_over(self) -> dict[What, int]:
        """What somebody removes again and again, and how often it was restored."""
        return {
            what: known.times
            for what, known in self._known.items()
            if known.strikes >= STRIKES and known.times >= STRIKES
        }


class Allowance:
    """Some at once, and then one every so often: lines of the log, by default."""

    def __init__(self, every_s: float = TOLD_EVERY_S) -> None:
        self._every_s = every_s
        self._left, self._at = float(TOLD_AT_ONCE), float("-inf")
        self.kept_back = 0

    def may_tell(self, now: float) -> bool:
        """Whether one more may be told, or done; counts those that may not."""
        self._left = min(TOLD_AT_ONCE, self._left + (now - self._at) / self._every_s)
        self._at = now
        if self._left < 1:
            self.kept_back += 1
            return False
        self._left -= 1
        return True

    def take_kept_back(self) -> int:
        """Return how many were kept back since the last line that was told: this one says so."""
        count, self.kept_back = self.kept_back, 0
        return count

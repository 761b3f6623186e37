"""How often somebody may do something: a bucket of tries for each name, which fills with time; no IO."""

from __future__ import annotations

from typing import Final

_NAMES_MAX: Final = 4096


class Rates:
    """See the module. `most`: tries at once; `a_s`: that come back each second."""

    def __init__(self, most: float, a_s: float) -> None:
        self._most, self._a_s = most, a_s
        self._left: dict[str, tuple[float, float]] = {}

    def may(self, name: str, now: float) -> bool:
        """Whether there is a try left."""
        return self._tries(name, now) >= 1

    def take(self, name: str, now: float) -> bool:
        """Take a try, if there is one."""
        is_left = self.may(name, now)
        self.spend(name, now, 1 if is_left else 0)
        return is_left

    def spend(self, name: str, now: float, tries: float) -> None:
        """Take what something has cost, be it there or not; of very many names the one that was seen longest ago is
        forgotten.
        """
        left = self._tries(name, now) - tries
        self._left.pop(name, None)
        while len(self._left) >= _NAMES_MAX:
            del self._left[next(iter(self._left))]
        self._left[name] = left, now

    def _tries(self, name: str, now: float) -> float:
        left, at = self._left.get(name, (self._most, now))
        return min(self._most, left + self._a_s * max(0.0, now - at))

"""Budgets without a clock of their own: of so many a second, and of octets held."""

from __future__ import annotations

from typing import Protocol


class Rate:
    """A token bucket: so many a second on average, and so many at once."""

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._tokens = burst
        self._at = 0.0

    def allows(self, now: float, cost: float = 1.0) -> bool:
        """Whether `cost` more may be; if so, it is counted."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        if self._tokens < cost:
            return False
        self._tokens -= cost
        return True

    def charge(self, cost: float) -> None:
        """Count what has been done already, be it more than there was."""
        self._tokens -= cost


class FairRate:
    """Token buckets by source port, so that one source cannot take what another would have had.

    Ports fall into `classes`, each with a share of its own, within a total. The known port, which the peer is
    configured with, has a bucket for itself and is not in the total.
    """

    def __init__(self, per_s: float, *, classes: int, class_per_s: float, known_port: int) -> None:
        self._total = Rate(per_s, per_s)
        self._count, self._class_per_s = classes, class_per_s
        self._classes: dict[int, Rate] = {}  # each from its first message on: before, its bucket is full
        self._known = Rate(per_s, per_s)
        self._known_port = known_port

    def allows(self, port: int, now: float) -> bool:
        """Whether one more from this port may be; if so, it is counted."""
        if port == self._known_port:
            return self._known.allows(now)
        number = port % self._count
        if number not in self._classes:
            self._classes[number] = Rate(self._class_per_s, 2 * self._class_per_s)
        return self._classes[number].allows(now) and self._total.allows(now)


class Holder(Protocol):
    """What holds octets of a budget."""

    def clear(self) -> None:
        """Give them all back."""


class Budget:
    """Octets that may be held at a time; those of a part count in the whole, too."""

    def __init__(self, octets: int, whole: Budget | None = None) -> None:
        self.left = octets
        self._whole = whole

    def take(self, octets: int, holder: Holder | None = None) -> bool:
        """Whether so many more may be held; if so, they are counted until they are given back."""
        if octets > self.left or (self._whole is not None and not self._whole.take(octets)):
            return False
        self.left -= octets
        return True

    def give(self, octets: int, holder: Holder | None = None) -> None:
        """They are not held any more; `holder` has nothing else."""
        self.left += octets
        if self._whole is not None:
            self._whole.give(octets)


class NewestFirst(Budget):
    """A budget in which there is room for who comes last: those go that have had nothing new for longest."""

    def __init__(self, octets: int, whole: Budget | None = None) -> None:
        super().__init__(octets, whole)
        self._holders: dict[Holder, None] = {}  # the one that has taken last is the last

    def take(self, octets: int, holder: Holder | None = None) -> bool:
        """Clear as many others as it needs."""
        while not super().take(octets):
            oldest = next((one for one in self._holders if one is not holder), None)
            if oldest is None:
                return False
            oldest.clear()
        if holder is not None:
            self._holders.pop(holder, None)
            self._holders[holder] = None
        return True

    def give(self, octets: int, holder: Holder | None = None) -> None:
        """They are not held any more; `holder` has nothing else."""
        super().give(octets)
        if holder is not None:
            self._holders.pop(holder, None)

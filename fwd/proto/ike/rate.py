"""A token bucket, without a clock of its own: so many a second on average, and so many at once."""

from __future__ import annotations


class Rate:
    """Of one thing from one source."""

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._tokens = burst
        self._at = 0.0

    def allows(self, now: float) -> bool:
        """Whether one more may be; if so, it is counted."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

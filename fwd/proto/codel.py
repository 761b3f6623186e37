"""CoDel (RFC 8289): whether a queue stands, by how long each of its records has waited.

A queue that burst and drains is good: some record waits little within any INTERVAL. One of which all records wait for
longer than TARGET stands, and adds nothing but delay. Then a record is to tell its sender so, by a mark or its loss,
and another one after INTERVAL, / sqrt(2), / sqrt(3), …, until the queue drains. A queue of one record never stands.
"""

from __future__ import annotations

import math
from typing import Final

TARGET_NS: Final = 5_000_000
INTERVAL_NS: Final = 100_000_000
_RECENT_NS: Final = 16 * INTERVAL_NS  # in which a queue that stands again is told of as often as it was at last


class Codel:
    """One queue's state."""

    __slots__ = ("_above_ns", "_count", "_count_before", "_next_ns", "stands")

    def __init__(self) -> None:
        self.stands = False  # records are to tell
        self._above_ns = 0  # when it will have been above TARGET for an INTERVAL; 0: it is not
        self._next_ns = 0  # when the next record is to tell
        self._count = self._count_before = 0  # of those that told, since it stands; and when it began to

    def tells(self, now_ns: int, waited_ns: int, octets: int, record_max: int) -> bool:
        """Whether the record that leaves the queue now is to tell its sender.

        `octets` wait, this record's included; `record_max` is what one record may have.
        """
        if not self._is_above(now_ns, waited_ns, octets, record_max):
            self.stands = False
            return False

        # It stands already: at the times that the control law gives.
        if self.stands:
            if now_ns < self._next_ns:
                return False
            self._count += 1
            self._next_ns = _law(self._next_ns, self._count)
            return True

        # It begins to: about as often as before, if that is not long ago.
        self.stands = True
        grown = self._count - self._count_before
        self._count = grown if grown > 1 and now_ns - self._next_ns < _RECENT_NS else 1
        self._count_before = self._count
        self._next_ns = _law(now_ns, self._count)
        return True

    def _is_above(self, now_ns: int, waited_ns: int, octets: int, record_max: int) -> bool:
        """Whether all records of an INTERVAL have waited for longer than TARGET."""
        if waited_ns < TARGET_NS or octets <= record_max:
            self._above_ns = 0
            return False
        if not self._above_ns:
            self._above_ns = now_ns + INTERVAL_NS
            return False
        return now_ns >= self._above_ns


def _law(from_ns: int, count: int) -> int:
    """When the next record is to tell: the rate grows with the square root, as TCP's answer to it does."""
    return from_ns + int(INTERVAL_NS / math.sqrt(count))

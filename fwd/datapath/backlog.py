"""What waits in the demux for one member, which has enough to do: super-packets, while single packets go ahead.

A member's ring is short, so that what is added to it is sent soon, and two of its segments are left to single packets.
A super-packet that must wait is kept here, in the order in which it came, and so is each later record of its bucket
(rule 3). A single packet of another bucket, such as a ping, a query or an acknowledgement, goes ahead of them. What
waits is bounded: what would be more is dropped.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from fwd.proto.ip import RECORD_MAX

OCTETS_MAX: Final = 4 << 20  # as much as one stream of TCP keeps under way by Linux's defaults (tcp_wmem)
_RECORDS_MAX: Final = 4096
_FREE_MAX: Final = OCTETS_MAX // RECORD_MAX  # buffers
_POOLED: Final = 32768  # octets of a record from which on it gets a buffer that is used again


class Waiting(NamedTuple):
    """A record that waits: what Lane.put takes, and its bucket."""

    record: memoryview
    octets: npt.NDArray[np.uint8]  # the same memory
    length: int
    tos: int
    bucket: int


class Backlog:
    """The records, and in `buckets` how many of each bucket."""

    def __init__(self) -> None:
        self._records: deque[Waiting] = deque()
        self._octets = 0
        self._free: list[npt.NDArray[np.uint8]] = []  # buffers that have been used: fresh memory costs page faults
        self.buckets: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._records)

    def keep(self, record: memoryview, tos: int, bucket: int) -> bool:
        """Keep a copy of a record; False: too much waits."""
        length = len(record)
        if self._octets + length > OCTETS_MAX or len(self._records) >= _RECORDS_MAX:
            return False
        octets = self._buffer(length)
        octets[:length] = record
        self._records.append(Waiting(octets.data, octets, length, tos, bucket))
        self._octets += length
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1
        return True

    def _buffer(self, length: int) -> npt.NDArray[np.uint8]:
        if length < _POOLED:
            return np.empty(length, np.uint8)
        return self._free.pop() if self._free else np.empty(RECORD_MAX, np.uint8)

    def first(self) -> Waiting:
        """The record that has waited longest. Raises IndexError if none waits."""
        return self._records[0]

    def drop_first(self) -> None:
        """Forget the record that has waited longest, which has gone on."""
        gone = self._records.popleft()
        self._octets -= gone.length
        if gone.length >= _POOLED and len(self._free) < _FREE_MAX:
            self._free.append(gone.octets)
        self.buckets[gone.bucket] -= 1
        if not self.buckets[gone.bucket]:
            del self.buckets[gone.bucket]

    def clear(self) -> None:
        """Forget all of it."""
        self._records.clear()
        self._octets = 0
        self.buckets.clear()

    def take_all(self) -> list[Waiting]:
        """Give all that waits, in order, to whom it concerns now."""
        gone = list(self._records)
        self.clear()
        return gone

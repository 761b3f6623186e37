"""Counters in shared memory: one writer, any number of readers, and true to the packet across a kill.

A writer counts in a private array and publishes it whole once a burst: it copies the array to the half that readers
do not look at, then stores the commit word that turns them to it. So whatever a burst changed becomes visible in one
64-bit store, or not at all, and a successor continues from exactly there.
"""

from __future__ import annotations

from array import array
from enum import IntEnum
from typing import Final

from fwd.proto.drops import KERNEL_COUNTED, N_REASONS, DropReason


class DemuxCounter(IntEnum):
    """Indices in a demux's block, behind the drop reasons."""

    RECORDS = N_REASONS  # read from the TUN device
    BYTES = N_REASONS + 1
    ICMP_ERRORS = N_REASONS + 2  # records outside the selectors that go on for what they quote (proto/icmp.py)
    HEADS = N_REASONS + 3  # from here on: the ring head of each member that there may be


class MemberCounter(IntEnum):
    """Indices in a member's block, behind the drop reasons."""

    OUT_RECORDS = N_REASONS  # sealed
    OUT_BYTES = N_REASONS + 1  # of those records
    OUT_ESP = N_REASONS + 2  # sent
    OUT_ESP_BYTES = N_REASONS + 3  # UDP payload
    IN_ESP = N_REASONS + 4  # received
    IN_ESP_BYTES = N_REASONS + 5
    IN_ESP_OK = N_REASONS + 6  # opened, and their framing understood
    IN_RECORDS = N_REASONS + 7  # found whole
    IN_RECORDS_OK = N_REASONS + 8  # written to the TUN device
    IN_BYTES = N_REASONS + 9
    ECHOES_SENT = N_REASONS + 10
    ECHOES_ANSWERED = N_REASONS + 11
    IN_ICMP_ERRORS = N_REASONS + 12  # records outside the selectors that are delivered for what they quote
    DONE = N_REASONS + 13  # the ring segments finished with
    READ_RECORDS = N_REASONS + 14  # of its own queue of the TUN device, when they are sent or dropped
    READ_BYTES = N_REASONS + 15
    READ_ICMP_ERRORS = N_REASONS + 16  # as DemuxCounter.ICMP_ERRORS


class BeaconCounter(IntEnum):
    """Indices in the beacon's block."""

    ANSWERED = 0  # probes of routers
    REFUSED = 1  # datagrams that were none, or of none who has the key


MEMBER_COUNTERS = MemberCounter.READ_ICMP_ERRORS + 1
COUNTS_END: Final = 1 << 62  # nothing counts so far: who takes over from a process that was taken over begins at 0
_TRIES = 100  # a burst takes far longer than a look


_ESP_DROPS = [r for r in DropReason if r.stage == "inbound" and r.unit == "esp" and r not in KERNEL_COUNTED]
_RECORD_DROPS = [r for r in DropReason if r.stage == "inbound" and r.unit == "record"]


def count_lost(counters: array[int]) -> None:
    """Count a member's ESP packets, and records in them, of which nothing is counted but that they came, as lost."""
    packets = counters[MemberCounter.IN_ESP_OK] + sum(counters[reason] for reason in _ESP_DROPS)
    records = counters[MemberCounter.IN_RECORDS_OK] + sum(counters[reason] for reason in _RECORD_DROPS)
    counters[DropReason.INTERNAL_ERROR_IN] += max(0, counters[MemberCounter.IN_ESP] - packets)
    counters[DropReason.INTERNAL_ERROR_DELIVERY] += max(0, counters[MemberCounter.IN_RECORDS] - records)


class CheckWord(IntEnum):
    """Indices in the block by which a member tells of the last check that a user asked for (proto/check.py)."""

    RUN = 0  # which one it was
    SPI = 1  # the SA that its echoes went out on
    SENT = 2
    BACK = 3
    RTT_US = 4  # of those that came back, the mean


class CounterBlock:
    """`count` counters in `words`, a view of 64-bit words at least `size(count)` long."""

    def __init__(self, words: memoryview, count: int) -> None:
        self._words = words
        self._halves = (words[1 : 1 + count], words[1 + count : 1 + 2 * count])
        self._commit = words[0]
        self.values = array("Q", self._halves[self._commit & 1])

    @staticmethod
    def size(count: int) -> int:
        """Words that a block of `count` counters takes."""
        return 1 + 2 * count

    def attach(self) -> array[int]:
        """Become the writer: take up the published values; returns the private array to count in."""
        self._commit = self._words[0]
        found = self._halves[self._commit & 1].tolist()
        self.values = array("Q", (value if value < COUNTS_END else 0 for value in found))
        return self.values

    @property
    def words(self) -> memoryview:
        """The block itself."""
        return self._words

    def follow(self) -> None:
        """Go on from what the compiled core has published. Writer only."""
        self._commit = self._words[0]

    def publish(self) -> None:
        """Make all that was counted visible at once."""
        commit = self._commit + 1 & 2**64 - 1  # whatever a predecessor has left there
        self._halves[commit & 1][:] = self.values
        self._words[0] = commit
        self._commit = commit

    def since(self, index: int) -> int:
        """How much a counter has grown since it was published last. Writer only."""
        grown: int = self.values[index] - self._halves[self._commit & 1][index]
        return grown

    def revert(self) -> None:
        """Forget what was counted and not published, as a successor would. Writer only."""
        self.values[:] = array("Q", self._halves[self._commit & 1])

    def read(self) -> list[int]:
        """The published values, from one moment; of a writer that never rests, whatever is there."""
        for _ in range(_TRIES):
            commit = self._words[0]
            values = self._halves[commit & 1].tolist()
            if self._words[0] == commit:  # else the half may have been written to meanwhile
                break
        return values

"""Where records wait while their buckets go from a member that leaves, and is still sending, to others.

A busy bucket changes hands in order (rule 3): its records wait here until the old member has sent all that its
ring held when the bucket was taken from it, and SPACING_NS more, since two members' packets go different ways. They
then go to the new one before any that come later. What waits is bounded: when it is full the demux reads no more, but
for what comes from an old member's backlog, which has a bound of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from fwd.datapath.lane import Lane

SPACING_NS: Final = 5_000_000
WAIT_MAX_NS: Final = 500_000_000  # for a member that sends no more, and yet lives
_OCTETS_MAX: Final = 1 << 20
_RECORDS_MAX: Final = 4096


class Parking:
    """`active`: some buckets are parked."""

    def __init__(self) -> None:
        self.active = False
        self._waiting: deque[tuple[int, bytearray, bool]] = deque()  # bucket, record, whether it was read since
        self._octets = self._records = 0  # of what was read since buckets were parked
        self._held: dict[Lane, int] = {}  # by lane: its head when its buckets were taken
        self._since_ns = self._sent_ns = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether no more should be read, for want of room."""
        return self._octets >= _OCTETS_MAX or self._records >= _RECORDS_MAX

    def begin(self, lanes: Mapping[Lane, int], now_ns: int) -> None:
        """Wait for these lanes' members, from each lane's head on."""
        self.active = True
        self._held |= lanes
        self._since_ns, self._sent_ns = now_ns, 0

    def bring(self, records: Iterable[tuple[int, memoryview]]) -> None:
        """Keep what waited for an old member already: for that alone reading does not stop."""
        for bucket, record in records:
            self._waiting.append((bucket, bytearray(record), False))

    def put(self, bucket: int, record: memoryview) -> None:
        """Keep a copy of a record whose bucket is parked."""
        kept = bytearray(record)
        self._octets += len(kept)
        self._records += 1
        self._waiting.append((bucket, kept, True))

    def is_over(self, now_ns: int) -> bool:
        """Whether the records may go on: all that was before them is sent, or will not be."""
        done = all(has_sent(lane.ring.done, lane.head, head) for lane, head in self._held.items())
        if done and not self._sent_ns:
            self._sent_ns = now_ns
        return may_go_on(self._since_ns, self._sent_ns, now_ns)

    def release(self, put: Callable[[int, bytearray], None]) -> None:
        """Give what waits to `put`, in order."""
        while self._waiting:
            bucket, record, _ = self._waiting.popleft()
            put(bucket, record)
        self.clear()

    def sift(self, may_go: Callable[[memoryview], bool]) -> int:
        """Forget the records that may not go any more; returns how many."""
        left = deque(one for one in self._waiting if may_go(memoryview(one[1])))
        gone, self._waiting = len(self._waiting) - len(left), left
        read = [len(record) for _, record, was_read in left if was_read]
        self._octets, self._records = sum(read), len(read)
        return gone

    def buckets(self) -> set[int]:
        """The buckets of which a record waits."""
        return {bucket for bucket, *_ in self._waiting}

    def forget(self) -> None:
        """Forget what waits; the buckets stay parked."""
        self._waiting.clear()
        self._octets = self._records = 0

    def clear(self) -> None:
        """Forget all of it."""
        self.forget()
        self._held.clear()
        self.active = False


def has_sent(done: int, head: int, wanted: int) -> bool:
    """Whether a member has sent all up to segment `wanted`; what it says counts only if it can be (`head` is ours)."""
    return wanted <= done <= head


def may_go_on(since_ns: int, sent_ns: int, now_ns: int) -> bool:
    """Whether parked records may go on; `sent_ns`: when all before them was found sent, 0: it is not yet."""
    return bool(sent_ns and now_ns - sent_ns >= SPACING_NS) or now_ns - since_ns >= WAIT_MAX_NS

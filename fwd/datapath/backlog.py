"""What waits in the demux for one member, which has enough to do: super-packets, while single packets go ahead.

A member's ring is short, so that what is added to it is sent soon, and two of its segments are left to single packets.
A super-packet that must wait is kept here, and so is each later record of its bucket (rule 3). Buckets take turns of
some octets, as in DRR (Shreedhar and Varghese, 1996): whose queue is long waits for itself. A single packet of another
bucket, such as a ping, a query or an acknowledgement, goes ahead of them. Many do not: once they have half a segment of
those that are left to them, the next one is for what waits here; such as never end would take them all.

Single packets of another TOS octet than those before them need a segment of their own. While the member has enough to
do they wait here, too, each TOS octet in a queue of its own, so that one segment takes all of a queue, and a few such
segments are begun in a millisecond at most. A bucket that sends more there than packets of one TOS octet goes on in a
queue of its own, in whose turn each change of the octet counts as a segment, since it takes one.

A bucket's queue that stands is held short by CoDel (RFC 8289): senders are told so by ECN or, where they do not know
that, by a loss. What waits is bounded, too: a queue may hold as much as there is room left, so one that fills it up
leaves half to others.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from fwd.proto.codel import Codel
from fwd.proto.cut import cut_segment
from fwd.proto.drops import DropReason
from fwd.proto.ip import CE, RECORD_MAX, VNET_BYTES, mark_congestion

OCTETS_MAX: Final = 8 << 20  # twice what one stream of TCP keeps under way by Linux's defaults (tcp_wmem)
_RECORDS_MAX: Final = 8192
_SINGLES_MAX: Final = 512  # of one TOS octet: more than a few milliseconds' would be a queue of their own
_FREE_MAX: Final = OCTETS_MAX // RECORD_MAX  # buffers
_POOLED: Final = 32768  # octets of a record from which on it gets a buffer that is used again
_TURN: Final = 2 * RECORD_MAX  # octets that a bucket may send in its turn: a segment full
_SINGLES_NS: Final = 250_000  # between segments that are begun for a TOS octet alone
_SINGLES_AT_ONCE_NS: Final = 1_000_000  # as much of that as may be made up for


class Waiting(NamedTuple):
    """A record that waits: what Lane.put takes, and its bucket."""

    record: memoryview
    octets: npt.NDArray[np.uint8]  # the same memory
    length: int
    tos: int
    bucket: int
    since_ns: int


class Queue:
    """Records that go one after another: those of one bucket, or single packets of one TOS octet, which is `single`."""

    __slots__ = ("buckets", "codel", "credit", "is_judged", "octets", "records", "single")

    def __init__(self, single: int | None) -> None:
        self.single = single
        self.records: deque[Waiting] = deque()
        self.octets = 0
        self.credit = _TURN  # octets that it may still send in its turn
        self.buckets: Counter[int] = Counter()  # how many records wait of each
        self.codel = Codel()
        self.is_judged = False  # the first record, by CoDel


class Backlog:
    """The records: `waiting` has the queue of each bucket of which one waits, `turns` the buckets' queues in order."""

    def __init__(self, tos_mask: int = 0xFF, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """`tos_mask`: of a TOS octet what records of a segment have in common."""
        self._tos_mask = tos_mask
        self._clock = clock
        self.waiting: dict[int, Queue] = {}
        self.turns: deque[Queue] = deque()
        self._singles: dict[int, Queue] = {}  # by TOS octet, in turns, too
        self._singles_ns = 0  # when the next segment may be begun for one of these
        self._octets = self._count = 0
        self._free: list[npt.NDArray[np.uint8]] = []  # buffers that have been used: fresh memory costs page faults

    def __len__(self) -> int:
        return self._count

    def keep(self, record: memoryview, tos: int, bucket: int, single: int | None = None) -> bool:
        """Keep a copy of a record; False: too much waits. `single`: of a single packet what its segment has in common.

        A bucket of which something waits stays in the queue that it is in.
        """
        queue = self.waiting.get(bucket) or (None if single is None else self._singles.get(single))
        if queue and queue.single is not None and (record[1] or (tos ^ queue.single) & self._tos_mask):
            queue = self._part(queue, bucket)
        octets, count = (queue.octets, len(queue.records)) if queue else (0, 0)
        length = len(record)
        if octets + length > OCTETS_MAX - self._octets or count >= _RECORDS_MAX - self._count:
            return False
        if queue and queue.single is not None and count >= _SINGLES_MAX:
            return False

        # Into the memory of one that has gone, if there is some.
        kept = self._buffer(length)
        kept[:length] = record
        queue = queue or self._begin(single)
        queue.records.append(Waiting(kept.data, kept, length, tos, bucket, self._clock()))
        queue.buckets[bucket] += 1
        self.waiting[bucket] = queue
        queue.octets += length
        self._octets += length
        self._count += 1
        return True

    def _part(self, queue: Queue, bucket: int) -> Queue:
        """Give a bucket a queue of its own, for what waits of it among single packets of one TOS octet."""
        parted, records = self._begin(None), queue.records
        parted.records = deque(one for one in records if one.bucket == bucket)
        parted.octets = sum(one.length for one in parted.records)
        parted.buckets[bucket], self.waiting[bucket] = queue.buckets.pop(bucket), parted

        # The others stay where they are.
        queue.records = deque(one for one in records if one.bucket != bucket)
        queue.octets -= parted.octets
        if not queue.records:
            self._end(queue)
        return parted

    def _begin(self, single: int | None) -> Queue:
        queue = Queue(single)
        if single is None:
            self.turns.append(queue)
        else:
            self._singles[single] = queue
        return queue

    def _buffer(self, length: int) -> npt.NDArray[np.uint8]:
        if length < _POOLED:
            return np.empty(length, np.uint8)
        return self._free.pop() if self._free else np.empty(RECORD_MAX, np.uint8)

    def turn(self, *, is_busy: bool, is_bulk_next: bool = False) -> Queue | None:
        """Return the queue whose turn it is; None: nothing may go now.

        `is_busy`: the member has enough to do; `is_bulk_next`: buckets' queues go before single packets.
        """
        if is_bulk_next and self.turns:
            return self.turns[0]
        if self._singles and (not is_busy or self._clock() >= self._singles_ns):
            return next(iter(self._singles.values()))
        return self.turns[0] if self.turns else None

    def tell(self, queue: Queue) -> DropReason | None:
        """Have the first record of a queue tell its sender if the queue stands (codel.py); once, as it goes.

        It is marked or, if its sender does not understand that, loses a segment, or else is to be dropped itself: these
        two are counted as what is returned.
        """
        if queue.is_judged or queue.single is not None:
            return None
        queue.is_judged, first, now_ns = True, queue.records[0], self._clock()
        if not queue.codel.tells(now_ns, now_ns - first.since_ns, queue.octets, RECORD_MAX):
            return None
        if mark_congestion(first.record[VNET_BYTES : first.length]):
            queue.records[0] = first._replace(tos=first.tos | CE)
            return None

        # A loss, as small as it can be.
        left = cut_segment(first.record, first.length)
        if left == first.length:
            return DropReason.QUEUE_STANDS
        queue.records[0] = first._replace(length=left)
        queue.octets -= first.length - left
        self._octets -= first.length - left
        return DropReason.QUEUE_STANDS_SEGMENT

    def gone(self, queue: Queue) -> None:
        """Forget the first record of a queue whose turn it is: it has gone on, or is dropped."""
        record, queue.is_judged = queue.records.popleft(), False
        queue.octets -= record.length
        self._octets -= record.length
        self._count -= 1
        if record.length >= _POOLED and len(self._free) < _FREE_MAX:
            self._free.append(record.octets)

        # Nothing more of its bucket may wait.
        queue.buckets[record.bucket] -= 1
        if not queue.buckets[record.bucket]:
            del queue.buckets[record.bucket], self.waiting[record.bucket]
        if not queue.records:
            self._end(queue)
            return

        # Its turn is over when it has had its share; another TOS octet takes another segment.
        follows = queue.records[0]
        changes = (follows.tos ^ record.tos) & self._tos_mask
        queue.credit -= record.length + (RECORD_MAX if changes else 0)
        if queue.credit < follows.length:
            queue.credit += _TURN
            self._to_the_end(queue)

    def _to_the_end(self, queue: Queue) -> None:
        """Let other queues have their turns."""
        if queue.single is None:
            self.turns.rotate(-1)
            return
        self._singles[queue.single] = self._singles.pop(queue.single)
        self._pace()

    def _end(self, queue: Queue) -> None:
        """Forget a queue of which nothing is left."""
        if queue.single is None:
            self.turns.remove(queue)  # mostly the first
            return
        del self._singles[queue.single]
        self._pace()

    def _pace(self) -> None:
        """Begin the next segment for single packets of a TOS octet a little later, unless it is long since one was."""
        self._singles_ns = max(self._singles_ns, self._clock() - _SINGLES_AT_ONCE_NS) + _SINGLES_NS

    def clear(self) -> None:
        """Forget all of it."""
        self.waiting.clear()
        self.turns.clear()
        self._singles.clear()
        self._octets = self._count = 0

    def take_all(self) -> list[Waiting]:
        """Give all that waits, each bucket's in order, to whom it concerns now."""
        gone = [record for queue in self._queues() for record in queue.records]
        self.clear()
        return gone

    def sift(self, may_go: Callable[[memoryview], bool]) -> int:
        """Forget the records that may not go any more; returns how many."""
        left = [(queue, deque(w for w in queue.records if may_go(w.record[: w.length]))) for queue in self._queues()]

        # All are looked at before anything changes.
        before, self._octets, self._count = self._count, 0, 0
        self.waiting.clear()
        for queue, records in left:
            queue.records, queue.octets = records, sum(w.length for w in records)
            queue.buckets = Counter(w.bucket for w in records)
            self.waiting |= dict.fromkeys(queue.buckets, queue)
            self._octets += queue.octets
            self._count += len(records)
        for queue, records in left:
            if not records:
                self._end(queue)
        return before - self._count

    def _queues(self) -> list[Queue]:
        return [*self._singles.values(), *self.turns]

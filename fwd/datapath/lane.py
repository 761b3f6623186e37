"""The demux's end of one member's ring: a segment is filled there with records, cut into rows, and handed over.

The demux decides which records go to which lane, and that they may go at all (demux.py).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from fwd.datapath.backlog import Backlog
from fwd.datapath.counters import COUNTS_END, CounterBlock, DemuxCounter
from fwd.datapath.geometry import rows_for
from fwd.datapath.ring import CHUNK, FILL, RECORDS, RECORDS_MAX, SEGMENTS, TOS, Ring, Segment
from fwd.datapath.shared import LinkWord
from fwd.proto.aggfrag import BLOCK_OFFSET_MAX, FRAMING_BYTES, row_bytes
from fwd.proto.burst import lay_record
from fwd.proto.drops import DropReason
from fwd.proto.ip import NEEDS_CSUM, RECORD_MAX, VNET_BYTES
from fwd.proto.segments import lay_packet, packets_in

# Plain integers: reading a member of an enum costs as much as the addition.
_CHUNK_WORD = LinkWord.CHUNK.value
_RECORDS = DemuxCounter.RECORDS.value
_BYTES = DemuxCounter.BYTES.value
# A member that has so many segments before it is not sent one that is not full: what comes shares it up to the next
# look, which is at the next record or after the demux's _HELD_S.
_ENOUGH: Final = 4
BULK_MAX: Final = SEGMENTS - 2  # segments that may wait for it before super-packets do (backlog.py)


class Lane:
    """The demux's end of one member's ring, and the segment that is being filled."""

    def __init__(self, ring: Ring, link: memoryview, block: CounterBlock, index: int, *, esp: bool) -> None:
        self.ring = ring
        self.link = link
        self.block = block
        self.counters = block.values
        self.head_index = DemuxCounter.HEADS + index
        self.esp = esp
        self.tos_mask = 0xFF if esp else 0xFC  # of what a segment's records have in common: what outer packets tell
        self.backlog = Backlog(self.tos_mask)
        self.waiting, self.bulk = self.backlog.waiting, self.backlog.turns
        self.go_on()
        self.segment: Segment = ring.segments[0]
        self.rows: memoryview = self.segment.rows
        self.ends: memoryview = self.segment.ends
        self.fill = self.records = self.octets = self.tos = 0
        self.at = self.room = 0  # where the next octet goes in `rows`, and how many fit before the row ends
        self.limit = 0
        self.is_reserved = False  # the open segment, for single packets: super-packets were to wait when it was begun
        self._grids: list[npt.NDArray[np.uint8]] = []
        self.grid: npt.NDArray[np.uint8] = np.empty((0, 0), np.uint8)

    def go_on(self) -> None:
        """Begin behind what was counted; the open segment and what waits are forgotten.

        A predecessor, or a burst that failed, may have ended between counting a segment, handing it over and telling.
        """
        self.open = False
        self.backlog.clear()
        self.chunk, self.told_chunk = 0, -1  # limit and grids are made anew
        head, done = self._counted(), self.ring.done
        if not done <= head <= done + SEGMENTS and done < COUNTS_END:  # one of the two wrote what it liked: begin anew
            head = self.counters[self.head_index] = done
        self.ring.left = min(self.ring.left, head)
        self.head = self.ring.head = head
        self.ring.ring_bell()

    def _counted(self) -> int:
        """Return the head that was counted, if it is of this ring and not of one that was here before.

        It is the ring's own, or one more; and a segment that was handed over has records.
        """
        head, stored = self.counters[self.head_index], self.ring.head
        if head != stored and not (head == stored + 1 and self.ring.records(stored)):
            head = self.counters[self.head_index] = stored
        return head

    def close(self, done: int) -> None:
        """Count what its member, which has ended, leaves behind the segments that it has counted (`done`)."""
        if self.open:
            self.give_up(DropReason.NO_LIVE_MEMBER)
        self.counters[DropReason.NO_LIVE_MEMBER] += len(self.backlog)
        self.counters[_RECORDS] += len(self.backlog)
        self.backlog.clear()
        first = max(min(done, self.head), self.head - SEGMENTS)
        lost = sum(min(self.ring.records(number), RECORDS_MAX) for number in range(first, self.head))
        self.counters[DropReason.NO_LIVE_MEMBER] += lost
        self.counters[self.head_index] = 0
        self.block.publish()

    def give_up(self, reason: DropReason) -> None:
        """Drop the open segment."""
        self.open = False
        self.counters[reason] += self.records
        self.counters[_RECORDS] += self.records
        self.block.publish()

    def lay_waiting(self) -> bool:
        """Lay what waits as far as the member has room for it; True: some still waits."""
        # Where single packets have had their segment, super-packets go first, up to what room there is for these.
        if self._is_bulk_next():
            if not self._has_room(BULK_MAX):
                return True
            self.flush()
            self._lay_turns(is_bulk_next=True)

        return self._lay_turns(is_bulk_next=False)

    def _lay_turns(self, *, is_bulk_next: bool) -> bool:
        backlog = self.backlog
        while queue := backlog.turn(is_busy=self.has_enough(), is_bulk_next=is_bulk_next):
            reason = backlog.tell(queue)
            if reason is not None:
                self.counters[reason] += 1
            if reason is not DropReason.QUEUE_STANDS:
                record, octets, length, tos, *_ = queue.records[0]
                if not record[1] and queue.single is None and not self._has_room(BULK_MAX):
                    return True  # what the ring has beside that is left to those that do not wait behind their own
                if not self.put(record, octets, length, tos):
                    return True
            else:
                self.counters[_RECORDS] += 1
                self.block.publish()
            backlog.gone(queue)
        return bool(self.waiting)

    def keep(self, record: memoryview, length: int, tos: int, bucket: int) -> bool:
        """Keep a record that was not laid until there is room. False: too much waits, or it is one packet too many.

        A single packet waits for its TOS octet's turn alone: a ring that is full has no room for it.
        """
        is_single = not record[1] and bucket not in self.waiting
        if is_single and not self.open and not self._has_room(SEGMENTS):
            return False
        return self.backlog.keep(record[:length], tos, bucket, tos & self.tos_mask if is_single else None)

    def held(self) -> int:
        """Count the records that it was given, and that are not counted as handed over."""
        return len(self.backlog) + (self.records if self.open else 0)

    def has_enough(self) -> bool:
        """Whether the member has so much to do that a segment which is not full may wait."""
        return self.head - self.ring.taken >= _ENOUGH

    def put(
        self, record: memoryview, octets: npt.NDArray[np.uint8], length: int, tos: int, bucket: int | None = None
    ) -> bool:
        """Copy a record of `length` octets into the open segment; False: the ring has no room for it now.

        Behind what waits come super-packets, which are work as those are, and all of a bucket of which something waits;
        unless `bucket` is None: then it is the record's turn. `record` and `octets` are the same memory. A record of
        which more octets would follow its first chunk than a BlockOffset can say starts a segment of its own.
        """
        if self.waiting and bucket is not None and (bucket in self.waiting or (record[1] and self.bulk)):
            return False
        if self.esp:
            return self._put_packets(record, octets, length, tos, bucket)

        # A segment holds records of one TOS byte, and ends on a record boundary.
        fill = self.fill + length
        if self.open and (
            (tos != self.tos and (tos ^ self.tos) & self.tos_mask)
            or fill > self.limit
            or self.records == RECORDS_MAX
            or (self.is_reserved and record[1])
            or (length > BLOCK_OFFSET_MAX and length - self.room > BLOCK_OFFSET_MAX)
        ):
            if self._must_wait(record, tos, bucket):
                return False
            self.flush()
        if not self.open:
            if not self._begin(tos, BULK_MAX if record[1] else SEGMENTS):
                return False
            fill = length

        # Most records fit the row that is open; the others are laid over several.
        if length < self.room:
            at = self.at
            self.at = end = at + length
            self.room -= length
            self.rows[at:end] = record[:length]
        else:
            stride, chunk = self.ring.stride, self.chunk
            self.at = at = lay_record(
                record, octets, length, self.rows, self.grid, stride, chunk, self.at, self.room
            )  # fmt: skip
            self.room = chunk + FRAMING_BYTES - at % stride
        self.ends[self.records] = self.fill = fill
        self.records += 1
        self.octets += length - VNET_BYTES
        return True

    def _put_packets(
        self, record: memoryview, octets: npt.NDArray[np.uint8], length: int, tos: int, bucket: int | None
    ) -> bool:
        """Payload esp: lay a packet into a row, or the payload of a super-packet over rows; `fill` counts rows."""
        count = packets_in(record[:length]) if record[1] else 1
        if self.open and (tos != self.tos or self.fill + count > self.limit or (self.is_reserved and record[1])):
            if self._must_wait(record, tos, bucket):
                return False
            self.flush()
        if not self.open and not self._begin(tos, BULK_MAX if record[1] else SEGMENTS):
            return False

        # A packet that is as it will be sent is copied; for others there is more to do, or to tell the member.
        first = self.fill
        if count == 1 and not record[0] & NEEDS_CSUM:
            at, size = first * self.ring.stride, length - VNET_BYTES
            self.rows[at : at + size] = record[VNET_BYTES:length]
            self.ends[first] = size
        else:
            lay_packet(record, octets, length, count, self.rows, self.grid, self.segment.ends_array, first)
        self.fill = first + count
        self.records += 1
        self.octets += length - VNET_BYTES
        return True

    def _must_wait(self, record: memoryview, tos: int, bucket: int | None) -> bool:
        """Whether a record that does not fit the open segment must wait, since there is no room for another.

        So must a single packet while super-packets have the next one, and one of another TOS octet while the member has
        enough to do: it would take a whole segment. The open segment goes only for who follows it, or if no other
        super-packet would fit it well.
        """
        if not self._has_room(BULK_MAX if record[1] else SEGMENTS):
            if record[1] and not self.is_reserved and self.fill * 2 > self.limit:
                self.flush()
            return True
        if record[1] or self._is_bulk_next():
            return not record[1]
        return (tos ^ self.tos) & self.tos_mask != 0 and bucket is not None and self.has_enough()

    def _is_bulk_next(self) -> bool:
        """Whether the next segment is for super-packets that wait, since the open one, which is not, is half full.

        Else single packets that never end would have all segments that the member takes.
        """
        if not (self.bulk and self.open and self.is_reserved):
            return False
        return self.fill * 2 >= self.limit or self.records * 2 >= RECORDS_MAX

    def _has_room(self, most: int) -> bool:
        """Whether another segment may be begun, behind the open one, unless `most` wait for the member then."""
        head, ring = self.head + self.open, self.ring
        return head - ring.done < SEGMENTS and head - ring.taken < most

    def _begin(self, tos: int, most: int) -> bool:
        """Begin a segment, unless `most` wait for the member; False: it has no room for one."""
        if not self._has_room(most):
            return False
        head = self.head
        told = self.link[_CHUNK_WORD]
        if told != self.told_chunk:
            self.told_chunk = told
            # The member's word: no row is longer, and a record of 64 KiB must fit a segment.
            self.chunk = chunk = min(max(told, -(-RECORD_MAX // self.ring.rows)), self.ring.stride - row_bytes(0))
            rows = min(self.ring.rows, rows_for(chunk))
            self.limit = rows if self.esp else rows * chunk
            start, width = (0, self.ring.stride) if self.esp else (FRAMING_BYTES, chunk)
            self._grids = [_grid(self.ring, s, start, width) for s in self.ring.segments]
        self.segment = segment = self.ring.segments[head % SEGMENTS]
        self.rows, self.ends = segment.rows, segment.ends
        self.grid = self._grids[head % SEGMENTS]
        self.fill = self.records = self.octets = 0
        self.at = FRAMING_BYTES
        self.room = self.chunk
        self.tos = tos
        self.is_reserved = head - self.ring.taken >= BULK_MAX
        self.open = True
        return True

    def flush(self) -> None:
        """Hand the open segment over: describe it, count it, publish, store `head`, ring the bell.

        Counted before `head`, and `head` among the counters: a successor stores what its predecessor could not.
        """
        fields = self.segment.fields
        fields[FILL] = self.fill
        fields[RECORDS] = self.records
        fields[TOS] = self.tos
        fields[CHUNK] = self.chunk
        self.open = False
        self.head = head = self.head + 1
        counters = self.counters
        counters[self.head_index] = head
        counters[_RECORDS] += self.records
        counters[_BYTES] += self.octets
        self.block.publish()
        self.ring.head = head
        self.ring.ring_bell()


def _grid(ring: Ring, segment: Segment, start: int, width: int) -> npt.NDArray[np.uint8]:
    octets = np.frombuffer(segment.rows, np.uint8).reshape(ring.rows, ring.stride)
    return octets[:, start : start + width]

"""Records out of the chunks of one inbound SA (RFC 9347 §2.2.2 is the standard's own account of it).

Every record is given as soon as it is whole. In order, a record is gathered over the rows its chunks were opened to,
without a copy; so it is around a hole that rows behind it have passed over already. Out of order, chunks are taken one
by one, and what a record lacks is kept until its hole closes or is given up. Of a TCP super-packet with a hole that is
given up, the segments that came whole are given. Refused and counted: a BlockOffset that contradicts the stream, a
record whose length is none.
"""

from __future__ import annotations

from collections.abc import Callable, MutableSequence, Sequence
from functools import partial
from typing import Final

from fwd.proto.aggfrag import RowBuffer
from fwd.proto.burst import PEEK_BYTES, give_records
from fwd.proto.drops import DropReason
from fwd.proto.heads import Heads
from fwd.proto.ip import IP_MIN, VNET_BYTES, ip_length
from fwd.proto.segments import part_header, rest_of, tcp_layout

_PIECES_MAX: Final = 256  # chunks kept for one record, whatever a peer sends
_HEADERS_MAX: Final = 256  # octets of a record in rows that are looked at for its headers
KEPT_BYTES_MAX: Final = 1 << 20  # of all that an SA keeps: 64 packets of 9,000 octets, and records on both sides

Deliver = Callable[[Sequence[memoryview], int], None]
Give = Callable[[RowBuffer, int, int, int], tuple[int, bool]]


class Reassembler:
    """Gives each whole record of an SA to `deliver(pieces, length)`; the pieces stand only until it returns.

    A missing packet is a hole. It is given up, and counted, after `later` further packets or `wait_s`.
    """

    def __init__(
        self, deliver: Deliver, drops: MutableSequence[int], later: int = 3, wait_s: float = 0.002, floor: int = 0,
        give: Give | None = None,
    ) -> None:  # fmt: skip
        """`floor`: the highest number that a predecessor took; what comes next is waited for.

        `give` may stand for burst.give_records and `deliver`, of records in rows.
        """
        self._deliver = deliver
        self._give_rows = give or partial(give_records, deliver=deliver)
        self._drops = drops
        self._later = later
        self._wait_s = wait_s
        self.told = Heads()
        self.top = floor  # highest number taken; 0: none yet, and a first number far on is no hole
        # The unfinished record, in order: it starts `_offset` octets into row `_first_row` and has `_rows` rows.
        self._first_row = 0
        self._offset = 0
        self._rows = 0
        self._borrowed = 0  # of these, the first, which are no packets' and only have headers that were written there
        # Out of order: a record is the tail of one chunk, whole chunks, and the head of another.
        self._tails: dict[int, tuple[bytes, int]] = {}  # with the octets of that chunk
        self._middles: dict[int, bytes] = {}
        self._heads: dict[int, bytes] = {}
        self._holes: dict[int, float] = {}  # missing number → when it was missed
        self.kept = 0  # octets of these at most: counted anew when it seems to be too much

    def be_patient(self, later: int, wait_s: float) -> None:
        """Give up a hole after so many further packets, or so long, from now on."""
        self._later, self._wait_s = later, wait_s

    # -- in order ---------------------------------------------------------------------------------------------

    def take_rows(
        self, buffer: RowBuffer, number: int, first: int, full: int, tail: int, now: float, last: int = 0
    ) -> None:
        """Chunks from `number` on, in `buffer` from row `first` on: `full` full ones, then one of `tail` octets if any.

        The caller has checked their framing but for BlockOffset (RowBuffer.all_records). `last`: the highest number
        that came with them, if that is more; what is missing up to there does not come behind it.
        """
        count, pending = full + (tail > 0), self._rows
        end = number + count - 1
        in_order = not (self._tails or self._holes or self._middles)
        if pending and first != self._first_row + pending:
            in_order = False

        # Packets follow the last one taken; or those between have been passed over already, and are given up.
        missed = number - self.top - 1
        if missed and in_order:
            passed_over = missed > 0 and self.top > 0 and number - 1 + self._later <= max(end, last)
            in_order = passed_over and self._mend(buffer, missed, first, full)
        elif in_order and not pending:
            self._first_row, self._offset = first, buffer.block_offset(first)
        elif in_order:
            in_order = buffer.block_offset(first) == self._missing_octets(buffer)
        if not in_order:
            self._take_apart(buffer, number, first, full, tail, now)
            return

        # Whatever is whole then is given.
        self._rows = first + count - self._first_row
        self.top = end
        self._gather(buffer, (first + full - self._first_row) * buffer.chunk + tail, tail)

    def _mend(self, buffer: RowBuffer, missed: int, first: int, full: int) -> bool:
        """Give up `missed` packets before row `first`, and go on there; False: what can be used lies too far on.

        Of the TCP super-packet around them the whole segments before them are given. Those behind become a record of
        their own: its headers are written before it into the rows, over what is done with. So do those of a
        super-packet that began in what is missing, if the sender has told of its headers (heads.py).
        """
        chunk, offset = buffer.chunk, buffer.block_offset(first)
        start = self._first_row * chunk + self._offset if self._rows else first * chunk  # of the unfinished record
        have = first * chunk - start
        before = b"".join(buffer.pieces(start, start + min(have, _HEADERS_MAX)))

        # What goes on in row `first`, as that says itself: the rest of a segment, and others.
        at = have + missed * chunk
        skip, head = rest_of(before, at)
        if head and offset != VNET_BYTES + ip_length(before, VNET_BYTES) - at:
            self._drops[DropReason.BAD_STREAM] += 1
            head = b""
        elif not head:
            skip, head = self.told.rest(self.top, missed, chunk, offset, room=first * chunk)
        begins = first * chunk + skip - len(head)
        if head and begins + len(head) > (first + full) * chunk:
            return False

        # The whole segments before the hole; then comes the rest of a record, or another one.
        self._give_begun(buffer, start, before, have)
        self._drops[DropReason.HOLE] += missed
        self._first_row, self._offset, self._borrowed = first, offset, 0
        if head:
            buffer.write(begins, head)
            self._first_row, self._offset = divmod(begins, chunk)
            self._borrowed = max(0, first - self._first_row)
        return True

    def _give_begun(self, buffer: RowBuffer, start: int, before: bytes, have: int) -> int:
        """Give the whole segments among `have` octets of the record from octet `start` on; returns where they end."""
        header, segment = tcp_layout(before)
        octets = (have - header) // segment * segment if header else 0
        if octets:
            pieces = buffer.pieces(start + header, start + header + octets)
            head = part_header(before, 0, octets, last=False)
            self._deliver([memoryview(head), *pieces], header + octets)
        return octets and header + octets

    def give_begun(self, buffer: RowBuffer) -> None:
        """Give what is whole of an unfinished super-packet in rows, as nothing follows: its last packet may be lost.

        The rest goes on as a record of its own, with its headers written before it.
        """
        chunk, end = buffer.chunk, self._first_row + self._rows
        start = self._first_row * chunk + self._offset
        have = end * chunk - start
        before = b"".join(buffer.pieces(start, start + min(have, _HEADERS_MAX)))
        given = self._give_begun(buffer, start, before, have)
        skip, head = rest_of(before, given)
        if given and head:
            buffer.write(start + given + skip - len(head), head)
            row, self._offset = divmod(start + given + skip - len(head), chunk)
            self._borrowed = max(0, self._borrowed - (row - self._first_row))
            self._first_row, self._rows = row, end - row

    @property
    def next_number(self) -> int:
        """The number that comes next; 0: something is unfinished, or waits."""
        return 0 if self._rows or self._tails or self._middles or self._heads or self._holes else self.top + 1

    @property
    def waits(self) -> bool:
        """Whether there are holes that are not given up yet."""
        return bool(self._holes)

    def _missing_octets(self, buffer: RowBuffer) -> int:
        """Return how many octets the unfinished record still lacks; -1 while its length is not known."""
        have = self._rows * buffer.chunk - self._offset
        if have < PEEK_BYTES:
            return -1
        return VNET_BYTES + ip_length(_peek(buffer, self._first_row, self._offset), VNET_BYTES) - have

    def _gather(self, buffer: RowBuffer, have: int, tail: int) -> None:
        """Deliver every whole record of the `have` octets from `_first_row` on, and remember the rest.

        `tail`: octets of the last row if it is a short one. It ends a burst, or comes from a sender whose rows are
        shorter than ours: then a record may begin in it, and no other rest makes sense.
        """
        at, sound = self._give_rows(buffer, self._first_row, self._offset, have)
        if not sound:
            self._drops[DropReason.BAD_STREAM] += 1
            at = have

        # Behind a short row nothing goes on, but for what begins in that row.
        if tail and at < have:
            if at >= have - tail:
                row, offset = divmod(at, buffer.chunk)
                self._tails[self.top] = bytes(buffer.data[self._first_row + row][offset:][: have - at]), tail
            else:
                self._drops[DropReason.BAD_STREAM] += 1
            at = have
        self._settle(buffer, at, have)

    def _settle(self, buffer: RowBuffer, at: int, have: int) -> None:
        """All up to octet `at` of `have` is done with: the rows before it may be used again."""
        if at >= have:
            self._rows = self._borrowed = 0
            buffer.owner = None
            buffer.used = 0
            return
        row, self._offset = divmod(at, buffer.chunk)
        self._first_row += row
        self._rows -= row
        self._borrowed = max(0, self._borrowed - row)
        buffer.owner = self
        buffer.used = self._first_row + self._rows

    def to_front(self, buffer: RowBuffer) -> None:
        """Move the unfinished record to the first rows, so that there is room behind it."""
        start, stride = self._first_row * buffer.stride, buffer.stride
        buffer.view[: self._rows * stride] = bytes(buffer.view[start : start + self._rows * stride])
        self._first_row = 0
        buffer.used = self._rows

    # -- out of order -----------------------------------------------------------------------------------------

    def _take_apart(self, buffer: RowBuffer, number: int, first: int, full: int, tail: int, now: float) -> None:
        """Take the chunks of `take_rows` one by one."""
        self.spill(buffer)
        for i in range(full):
            self.take_chunk(number + i, buffer.block_offset(first + i), buffer.data[first + i], now)
        if tail:
            chunk = buffer.data[first + full][:tail]
            self.take_chunk(number + full, buffer.block_offset(first + full), chunk, now)

    def spill(self, buffer: RowBuffer) -> None:
        """Move an unfinished record out of the rows, which others then may use."""
        if self._rows:
            number, borrowed = self.top - self._rows + 1, self._borrowed
            begun = b"".join(buffer.data[self._first_row : self._first_row + borrowed + 1])[self._offset :]
            self._tails[number + borrowed] = begun, buffer.chunk
            for i in range(borrowed + 1, self._rows):
                self._middles[number + i] = bytes(buffer.data[self._first_row + i])
            self.kept += self._rows * buffer.chunk
            self._rows = self._borrowed = 0
        if buffer.owner is self:
            buffer.owner = None
            buffer.used = 0

    def forget(self) -> None:
        """Drop every unfinished record; numbers go on behind the last one taken."""
        self._rows = self._borrowed = self.kept = 0
        for kept in (self._tails, self._middles, self._heads, self._holes):
            kept.clear()

    def weigh(self) -> int:
        """Count anew how many octets are kept out of order."""
        tails = sum(len(tail) for tail, _ in self._tails.values())
        self.kept = tails + sum(map(len, self._middles.values())) + sum(map(len, self._heads.values()))
        return self.kept

    def give_up(self) -> None:
        """Drop what is kept out of order: it is more than any record has."""
        for kept in (self._tails, self._middles, self._heads):
            kept.clear()
        self.kept = 0
        self._drops[DropReason.BAD_STREAM] += 1

    def take_chunk(self, number: int, offset: int, data: memoryview, now: float) -> None:
        """Take one chunk, wherever it belongs: give its whole records, keep the rest, join what can be joined.

        What ends in this chunk goes first: records of one flow keep their order.
        """
        self.expire(now)
        in_time = self._note(number, now)
        length = len(data)
        if offset > length:
            self._middles[number] = bytes(data)
        elif offset:
            self._heads[number] = bytes(data[:offset])
        self.expire(now)
        self._cross(number, in_time=True)
        if offset <= length:
            rest = self._whole_records(data, offset)
            if rest < length:
                self._tails[number] = bytes(data[rest:]), length
        self._cross(number + 1, in_time)
        self.kept += length
        is_much = self.kept > KEPT_BYTES_MAX and self.weigh() > KEPT_BYTES_MAX
        if is_much or len(self._middles) > _PIECES_MAX:
            self.give_up()

    def passed(self, number: int, now: float) -> None:
        """Note that packet `number` of this SA has come, and carries nothing for records."""
        self.expire(now)
        in_time = self._note(number, now)
        self.expire(now)

        # No record goes on in it: what others say of one that does is given up.
        self._cross(number, in_time)
        self._cross(number + 1, in_time)

    def _note(self, number: int, now: float) -> bool:
        """Close the hole that `number` fills, or open those before it. False: it was given up before."""
        top = self.top
        if number <= top:
            return self._holes.pop(number, None) is not None
        self.top = number
        if top or number <= self._later:
            for missing in range(max(top + 1, number - self._later), number):
                self._holes[missing] = now
            if number - self._later > top + 1:
                self._drops[DropReason.HOLE] += number - self._later - top - 1
                self._salvage(top + 1)
        return True

    def expire(self, now: float) -> None:
        """Give up the holes that `later` packets or `wait_s` have passed over."""
        if self._holes:
            last = self.top - self._later
            for number in [n for n, missed in self._holes.items() if n <= last or now - missed > self._wait_s]:
                del self._holes[number]
                self._drops[DropReason.HOLE] += 1
                self._salvage(number)

    def _whole_records(self, data: memoryview, at: int) -> int:
        """Deliver the records that lie wholly in `data` from `at` on; returns where the rest starts."""
        while len(data) - at >= PEEK_BYTES:
            length = ip_length(data, at + VNET_BYTES)
            if length < IP_MIN:
                self._drops[DropReason.BAD_STREAM] += 1
                return len(data)
            end = at + VNET_BYTES + length
            if end > len(data):
                break
            self._deliver([data[at:end]], end - at)
            at = end
        return at

    def _cross(self, number: int, in_time: bool) -> None:
        """Deliver, keep or drop the record that crosses from packet `number` - 1 into `number`.

        `in_time`: the packets on both sides, if they came, came before they were given up. So one that lacks its
        part of the record contradicts the other; else the hole that was given up is counted already.
        """
        before = number - 1 in self._tails or number - 1 in self._middles
        behind = number in self._heads or number in self._middles
        if before and behind:
            self._join(number)
        elif before and number <= self.top and number not in self._holes:
            self._drops[DropReason.BAD_STREAM] += in_time
            self._drop_before(number)
        elif behind and number - 1 not in self._holes:
            self._drop_from(number)

    def _join(self, number: int) -> None:
        """Deliver the record around the start of packet `number`, if it is whole."""
        start, end = number - 1, number
        while start in self._middles:
            start -= 1
        while end in self._middles:
            end += 1
        if start not in self._tails or end not in self._heads:
            return
        middles = [self._middles.pop(i) for i in range(start + 1, end)]
        record = b"".join([self._tails.pop(start)[0], *middles, self._heads.pop(end)])
        if len(record) >= PEEK_BYTES:
            self._give(record)
        else:
            self._drops[DropReason.BAD_STREAM] += 1

    def _salvage(self, hole: int) -> None:
        """Packet `hole` is given up: of the TCP super-packet around it, give the segments that lie whole before it.

        What lies behind it, and behind holes next to it, becomes a record of its own, with the same headers, that
        goes on as any other does.
        """
        before, chunk = self._take_before(hole)
        behind = hole + 1
        while behind in self._holes:
            behind += 1
        header, segment = tcp_layout(before)
        if not header:
            self._drop_from(hole + 1)
            return

        # Whole segments before the hole.
        count = (len(before) - header) // segment
        if count:
            octets = count * segment
            self._give(part_header(before, 0, octets, last=False) + before[header : header + octets])

        # The first whole segment behind it begins the rest.
        skip, head = rest_of(before, len(before) + (behind - hole) * chunk)
        if head:
            self._resume(behind, skip, head)
        else:
            self._drop_from(hole + 1)

    def _resume(self, number: int, skip: int, head: bytes) -> None:
        """Let a record begin `skip` octets into packet `number`, with `head` before them.

        If that lies beyond what has come, because segments are longer than `later` chunks, the rest is lost.
        """
        while number in self._middles and skip >= len(self._middles[number]):
            skip -= len(self._middles.pop(number))
            number += 1
        if number in self._middles:
            middle = self._middles.pop(number)
            self._tails[number] = head + middle[skip:], len(middle)
            self._cross(number + 1, in_time=False)
        elif number in self._heads:
            self._give(head + self._heads.pop(number)[skip:])

    def _give(self, record: bytes) -> None:
        if len(record) == VNET_BYTES + ip_length(record, VNET_BYTES):
            self._deliver([memoryview(record)], len(record))
        else:
            self._drops[DropReason.BAD_STREAM] += 1

    def _take_before(self, number: int) -> tuple[bytes, int]:
        """Take the start of the record that waits for packet `number`, and its chunks' size; empty: none waits."""
        parts = []
        number -= 1
        while number in self._middles:
            parts.append(self._middles.pop(number))
            number -= 1
        if number not in self._tails:
            return b"", 0
        tail, chunk = self._tails.pop(number)
        parts.append(tail)
        return b"".join(reversed(parts)), chunk

    def _drop_before(self, number: int) -> None:
        """Drop the part of a record that waits for packet `number`."""
        number -= 1
        while self._middles.pop(number, None) is not None:
            number -= 1
        self._tails.pop(number, None)

    def _drop_from(self, number: int) -> None:
        """Drop the part of a record that starts with the data of packet `number`."""
        while self._middles.pop(number, None) is not None:
            number += 1
        self._heads.pop(number, None)


def _peek(buffer: RowBuffer, row: int, offset: int) -> memoryview | bytes:
    """Return the first octets of the record that starts `offset` octets into `row`."""
    head = buffer.data[row][offset : offset + PEEK_BYTES]
    if len(head) == PEEK_BYTES:
        return head
    return bytes(head) + buffer.data[row + 1][: PEEK_BYTES - len(head)]

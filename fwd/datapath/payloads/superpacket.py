"""Payload superpacket: records in AGGFRAG framing (proto/aggfrag.py), many to a burst, each as long as it came.

    out   a segment is one burst: frame and seal all of it, send it
    in    rows that follow each other go to the SA's Reassembler as they lie, anything else row by row; whole records
          are written to the TUN device, small UDP datagrams of one flow and batch as one super-packet

Refused and counted: rows that carry neither records nor an echo, records whose headers contradict them. Outer ECN is
Not-ECT (RFC 9347 §2.4.2, RFC 6040 compatibility mode).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence

from fwd.datapath.counters import MemberCounter
from fwd.datapath.delivery import Delivery
from fwd.datapath.direct import OTHER, UNSOUND
from fwd.datapath.geometry import rows_for
from fwd.datapath.narrow import keep_records
from fwd.datapath.receiving import Receiving
from fwd.datapath.ring import SEGMENTS, Ring, Segment
from fwd.datapath.tuning import Tuning
from fwd.proto.aggfrag import (
    FRAMING_BYTES,
    SUBTYPE_ECHO_REPLY,
    SUBTYPE_RECORDS,
    FramedRows,
    RowBuffer,
    records_octets,
    row_bytes,
    row_fault,
)
from fwd.proto.burst import give_records, seal_records
from fwd.proto.drops import DropReason
from fwd.proto.echo import ECHO_BYTES
from fwd.proto.esp import (
    OVERHEAD_BYTES,
    OutboundSa,
    PacketTable,
    Rows,
    payload_length,
)
from fwd.proto.heads import HEAD_MAX, TOLD, entry
from fwd.proto.ip import USO4, VNET_BYTES, Selectors, record_fault
from fwd.proto.reassembly import KEPT_BYTES_MAX, Reassembler
from fwd.proto.segments import TCP, UDP, Datagrams

_HEADERS = VNET_BYTES + 60  # octets of a record that are looked at
_HEADS_MAX = 6  # records of a segment that are looked at for headers to be told twice
_SAYS = 4  # octets of a virtio header that tell whether there is more in it: flags, GSO, length of the headers
_NOTHING = bytes(_SAYS)
# Plain integers: reading a member of an enum costs as much as the addition.
_IN_ESP_OK = MemberCounter.IN_ESP_OK.value
_IN_RECORDS = MemberCounter.IN_RECORDS.value


# -- out ----------------------------------------------------------------------------------------------------------


class SuperpacketOut:
    """Seals segments of records (payloads.PayloadOut)."""

    tos_mask = 0xFC

    def __init__(self, ring: Ring, out: bytearray, send: Callable[[int, int, int], None]) -> None:
        self._ring = ring
        self._out = out
        self._send = send
        self._chunk = 0
        self._table = PacketTable(out, OVERHEAD_BYTES, 0)
        self._framed: list[FramedRows | None] = [None] * SEGMENTS

    def packets(self, fill: int, chunk: int) -> int:
        return -(-fill // chunk)

    def keep(self, segment: Segment, fill: int, records: int, chunk: int, held: Selectors) -> tuple[int, int]:
        return keep_records(segment, self._ring.stride, chunk, fill, records, held)

    def forget(self) -> None:
        self._chunk = 0

    def heads(self, segment: Segment, records: int, chunk: int) -> bytes:
        told, start, stride = b"", 0, self._ring.stride
        for end in segment.ends[: min(records, _HEADS_MAX)]:
            # Of those that go on in other packets the first octets, which may lie in two of them.
            row, offset = divmod(start, chunk)
            if end - start > chunk:
                at, here = row * stride + FRAMING_BYTES + offset, min(HEAD_MAX, chunk - offset)
                more = (row + 1) * stride + FRAMING_BYTES
                head = bytes(segment.rows[at : at + here]) + segment.rows[more : more + HEAD_MAX - here]
                one = entry(row + 1, offset, head)
                if len(told) + len(one) > chunk + FRAMING_BYTES - ECHO_BYTES:  # what is told fits a row
                    break
                told += one
            start = end
        return told

    def seal(
        self, sa: OutboundSa, number: int, segment: Segment, index: int, fill: int, records: int, chunk: int
    ) -> int:
        if chunk != self._chunk:
            self._use_chunk(chunk)
        rows, table = self._framed[index], self._table
        if rows is None:
            count = min(self._ring.rows, rows_for(chunk))
            rows = self._framed[index] = FramedRows(segment.rows, self._ring.stride, count, chunk, segment.ends)

        end = seal_records(sa, number, rows, records, fill, table)
        self._send(end, table.packet_bytes, self.packets(fill, chunk))
        return int(segment.ends[records - 1]) - VNET_BYTES * records

    def _use_chunk(self, chunk: int) -> None:
        self._table = PacketTable(self._out, row_bytes(chunk) + OVERHEAD_BYTES, self._ring.rows)
        self._framed = [None] * SEGMENTS
        self._chunk = chunk


# -- in -----------------------------------------------------------------------------------------------------------


class SuperpacketIn:
    """Puts records together from opened rows, and delivers them (payloads.PayloadIn)."""

    rows: Rows

    def __init__(
        self, delivery: Delivery, counters: array[int], on_echo: Callable[[int, int], None], stride: int
    ) -> None:
        """`on_echo` is told sub-type and number of each echo."""
        self._delivery = delivery
        self._counters = counters
        self._on_echo = on_echo
        self._gathers = bool(delivery.accepted & USO4)
        self._datagrams: dict[bytes, Datagrams] = {}  # by flow, of this batch
        self.heard_records = False
        self.lay_out(stride)

        # What is put together, by SPI, and the SA that the rows in hand are of: mostly the same as before.
        self._assemblers: dict[int, Reassembler] = {}
        self._sa: Receiving | None = None
        self._assembler: Reassembler
        self._wait_s = 0.0
        self._is_begun = False  # rows have come since what was begun was given as far as it was whole

    @property
    def is_empty(self) -> bool:
        return self._buffer.owner is None

    def lay_out(self, stride: int) -> None:
        self.rows = self._buffer = RowBuffer(stride)

    @property
    def patience_s(self) -> float:
        if (self._is_begun and self._buffer.owner is not None) or any(one.waits for one in self._assemblers.values()):
            return self._wait_s
        return float("inf")

    def room(self, count: int) -> int:
        """Return the first row behind the unfinished record, which makes room if there are too few."""
        buffer = self._buffer
        self._is_begun = True
        if buffer.owner is None:
            return 0
        if buffer.used + count > buffer.capacity:
            buffer.owner.to_front(buffer)
        return buffer.used

    def begin(self, spi: int, tuning: Tuning, floor: int) -> None:
        self._wait_s = wait_s = tuning.reorder_ms / 1000
        self._assemblers[spi] = Reassembler(
            self._record, self._counters, tuning.reorder_packets, wait_s, floor, self._give_rows
        )

    def end(self, spi: int) -> None:
        self._assemblers.pop(spi).spill(self._buffer)
        self._sa = None

    def tune(self, tuning: Tuning) -> None:
        self._wait_s = tuning.reorder_ms / 1000
        for assembler in self._assemblers.values():
            assembler.be_patient(tuning.reorder_packets, tuning.reorder_ms / 1000)

    def _turn_to(self, sa: Receiving) -> None:
        """Take rows of this SA from now on. What another has not finished gives way to what has authenticated."""
        self._sa = None  # until all of this is done
        self._assembler = assembler = self._assemblers[sa.spi]
        owner = self._buffer.owner
        if owner is not None and owner is not assembler:
            owner.spill(self._buffer)
        self._deliver_for(sa)
        self._sa = sa

        # A peer may have many SAs, and leave a record unfinished on each.
        others = [one for one in self._assemblers.values() if one is not assembler]
        if sum(one.kept for one in others) > KEPT_BYTES_MAX and sum(one.weigh() for one in others) > KEPT_BYTES_MAX:
            for one in others:
                if one.kept:
                    one.give_up()

    def _deliver_for(self, sa: Receiving) -> None:
        if sa.selectors is not self._delivery.in_force:
            self.flush()  # what was kept is another's
        self._delivery.enter(sa.spi, sa.selectors)

    @property
    def buffer(self) -> RowBuffer:
        """The rows, and their data."""
        return self._buffer

    def follows(self) -> tuple[Receiving | None, int]:
        """Return the SA in hand, and the number that comes next on it, if nothing at all is unfinished or waits."""
        if self._sa is None or self._buffer.owner is not None or self._datagrams:
            return None, 0
        number = self._assembler.next_number
        return (self._sa, number) if number else (None, 0)

    def followed(self, number: int) -> None:
        """Note that packets of the SA in hand were taken up to this one, with whole records, which were written."""
        self._assembler.top = number

    def expire(self, sas: Mapping[int, Receiving], now: float) -> None:
        before, self._sa = self._sa, None
        for spi, assembler in self._assemblers.items():
            self._deliver_for(sas[spi])
            assembler.expire(now)
            if self._buffer.owner is assembler:
                assembler.give_begun(self._buffer)
        self._is_begun = False
        self.flush()

        # What comes next is most probably of the same SA.
        if before is not None and before.spi in self._assemblers:
            self._turn_to(before)

    def forget(self) -> None:
        for assembler in self._assemblers.values():
            assembler.forget()
        self._buffer.owner, self._buffer.used, self._sa = None, 0, None
        self._datagrams.clear()

    # Rows.

    def take_run(
        self, sa: Receiving, numbers: Sequence[int], first: int, short: Sequence[tuple[int, int]], tos: int, now: float
    ) -> None:
        if sa is not self._sa:
            self._turn_to(sa)
        if type(numbers) is range:
            self._take_run(numbers, first, short, numbers[-1], now)
            return

        # Some are missing: between them numbers follow each other. Else some were refused, or came out of order.
        runs = runs_of(numbers)
        if not runs:
            octets = dict(short)
            self._take_each(numbers, [octets.get(i, 0) for i in range(len(numbers))], first, now)
        for start, stop in runs:
            own = [(i - start, size) for i, size in short if start <= i < stop]
            self._take_run(range(numbers[start], numbers[stop - 1] + 1), first + start, own, numbers[-1], now)

    def _take_run(self, numbers: range, first: int, short: Sequence[tuple[int, int]], last: int, now: float) -> None:
        """Take rows whose numbers follow each other: full ones up to the next short one, which ends a burst.

        `last` is the highest number of the batch.
        """
        buffer, number, at = self._buffer, numbers[0], 0
        for stop, size in [*short, (len(numbers), 0)]:
            full = stop - at
            if full and not buffer.all_records(first + at, full):
                self._take_each(range(number + at, number + stop), [0] * full, first + at, now)
                full, at = 0, stop
            row = buffer.row(first + stop, size - OVERHEAD_BYTES) if size else None
            tail = records_octets(row) if row is not None else 0

            # All of them together, if they are chunks of records.
            if full or tail:
                self._counters[_IN_ESP_OK] += full + (tail > 0)
                self.heard_records = True
                self._assembler.take_rows(buffer, number + at, first + at, full, tail, now, last)
            if row is not None and not tail:
                self._take_payload(number + stop, row, now)
            at = stop + 1

    def take_row(self, sa: Receiving, number: int, row: memoryview, first: int, tos: int, now: float) -> None:
        if sa is not self._sa:
            self._turn_to(sa)
        octets = records_octets(row)
        if octets and first >= 0:
            self._counters[_IN_ESP_OK] += 1
            self.heard_records = True
            buffer = self._buffer
            if octets == buffer.chunk:
                self._assembler.take_rows(buffer, number, first, 1, 0, now)
            else:
                self._assembler.take_rows(buffer, number, first, 0, octets, now)
        else:
            self._take_payload(number, row, now)

    def _take_each(self, numbers: Sequence[int], sizes: Sequence[int], first: int, now: float) -> None:
        """Take rows one by one: some were refused, or are no chunks of records. `sizes`: of short packets; 0: full."""
        buffer = self._buffer
        self._assembler.spill(buffer)
        for at, (number, size) in enumerate(zip(numbers, sizes, strict=True), first):
            if number:
                self._take_payload(number, buffer.row(at, size - OVERHEAD_BYTES if size else buffer.stride), now)

    def _take_payload(self, number: int, row: memoryview, now: float) -> None:
        """Take the payload of a row that cannot be taken where it lies: out of order, or no chunk of records."""
        assembler, length = self._assembler, payload_length(row)
        assembler.spill(self._buffer)
        reason = row_fault(row, length)
        if reason is not None:
            self._counters[reason] += 1
        elif row[0] == SUBTYPE_RECORDS:
            self._counters[_IN_ESP_OK] += 1
            self.heard_records = True
            assembler.take_chunk(number, row[2] << 8 | row[3], row[FRAMING_BYTES:length], now)
            return
        else:
            self._counters[_IN_ESP_OK] += 1
            told = int.from_bytes(row[FRAMING_BYTES:ECHO_BYTES], "big")
            if told == TOLD and row[0] == SUBTYPE_ECHO_REPLY and length > ECHO_BYTES:
                assembler.told.take(number, bytes(row[ECHO_BYTES:length]))
            else:
                self._on_echo(row[0], told)
        assembler.passed(number, now)

    # Records.

    def _give_rows(self, buffer: RowBuffer, first: int, at: int, have: int) -> tuple[int, bool]:
        """Deliver every whole record (burst.give_records), from where it lies if it is plain."""
        while (direct := self._delivery.direct) is not None:
            # What is kept goes before what comes now.
            if self._datagrams:
                self.flush()
            why, at, length = direct.records(buffer, buffer.chunk, first, at, have)
            if why != OTHER:
                return at, why != UNSOUND
            start = first * buffer.chunk + at
            self._record(buffer.pieces(start, start + length), length)
            at += length
        return give_records(buffer, first, at, have, self._record)

    def _record(self, pieces: Sequence[memoryview], length: int) -> None:
        """Deliver one whole record."""
        self._counters[_IN_RECORDS] += 1
        head, delivery = pieces[0], self._delivery
        if len(pieces) > 1 and (len(head) < _HEADERS or _has_extensions(head)):
            head = memoryview(b"".join(pieces[:2]))
        if self._gathers and head[VNET_BYTES + 9] == UDP and self._gather(head, whole=len(pieces) == 1):
            return

        # Most small records are IPv4 without options, behind a virtio header that says nothing: of those all is well.
        first = head[VNET_BYTES]
        if first == 0x45 and head[:_SAYS] == _NOTHING:
            delivery.write(pieces, head[VNET_BYTES + 12 : VNET_BYTES + 20].tobytes(), length - VNET_BYTES)
            return
        v4 = first >> 4 == 4
        too_short = not v4 and length < VNET_BYTES + 40
        if too_short or record_fault(head, length - VNET_BYTES, delivery.accepted) is not None:
            self._counters[DropReason.BAD_RECORD] += 1
        else:
            pair = head[VNET_BYTES + 12 : VNET_BYTES + 20] if v4 else head[VNET_BYTES + 8 : VNET_BYTES + 40]
            delivery.write(pieces, pair.tobytes(), length - VNET_BYTES)

    def _gather(self, record: memoryview, *, whole: bool) -> bool:
        """Keep a small datagram until this batch ends, for others of its flow to join it; False: it must go alone.

        What is kept of its flow goes before it. What the selectors refuse is not kept: its SA is known now.
        """
        headers = record[: Datagrams.HEADERS].tobytes()
        flow = headers[VNET_BYTES + 12 : VNET_BYTES + 24]
        group = self._datagrams.get(flow)
        if group is not None:
            if whole and group.take(record, headers):
                return True
            del self._datagrams[flow]
            self._write_datagrams(flow, group)

        # It may be the first of others.
        if not (whole and Datagrams.fit(record) and self._delivery.in_force.allow(flow[:8])):
            return False
        if record_fault(record, len(record) - VNET_BYTES, self._delivery.accepted) is not None:
            return False
        self._datagrams[flow] = Datagrams(record)
        return True

    def flush(self) -> None:
        if self._datagrams:
            for flow, group in self._datagrams.items():
                self._write_datagrams(flow, group)
            self._datagrams.clear()

    def _write_datagrams(self, flow: bytes, group: Datagrams) -> None:
        octets = len(group.payloads) * group.octets
        self._delivery.write(group.pieces(), flow[:8], octets, len(group.payloads))


def runs_of(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return where numbers follow each other, as (start, stop); nothing if they do not rise all the way."""
    breaks = [i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1] + 1]
    if 0 in numbers or any(numbers[i] <= numbers[i - 1] for i in breaks):
        return []
    return list(zip([0, *breaks], [*breaks, len(numbers)], strict=True))


def _has_extensions(record: memoryview) -> bool:
    """Whether the record is a super-packet of IPv6 with extension headers, which may go on in the next piece."""
    return record[1] > 0 and record[VNET_BYTES] >> 4 == 6 and record[VNET_BYTES + 6] not in (TCP, UDP)

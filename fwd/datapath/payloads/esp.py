"""Payload esp: one IP packet in each row, as every IPsec peer has it (RFC 4303 tunnel mode).

    out   headers and checksums that the kernel left undone are completed; runs of packets of one length, and one
          shorter packet behind each, are sealed and sent together
    in    packets are written to the TUN device; TCP data of one stream, where a super-packet can stand for it, as one

Refused and counted: wrong padding, another next header, packets whose headers contradict them, ECN that says congestion
to a transport that cannot hear it (RFC 6040 §4.2). Outer ECN is copied on the way out (RFC 6040 §4.1).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fwd.datapath.counters import MemberCounter
from fwd.datapath.delivery import Delivery
from fwd.datapath.direct import Direct
from fwd.datapath.narrow import keep_packets
from fwd.datapath.receiving import Receiving
from fwd.datapath.ring import SEGMENTS, Ring, Segment
from fwd.datapath.tuning import Tuning
from fwd.proto import compiled, core
from fwd.proto.burst import seal_packets
from fwd.proto.drops import DropReason
from fwd.proto.echo import read_dummy
from fwd.proto.esp import (
    BATCH_MAX,
    NEXT_DUMMY,
    NEXT_IPV4,
    NEXT_IPV6,
    OVERHEAD_BYTES,
    OutboundSa,
    PacketTable,
    Rows,
    padded,
    payload_length,
)
from fwd.proto.ip import (
    IP_MIN,
    NO_VNET,
    NOT_ECT,
    TSO4,
    VNET_BYTES,
    Selectors,
    address_pair,
    decapsulate_ecn,
    ip_length,
)
from fwd.proto.segments import PACKETS_MAX, SUPER_PACKET_MAX, Grid, complete, joined, super_packet

Run = tuple[int, int, int, int]  # packets, octets of each, of a shorter one behind them or 0, next header
_NO_VNET = memoryview(NO_VNET)
_TABLES_MAX = 32  # packet sizes whose tables are kept
# Plain integers: reading a member of an enum costs as much as the addition.
_IN_ESP_OK = MemberCounter.IN_ESP_OK.value
_IN_RECORDS = MemberCounter.IN_RECORDS.value


# -- out ----------------------------------------------------------------------------------------------------------


class _Packets:
    """The rows of one segment, and the same as matrices."""

    def __init__(self, ring: Ring, segment: Segment) -> None:
        self.rows = Rows(segment.rows, ring.stride, ring.rows, ring.stride)
        self._segment = segment

    @cached_property
    def _grid(self) -> Grid:
        """The rows as matrices, for pure Python."""
        return Grid(self._segment.rows, len(self.rows.rows), self.rows.stride)

    @cached_property
    def _words(self) -> core.Memory:
        """Where the packets' lengths and marks are, for the compiled core."""
        return core.words(self._segment.ends)

    def runs(self, fill: int, *, is_compiled: bool) -> tuple[Iterable[Run], int]:
        """Complete the packets of `fill` rows; return their runs, and how many octets they have.

        A run has packets of one length and IP version, and one shorter packet behind them if any.
        """
        # Most bursts without load are one packet, of which nothing is left undone.
        if fill == 1 and (length := self._segment.ends[0]) <= 0xFFFF:
            return ((1, length, 0, NEXT_IPV6 if self._segment.rows[0] >> 4 == 6 else NEXT_IPV4),), length
        if is_compiled:
            numbers, octets = compiled.complete(self.rows, self._words, len(self._segment.ends), fill)
            return zip(*[iter(numbers)] * 4, strict=True), octets

        # Mostly the words are the packets' lengths, and nothing more; marks above them tell what is still to be done.
        lengths = self._segment.ends[:fill].tolist()
        if max(lengths) > 0xFFFF:
            words = self._segment.ends_array[:fill]
            self._complete(words)
            lengths = (words & 0xFFFF).tolist()
        return self._runs(lengths), sum(lengths)

    def _complete(self, words: npt.NDArray[np.uint32]) -> None:
        """Write checksums and headers that the kernel left undone: what the marks in `words` tell."""
        for at in np.flatnonzero(words > 0xFFFF).tolist():
            complete(self._grid, at, int(words[at]) >> 16, words[at : at + PACKETS_MAX] & 0xFFFF)

    def _runs(self, lengths: Sequence[int]) -> Iterator[Run]:
        at, fill, versions, stride = 0, len(lengths), self._segment.rows, self.rows.stride
        while at < fill:
            length, version = lengths[at], versions[at * stride] >> 4
            end = at + 1
            while end < fill and lengths[end] == length and versions[end * stride] >> 4 == version:
                end += 1
            tail = end < fill and lengths[end] < length and versions[end * stride] >> 4 == version
            yield end - at, length, lengths[end] if tail else 0, NEXT_IPV6 if version == 6 else NEXT_IPV4
            at = end + tail


class EspOut:
    """Seals segments of packets (payloads.PayloadOut)."""

    tos_mask = 0xFF

    def __init__(self, ring: Ring, out: bytearray, send: Callable[[int, int, int], None]) -> None:
        self._ring = ring
        self._out = out
        self._send = send
        self._packets: list[_Packets | None] = [None] * SEGMENTS
        self._tables: dict[int, PacketTable] = {}  # by octets of a row

    def packets(self, fill: int, chunk: int) -> int:
        return fill

    def keep(self, segment: Segment, fill: int, records: int, chunk: int, held: Selectors) -> tuple[int, int]:
        count, gone = keep_packets(segment, self._ring.stride, fill, held)
        return count, records - gone

    def heads(self, segment: Segment, records: int, chunk: int) -> bytes:
        return b""  # each packet has its own

    def forget(self) -> None:
        self._packets = [None] * SEGMENTS
        self._tables.clear()

    def seal(
        self, sa: OutboundSa, number: int, segment: Segment, index: int, fill: int, records: int, chunk: int
    ) -> int:
        packets = self._packets[index]
        if packets is None:
            packets = self._packets[index] = _Packets(self._ring, segment)

        # What goes in one run is sealed and sent together.
        at = 0
        runs, octets = packets.runs(fill, is_compiled=sa.cipher is not None)
        for full, length, tail, next_header in runs:
            self._seal_run(sa, number + at, packets.rows, at, full, length, tail, next_header)
            at += full + (tail > 0)
        return octets

    def _seal_run(
        self, sa: OutboundSa, number: int, rows: Rows, first: int, full: int, length: int, tail_length: int,
        next_header: int,
    ) -> None:  # fmt: skip
        """Seal and send `full` packets of one length, and one shorter one behind them if `tail_length`."""
        # The table of where packets of this size lie in the buffer is made once.
        size = padded(length)
        table = self._tables.get(size)
        if table is None:
            if len(self._tables) >= _TABLES_MAX:
                self._tables.clear()
            table = self._tables[size] = PacketTable(self._out, size + OVERHEAD_BYTES, self._ring.rows)
        end = seal_packets(sa, number, rows, first, full, length, tail_length, next_header, table)
        self._send(end, table.packet_bytes, full + (tail_length > 0))


# -- in -----------------------------------------------------------------------------------------------------------


class EspIn:
    """Delivers the packets of opened rows (payloads.PayloadIn). Nothing is kept from batch to batch."""

    is_empty = True

    def __init__(
        self, delivery: Delivery, counters: array[int], on_echo: Callable[[int, int], None], stride: int
    ) -> None:
        """`on_echo` is told sub-type and number of each echo, which comes in a dummy packet."""
        self._delivery = delivery
        self._counters = counters
        self._on_echo = on_echo
        self._joins = bool(delivery.accepted & TSO4)
        self.heard_records = False
        self._sa: Receiving | None = None  # that the rows in hand are of: mostly the same as before
        self.lay_out(stride)

    def lay_out(self, stride: int) -> None:
        buffer = bytearray(stride * BATCH_MAX)
        self.rows = Rows(buffer, stride, BATCH_MAX, stride)
        self._grid = Grid(buffer, BATCH_MAX, stride)

    @property
    def patience_s(self) -> float:
        return float("inf")

    def room(self, count: int) -> int:
        return 0

    def begin(self, spi: int, tuning: Tuning, floor: int) -> None:
        pass

    def end(self, spi: int) -> None:
        self._sa = None

    def tune(self, tuning: Tuning) -> None:
        pass

    def expire(self, sas: Mapping[int, Receiving], now: float) -> None:
        pass

    def flush(self) -> None:
        pass

    def forget(self) -> None:
        self._sa = None

    def _turn_to(self, sa: Receiving) -> None:
        self._delivery.enter(sa.spi, sa.selectors)
        self._sa = sa

    def take_run(
        self, sa: Receiving, numbers: Sequence[int], first: int, short: Sequence[tuple[int, int]], tos: int, now: float
    ) -> None:
        if sa is not self._sa:
            self._turn_to(sa)
        if (direct := self._delivery.direct) is not None and (type(numbers) is range or all(numbers)):
            self._write_rows(direct, first, len(numbers), short, tos)
            return
        rows = self.rows.rows[first : first + len(numbers)]
        for i, octets in short:
            rows[i] = rows[i][: octets - OVERHEAD_BYTES]
        if self._joins and all(numbers):
            self._join(rows, first, tos)
            return
        for row, number in zip(rows, numbers, strict=True):
            if number:
                self._packet(row, tos)

    def take_row(self, sa: Receiving, number: int, row: memoryview, first: int, tos: int, now: float) -> None:
        if sa is not self._sa:
            self._turn_to(sa)
        self._packet(row, tos)

    def _write_rows(
        self, direct: Direct, first: int, count: int, short: Sequence[tuple[int, int]], tos: int
    ) -> None:  # fmt: skip
        """Write `count` rows from `first` on: straight from there, but for what is not plain."""
        rows, at = self.rows, 0
        while True:
            taken, at = direct.packets(rows, first, count, at, short, tos)
            self._counters[_IN_ESP_OK] += taken
            if at >= count:
                return
            octets = dict(short).get(at, rows.octets + OVERHEAD_BYTES) - OVERHEAD_BYTES
            self._packet(rows.row(first + at, octets), tos)
            at += 1

    def _join(self, rows: Sequence[memoryview], first: int, tos: int) -> None:
        """Write rows from `first` of the grid on; TCP that a super-packet can stand for goes as one.

        `tos` is the outer TOS octet of all of them.
        """
        lengths = np.fromiter(map(len, rows), np.uint32, len(rows))
        for start, end in joined(self._grid, first, len(rows), lengths):
            if end - start == 1 or tos & 3 not in (NOT_ECT, rows[start][1] & 3):
                for row in rows[start:end]:
                    self._packet(row, tos)
                continue
            count = max(2, SUPER_PACKET_MAX // len(rows[start]))
            for at in range(start, end, count):
                self._super_packet(rows[at : min(at + count, end)], tos)

    def _super_packet(self, rows: Sequence[memoryview], tos: int) -> None:
        if len(rows) == 1:
            self._packet(rows[0], tos)
            return
        self._counters[_IN_ESP_OK] += len(rows)
        self._counters[_IN_RECORDS] += len(rows)
        pieces = super_packet(rows)
        headers = len(pieces[0]) - VNET_BYTES
        octets = sum(map(len, pieces[1:])) + len(rows) * headers
        self._delivery.write(pieces, rows[0][12:20].tobytes(), octets, len(rows))

    def _packet(self, row: memoryview, tos: int) -> None:
        """Write the IP packet of one row. Traffic-flow padding may lie behind it (RFC 4303 §2.7)."""
        counters = self._counters
        length, next_header = payload_length(row), row[-1]
        if length < 0:
            counters[DropReason.BAD_PADDING] += 1
            return
        if next_header == NEXT_DUMMY:
            self._dummy(row[:length])
            return
        if next_header not in (NEXT_IPV4, NEXT_IPV6):
            counters[DropReason.BAD_NEXT_HEADER] += 1
            return

        # It is a packet; what its header says must fit in what came.
        counters[_IN_ESP_OK] += 1
        counters[_IN_RECORDS] += 1
        if next_header == NEXT_IPV4:
            is_whole = length >= IP_MIN and row[0] >> 4 == 4 and IP_MIN <= (size := row[2] << 8 | row[3]) <= length
        else:
            is_whole = length >= 40 and row[0] >> 4 == 6 and 40 <= (size := ip_length(row)) <= length
        if not is_whole:
            counters[DropReason.BAD_RECORD] += 1
        elif tos & 3 and not decapsulate_ecn(row, tos):
            counters[DropReason.ECN_CE_LOST] += 1
        else:
            pair = row[12:20].tobytes() if next_header == NEXT_IPV4 else address_pair(row)
            self._delivery.write([_NO_VNET, row[:size]], pair, size)

    def _dummy(self, payload: memoryview) -> None:
        """Drop a dummy packet (RFC 4303 §2.6), unless it is an echo of another fwd's."""
        echo = read_dummy(payload)
        if echo is None:
            self._counters[DropReason.DUMMY] += 1
        else:
            self._counters[_IN_ESP_OK] += 1
            self._on_echo(*echo)

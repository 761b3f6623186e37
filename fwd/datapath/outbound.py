"""A member's way out: a ring segment → ESP packets → the UDP socket.

1. Store `taken`: from here on the segment dies with this incarnation
2. Claim sequence numbers, and enter them in the ledger
3. Complete the framing of its rows, seal them all, send them
4. Count, publish, store `done`

Refused and counted: records that the SA does not carry, being narrower than the configuration (narrow.py), or for which
it has no numbers left or its life is over; segments whose buckets went to others while this process hung or was away:
they would come behind newer packets of their flows (design rule 3); packets that the socket refuses. Outer DSCP is the
records'; outer ECN is Not-ECT for superpackets (RFC 9347 §2.4.2, RFC 6040 compatibility mode) and copied for `esp` (RFC
6040 §4.1).
"""

from __future__ import annotations

import os
from array import array

import numpy as np
import numpy.typing as npt

from fwd.datapath.audit import Audit
from fwd.datapath.barrier import Barrier
from fwd.datapath.counters import CounterBlock, MemberCounter
from fwd.datapath.geometry import Geometry, rows_for
from fwd.datapath.narrow import keep_packets, keep_records
from fwd.datapath.ring import DONE, FILL, HEAD, LEFT, RECORDS, SEGMENTS, TAKEN, TOS, Ring, Segment
from fwd.datapath.shared import Ledger, LinkWord
from fwd.datapath.udp import SEND_WAIT_MS, Sender
from fwd.proto.aggfrag import FRAMING_BYTES, Framer, row_bytes
from fwd.proto.burst import seal_burst
from fwd.proto.drops import DropReason
from fwd.proto.esp import (
    NEXT_AGGFRAG,
    NEXT_IPV4,
    NEXT_IPV6,
    OVERHEAD_BYTES,
    OutboundSa,
    PacketTable,
    Rows,
    SaExhausted,
    padded,
    seal_one,
    trailer_bytes,
    write_trailer,
)
from fwd.proto.ip import Selectors
from fwd.proto.sa import UNLIMITED, SaKeys
from fwd.proto.segments import PACKETS_MAX, Grid, complete

# Plain integers: reading a member of an enum costs as much as the addition.
_DONE = MemberCounter.DONE.value
_OUT_BYTES = MemberCounter.OUT_BYTES.value
_OUT_ESP = MemberCounter.OUT_ESP.value
_OUT_ESP_BYTES = MemberCounter.OUT_ESP_BYTES.value
_OUT_RECORDS = MemberCounter.OUT_RECORDS.value
_OUTCOMES = (
    _OUT_RECORDS,
    DropReason.SA_EXHAUSTED,
    DropReason.SA_EXPIRED,
    DropReason.SELECTOR_OUT,
    DropReason.BUCKETS_MOVED,
)  # of the records of a segment
_JITTER = 0.1
_TABLES_MAX = 32  # packet sizes whose tables are kept (payload esp)


class _BucketsMoved(Exception):
    """The segment's flows go on with other members: it must not be sent any more."""


class _Rows:
    """The rows of one segment as views for one chunk size, with their framing written."""

    def __init__(self, ring: Ring, segment: Segment, chunk: int) -> None:
        count = min(ring.rows, rows_for(chunk))
        self.framer = Framer(segment.rows, ring.stride, count, chunk)
        length = row_bytes(chunk)
        self.rows = Rows(segment.rows, ring.stride, count, length)


class _Packets:
    """The rows of one segment as views and matrices, for payload esp."""

    def __init__(self, ring: Ring, segment: Segment) -> None:
        self.rows = Rows(segment.rows, ring.stride, ring.rows, ring.stride)
        self._grid = Grid(segment.rows, ring.rows, ring.stride)

    def complete(self, words: npt.NDArray[np.uint32]) -> None:
        """Checksums and headers that the kernel left undone: what the marks in `words` tell."""
        for at in np.flatnonzero(words > 0xFFFF).tolist():
            complete(self._grid, at, int(words[at]) >> 16, words[at : at + PACKETS_MAX] & 0xFFFF)

    def write_trailers(self, first: int, count: int, length: int, next_header: int) -> None:
        """The same padding and trailer behind packets of one length."""
        trailer = trailer_bytes(length, next_header)
        self._grid.octets[first : first + count, length : length + len(trailer)] = np.frombuffer(trailer, np.uint8)


class Outbound:
    """Seals and sends. `peer` is where to; the member keeps it current."""

    def __init__(
        self,
        ring: Ring,
        geometry: Geometry,
        sender: Sender,
        counters: CounterBlock,
        ledger: Ledger,
        link: memoryview,
        incarnation: int,
        audit: Audit,
        barrier: Barrier | None = None,
        *,
        esp: bool,
    ) -> None:
        self._barrier = barrier or Barrier()
        self._ring = ring
        self._demux_words = ring.demux_words
        self._number = 0  # of the segment in hand
        self._sender = sender
        self._block = counters
        self._counters: array[int] = counters.values
        self._ledger = ledger
        self._link = link
        self._incarnation = incarnation
        self._audit = audit
        self._esp = esp

        # Where packets are built: one buffer, and views of each segment that are made once.
        self._out = bytearray((geometry.packet_bytes + 4) * ring.rows)
        self._out_view = memoryview(self._out)
        self._chunk = 0
        self._table: PacketTable | None = None
        self._rows: list[_Rows | None] = [None] * SEGMENTS
        self._packets: list[_Packets | None] = [None] * SEGMENTS
        self._tables: dict[int, PacketTable] = {}

        # The SA that is sent on, and what limits it.
        self.sa: OutboundSa | None = None
        self._octets_before = 0  # sent before this SA was
        self._share = 1.0  # of its soft limits
        self.life = self._life = UNLIMITED  # what an SA may carry at most: one to come, and this one
        self.deadline_ms = 0  # of the SA, in CLOCK_BOOTTIME; 0: none
        self._held: Selectors | None = (
            None  # to which the SA is narrower; None: it carries all that the demux lets through
        )
        self._refused = 0  # records of this segment that it does not carry
        self._expired = False  # there is no SA, since the life of the last one is over
        self.peer: tuple[str, int] = ("", 0)

    def use(self, keys: SaKeys) -> None:
        """Send on this SA from now on. It must never have been sent on (design rule 1)."""
        sa = OutboundSa(keys, self._ring.rows)
        self.deadline_ms = keys.deadline_ms
        held = keys.narrowed
        self._held = None if held is None else Selectors.of_ranges(held.local, held.remote)
        self._expired = False
        self._life = self.life
        self._octets_before = self._counters[_OUT_ESP_BYTES]
        self._share = 1 - _JITTER * os.urandom(1)[0] / 255
        self._ledger.begin(self._incarnation, keys.spi)
        self.sa = sa
        self._link[LinkWord.SPI_OUT] = keys.spi

    def stop(self, *, expired: bool = False) -> None:
        """Send on nothing: the far side takes nothing any more; `expired`: or the life of the SA is over."""
        self.sa = None
        self.deadline_ms = 0
        self._expired = expired
        self._link[LinkWord.SPI_OUT] = 0

    def end_by(self, until_ms: int) -> None:
        """The SA's life ends by then, if not before."""
        if self.sa is not None:
            self.deadline_ms = min(self.deadline_ms or until_ms, until_ms)

    def is_over(self, now_ms: int) -> bool:
        """Whether the life of the SA is over: by time, octets, or packets."""
        sa = self.sa
        if sa is None:
            return False
        sent = self._counters[_OUT_ESP_BYTES] - self._octets_before
        used_up = 0 < self._life.packets <= sa.number or 0 < self._life.octets <= sent
        return used_up or 0 < self.deadline_ms <= now_ms

    def is_due(self, packets: int, octets: int) -> bool:
        """Whether the SA nears its soft limits, or a little less, so that not all SAs do at once.

        `octets` 0: a tenth before its end, if that is in octets.
        """
        sa = self.sa
        if sa is None:
            return False
        sent = self._counters[_OUT_ESP_BYTES] - self._octets_before
        octets = octets or self._life.octets * 9 // 10
        return sa.number >= packets * self._share or 0 < octets * self._share <= sent

    def recover(self, *, skip: bool) -> None:
        """Take over from a predecessor: what it held is lost; `skip`: so is what waited while the member was failed.

        Counted before the ring's words move: a death in between repeats nothing.
        """
        ring, counters = self._ring, self._counters
        done = counters[_DONE]
        taken, head = max(ring.taken, done), ring.head  # a predecessor may have died between its two steps here
        if not head - SEGMENTS <= done <= taken <= head:  # it, or a demux, was taken over and wrote what it liked
            done = taken = head
        counters[DropReason.DIED_WITH_MEMBER] += self._records(done, taken)
        if skip:
            counters[DropReason.FAILED_SKIPPED] += self._records(taken, head)
            taken = head
        counters[_DONE] = taken
        self._block.publish()
        ring.taken = taken
        ring.done = taken

    def _records(self, first: int, end: int) -> int:
        return sum(self._ring.records(n) for n in range(first, end))

    def waits(self) -> bool:
        """Whether a segment waits."""
        return self._ring.member_words[TAKEN] < self._demux_words[HEAD]

    def work(self) -> bool:
        """Send one segment; False when none waits."""
        words = self._ring.member_words
        number = words[TAKEN]
        if number >= self._demux_words[HEAD]:  # above: what a demux that was taken over had handed over is undone
            return False
        words[TAKEN] = number + 1
        self._number = number
        index = number % SEGMENTS
        segment = self._ring.segments[index]
        try:
            self._send_segment(segment, index)
            self._finish(number)
        except Exception:  # noqa: BLE001 - the barrier tells of it
            self._barrier.caught("segment")
            if self._counters[_DONE] <= number:
                self._lose_segment(segment)
            self._finish(number)
        return True

    def _finish(self, number: int) -> None:
        self._counters[_DONE] = number + 1
        self._block.publish()
        self._ring.member_words[DONE] = number + 1

    def _send_segment(self, segment: Segment, index: int) -> None:
        self._sender.patience_ms = SEND_WAIT_MS
        try:
            if self._number < self._demux_words[LEFT]:
                raise _BucketsMoved
            if self._esp:
                self._send_packets(segment, index)
            else:
                self._send_records(segment, index)
        except _BucketsMoved:
            self._counters[DropReason.BUCKETS_MOVED] += segment.fields[RECORDS] - self._refused
        except SaExhausted:
            reason = DropReason.SA_EXPIRED if self._expired else DropReason.SA_EXHAUSTED
            self._counters[reason] += segment.fields[RECORDS] - self._refused
            self._audit_exhausted()
        if self._refused:
            self._counters[DropReason.SELECTOR_OUT] += self._refused
            self._refused = 0

    def _lose_segment(self, segment: Segment) -> None:
        """Count what was not sent of a segment. The numbers that were claimed for it are skipped, never used again."""
        if any(self._block.since(counter) for counter in _OUTCOMES):
            self._counters[DropReason.SELECTOR_OUT] += self._refused
        else:
            self._counters[DropReason.INTERNAL_ERROR] += segment.fields[RECORDS]
        self._refused = 0

        # Framing, tables and the socket's options are made anew: whichever of them was being written is not whole.
        self._chunk = 0
        self._packets = [None] * SEGMENTS
        self._tables.clear()
        self._sender.forget()

    def _audit_exhausted(self) -> None:
        if self.sa is not None:
            self._audit.not_sent(self.sa.spi, self.sa.number, self.peer)

    def _sa(self) -> OutboundSa:
        if self.sa is None:
            raise SaExhausted
        return self.sa

    def _send_records(self, segment: Segment, index: int) -> None:
        """Payload superpacket: the segment is one burst."""
        fill, records, tos, chunk = segment.fields.tolist()
        if chunk != self._chunk:
            self._use_chunk(chunk)
        rows, table = self._rows[index], self._table
        if rows is None:
            rows = self._rows[index] = _Rows(self._ring, segment, chunk)
        assert table is not None

        # A peer may have narrowed the selectors: what the SA does not carry stays behind.
        if self._held is not None:
            fill, kept = keep_records(segment, self._ring.stride, chunk, fill, records, self._held)
            self._refused, records = records - kept, kept
            if not records:
                return

        # Sequence numbers are claimed, and written down, before anything is sealed with them.
        full, tail_octets = divmod(fill, chunk)
        count = full + (tail_octets > 0)
        sa = self._sa()
        first = sa.claim(count)
        self._ledger.claim(sa.number)

        # Offsets and trailer are written in place, then all of it is sealed in one go.
        if count > 1:
            rows.framer.write_offsets(segment.ends_array[:records], count)
        start = tail_end = full * self._ring.stride
        if tail_octets:
            tail_end = write_trailer(segment.rows, start, FRAMING_BYTES + tail_octets, NEXT_AGGFRAG)
        end = seal_burst(sa, first, rows.rows, 0, full, tail_end - start, table)
        if tail_end - start == rows.rows.octets:
            segment.rows[tail_end - 2] = 0  # a full row of a later burst has no padding

        # Sent, unless the buckets have moved meanwhile, and counted.
        self._sender.set_tos(tos & 0xFC)
        if self._number < self._demux_words[LEFT]:  # it may have slept since
            raise _BucketsMoved
        self._transmit(self._out_view[:end], table.packet_bytes, count)
        self._counters[_OUT_BYTES] += int(segment.ends[records - 1]) - 10 * records
        self._counters[_OUT_RECORDS] += records

    def _use_chunk(self, chunk: int) -> None:
        self._chunk = chunk
        self._table = PacketTable(self._out, row_bytes(chunk) + OVERHEAD_BYTES, self._ring.rows)
        self._rows = [None] * SEGMENTS

    def _send_packets(self, segment: Segment, index: int) -> None:
        """Payload esp: each row is one IP packet; runs of one size are sealed and sent together."""
        count, records = segment.fields[FILL], segment.fields[RECORDS]
        packets = self._packets[index]
        if packets is None:
            packets = self._packets[index] = _Packets(self._ring, segment)

        # A peer may have narrowed the selectors: what the SA does not carry stays behind.
        if self._held is not None:
            count, self._refused = keep_packets(segment, self._ring.stride, count, self._held)
            records -= self._refused
            if not count:
                return

        # Sequence numbers are claimed, and written down, before anything is sealed with them.
        sa = self._sa()
        number = sa.claim(count)
        self._ledger.claim(sa.number)
        self._sender.set_tos(segment.fields[TOS])
        words = segment.ends_array[:count]
        lengths = (words & 0xFFFF).tolist()
        if int(words.max()) > 0xFFFF:
            packets.complete(words)

        # Runs of one length and IP version, and one shorter packet behind each, go together.
        at, versions, stride = 0, segment.rows, self._ring.stride
        while at < count:
            length, version = lengths[at], versions[at * stride] >> 4
            end = at + 1
            while end < count and lengths[end] == length and versions[end * stride] >> 4 == version:
                end += 1
            tail = end < count and lengths[end] < length and versions[end * stride] >> 4 == version
            self._send_run(sa, number + at, packets, at, end - at, length, lengths[end] if tail else 0)
            at = end + tail
        self._counters[_OUT_BYTES] += sum(lengths)
        self._counters[_OUT_RECORDS] += records

    def _send_run(
        self, sa: OutboundSa, number: int, packets: _Packets, first: int, full: int, length: int, tail_length: int
    ) -> None:
        """Seal and send `full` packets of one length, and one shorter one behind them if `tail_length`."""
        at, rows, stride = first * self._ring.stride, packets.rows.view, self._ring.stride
        next_header = NEXT_IPV6 if rows[at] >> 4 == 6 else NEXT_IPV4
        size = padded(length)
        if full > 1:
            packets.write_trailers(first, full, length, next_header)
        else:
            write_trailer(rows, at, length, next_header)

        # A shorter last packet has a trailer of its own.
        tail = 0
        if tail_length:
            start = at + full * stride
            tail = write_trailer(rows, start, tail_length, next_header) - start

        # The table of where packets of this size lie in the buffer is made once.
        table = self._tables.get(size)
        if table is None:
            if len(self._tables) >= _TABLES_MAX:
                self._tables.clear()
            table = self._tables[size] = PacketTable(self._out, size + OVERHEAD_BYTES, self._ring.rows)

        # Sealed, and sent unless the buckets have moved meanwhile.
        end = seal_burst(sa, number, packets.rows, first, full, tail, table)
        if self._number < self._demux_words[LEFT]:  # it may have slept since
            raise _BucketsMoved
        self._transmit(self._out_view[:end], table.packet_bytes, full + (tail > 0))

    def send_control(self, payload: bytes, next_header: int) -> None:
        """One packet of the member's own, such as an echo. Nothing is sent when the SA has no number left."""
        sa = self.sa
        if sa is None or sa.number >= sa.sequence_max:
            self._audit_exhausted()
            return
        number = sa.claim(1)
        self._ledger.claim(number)
        row = bytearray(len(payload) + 8)
        row[: len(payload)] = payload
        end = write_trailer(memoryview(row), 0, len(payload), next_header)
        stop = seal_one(sa, number, memoryview(row)[:end], self._out_view, 0)
        self._sender.patience_ms = 0  # a peer that asks for many replies must not hold the loop
        self._sender.set_tos(0)
        self._transmit(self._out_view[:stop], stop, 1)

    def _transmit(self, view: memoryview, packet_bytes: int, count: int) -> None:
        sent = self._sender.send(view, packet_bytes, self.peer)
        self._counters[_OUT_ESP] += sent
        self._counters[_OUT_ESP_BYTES] += len(view) if sent == count else sent * packet_bytes
        if sent < count:
            self._counters[DropReason.SEND_FAILED] += count - sent

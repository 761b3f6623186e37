"""A member's way out: a ring segment → ESP packets → the UDP socket.

1. Store `taken`: from here on the segment dies with this incarnation
2. Claim sequence numbers, and enter them in the ledger
3. Have the payload complete its rows and seal them (payloads/), send them
4. Count, publish, store `done`

Refused and counted: records that the SA does not carry, being narrower than the configuration (narrow.py), or for which
it has no numbers left or its life is over; segments whose buckets went to others while this process hung or was away:
they would come behind newer packets of their flows (rule 3); packets that the socket refuses. Outer DSCP is the
records', outer ECN what the payload says.
"""

from __future__ import annotations

import os
from array import array
from typing import Protocol

from fwd.datapath.audit import Audit
from fwd.datapath.barrier import Barrier
from fwd.datapath.counters import CounterBlock, MemberCounter
from fwd.datapath.geometry import Geometry
from fwd.datapath.ledger import Ledger
from fwd.datapath.payloads import payload_out
from fwd.datapath.ring import DONE, HEAD, LEFT, RECORDS, SEGMENTS, TAKEN, Ring, Segment
from fwd.datapath.shared import LinkWord
from fwd.datapath.udp import SEND_WAIT_MS, Sender
from fwd.proto.aggfrag import SUBTYPE_ECHO_REPLY
from fwd.proto.core import CoreError
from fwd.proto.drops import DropReason
from fwd.proto.echo import in_stream
from fwd.proto.esp import NEXT_AGGFRAG, OutboundSa, SaExhausted, seal_one, write_trailer
from fwd.proto.heads import TOLD
from fwd.proto.ip import Selectors
from fwd.proto.sa import UNLIMITED, SaKeys

# Plain integers: reading a member of an enum costs as much as the addition.
_DONE = MemberCounter.DONE.value
_OUT_BYTES = MemberCounter.OUT_BYTES.value
_OUT_ESP = MemberCounter.OUT_ESP.value
_OUT_ESP_BYTES = MemberCounter.OUT_ESP_BYTES.value
_OUT_RECORDS = MemberCounter.OUT_RECORDS.value
_READ_RECORDS = MemberCounter.READ_RECORDS.value
_OUTCOMES = (
    _OUT_RECORDS,
    DropReason.SA_EXHAUSTED,
    DropReason.SA_EXPIRED,
    DropReason.SELECTOR_OUT,
    DropReason.BUCKETS_MOVED,
)  # of the records of a segment
_JITTER = 0.1  # of an SA's soft limits, at most


class Gated(Protocol):
    """A queue that the ring is filled from (queue.py)."""

    def is_shut(self) -> bool:
        """Whether nothing of it may be sent any more."""


class _BucketsMoved(Exception):
    """A segment must not be sent any more: its flows go on with other members."""


class Outbound:
    """Seals and sends, to `peer`, which the member keeps current."""

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
        payload: str,
    ) -> None:
        self._barrier = barrier or Barrier()
        self._ring = ring
        self._demux_words = ring.demux_words
        self._number = 0  # of the segment in hand
        self._refused = 0  # records of it that the SA does not carry
        self._sender = sender
        self._block = counters
        self._counters: array[int] = counters.values
        self._ledger = ledger
        self._link = link
        self._incarnation = incarnation
        self._audit = audit

        # Where packets are built, and by what.
        out = bytearray((geometry.packet_bytes + 4) * ring.rows)
        self._out_view = memoryview(out)
        self._payload = payload_out(payload, ring, out, self._send_sealed)

        # The SA that is sent on, and what limits it.
        self.sa: OutboundSa | None = None
        self._octets_before = 0  # sent before this SA was
        self._share = 1.0  # of its soft limits, at which it is due
        self.life = self._life = UNLIMITED  # what an SA may carry at most: the next one, and this one
        self.deadline_ms = 0  # of the SA, in CLOCK_BOOTTIME; 0: none
        self._held: Selectors | None = None  # its own, if narrower than the peering's
        self._expired = False  # there is no SA, since the life of the last one is over
        self.peer: tuple[str, int] = ("", 0)
        self.queue: Gated | None = None  # which its ring is filled from, if that is the member's own
        self.tells_heads = False  # the far member misses packets: tell it of headers twice

    def use(self, keys: SaKeys) -> None:
        """Send on this SA from now on. It must never have been sent on (rule 1)."""
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
        """Send on no SA: the far side accepts none any more or, if `expired`, the life of this one is over."""
        self.sa = None
        self.deadline_ms = 0
        self._expired = expired
        self._link[LinkWord.SPI_OUT] = 0

    def end_by(self, until_ms: int) -> None:
        """Let the SA's life end at `until_ms`, if it does not end before."""
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
        """Whether the SA has reached its soft limits, or up to a tenth less, so that not all SAs do at once.

        `octets` 0: nine tenths of the octets that its life allows, if it counts octets.
        """
        sa = self.sa
        if sa is None:
            return False
        sent = self._counters[_OUT_ESP_BYTES] - self._octets_before
        octets = octets or self._life.octets * 9 // 10
        return sa.number >= packets * self._share or 0 < octets * self._share <= sent

    def recover(self, *, skip: bool) -> None:
        """Take over from a predecessor: what it held is lost, and with `skip` what waited since.

        Both are counted before the ring's words move: a death in between repeats nothing.
        """
        ring, counters = self._ring, self._counters

        # A predecessor may have died between its own two steps here; or it, or a demux, was taken over.
        done = counters[_DONE]
        taken, head = max(ring.taken, done), ring.head
        if not head - SEGMENTS <= done <= taken <= head:
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

    @property
    def simple(self) -> OutboundSa | None:
        """The SA, if a segment is sealed and sent as it is: without a look at its records."""
        return None if self._held is not None or self.tells_heads else self.sa

    @property
    def out(self) -> memoryview:
        """Where packets are sealed to."""
        return self._out_view

    @property
    def ledger_place(self) -> tuple[memoryview, int]:
        """Where numbers of this SA are written down."""
        return self._ledger.place

    def go_on(self, number: int, at: int, end: int, packet_bytes: int, count: int) -> None:
        """Send what the core has sealed of a segment, and the kernel has not taken: `count` packets from `at` to `end`.

        Then finish with it. A negative end: it was not sealed.
        """
        self._number, self._sender.patience_ms = number, SEND_WAIT_MS
        try:
            if end < 0:
                raise CoreError(f"a segment was not sealed ({end})")
            self._transmit(self._out_view[at:end], packet_bytes, count)
        except Exception:  # noqa: BLE001 - the barrier tells of it
            self._barrier.caught("segment")
            self._lose_segment(self._ring.segment(number))
        self._finish(number)

    def waits(self) -> bool:
        """Whether a segment waits."""
        return self._ring.member_words[TAKEN] < self._demux_words[HEAD]

    def work(self) -> bool:
        """Send one segment; False when none waits."""
        words = self._ring.member_words
        number = words[TAKEN]
        if number >= self._demux_words[HEAD]:  # greater, if a demux that was taken over has written less
            return False

        # From here on it dies with this incarnation.
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

    def _has_left(self) -> bool:
        """Whether the buckets of the segment in hand have gone to others."""
        return self._number < self._demux_words[LEFT] or (self.queue is not None and self.queue.is_shut())

    def _finish(self, number: int) -> None:
        self._counters[_DONE] = number + 1
        if self.queue is not None:
            self._counters[_READ_RECORDS] += self._ring.records(number)
        self._block.publish()
        self._ring.member_words[DONE] = number + 1

    def _send_segment(self, segment: Segment, index: int) -> None:
        """Seal and send what a segment holds, or count why not."""
        payload, sa = self._payload, self.sa
        self._sender.patience_ms = SEND_WAIT_MS
        try:
            if self._has_left():
                raise _BucketsMoved

            # A peer may have narrowed the selectors: what the SA does not carry stays behind.
            fill, records, tos, chunk = segment.fields.tolist()
            if self._held is not None:
                fill, kept = payload.keep(segment, fill, records, chunk, self._held)
                self._refused, records = records - kept, kept

            # Sequence numbers are claimed, and written down, before anything is sealed with them.
            if records:
                if sa is None:
                    raise SaExhausted
                count = payload.packets(fill, chunk)
                if count > self._ring.rows:
                    raise ValueError(f"a segment of {self._ring.rows} rows says that it has {count}")
                if self.tells_heads and (heads := payload.heads(segment, records, chunk)):
                    self.send_control(in_stream(SUBTYPE_ECHO_REPLY, TOLD) + heads, NEXT_AGGFRAG)
                    self._sender.patience_ms = SEND_WAIT_MS
                number = sa.claim(count)
                self._ledger.claim(sa.number)
                self._sender.set_tos(tos & payload.tos_mask)
                self._counters[_OUT_BYTES] += payload.seal(sa, number, segment, index, fill, records, chunk)
                self._counters[_OUT_RECORDS] += records
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
        """Count what was not sent of a segment, after an exception. Its numbers are skipped, never used again."""
        if any(self._block.since(counter) for counter in _OUTCOMES):
            self._counters[DropReason.SELECTOR_OUT] += self._refused
        else:
            self._counters[DropReason.INTERNAL_ERROR] += segment.fields[RECORDS]
        self._refused = 0

        # Framing, tables and the socket's options are made anew: one of them may be half written.
        self._payload.forget()
        self._sender.forget()

    def _audit_exhausted(self) -> None:
        if self.sa is not None:
            self._audit.not_sent(self.sa.spi, self.sa.number, self.peer)

    def _send_sealed(self, end: int, packet_bytes: int, count: int) -> None:
        """Send what was sealed, unless its buckets have moved meanwhile: this process may have slept since."""
        if self._has_left():
            raise _BucketsMoved
        self._transmit(self._out_view[:end], packet_bytes, count)

    def send_control(self, payload: bytes, next_header: int) -> bool:
        """Send one packet of the member's own, such as an echo; False: the kernel has no room for it now.

        Nothing is sent when the SA has no number left, nor will be.
        """
        sa = self.sa
        if sa is None or sa.number >= sa.sequence_max:
            self._audit_exhausted()
            return True
        number = sa.claim(1)
        self._ledger.claim(number)

        # Sealed as a row of its own.
        row = bytearray(len(payload) + 8)
        row[: len(payload)] = payload
        end = write_trailer(memoryview(row), 0, len(payload), next_header)
        stop = seal_one(sa, number, memoryview(row)[:end], self._out_view, 0)

        self._sender.patience_ms = 0  # a peer that asks for many replies must not hold the loop
        self._sender.set_tos(0)
        return self._transmit(self._out_view[:stop], stop, 1)

    def _transmit(self, view: memoryview, packet_bytes: int, count: int) -> bool:
        """Send packets of one size, the last may be shorter; whether all went."""
        sent = self._sender.send(view, packet_bytes, self.peer)
        self._counters[_OUT_ESP] += sent
        self._counters[_OUT_ESP_BYTES] += len(view) if sent == count else sent * packet_bytes
        if sent < count:
            self._counters[DropReason.SEND_FAILED] += count - sent
        return sent == count

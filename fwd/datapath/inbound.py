"""A member's way in: receives of up to 64 merged datagrams each → SAs → records → the TUN device.

1. Receives lay their datagrams into slots, one behind the other, until the socket is drained or the slots are full.
   After each, store how many ESP packets were taken: from here on they die with this incarnation
2. Runs of one SPI: check, decrypt and commit a run at a time (burst.open_burst), shorter packets among them
3. Publish the SA's highest number to its replay slot, before anything is delivered (rule 2)
4. Give the rows to the payload (payloads/), which makes records or packets of them and has them delivered
5. Count, publish

Refused and counted: what is not ESP, an unknown SPI, an SA whose life is over, what RFC 4303 §3.4 refuses, another
payload than the peering's. Standard peers (payload esp) may send on a Child SA before keyd has their answer: a few such
packets wait for it. The audit log (audit.py) hears of what RFC 4303 §4 wants told.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import groupby
from typing import Final, Protocol

from fwd.datapath.accepted import Accepted
from fwd.datapath.audit import Audit, Event
from fwd.datapath.counters import COUNTS_END, CounterBlock, MemberCounter, count_lost
from fwd.datapath.delivery import Delivery
from fwd.datapath.geometry import Geometry
from fwd.datapath.ledger import ReplaySlots
from fwd.datapath.payloads import PayloadIn, payload_in
from fwd.datapath.receiver import DRAINED, FULL, Receiver
from fwd.datapath.receiving import Receiving, runt_reason
from fwd.datapath.shared import LinkWord
from fwd.datapath.slots import ESP_MIN, RECEIVE_MAX, Slots
from fwd.datapath.strangers import Strangers, spi_of
from fwd.datapath.tuning import Tuning
from fwd.datapath.udp import TRAFFIC_CLASS_SHIFT
from fwd.datapath.unread import Unread
from fwd.model.config import Peering
from fwd.proto.burst import SCALAR_MAX, open_burst
from fwd.proto.drops import DropReason
from fwd.proto.esp import BATCH_MAX, OVERHEAD_BYTES, open_one
from fwd.proto.sa import SaKeys

Address = tuple[str, int]
# Plain integers: reading a member of an enum costs as much as the addition.
_IN_ESP = MemberCounter.IN_ESP.value
_IN_ESP_BYTES = MemberCounter.IN_ESP_BYTES.value
_RX_TAKEN = LinkWord.RX_TAKEN.value
BATCH_BYTES_MAX: Final = 512 * 1024  # full slots are fewer; as the smallest records 0.1 s of CPU, beside the kernel's


class Listener(Protocol):
    """Who hears what comes in: the member."""

    def on_echo(self, subtype: int, number: int) -> None:
        """Take an echo, or the reply to one."""

    def on_heard(self, sa: Receiving, address: Address) -> None:
        """Note where the peer is: something authentic has come on an SA, newer than all before it."""

    def on_unknown(self, spi: int) -> None:
        """Ask keyd for an SA that is not accepted: something has come for it."""

    def on_news(self) -> None:
        """Install what keyd has sent meanwhile: there is an SPI that is not known."""


class Inbound:
    """Opens, and hands over for delivery."""

    def __init__(
        self,
        peering: Peering,
        geometry: Geometry,
        tun_fd: int,
        tun_flags: int,
        counters: CounterBlock,
        slots: ReplaySlots,
        link: memoryview,
        audit: Audit,
        listener: Listener,
        unread: Unread | None = None,
    ) -> None:
        self._audit = audit
        self._listener = listener
        self.unread = unread
        self._block = counters
        self._counters: array[int] = counters.values
        self._slots = slots
        self._link = link

        # Where packets lie, and what becomes of them once they are opened.
        stride = geometry.stride
        self._received = Slots(stride + OVERHEAD_BYTES)
        self.delivery = delivery = Delivery(peering, tun_fd, tun_flags, counters.values, self._audit_stranger)
        self._payload = payload_in(peering.payload, delivery, counters.values, listener.on_echo, stride)
        self._accepted = Accepted(Tuning.of(peering), slots, delivery.selectors, self._payload, self._audit_refused)
        self.sas = self._accepted.sas
        self._strangers = Strangers(counters.values, audit, parks=peering.payload == "esp")

        # Of the batch in hand.
        self.now = 0.0  # when what is received next is; the member's to set
        self._taken = self._taken_bytes = 0  # of the counters' units, and not counted yet
        self._flow_info = 0
        self._address: Address = ("", 0)
        self._asked = False

    # -- SAs --------------------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Count what a predecessor had taken from the socket and not finished with."""
        lost = self._link[_RX_TAKEN] - self._counters[_IN_ESP]
        if not 0 <= lost < COUNTS_END:  # a predecessor that was taken over may have written anything
            self._link[_RX_TAKEN], lost = self._counters[_IN_ESP], 0
        self._counters[DropReason.DIED_WITH_MEMBER_IN] += lost
        self._counters[_IN_ESP] += lost
        self._block.publish()

    def lose_batch(self) -> None:
        """Count what was taken and not finished with as lost, with all that waits: an exception has ended the batch."""
        counters = self._counters
        self._received.clear()
        self._strangers.waiting.clear()
        self._payload.forget()
        self.delivery.forget_held()
        counters[_IN_ESP] = self._link[_RX_TAKEN]
        counters[_IN_ESP_BYTES] += self._taken_bytes
        self._taken = self._taken_bytes = self._strangers.uncounted = 0
        self._asked = False
        count_lost(counters)
        self._block.publish()

    def tune(self, tuning: Tuning) -> None:
        """Follow what is in force now."""
        self._accepted.tune(tuning)

    def install(self, inbound: Sequence[SaKeys], now_ms: int = 0) -> None:
        """Accept these SAs and no others, and open what has waited for them."""
        self._accepted.install(inbound, now_ms)
        if self._strangers.waiting:
            self._unpark()

    @property
    def deadline_ms(self) -> int:
        """The first deadline of an SA; 0: there is none."""
        return self._accepted.deadline_ms

    def end_overdue(self, now_ms: int) -> list[int]:
        """Accept nothing more on SAs whose life is over; their SPIs."""
        return self._accepted.end_overdue(now_ms)

    @property
    def patience_s(self) -> float:
        """After how long without packets to call `expire`; infinite: nothing waits for others."""
        return self._payload.patience_s

    def expire(self, now: float) -> None:
        """Give up what has waited too long for its missing parts, or for its SA."""
        self._counters[_IN_ESP] += self._strangers.expire(now)
        self._payload.expire(self.sas, now)
        self._block.publish()

    # -- what goes on without this object (quick.py) ---------------------------------------------------------------

    @property
    def received(self) -> Slots:
        """Where receives lie."""
        return self._received

    @property
    def payload(self) -> PayloadIn:
        """What becomes of opened rows."""
        return self._payload

    @property
    def sender(self) -> tuple[Address, int]:
        """Whom was received from last, with which outer marks."""
        return self._address, self._flow_info

    # -- packets ----------------------------------------------------------------------------------------------

    def space(self) -> memoryview:
        """Where the next receive goes: behind what waits."""
        return self._received.space()

    def take(self, length: int, size: int, flow_info: int, lost: int, address: Address) -> bool:
        """`length` octets were received to `space()`: datagrams of `size` (the last may be shorter) from `address`.

        `flow_info` has their outer marks (udp.read_ancillary), `lost` is what the socket has dropped so far (0: not
        told). They wait for `open`; False: call it now, there is no room for another receive.
        """
        count = -(-length // size) if size else 1
        self._taken += count
        self._taken_bytes += length
        strangers = self._strangers
        self._link[_RX_TAKEN] = self._counters[_IN_ESP] + self._taken + len(strangers.waiting) - strangers.uncounted
        if lost:
            self._count_overflow(lost)

        # Slots hold datagrams of one sender with one set of marks.
        if address != self._address or flow_info != self._flow_info:
            if self._refuse_strangers(length, size, flow_info, address):
                return self._may_take_more()
            self._open_slots()  # what came before is another sender's, or has other marks
            self._address, self._flow_info = address, flow_info

        # Datagrams of another size do not fit the slots, and are taken one by one.
        slot = self._received.packet_bytes
        if size != slot and (count > 1 or length > slot):
            self._take_others(length, size)
            return self._may_take_more()

        runt = self._received.fill(length)
        if runt is not None:
            self._counters[runt_reason(runt)] += 1
        return self._received.has_room and self._may_take_more()

    def take_from(self, receiver: Receiver) -> bool | None:
        """Receive by the compiled core, and take what that does not; as `take`, and None: nothing waits any more."""
        strangers, told = self._strangers, receiver.told
        before = self._counters[_IN_ESP] + len(strangers.waiting) - strangers.uncounted
        why = receiver.receive(
            self._received, before, self._taken, self._taken_bytes, self._flow_info, self._address
        )  # fmt: skip
        self._taken, self._taken_bytes = told.taken, told.octets
        if told.lost:
            self._count_overflow(told.lost)
        if why == DRAINED:
            return None
        if why == FULL:
            return False
        if why < 0:
            receiver.fail(why)
        return self.take(told.length, told.size, told.its_flow_info, told.lost, receiver.sender())

    def _may_take_more(self) -> bool:
        """Whether the batch may grow: its records, which are the smallest at worst, must not keep the loop for long."""
        return self._taken < BATCH_MAX and self._taken_bytes < BATCH_BYTES_MAX

    def _count_overflow(self, lost: int) -> None:
        """Follow the kernel's count, which has 32 bits; one that is a little behind was noted before the last."""
        ahead = (lost - self._counters[DropReason.SOCKET_OVERFLOW]) & 0xFFFFFFFF
        if ahead < 2**31:
            self._counters[DropReason.SOCKET_OVERFLOW] += ahead

    def _refuse_strangers(self, length: int, size: int, flow_info: int, address: Address) -> bool:
        """Refuse what was received last if it is of no SA: it must not end the batch of those that have one."""
        if spi_of(self._received.space()[:length]) in self.sas:
            return False
        packets = self._received.pieces(length, size)
        if not packets or any(spi in self.sas or self._news(spi) for spi in map(spi_of, packets)):
            return False

        # Whoever is told of them is told of their sender.
        before, (self._flow_info, self._address) = (self._flow_info, self._address), (flow_info, address)
        for packet in packets:
            if len(packet) < ESP_MIN:
                self._counters[runt_reason(packet)] += 1
        for spi, run in groupby((packet for packet in packets if len(packet) >= ESP_MIN), spi_of):
            self._without_sa(spi, list(run))
        self._flow_info, self._address = before
        return True

    def open(self, now: float) -> bool:
        """Open and deliver what was taken; whether records were among it, which the path then carries."""
        if not self._taken:
            return False
        self.now = now
        payload = self._payload
        self._open_slots()
        self._received.clear()
        payload.flush()
        heard, payload.heard_records = payload.heard_records, False

        # Counted, and published.
        counters = self._counters
        counters[_IN_ESP] += self._taken - self._strangers.uncounted
        counters[_IN_ESP_BYTES] += self._taken_bytes
        self._taken = self._taken_bytes = self._strangers.uncounted = 0
        self._asked = False
        if not self.delivery.holds:  # else a death now loses what is held, and all that came is counted so
            self._block.publish()

        # Rows and slots of another size, if the sender's path has changed.
        stride = self._received.better_stride
        if stride and payload.is_empty:
            payload.lay_out(stride)
            self._received = Slots(stride + OVERHEAD_BYTES)
        return heard

    def release(self, *, is_all: bool) -> None:
        """Write what the delivery has held, and publish that.

        `is_all`: the socket is empty, so nobody sends so much any more. If it was full before, what it has lost may
        be the word that these flows have gone on with others.
        """
        if self.unread is not None and self.unread.lost_some() and is_all:
            self.drop_held()
        self.delivery.release()
        self._block.publish()

    def drop_held(self) -> None:
        """Drop what is held, and what was to be joined to it: its flows have gone on with other members."""
        if self.delivery.holds:
            self._payload.flush()
            self.delivery.drop_held()

    def _take_others(self, length: int, size: int) -> None:
        """Open merged datagrams that are not of the slots' size at once: as a burst if they are of one SA."""
        self._open_slots()
        if self._open_others(length, size):
            return
        merged = size - OVERHEAD_BYTES if length > size else 0
        for packet in self._received.pieces(length, size):
            self._take_one(packet, merged)

    def _open_others(self, length: int, size: int) -> bool:
        """Open merged datagrams as a burst; False: they are too few, too many or too large, or not of one SA."""
        count, tail = -(-length // size), length % size or size
        fits = (
            SCALAR_MAX < count <= RECEIVE_MAX and tail >= ESP_MIN and size - OVERHEAD_BYTES < self._payload.rows.stride
        )
        sa = self.sas.get(spi_of(self._received.space()[:length])) if fits else None
        if sa is None:
            return False
        table = self._received.others(length, size)
        if (table.spi[:count] != table.spi[0]).any():
            return False

        # Rows are longer than what these leave in them, so that each is a short one.
        payload, octets = self._payload, size - OVERHEAD_BYTES
        short = [*((i, size) for i in range(count - 1)), (count - 1, tail)]
        first = payload.room(count)
        numbers = open_burst(sa, table, 0, count, short, payload.rows, first, self._counters)
        if any(numbers):
            sa.carry(size, short, numbers)
            self._authentic(sa)
            for number in numbers:
                if number:
                    self._received.note(octets, octets)
            payload.take_run(sa, numbers, first, short, self._flow_info >> TRAFFIC_CLASS_SHIFT, self.now)
        return True

    def _open_slots(self) -> None:
        """Open what waits in the slots: long runs by the burst, short ones one by one. Late ones are held."""
        if self.unread is not None and not self.delivery.holds and self.unread.is_late():
            self.delivery.hold()
        received = self._received
        size = received.packet_bytes
        for spi, first, count, short in received.runs():
            sa = self.sas.get(spi) or self._news(spi)
            if sa is not None and count > SCALAR_MAX:
                self._open_run(sa, first, count, short)
                continue

            lengths = dict(short)
            packets = [received.at(first + i, lengths.get(i, size)) for i in range(count)]
            if sa is None:
                self._without_sa(spi, packets)
                continue
            for packet in packets:
                self._open_one(sa, packet)

    def _open_run(self, sa: Receiving, start: int, count: int, short: list[tuple[int, int]]) -> None:
        """Open `count` slots of one SA, from `start` on; those in `short` (index in the run, octets) are not full."""
        payload, received = self._payload, self._received
        first = payload.room(count)
        numbers = open_burst(sa, received.table, start, count, short, payload.rows, first, self._counters)
        if any(numbers):
            sa.carry(received.packet_bytes, short, numbers)
            self._authentic(sa)
            if len(short) < count:
                received.note_full()
            payload.take_run(sa, numbers, first, short, self._flow_info >> TRAFFIC_CLASS_SHIFT, self.now)

    def _take_one(self, packet: memoryview, merged: int = 0) -> None:
        """Open one datagram of any size, if there is an SA for it; `merged`: the row's size of those it came with."""
        length = len(packet)
        if length < ESP_MIN:
            self._counters[runt_reason(packet)] += 1
            return
        spi = int.from_bytes(packet[:4], "big")
        sa = self.sas.get(spi) or self._news(spi)
        if sa is None:
            self._without_sa(spi, [packet])
        else:
            self._open_one(sa, packet, merged)

    def _open_one(self, sa: Receiving, packet: memoryview, merged: int = 0) -> None:
        """Open one packet of an SA into the next row, if it fits one."""
        payload, length = self._payload, len(packet)
        octets = length - OVERHEAD_BYTES
        if octets > payload.rows.stride:
            row, first = memoryview(bytearray(octets)), -1
        else:
            first = payload.room(1)
            row = payload.rows.rows[first][:octets]
        number = open_one(sa, packet, row, self._counters)
        if number:
            sa.octets += length
            self._authentic(sa)
            self._received.note(octets, merged)
            payload.take_row(sa, number, row, first, self._flow_info >> TRAFFIC_CLASS_SHIFT, self.now)

    def _news(self, spi: int) -> Receiving | None:
        """Ask, once a batch, whether keyd has told of this SPI since the member last looked."""
        if self._asked or not spi:
            return None
        self._asked = True
        self._listener.on_news()
        return self.sas.get(spi)

    def _without_sa(self, spi: int, packets: Sequence[memoryview]) -> None:
        """Refuse packets of one SPI that no SA has, or let them wait for it."""
        if not spi:
            self._counters[DropReason.NOT_ESP] += len(packets)
            return
        if spi in self._accepted.ended:
            self._counters[DropReason.SA_EXPIRED_IN] += len(packets)
            return
        self._listener.on_unknown(spi)
        self._strangers.take(packets, self._flow_info, self._address, self.now)

    def _unpark(self) -> None:
        """Open what has waited for SAs that are there now."""
        waiting, self._strangers.waiting = self._strangers.waiting, []
        marks, address = self._flow_info, self._address
        for entry in waiting:
            packet, flow_info, self._address = entry
            if int.from_bytes(packet[:4], "big") in self.sas:
                self._flow_info = flow_info
                self._take_one(memoryview(packet))
                self._counters[_IN_ESP] += 1
            else:
                self._strangers.waiting.append(entry)
        self._flow_info, self._address = marks, address
        self._payload.flush()
        if not self._taken:  # else amid a batch, of which some is counted; `open` publishes the whole
            self._block.publish()

    def _audit_refused(self, spi: int, reason: DropReason, number: int) -> None:
        event = Event.BAD_ICV if reason is DropReason.BAD_ICV else Event.REPLAYED
        self._audit.received(event, spi, number, self._address, self._flow_info)

    def _audit_stranger(self, spi: int, pair: bytes, count: int) -> None:
        self._audit.stranger(spi, pair, self._address, count)

    def _authentic(self, sa: Receiving) -> None:
        """Publish the window's top, and tell the member: at least one packet of this SA has authenticated."""
        if sa.publish(self._slots):  # a late packet says nothing of where the peer is now
            self._listener.on_heard(sa, self._address)

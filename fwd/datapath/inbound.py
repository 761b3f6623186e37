"""A member's way in: receives of up to 64 merged datagrams each → SAs → records → the TUN device.

1. Receives lay their datagrams into slots, one behind the other, until the socket is drained or the slots are full.
   After each, store how many ESP packets were taken: from here on they die with this incarnation
2. Runs of one SPI: check, decrypt and commit a run at a time (esp.open_burst), shorter packets among them
3. Publish the SA's highest number to its replay slot, before anything is delivered (design rule 2)
4. Give the rows to the SA's Reassembler, whose records go to the Delivery, or straight to it (payload esp)
5. Count, publish

Refused and counted: what is not ESP, an unknown SPI, an SA whose life is over, what RFC 4303 §3.4 refuses, another
payload than the peering's. Standard peers (payload esp) may send on a Child SA before keyd has their answer: a few such
packets wait for it. The audit log (audit.py) hears of what RFC 4303 §4 wants told.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from itertools import groupby

from fwd.datapath.audit import Audit, Event
from fwd.datapath.counters import COUNTS_END, CounterBlock, MemberCounter, count_lost
from fwd.datapath.delivery import Delivery
from fwd.datapath.geometry import Geometry
from fwd.datapath.receiving import Receiving, runt_reason
from fwd.datapath.shared import LinkWord, ReplaySlots
from fwd.datapath.slots import ESP_MIN, Slots
from fwd.datapath.strangers import Strangers, spi_of
from fwd.datapath.tuning import Tuning
from fwd.datapath.udp import TRAFFIC_CLASS_SHIFT
from fwd.model.config import Peering
from fwd.proto.aggfrag import (
    FRAMING_BYTES,
    SUBTYPE_RECORDS,
    RowBuffer,
    records_octets,
    row_fault,
)
from fwd.proto.burst import SCALAR_MAX, open_burst
from fwd.proto.drops import DropReason
from fwd.proto.esp import (
    BATCH_MAX,
    OVERHEAD_BYTES,
    open_one,
    payload_length,
)
from fwd.proto.reassembly import Reassembler
from fwd.proto.sa import SaKeys
from fwd.proto.segments import Grid

_ROW_MIN = 256  # no path is so narrow that full rows would be shorter
_RESIZE_AFTER = 16  # authentic packets of another size in a row, before the rows are laid out for it
Address = tuple[str, int]
# Plain integers: reading a member of an enum costs as much as the addition.
_IN_ESP = MemberCounter.IN_ESP.value
_IN_ESP_BYTES = MemberCounter.IN_ESP_BYTES.value
_IN_ESP_OK = MemberCounter.IN_ESP_OK.value
_RX_TAKEN = LinkWord.RX_TAKEN.value


class Inbound:
    """Opens, and hands over for delivery.

    Tells the member through `on_echo(sub-type, number)`, `on_heard(sa, address)` and `on_unknown(spi)`; asks it by
    `on_news()` to install what keyd has sent meanwhile.
    """

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
    ) -> None:
        self._tuning = Tuning.of(peering)
        self._ended: set[int] = set()  # SPIs that keyd names, and whose life is over
        self._audit = audit
        self._esp = peering.payload == "esp"

        # Where what is opened goes, and where it is counted.
        self._block = counters
        self._counters: array[int] = counters.values
        self._delivery = Delivery(peering, tun_fd, tun_flags, counters.values)
        self._delivery.on_stranger = self._audit_stranger
        self._delivery.on_echo = lambda subtype, number: self.on_echo(subtype, number)
        self._slots = slots
        self._link = link
        self._taken = self._taken_bytes = 0  # of the counters' units, and not counted yet
        self._other_size = self._other_count = 0
        self._strangers = Strangers(counters.values, audit, parks=self._esp)
        self._lay_out(geometry.stride)

        # What the member follows: its SAs, the time, and who is to be told of what comes.
        self.sas: dict[int, Receiving] = {}
        self.heard_records = False  # set by records, cleared by the member: a path that carries them works
        self.now = 0.0  # when what is received next is; the member's to set
        self._flow_info = self._tos = 0
        self._address: Address = ("", 0)
        self.on_echo: Callable[[int, int], None] = lambda subtype, number: None
        self.on_heard: Callable[[Receiving, Address], None] = lambda sa, address: None
        self.on_unknown: Callable[[int], None] = lambda spi: None
        self.on_news: Callable[[], None] = lambda: None
        self._asked = False

    # -- SAs --------------------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Count what a predecessor had taken from the socket and not finished with."""
        lost = self._link[_RX_TAKEN] - self._counters[_IN_ESP]
        if not 0 <= lost < COUNTS_END:  # it was taken over, and wrote what it liked
            self._link[_RX_TAKEN], lost = self._counters[_IN_ESP], 0
        self._counters[DropReason.DIED_WITH_MEMBER_IN] += lost
        self._counters[_IN_ESP] += lost
        self._block.publish()

    def lose_batch(self) -> None:
        """After an exception: count what was taken and not finished with as lost, with all that waits, and go on."""
        counters, rows = self._counters, self._rows
        self._received.clear()
        self._strangers.waiting.clear()
        for sa in self.sas.values():
            sa.reassembler.forget()
        rows.owner, rows.used = None, 0
        self._delivery.forget()
        counters[_IN_ESP] = self._link[_RX_TAKEN]
        counters[_IN_ESP_BYTES] += self._taken_bytes
        self._taken = self._taken_bytes = self._strangers.uncounted = 0
        self._asked = False
        count_lost(counters)
        self._block.publish()

    def tune(self, tuning: Tuning) -> None:
        """Follow what is in force now."""
        self._tuning = tuning
        self._delivery.selectors.replace(tuning.remote_ts, tuning.local_ts)
        for sa in self.sas.values():
            sa.reassembler.be_patient(tuning.reorder_packets, tuning.reorder_ms / 1000)

    def install(self, inbound: Sequence[SaKeys], now_ms: int = 0) -> None:
        """Accept these SAs and no others, but for those whose life is over; those that stay keep their windows."""
        over = {keys.spi for keys in inbound if 0 < keys.deadline_ms <= now_ms}
        self._ended = over | self._ended.intersection(keys.spi for keys in inbound)
        inbound = [keys for keys in inbound if keys.spi not in self._ended]
        spis = {keys.spi for keys in inbound}

        # What is not among them goes; what its reassembler holds is delivered.
        for spi in [s for s in self.sas if s not in spis]:
            self.sas.pop(spi).reassembler.spill(self._rows)

        # The others stay with their windows, or begin at what their replay slot says.
        for keys in inbound:
            if keys.spi in self.sas:
                self.sas[keys.spi].deadline_ms = keys.deadline_ms
            else:
                tuning = self._tuning
                floor = self._slots.floor(keys.slot, keys.spi)
                reassembler = Reassembler(
                    self._delivery.record, self._counters, tuning.reorder_packets, tuning.reorder_ms / 1000, floor
                )
                self.sas[keys.spi] = Receiving(
                    keys, tuning.replay_window, floor, reassembler, self._delivery.selectors, self._audit_refused,
                    self._slots.octets[keys.slot], tuning.life,
                )  # fmt: skip
        if self._strangers.waiting:
            self._unpark()

    @property
    def deadline_ms(self) -> int:
        """The first deadline of an SA; 0: there is none."""
        return min((sa.deadline_ms for sa in self.sas.values() if sa.deadline_ms), default=0)

    def end_overdue(self, now_ms: int) -> list[int]:
        """Accept nothing more on SAs whose life is over; their SPIs."""
        over = [spi for spi, sa in self.sas.items() if sa.is_over(now_ms)]
        for spi in over:
            self.sas.pop(spi).reassembler.spill(self._rows)
        self._ended.update(over)
        return over

    def expire(self, now: float) -> None:
        """Give up what has waited too long for its missing parts, or for its SA."""
        self._counters[_IN_ESP] += self._strangers.expire(now)
        for sa in self.sas.values():
            self._delivery.enter(sa.spi, sa.selectors)
            sa.reassembler.expire(now)
        self._delivery.flush()
        self._block.publish()

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
                return self._taken < BATCH_MAX
            self._open_slots()  # what came before is another sender's, or has other marks
            self._address, self._flow_info, self._tos = address, flow_info, flow_info >> TRAFFIC_CLASS_SHIFT

        # Datagrams of another size do not fit the slots, and are taken one by one.
        slot = self._received.packet_bytes
        if size != slot and (count > 1 or length > slot):
            self._take_others(length, size)
            return self._taken < BATCH_MAX

        runt = self._received.fill(length)
        if runt is not None:
            self._counters[runt_reason(runt)] += 1
        return self._received.has_room and self._taken < BATCH_MAX

    def _count_overflow(self, lost: int) -> None:
        """Follow the kernel's count, which has 32 bits; one that is a little behind was noted before the last."""
        ahead = (lost - self._counters[DropReason.SOCKET_OVERFLOW]) & 0xFFFFFFFF
        if ahead < 2**31:
            self._counters[DropReason.SOCKET_OVERFLOW] += ahead

    def _refuse_strangers(self, length: int, size: int, flow_info: int, address: Address) -> bool:
        """Deal with what was received last if it is of no SA: it must not end the batch of those that have one."""
        if spi_of(self._received.space()[:length]) in self.sas:
            return False
        packets = self._received.pieces(length, size)
        if not packets or any(spi in self.sas or self._news(spi) for spi in map(spi_of, packets)):
            return False

        before, (self._flow_info, self._address) = (self._flow_info, self._address), (flow_info, address)
        for packet in packets:
            if len(packet) < ESP_MIN:
                self._counters[runt_reason(packet)] += 1
        for spi, run in groupby((packet for packet in packets if len(packet) >= ESP_MIN), spi_of):
            self._without_sa(spi, list(run))
        self._flow_info, self._address = before
        return True

    def open(self, now: float) -> None:
        """Open and deliver what was taken."""
        if not self._taken:
            return
        self.now = now
        self._open_slots()
        self._received.clear()
        self._delivery.flush()
        counters = self._counters
        counters[_IN_ESP] += self._taken - self._strangers.uncounted
        counters[_IN_ESP_BYTES] += self._taken_bytes
        self._taken = self._taken_bytes = self._strangers.uncounted = 0
        self._asked = False
        self._block.publish()
        if self._other_count >= _RESIZE_AFTER and self._rows.owner is None:
            self._lay_out(self._other_size)

    def _take_others(self, length: int, size: int) -> None:
        """Merged datagrams that are not of the slots' size: they are not laid into slots, but opened at once."""
        self._open_slots()
        for packet in self._received.pieces(length, size):
            self._take_one(packet)

    def _open_slots(self) -> None:
        """Open what waits in the slots: long runs by the burst, short ones one by one."""
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
                self._take_one(packet)

    def _open_run(self, sa: Receiving, start: int, count: int, short: list[tuple[int, int]]) -> None:
        """`count` slots of one SA; those in `short` (index in the run, octets) are not full."""
        rows, received = self._rows, self._received
        first = 0 if self._esp else self._room(count)
        numbers = open_burst(sa, received.table, start, count, short, rows, first, self._counters)

        # The SA's life is counted in what has authenticated.
        sa.carry(received.packet_bytes, short, numbers)
        if not self._authentic(sa, any(numbers)):
            return

        # Payload esp gives packets; superpacket gives rows, which mostly follow each other.
        targets = rows.rows[first : first + count]
        for i, octets in short:
            targets[i] = targets[i][: octets - OVERHEAD_BYTES]
        if self._esp:
            if all(numbers):
                self._delivery.packets(self._grid, targets, first, self._tos)
            else:
                for row, number in zip(targets, numbers, strict=True):
                    if number:
                        self._delivery.packet(row, self._tos)
        elif type(numbers) is range:
            self._take_in_order(sa, numbers[0], targets, first, short)
        else:
            self._take_each(sa, numbers, targets, first)

    def _take_in_order(
        self, sa: Receiving, number: int, rows: Sequence[memoryview], first: int, short: list[tuple[int, int]]
    ) -> None:
        """Rows whose numbers follow each other: full ones up to the next short one, which ends a burst."""
        buffer, at = self._rows, 0
        for stop, _ in [*short, (len(rows), 0)]:
            full = stop - at
            if full and not buffer.all_records(first + at, full):
                self._take_each(sa, range(number + at, number + stop), rows[at:stop], first + at)
                full, at = 0, stop
            tail = records_octets(rows[stop]) if stop < len(rows) else 0
            if full or tail:
                count = full + (tail > 0)
                self._counters[_IN_ESP_OK] += count
                self.heard_records = True
                sa.reassembler.take_rows(buffer, number + at, first + at, full, tail, self.now)
            if stop < len(rows) and not tail:
                self._take_payload(sa, number + stop, rows[stop])
            at = stop + 1

    def _take_each(self, sa: Receiving, numbers: Sequence[int], rows: Sequence[memoryview], first: int) -> None:
        """Rows of which some were refused, or are not chunks of records."""
        sa.reassembler.spill(self._rows)
        for number, row in zip(numbers, rows, strict=True):
            if number:
                self._take_payload(sa, number, row)

    def _take_one(self, packet: memoryview) -> None:
        """One datagram of any size."""
        length = len(packet)
        if length < ESP_MIN:
            self._counters[runt_reason(packet)] += 1
            return
        spi = int.from_bytes(packet[:4], "big")
        sa = self.sas.get(spi) or self._news(spi)
        if sa is None:
            self._without_sa(spi, [packet])
            return

        # Opened into the next row, if it fits one.
        rows, octets = self._rows, length - OVERHEAD_BYTES
        if octets > rows.stride:
            row, first = memoryview(bytearray(octets)), -1
        else:
            first = 0 if self._esp else self._room(1)
            row = rows.rows[first][:octets]
        number = open_one(sa, packet, row, self._counters)
        sa.octets += length if number else 0
        if not self._authentic(sa, number > 0):
            return

        # Authentic. What is inside is a packet, or records in a row, or something else.
        if octets > _ROW_MIN:
            self._note_size(octets)
        if self._esp:
            self._delivery.packet(row, self._tos)
            return
        tail = records_octets(row)
        if tail and first >= 0:
            self._counters[_IN_ESP_OK] += 1
            self.heard_records = True
            full = tail == rows.chunk
            sa.reassembler.take_rows(rows, number, first, int(full), 0 if full else tail, self.now)
        else:
            self._take_payload(sa, number, row)

    def _news(self, spi: int) -> Receiving | None:
        """An SPI that is not known yet: keyd may have told of it since the member last looked. Once a batch."""
        if self._asked or not spi:
            return None
        self._asked = True
        self.on_news()
        return self.sas.get(spi)

    def _without_sa(self, spi: int, packets: Sequence[memoryview]) -> None:
        """Packets of an SPI that is not installed."""
        if not spi:
            self._counters[DropReason.NOT_ESP] += len(packets)
            return
        if spi in self._ended:
            self._counters[DropReason.SA_EXPIRED_IN] += len(packets)
            return
        self.on_unknown(spi)
        self._strangers.take(packets, self._flow_info, self._address, self.now)

    def _unpark(self) -> None:
        """SAs have come: open what waited for them."""
        waiting, self._strangers.waiting = self._strangers.waiting, []
        marks, address = self._flow_info, self._address
        for entry in waiting:
            packet, flow_info, self._address = entry
            if int.from_bytes(packet[:4], "big") in self.sas:
                self._flow_info, self._tos = flow_info, flow_info >> TRAFFIC_CLASS_SHIFT
                self._take_one(memoryview(packet))
                self._counters[_IN_ESP] += 1
            else:
                self._strangers.waiting.append(entry)
        self._flow_info, self._tos, self._address = marks, marks >> TRAFFIC_CLASS_SHIFT, address
        self._delivery.flush()
        if not self._taken:  # else amid a batch, of which some is counted; `open` publishes the whole
            self._block.publish()

    def _audit_refused(self, spi: int, reason: DropReason, number: int) -> None:
        event = Event.BAD_ICV if reason is DropReason.BAD_ICV else Event.REPLAYED
        self._audit.received(event, spi, number, self._address, self._flow_info)

    def _audit_stranger(self, spi: int, pair: bytes, count: int) -> None:
        self._audit.stranger(spi, pair, self._address, count)

    def _authentic(self, sa: Receiving, any_accepted: bool) -> bool:
        """After at least one packet authenticated: publish the window's top, and tell the member."""
        if any_accepted:
            newer = sa.publish(self._slots)
            if self._rows.owner is not None and self._rows.owner is not sa.reassembler:
                for other in self.sas.values():  # what they have not finished gives way to what has authenticated
                    other.reassembler.spill(self._rows)
            self._delivery.enter(sa.spi, sa.selectors)
            if newer:  # a late packet says nothing of where the peer is now
                self.on_heard(sa, self._address)
        return any_accepted

    # -- payload superpacket ----------------------------------------------------------------------------------

    def _room(self, count: int) -> int:
        """First of `count` rows behind the unfinished record that lies in them, making room for them."""
        rows = self._rows
        if rows.owner is None:
            return 0
        if rows.used + count > rows.capacity:
            for sa in self.sas.values():
                if rows.owner is sa.reassembler:
                    sa.reassembler.to_front(rows)
        return rows.used

    def _take_payload(self, sa: Receiving, number: int, row: memoryview) -> None:
        """The payload of one opened row that cannot be taken where it lies: out of order, or no chunk of records."""
        length = payload_length(row)
        sa.reassembler.spill(self._rows)
        reason = row_fault(row, length)
        if reason is not None:
            self._counters[reason] += 1
        elif row[0] == SUBTYPE_RECORDS:
            self._counters[_IN_ESP_OK] += 1
            self.heard_records = True
            sa.reassembler.take_chunk(number, row[2] << 8 | row[3], row[FRAMING_BYTES:length], self.now)
            return
        else:
            self._counters[_IN_ESP_OK] += 1
            self.on_echo(row[0], int.from_bytes(row[FRAMING_BYTES : FRAMING_BYTES + 4], "big"))
        sa.reassembler.passed(number, self.now)

    def _note_size(self, octets: int) -> None:
        """After enough packets of another full size, lay the rows out for it: the sender's path has changed."""
        if octets == self._rows.stride or octets != self._other_size or octets % 4:
            self._other_size, self._other_count = octets, 0
        else:
            self._other_count += 1

    def _lay_out(self, stride: int) -> None:
        """Rows for packets of one size, and slots for them."""
        self._rows = RowBuffer(stride)
        self._grid = Grid(self._rows.buffer, self._rows.capacity, stride)
        self._received = Slots(stride + OVERHEAD_BYTES)
        self._other_size = self._other_count = 0

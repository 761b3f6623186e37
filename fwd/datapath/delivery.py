"""What comes out of a tunnel, to the TUN device: records (payload superpacket) and packets (payload esp).

One write for each record. Where one write can stand for several it does, as the kernel's receive offload would have
it: small UDP datagrams of one flow (superpacket), TCP data of one stream (esp). Packets of a flow keep their order.
An ICMP error from outside the selectors is written, if the packet that it quotes is of the SA and not too many come.
Refused and counted: records and packets whose headers contradict them, inner addresses outside the selectors, ECN that
says congestion to a transport that cannot hear it (RFC 6040 §4.2), what the device refuses.
"""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Callable, Sequence

import numpy as np

from fwd.datapath.counters import MemberCounter
from fwd.model.config import Peering
from fwd.proto.drops import DropReason
from fwd.proto.echo import read_dummy
from fwd.proto.esp import NEXT_DUMMY, NEXT_IPV4, NEXT_IPV6, payload_length
from fwd.proto.icmp import ERROR_MAX, ERRORS_PER_S, Errors
from fwd.proto.ip import (
    IP_MIN,
    NO_VNET,
    NOT_ECT,
    TSO4,
    USO4,
    VNET_BYTES,
    Selectors,
    address_pair,
    decapsulate_ecn,
    ip_length,
    record_fault,
)
from fwd.proto.segments import SUPER_PACKET_MAX, TCP, UDP, Datagrams, Grid, joined, super_packet

_HEADERS = VNET_BYTES + 60  # octets of a record that are looked at
# Plain integers: reading a member of an enum costs as much as the addition.
_IN_BYTES = MemberCounter.IN_BYTES.value
_IN_ESP_OK = MemberCounter.IN_ESP_OK.value
_IN_RECORDS = MemberCounter.IN_RECORDS.value
_IN_RECORDS_OK = MemberCounter.IN_RECORDS_OK.value


class Delivery:
    """Writes to the TUN device `tun_fd`, whose offloads in force are `tun_flags`; counts in `counters`.

    What it is given comes from the SA that `enter` has named last. Inner addresses outside its selectors are told to
    `on_stranger(spi, address pair, how many)`, echoes in payload esp to `on_echo(sub-type, number)`.
    """

    def __init__(self, peering: Peering, tun_fd: int, tun_flags: int, counters: array[int]) -> None:
        self._fd = tun_fd
        self._accepted = tun_flags
        self._counters = counters
        self.selectors = Selectors(peering.remote_ts, peering.local_ts)  # the peering's
        self._selectors = self.selectors  # in force
        self._known = self._selectors.pairs
        # Members know nothing of each other, so each has its share of what a peering may have.
        self._errors = Errors(self.selectors, max(1, ERRORS_PER_S // peering.members))
        self._joins = bool(tun_flags & TSO4)
        self._gathers = bool(tun_flags & USO4)
        self._datagrams: dict[bytes, Datagrams] = {}  # by flow, of this batch
        self.spi = 0
        self.on_stranger: Callable[[int, bytes, int], None] = lambda spi, pair, count: None
        self.on_echo: Callable[[int, int], None] = lambda subtype, number: None

    def enter(self, spi: int, selectors: Selectors) -> None:
        """What comes now is of this SA, and held to these."""
        if selectors is not self._selectors:
            self.flush()  # what was kept is another's
            self._selectors, self._known = selectors, selectors.pairs
        self.spi = spi

    def flush(self) -> None:
        """A batch ends: write what was kept for others to join it."""
        if self._datagrams:
            for flow, group in self._datagrams.items():
                self._write_datagrams(flow, group)
            self._datagrams.clear()

    def forget(self) -> None:
        """Drop what was kept for others to join it."""
        self._datagrams.clear()

    # -- payload superpacket ----------------------------------------------------------------------------------

    def record(self, pieces: Sequence[memoryview], length: int) -> None:
        """One whole record to the TUN device."""
        self._counters[_IN_RECORDS] += 1
        head = pieces[0]
        if len(pieces) > 1 and (len(head) < _HEADERS or _has_extensions(head)):
            head = memoryview(b"".join(pieces[:2]))
        if self._gathers and head[VNET_BYTES + 9] == UDP and self._gather(head, whole=len(pieces) == 1):
            return
        v4 = head[VNET_BYTES] >> 4 == 4
        if (not v4 and length < VNET_BYTES + 40) or record_fault(head, length - VNET_BYTES, self._accepted) is not None:
            self._counters[DropReason.BAD_RECORD] += 1
        else:
            pair = head[VNET_BYTES + 12 : VNET_BYTES + 20] if v4 else head[VNET_BYTES + 8 : VNET_BYTES + 40]
            self._write(pieces, pair.tobytes(), length - VNET_BYTES)

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
        if not (whole and Datagrams.fit(record) and self._selectors.allow(flow[:8])):
            return False
        if record_fault(record, len(record) - VNET_BYTES, self._accepted) is not None:
            return False
        self._datagrams[flow] = Datagrams(record)
        return True

    def _write_datagrams(self, flow: bytes, group: Datagrams) -> None:
        self._write(group.pieces(), flow[:8], len(group.payloads) * group.octets, len(group.payloads))

    # -- payload esp ------------------------------------------------------------------------------------------

    def packets(self, grid: Grid, rows: Sequence[memoryview], first: int, tos: int) -> None:
        """Opened rows from `first` of the grid on: TCP that a super-packet can stand for is written as one.

        `tos` is the outer TOS octet of all of them.
        """
        if not self._joins:
            for row in rows:
                self.packet(row, tos)
            return
        lengths = np.fromiter(map(len, rows), np.uint32, len(rows))
        for start, end in joined(grid, first, len(rows), lengths):
            if end - start == 1 or tos & 3 not in (NOT_ECT, rows[start][1] & 3):
                for row in rows[start:end]:
                    self.packet(row, tos)
                continue
            count = max(2, SUPER_PACKET_MAX // len(rows[start]))
            for at in range(start, end, count):
                self._super_packet(rows[at : min(at + count, end)], tos)

    def _super_packet(self, rows: Sequence[memoryview], tos: int) -> None:
        if len(rows) == 1:
            self.packet(rows[0], tos)
            return
        self._counters[_IN_ESP_OK] += len(rows)
        self._counters[_IN_RECORDS] += len(rows)
        pieces = super_packet(rows)
        headers = len(pieces[0]) - VNET_BYTES
        octets = sum(map(len, pieces[1:])) + len(rows) * headers
        self._write(pieces, rows[0][12:20].tobytes(), octets, len(rows))

    def packet(self, row: memoryview, tos: int) -> None:
        """One opened row holds one IP packet, perhaps with traffic-flow padding behind it (RFC 4303 §2.7)."""
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
        counters[_IN_ESP_OK] += 1
        counters[_IN_RECORDS] += 1
        minimum, version = (IP_MIN, 4) if next_header == NEXT_IPV4 else (40, 6)
        size = ip_length(row) if length >= minimum and row[0] >> 4 == version else 0
        if not minimum <= size <= length:
            counters[DropReason.BAD_RECORD] += 1
        elif not decapsulate_ecn(row, tos):
            counters[DropReason.ECN_CE_LOST] += 1
        else:
            self._write([memoryview(NO_VNET), row[:size]], address_pair(row), size)

    def _dummy(self, payload: memoryview) -> None:
        """A dummy packet is dropped (RFC 4303 §2.6), unless it is an echo of another fwd's."""
        echo = read_dummy(payload)
        if echo is None:
            self._counters[DropReason.DUMMY] += 1
        else:
            self._counters[_IN_ESP_OK] += 1
            self.on_echo(*echo)

    # -- both -------------------------------------------------------------------------------------------------

    def _write(self, pieces: Sequence[memoryview | bytes], pair: bytes, octets: int, count: int = 1) -> None:
        """One write to the TUN device, of one record or of the super-packet that `count` packets make.

        `octets`: what they have as IP packets.
        """
        counters = self._counters
        allowed = self._known.get(pair) or self._selectors.allow(pair)
        if not allowed and not self._takes_error(pieces, pair, octets, count):
            return
        try:
            os.writev(self._fd, pieces)
        except OSError:
            counters[DropReason.TUN_REFUSED] += count
        else:
            counters[_IN_RECORDS_OK] += count
            counters[_IN_BYTES] += octets

    def _takes_error(self, pieces: Sequence[memoryview | bytes], pair: bytes, octets: int, count: int) -> bool:
        """Take an ICMP error about a packet of the SA's; False: it is none, or one too many, and is dropped."""
        counters = self._counters
        if octets > ERROR_MAX or count > 1 or not self._errors.belongs(b"".join(pieces), self._selectors):
            counters[DropReason.SELECTOR_IN] += count
            self.on_stranger(self.spi, pair, count)
            return False
        if not self._errors.allows(time.monotonic()):
            counters[DropReason.ICMP_LIMIT_IN] += 1
            return False
        counters[MemberCounter.IN_ICMP_ERRORS] += 1
        return True


def _has_extensions(record: memoryview) -> bool:
    """Whether the record is a super-packet of IPv6 with extension headers, which may go on in the next piece."""
    return record[1] > 0 and record[VNET_BYTES] >> 4 == 6 and record[VNET_BYTES + 6] not in (TCP, UDP)

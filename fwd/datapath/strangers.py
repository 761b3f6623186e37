"""Datagrams whose SPI no SA has.

Of a standard peer (`parks`) a few wait for a moment, since it may send on a Child SA before keyd has its answer. The
rest is refused: counted, and told to the audit log.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final

from fwd.datapath.audit import Audit, Event
from fwd.proto.drops import DropReason

WAITING_MAX: Final = 1024  # 1.5 MB; what a peer sends in 20 ms at 500 Mbit/s
_WAIT_S = 0.25  # more than keyd takes for an answer on a busy machine
Address = tuple[str, int]


def spi_of(packet: bytes | memoryview) -> int:
    """The SPI of an ESP packet; of what is shorter, a number that says nothing."""
    return int.from_bytes(packet[:4], "big")


class Strangers:
    """`waiting` are packets with outer marks and sender; `uncounted` of them were taken and are in no counter yet."""

    def __init__(self, counters: array[int], audit: Audit, *, parks: bool) -> None:
        self._counters = counters
        self._audit = audit
        self._room = WAITING_MAX if parks else 0
        self._until = 0.0
        self.waiting: list[tuple[bytes, int, Address]] = []
        self.uncounted = 0

    def take(self, packets: Sequence[memoryview], flow_info: int, address: Address, now: float) -> None:
        """Keep as many of these packets of one SPI as there is room for, and refuse the rest."""
        if not self.waiting:
            self._until = now + _WAIT_S
        room = self._room - len(self.waiting)
        self.waiting += [(bytes(packet), flow_info, address) for packet in packets[:room]]
        self.uncounted += len(packets[:room])
        if packets[room:]:
            self._refuse(packets[room], flow_info, address, len(packets[room:]))

    def expire(self, now: float) -> int:
        """Refuse what has waited too long; returns how many."""
        if not self.waiting or now < self._until:
            return 0
        for packet, flow_info, address in self.waiting:
            self._refuse(packet, flow_info, address, 1)
        count = len(self.waiting)
        self.waiting.clear()
        return count

    def _refuse(self, packet: bytes | memoryview, flow_info: int, address: Address, count: int) -> None:
        """Count `packet`, and `count` - 1 more behind it."""
        self._counters[DropReason.UNKNOWN_SPI] += count
        spi, number = spi_of(packet), int.from_bytes(packet[4:8], "big")
        self._audit.received(Event.NO_SA, spi, number, address, flow_info, count)

"""The data path of two gateways in memory, from the demux's copy to the far TUN write, without sockets and devices.

The kernel's part is a copy of what is sent into the receiver's slots, as a receive would leave it; what comes out
of the tunnel is written to /dev/null.
"""

from __future__ import annotations

import os
import struct
from typing import Literal, cast

import numpy as np

from fwd.datapath.audit import Audit
from fwd.datapath.geometry import Geometry
from fwd.datapath.inbound import Inbound
from fwd.datapath.lane import Lane
from fwd.datapath.outbound import Outbound
from fwd.datapath.receiving import Receiving
from fwd.datapath.ring import Ring
from fwd.datapath.shared import LinkWord, PeeringShared
from fwd.datapath.udp import GSO_DATAGRAMS_MAX, Sender
from fwd.model.config import parse
from fwd.model.example import EXAMPLE
from fwd.proto.sa import SaKeys

PATH_MTU = 1500
SEND_MAX = 65507
Payload = Literal["superpacket", "esp"]
_NOWHERE = ("192.0.2.2", 4500)


class Wire:
    """Stands where a member's Sender stands: keeps what would be sent, as one receive would give it."""

    def __init__(self) -> None:
        self.sends: list[tuple[memoryview, int]] = []

    def set_tos(self, tos: int) -> None:
        pass

    def send(self, view: memoryview, packet_bytes: int, peer: tuple[str, int]) -> int:
        group = min(GSO_DATAGRAMS_MAX, SEND_MAX // packet_bytes) * packet_bytes
        self.sends += [(view[at : at + group], packet_bytes) for at in range(0, len(view), group)]
        return -(-len(view) // packet_bytes)


class Deaf:
    """Stands where the member hears what comes in (inbound.Listener)."""

    def on_echo(self, subtype: int, number: int) -> None:
        pass

    def on_heard(self, sa: Receiving, address: tuple[str, int]) -> None:
        pass

    def on_unknown(self, spi: int) -> None:
        pass

    def on_news(self) -> None:
        pass


class Path:
    """Records put in at `put` are sealed by `work`, opened and written to /dev/null by `receive`."""

    def __init__(self, keys: SaKeys | None = None, payload: Payload = "superpacket") -> None:
        """`keys`: another path's, to open what that has sealed."""
        self.peering = peering = parse(EXAMPLE, "example").peering[0].model_copy(update={"payload": payload})
        geometry = Geometry(PATH_MTU, 4)
        self.ring = Ring(geometry.stride, geometry.rows)
        self.shared = shared = PeeringShared(1)
        self.member = shared.members[0]
        self.member.link[LinkWord.CHUNK] = geometry.chunk
        self.member.counters.attach()
        shared.demux_counters.attach()

        # One SA for both ways, so that what is sealed here can be opened here.
        self.keys = keys = keys or SaKeys(0x101, True, os.urandom(32), os.urandom(4))
        self.wire = Wire()
        audit = Audit(_NOWHERE, wanted=False)
        self.lane = Lane(self.ring, self.member.link, shared.demux_counters, 0, esp=payload == "esp")
        self.outbound = Outbound(
            self.ring,
            geometry,
            cast(Sender, self.wire),
            self.member.counters,
            self.member.ledger,
            self.member.link,
            1,
            audit,
            payload=payload,
        )
        self.outbound.use(keys)

        # What is opened goes nowhere.
        self.null = os.open(os.devnull, os.O_RDWR)
        self.inbound = Inbound(
            peering,
            geometry,
            self.null,
            0xFF,
            self.member.counters,
            self.member.slots,
            self.member.link,
            audit,
            Deaf(),
        )
        self.inbound.install([keys])

    def close(self) -> None:
        """Close its descriptors; the memory goes with the object."""
        self.ring.close()
        os.close(self.null)

    def put(self, record: Record, count: int = 1) -> None:
        """`count` copies of a record as one burst."""
        for _ in range(count):
            if not self.lane.put(record.view, record.octets, record.length, 0):
                raise RuntimeError("ring full")
        self.lane.flush()

    def drain(self) -> None:
        """Take what was put in, and do nothing with it."""
        if self.lane.open:
            self.lane.flush()
        self.ring.done = self.ring.taken = self.ring.head

    def work(self) -> bool:
        """Seal one segment of what was put in; False: there is none."""
        self.wire.sends.clear()
        return self.outbound.work()

    def receive(self) -> None:
        """Open what was sealed last."""
        inbound = self.inbound
        for view, packet_bytes in self.wire.sends:
            inbound.space()[: len(view)] = view
            if not inbound.take(len(view), min(packet_bytes, len(view)), 0, 0, _NOWHERE):
                inbound.open(0.0)
        inbound.open(0.0)


class Record:
    """A TCP record of `ip_bytes`, as the TUN device gives it: a super-packet when it is longer than the MTU."""

    def __init__(self, ip_bytes: int, source_port: int = 40000) -> None:
        vnet = struct.pack("<BBHHHH", 1, 1, 40, 1460, 20, 16) if ip_bytes > PATH_MTU else bytes(10)
        head = struct.pack(">BBHHHBBH", 0x45, 0, ip_bytes, 0, 0, 64, 6, 0) + bytes([10, 2, 0, 1, 10, 1, 0, 1])
        tcp = struct.pack(">HHIIBBHHH", source_port, 5201, 1, 1, 0x50, 0x10, 0xFFFF, 0, 0)
        self.bytes = bytearray(vnet + head + tcp + bytes(ip_bytes - 40))
        self.view = memoryview(self.bytes)
        self.octets = np.frombuffer(self.bytes, np.uint8)
        self.length = len(self.bytes)

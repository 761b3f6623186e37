"""Two gateways in memory: real demuxes and members, with a socket pair for the TUN device and a file for the wire.

A record written to `client` is what the kernel would hand to the TUN device; what a member writes to the TUN device is
read back from it. Datagrams go to anonymous files, so a killed process leaves behind what it sent, and a test carries
them over, drops them or repeats them. Nothing here needs root, and nothing waits.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fwd.datapath.counters import DemuxCounter, MemberCounter
from fwd.datapath.demux import Demux
from fwd.datapath.geometry import Geometry
from fwd.datapath.member import Member, MemberParts
from fwd.datapath.ring import Ring
from fwd.datapath.shared import LinkWord, PeeringShared, ProcessState
from fwd.datapath.tun import Offloads
from fwd.model.config import Peering
from fwd.model.keys import LabKeys
from fwd.proto.drops import DropReason
from fwd.proto.flow import rendezvous_scores
from fwd.proto.ip import CSUM, NO_VNET, TSO4, TSO6, USO4, USO6, VNET_BYTES
from fwd.proto.sa import SLOTS, SaEvent, SaKeys, SaSet

ALL_OFFLOADS = CSUM | TSO4 | TSO6 | USO4 | USO6
UDP_SEGMENT, UDP_GRO, SO_RXQ_OVFL, SO_MEMINFO, IPV6_FLOWINFO = 103, 104, 40, 55, 11
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DONT = 10, 23, 0
FLOW_LABEL = 0xABCDE  # that every IPv6 datagram comes with
EPOCHS = 4  # inbound SAs that every member accepts
_GROUP = struct.Struct("=IHB")  # octets, size of each datagram, TOS

_scores = lru_cache(rendezvous_scores)


# -- records ----------------------------------------------------------------------------------------------------


def packet(
    identity: int, length: int = 100, *, v6: bool = False, tos: int = 0, port: int = 5000, back: bool = False
) -> bytes:
    """A UDP packet of `length` octets that tells its `identity`; `back`: from gateway 2's side to gateway 1's."""
    here, there = (2, 1) if back else (1, 2)
    if v6:
        addresses = b"".join(bytes([0xFD, side]).ljust(15, b"\0") + b"\x09" for side in (here, there))
        head = struct.pack(">IHBB", 6 << 28 | tos << 20, length - 40, 17, 64) + addresses
    else:
        addresses = bytes([10, here, 0, 9, 10, there, 0, 9])
        head = struct.pack(">BBHHHBBH", 0x45, tos, length, 0, 0, 64, 17, 0)
        head = head[:10] + checksum(head + addresses).to_bytes(2, "big") + addresses
    udp = struct.pack(">HHHH", port, 7, min(length - len(head), 65535), 0)
    body = head + udp + identity.to_bytes(8, "big")
    assert len(body) <= length, "too short to tell its identity"
    return body.ljust(length, bytes([identity & 0xFF]))


def record(identity: int, length: int = 100, **parts: Any) -> bytes:
    """The same with a virtio header before it, as the TUN device gives it."""
    return NO_VNET + packet(identity, length, **parts)


def identity_of(data: bytes) -> int:
    """Which record this is."""
    at = VNET_BYTES + (48 if data[VNET_BYTES] >> 4 == 6 else 28)
    return int.from_bytes(data[at : at + 8], "big")


def checksum(header: bytes) -> int:
    total = sum(struct.unpack(f">{len(header) // 2}H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return int(~(total + (total >> 16)) & 0xFFFF)


# -- what stands for the kernel ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """What one send gave to the wire: datagrams of `size` octets, the last of which may be shorter."""

    data: bytes
    size: int
    tos: int = 0

    def datagrams(self) -> list[bytes]:
        return [self.data[at : at + self.size] for at in range(0, len(self.data), self.size)]


class WireSocket:
    """Looks like a member's UDP socket. Sends go to a file; receives come from `inbox`."""

    def __init__(self, v6: bool) -> None:
        self.family = socket.AF_INET6 if v6 else socket.AF_INET
        self.inbox: list[tuple[Group, int]] = []  # and how many datagrams were lost so far
        self.errors: list[int] = []  # numbers of the errors that the next sends get; 0: none
        self.peers: set[tuple[str, int]] = set()
        self.address = ("198.51.100.7", 4500)  # whom received datagrams come from
        self._fd = os.memfd_create("wire")
        self._read_at = 0
        self._tos = 0
        self.fragments = False
        self.lost = 0  # datagrams, since the socket is there
        self.meanwhile: list[Callable[[], object]] = []  # what happens before the next receives, one each

    def setsockopt(self, level: int, option: int, value: int) -> None:
        if option in (IP_MTU_DISCOVER, IPV6_MTU_DISCOVER):
            self.fragments = value == PMTUDISC_DONT
        else:
            assert option in (socket.IP_TOS, socket.IPV6_TCLASS)
            self._tos = value

    def sendmsg(
        self, buffers: list[memoryview], ancillary: list[tuple[int, int, bytes]], flags: int, peer: tuple[str, int]
    ) -> None:
        number = self.errors.pop(0) if self.errors else 0
        if number:
            raise OSError(number, os.strerror(number))
        data = b"".join(buffers)
        size = struct.unpack("=H", ancillary[0][2])[0] if ancillary else len(data)
        assert len(data) <= 65507
        assert -(-len(data) // size) <= 64
        self.peers.add(peer)
        os.write(self._fd, _GROUP.pack(len(data), size, self._tos) + data)

    def getsockopt(self, level: int, option: int, length: int) -> bytes:
        assert (level, option) == (socket.SOL_SOCKET, SO_MEMINFO)
        waits = sum(len(group.data) + 768 * len(group.datagrams()) for group, _ in self.inbox)
        return struct.pack("=9I", waits, *[0] * 7, self.lost)

    def recvmsg_into(self, buffers: Sequence[bytearray], ancillary_bytes: int) -> tuple[int, list[Any], int, Any]:
        if self.meanwhile:
            self.meanwhile.pop(0)()
        if not self.inbox:
            raise BlockingIOError
        group, lost = self.inbox.pop(0)
        buffers[0][: len(group.data)] = group.data
        ancillary = [(socket.IPPROTO_IP, socket.IP_TOS, bytes([group.tos]))]
        if self.family == socket.AF_INET6:
            flow_info = group.tos << 20 | FLOW_LABEL
            ancillary = [(socket.IPPROTO_IPV6, IPV6_FLOWINFO, flow_info.to_bytes(4, "big"))]
        if group.size < len(group.data):
            ancillary.append((socket.IPPROTO_UDP, UDP_GRO, struct.pack("=i", group.size)))
        if lost:
            ancillary.append((socket.SOL_SOCKET, SO_RXQ_OVFL, struct.pack("=I", lost)))
        return len(group.data), ancillary, 0, self.address

    def sent(self) -> list[Group]:
        """What was sent since the last call, by this process or one that is dead."""
        groups = []
        while head := os.pread(self._fd, _GROUP.size, self._read_at):
            octets, size, tos = _GROUP.unpack(head)
            data = os.pread(self._fd, octets, self._read_at + _GROUP.size)
            self._read_at += _GROUP.size + octets
            groups.append(Group(data, size, tos))
        return groups

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)


def socket_pair(undo: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for sock in (near, far):
        undo.callback(sock.close)
        sock.setblocking(False)
    return near, far


# -- gateways ---------------------------------------------------------------------------------------------------


def peering_of(side: int, *, v6: bool = False, **changes: Any) -> Peering:
    """The configuration of gateway 1 or 2; `v6`: the outer addresses."""
    outer = ["2001:db8::1", "2001:db8::2"] if v6 else ["192.0.2.1", "192.0.2.2"]
    inner = [["10.1.0.0/16", "fd01::/16"], ["10.2.0.0/16", "fd02::/16"]]
    mine, theirs = (0, 1) if side == 1 else (1, 0)
    values = {
        "name": f"vpc{theirs + 1}",
        "local_addrs": outer[mine],
        "remote_addrs": outer[theirs],
        "local_ts": inner[mine],
        "remote_ts": inner[theirs],
        "members": 2,
        "keys": LabKeys(source="lab", secret=Path("unused")),
        **changes,
    }
    return Peering.model_validate(values)


def sa_keys(side: int, member: int, epoch: int, *, esn: bool = True) -> SaKeys:
    """The SA that a member of gateway `side` sends on in its `epoch`th life."""
    material = hashlib.sha512(f"{side} {member} {epoch}".encode()).digest()
    return SaKeys(side << 28 | (epoch + 1) << 8 | member, esn, material[:32], material[32:36], epoch % SLOTS)


class Gateway:
    """One side: what a supervisor would hold, and the processes as objects that can be made anew."""

    def __init__(self, side: int, peering: Peering, mtu: int, undo: contextlib.ExitStack) -> None:
        self.side = side
        self.peering = peering
        self.esn = peering.esn
        self.geometry = Geometry(mtu, peering.local_addrs.version)
        self.offloads = Offloads(
            ALL_OFFLOADS if peering.payload == "superpacket" else CSUM | TSO4 | TSO6, gso=True, gro=True
        )
        self.tun, self.client = socket_pair(undo)
        self.shared = PeeringShared(peering.members)
        self.shared.live[0] = (1 << peering.members) - 1
        self.rings = [Ring(self.geometry.stride, self.geometry.rows) for _ in range(peering.members)]
        self.wires = [WireSocket(peering.local_addrs.version == 6) for _ in range(peering.members)]
        self.parts: list[MemberParts] = []
        self.controls: list[socket.socket] = []
        for i, (ring, wire) in enumerate(zip(self.rings, self.wires, strict=True)):
            undo.callback(ring.close)
            undo.callback(wire.close)
            wire.address = str(peering.far), peering.port_of(i)
            self.shared.members[i].link[LinkWord.CHUNK] = self.geometry.chunk
            control, keyd = socket_pair(undo)
            self.controls.append(keyd)
            self.parts.append(self._parts(i, ring, wire, control))
        self.tick = 1000
        self.seconds = 0.0  # by the clock of those who receive
        self._delivered: list[bytes] = []
        self.spawn_demux()
        self.members = [self.spawn(i) for i in range(peering.members)]

    def _parts(self, index: int, ring: Ring, wire: WireSocket, control: socket.socket) -> MemberParts:
        return MemberParts(
            index=index, peering=self.peering, geometry=self.geometry, offloads=self.offloads,
            tun_fd=self.tun.fileno(), sock=wire, boot=control, control=control,  # type: ignore[arg-type]
            ring=ring, shared=self.shared.members[index],
        )  # fmt: skip

    def spawn_demux(self) -> None:
        """The demux, or its successor."""
        self.demux = Demux(self.peering, self.tun.fileno(), self.rings, self.shared, self.scores)

    @property
    def scores(self) -> npt.NDArray[np.uint64]:
        return _scores(self.peering.members)

    def spawn(self, index: int, *, skip: bool = False) -> Member:
        """A member, or its successor: the next incarnation, on an SA that nobody has sent on."""
        words = self.shared.members[index].process
        incarnation = words.incarnation + 1
        words.put(ProcessState.RUNNING, os.getpid(), incarnation - 1, 0, incarnation)
        inbound = tuple(sa_keys(3 - self.side, index, e, esn=self.esn) for e in range(EPOCHS))
        boot = SaSet(0, inbound, sa_keys(self.side, index, incarnation - 1, esn=self.esn))
        member = Member(self.parts[index], boot, skip=skip)
        member._unread.clock = lambda: self.seconds
        member._unread.is_late()  # what comes from now on is new
        member._unread.found_empty()
        return member

    def respawn(self, index: int, *, skip: bool = False) -> None:
        self.members[index] = self.spawn(index, skip=skip)

    def send(self, *records: bytes) -> None:
        """What the kernel gives to the TUN device."""
        for data in records:
            try:
                self.client.send(data)
            except BlockingIOError:  # the pair holds less than a TUN device would
                self.demux_turn()
                self.client.send(data)

    def demux_turn(self) -> None:
        """Until the device is drained."""
        drained = False
        while not drained:
            self.demux._follow_live(self.tick)
            self.demux._follow_tuning()
            self.demux._go_on(time.monotonic_ns())
            drained = self.demux._read_burst(self.tick)
            self.demux._hand_over()
            for lane in self.demux._lanes:  # what is held back from a busy member
                if lane.open:
                    lane.flush()

    def work(self) -> None:
        """Every member sends what waits in its ring."""
        for member in self.members:
            while member.outbound.work():
                pass

    def arrive(self, index: int, groups: Iterable[Group], lost: int = 0) -> None:
        """Datagrams come to a member's port, and what it writes is read from the TUN device."""
        for group in groups:
            self.arrive_only(index, [group], lost)
            self._drain()

    def arrive_only(self, index: int, groups: Iterable[Group], lost: int = 0) -> None:
        """Datagrams come to a member's port."""
        self.wires[index].inbox += [(group, lost) for group in groups]
        while self.wires[index].inbox:
            self.members[index]._receive()

    def expire(self) -> None:
        """Time passes, and whatever waits is given up."""
        for member in self.members:
            member.inbound.expire(float("inf"))

    def delivered(self) -> list[bytes]:
        """Records that came out of the TUN device since the last call."""
        self._drain()
        found, self._delivered = self._delivered, []
        return found

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self._delivered.append(self.client.recv(70000))

    def sleep(self) -> None:
        """Nobody reads for longer than it takes to give up a path."""
        self.seconds += 0.4

    def events(self, index: int) -> list[SaEvent]:
        """What a member told keyd."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(SaEvent.decode(self.controls[index].recv(100)))
        return found

    # -- the books ------------------------------------------------------------------------------------------------

    def dropped(self, reason: DropReason) -> int:
        return self._demux()[reason] + sum(self._member(i)[reason] for i in range(len(self.members)))

    def counted(self, counter: MemberCounter) -> int:
        return sum(self._member(i)[counter] for i in range(len(self.members)))

    def records_in(self) -> int:
        return self._demux()[DemuxCounter.RECORDS]

    def _demux(self) -> list[int]:
        return self.shared.demux_counters.read()

    def _member(self, index: int) -> list[int]:
        return self.shared.members[index].counters.read()

    def waiting(self) -> int:
        """Records that lie in the rings."""
        return sum(ring.segment(n).fields[1] for ring in self.rings for n in range(ring.taken, ring.head))

    def check_books(self) -> None:
        """Rule 5: records in = records out + drops, and ESP packets likewise."""
        outward = [r for r in DropReason if r.stage in ("demux", "outbound") and r.unit == "record"]
        out = self.counted(MemberCounter.OUT_RECORDS) + sum(map(self.dropped, outward))
        assert self.records_in() == out + self.waiting()
        esp = [
            r for r in DropReason if r.stage == "inbound" and r.unit == "esp" and r is not DropReason.SOCKET_OVERFLOW
        ]
        ok = self.counted(MemberCounter.IN_ESP_OK) + sum(map(self.dropped, esp))
        assert self.counted(MemberCounter.IN_ESP) == ok
        inward = [r for r in DropReason if r.stage == "inbound" and r.unit == "record"]
        done = self.counted(MemberCounter.IN_RECORDS_OK) + sum(map(self.dropped, inward))
        assert self.counted(MemberCounter.IN_RECORDS) == done


class Rig:
    """Both gateways."""

    def __init__(self, undo: contextlib.ExitStack, *, mtu: int = 1500, **changes: Any) -> None:
        self.a = Gateway(1, peering_of(1, **changes), mtu, undo)
        self.b = Gateway(2, peering_of(2, **changes), mtu, undo)

    def carry(self) -> list[Group]:
        """Bring what either side sent to the other; what went from `a` to `b`."""
        carried = []
        for here, there in ((self.a, self.b), (self.b, self.a)):
            for index, wire in enumerate(here.wires):
                groups = wire.sent()
                there.arrive(index, groups)
                carried += groups if here is self.a else []
        return carried

    def pass_over(self, *records: bytes) -> list[bytes]:
        """Records from gateway 1's client; what gateway 2 delivers."""
        self.a.send(*records)
        self.a.demux_turn()
        self.a.work()
        self.carry()
        return self.b.delivered()


@contextlib.contextmanager
def rig(**changes: Any) -> Iterator[Rig]:
    """A Rig, and its end."""
    with contextlib.ExitStack() as undo:
        yield Rig(undo, **changes)


def flows(shared: PeeringShared, member: int, count: int = 1) -> list[int]:
    """UDP source ports whose IPv4 flow belongs to `member`; the bucket table must stand."""
    from fwd.proto.flow import BUCKET_MASK, flow_hash

    ports = range(1024, 65536)
    mine = (p for p in ports if shared.owners[flow_hash(memoryview(packet(0, port=p))) & BUCKET_MASK] == member)
    return [next(mine) for _ in range(count)]


def headers(groups: Iterable[Group]) -> list[tuple[int, int]]:
    """SPI and IV of each ESP packet: the nonce, since one SPI has one key and salt."""
    return [struct.unpack_from(">I4xQ", d) for g in groups for d in g.datagrams()]

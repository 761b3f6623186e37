"""Datagrams that the compiled core receives are taken as those that Python does: the kernel's sockets, side by side."""

from __future__ import annotations

import contextlib
import os
import platform
import random
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest

from fwd.bench.rig import Path, Payload, Record
from fwd.datapath.counters import MemberCounter
from fwd.datapath.inbound import BATCH_BYTES_MAX
from fwd.datapath.receiver import Receiver, address_of
from fwd.datapath.shared import LinkWord
from fwd.datapath.tun import Offloads
from fwd.datapath.udp import ANCILLARY_BYTES, KEEPALIVE, open_socket, read_ancillary
from fwd.proto import core
from fwd.proto.drops import DropReason
from fwd.supervise import sandbox

pytestmark = pytest.mark.skipif(not core.in_use, reason="there is no compiled core")

UDP_SEGMENT = 103
BATCHES = 400


@dataclass
class Side:
    """A way in, and its socket; `receiver`: by the compiled core."""

    path: Path
    sock: socket.socket
    receiver: Receiver | None
    addresses: list[object] = field(default_factory=list)

    def receive(self) -> tuple[list[int], int, int]:
        """Receive and open all that waits; what is counted, the word that tells how many were taken, and how often."""
        inbound, turns, more = self.path.inbound, 0, True
        link = self.path.member.link
        while more:
            turns += 1
            room: bool | None = True
            try:
                while room:
                    if self.receiver is not None:
                        room = inbound.take_from(self.receiver)
                    else:
                        length, ancillary, _, address = self.sock.recvmsg_into((inbound.space(),), ANCILLARY_BYTES)
                        room = inbound.take(length, *read_ancillary(ancillary, length), address)
            except BlockingIOError:
                room = None
            more = room is not None
            taken = link[LinkWord.RX_TAKEN]
            inbound.open(0.0)
            self.addresses.append(inbound._address)
        sealing = {MemberCounter.DONE, *(c for c in MemberCounter if c.name.startswith("OUT_"))}
        counted = self.path.member.counters.read()
        return [n for i, n in enumerate(counted) if i not in sealing], taken, turns


class Both:
    """Two ways in that get the same: the second by the compiled core. `send` is from one of two senders."""

    def __init__(self, payload: Payload, host: str) -> None:
        first = Path(payload=payload)
        paths = [first, Path(first.keys, payload)]
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.sides = []
        for path in paths:
            sock = open_socket(ip_address(host), 0, Offloads(), wanted=True, marks=True)
            link = path.member.link
            receiver = Receiver.of(sock, link, BATCH_BYTES_MAX) if path is not first else None
            self.sides.append(Side(path, sock, receiver))
        self.senders = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(2)]
        for sender in self.senders:
            sender.bind((host, 0))

    def close(self) -> None:
        for side in self.sides:
            side.path.close()
            side.sock.close()
        for sender in self.senders:
            sender.close()

    def sealed(self, octets: int, count: int) -> tuple[bytes, int]:
        """ESP packets of so many records, as one send has them, and the octets of each."""
        path = self.sides[0].path
        path.put(Record(octets), count)
        path.work()
        view, size = path.wire.sends[0]
        return bytes(view), size

    def send(self, data: bytes, size: int, sender: int = 0, tos: int = 0) -> None:
        sock = self.senders[sender]
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
        ancillary = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", size))] if 0 < size < len(data) else []
        for side in self.sides:
            sock.sendmsg([data], ancillary, 0, side.sock.getsockname())

    def compare(self) -> list[int]:
        """Receive on both sides; what they count, which is the same."""
        plain, compiled = (side.receive() for side in self.sides)
        assert plain == compiled
        assert self.sides[0].addresses == self.sides[1].addresses
        return plain[0]


@contextlib.contextmanager
def both(payload: Payload = "superpacket", host: str = "127.0.0.1") -> Iterator[Both]:
    """Make both sides, and close what they have open."""
    one = Both(payload, host)
    try:
        yield one
    finally:
        one.close()


def send_some(one: Both, dice: random.Random) -> None:
    """Send one of what may come."""
    sender, tos = int(dice.random() < 0.1), dice.choice((0, 0, 0, 0, 0x28, 3))
    match dice.randrange(12):
        case 0:
            data, size = dice.choice((KEEPALIVE, b"", b"\0\0\0\0", b"\0\0\0\0" * 10, b"abcd" * 8)), 0
        case 1:
            data, size = struct.pack(">II", dice.choice((0x999, 0x101)), 7) + dice.randbytes(60), 0
        case 2:
            data, size = (struct.pack(">II", 0x999, 7) + bytes(60)) * 5, 68
        case 3 | 4:
            data, size = one.sealed(dice.choice((52, 60, 400)), 1)
        case 5:
            data, size = one.sealed(dice.choice((52, 600)), dice.choice((1, 8)))
            data = data * dice.choice((1, 5))  # the same once more
            data = data[: 60_000 // size * size]
        case _:
            if one.sides[0].path.peering.payload == "esp":
                data, size = one.sealed(dice.choice((1300, 1408)), dice.choice((1, 5, 40)))
            else:
                data, size = one.sealed(dice.choice((1500, 9000, 30000, 60000)), 1)
    one.send(data, size, sender, tos)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("payload", ["superpacket", "esp"])
def test_whatever_comes_is_taken_the_same(payload: Payload, host: str) -> None:
    dice = random.Random(7)
    with both(payload, host) as one:
        for _ in range(BATCHES):
            for _ in range(dice.choice((0, 1, 1, 1, 2, 3, 8))):
                send_some(one, dice)
            one.compare()
        counted = one.compare()
    wanted = {DropReason.REPLAYED, DropReason.BAD_ICV, DropReason.KEEPALIVE, DropReason.NOT_ESP}
    wanted |= {DropReason.ECN_CE_LOST} if payload == "esp" else set()
    assert all(counted[reason] for reason in wanted)
    assert counted[MemberCounter.IN_ESP.value - (MemberCounter.IN_ESP - MemberCounter.OUT_RECORDS)] > 0


def test_what_is_as_usual_never_comes_to_python() -> None:
    with both() as one:
        one.send(*one.sealed(52, 1))
        one.compare()  # from here on the sender is known

        def never(*_: object) -> bool:
            raise AssertionError("taken by Python")

        one.sides[1].path.inbound.take = never  # type: ignore[method-assign, assignment]
        for octets in (52, 1500, 60000, 60000):
            one.send(*one.sealed(octets, 1))
        one.compare()


def test_an_error_of_the_socket_is_told_and_what_waits_is_not_lost() -> None:
    with both() as one:
        side, gone = one.sides[1], socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        gone.bind(("127.0.0.1", 0))
        one.send(*one.sealed(52, 1))
        side.sock.connect(gone.getsockname())
        gone.close()
        side.sock.send(b"x")  # nobody hears it
        receiver = side.receiver
        assert receiver is not None
        with pytest.raises(ConnectionRefusedError):
            side.path.inbound.take_from(receiver)
        while side.path.inbound.take_from(receiver):
            pass
        assert side.path.inbound.open(0.0)


def test_places_that_are_none_are_refused() -> None:
    with both() as one:
        side = one.sides[1]
        assert side.receiver is not None
        for used in (-1, 10_000, 2**62):
            told = side.receiver.told
            side.path.inbound._received.describe(told)
            told.used = used
            assert core.lib.fwd_receive(told) == -1


def test_a_neighbours_datagram_from_its_interfaces_own_address_ends_no_member() -> None:
    host, port, interface = "fe80::5", 4500, 1
    name = struct.pack("=H", socket.AF_INET6) + struct.pack(">HI", port, 0)
    name += socket.inet_pton(socket.AF_INET6, host) + struct.pack("=I", interface)
    pid = os.fork()
    if pid == 0:
        sandbox._filter(sandbox.program("member", os.getpid(), platform.machine()))
        os._exit(address_of(name) != (host, port, 0, interface))
    assert os.waitpid(pid, 0)[1] == 0

"""Sending and its fall-backs; receiving what the kernel merged; TOS, loss and path as they come from it."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Self

import pytest
from rig import WireSocket, record, rig

from fwd.datapath import udp as udp_module
from fwd.datapath.tun import Offloads
from fwd.datapath.udp import (
    ANCILLARY_BYTES,
    SEND_WAIT_MS,
    PortError,
    Sender,
    open_socket,
    path_mtu,
    read_ancillary,
    split,
)
from fwd.proto.aggfrag import SUBTYPE_ECHO
from fwd.proto.drops import DropReason

PEER = ("192.0.2.9", 4500)


@contextlib.contextmanager
def sender(*errors: int, gso: bool = True) -> Iterator[tuple[Sender, WireSocket]]:
    wire = WireSocket(False)
    wire.errors = list(errors)
    yield Sender(wire, gso=gso), wire  # type: ignore[arg-type]
    wire.close()


def sizes(wire: WireSocket) -> list[tuple[int, int]]:
    return [(len(g.data), g.size) for g in wire.sent()]


def test_a_burst_is_two_sends() -> None:
    with sender() as (s, wire):
        assert s.send(memoryview(bytes(1472 * 46 - 100)), 1472, PEER) == 46
        assert sizes(wire) == [(1472 * 44, 1472), (1472 * 2 - 100, 1472)]
        assert wire.peers == {PEER}


def test_small_packets_are_at_most_64_to_a_send() -> None:
    with sender() as (s, wire):
        assert s.send(memoryview(bytes(100 * 130)), 100, PEER) == 130
        assert sizes(wire) == [(6400, 100), (6400, 100), (200, 100)]


def test_without_segmentation_offload_each_goes_singly() -> None:
    with sender(gso=False) as (s, wire):
        assert s.send(memoryview(bytes(250)), 100, PEER) == 3
        assert sizes(wire) == [(100, 100), (100, 100), (50, 50)]


def test_eio_turns_the_offload_off_and_loses_nothing() -> None:
    with sender(errno.EIO) as (s, wire):
        assert s.send(memoryview(bytes(300)), 100, PEER) == 3
        assert s.gso_refused
        assert not s.gso
        assert s.send(memoryview(bytes(200)), 100, PEER) == 2
        assert sizes(wire) == [(100, 100)] * 5


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EMSGSIZE])
def test_a_refused_group_is_sent_singly_and_the_offload_stays(number: int) -> None:
    with sender(number) as (s, wire):
        assert s.send(memoryview(bytes(300)), 100, PEER) == 3
        assert s.gso
        assert s.too_big == (number == errno.EMSGSIZE)
        assert sizes(wire) == [(100, 100)] * 3


@pytest.mark.parametrize("number", [errno.ENETUNREACH, errno.ECONNREFUSED, errno.ENOBUFS, errno.EPERM])
def test_what_did_not_go_is_not_counted(number: int) -> None:
    with sender(number) as (s, wire):
        assert s.send(memoryview(bytes(1472 * 46)), 1472, PEER) == 2
        assert sizes(wire) == [(1472 * 2, 1472)]


def test_a_full_send_buffer_is_tried_twice() -> None:
    with sender(errno.EAGAIN) as (s, wire):
        assert s.send(memoryview(bytes(100)), 100, PEER) == 1
    with sender(errno.EAGAIN, errno.EAGAIN) as (s, wire):
        assert s.send(memoryview(bytes(1472 * 50)), 1472, PEER) == 0
        assert sizes(wire) == []
        assert s.send(memoryview(bytes(100)), 100, PEER) == 1


class FullSocket:
    """A socket whose send buffer stays full; the time that is waited for room in it passes at once."""

    family = socket.AF_INET
    POLLOUT = select.POLLOUT

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(udp_module, "select", self)
        monkeypatch.setattr(udp_module, "time", self)

    def setsockopt(self, *option: int) -> None:
        pass

    def sendmsg(self, *parts: object) -> None:
        raise BlockingIOError

    def poll(self, timeout_ms: float | None = None) -> Self:
        self.now += (timeout_ms or 0) / 1000
        return self

    def register(self, *what: object) -> None:
        pass

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize("payload", ["superpacket", "esp"])
def test_a_full_send_buffer_costs_a_segment_one_wait(payload: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In esp each size of packets is a send of its own: 60 of them here."""
    with rig(members=1, payload=payload) as r:
        sender = r.a.members[0]._sender
        sender._sock = full = FullSocket(monkeypatch)  # type: ignore[assignment]
        for turn in range(3):
            r.a.send(*[record(n, 100 + 4 * n) for n in range(60)])
            r.a.demux_turn()
            r.a.work()
            assert full.now <= (turn + 1) * SEND_WAIT_MS / 1000 + 1e-6
        assert r.a.dropped(DropReason.SEND_FAILED) > 0
        r.a.check_books()


def test_replies_to_echoes_do_not_wait_for_a_full_send_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    with rig(members=1) as r:
        sender = r.a.members[0]._sender
        sender._sock = full = FullSocket(monkeypatch)  # type: ignore[assignment]
        for _ in range(50):
            r.a.members[0].on_echo(SUBTYPE_ECHO, 1)
        assert full.now == 0.0


def test_every_failure_is_in_the_books() -> None:
    with rig(members=1) as r:
        r.a.wires[0].errors = [errno.EMSGSIZE, errno.EMSGSIZE, 0, errno.EPERM]
        r.a.send(record(1, 9000))
        r.a.demux_turn()
        r.a.work()
        assert r.a.dropped(DropReason.SEND_FAILED) == 2
        r.carry()
        r.a.check_books()
        r.b.check_books()


# -- the kernel's own -------------------------------------------------------------------------------------------


@pytest.fixture(params=["127.0.0.1", "::1"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    address = ip_address(request.param)
    try:
        socks = [open_socket(address, 0, Offloads(), wanted=True, marks=True) for _ in range(2)]
    except PortError as error:
        pytest.skip(str(error))
    yield socks[0], socks[1]
    for sock in socks:
        sock.close()


def receive(sock: socket.socket) -> tuple[int, int, int, int]:
    sock.settimeout(10)
    length, ancillary, _, _ = sock.recvmsg_into([bytearray(65536)], ANCILLARY_BYTES)
    return length, *read_ancillary(ancillary, length)


def test_a_merged_receive_tells_its_sizes_and_tos(pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    s = Sender(here, gso=True)
    s.set_tos(0xB8)
    assert s.send(memoryview(bytes(1000 * 10 - 1)), 1000, there.getsockname()[:2]) == 10
    octets = 0
    while octets < 9999:
        length, size, flow_info, lost = receive(there)
        assert (size, flow_info >> 20, lost) == (1000 if length > 1000 else length, 0xB8, 0)
        octets += length


def test_an_ipv6_receive_tells_the_flow_label() -> None:
    """The kernel gives the datagrams of one socket one label; that of another socket is another, as a rule."""
    there, *senders = [open_socket(ip_address("::1"), 0, Offloads(), wanted=True, marks=False) for _ in range(6)]
    labels = []
    for sender in senders:
        sender.sendto(b"x", there.getsockname()[:2])
        labels.append(receive(there)[2] & 0xFFFFF)
    assert len(set(labels)) > 1
    assert all(labels)
    for sock in (there, *senders):
        sock.close()


def test_an_empty_datagram_is_received(pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    here.sendto(b"", there.getsockname()[:2])
    assert receive(there)[:2] == (0, 0)


def test_an_overflow_is_told(pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for _ in range(100):
        here.sendto(bytes(1000), there.getsockname()[:2])
    lost = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            there.setblocking(False)
            length, ancillary, _, _ = there.recvmsg_into([bytearray(65536)], ANCILLARY_BYTES)
            lost = max(lost, read_ancillary(ancillary, length)[2])
    here.sendto(b"x", there.getsockname()[:2])
    assert max(lost, receive(there)[3]) > 0


def test_a_port_in_use_is_one_line(pair: tuple[socket.socket, socket.socket]) -> None:
    address, port = pair[0].getsockname()[:2]
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(PortError, match=f"port {port}") as error:
        open_socket(ip_address(address), port, Offloads(), wanted=True, marks=True)
    assert "\n" not in str(error.value)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_kernels_path_mtu(pair: tuple[socket.socket, socket.socket]) -> None:
    address, port = pair[0].getsockname()[:2]
    assert path_mtu(ip_address(address), address, port) in (65535, 65536)  # IPv4 packets are no longer
    assert path_mtu(ip_address("127.0.0.1"), "255.255.255.255", 1) == 0


def test_ancillary_data_of_others_is_passed_over() -> None:
    assert read_ancillary([(1, 2, b"abcd"), (0, 99, b"")], 77) == (77, 0, 0)
    assert read_ancillary([(socket.IPPROTO_UDP, 104, struct.pack("=i", 1472))], 4000) == (1472, 0, 0)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_ike_and_the_esp_of_several_members_share_a_port(address: str) -> None:
    """RFC 3948 §2.1 to §2.3: four zeros are the marker of IKE, and a keepalive is shorter than an SPI."""
    local = ip_address(address)
    with contextlib.ExitStack() as undo:
        first = open_socket(local, 0, Offloads(), wanted=False, marks=False, shared=True)
        split(first, 3)
        port = first.getsockname()[1]
        socks = [first, *(open_socket(local, port, Offloads(), wanted=False, marks=False, shared=True) for _ in "012")]
        for sock in socks:
            undo.callback(sock.close)
        client = undo.enter_context(socket.socket(socks[0].family, socket.SOCK_DGRAM))
        for data, taker in (
            (bytes(4) + b"IKE", 0), (b"\xff", 0), (b"", 0), (b"\0\0\1", 0),
            (b"\0\0\1\0ESP", 1), (b"\0\0\1\1ESP", 2), (b"\xff\xff\xff\2", 3), (b"\0\0\1\3ESP", 1),
        ):  # fmt: skip
            client.sendto(data, (address, port))
            ready, _, _ = select.select(socks, [], [], 5)
            assert ready == [socks[taker]], data
            assert ready[0].recv(100) == data

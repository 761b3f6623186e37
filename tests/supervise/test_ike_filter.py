"""The kernel's filter at IKE's sockets: it drops what keyd would refuse by the header, and nothing else."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from fwd.proto.ike.limits import INIT_BYTES_MAX
from fwd.proto.ike.message import HEADER_BYTES, Header
from fwd.proto.ike.numbers import Exchange, Flag, Payload
from fwd.supervise import ike_filter
from fwd.supervise.ike_filter import SHORTEST_BYTES

MARKER = bytes(4)


def message(
    octets: int, exchange: int = Exchange.IKE_SA_INIT, flags: int = Flag.INITIATOR, *, says: int | None = None
) -> bytes:
    """Any IKE message of this length; `says`: the length in its header."""
    length = octets if says is None else says
    head = Header(os.urandom(8), bytes(8), exchange, flags, 0, Payload.SA, length).encode()
    return (head + bytes([Payload.KE]) + os.urandom(octets))[:octets]


@pytest.fixture(params=[False, True], ids=["port of IKE", "port of IKE and ESP"])
def marked(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def sockets(marked: bool) -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours,
    ):
        ours.bind(("127.0.0.1", 0))
        ours.settimeout(5.0)
        ike_filter.attach(ours, marked=marked)
        far.connect(ours.getsockname())
        yield far, ours


def taken(sockets: tuple[socket.socket, socket.socket], marked: bool, datagram: bytes) -> bool:
    """Whether a datagram comes through, ahead of one that does."""
    far, ours = sockets
    before, last = MARKER if marked else b"", message(64, Exchange.INFORMATIONAL)
    far.send(before + datagram)
    far.send(before + last)
    got = ours.recv(65536)
    if got == before + last:
        return False
    assert got == before + datagram
    assert ours.recv(65536) == before + last
    return True


def first(*kinds: int) -> bytes:
    """A first request that begins with payloads of these kinds."""
    data = bytearray(message(200))
    data[16], data[HEADER_BYTES] = kinds
    return bytes(data)


TAKEN = {
    "a first request as most are": first(Payload.SA, Payload.KE),
    "one with a cookie": first(Payload.NOTIFY, Payload.SA),
    "one that begins with a vendor's id": first(Payload.VENDOR, Payload.NONCE),
    "one with a payload that nobody knows": first(Payload.SA, 120),
    "a first request that ends after one payload": first(Payload.SA, 0),
    "the shortest": message(SHORTEST_BYTES),
    "the longest first request": message(INIT_BYTES_MAX),
    "a response to our first request, however long": message(9000, flags=Flag.RESPONSE),
    "a long IKE_AUTH": message(60_000, Exchange.IKE_AUTH),
    "an exchange that nobody knows": message(100, 99),
    "a fragment": message(1280, Exchange.IKE_AUTH, 0),
}
DROPPED = {
    "nothing": b"",
    "a NAT's keepalive": b"\xff",
    "less than a header": message(HEADER_BYTES - 1, says=HEADER_BYTES - 1),
    "a header alone": message(HEADER_BYTES),
    "less than a payload's header behind it": message(SHORTEST_BYTES - 1),
    "shorter than it says": message(200, says=201),
    "longer than it says": message(200, says=199),
    "a first request longer than any is": message(INIT_BYTES_MAX + 1),
    "one that begins with what is for later messages": first(Payload.TSI, Payload.SA),
    "one that goes on with it": first(Payload.NOTIFY, Payload.TSI),
    "one that is encrypted": first(Payload.SK, 0),
    "a first request of 64 KB": message(60_000),
}


@pytest.mark.parametrize("datagram", TAKEN.values(), ids=TAKEN)
def test_what_may_be_ike_comes_through(
    sockets: tuple[socket.socket, socket.socket], marked: bool, datagram: bytes
) -> None:
    assert taken(sockets, marked, datagram)


@pytest.mark.parametrize("datagram", DROPPED.values(), ids=DROPPED)
def test_what_cannot_be_ike_costs_keyd_nothing(
    sockets: tuple[socket.socket, socket.socket], marked: bool, datagram: bytes
) -> None:
    assert not taken(sockets, marked, datagram)

"""Fragmentation of IKE messages between two endpoints (RFC 7383); the codec's part is in test_codec.py."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from ikekit import NAME, A, B, Net, connection, for_member

from fwd.proto.ike import initial
from fwd.proto.ike.crypto import Sealer
from fwd.proto.ike.message import HEADER_BYTES, Header, open_message, seal_message
from fwd.proto.ike.numbers import Exchange, Notify, Payload, ProtocolError
from fwd.proto.ike.payloads import AnyPayload, Nonce, Notification, Vendor

LIMIT = 500
LONG = (Notification(41999, bytes(1500)),)
HEADER = Header(b"initspi1", b"respspi2", Exchange.INFORMATIONAL, 0x08, 5)


def meet() -> Net:
    """Two that are connected, and fragment what is longer than LIMIT."""
    return Net(1, connection("a", fragment_bytes=LIMIT), connection("b", fragment_bytes=LIMIT)).connect()


def request(net: Net) -> list[bytes]:
    """The fragments of a long request of `a`."""
    net.a.endpoint.create_child(NAME, 1, (*for_member(1), *LONG), net.now)
    found = [datagram.data for datagram in net.a.endpoint.datagrams_to_send()]
    assert len(found) > 3
    return found


def give(net: Net, datagrams: Sequence[bytes]) -> list[bytes]:
    """`b` receives them; what it answers."""
    for data in datagrams:
        net.b.endpoint.receive(data, B, A, net.now)
    net.b.collect()
    return [datagram.data for datagram in net.b.endpoint.datagrams_to_send()]


@pytest.mark.parametrize("side", ["a", "b"])
def test_nothing_is_fragmented_unless_both_know_how(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """§2.3, §2.4."""
    extras = initial.extras

    def without(octets: bytes, spis: tuple[bytes, bytes], remote: tuple[str, int]) -> list[AnyPayload]:
        said = extras(octets, spis, remote)
        silent = (remote == B) == (side == "a")
        return [one for one in said if not silent or one != Notification(Notify.FRAGMENTATION_SUPPORTED)]

    monkeypatch.setattr(initial, "extras", without)
    long = {"notifies": LONG, "fragment_bytes": LIMIT}
    net = Net(1, connection("a", **long), connection("b", **long)).connect()
    other = B if side == "a" else A
    assert max(len(one.data) for one in net.sent if one.local == other) > 1500


def test_only_the_first_fragment_tells_what_the_payloads_are() -> None:
    """§2.5: numbers from 1 on, and all else of the header as in the whole message; each is sealed by itself."""
    sealer = Sealer(bytes(36))
    parts = seal_message(HEADER, [Vendor(bytes(400)), Nonce(bytes(32))], sealer, 0, 200)
    headers = [Header.decode(data) for data in parts]
    assert {(h.message_id, h.exchange, h.flags, h.first_payload) for h in headers} == {(5, 37, 8, Payload.SKF)}
    assert [data[HEADER_BYTES] for data in parts] == [Payload.VENDOR] + [0] * (len(parts) - 1)
    heads = [struct.unpack_from(">HHQ", data, HEADER_BYTES + 4) for data in parts]
    assert heads == [(number, len(parts), number - 1) for number in range(1, len(parts) + 1)]


@pytest.mark.parametrize(("number", "total"), [(0, 2), (3, 2), (0, 0), (1, 0), (1, 65535)])
def test_numbers_that_cannot_be_are_refused(number: int, total: int) -> None:
    """§2.5, §2.6."""
    length = HEADER_BYTES + 8 + 8 + 5 + 16
    aad = Header(b"initspi1", b"respspi2", 37, 8, 5, Payload.SKF, length).encode()
    aad += struct.pack(">BBHHH", 0, 0, length - HEADER_BYTES, number, total)
    data = aad + Sealer(bytes(36)).seal(1, b"text\0", aad)
    with pytest.raises(ProtocolError, match="SKF"):
        open_message(Header.decode(data), data, Sealer(bytes(36)))


def test_a_forged_fragment_is_not_kept() -> None:
    """§2.6: each must authenticate before it counts."""
    net = meet()
    parts = request(net)
    forged = [data[:-1] + bytes([data[-1] ^ 1]) for data in parts]
    assert give(net, [*forged, *parts[:-1]]) == []
    assert give(net, [*forged, parts[-1]])
    assert len(net.b.children()) == 2


def test_fragments_in_any_order_are_one_request() -> None:
    """§2.6."""
    net = meet()
    assert give(net, request(net)[::-1])
    assert len(net.b.children()) == 2


def test_a_request_in_fragments_that_comes_again_is_answered_once() -> None:
    """§2.6.1: for its first fragment."""
    net = meet()
    parts = request(net)
    answer = give(net, parts)
    assert give(net, parts) == answer
    assert give(net, parts[1:]) == []

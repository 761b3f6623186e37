"""Lengths and numbers in messages: each at its bound is taken, and one beyond it is refused."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import ip_network
from typing import Any, cast

import pytest
from hostile import seal

from fwd.proto.ike.crypto import ICV_BYTES, IV_BYTES, Sealer
from fwd.proto.ike.message import Header, encode_clear, open_message
from fwd.proto.ike.numbers import Exchange, Flag, Notify, Payload, Protocol, ProtocolError
from fwd.proto.ike.payloads import (
    PAYLOADS_MAX,
    AnyPayload,
    Delete,
    SecurityAssociation,
    TrafficSelectors,
    Vendor,
    decode_chain,
    encode_chain,
)
from fwd.proto.ike.proposals import PROPOSALS_MAX, TRANSFORMS_MAX, WORDS, Proposal, Transform
from fwd.proto.ike.selectors import SELECTORS_MAX, Selector, narrow

HEADER = Header(b"initspi1", b"respspi2", Exchange.IKE_AUTH, Flag.INITIATOR, 5)
SEALER = Sealer(bytes(36))
ESP = Proposal(Protocol.ESP, (WORDS["aes256gcm16"], WORDS["noesn"]), 1, b"spi4")
NET = Selector.of(ip_network("10.1.0.0/16"))


def refused(first: int, data: bytes) -> bool:
    """As a break of the format."""
    try:
        decode_chain(first, data)
    except ProtocolError as error:
        return error.notify is Notify.INVALID_SYNTAX
    return False


def bodied(kind: Payload, body: bytes) -> tuple[int, bytes]:
    """A chain of one payload."""
    return kind, struct.pack(">BBH", 0, 0, 4 + len(body)) + body


@pytest.mark.parametrize("length", [0, 3, 4 + 21, 0xFFFF])
def test_a_payload_has_the_length_of_its_header_at_least_and_ends_within_the_message(length: int) -> None:
    assert refused(Payload.NONCE, struct.pack(">BBH", 0, 0, length) + bytes(20))


@pytest.mark.parametrize("kind", [Payload.SK, Payload.SKF])
def test_what_is_too_short_to_be_encrypted_is_refused_before_any_key_is_used(kind: Payload) -> None:
    least = IV_BYTES + 1 + ICV_BYTES + (4 if kind == Payload.SKF else 0)
    for octets in range(least):
        data = replace(HEADER, first_payload=kind, length=28 + 4 + octets).encode()
        data += struct.pack(">BBH", 0, 0, 4 + octets) + bytes(octets)
        with pytest.raises(ProtocolError, match="too short"):
            open_message(Header.decode(data), data, SEALER)


def test_padding_may_be_all_there_is_and_not_more() -> None:
    for pad in (255, 7):
        data = seal(HEADER, Payload.SK, b"\0", b"", bytes(7) + bytes([pad]), SEALER, 1)
        if pad == 7:
            fragment = open_message(Header.decode(data), data, SEALER)
            assert fragment is not None
            assert fragment.plain == b""
        else:
            with pytest.raises(ProtocolError, match="padding"):
                open_message(Header.decode(data), data, SEALER)


def test_the_initiators_spi_is_not_zero() -> None:
    with pytest.raises(ProtocolError, match="SPI is zero"):
        Header.decode(encode_clear(replace(HEADER, spi_i=bytes(8)), []))


def most(count: int, one: object) -> AnyPayload:
    """A payload with so many of a thing."""
    match one:
        case Proposal():
            return SecurityAssociation((one,) * count)
        case Transform():
            return SecurityAssociation((replace(ESP, transforms=(one,) * count),))
        case Selector():
            return TrafficSelectors(Payload.TSI, (one,) * count)
    return Delete(Protocol.ESP, tuple(range(count)))


@pytest.mark.parametrize(
    ("one", "bound"),
    [(ESP, PROPOSALS_MAX), (WORDS["noesn"], TRANSFORMS_MAX), ("SPI", 256)],
    ids=["proposals", "transforms", "SPIs"],
)
def test_so_many_and_no_more(one: object, bound: int) -> None:
    whole = most(bound, one)
    assert decode_chain(*encode_chain([whole])) == [whole]
    assert refused(*encode_chain([most(bound + 1, one)]))


def test_as_many_selectors_as_their_octet_counts() -> None:
    whole = most(SELECTORS_MAX, NET)
    assert SELECTORS_MAX == 255
    assert decode_chain(*encode_chain([whole])) == [whole]


def test_so_many_payloads_and_no_more() -> None:
    chain: list[AnyPayload] = [Vendor(b"")] * PAYLOADS_MAX
    assert decode_chain(*encode_chain(chain)) == chain
    assert refused(*encode_chain([*chain, Vendor(b"")]))


@pytest.mark.parametrize(
    ("kind", "least"),
    [
        (Payload.KE, 5), (Payload.IDI, 4), (Payload.IDR, 4), (Payload.CERT, 2), (Payload.CERTREQ, 1), (Payload.AUTH, 5),
        (Payload.NONCE, 16), (Payload.NOTIFY, 4), (Payload.DELETE, 4), (Payload.VENDOR, 0),
    ],
    ids=lambda value: getattr(value, "name", None),
)  # fmt: skip
def test_a_payload_has_its_fixed_part_at_least(kind: Payload, least: int) -> None:
    assert len(decode_chain(*bodied(kind, bytes(least)))) == 1
    for octets in range(least):
        assert refused(*bodied(kind, bytes(octets)))


@pytest.mark.parametrize(("protocol", "octets"), [(Protocol.IKE, 4), (Protocol.ESP, 8), (Protocol.ESP, 0)])
def test_an_spi_has_the_size_that_its_protocol_has(protocol: Protocol, octets: int) -> None:
    assert refused(*encode_chain([SecurityAssociation((replace(ESP, protocol=protocol, spi=bytes(octets)),))]))


@pytest.mark.parametrize("body", ["", "01", "010000", "00000000"])
def test_traffic_selectors_are_one_at_least(body: str) -> None:
    assert refused(*bodied(Payload.TSI, bytes.fromhex(body)))


def test_a_range_does_not_run_backwards() -> None:
    one, back = replace(NET, last=NET.first), replace(NET, first=NET.last, last=NET.first)
    assert not refused(*encode_chain([TrafficSelectors(Payload.TSI, (one,))]))
    assert refused(*encode_chain([TrafficSelectors(Payload.TSI, (back,))]))


@pytest.mark.parametrize(
    "body",
    ["", "030400", "03040001", "0304000100000001ff", "0304000200000001", "0308000100000000", "0100000101", "01080001"],
)
def test_a_delete_is_as_long_as_its_spis(body: str) -> None:
    assert refused(*bodied(Payload.DELETE, bytes.fromhex(body)))


@pytest.mark.parametrize("change", [{"protocol": 6}, {"first_port": 1}, {"last_port": 65534}])
def test_a_selector_for_less_than_everything_is_passed_over(change: dict[str, int]) -> None:
    assert narrow([NET], [ip_network("10.1.0.0/16")]) == (NET,)
    assert narrow([replace(NET, **cast(dict[str, Any], change))], [ip_network("10.1.0.0/16")]) == ()

"""Messages: what is encoded is decoded to the same; any bytes are a message or a ProtocolError, in linear time."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

import harnesses
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from propkit import examples

from fwd.proto.ike import payloads as p
from fwd.proto.ike.crypto import Sealer
from fwd.proto.ike.message import (
    FRAGMENTS_MAX,
    Assembly,
    Header,
    decode_clear,
    encode_clear,
    open_message,
    seal_message,
)
from fwd.proto.ike.numbers import Exchange, Notify, Payload, Protocol, ProtocolError
from fwd.proto.ike.proposals import WORDS, Proposal, Transform, choose, is_choice_of, parse
from fwd.proto.ike.selectors import SELECTORS_MAX, Selector, covers, decode_selectors, encode_selectors, narrow

HEADER = Header(b"initspi1", b"respspi2", Exchange.IKE_AUTH, 0x08, 5)
octets = st.binary(min_size=1, max_size=80)
transforms = st.builds(Transform, st.integers(0, 255), st.integers(0, 65535), st.sampled_from([0, 128, 256, 65535]))
proposals = st.one_of(
    st.builds(
        Proposal, st.just(Protocol.ESP), st.lists(transforms, max_size=8).map(tuple), st.integers(0, 255),
        st.binary(min_size=4, max_size=4),
    ),
    st.builds(
        Proposal, st.just(Protocol.IKE), st.lists(transforms, max_size=8).map(tuple), st.integers(0, 255),
        st.sampled_from([b"", b"12345678"]),
    ),
)  # fmt: skip


def ranges(kind: type, top: int) -> st.SearchStrategy[Selector]:
    numbers = st.tuples(st.integers(0, top), st.integers(0, top)).map(sorted)
    return st.builds(
        lambda pair, protocol, low, high: Selector(kind(pair[0]), kind(pair[1]), protocol, low, high),
        numbers, st.integers(0, 255), st.integers(0, 65535), st.integers(0, 65535),
    )  # fmt: skip


selectors = st.one_of(ranges(IPv4Address, 2**32 - 1), ranges(IPv6Address, 2**128 - 1))
some_payload = st.one_of(
    st.builds(p.SecurityAssociation, st.lists(proposals, min_size=1, max_size=4).map(tuple)),
    st.builds(p.KeyExchange, st.integers(0, 65535), octets),
    st.builds(p.Identity, st.sampled_from([Payload.IDI, Payload.IDR]), st.integers(0, 255), octets),
    st.builds(p.Certificate, st.integers(0, 255), octets),
    st.builds(p.CertificateRequest, st.integers(0, 255), st.binary(max_size=60)),
    st.builds(p.Authentication, st.integers(0, 255), octets),
    st.builds(p.Nonce, st.binary(min_size=16, max_size=256)),
    st.builds(p.Notification, st.integers(0, 65535), octets, st.integers(0, 255), st.binary(max_size=8)),
    st.builds(p.Delete, st.just(Protocol.ESP), st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5).map(tuple)),
    st.just(p.Delete(Protocol.IKE)),
    st.builds(p.Vendor, st.binary(max_size=40)),
    st.builds(p.TrafficSelectors, st.sampled_from([Payload.TSI, Payload.TSR]),
              st.lists(selectors, min_size=1, max_size=5).map(tuple)),
)  # fmt: skip
chains = st.lists(some_payload, max_size=8)


@settings(max_examples=examples(300))
@given(chains)
def test_every_message_is_decoded_to_the_same(chain: list[p.AnyPayload]) -> None:
    data = encode_clear(HEADER, chain)
    header = Header.decode(data)
    assert (header.spi_i, header.spi_r, header.exchange, header.message_id) == (b"initspi1", b"respspi2", 35, 5)
    assert decode_clear(header, data) == chain


@settings(max_examples=examples(150))
@given(chains, st.integers(0, 2**40), st.sampled_from([0, 100, 300, 1280]))
def test_every_sealed_message_opens_to_the_same(chain: list[p.AnyPayload], iv: int, limit: int) -> None:
    sealer = Sealer(bytes(range(36)))
    datagrams = seal_message(HEADER, chain, sealer, iv, limit)
    assert not limit or max(map(len, datagrams)) <= limit
    assembly, whole = Assembly(), None
    for data in reversed(datagrams):
        fragment = open_message(Header.decode(data), data, sealer)
        assert fragment is not None
        whole = assembly.add(fragment)
    assert whole is not None
    assert p.decode_chain(*whole) == chain


def test_a_fragment_that_comes_twice_or_of_another_cut_does_no_harm() -> None:
    """RFC 7383 §2.6: a larger total starts anew, a smaller one is passed over."""
    sealer = Sealer(bytes(range(36)))
    chain: list[p.AnyPayload] = [p.Vendor(bytes([n]) * 100) for n in range(10)]

    def parts(limit: int, iv: int) -> list[Any]:
        return [open_message(Header.decode(d), d, sealer) for d in seal_message(HEADER, chain, sealer, iv, limit)]

    large, small = parts(500, 0), parts(200, 100)
    assembly = Assembly()
    assert assembly.add(large[0]) is None
    for part in small[:-1]:
        assert assembly.add(part) is None
        assert assembly.add(part) is None
    assert assembly.add(large[1]) is None
    whole = assembly.add(small[-1])
    assert whole is not None
    assert p.decode_chain(*whole) == chain


def test_a_message_that_would_need_too_many_fragments_is_not_sent() -> None:
    chain = [p.Vendor(bytes(1000))] * 8
    with pytest.raises(ValueError, match="fragments"):
        seal_message(HEADER, chain, Sealer(bytes(36)), 0, 150)
    assert len(seal_message(HEADER, chain, Sealer(bytes(36)), 0, 400)) <= FRAGMENTS_MAX


# -- any bytes ----------------------------------------------------------------------------------------------------


@settings(max_examples=examples(500))
@given(chains, st.data())
def test_any_change_of_a_message(chain: list[p.AnyPayload], data: st.DataObject) -> None:
    """In the clear, and as plaintext of the peer."""
    first, plain = p.encode_chain(chain)
    for how, octets in ((b"\0", encode_clear(HEADER, chain)), (b"\1", bytes([first]) + plain + b"\0")):
        message = bytearray(octets)
        for _ in range(data.draw(st.integers(1, 3))):
            message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
        harnesses.codec(how + bytes(message))
        harnesses.codec(how + bytes(message[: data.draw(st.integers(0, len(message)))]))


def test_unknown_payloads_are_passed_over_unless_they_are_critical() -> None:
    """RFC 7296 §2.5."""
    unknown = struct.pack(">BBH", Payload.NONCE, 0, 8) + b"what"
    nonce = struct.pack(">BBH", 0, 0, 20) + bytes(16)
    assert p.decode_chain(200, unknown + nonce) == [p.Nonce(bytes(16))]
    with pytest.raises(ProtocolError) as refused:
        p.decode_chain(200, b"\x28\x80" + unknown[2:] + nonce)
    assert (refused.value.notify, refused.value.data) == (Notify.UNSUPPORTED_CRITICAL_PAYLOAD, b"\xc8")


def test_a_flood_of_payloads_is_refused() -> None:
    data = (struct.pack(">BBH", Payload.VENDOR, 0, 4)) * 100
    with pytest.raises(ProtocolError, match="more than 64"):
        p.decode_chain(Payload.VENDOR, data)


@pytest.mark.parametrize(
    ("change", "notify"),
    [((17, 0x30), Notify.INVALID_MAJOR_VERSION), ((17, 0x10), Notify.INVALID_MAJOR_VERSION),
     ((27, 99), Notify.INVALID_SYNTAX)],
)  # fmt: skip
def test_headers_that_are_refused(change: tuple[int, int], notify: Notify) -> None:
    data = bytearray(encode_clear(HEADER, []))
    data[change[0]] = change[1]
    with pytest.raises(ProtocolError) as refused:
        Header.decode(bytes(data))
    assert refused.value.notify is notify


def test_a_newer_minor_version_is_read() -> None:
    """RFC 7296 §2.5: the minor version is ignored."""
    data = bytearray(encode_clear(HEADER, []))
    data[17] = 0x21
    assert Header.decode(bytes(data)).message_id == 5


# -- proposals and selectors --------------------------------------------------------------------------------------


def test_words_of_proposals() -> None:
    proposal = parse("aes256gcm16-prfsha384-curve25519-ecp256", Protocol.IKE)
    assert str(proposal) == "aes256gcm16-prfsha384-x25519-ecp256"
    assert str(parse("aes128gcm16", Protocol.ESP)) == "aes128gcm16-noesn"
    for words, protocol, reason in (
        ("aes256gcm16-prfsha384", Protocol.IKE, "KE is missing"),
        ("aes256-sha256-modp2048", Protocol.IKE, "'aes256' is not known"),
        ("aes256gcm16-prfsha256-esn", Protocol.ESP, "'prfsha256' is not for ESP"),
    ):
        with pytest.raises(ValueError, match=reason):
            parse(words, protocol)


def esp(*words: str, number: int = 1, extra: tuple[Transform, ...] = ()) -> Proposal:
    return Proposal(Protocol.ESP, (*(WORDS[word] for word in words), *extra), number, b"spi4")


OURS = [parse("aes256gcm16-esn-noesn", Protocol.ESP), parse("aes128gcm16-noesn", Protocol.ESP)]


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ([esp("aes256gcm16", "noesn", "esn")], "aes256gcm16-esn"),
        ([esp("aes256gcm16", "noesn")], "aes256gcm16-noesn"),
        ([esp("aes128gcm16", "noesn"), esp("aes256gcm16", "noesn", number=2)], "aes256gcm16-noesn"),
        ([esp("aes128gcm16", "aes256gcm16", "noesn")], "aes256gcm16-noesn"),
        ([esp("aes128gcm16", "esn")], None),
        ([esp("aes256gcm16", "esn", "x25519")], None),  # a key exchange that we do not have
        ([esp("aes256gcm16", "esn", extra=(Transform(3, 0),))], "aes256gcm16-esn"),  # integrity NONE: RFC 5282 §8
        ([esp("aes256gcm16", "esn", extra=(Transform(3, 12),))], None),
        ([esp("aes256gcm16", "esn", extra=(Transform(9, 1),))], None),  # an unknown type: RFC 7296 §3.3.6
        ([esp("esn", extra=(Transform(1, 20, -1),))], None),  # an unknown attribute
        ([], None),
    ],
)
def test_the_first_of_ours_that_is_offered_is_chosen(offered: list[Proposal], chosen: str | None) -> None:
    found = choose(OURS, offered)
    assert (found and str(found)) == chosen
    if found is not None:
        assert found.spi == b"spi4"


def test_an_answer_must_be_a_choice_of_what_was_offered() -> None:
    offer = [esp("aes256gcm16", "esn", "noesn")]
    assert is_choice_of(esp("aes256gcm16", "noesn"), offer)
    assert not is_choice_of(esp("aes256gcm16", "esn", "noesn"), offer)
    assert not is_choice_of(esp("aes128gcm16", "noesn"), offer)
    assert not is_choice_of(esp("aes256gcm16", "noesn", number=2), offer)
    assert not is_choice_of(esp("aes256gcm16"), offer)


def test_selectors_are_narrowed() -> None:
    def nets(*words: str) -> tuple[Selector, ...]:
        return tuple(Selector.of(ip_network(word)) for word in words)

    allowed = [ip_network("10.1.0.0/16"), ip_network("fd00:1::/64")]
    assert narrow(nets("0.0.0.0/0", "::/0"), allowed) == nets("10.1.0.0/16", "fd00:1::/64")
    assert narrow(nets("10.1.7.0/24", "10.2.0.0/16"), allowed) == nets("10.1.7.0/24")
    assert narrow(nets("10.2.0.0/16"), allowed) == ()
    one_port = Selector(IPv4Address("10.1.0.1"), IPv4Address("10.1.0.1"), 6, 80, 80)
    assert narrow([one_port], allowed) == ()
    assert covers(nets("10.1.0.0/16"), nets("10.1.7.0/24"))
    assert not covers(nets("10.1.7.0/24"), nets("10.1.0.0/16"))
    (across,) = narrow([Selector(IPv4Address("10.0.255.0"), IPv4Address("10.1.0.255"))], allowed)
    assert [str(network) for network in across.networks()] == ["10.1.0.0/24"]


def test_an_offer_that_falls_into_very_many_parts_is_answered_with_as_many_as_a_payload_holds() -> None:
    """Each of these ranges has an end in either subnet: 256 parts, and the payload counts them in one octet."""
    allowed = [ip_network("10.1.0.0/16"), ip_network("10.2.0.0/16")]
    ends = IPv4Address("10.1.1.0"), IPv4Address("10.2.1.0")
    offered = [Selector(ends[0] + i, ends[1] + i) for i in range(SELECTORS_MAX)]
    part = narrow(offered, allowed)
    assert len(part) == SELECTORS_MAX
    assert decode_selectors(memoryview(encode_selectors(part))) == part

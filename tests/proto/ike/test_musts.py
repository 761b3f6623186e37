"""Demands of RFC 7296 that no other test keeps, by section; docs/ledger.md names them."""

from __future__ import annotations

import dataclasses
import itertools
import struct
from collections.abc import Callable

import pytest
from ikekit import NAME, WALL, A, B, Net, Side, connection, for_member

from fwd.proto.ike.child import Offer
from fwd.proto.ike.endpoint import Endpoint
from fwd.proto.ike.events import Closed
from fwd.proto.ike.exchanges import respond_child
from fwd.proto.ike.initial import respond_auth
from fwd.proto.ike.message import Header, decode_clear, encode_clear
from fwd.proto.ike.numbers import Exchange, Flag, Notify, Protocol, ProtocolError
from fwd.proto.ike.payloads import AnyPayload, KeyExchange, Notification, SecurityAssociation, notify_for
from fwd.proto.ike.sa import MESSAGE_ID_MAX, IkeSa


def is_answer(data: bytes, exchange: Exchange) -> bool:
    header = Header.decode(data)
    return header.is_response and header.exchange == exchange


# -- §1 and §2.1 to §2.4: the order of exchanges, retransmission, windows -----------------------------------------


def test_a_request_is_not_answered_before_the_peer_has_proved_who_it_is() -> None:
    """§1: the peer is established already and asks for something, but its answer to IKE_AUTH is late."""
    net = Net()
    net.judge = lambda datagram: [0.3 if is_answer(datagram.data, Exchange.IKE_AUTH) else 0.01]
    net.a.endpoint.initiate(NAME, net.now)
    net.run(0.2)
    net.b.endpoint.create_child(NAME, 1, for_member(1), net.now)
    net.run(3)
    assert sorted(up.child.member for up in net.a.children().values()) == [0, 1]
    net.check_agreement()


def test_a_retransmission_is_answered_to_where_it_came_from() -> None:
    """§2.11; and with the same answer, and nothing is done twice (§2.1)."""
    net = Net().connect()
    net.a.endpoint.create_child(NAME, 1, for_member(1), net.now)
    (request,) = net.a.endpoint.datagrams_to_send()
    answers = []
    for port in (500, 500, 4321):
        net.b.endpoint.receive(request.data, B, (A[0], port), net.now)
        answers += net.b.endpoint.datagrams_to_send()
    assert [answer.remote[1] for answer in answers] == [500, 500, 4321]
    assert len({answer.data for answer in answers}) == 1
    net.run(1)
    assert len(net.b.children()) == 2


def test_an_ike_sa_ends_when_its_message_ids_do() -> None:
    """§2.2."""
    net = Net().connect()
    for side in (net.a, net.b):
        (sa,) = side.live()
        sa._next_id = sa._expected_id = MESSAGE_ID_MAX
    net.a.endpoint.create_child(NAME, 1, for_member(1), net.now)
    net.run(1)
    net.check_agreement()
    assert len(net.a.children()) == 2
    net.a.endpoint.create_child(NAME, 1, for_member(1), net.now)
    net.run(20)
    assert [event.error for event in net.a.of(Closed)] == ["its message ids are used up"]


# -- §1.3, §2.7 to §2.10, §3.3: Child SAs, rekeying, proposals ----------------------------------------------------


def answers(side: Side, change: Callable[[list[AnyPayload]], list[AnyPayload]]) -> None:
    """From now on a side's answers are changed before they are sealed."""
    for sa in side.live():
        respond = sa.respond

        def changed(
            sa: IkeSa, exchange: int, request: list[AnyPayload], now: float, respond=respond
        ) -> list[AnyPayload]:
            return change(respond(sa, exchange, request, now))

        sa.respond = changed


@pytest.mark.parametrize("spi", [b"", bytes(8)])
def test_a_rekeyed_ike_sa_has_an_spi_of_the_responders(spi: bytes) -> None:
    """§3.3.1: eight octets, and not zero (§3.1); the answer is not taken otherwise."""

    def without_spi(reply: list[AnyPayload]) -> list[AnyPayload]:
        return [
            SecurityAssociation(tuple(dataclasses.replace(p, spi=spi) for p in one.proposals))
            if isinstance(one, SecurityAssociation)
            else one
            for one in reply
        ]

    net = Net().connect()
    answers(net.b, without_spi)
    net.a.endpoint.rekey_ike(NAME, net.now)
    net.run(5)
    assert not net.a.endpoint.sas(NAME)


def test_a_child_sa_that_is_not_found_is_named() -> None:
    """§2.25.1 and §3.10: of the notifies about a Child SA this is one that has its SPI, and says that it is ESP's."""
    net = Net().connect()
    (sa,) = net.b.live()
    with pytest.raises(ProtocolError) as refused:
        respond_child(sa, [Notification(Notify.REKEY_SA, b"", Protocol.ESP, b"none")], net.now)
    assert notify_for(refused.value) == Notification(Notify.CHILD_SA_NOT_FOUND, b"", Protocol.ESP, b"none")


def test_proposals_are_numbered_without_a_gap() -> None:
    """§3.3.1: also where IKE_AUTH leaves out those that differ in their groups alone."""
    words = ("aes256gcm16-x25519-esn", "aes256gcm16-ecp256-esn", "aes128gcm16-x25519-esn")
    (sa,) = Net().connect().a.live()
    for first, count in ((True, 2), (False, 3)):
        offer = Offer.make(connection("a", esp=words), sa.world, 0, 0, None, first=first)
        assert [proposal.number for proposal in offer.proposals] == list(range(1, count + 1))


# -- §2.5 and §3.1: what is not known -----------------------------------------------------------------------------


def begin_with(net: Net, change: Callable[[bytes], bytes]) -> list[bytes]:
    """What `b` answers to an IKE_SA_INIT request of `a` that is changed on its way."""
    net.a.endpoint.initiate(NAME, net.now)
    (request,) = net.a.endpoint.datagrams_to_send()
    net.b.endpoint.receive(change(request.data), B, A, net.now)
    return [datagram.data for datagram in net.b.endpoint.datagrams_to_send()]


def test_an_unknown_critical_payload_in_ike_sa_init_is_told() -> None:
    """§2.5: which one it was; and nothing is kept."""

    def with_critical(data: bytes) -> bytes:
        header = Header.decode(data)
        unknown = struct.pack(">BBH", header.first_payload, 0x80, 8) + b"what"
        return dataclasses.replace(header, first_payload=200, length=len(data) + 8).encode() + unknown + data[28:]

    net = Net()
    (answer,) = begin_with(net, with_critical)
    header = Header.decode(answer)
    assert decode_clear(header, answer) == [Notification(Notify.UNSUPPORTED_CRITICAL_PAYLOAD, bytes([200]))]
    assert not net.b.endpoint.sas(NAME)


# -- §2.6: SPIs and cookies ---------------------------------------------------------------------------------------


def test_spis_of_ike_sas_are_unique_and_not_zero() -> None:
    """§2.6, §3.1: whatever chance says; here everything twice, from zero on."""
    net, drawn = Net(), itertools.count(1)
    chance = net.dice.randbytes
    stutter = lambda octets: (next(drawn) // 2).to_bytes(8, "big") if octets == 8 else chance(octets)  # noqa: E731
    net.b = Side(Endpoint([connection("b")], stutter, lambda: WALL))
    net.connect()
    spis = [sa.spi for sa in net.b.live()]
    for side in (net.a, net.b):
        side.endpoint.rekey_ike(NAME, net.now)
        net.run(0.03)
        spis += [sa.spi for sa in net.b.live()]
    assert spis == [number.to_bytes(8, "big") for number in (1, 2, 3)]


def test_a_retry_with_a_cookie_changes_nothing_else() -> None:
    """§2.6: the cookie comes first, and what follows is as it was; §2.6.1: also with another group after it."""
    both, one = ("aes256gcm16-prfsha256-x25519-ecp384",), ("aes256gcm16-prfsha256-ecp384",)
    net = Net(1, connection("a", ike=both), connection("b", ike=one))
    net.a.endpoint.initiate(NAME, net.now)
    said = []
    for answer in ([Notification(Notify.COOKIE, b"c" * 64)], [Notification(Notify.INVALID_KE_PAYLOAD, b"\0\x14")], []):
        (request,) = net.a.endpoint.datagrams_to_send()
        header = Header.decode(request.data)
        said.append(decode_clear(header, request.data))
        told = dataclasses.replace(header, flags=Flag.RESPONSE)
        net.a.endpoint.receive(encode_clear(told, answer), A, B, net.now)
    first, with_cookie, with_group = said
    assert with_cookie == [Notification(Notify.COOKIE, b"c" * 64), *first]
    changed = [(old, new) for old, new in zip(with_cookie, with_group, strict=True) if old != new]
    assert [(type(old), new.group) for old, new in changed] == [(KeyExchange, 20)]


# -- §2.8 and §2.25: rekeying -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Notify.TEMPORARY_FAILURE, Notify.NO_ADDITIONAL_SAS, Notify.NO_PROPOSAL_CHOSEN])
def test_a_refused_rekeying_is_tried_again_later_until_the_ike_sa_ends(kind: Notify) -> None:
    """§2.25: not at once; §2.8, §4: what cannot be rekeyed is deleted when its time is over, to be made anew."""
    net = Net(1, connection("a", rekey_s=100.0, liveness_s=0.0), connection("b", rekey_s=0.0, liveness_s=0.0)).connect()
    answers(net.b, lambda reply: [Notification(kind)] if reply else [])
    net.run(99)
    before = len(net.sent)
    net.run(9)
    asked = [Header.decode(one.data) for one in net.sent[before:] if one.local == A]
    assert {header.exchange for header in asked} == {Exchange.CREATE_CHILD_SA}
    assert 4 <= len(asked) <= 9
    net.run(4)
    assert [event.error for event in net.a.of(Closed)] == ["it could not be rekeyed in time"]


# -- §2.15 to §2.21: authentication, errors -----------------------------------------------------------------------


def test_a_peer_that_wants_eap_is_refused() -> None:
    """§2.16: it says so by leaving AUTH out."""
    net = Net()
    net.a.endpoint.initiate(NAME, net.now)
    net.run(0.015)
    (sa,) = net.b.endpoint.sas(NAME)
    with pytest.raises(ProtocolError) as refused:
        respond_auth(sa, [connection("a").local_id], net.now)
    assert refused.value.notify is Notify.AUTHENTICATION_FAILED

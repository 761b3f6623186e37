"""Demands of RFC 7296 that no other test keeps, by section; docs/ledger.md names them."""

from __future__ import annotations

import dataclasses
import itertools
import struct
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import pytest
from ikekit import NAME, WALL, A, B, Net, Side, connection, for_member

from fwd.proto.ike import message
from fwd.proto.ike.auth import Psk, identity
from fwd.proto.ike.child import Offer
from fwd.proto.ike.crypto import Sealer
from fwd.proto.ike.endpoint import Endpoint
from fwd.proto.ike.events import ChildRefused, Closed
from fwd.proto.ike.exchanges import respond_child
from fwd.proto.ike.initial import respond_auth
from fwd.proto.ike.message import Header, decode_clear, encode_clear, open_message, seal_message
from fwd.proto.ike.numbers import (
    STATUS_FIRST,
    Exchange,
    Flag,
    Notify,
    Payload,
    Protocol,
    ProtocolError,
    TransformType,
)
from fwd.proto.ike.payloads import (
    AnyPayload,
    Authentication,
    Certificate,
    CertificateRequest,
    Delete,
    KeyExchange,
    Nonce,
    Notification,
    SecurityAssociation,
    TrafficSelectors,
    Vendor,
    decode_chain,
    encode_chain,
    notify_for,
)
from fwd.proto.ike.proposals import Proposal, Transform, choose
from fwd.proto.ike.sa import IkeSa
from fwd.proto.ike.selectors import Selector
from fwd.proto.ike.window import MESSAGE_ID_MAX

Payloads = list[AnyPayload]


def is_answer(data: bytes, exchange: Exchange) -> bool:
    header = Header.decode(data)
    return header.is_response and header.exchange == exchange


def asked(net: Net, since: int = 0) -> list[Header]:
    """Requests that `a` has sent, the same ones sent again among them."""
    headers = [Header.decode(datagram.data) for datagram in net.sent[since:] if datagram.local == A]
    return [header for header in headers if not header.is_response]


def noting(said: list[Any]) -> Callable[[Payloads], Payloads]:
    """Note what goes by, and change nothing."""
    return lambda reply: said.append(reply) or reply


def answers(side: Side, change: Callable[[Payloads], Payloads]) -> None:
    """From now on a side's answers are changed before they are sealed."""
    for sa in side.live():
        respond = sa.respond

        def changed(sa: IkeSa, exchange: int, request: Payloads, now: float, respond: Any = respond) -> Payloads:
            return change(respond(sa, exchange, request, now))

        sa.respond = changed


def begin_with(net: Net, change: Callable[[bytes], bytes]) -> list[bytes]:
    """What `b` answers to an IKE_SA_INIT request of `a` that is changed on its way."""
    net.a.endpoint.initiate(NAME, net.now)
    (request,) = net.a.endpoint.datagrams_to_send()
    net.b.endpoint.receive(change(request.data), B, A, net.now)
    return [datagram.data for datagram in net.b.endpoint.datagrams_to_send()]


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


def test_retransmissions_come_ever_more_rarely() -> None:
    """§2.1, §2.4."""
    net = Net().connect()
    net.judge = lambda datagram: []
    net.a.endpoint.create_child(NAME, 1, for_member(1), net.now)
    before = len(net.sent)
    net.flush()
    times = [net.now]
    while net.a.endpoint.sas(NAME):
        net.step(float("inf"))
        times += [net.now] * (len(asked(net, before)) - len(times))
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps == sorted(gaps)
    assert gaps[-1] > 8 * gaps[0] > 0


def test_one_request_is_under_way_at_a_time() -> None:
    """§2.3: the window is 1; and a request is answered while one's own is under way."""
    net = Net().connect()
    before = len(net.sent)
    for side in (net.a, net.b):
        for member in (1, 2, 3):
            side.endpoint.create_child(NAME, member, for_member(member), net.now)
    for _ in range(40):
        net.step(net.now + 1)
        said = [(Header.decode(one.data), one.local) for one in net.sent[before:]]
        for here in (A, B):
            questions = {header.message_id for header, local in said if local == here and not header.is_response}
            answered = {header.message_id for header, local in said if local != here and header.is_response}
            assert len(questions - answered) <= 1
    assert len(net.a.children()) == 7
    net.check_agreement()


@pytest.mark.parametrize("flags", [0, Flag.INITIATOR, Flag.RESPONSE, Flag.RESPONSE | Flag.INITIATOR])
@pytest.mark.parametrize("exchange", list(Exchange))
def test_what_is_not_protected_changes_nothing_and_is_not_answered(exchange: Exchange, flags: int) -> None:
    """§2.4, §2.21.4, §1.5: neither errors nor a Delete, in clear text or sealed with other keys."""
    net = Net().connect()
    net.a.endpoint.create_child(NAME, 1, for_member(1), net.now)
    net.a.endpoint.datagrams_to_send()
    (sa,) = net.a.live()
    lies: list[AnyPayload] = [Delete(Protocol.IKE), *(Notification(kind) for kind in Notify if kind < STATUS_FIRST)]
    for message_id in range(4):
        for payloads in ([lie] for lie in lies):
            header = Header(sa.spi_i, sa.spi_r, exchange, flags, message_id)
            for data in (encode_clear(header, payloads), *seal_message(header, payloads, Sealer(bytes(36)), 0)):
                net.a.endpoint.receive(data, A, B, net.now)
    assert net.a.endpoint.datagrams_to_send() == []
    net.run(3)
    assert net.a.live() == [sa]
    assert len(net.a.children()) == 2


def test_initial_contact_counts_once_the_peer_has_proved_who_it_is() -> None:
    """§2.4: then, and not before, what else there was with it is forgotten."""
    net = Net().connect()
    old = dict(net.b.children())
    net.a = Side(Endpoint([connection("a", credentials=Psk(b"a guess"))], net.dice.randbytes, lambda: WALL))
    net.a.endpoint.initiate(NAME, net.now, initial_contact=True)
    net.run(3)
    assert net.b.children() == old
    net.a = Side(net.a_again())
    net.a.endpoint.initiate(NAME, net.now, initial_contact=True)
    net.run(3)
    net.check_agreement()
    assert not set(net.b.children()) & set(old)


@pytest.mark.parametrize("place", [(16, 1), (20, 1), (23, 1), (19, 0)], ids=["SPIr", "id", "id", "flags"])
def test_ike_sa_init_out_of_place_is_not_answered(place: tuple[int, int]) -> None:
    """§2.2, §2.6, §3.1: its message id and the responder's SPI are zero, and the initiator sends it."""
    at, value = place[0] - (1 if place[0] == 16 else 0), place[1]
    net = Net()
    assert begin_with(net, lambda data: data[:at] + bytes([value]) + data[at + 1 :]) == []
    assert not net.b.endpoint.sas(NAME)


def test_a_late_copy_of_ike_sa_init_is_ignored() -> None:
    """§2.1: the IKE SA that it began is there already."""
    net = Net().connect()
    held = net.b.endpoint.sas(NAME)
    net.b.endpoint.receive(net.sent[0].data, B, A, net.now)
    assert net.b.endpoint.datagrams_to_send() == []
    assert net.b.endpoint.sas(NAME) == held


def test_an_answer_comes_from_where_the_request_went_to_and_goes_to_where_it_came_from() -> None:
    """§2.11: whatever the ports."""
    net = Net(b=connection("b", float_port=4500))
    net.a.endpoint.initiate(NAME, net.now)
    (request,) = net.a.endpoint.datagrams_to_send()
    net.b.endpoint.receive(request.data, (B[0], 4500), (A[0], 61000), net.now)
    (answer,) = net.b.endpoint.datagrams_to_send()
    assert (answer.local, answer.remote) == ((B[0], 4500), (A[0], 61000))


def test_messages_of_more_than_3000_octets_are_taken_whole() -> None:
    """§2."""
    long = {"notifies": (Notification(41999, bytes(3000)),), "fragment_bytes": 0}
    net = Net(1, connection("a", **long), connection("b", **long)).connect()
    assert max(len(datagram.data) for datagram in net.sent) > 3000
    net.check_agreement()


def test_an_ike_sa_ends_when_its_message_ids_do() -> None:
    """§2.2."""
    net = Net().connect()
    for side in (net.a, net.b):
        (sa,) = side.live()
        sa._window.next_id = sa._window.expected_id = MESSAGE_ID_MAX
    net.a.endpoint.create_child(NAME, 1, for_member(1), net.now)
    net.run(1)
    net.check_agreement()
    assert len(net.a.children()) == 2
    net.a.endpoint.create_child(NAME, 1, for_member(1), net.now)
    net.run(20)
    assert [event.error for event in net.a.of(Closed)] == ["its message ids are used up"]


# -- §1.3, §2.7 to §2.10, §3.3: Child SAs, rekeying, proposals ----------------------------------------------------


@pytest.mark.parametrize("spi", [b"", bytes(8)])
def test_a_rekeyed_ike_sa_has_an_spi_of_the_responders(spi: bytes) -> None:
    """§3.3.1: eight octets, and not zero (§3.1); the answer is not taken otherwise."""

    def without_spi(reply: Payloads) -> Payloads:
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


def test_another_group_is_asked_for_in_every_exchange() -> None:
    """§1.3, §2.7: and all suites are offered again (§1.2)."""
    both, one = "aes256gcm16-prfsha256-x25519-ecp384", "aes256gcm16-prfsha256-ecp384"
    net = Net(
        1, connection("a", ike=(both,), esp=("aes256gcm16-x25519-ecp384-esn",)),
        connection("b", ike=(one,), esp=("aes256gcm16-ecp384-esn",)),
    ).connect()  # fmt: skip
    clear = [(Header.decode(one.data), one.data) for one in net.sent[:3]]
    first, _, second = (decode_clear(header, data) for header, data in clear)
    assert first[0] == second[0]
    before = len(net.sent)
    net.a.endpoint.create_child(NAME, 1, for_member(1), net.now)
    net.a.endpoint.rekey_ike(NAME, net.now)
    net.run(1)
    net.check_agreement()
    assert len(net.a.children()) == 2
    exchanges = [header.exchange for header in asked(net, before)]
    assert exchanges == [Exchange.CREATE_CHILD_SA] * 4 + [Exchange.INFORMATIONAL]


def test_transport_mode_is_declined() -> None:
    """§1.3.1: by not saying yes; the Child SA is then one of tunnel mode."""
    use_transport_mode = 16391
    net = Net(1, connection("a", notifies=(Notification(use_transport_mode),))).connect()
    (up,) = net.a.children().values()
    assert all(notify.kind != use_transport_mode for notify in up.child.notifies)


def test_a_rekeyed_child_sa_has_the_selectors_that_it_had() -> None:
    """§2.9.2: also where the responder has narrowed them."""
    net = Net(1, connection("a", remote_ts=(ip_network("10.0.0.0/8"),))).connect()
    (before,) = net.a.children().values()
    net.a.endpoint.rekey_child(NAME, before.child.inbound.spi, net.now)
    net.run(1)
    (after,) = net.a.children().values()
    assert after.replaces == before.child.inbound.spi
    assert (after.child.local_ts, after.child.remote_ts) == (before.child.local_ts, before.child.remote_ts)
    assert [str(one) for ts in after.child.remote_ts for one in ts.networks()] == ["10.2.0.0/16"]


def test_nonces_and_public_values_are_drawn_anew_for_every_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """§2.10, §2.12: 32 octets are half of the longest PRF key and more."""
    nonces: list[bytes] = []
    publics: list[bytes] = []
    for kind, field, found in ((Nonce, "data", nonces), (KeyExchange, "public", publics)):

        def encode(self: Any, encode: Any = kind.encode, field: str = field, found: list[bytes] = found) -> Any:
            found.append(getattr(self, field))
            return encode(self)

        monkeypatch.setattr(kind, "encode", encode)
    net = Net().connect()
    for _ in range(3):
        net.a.endpoint.rekey_child(NAME, next(iter(net.a.children())), net.now)
        net.b.endpoint.rekey_ike(NAME, net.now)
        net.run(3)
    assert len(nonces) == len(publics) == len(set(nonces)) == len(set(publics)) >= 14
    assert set(map(len, nonces)) == {32}


@pytest.mark.parametrize("octets", [15, 257])
def test_a_nonce_too_short_or_too_long_is_refused(octets: int) -> None:
    """§2.10, §3.9."""
    with pytest.raises(ProtocolError, match="nonce"):
        decode_chain(*encode_chain([Nonce(bytes(octets))]))


@pytest.mark.parametrize("spi", [0, 255])
def test_an_spi_that_is_reserved_is_refused(spi: int) -> None:
    """RFC 4303 §2.1; ours have their upper three octets drawn, and those are not zero."""

    def reserved(reply: Payloads) -> Payloads:
        (sa,) = (one for one in reply if isinstance(one, SecurityAssociation))
        (chosen,) = sa.proposals
        other = SecurityAssociation((dataclasses.replace(chosen, spi=spi.to_bytes(4, "big")),))
        return [other if one is sa else one for one in reply]

    net = Net().connect()
    answers(net.b, lambda reply: reserved(reply) if len(reply) > 1 else reply)
    net.a.endpoint.create_child(NAME, 1, for_member(1), net.now)
    net.run(1)
    assert not net.a.children(), "the IKE SA ends"


@pytest.mark.parametrize("key_bits", [0, 192, -1])
def test_a_cipher_needs_its_key_length(key_bits: int) -> None:
    """§3.3.5: proposals without are refused, as are those with one that is not ours, or with two of them."""
    (ours,) = connection("a").esp_proposals
    without = tuple(t if t.type != TransformType.ENCR else Transform(1, t.id, key_bits) for t in ours.transforms)
    assert choose([ours], [dataclasses.replace(ours, transforms=without)]) is None


def test_a_proposal_without_a_mandatory_transform_is_passed_over() -> None:
    """§3.3.3, §3.3.6: an IKE SA needs a group (§2.18), ESP says whether its numbers are extended."""
    for ours, missing in (
        (connection("a").ike_proposals[0], TransformType.KE), (connection("a").esp_proposals[0], TransformType.ESN),
    ):  # fmt: skip
        theirs = tuple(one for one in ours.transforms if one.type != missing)
        assert choose([ours], [Proposal(ours.protocol, theirs), ours]) is not None
        assert choose([ours], [Proposal(ours.protocol, theirs)]) is None


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


EVERYTHING: Payloads = [
    SecurityAssociation(connection("a").ike_proposals), KeyExchange(31, bytes(32)), connection("a").local_id,
    Certificate(4, b"certificate"), CertificateRequest(4, bytes(20)), Authentication(14, b"proof"), Nonce(bytes(16)),
    Notification(Notify.REKEY_SA, b"", Protocol.ESP, b"spi4"), Delete(Protocol.ESP, (1, 2)), Vendor(b"somebody"),
    TrafficSelectors(Payload.TSI, (Selector.of(ip_network("10.0.0.0/8")),)),
]  # fmt: skip
RESERVED = {  # octets of a payload's body
    Payload.SA: (1, 9), Payload.KE: (2, 3), Payload.IDI: (1, 2, 3), Payload.AUTH: (1, 2, 3), Payload.TSI: (1, 2, 3),
}  # fmt: skip


@pytest.mark.parametrize("payload", EVERYTHING, ids=lambda payload: payload.TYPE.name)
def test_reserved_bits_are_zero_and_those_of_others_are_passed_over(payload: AnyPayload) -> None:
    """§2.5, §3.2: in every payload; so is the critical bit where the payload is known."""
    first, encoded = encode_chain([payload])
    changed = bytearray(encoded)
    for at in (1, *(4 + at for at in RESERVED.get(payload.TYPE, ()))):
        assert encoded[at] == 0
        changed[at] = 0xFF
    assert decode_chain(first, bytes(changed)) == [payload]


def test_bits_of_the_header_that_mean_nothing_are_passed_over() -> None:
    """§3.1: reserved ones and the one for versions; ours are zero."""
    net = Net()
    (answer,) = begin_with(net, lambda data: data[:19] + bytes([data[19] | 0xD7]) + data[20:])
    assert Header.decode(answer).flags == Flag.RESPONSE
    assert {datagram.data[19] for datagram in Net().connect().sent} <= {0x08, 0x20, 0x28}
    assert {datagram.data[17] for datagram in Net().connect().sent} == {0x20}


def test_another_major_version_is_dropped() -> None:
    """§2.5."""
    assert begin_with(Net(), lambda data: data[:17] + b"\x30" + data[18:]) == []


def test_payloads_may_come_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """§2.5."""
    monkeypatch.setattr(message, "encode_chain", lambda payloads: encode_chain(payloads[::-1]))
    net = Net().connect()
    net.a.endpoint.create_child(NAME, 1, for_member(1), net.now)
    net.b.endpoint.rekey_ike(NAME, net.now)
    net.run(3)
    net.check_agreement()
    assert len(net.a.children()) == 2


@pytest.mark.parametrize("octets", [0, 1, 15, 255])
def test_any_padding_is_accepted(octets: int) -> None:
    """§3.14: of any length and content."""
    sealer, header = Sealer(bytes(36)), Header(b"initspi1", b"respspi2", Exchange.INFORMATIONAL, 0x08, 5)
    plain = b"\xa5" * octets + bytes([octets])
    length = 28 + 4 + 8 + len(plain) + 16
    aad = dataclasses.replace(header, first_payload=Payload.SK, length=length).encode()
    aad += struct.pack(">BBH", 0, 0, length - 28)
    data = aad + sealer.seal(7, plain, aad)
    fragment = open_message(Header.decode(data), data, sealer)
    assert fragment is not None
    assert fragment.plain == b""


def test_an_error_that_is_not_known_fails_the_request_and_other_notifies_do_not() -> None:
    """§3.10.1."""
    net = Net().connect()
    answers(net.b, lambda reply: [*reply, Notification(8191)] if len(reply) > 1 else reply)
    net.a.endpoint.create_child(NAME, 1, for_member(1), net.now)
    net.run(1)
    assert [event.notify for event in net.a.of(ChildRefused)] == [8191]
    strange = (*for_member(2), Notification(8191), Notification(40000, b"what"), Notification(65535))
    net.b.endpoint.create_child(NAME, 2, strange, net.now)
    net.run(1)
    assert [up.child.member for up in net.b.children().values()].count(2) == 1


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
    assert with_group[:2] == with_cookie[:2]
    assert [one.group for one in with_group if isinstance(one, KeyExchange)] == [20]


# -- §1.4, §2.8 and §2.25: deleting and rekeying --------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Notify.TEMPORARY_FAILURE, Notify.NO_ADDITIONAL_SAS, Notify.NO_PROPOSAL_CHOSEN])
def test_a_refused_rekeying_is_tried_again_later_until_the_ike_sa_ends(kind: Notify) -> None:
    """§2.25: not at once; §2.8, §4: what cannot be rekeyed is deleted when its time is over, to be made anew."""
    net = Net(1, connection("a", rekey_s=100.0, liveness_s=0.0), connection("b", rekey_s=0.0, liveness_s=0.0)).connect()
    answers(net.b, lambda reply: [Notification(kind)] if reply else [])
    net.run(99)
    before = len(net.sent)
    net.run(9)
    tried = asked(net, before)
    assert {header.exchange for header in tried} == {Exchange.CREATE_CHILD_SA}
    assert 4 <= len(tried) <= 9
    net.run(4)
    assert [event.error for event in net.a.of(Closed)] == ["it could not be rekeyed in time"]


def test_a_refused_child_sa_is_asked_for_again_later() -> None:
    """§2.25: TEMPORARY_FAILURE is not answered by the same request at once."""
    net = Net().connect()
    answers(net.b, lambda reply: [Notification(Notify.TEMPORARY_FAILURE)])
    before = len(net.sent)
    net.a.endpoint.rekey_child(NAME, next(iter(net.a.children())), net.now)
    net.run(5)
    assert 4 <= len(asked(net, before)) <= 11


# A → B  CREATE_CHILD_SA (IKE)             on the old one; two Child SAs more wait meanwhile
# A → B  INFORMATIONAL Delete(IKE)         the last on the old one
# A → B  CREATE_CHILD_SA                   numbers 0 and 1 of the new one
def test_the_delete_is_the_last_request_on_an_ike_sa() -> None:
    """§2.8: what waited meanwhile is asked on the new one, which counts from 0 (§2.18)."""
    net = Net().connect()
    (old,) = net.a.live()
    before = len(net.sent)
    net.a.endpoint.rekey_ike(NAME, net.now)
    for member in (1, 2):
        net.a.endpoint.create_child(NAME, member, for_member(member), net.now)
    net.run(3)
    on_old = [header for header in asked(net, before) if header.spi_i == old.spi_i]
    on_new = [header for header in asked(net, before) if header.spi_i != old.spi_i]
    assert [header.exchange for header in on_old] == [Exchange.CREATE_CHILD_SA, Exchange.INFORMATIONAL]
    assert [header.message_id for header in on_new] == [0, 1]
    assert len(net.b.children()) == 3


# A → B  INFORMATIONAL Delete(A's SPI)     B answers with Delete(B's SPI), the other half
# both: B → A  Delete(B's SPI)             crosses it: each answers with nothing, having said so itself (§2.25.1)
def test_a_delete_is_answered_by_that_of_the_other_half_but_not_twice() -> None:
    """§1.4.1: each side names its own inbound SPI; when both delete, neither answer names any."""
    for both in (False, True):
        net = Net().connect()
        said: list[Any] = []
        (up,) = net.a.children().values()
        answers(net.b, noting(said))
        net.a.endpoint.delete_child(NAME, up.child.inbound.spi, net.now)
        if both:
            net.b.endpoint.delete_child(NAME, up.child.outbound.spi, net.now)
        net.run(1)
        assert said == [[] if both else [Delete(Protocol.ESP, (up.child.outbound.spi,))]]
        assert not net.a.children()
        assert not net.b.children()


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


@pytest.mark.parametrize("text", ["gw@example", "@#00ff", "CN=gw", "192.0.2.77", "2001:db8::77"])
def test_every_kind_of_identity_goes_with_a_shared_secret(text: str) -> None:
    """§3.5, §4; names are everywhere else."""
    net = Net(
        1, connection("a", local_id=identity(text, Payload.IDI)), connection("b", remote_id=identity(text, Payload.IDR))
    ).connect()
    net.check_agreement()


def test_an_spi_that_anybody_knows_is_not_drawn() -> None:
    """§1.4.1: neither a Child SA nor a member that still has it; here chance says everything twice."""
    net, drawn, members_have = Net(), itertools.count(2), {0x400}
    chance = net.dice.randbytes
    stutter = lambda octets: (next(drawn) // 2).to_bytes(3, "big") if octets == 3 else chance(octets)  # noqa: E731
    net.b = Side(Endpoint([connection("b")], stutter, lambda: WALL, lambda spi: spi not in members_have))
    net.connect()
    for _ in range(3):
        net.b.endpoint.create_child(NAME, 0, for_member(0), net.now)
    net.run(1)
    assert sorted(net.b.children()) == [0x100, 0x200, 0x300, 0x500]

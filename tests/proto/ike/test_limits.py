"""What a peer, or a stranger with a half-open IKE SA, may have an endpoint hold, repeat or believe."""

from __future__ import annotations

from typing import Any

import pytest
from hostile import seal
from ikekit import NAME, A, B, Net, ask, connection, for_member

from fwd.proto.ike import auth, initial
from fwd.proto.ike.child import Offer
from fwd.proto.ike.crypto import Prf, Sealer
from fwd.proto.ike.events import Closed, Datagram, Rejected
from fwd.proto.ike.limits import (
    COOKIE_BYTES,
    COPIES_PER_S,
    FRAGMENT_BYTES,
    FRAGMENTS_BYTES_STRANGERS,
    FRAGMENTS_STRANGER_S,
    INIT_ERROR_S,
    LAST_WORDS_S,
    MEMBER_CHILDREN_MAX,
    MESSAGE_BYTES,
    MESSAGE_BYTES_STRANGER,
    NOTIFY_BYTES_MAX,
    PROVEN_PER_S,
)
from fwd.proto.ike.message import Assembly, Fragment, Header, decode_clear, encode_clear
from fwd.proto.ike.numbers import REASON_MAX, Exchange, Flag, IdType, Notify, Payload, Protocol, ProtocolError
from fwd.proto.ike.payloads import Delete, Identity, Nonce, Notification, kept, notified
from fwd.proto.ike.proposals import PRF_SHA256, PRF_SHA384
from fwd.proto.ike.rate import Budget
from fwd.proto.ike.sa import IkeSa
from fwd.proto.ike.states import State

# -- fragments ------------------------------------------------------------------------------------------------------


def half_open_ones(net: Net, count: int) -> list[tuple[IkeSa, tuple[str, int]]]:
    """Strangers that have come as far as IKE_AUTH: each one's own side, and where it is."""
    found = []
    for number in range(count):
        net.now += 1 / PROVEN_PER_S  # as fast as they are taken
        one = Net(100 + number)
        address = (A[0], 1000 + number)
        one.a.endpoint.initiate(NAME, net.now)
        for _ in range(2):
            for request in one.a.endpoint.datagrams_to_send():
                if Header.decode(request.data).exchange == Exchange.IKE_SA_INIT:
                    net.b.endpoint.receive(request.data, B, address, net.now)
            for answer in net.b.endpoint.datagrams_to_send():
                one.a.endpoint.receive(answer.data, A, B, net.now)
        found.append((one.a.endpoint.sas(NAME)[0], address))
    return found


def send_fragments(net: Net, sa: IkeSa, address: tuple[str, int], octets: int, count: int = 31) -> None:
    """All but the last of a message's."""
    assert sa.keys is not None
    for number in range(1, count + 1):
        header = Header(sa.spi_i, sa.spi_r, Exchange.IKE_AUTH, Flag.INITIATOR, 1)
        extra = number.to_bytes(2, "big") + (count + 1).to_bytes(2, "big")
        first = b"\x23" if number == 1 else b"\0"
        sealer = Sealer(sa.keys.ei)
        data = seal(header, Payload.SKF, first, extra, bytes(octets) + b"\0", sealer, (1 << 40) + number)
        net.b.endpoint.receive(data, B, address, net.now)


def held(net: Net) -> int:
    """Octets of fragments, as the budget has them."""
    return FRAGMENTS_BYTES_STRANGERS - net.b.endpoint._world.strangers_fragments.left


@pytest.mark.parametrize("octets", [400, 1_400, 16_000, 65_000])
def test_fragments_of_a_stranger_are_no_more_than_its_message_may_be(octets: int) -> None:
    net = Net()
    ((sa, address),) = half_open_ones(net, 1)
    send_fragments(net, sa, address, octets)
    assert held(net) <= MESSAGE_BYTES_STRANGER + 32 * FRAGMENT_BYTES


def test_fragments_of_all_strangers_are_bounded_and_given_up_soon() -> None:
    net = Net()
    for sa, address in half_open_ones(net, 100):
        send_fragments(net, sa, address, 500)
    one = MESSAGE_BYTES_STRANGER + 32 * FRAGMENT_BYTES
    assert FRAGMENTS_BYTES_STRANGERS - one < held(net) <= FRAGMENTS_BYTES_STRANGERS
    net.run(FRAGMENTS_STRANGER_S + 0.1)
    assert held(net) == 0


def test_fragments_of_strangers_keep_no_peer_out() -> None:
    """They may hold all that there is, again and again: who comes last has room, and the others wait in vain."""
    net = Net(1, connection("a", fragment_bytes=150))
    strangers = half_open_ones(net, 100)
    for sa, address in strangers:
        send_fragments(net, sa, address, 500)
    net.run(0.1)
    assert held(net) > FRAGMENTS_BYTES_STRANGERS - MESSAGE_BYTES_STRANGER - 32 * FRAGMENT_BYTES
    net.a.endpoint.initiate(NAME, net.now)
    net.run(0.3)
    assert net.a.live()
    assert len([one for one in net.sent if Header.decode(one.data).exchange == Exchange.IKE_AUTH]) > 2, "in fragments"
    net.run(FRAGMENTS_STRANGER_S + 0.1)
    assert held(net) == 0


def test_a_half_open_ike_sa_that_goes_gives_back_what_its_fragments_took() -> None:
    net = Net()
    ((sa, address),) = half_open_ones(net, 1)
    send_fragments(net, sa, address, 500)
    assert held(net)
    net.b.endpoint.terminate(NAME, net.now)
    assert held(net) == 0


def test_a_message_of_a_stranger_in_one_piece_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    ((sa, address),) = half_open_ones(net, 1)
    assert sa.keys is not None
    opened: list[int] = []
    (mine,) = [one for one in net.b.endpoint.sas(NAME) if one.state is State.CONNECTING]
    unseal = Sealer.unseal
    monkeypatch.setattr(Sealer, "unseal", lambda self, data, aad: opened.append(1) or unseal(self, data, aad))
    header = Header(sa.spi_i, sa.spi_r, Exchange.IKE_AUTH, Flag.INITIATOR, 1)
    data = seal(header, Payload.SK, b"\0", b"", bytes(MESSAGE_BYTES_STRANGER), Sealer(sa.keys.ei), 1 << 40)
    net.b.endpoint.receive(data, B, address, net.now)
    assert not opened
    assert mine.state is State.CONNECTING


def test_an_assembly_has_so_many_octets_and_no_more() -> None:
    assembly = Assembly(100)
    assert assembly.add(Fragment(1, 1, 3, bytes(60))) is None
    assert assembly.add(Fragment(0, 2, 3, bytes(41))) is None
    assert assembly.add(Fragment(0, 3, 3, bytes(20))) is None
    assert assembly.add(Fragment(0, 2, 3, bytes(20))) == (1, bytes(100))


def test_a_part_of_a_budget_takes_of_the_whole() -> None:
    whole = Budget(10)
    parts = Budget(8, whole), Budget(8, whole)
    assert parts[0].take(8)
    assert not parts[0].take(1)
    assert not parts[1].take(3)
    assert parts[1].take(2)
    parts[0].give(8)
    assert (parts[0].left, parts[1].left, whole.left) == (8, 6, 8)
    assert MESSAGE_BYTES > MESSAGE_BYTES_STRANGER


# -- notifies -------------------------------------------------------------------------------------------------------

SET_WINDOW_SIZE, USE_TRANSPORT_MODE = 16385, 16391


def test_a_peers_notifies_are_never_said_as_ours() -> None:
    """Neither a window that we do not have, nor a mode that we do not take, nor 48,000 octets of nothing."""
    net = Net(b=connection("b", fragment_bytes=60_000)).connect()
    extra = [
        Notification(SET_WINDOW_SIZE, (8).to_bytes(4, "big")), Notification(USE_TRANSPORT_MODE),
        *[Notification(20_000, bytes(12_000))] * 4,
    ]  # fmt: skip
    (theirs,) = net.b.live()
    respond, asked = theirs.respond, []

    def talkative(sa: IkeSa, exchange: int, request: list[Any], now: float) -> list[Any]:
        asked.append(request)
        reply = respond(sa, exchange, request, now)
        return [*reply, *extra] if exchange == Exchange.CREATE_CHILD_SA else reply

    theirs.respond = talkative
    net.a.endpoint.create_child(NAME, 1, for_member(1), net.now)
    net.run(1)
    for _ in range(3):
        (spi,) = [spi for spi, up in net.a.children().items() if up.child.member == 1]
        net.a.endpoint.rekey_child(NAME, spi, net.now)
        net.run(1)
    rekeyings = [request for request in asked if notified(request, Notify.REKEY_SA)]
    assert len(rekeyings) == 3
    for request in rekeyings:
        said = {one.kind for one in request if isinstance(one, Notification)}
        assert said == {Notify.REKEY_SA, Notify.FWD_MEMBER}, "our own, and nothing else"


def test_what_we_say_of_a_child_sa_survives_the_rekeying_of_the_ike_sa() -> None:
    net = Net().connect()
    net.a.endpoint.create_child(NAME, 1, for_member(1), net.now)
    net.run(1)
    net.b.endpoint.rekey_ike(NAME, net.now)
    net.run(1)
    (sa,) = net.a.live()
    assert [child.notifies for child in sa.children.values() if child.keys.member == 1] == [for_member(1)]


def test_of_a_peers_notifies_only_those_that_are_known_are_kept_and_bounded() -> None:
    member = Notification(Notify.FWD_MEMBER, b"\1")
    said = [
        Notification(20_000, bytes(60_000)), member, member,
        Notification(Notify.SA_RESOURCE_INFO, bytes(NOTIFY_BYTES_MAX + 1)),
    ]  # fmt: skip
    assert kept(said) == (member,)


# -- Child SAs ------------------------------------------------------------------------------------------------------


def test_who_leaves_out_the_member_gets_no_more_child_sas_than_who_names_it() -> None:
    net = Net().connect()
    asker, (sa,) = net.a.live()[0], net.b.live()
    refused = []
    for _ in range(3 * MEMBER_CHILDREN_MAX):
        offer = Offer.make(asker.connection, asker.world, 0, 0, None, first=False)
        reply = ask(net, net.b, Exchange.CREATE_CHILD_SA, offer.payloads())
        refused += [one.kind for one in reply if isinstance(one, Notification) and one.is_error]
    assert len(sa.children) == MEMBER_CHILDREN_MAX
    assert set(refused) == {Notify.NO_ADDITIONAL_SAS}


def test_who_rekeys_again_and_again_and_deletes_nothing_is_stopped() -> None:
    net = Net().connect()
    asker, (sa,) = net.a.live()[0], net.b.live()
    for _ in range(5 * MEMBER_CHILDREN_MAX):
        newest = list(sa.children.values())[-1]
        offer = Offer.make(asker.connection, asker.world, 0, 0, None, first=False)
        rekey = Notification(Notify.REKEY_SA, b"", 3, newest.spi_out.to_bytes(4, "big"))
        ask(net, net.b, Exchange.CREATE_CHILD_SA, [rekey, *offer.payloads()])
    assert len(sa.children) == 2 * MEMBER_CHILDREN_MAX


# -- copies ---------------------------------------------------------------------------------------------------------


def copies(net: Net, sa: IkeSa, remote: tuple[str, int], count: int, octets: int = 1) -> int:
    """Requests of the last number, and of other octets, that seem to come from `remote`: how many are answered."""
    assert sa.keys is not None
    header = Header(sa.spi_i, sa.spi_r, Exchange.CREATE_CHILD_SA, Flag.INITIATOR, sa._window.expected_id - 1)
    answers = 0
    for number in range(count):
        data = seal(header, Payload.SK, b"\0", b"", bytes(octets), Sealer(sa.keys.ei), (1 << 41) + number)
        net.b.endpoint.receive(data, B, remote, net.now)
        answers += sum(one.remote == remote for one in net.b.endpoint.datagrams_to_send())
    return answers


def test_copies_of_a_request_are_answered_a_few_times_a_second() -> None:
    """The answer is longer than what a peer, or who has caught a request, sends in anybody's name for it."""
    net = Net().connect()
    (sa,) = net.b.live()
    victim = ("198.51.100.9", 53)
    assert copies(net, sa, victim, 1000) <= 2 * COPIES_PER_S
    assert copies(net, sa, A, 1000) == 2 * COPIES_PER_S, "where the peer is the others' copies take nothing"
    net.now += 1
    assert copies(net, sa, A, 1000) == COPIES_PER_S


def test_copies_of_what_ended_an_ike_sa_are_answered_a_few_times_too() -> None:
    net = Net(1, connection("a", credentials=auth.Psk(b"not what the other side has")))
    net.a.endpoint.initiate(NAME, net.now)
    net.run(0.5)
    (request,) = [one for one in net.sent if one.local == A and Header.decode(one.data).exchange == Exchange.IKE_AUTH]
    for _ in range(1000):
        net.b.endpoint.receive(request.data, B, A, net.now)
    assert len(net.b.endpoint.datagrams_to_send()) <= 2 * COPIES_PER_S


# -- what anybody can say -------------------------------------------------------------------------------------------


def answered_by(net: Net, *payloads: Notification) -> None:
    """Somebody on the path answers our IKE_SA_INIT in clear text."""
    (sa,) = net.a.endpoint.sas(NAME)
    header = Header(sa.spi_i, bytes(8), Exchange.IKE_SA_INIT, Flag.RESPONSE, 0)
    net.a.endpoint.receive(encode_clear(header, payloads), A, B, net.now)


@pytest.mark.parametrize(
    "forged",
    [
        Notification(Notify.NO_PROPOSAL_CHOSEN), Notification(Notify.INVALID_SYNTAX), Notification(8999),
        Notification(Notify.INVALID_KE_PAYLOAD, b"\0\1"), Notification(Notify.COOKIE), Notification(16_400),
    ],
)  # fmt: skip
def test_a_forged_error_does_not_end_an_attempt_to_which_an_answer_comes(forged: Notification) -> None:
    """RFC 7296 §2.21.1."""
    net = Net()
    net.judge = lambda datagram: [0.2]
    net.a.endpoint.initiate(NAME, net.now)
    net.flush()
    answered_by(net, forged)
    net.run(2)
    assert net.a.live()
    assert not net.a.of(Closed)


def test_an_error_to_which_nothing_better_comes_ends_the_attempt_and_is_told() -> None:
    net = Net()
    net.judge = lambda datagram: []
    net.a.endpoint.initiate(NAME, net.now)
    net.flush()
    answered_by(net, Notification(Notify.NO_PROPOSAL_CHOSEN))
    net.run(INIT_ERROR_S - 0.1)
    assert not net.a.of(Closed)
    net.run(0.2)
    assert "NO_PROPOSAL_CHOSEN" in net.a.of(Closed)[0].error


@pytest.mark.parametrize("octets", [0, 65, 30_000])
def test_a_cookie_of_a_length_that_none_has_is_not_given_back(octets: int) -> None:
    net = Net()
    net.a.endpoint.initiate(NAME, net.now)
    net.a.endpoint.datagrams_to_send()
    answered_by(net, Notification(Notify.COOKIE, bytes(octets)))
    assert net.a.endpoint.datagrams_to_send() == []


@pytest.mark.parametrize("octets", [COOKIE_BYTES[0], COOKIE_BYTES[-1]])
def test_a_cookie_of_any_other_length_is_given_back_first(octets: int) -> None:
    net = Net()
    net.a.endpoint.initiate(NAME, net.now)
    net.a.endpoint.datagrams_to_send()
    answered_by(net, Notification(Notify.COOKIE, bytes(octets)))
    (again,) = net.a.endpoint.datagrams_to_send()
    assert decode_clear(Header.decode(again.data), again.data)[0] == Notification(Notify.COOKIE, bytes(octets))


def test_a_nonce_has_half_the_octets_of_the_prfs_key() -> None:
    """RFC 7296 §2.10."""
    for prf, least in ((PRF_SHA256, 16), (PRF_SHA384, 24)):
        Prf(prf).check_nonces(bytes(least), bytes(256))
        with pytest.raises(ProtocolError, match=f"the PRF needs {least}"):
            Prf(prf).check_nonces(bytes(32), bytes(least - 1))


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_nonce_that_is_too_short_for_the_prf_connects_nobody(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    monkeypatch.setattr(initial, "NONCE_BYTES", 16)
    net.a.endpoint.initiate(NAME, net.now)
    if side == "b":
        monkeypatch.setattr(initial, "NONCE_BYTES", 32)
        net = Net()
        net.a.endpoint.initiate(NAME, net.now)
        net.flush()
        monkeypatch.setattr(initial, "NONCE_BYTES", 16)
    net.run(2)
    assert not net.a.live() + net.b.live()


def test_a_nonce_that_is_too_short_makes_no_child_sa() -> None:
    net = Net().connect()
    asker = net.a.live()[0]
    payloads = Offer.make(asker.connection, asker.world, 1, 1, None, first=False).payloads()
    short = [Nonce(bytes(16)) if isinstance(one, Nonce) else one for one in payloads]
    reply = ask(net, net.b, Exchange.CREATE_CHILD_SA, short)
    assert [one.kind for one in reply if isinstance(one, Notification)] == [Notify.INVALID_SYNTAX]


# -- what is said of it ---------------------------------------------------------------------------------------------


def test_a_request_that_was_refused_is_not_why_an_ike_sa_ends_later() -> None:
    net = Net().connect()
    reply = ask(net, net.b, Exchange.CREATE_CHILD_SA, [Notification(Notify.REKEY_SA, b"", 3, b"none")])
    assert [one.kind for one in reply if isinstance(one, Notification)] == [Notify.CHILD_SA_NOT_FOUND]
    ask(net, net.b, Exchange.INFORMATIONAL, [Delete(Protocol.IKE)])
    net.run(0.1)
    assert net.b.of(Closed)[0].error == ""


def test_what_a_stranger_calls_itself_is_neither_long_nor_unprintable_in_log_and_status() -> None:
    for name, kind in ((b"b\x1b[31m\nCRITICAL", IdType.FQDN), (b"b" * 12_000, IdType.RFC822_ADDR)):
        net = Net(1, connection("a", local_id=Identity(Payload.IDI, kind, name)))
        net.a.endpoint.initiate(NAME, net.now)
        net.run(1)
        (refused,) = net.b.of(Rejected)
        assert refused.error.startswith("the peer is b")
        assert refused.error.isprintable()
        assert len(refused.error) <= REASON_MAX


# -- last words -----------------------------------------------------------------------------------------------------


def test_a_refusal_of_ike_auth_that_is_lost_is_told_again() -> None:
    net = Net(1, connection("a", credentials=auth.Psk(b"not what the other side has")))
    lost: list[bytes] = []

    def lose_the_refusal(datagram: Datagram) -> list[float]:
        if datagram.local == B and Header.decode(datagram.data).exchange == Exchange.IKE_AUTH and not lost:
            lost.append(datagram.data)
            return []
        return [0.01]

    net.judge = lose_the_refusal
    net.a.endpoint.initiate(NAME, net.now)
    net.run(2)
    assert lost
    assert "AUTHENTICATION_FAILED" in net.a.of(Closed)[0].error
    assert [datagram.data for datagram in net.sent].count(lost[0]) == 2, "the same octets"
    assert len(net.b.of(Rejected)) == 1
    assert not net.b.endpoint.sas(NAME)


def test_last_words_are_not_for_ever_and_not_for_whoever_has_no_keys() -> None:
    net = Net(1, connection("a", credentials=auth.Psk(b"not what the other side has")))
    net.a.endpoint.initiate(NAME, net.now)
    net.run(0.5)
    (request,) = [one for one in net.sent if one.local == A and Header.decode(one.data).exchange == Exchange.IKE_AUTH]
    for data, answers in ((request.data, 1), (request.data[:-1] + bytes([request.data[-1] ^ 1]), 0)):
        net.b.endpoint.receive(data, B, A, net.now)
        assert len(net.b.endpoint.datagrams_to_send()) == answers
    net.run(LAST_WORDS_S)
    net.b.endpoint.handle_timeout(net.now)
    net.b.endpoint.receive(request.data, B, A, net.now)
    assert not net.b.endpoint.datagrams_to_send()


def test_strangers_ike_auths_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them would have its signatures checked."""
    net = Net()
    checked: list[object] = []
    monkeypatch.setattr(auth, "check", lambda *args, **more: checked.append(args) or 1 / 0)
    net.b.may_fail = True
    for number in range(100):
        stranger = Net(100 + number)
        stranger.a.endpoint.initiate(NAME, net.now)
        for _ in range(3):
            for request in stranger.a.endpoint.datagrams_to_send():
                net.b.endpoint.receive(request.data, B, (A[0], 64 * number + 1), net.now)
            for answer in net.b.endpoint.datagrams_to_send():
                stranger.a.endpoint.receive(answer.data, A, B, net.now)
    assert 0 < len(checked) <= 6, "all from ports of one class"

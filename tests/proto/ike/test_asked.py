"""What a peer may ask for and cannot have, or answers and cannot mean: refused, and nothing is left of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hostile import seal
from ikekit import NAME, A, B, Net, Side, ask, connection, for_member
from test_exchanges import half_open
from test_musts import answers

from fwd.proto.ike import auth, exchanges
from fwd.proto.ike.both import FIRST_S
from fwd.proto.ike.crypto import DiffieHellman, Sealer
from fwd.proto.ike.events import ChildRefused, Closed, Datagram, Established
from fwd.proto.ike.limits import HALF_OPEN_COOKIES, HALF_OPEN_S, INIT_ERROR_S
from fwd.proto.ike.message import Header, decode_clear, encode_clear
from fwd.proto.ike.numbers import ESP_SPI_BYTES, Exchange, Flag, Notify, Payload, Protocol
from fwd.proto.ike.payloads import (
    AnyPayload,
    Delete,
    KeyExchange,
    Nonce,
    Notification,
    SecurityAssociation,
    TrafficSelectors,
    only,
)
from fwd.proto.ike.proposals import X25519, parse
from fwd.proto.ike.sa import NO_SPI, IkeSa
from fwd.proto.ike.states import State

CREATE, INFORM = Exchange.CREATE_CHILD_SA, Exchange.INFORMATIONAL


def keyed(nonce: bytes = bytes(32)) -> list[AnyPayload]:
    return [Nonce(nonce), KeyExchange(X25519, DiffieHellman(X25519, lambda octets: b"\7" * octets).public)]


def successor_of_ike() -> list[AnyPayload]:
    proposal = replace(parse("aes256gcm16-prfsha384-x25519", Protocol.IKE), spi=b"whatever")
    return [SecurityAssociation((proposal,)), *keyed()]


def another_child(side: Side, spi: int, nonce: bytes = bytes(32)) -> list[AnyPayload]:
    """As this side would ask for one."""
    up = next(iter(side.children().values()))
    proposal = replace(parse("aes256gcm16-x25519-noesn", Protocol.ESP), spi=spi.to_bytes(ESP_SPI_BYTES, "big"))
    local, remote = up.child.local_ts, up.child.remote_ts
    return [
        SecurityAssociation((proposal,)), *keyed(nonce), TrafficSelectors(Payload.TSI, local),
        TrafficSelectors(Payload.TSR, remote),
    ]  # fmt: skip


def rekey_notify(spi: int) -> Notification:
    return Notification(Notify.REKEY_SA, b"", Protocol.ESP, spi.to_bytes(ESP_SPI_BYTES, "big"))


def errors(payloads: list[AnyPayload]) -> list[int]:
    return [one.kind for one in payloads if isinstance(one, Notification) and one.is_error]


# -- requests -----------------------------------------------------------------------------------------------------


# A → B  CREATE_CHILD_SA REKEY_SA(old)     B makes 0x1001
# A → B  CREATE_CHILD_SA REKEY_SA(old)     once more: TEMPORARY_FAILURE (§2.25.1)
# A → B  INFORMATIONAL Delete(0x1001)
# A → B  CREATE_CHILD_SA REKEY_SA(old)     B makes 0x1003: the old one has no successor now
def test_a_child_sa_has_one_successor_at_a_time() -> None:
    net = Net().connect()
    (up,) = net.a.children().values()
    rekey = [rekey_notify(up.child.inbound.spi)]
    assert not errors(ask(net, net.b, CREATE, [*rekey, *another_child(net.a, 0x1001)]))
    assert errors(ask(net, net.b, CREATE, [*rekey, *another_child(net.a, 0x1002)])) == [Notify.TEMPORARY_FAILURE]
    assert len(net.b.children()) == 2
    ask(net, net.b, INFORM, [Delete(Protocol.ESP, (0x1001,))])
    assert not errors(ask(net, net.b, CREATE, [*rekey, *another_child(net.a, 0x1003)])), "the first one is gone"


# B → A  CREATE_CHILD_SA (IKE)             under way
# A → B  CREATE_CHILD_SA (IKE)             B answers: the two are rivals (§2.8.2)
# A → B  CREATE_CHILD_SA (IKE)             once more: TEMPORARY_FAILURE (§2.25.2)
def test_an_ike_sa_that_both_rekey_has_one_successor_by_the_peer() -> None:
    net = Net().connect()
    net.b.endpoint.rekey_ike(NAME, net.now)
    assert not errors(ask(net, net.b, CREATE, successor_of_ike()))
    assert errors(ask(net, net.b, CREATE, successor_of_ike())) == [Notify.TEMPORARY_FAILURE]
    assert len(net.b.endpoint.sas(NAME)) == 2


# A → B  CREATE_CHILD_SA (IKE)             under way; B will refuse it
# B → A  CREATE_CHILD_SA (IKE)             A answers: B's successor is a rival of A's
# B → A  INFORMATIONAL Delete(IKE)         on that successor: it is gone
# B → A  TEMPORARY_FAILURE                 the old IKE SA stays as it was
# B → A  CREATE_CHILD_SA (IKE)             A answers: there is no rival any more
def test_a_successor_by_the_peer_that_it_has_ended_leaves_room_for_another() -> None:
    net = Net().connect()
    answers(net.b, lambda reply: [Notification(Notify.TEMPORARY_FAILURE)])
    net.a.endpoint.rekey_ike(NAME, net.now)
    net.flush()
    assert not errors(ask(net, net.a, CREATE, successor_of_ike()))
    ask(net, net.a, INFORM, [Delete(Protocol.IKE)], which=1)
    net.run(0.1)
    assert [sa.state for sa in net.a.endpoint.sas(NAME)] == [State.ESTABLISHED], "ours is refused, and tried later"
    assert not errors(ask(net, net.a, CREATE, successor_of_ike()))


# B → A  INFORMATIONAL Delete(child)       under way
# A → B  CREATE_CHILD_SA REKEY_SA(child)   crosses it: TEMPORARY_FAILURE (§2.25.1)
# A → B  answers the Delete                the Child SA is gone on both sides
def test_what_is_being_deleted_is_not_rekeyed() -> None:
    """RFC 7296 §2.25.1."""
    net = Net().connect()
    (up,) = net.b.children().values()
    net.b.endpoint.delete_child(NAME, up.child.inbound.spi, net.now)
    rekey = [rekey_notify(up.child.outbound.spi), *another_child(net.a, 0x1001)]
    assert errors(ask(net, net.b, CREATE, rekey)) == [Notify.TEMPORARY_FAILURE]
    net.run(1)
    assert not net.b.children()


def test_an_ike_sa_has_so_many_child_sas_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "CHILDREN_MAX", 3)
    net = Net().connect()
    for _ in range(2):
        net.a.endpoint.create_child(NAME, 1, for_member(1), net.now)
    net.run(1)
    assert not net.a.of(ChildRefused)
    net.a.endpoint.create_child(NAME, 1, for_member(1), net.now)
    net.run(1)
    assert [(event.member, event.notify) for event in net.a.of(ChildRefused)] == [(1, Notify.NO_ADDITIONAL_SAS)]
    assert len(net.b.children()) == 3
    net.check_agreement()


def test_a_rekeying_that_is_refused_is_told_and_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "CHILDREN_MAX", 1)
    net = Net().connect()
    (spi,) = net.a.children()
    net.a.endpoint.rekey_child(NAME, spi, net.now)
    net.run(1)
    assert [(event.member, event.notify) for event in net.a.of(ChildRefused)] == [(0, Notify.NO_ADDITIONAL_SAS)]
    monkeypatch.undo()
    net.a.endpoint.rekey_child(NAME, spi, net.now)
    net.run(1)
    assert [up.replaces for up in net.a.children().values()] == [spi]
    net.check_agreement()


# -- answers ------------------------------------------------------------------------------------------------------


def test_a_first_answer_comes_from_where_the_request_went() -> None:
    net = Net()
    net.a.endpoint.initiate(NAME, net.now)
    (request,) = net.a.endpoint.datagrams_to_send()
    net.b.endpoint.receive(request.data, B, A, net.now)
    (answer,) = net.b.endpoint.datagrams_to_send()
    net.a.endpoint.receive(answer.data, A, ("203.0.113.5", 500), net.now)
    assert not net.a.endpoint.datagrams_to_send()
    net.a.endpoint.receive(answer.data, A, B, net.now)
    assert len(net.a.endpoint.datagrams_to_send()) == 1


def test_a_responder_has_an_spi() -> None:
    net = Net()
    net.a.endpoint.initiate(NAME, net.now)
    (request,) = net.a.endpoint.datagrams_to_send()
    net.b.endpoint.receive(request.data, B, A, net.now)
    (answer,) = net.b.endpoint.datagrams_to_send()
    header = replace(Header.decode(answer.data), spi_r=NO_SPI)
    net.a.endpoint.receive(encode_clear(header, decode_clear(header, answer.data)), A, B, net.now)
    net.run(INIT_ERROR_S + 0.1)
    assert [event.error for event in net.a.of(Closed)] == ["the responder's SPI is zero"]


# A → B  CREATE_CHILD_SA REKEY_SA(old)     B makes the successor
# B → A  CREATE_CHILD_SA answer            is late
# B → A  INFORMATIONAL Delete(successor)   comes first: A remembers its SPI
#        the answer comes                  A installs nothing, and old may be rekeyed anew
def test_a_successor_that_the_peer_has_deleted_before_its_answer_came_leaves_the_old_one_as_it_was() -> None:
    """RFC 7296 §2.25: then it can be rekeyed anew."""
    net = Net().connect()
    (old,) = net.a.children()
    net.judge = lambda datagram: [0.2 if Header.decode(datagram.data).exchange == CREATE else 0.01]
    net.a.endpoint.rekey_child(NAME, old, net.now)
    net.run(0.3)
    (made,) = [spi for spi, up in net.b.children().items() if up.replaces is not None]
    net.b.endpoint.delete_child(NAME, made, net.now)
    net.run(0.2)
    assert list(net.a.children()) == [old]
    net.check_agreement()
    net.a.endpoint.rekey_child(NAME, old, net.now)
    net.run(5)
    assert [up.replaces for up in net.a.children().values()] == [old]


# A → B  CREATE_CHILD_SA REKEY_SA(old), Ni    under way
# B → A  CREATE_CHILD_SA REKEY_SA(old), Ni'   crosses it; A answers with Nr' and has a successor by B, 0x1001
# B → A  INFORMATIONAL Delete(0x1001)         B gives that up
# B → A  CREATE_CHILD_SA answer, Nr           A's own stays, though its exchange may have the lowest nonce (§2.8.1)
def test_of_two_successors_the_one_that_is_left_stays_whichever_nonce_is_lowest() -> None:
    """RFC 7296 §2.8.1: who has lost deletes its own, but not when the other is gone already."""
    lost = 0
    for seed in range(8):
        net = Net(seed).connect()
        (up,) = net.a.children().values()
        net.a.endpoint.rekey_child(NAME, up.child.inbound.spi, net.now)
        net.flush()
        rekey = [rekey_notify(up.child.outbound.spi), *another_child(net.b, 0x1001, b"\xff" * 32)]
        answered = only(ask(net, net.a, CREATE, rekey), Nonce).data
        ask(net, net.a, INFORM, [Delete(Protocol.ESP, (0x1001,))])
        (offered,) = [task._offer.nonce for task in net.a.live()[0].tasks()]
        lost += offered < answered
        net.run(1)
        assert [up.replaces for up in net.a.children().values()] == [up.child.inbound.spi]
        net.check_agreement()
    assert lost, "in some of them"


# A → B  CREATE_CHILD_SA (IKE)             both rekey the IKE SA, and both answer (§2.8.2);
# B → A  CREATE_CHILD_SA (IKE)             what B answers, and B's Delete of the old one, are late
# B → A  CREATE_CHILD_SA REKEY_SA(child)   on B's new IKE SA, if that has won: so A knows it before its own
#                                          exchange is answered, and the child is found there
# B → A  the late answer and Delete        change nothing of that
def test_a_request_on_a_new_ike_sa_shows_that_it_has_won_before_the_old_one_is_deleted() -> None:
    """Else its Child SAs would not be found on it."""
    won = 0
    for seed in range(8):
        net = Net(seed).connect()
        (old,) = net.a.live()

        def judge(datagram: Datagram, old: IkeSa = old) -> list[float]:
            header = Header.decode(datagram.data)
            if datagram.local == A or header.spi_i != old.spi_i:
                return [0.01]
            return [1.0] if header.is_response or header.exchange == INFORM else [0.01]

        net.judge = judge
        for side in (net.a, net.b):
            side.endpoint.rekey_ike(NAME, net.now)
        net.run(0.1)
        (spi,) = net.b.children()
        sa = net.b.endpoint.established(NAME)
        won += sa is not None and sa.initiator
        net.b.endpoint.rekey_child(NAME, spi, net.now)
        net.run(10)
        net.check_agreement()
        assert [up.replaces for up in net.b.children().values()] == [spi]
    assert won, "by `b`, in some of them"


# A → B  CREATE_CHILD_SA                   under way
# B → A  INFORMATIONAL Delete(unknown)     may be of the Child SA that the answer will name: A remembers it
# B → A  CREATE_CHILD_SA answer            names another one: it is installed, and what was remembered is forgotten
def test_a_delete_that_came_early_counts_for_the_answer_under_way_and_for_no_later_one() -> None:
    net = Net().connect()
    net.a.endpoint.create_child(NAME, 1, for_member(1), net.now)
    ask(net, net.a, INFORM, [Delete(Protocol.ESP, (0x01020304,))])
    net.run(1)
    (sa,) = net.a.live()
    assert len(net.a.children()) == 2
    assert not sa.gone_early


# -- before anybody has proved anything ---------------------------------------------------------------------------


def test_what_seems_encrypted_and_comes_before_there_are_keys_is_passed_over() -> None:
    net = Net()
    net.a.endpoint.initiate(NAME, net.now)
    (sa,) = net.a.endpoint.sas(NAME)
    for flags in (Flag(0), Flag.RESPONSE):
        for number in (0, 1):
            header = Header(sa.spi_i, NO_SPI, Exchange.IKE_AUTH, flags, number)
            net.a.endpoint.receive(seal(header, Payload.SK, b"\0", b"", b"\0", Sealer(bytes(36)), 1), A, B, net.now)
    net.run(1)
    assert net.a.live()


def test_an_ike_sa_that_was_ended_half_open_is_not_established_by_what_comes_late() -> None:
    net = Net()
    net.judge = lambda datagram: [0.5 if Header.decode(datagram.data).exchange == Exchange.IKE_AUTH else 0.01]
    net.a.endpoint.initiate(NAME, net.now)
    net.run(0.2)
    (sa,) = net.b.endpoint.sas(NAME)
    sa.die("")
    net.run(1)
    assert not net.b.of(Established)
    assert [datagram.local for datagram in net.sent].count(B) == 1, "nor is it answered"


def test_peers_that_are_refused_make_room_for_others() -> None:
    """Else a few wrong secrets would have everybody asked for cookies."""
    net = Net(1, connection("a", credentials=auth.Psk(b"another one")))
    for _ in range(HALF_OPEN_COOKIES + 1):
        net.a.endpoint.initiate(NAME, net.now)
        net.run(0.5)
    net.a = Side(net.a_again())
    before = len(net.sent)
    net.connect()
    assert len(net.sent) == before + 4


def test_of_strangers_that_come_and_go_nothing_is_told_as_closed() -> None:
    """A connection is closed that was there."""
    net = Net()
    half_open(net, 3)
    net.run(HALF_OPEN_S + 1)
    assert not net.b.endpoint.sas(NAME)
    assert not net.b.of(Closed)


def test_who_is_begun_with_waits_a_while_before_it_begins() -> None:
    net = Net()
    net.a.endpoint.initiate(NAME, net.now)
    net.judge = lambda datagram: [] if Header.decode(datagram.data).exchange == Exchange.IKE_AUTH else [0.01]
    net.run(0.1)
    assert net.b.endpoint.begins(NAME, net.now)
    assert not net.a.endpoint.begins(NAME, net.now)
    assert not net.b.endpoint.begins(NAME, net.now + FIRST_S)


# -- what is kept -------------------------------------------------------------------------------------------------


def test_what_has_served_its_purpose_is_not_kept() -> None:
    """The first messages after IKE_AUTH, fragments after the message that they were."""
    extra = tuple(Notification(41999, bytes(200)) for _ in range(10))
    limit = {"notifies": extra, "fragment_bytes": 500}
    net = Net(1, connection("a", **limit), connection("b", **limit)).connect()
    for side in (net.a, net.b):
        (sa,) = side.live()
        assert sa.initial is None
        assert not sa._channel.assemblies


def test_no_key_is_in_the_text_of_anything() -> None:
    """Tracebacks and logs print what objects call themselves."""
    net = Net()
    net.a.endpoint.initiate(NAME, net.now)
    net.run(0.025)
    (half,) = net.b.endpoint.sas(NAME)
    said = [repr(half.initial)]
    net.run(1)
    (sa,) = net.a.live()
    (up,) = net.a.children().values()
    (child,) = sa.children.values()
    said += [repr(one) for one in (sa.keys, sa.connection, sa.connection.credentials, up, child)]
    secrets = [sa.keys.d, sa.keys.ei, sa.keys.er, sa.keys.pi, sa.keys.pr, up.child.inbound.key, up.child.outbound.salt,
               b"a secret that both sides have"]  # fmt: skip
    for text in said:
        for secret in secrets:
            assert repr(secret)[2:-1] not in text
            assert secret.hex() not in text

"""Exchanges between two endpoints over a network that loses nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ikekit import NAME, WALL, A, B, Net, Side, connection, for_member
from propkit import examples

from fwd.proto.ike import auth
from fwd.proto.ike.endpoint import Endpoint
from fwd.proto.ike.events import (
    Address,
    ChildConfirmed,
    ChildDown,
    ChildRefused,
    ChildUp,
    Closed,
    Datagram,
    Established,
    Rejected,
)
from fwd.proto.ike.limits import HALF_OPEN_COOKIES, HALF_OPEN_S, IKE_SAS_MAX, INIT_ERROR_S
from fwd.proto.ike.message import Header, encode_clear
from fwd.proto.ike.numbers import Exchange, Flag, Notify, Payload
from fwd.proto.ike.payloads import Notification


def test_two_endpoints_connect_in_two_exchanges() -> None:
    net = Net().connect()
    assert len(net.sent) == 4
    assert [auth.name_of(event.peer) for event in net.a.of(Established)] == ["b.example"]
    assert [auth.name_of(event.peer) for event in net.b.of(Established)] == ["a.example"]
    net.check_agreement()
    (child,) = net.a.children().values()
    assert child.child.proposal == "aes256gcm16-esn"
    assert [str(n) for one in child.child.local_ts for n in one.networks()] == ["10.1.0.0/16"]


@pytest.mark.parametrize("prf", ["prfsha256", "prfsha384"])
@pytest.mark.parametrize("group", ["x25519", "ecp256", "ecp384"])
@pytest.mark.parametrize("cipher", ["aes256gcm16", "aes128gcm16"])
def test_every_algorithm(cipher: str, prf: str, group: str) -> None:
    words = {"ike": (f"{cipher}-{prf}-{group}",), "esp": (f"{cipher}-{group}-noesn",)}
    net = Net(1, connection("a", **words), connection("b", **words)).connect()
    net.a.endpoint.create_child(NAME, 1, for_member(1), net.now)
    net.b.endpoint.rekey_ike(NAME, net.now)
    net.run(5)
    net.check_agreement()
    assert len(net.a.children()) == 2
    assert {len(up.child.inbound.key) * 8 for up in net.a.children().values()} == {int(cipher[3:6])}


def test_another_group_is_asked_for() -> None:
    both = ("aes256gcm16-prfsha256-x25519-ecp384",)
    net = Net(1, connection("a", ike=both), connection("b", ike=("aes256gcm16-prfsha256-ecp384",))).connect()
    assert len(net.sent) == 6
    assert not net.b.of(Rejected), "to ask is not to refuse"
    net.check_agreement()


def test_a_group_that_is_asked_for_is_two_octets_however_many_come() -> None:
    """Python refuses to print the number that thousands would be."""
    net = Net()
    net.a.endpoint.initiate(NAME, net.now)
    (first,) = net.a.endpoint.datagrams_to_send()
    answer = replace(Header.decode(first.data), flags=Flag.RESPONSE)
    asked = Notification(Notify.INVALID_KE_PAYLOAD, b"\xff" * 3000)
    net.a.endpoint.receive(encode_clear(answer, [asked]), A, B, net.now)
    net.run(INIT_ERROR_S + 0.1)
    assert [event.error for event in net.a.of(Closed)] == ["the peer asks for group 65535"]


def test_no_common_proposal() -> None:
    net = Net(1, connection("a", ike=("aes128gcm16-prfsha256-x25519",)))
    net.a.endpoint.initiate(NAME, net.now)
    net.run(INIT_ERROR_S + 0.1)
    (closed,) = net.a.of(Closed)
    assert "NO_PROPOSAL_CHOSEN" in closed.error
    assert [getattr(event, "error", None) for event in net.b.events] == ["no common IKE proposal"]
    assert not net.b.endpoint.sas(NAME)


def test_no_common_esp_proposal_leaves_an_ike_sa_without_child() -> None:
    net = Net(1, connection("a", esp=("aes128gcm16-esn",))).connect()
    assert [event.notify for event in net.a.of(ChildRefused)] == [Notify.NO_PROPOSAL_CHOSEN]
    assert not net.a.of(ChildUp)
    assert not net.b.of(ChildUp)


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_wrong_secret(side: str) -> None:
    net = Net(1, **{side: connection(side, credentials=auth.Psk(b"another one"))})
    net.a.endpoint.initiate(NAME, net.now)
    net.run(60)
    (closed,) = net.a.of(Closed)
    assert "AUTHENTICATION_FAILED" in closed.error
    assert not net.a.of(Established)
    assert not net.b.of(Established)
    assert not net.a.endpoint.sas(NAME)
    assert not net.b.endpoint.sas(NAME)


def test_a_wrong_identity_of_the_responder() -> None:
    other = auth.identity("c.example", Payload.IDR)
    net = Net(1, connection("a", remote_id=other))
    net.a.endpoint.initiate(NAME, net.now)
    net.run(60)
    assert "AUTHENTICATION_FAILED" in net.a.of(Closed)[0].error
    assert not net.b.live()


def test_a_child_more_and_its_rekeying_by_either_side() -> None:
    net = Net().connect()
    net.a.endpoint.create_child(NAME, 3, for_member(3), net.now)
    net.run(1)
    assert sorted(up.child.member for up in net.b.children().values()) == [0, 3]
    for side in (net.a, net.b):
        before = dict(side.children())
        for spi in before:
            side.endpoint.rekey_child(NAME, spi, net.now)
        net.run(5)
        net.check_agreement()
        assert len(side.children()) == 2
        assert not set(before) & set(side.children())
        assert sorted(up.child.member for up in side.children().values()) == [0, 3]
        assert {up.replaces for up in side.children().values()} == set(before)


def test_the_ike_sa_is_rekeyed_and_keeps_its_children() -> None:
    net = Net().connect()
    old, children = net.a.live()[0].spi_i, set(net.a.children())
    for side in (net.a, net.b):
        side.endpoint.rekey_ike(NAME, net.now)
        net.run(5)
        net.check_agreement()
        assert net.a.live()[0].spi_i != old
        assert set(net.a.children()) == children
        assert len(net.a.endpoint.sas(NAME)) == len(net.b.endpoint.sas(NAME)) == 1
        old = net.a.live()[0].spi_i
    net.b.endpoint.create_child(NAME, 1, for_member(1), net.now)
    net.run(1)
    net.check_agreement()
    assert not net.a.of(Closed)


def test_of_a_peer_that_begins_without_end_only_so_many_ike_sas_are_held() -> None:
    net = Net()
    for _ in range(2 * IKE_SAS_MAX):
        net.a = Side(net.a_again())
        net.connect()
    assert len(net.b.live()) == len(net.b.endpoint.sas(NAME)) == IKE_SAS_MAX
    assert net.a.live()[0].spi_i == net.b.live()[-1].spi_i, "the newest one stays"
    net.b.check_told()
    assert not net.b.of(Closed)


def test_a_child_is_deleted_on_both_sides() -> None:
    net = Net().connect()
    (spi,) = net.a.children()
    net.b.endpoint.delete_child(NAME, net.a.children()[spi].child.outbound.spi, net.now)
    net.run(1)
    assert not net.a.children()
    assert not net.b.children()
    assert net.a.live()


def test_terminating_ends_everything_on_both_sides() -> None:
    net = Net().connect()
    net.a.endpoint.terminate(NAME, net.now)
    net.run(1)
    for side in (net.a, net.b):
        assert len(side.of(ChildDown)) == 1
        assert [event.error for event in side.of(Closed)] == [""]
        assert not side.endpoint.sas(NAME)


def test_a_silent_peer_is_dead_after_its_liveness_is_not_answered() -> None:
    net = Net().connect()
    net.judge = lambda datagram: []
    net.run(9)
    assert len(net.sent) == 4
    net.run(60)
    for side in (net.a, net.b):
        assert [event.error for event in side.of(Closed)] == ["the peer does not answer"]
        assert not side.children()


def test_a_child_sa_is_rekeyed_once_however_often_that_is_asked_for() -> None:
    """A member says that its SA nears its end until there is another one, and the peer may be long in answering."""
    net = Net().connect()
    (spi,) = net.a.children()
    net.judge = lambda datagram: []
    for _ in range(50):
        assert net.a.endpoint.rekey_child(NAME, spi, net.now)
        net.run(0.2)
        net.a.endpoint.heard(NAME, net.now)
    assert len(net.a.live()[0].tasks()) == 1


def test_copies_of_what_a_dead_peer_has_sent_do_not_keep_it_alive() -> None:
    """RFC 7296 §2.4: a message must be fresh, not one sent again; anybody on the way may have kept it."""
    net = Net().connect()
    late = next(one for one in reversed(net.sent) if one.local[0] == A[0])  # the last request of `a`, IKE_AUTH
    net.judge = lambda datagram: []
    for _ in range(25):
        net.run(3)
        net.deliver(late)
    assert [event.error for event in net.b.of(Closed)] == ["the peer does not answer"]


def test_liveness_is_asked_only_when_nothing_is_heard() -> None:
    net = Net().connect()
    net.run(100)
    asked = len(net.sent) - 4
    assert 2 * 9 <= asked <= 2 * 2 * 10
    assert net.a.live()


def test_of_two_fwds_the_initiator_asks_whether_the_other_lives_and_the_responder_only_if_it_does_not() -> None:
    """The answer shows that both live: two that asked at the same moments would ask twice as often as is configured."""
    for a, who_asks in ((connection("a"), A), (connection("a", liveness_s=0.0), B)):
        net = Net(1, a).connect()
        so_far = len(net.sent)
        net.run(100)
        requests = [one for one in net.sent[so_far:] if not Header.decode(one.data).is_response]
        assert {one.local for one in requests} == {who_asks}
        assert 8 <= len(requests) <= 10


# A → B  IKE_SA_INIT                       both are under way at once; who has the lower address goes first (both.py)
# B → A  IKE_SA_INIT
# A → B  IKE_AUTH                          B answers, and gives up its own attempt, which A has not answered
def test_both_sides_begin_at_once() -> None:
    net = Net()
    net.a.endpoint.initiate(NAME, net.now)
    net.b.endpoint.initiate(NAME, net.now)
    net.run(5)
    assert net.a.live()
    assert net.b.live()


def test_long_messages_go_in_fragments() -> None:
    extra = tuple(Notification(41999, bytes(200)) for _ in range(20))
    limit = {"notifies": extra, "fragment_bytes": 500}
    net = Net(1, connection("a", **limit), connection("b", **limit)).connect()
    assert max(len(datagram.data) for datagram in net.sent) <= 500
    assert len(net.sent) > 10
    net.check_agreement()


def half_open(net: Net, count: int) -> None:
    """So many strangers begin with `b`, at addresses of their own, and stop there."""
    for n in range(count):
        net.a.endpoint.initiate(NAME, net.now)
        (datagram,) = net.a.endpoint.datagrams_to_send()
        net.b.endpoint.receive(datagram.data, B, (A[0], 10_000 + n), net.now)
    net.a = Side(net.a_again())


def test_many_half_open_strangers_cost_no_state_and_a_peer_with_a_cookie_passes() -> None:
    net = Net()
    half_open(net, 3 * HALF_OPEN_COOKIES)
    held = len(net.b.endpoint.sas(NAME))
    assert held == HALF_OPEN_COOKIES
    answers = net.b.endpoint.datagrams_to_send()
    assert len(answers) == 3 * HALF_OPEN_COOKIES
    assert max(map(len, (answer.data for answer in answers[HALF_OPEN_COOKIES:]))) < 100, "a cookie is all they get"
    net.connect()
    assert len(net.sent) == 6
    net.check_agreement()
    net.run(HALF_OPEN_S + 1)
    assert len(net.b.endpoint.sas(NAME)) == 1


def test_of_connections_between_the_same_addresses_the_port_tells_which_one_is_begun() -> None:
    net = Net()
    ports = {"one": 500, "another": 4711}
    made = [connection("b", name=name, local=(B[0], port)) for name, port in ports.items()]
    endpoint = Endpoint(made, net.dice.randbytes, lambda: WALL)
    for port, begun in ((4711, (0, 1)), (500, (1, 1)), (9, (1, 1))):
        net.a.endpoint.initiate(NAME, net.now)
        (first,) = net.a.endpoint.datagrams_to_send()
        endpoint.receive(first.data, (B[0], port), A, net.now)
        assert tuple(len(endpoint.sas(name)) for name in ports) == begun


def test_a_request_that_comes_again_is_answered_alike_and_makes_nothing_new() -> None:
    net = Net()
    net.a.endpoint.initiate(NAME, net.now)
    (first,) = net.a.endpoint.datagrams_to_send()
    answers = []
    for _ in range(3):
        net.b.endpoint.receive(first.data, B, A, net.now)
        answers += net.b.endpoint.datagrams_to_send()
    assert len(answers) == 3
    assert len({answer.data for answer in answers}) == 1
    assert len(net.b.endpoint.sas(NAME)) == 1


def test_a_lost_message_is_sent_again_bit_by_bit() -> None:
    net = Net()
    lost: list[bytes] = []

    def lose_first(datagram: Datagram) -> list[float]:
        if datagram.data not in lost:
            lost.append(datagram.data)
            return []
        return [0.01]

    net.judge = lose_first
    net.a.endpoint.initiate(NAME, net.now)
    net.run(30)
    net.check_agreement()
    assert net.a.live()


def test_the_peer_is_followed_to_a_new_port_when_it_has_authenticated() -> None:
    net = Net().connect()
    moved = A[0], 9
    net.b.endpoint.receive(b"garbage", B, moved, net.now)
    assert net.b.live()[0].remote == A
    net.a.endpoint.create_child(NAME, 1, for_member(1), net.now)
    (datagram,) = net.a.endpoint.datagrams_to_send()
    net.b.endpoint.receive(datagram.data[:-1] + b"x", datagram.remote, moved, net.now)
    assert net.b.live()[0].remote == A
    net.b.endpoint.receive(datagram.data, datagram.remote, moved, net.now)
    assert net.b.live()[0].remote == moved


class ChangedNet(Net):
    """One octet of every IKE_SA_INIT message to one side is another."""

    def __init__(self, to: Address, at: int, mask: int) -> None:
        super().__init__()
        self._to, self._at, self._mask = to, at, mask

    def deliver(self, datagram: Datagram) -> None:
        data = bytearray(datagram.data)
        if datagram.remote == self._to and Header.decode(datagram.data).exchange == Exchange.IKE_SA_INIT:
            data[self._at % len(data)] ^= self._mask
        super().deliver(replace(datagram, data=bytes(data)))


@settings(max_examples=examples(150))
@given(st.sampled_from([A, B]), st.integers(0, 300), st.integers(1, 255))
def test_over_a_first_message_that_was_changed_no_ike_sa_comes_about(to: Address, at: int, mask: int) -> None:
    """RFC 7296 §2.15: both sign what they sent, and nothing else keeps a stranger from weakening it."""
    net = ChangedNet(to, at, mask)
    net.a.endpoint.initiate(NAME, net.now)
    net.run(60)
    assert not net.side(to).of(Established)
    assert not net.a.live()
    assert not net.b.live()


def test_somebody_who_only_seems_to_be_the_peer_does_not_end_our_attempt() -> None:
    """A first message can be forged by anybody; ours goes on beside it, however often one comes."""
    net = Net()
    net.b.endpoint.initiate(NAME, net.now)
    for _ in range(3):
        stranger = Side(net.a_again())
        stranger.endpoint.initiate(NAME, net.now)
        (forged,) = stranger.endpoint.datagrams_to_send()
        net.b.endpoint.receive(forged.data, B, A, net.now)
    net.run(1)
    assert net.b.live()
    net.check_agreement()


def test_the_next_request_shows_that_the_peer_has_the_answer_by_which_it_made_a_child_sa() -> None:
    net = Net().connect()
    net.a.endpoint.create_child(NAME, 1, for_member(1), net.now)
    net.run(1)
    first, second = (up.child for up in net.b.of(ChildUp))
    assert [(event.member, event.spi) for event in net.b.of(ChildConfirmed)] == [(0, first.inbound.spi)]
    net.a.endpoint.rekey_ike(NAME, net.now)
    net.run(1)
    assert [event.spi for event in net.b.of(ChildConfirmed)] == [first.inbound.spi, second.inbound.spi]
    assert net.a.of(ChildConfirmed) == []


def test_a_request_that_comes_again_shows_nothing() -> None:
    net = Net().connect()
    net.judge = lambda datagram: [0.01] if datagram.local[0] == A[0] else []  # answers are lost
    net.a.endpoint.create_child(NAME, 1, for_member(1), net.now)
    net.run(3)
    assert len(net.b.of(ChildUp)) == 2
    assert len(net.b.of(ChildConfirmed)) == 1

"""Where the peer is followed: the table of mobility.py, and what it takes for another address to count."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from ikekit import NAME, A, B, Net, ask, connection, for_member

from fwd.proto.ike import initial, mobility
from fwd.proto.ike.events import Address, Closed, Datagram, Moved, Strayed
from fwd.proto.ike.mobility import PROBE_EVERY_S, Whereabouts, heard_from, judge
from fwd.proto.ike.numbers import VENDOR_ID, Exchange, Notify
from fwd.proto.ike.payloads import AnyPayload, Notification, Vendor

HERE, THERE = ("192.0.2.1", 500), ("192.0.2.2", 500)
X: Address = ("203.0.113.9", 7777)
PORT, ADDRESS, LOCAL = (HERE, ("192.0.2.2", 9)), (HERE, X), (("192.0.2.1", 4500), THERE)
STAY, MOVE, CHECK, STRAY = Whereabouts.STAY, Whereabouts.MOVE, Whereabouts.CHECK, Whereabouts.STRAY


@pytest.mark.parametrize(
    ("kind", "nat", "port", "address", "local"),
    [
        ("none", False, STRAY, STRAY, STAY),
        ("none", True, STRAY, STRAY, STAY),
        ("port", False, MOVE, STRAY, MOVE),
        ("port", True, MOVE, CHECK, MOVE),
        ("address", False, MOVE, CHECK, MOVE),
        ("address", True, MOVE, CHECK, MOVE),
    ],
)
def test_the_table(
    kind: Literal["none", "port", "address"], nat: bool, port: Whereabouts, address: Whereabouts, local: Whereabouts
) -> None:
    def verdict(seen: mobility.Path, *, established: bool = True, before_us: bool = False) -> Whereabouts:
        return judge(kind, (HERE, THERE), seen, established=established, nat_before_us=before_us, nat_before_peer=nat)

    assert [verdict(seen) for seen in (PORT, ADDRESS, LOCAL)] == [port, address, local]
    assert verdict((HERE, THERE)) is STAY
    # Nobody has proved anything yet: an address would be anybody's.
    assert [verdict(seen, established=False) for seen in (PORT, ADDRESS, LOCAL)] == [MOVE, STAY, MOVE]
    assert [verdict(seen, before_us=True) for seen in (PORT, ADDRESS, LOCAL)] == [STAY] * 3


class Roaming:
    """`b` may be seen at, and reached by, other addresses than its own; `a` is to follow."""

    def __init__(self, *, nat: bool = False, fwd: bool = True, **changes: Any) -> None:
        self.net = Net(1, connection("a", **changes), connection("b"))
        self.net.connect()
        (self.sa,) = self.net.a.live()
        self.sa.peer.is_fwd = fwd
        self.sa.peer.behind_nat = nat
        self.at = B  # where it is
        self.sent: list[Datagram] = []  # by `a`
        self.answers = True

    def says(self, seen: Address | None = None) -> bytes:
        """A fresh message of `b`'s comes to `a`."""
        self.net.b.endpoint.create_child(NAME, 1, for_member(1), self.net.now)
        (request,) = self.net.b.endpoint.datagrams_to_send()
        self.net.a.endpoint.receive(request.data, A, seen or self.at, self.net.now)
        return request.data

    def run(self, seconds: float = 0.0, *, lies: Address | None = None) -> None:
        """What `a` sends to where `b` is comes there, and what `b` answers comes from there, or seems to (`lies`)."""
        a, b, until = self.net.a, self.net.b, self.net.now + seconds
        while True:
            for _ in range(10):
                for one in a.endpoint.datagrams_to_send():
                    self.sent.append(one)
                    if one.remote == self.at and self.answers:
                        b.endpoint.receive(one.data, B, A, self.net.now)
                for one in b.endpoint.datagrams_to_send():
                    a.endpoint.receive(one.data, A, lies or self.at, self.net.now)
            if self.net.now >= until:
                break
            self.net.now += 0.1
            for side in (a, b):
                side.endpoint.handle_timeout(self.net.now)
        a.collect()
        b.collect()

    @property
    def moved(self) -> list[Address]:
        return [event.remote for event in self.net.a.of(Moved)]

    @property
    def strayed(self) -> list[Strayed]:
        return self.net.a.of(Strayed)

    def targets(self) -> set[Address]:
        return {one.remote for one in self.sent}


def test_one_message_from_another_address_moves_nothing() -> None:
    """Not even behind a NAT, nor where the address may change: it is answered once, and looked at."""
    for changes in ({}, {"mobility": "address"}, {"nat": True}, {"mobility": "none"}):
        roaming = Roaming(**changes)
        roaming.says(X)  # held back, and sent on by who is on the path
        roaming.run(60.0)
        assert roaming.moved == []
        assert roaming.sa.remote == B
        assert roaming.sa in roaming.net.a.live()
        assert len([one for one in roaming.sent if one.remote == X]) <= 1 + mobility.PROBE_TRIES
        assert roaming.strayed
        roaming.net.check_agreement()


@pytest.mark.parametrize("changes", [{"mobility": "address"}, {"nat": True}, {"nat": True, "fwd": False}])
def test_a_peer_that_answers_at_its_new_address_is_followed(changes: dict[str, Any]) -> None:
    roaming = Roaming(**changes)
    roaming.at = X
    roaming.says()
    roaming.run(1.0)
    assert roaming.moved == [X]
    assert roaming.strayed == []
    roaming.net.a.endpoint.rekey_ike(NAME, roaming.net.now)
    roaming.run(1.0)
    (sa,) = roaming.net.a.live()
    assert sa.remote == X
    assert sa.peer.behind_nat == roaming.sa.peer.behind_nat
    roaming.net.check_agreement()


@pytest.mark.parametrize("changes", [{}, {"mobility": "none"}])
def test_a_peer_that_may_not_move_is_not_even_looked_for(changes: dict[str, Any]) -> None:
    roaming = Roaming(**changes)
    roaming.at = X
    roaming.says()
    roaming.run(0.3)
    assert roaming.moved == []
    assert [one.remote for one in roaming.strayed] == [X]
    assert all(one.remote == X for one in roaming.sent), "its request is answered where it came from"
    assert len(roaming.sent) == 1


def test_a_port_is_followed_unless_that_is_forbidden() -> None:
    cases: list[tuple[dict[str, Any], bool]] = [({}, True), ({"mobility": "none"}, False)]
    for changes, moves in cases:
        roaming = Roaming(**changes)
        roaming.at = (B[0], 60_000)
        roaming.says()
        roaming.run(0.3)
        assert roaming.moved == ([roaming.at] if moves else [])


def test_a_peer_that_writes_another_address_cannot_answer_for_it() -> None:
    """It knows every message id, and has all keys; but the octets that it must give back went to the other address."""
    roaming = Roaming(mobility="address")
    roaming.says(X)
    roaming.run()
    (peer,) = roaming.net.b.live()
    (probe,) = [one.task for one in [roaming.sa._window.request] if one]
    assert isinstance(probe, mobility.Probe)
    _answer_blindly(roaming, peer)
    roaming.run(2.0)
    assert roaming.moved == []
    assert [one.reason for one in roaming.strayed] == ["the answer is not to our request"]


def _answer_blindly(roaming: Roaming, peer: Any) -> None:
    """What the peer would answer to a request that it has not seen."""
    header = peer._header(Exchange.INFORMATIONAL, roaming.sa._window.next_id, response=True)
    for data in peer._encode(header, [Notification(Notify.COOKIE2, bytes(16))]):
        roaming.net.a.endpoint.receive(data, A, X, roaming.net.now)


def test_an_answer_from_where_the_peer_was_moves_nothing() -> None:
    """It is sent the cookie nowhere but at the new address: one that has it answers from there."""
    roaming = Roaming(mobility="address")
    roaming.at = X
    roaming.says()
    roaming.run(2.0, lies=B)
    assert roaming.moved == []
    assert [one.reason for one in roaming.strayed] == ["the answer came from elsewhere"]


def test_the_cookie_never_goes_to_where_the_peer_was() -> None:
    """Else it could be given back with a source address that is somebody else's."""
    roaming = Roaming(mobility="address")
    roaming.says(X)
    roaming.run(20.0, lies=X)
    assert roaming.moved == []
    assert roaming.sa in roaming.net.a.live()


def test_a_request_that_waits_for_a_peer_that_has_moved_finds_it() -> None:
    """Message ids go one by one: before the new address is looked at, the request under way must be answered."""
    roaming = Roaming(mobility="address")
    roaming.at = X
    roaming.net.a.endpoint.create_child(NAME, 2, for_member(2), roaming.net.now)
    roaming.run(1.0)
    assert roaming.moved == []
    roaming.says()
    roaming.run(12.0)
    assert roaming.moved == [X]
    assert sorted(child.keys.member for child in roaming.sa.children.values()) == [0, 1, 2]


def test_a_look_at_the_wrong_port_does_not_keep_the_peer_from_being_found() -> None:
    """Behind a NAT a member's port says nothing of IKE's; the peer's own message does."""
    roaming = Roaming(nat=True)
    roaming.at = X
    heard_from(roaming.sa, (X[0], 0), roaming.net.now)
    roaming.run(5.0)
    assert roaming.moved == []
    roaming.says()
    roaming.run(12.0)
    assert roaming.moved == [X]
    assert roaming.sa in roaming.net.a.live()


def test_looks_are_bounded_however_many_messages_come_from_elsewhere() -> None:
    roaming = Roaming(mobility="address")
    start = roaming.net.now
    for n in range(200):
        heard_from(roaming.sa, (f"203.0.113.{n % 200 + 1}", 0), roaming.net.now)
        roaming.run(0.2)
    looks = [one for one in roaming.sent if one.remote[0].startswith("203.")]
    assert 5 < len(looks) <= mobility.PROBE_TRIES * (1 + (roaming.net.now - start) / PROBE_EVERY_S)
    assert roaming.moved == []
    assert roaming.net.a.of(Closed) == []


def test_traffic_shows_where_the_peer_is() -> None:
    """Members tell keyd of it; of a peer whose ports are its members' own, not from which port IKE would come."""
    for heard, port in ((X, X[1]), ((X[0], 0), B[1])):
        roaming = Roaming(nat=True)
        roaming.at = X[0], port
        heard_from(roaming.sa, heard, roaming.net.now)
        roaming.run(0.5)
        assert roaming.moved == [roaming.at]


@pytest.mark.parametrize("octets", [8, 16, 64])
def test_a_check_of_our_own_address_is_answered(octets: int) -> None:
    """RFC 4555 §3.7."""
    net = Net().connect()
    cookie = Notification(Notify.COOKIE2, bytes(range(octets)))
    assert ask(net, net.a, Exchange.INFORMATIONAL, [cookie]) == [cookie]


@pytest.mark.parametrize("octets", [0, 7, 65, 30_000])
def test_what_is_no_cookie_is_not_given_back(octets: int) -> None:
    net = Net().connect()
    assert ask(net, net.a, Exchange.INFORMATIONAL, [Notification(Notify.COOKIE2, bytes(octets))]) == []


@pytest.mark.parametrize(
    ("said", "nat"),
    [([], False), (["right"], False), (["wrong"], True), (["wrong", "right"], False), (["wrong", "wrong"], True)],
)
def test_a_standard_peer_is_behind_a_nat_if_no_hash_of_its_address_is_right(said: list[str], nat: bool) -> None:
    """RFC 7296 §2.23: it may give several, not knowing from which it sends."""
    net = Net().connect()
    (sa,) = net.a.live()
    spis = sa.spi_i, sa.spi_r
    hashes = {"right": initial.nat_hash(spis, X), "wrong": bytes(20)}
    payloads: list[AnyPayload] = [Notification(Notify.NAT_DETECTION_SOURCE_IP, hashes[one]) for one in said]
    initial._take_extras(sa, payloads, spis, (A, X))
    assert sa.peer.behind_nat == nat
    initial._take_extras(sa, [*payloads, Vendor(VENDOR_ID)], spis, (A, X))
    assert not sa.peer.behind_nat, "another fwd tells the truth elsewhere"

"""IKE SAs of a connection that is no more: the peer is told until it has answered, and for no longer than a while."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
from ikekit import NAME, WALL, A, Net, connection

from fwd.proto.ike.endpoint import Endpoint
from fwd.proto.ike.events import Datagram
from fwd.proto.ike.exchanges import Liveness
from fwd.proto.ike.leaving import LEAVES_S, Leaving
from fwd.proto.ike.message import Header
from fwd.proto.ike.numbers import Exchange
from fwd.proto.ike.table import Commons

RETRANSMISSIONS = 4


class Left:
    """Two endpoints that are joined; what `a` has leaves."""

    def __init__(self) -> None:
        self.net, self.commons = Net(), Commons()
        net = self.net
        net.a.endpoint = Endpoint([connection("a")], net.dice.randbytes, lambda: WALL + net.now, commons=self.commons)
        net.connect()
        self.leaving = Leaving(random.Random(1).randbytes, self.commons)

    def leave(self) -> None:
        """The connection of `a` is no more."""
        home = self.net.a.endpoint
        self.leaving.take(home, self.net.now)
        home.close()
        self.net.a.endpoint = self.leaving

    def deletes(self) -> list[Datagram]:
        """What `a` has sent on the IKE SA since."""
        return [one for one in self.net.sent if one.local == A and header(one).exchange == Exchange.INFORMATIONAL]


def header(datagram: Datagram) -> Header:
    return Header.decode(datagram.data)


@pytest.fixture
def left() -> Left:
    return Left()


def test_the_peer_is_told_and_nothing_is_left(left: Left) -> None:
    left.leave()
    left.net.run(1.0)
    assert not left.net.b.live()
    assert len(left.deletes()) == 1
    left.net.run(LEAVES_S)
    assert not left.commons.homes
    assert left.leaving.next_timeout() is None


@pytest.mark.parametrize("lost", range(1, RETRANSMISSIONS + 1))
def test_a_delete_that_is_lost_is_sent_again(left: Left, lost: int) -> None:
    left.net.judge = lambda datagram: [] if len(left.deletes()) <= lost else [0.01]
    left.leave()
    left.net.run(LEAVES_S)
    assert not left.net.b.live()
    assert len(left.deletes()) == lost + 1
    assert len({one.data for one in left.deletes()}) == 1, "bit by bit"


def test_an_answer_that_is_lost_is_given_again(left: Left) -> None:
    answers: list[Datagram] = []

    def judge(datagram: Datagram) -> list[float]:
        answers.extend([datagram] if header(datagram).is_response else [])
        return [] if header(datagram).is_response and len(answers) == 1 else [0.01]

    left.net.judge = judge
    left.leave()
    left.net.run(LEAVES_S)
    assert len(answers) == len(left.deletes()) == 2


def test_a_peer_that_is_away_is_given_up(left: Left) -> None:
    left.net.judge = lambda datagram: []
    left.leave()
    left.net.run(60.0)
    assert len(left.deletes()) == 1 + RETRANSMISSIONS
    assert not left.commons.homes
    assert left.leaving.next_timeout() is None


def test_a_request_that_is_under_way_does_not_keep_the_delete_back(left: Left) -> None:
    left.net.judge = lambda datagram: []
    left.net.a.endpoint.rekey_child(NAME, next(iter(left.net.a.children())), left.net.now)
    left.net.flush()
    left.net.judge = lambda datagram: [0.01]
    left.leave()
    left.net.run(0.1)
    assert not left.net.b.live()
    left.net.run(LEAVES_S)
    assert not left.commons.homes


def test_nobody_can_begin_with_what_leaves(left: Left) -> None:
    left.net.judge = lambda datagram: [0.01]
    left.leave()
    left.net.run(1.0)
    left.net.b.endpoint.initiate(NAME, left.net.now)
    left.net.run(LEAVES_S)
    assert not left.net.b.live()
    assert not left.commons.homes


def begin_liveness(endpoint: Endpoint, now: float) -> None:
    (sa,) = endpoint.sas(NAME)
    sa.submit(Liveness(), now)


def begin_to_rekey_a_child(endpoint: Endpoint, now: float) -> None:
    (sa,) = endpoint.sas(NAME)
    endpoint.rekey_child(NAME, next(iter(sa.children)), now)


UNDER_WAY = {
    "a new IKE SA": lambda endpoint, now: endpoint.rekey_ike(NAME, now),
    "a Child SA more": lambda endpoint, now: endpoint.create_child(NAME, 0, (), now),
    "a Child SA's successor": begin_to_rekey_a_child,
    "whether the peer lives": begin_liveness,
}


@pytest.mark.parametrize("lost", range(6))
@pytest.mark.parametrize("begin", UNDER_WAY.values(), ids=list(UNDER_WAY))
def test_what_is_under_way_leaves_too(begin: Callable[[Endpoint, float], object], lost: int) -> None:
    """Whatever the peer's answer makes is deleted as well; any one datagram may be lost."""
    left = Left()
    begin(left.net.a.endpoint, left.net.now)
    left.net.flush()
    left.leave()
    count = itertools.count()
    left.net.judge = lambda datagram: [] if next(count) == lost else [0.01]
    left.net.run(3 * LEAVES_S)
    assert not left.net.b.live()
    assert not left.net.b.children()
    assert not left.commons.homes

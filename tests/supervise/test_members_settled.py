"""A peering in which nothing is under way is left alone, until something is new that its masks or its demux follow."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fwd.datapath import channel
from fwd.datapath.shared import LinkWord, PeeringShared, ProcessState
from fwd.model.config import Peering
from fwd.supervise.members import Members
from fwd.supervise.policy import BACK_S, Life
from fwd.supervise.rings import LATE_S

MEMBERS = 3


class Parts:
    """Of a peering that changes; `acts`: what was done for it."""

    def __init__(self) -> None:
        self.want(MEMBERS)
        self.shared = PeeringShared(MEMBERS)
        self.pairs = [object() for _ in range(MEMBERS)]
        self.resized = self.retired = 0
        self.memory = SimpleNamespace(opened=lambda *_: nullcontext({}))
        self.acts: list[object] = []

    def want(self, members: int) -> None:
        self.peering = Peering.model_construct(
            name="p", members=members, drain_deadline=5, remote_addrs=IPv4Address("192.0.2.2")
        )

    @property
    def count(self) -> int:
        return len(self.pairs)

    def tell_masks(self, live: int, draining: int, over: int) -> None:
        for word, mask in enumerate((live, draining, over)):
            self.shared.live[word] = mask
        self.acts.append(("masks", live, draining, over))

    def wake_demux(self) -> None:
        self.acts.append("demux told")

    def drop_member(self) -> None:
        self.pairs.pop()
        self.shared.members.pop()
        self.resized += 1
        self.retired -= 1
        self.acts.append("member closed")


class Looked:
    """A peering at rest, what looks at it turn by turn, and the demux's end of its channel."""

    def __init__(self) -> None:
        self.now = 100.0
        self.parts = cast(Any, Parts())
        self.lives = [Life(ProcessState.RUNNING) for _ in range(MEMBERS)]
        self.demux = SimpleNamespace(process=object(), signal=self.parts.acts.append)
        children: Any = {f"p/member-{i}": SimpleNamespace(life=life) for i, life in enumerate(self.lives)}
        self.members = Members(children | {"p/demux": self.demux}, lambda _: None, lambda: None, lambda: True)
        self.members.renew(self.parts)
        for member in self.parts.shared.members:
            self.begin(member)
        assert self.turn(stirred=True) == [("masks", 0b111, 0, 0)]
        assert self.turn() == []

    def begin(self, member: Any) -> None:
        member.process.put(ProcessState.RUNNING, 1, 0, 0, 1)
        member.ledger.begin(1, 1)
        member.link[LinkWord.SPI_OUT] = 1

    def turn(self, after_s: float = 0.2, *, stirred: bool = False) -> list[object]:
        """Look once more; returns what was done for it."""
        self.now += after_s
        for life in self.lives:
            life.turned_at = self.now
        del self.parts.acts[:]
        self.members.turn(self.parts, 0.0, self.now, stirred=stirred)
        return list(self.parts.acts)

    def tell(self, far: int) -> None:
        """What keyd writes when the peer has told how many members it has."""
        self.parts.shared.far_members = (far, 1.0)

    def want(self, members: int) -> None:
        """What a reload does."""
        self.parts.want(members)

    def answer(self) -> None:
        """What a demux does that is told of rings."""
        while channel.hear(self.members.of(self.parts).rings.channel(), lambda notice: None):
            pass

    def close(self) -> None:
        self.members.close()


@pytest.fixture
def looked() -> Iterator[Callable[[], Looked]]:
    with ExitStack() as undo:

        def make() -> Looked:
            one = Looked()
            undo.callback(one.close)
            return one

        yield make


@pytest.fixture
def one(looked: Callable[[], Looked]) -> Looked:
    return looked()


def test_nothing_is_looked_at_of_a_peering_in_which_nothing_is_new(
    one: Looked, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(one.members, "_drain", never)
    monkeypatch.setattr(one.members, "_publish", never)
    assert one.turn() == []
    with pytest.raises(AssertionError):
        one.turn(stirred=True)


def test_a_member_that_has_stirred_is_followed(one: Looked) -> None:
    one.parts.shared.members[1].link[LinkWord.SPI_OUT] = 0
    assert one.turn(stirred=True) == [("masks", 0b101, 0, 0)]


def test_members_that_do_not_follow_the_first_one_back_are_left_though_nobody_stirs(one: Looked) -> None:
    links = [member.link for member in one.parts.shared.members]
    for link in links:
        link[LinkWord.PATH_DOWN] = 1
    assert one.turn(stirred=True) == []
    links[0][LinkWord.PATH_DOWN] = 0
    assert one.turn(stirred=True) == []
    assert one.turn(BACK_S / 2) == []
    assert one.turn(BACK_S) == [("masks", 0b001, 0, 0)]
    assert one.turn() == []


def test_what_the_peer_tells_of_its_members_is_followed_though_nobody_has_stirred(one: Looked) -> None:
    one.tell(2)
    assert one.turn() == [("masks", 0b111, 0b100, 0)]
    assert one.turn(2.0) == [("masks", 0b111, 0b100, 0b100)]
    one.tell(3)
    assert one.turn() == [("masks", 0b111, 0, 0)]


def test_a_configuration_that_wants_fewer_members_is_followed_until_they_are_closed(one: Looked) -> None:
    one.want(2)
    assert one.turn() == [("masks", 0b111, 0b100, 0)]
    one.turn(4.0)
    assert one.turn(4.0) == ["member closed", ("masks", 0b011, 0, 0), "demux told"]
    one.answer()
    assert one.turn() == []


def test_members_whose_far_gateway_is_about_to_close_give_up_their_buckets_in_order_if_there_is_another(
    one: Looked,
) -> None:
    """They still send: nothing that waits for them may be given up."""
    until_ns = int((one.now + 60) * 1e9)
    for index in (0, 2):
        one.parts.shared.members[index].far_leaves_until[0] = until_ns
    assert ("masks", 0b111, 0b101, 0b101) in one.turn()
    one.parts.shared.members[1].far_leaves_until[0] = until_ns
    assert ("masks", 0b111, 0, 0) in one.turn(BACK_S)


def test_a_demux_that_does_not_answer_is_looked_at_until_it_is_given_up(one: Looked) -> None:
    one.want(2)
    one.parts.retired = 1
    one.members.close_retired(one.parts)
    assert one.turn() == ["demux told"]
    assert one.turn() == []
    assert one.turn(LATE_S) != []


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_as_much_is_done_as_if_all_were_looked_at_every_turn(
    looked: Callable[[], Looked], seed: int
) -> None:
    lazy, thorough = looked(), looked()
    dice = random.Random(seed)
    for _ in range(300):
        act = dice.choices((Looked.tell, Looked.want, Looked.answer, None), (2, 1, 3, 6))[0]
        far, after_s, stirred = dice.randrange(MEMBERS + 1), dice.choice((0.05, 0.2, 1.0, 4.0)), dice.random() < 0.2
        for one in (lazy, thorough):
            if act is Looked.want:
                one.want(max(1, min(far, one.parts.count)))
            elif act is Looked.tell:
                one.tell(far)
            elif act is not None:
                one.answer()
        thorough.members.of(thorough.parts).settled = ()
        assert lazy.turn(after_s, stirred=stirred) == thorough.turn(after_s, stirred=stirred)

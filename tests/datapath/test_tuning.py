"""A peering's demux and members follow another configuration while they run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from rig import Gateway, Rig, record, rig, sa_keys

from fwd.datapath.tuning import KEYS, Follower, Tuning, publish
from fwd.model.config import Peering
from fwd.model.words import change_of
from fwd.proto.drops import DropReason
from fwd.proto.sa import EventKind, SaSet


@pytest.fixture(autouse=True)
def _level_stays() -> Iterator[None]:
    level = logging.root.level
    yield
    logging.root.setLevel(level)


def follow(gateway: Gateway, log_level: str = "info", **changes: Any) -> None:
    """The supervisor puts another configuration in force, and the members' tick comes."""
    wanted = Peering.model_validate({**gateway.peering.model_dump(), **changes})
    publish(gateway.shared.tuning, Tuning.of(wanted, log_level))
    gateway.peering = wanted
    for member in gateway.members:
        member._do_tick()


def narrowed(r: Rig, subnet: str) -> None:
    follow(r.a, remote_ts=[subnet])
    follow(r.b, local_ts=[subnet])


def test_every_key_that_is_followed_is_marked_live() -> None:
    assert {change_of(Peering, key) for key in KEYS} == {"live"}


@pytest.mark.parametrize("payload", ["superpacket", "esp"])
def test_a_subnet_that_goes_passes_no_more_and_one_that_comes_does(payload: str) -> None:
    with rig(members=2, payload=payload) as r:
        assert r.pass_over(record(1)) == [record(1)]  # the flow is remembered
        narrowed(r, "10.9.0.0/24")
        assert r.pass_over(record(2)) == []
        assert r.a.dropped(DropReason.SELECTOR_OUT) == 1
        narrowed(r, "10.2.0.0/24")
        assert r.pass_over(record(3)) == [record(3)]
        r.a.check_books()
        r.b.check_books()


def test_what_comes_from_a_subnet_that_has_gone_is_dropped() -> None:
    with rig(members=1) as r:
        follow(r.b, remote_ts=["10.9.0.0/24"])
        assert r.pass_over(record(1)) == []
        assert r.b.dropped(DropReason.SELECTOR_IN) == 1
        follow(r.b, remote_ts=["10.1.0.0/24"])
        assert r.pass_over(record(2)) == [record(2)]


def test_what_was_under_way_is_lost_in_no_change() -> None:
    with rig(members=1) as r:
        r.a.send(*map(record, range(1, 9)))
        r.a.demux_turn()
        follow(r.a, audit=False, reorder_packets=9, rekey_packets=4096)
        r.a.work()
        follow(r.b, audit=False, reorder_packets=9, replay_window=4096)
        r.carry()
        assert len(r.b.delivered()) == 8


def test_the_soft_limit_of_an_sa_holds_at_once() -> None:
    with rig(members=1) as r:
        follow(r.a)
        assert r.pass_over(record(1, 1400), record(2, 1400)) != []
        r.a.events(0)
        follow(r.a, rekey_bytes=1000)
        assert EventKind.SOFT_LIMIT in [event.kind for event in r.a.events(0)]


def test_the_hard_limit_of_an_sa_holds_for_those_to_come() -> None:
    """The SA in use was given a longer life: to end it now would lose packets."""
    with rig(members=1) as r:
        r.pass_over(record(1, 1400))
        follow(r.a, rekey_bytes=100, life_bytes=1000)
        assert r.pass_over(record(2, 1400)) == [record(2, 1400)]
        r.a.members[0]._install(SaSet(1, (), sa_keys(1, 0, 1)))
        r.pass_over(record(3, 1400))
        r.a.members[0]._do_tick()
        assert r.pass_over(record(4, 1400)) == []
        assert r.a.dropped(DropReason.SA_EXPIRED) == 1


def test_a_hole_is_waited_for_as_long_as_is_in_force() -> None:
    with rig(members=1) as r:
        groups = []
        for n in range(1, 8):
            r.a.send(record(n))
            r.a.demux_turn()
            r.a.work()
            groups += r.a.wires[0].sent()
        r.b.arrive(0, groups[:1])
        follow(r.b, reorder_packets=1)
        r.b.arrive(0, groups[2:4])
        assert r.b.dropped(DropReason.HOLE) == 1


def test_the_audit_log_can_be_had_and_be_silenced(caplog: pytest.LogCaptureFixture) -> None:
    with rig(members=1) as r:
        groups = []
        for n in range(2):
            r.a.send(record(n))
            r.a.demux_turn()
            r.a.work()
            groups.append(r.a.wires[0].sent())
        for wanted, told in ((False, 0), (True, 1)):
            follow(r.b, audit=wanted)
            r.b.arrive(0, groups[wanted])
            r.b.arrive(0, groups[wanted])  # once more: replayed
            assert [getattr(one, "event", "") for one in caplog.records].count("audit.replayed") == told


def test_the_log_s_level_goes_along() -> None:
    with rig(members=1) as r:
        follow(r.a, log_level="error")
        assert logging.root.level == logging.ERROR


def test_what_is_shown_already_is_no_news() -> None:
    with rig(members=1) as r:
        follower = Follower(r.a.shared.tuning)
        assert follower.news() is None
        follow(r.a)
        assert follower.news() is not None
        follow(r.a)
        assert follower.news() is None


def test_what_is_not_whole_is_looked_at_again() -> None:
    with rig(members=1) as r:
        board, follower = r.a.shared.tuning, Follower(r.a.shared.tuning)
        board.put(b'{"local_ts": [')
        assert follower.news() is None
        publish(board, Tuning.of(r.a.peering))
        assert follower.news() == Tuning.of(r.a.peering)

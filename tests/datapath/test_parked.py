"""Packets of a standard peer on a Child SA that keyd has not told of yet wait for a moment, and are counted once."""

from __future__ import annotations

import pytest
from rig import EPOCHS, Rig, identity_of, record, rig, sa_keys

from fwd.datapath import strangers
from fwd.datapath.counters import MemberCounter
from fwd.proto.drops import DropReason
from fwd.proto.sa import SaKeys

FIRST = EPOCHS  # the first epoch that gateway 2's member does not know


def come_early(r: Rig, count: int) -> SaKeys:
    """Packets on an SA that gateway 2 does not know yet."""
    keys = sa_keys(1, 0, FIRST)
    r.a.members[0].outbound.use(keys)
    for n in range(count):
        r.a.send(record(n))
    r.a.demux_turn()
    r.a.work()
    r.b.arrive(0, r.a.wires[0].sent())
    return keys


def install(r: Rig, *more: SaKeys) -> None:
    r.b.members[0].inbound.install([*(sa_keys(1, 0, epoch) for epoch in range(EPOCHS)), *more])


@pytest.mark.parametrize("count", [1, 2, 30])
def test_they_are_delivered_in_order_once_the_sa_is_there(count: int) -> None:
    with rig(members=1, payload="esp") as r:
        keys = come_early(r, count)
        assert r.b.delivered() == []
        install(r, keys)
        assert [identity_of(data) for data in r.b.delivered()] == list(range(count))
        assert r.b.dropped(DropReason.UNKNOWN_SPI) == 0
        assert r.b.counted(MemberCounter.IN_ESP) == count
        r.b.check_books()


def test_they_wait_while_other_sas_come() -> None:
    with rig(members=1, payload="esp") as r:
        keys = come_early(r, 2)
        install(r, sa_keys(1, 0, FIRST + 1))
        assert r.b.delivered() == []
        r.b.check_books()
        install(r, keys)
        assert len(r.b.delivered()) == 2


def test_without_an_sa_they_are_dropped_after_a_moment() -> None:
    with rig(members=1, payload="esp") as r:
        keys = come_early(r, 3)
        r.b.expire()
        assert r.b.dropped(DropReason.UNKNOWN_SPI) == 3
        install(r, keys)
        assert r.b.delivered() == []
        r.b.check_books()


def test_no_more_than_so_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "WAITING_MAX", 64)  # of which there is room in the test's sockets
    with rig(members=1, payload="esp") as r:
        keys = come_early(r, 64 + 9)
        assert r.b.dropped(DropReason.UNKNOWN_SPI) == 9
        install(r, keys)
        assert len(r.b.delivered()) == 64
        r.b.check_books()


def test_what_waits_dies_with_the_member_and_is_counted() -> None:
    with rig(members=1, payload="esp") as r:
        come_early(r, 5)
        r.b.respawn(0)
        assert r.b.dropped(DropReason.DIED_WITH_MEMBER_IN) == 5
        r.b.check_books()


def test_a_death_after_they_were_taken_up_amid_others_counts_none_twice() -> None:
    """Packets of two SAs come in one batch; the member asks for the second one, and gets that of those that wait."""
    with rig(members=1, payload="esp") as r:
        keys = come_early(r, 2)

        class Killed(Exception):
            pass

        def die_after_news() -> None:
            install(r, keys)
            raise Killed

        r.b.members[0].on_news = die_after_news  # type: ignore[method-assign]
        for epoch in (0, FIRST + 1):
            r.a.members[0].outbound.use(sa_keys(1, 0, epoch))
            r.a.send(*(record(n) for n in range(3)))
            r.a.demux_turn()
            r.a.work()
        with pytest.raises(Killed):
            r.b.arrive_only(0, r.a.wires[0].sent())
        r.b.respawn(0)
        r.b.check_books()


def test_another_fwd_never_sends_too_early_and_is_not_waited_for() -> None:
    with rig(members=1) as r:
        come_early(r, 3)
        assert r.b.dropped(DropReason.UNKNOWN_SPI) > 0
        r.b.check_books()

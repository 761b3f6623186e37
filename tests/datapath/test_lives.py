"""The lives of SAs, which the member ends itself: by deadline, packets and octets, with nobody's help."""

from __future__ import annotations

import select
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
from rig import Rig, record, rig, sa_keys

from fwd.datapath import member as member_module
from fwd.datapath.clock import boot_ms
from fwd.datapath.shared import LinkWord
from fwd.proto.drops import DropReason
from fwd.proto.sa import EventKind, SaKeys, SaSet

OVER_MS = 10_000


def ends(keys: SaKeys, deadline_ms: int = OVER_MS) -> SaKeys:
    return replace(keys, deadline_ms=deadline_ms)


def at(r: Rig, now_ms: int) -> None:
    """It is `now_ms` on the clock of both gateways' members, and they look at it."""
    for gateway in (r.a, r.b):
        gateway.members[0].clock_ms = lambda: now_ms
        if now_ms >= gateway.members[0]._deadline_ms:
            gateway.members[0]._end_overdue()


def with_ends(r: Rig) -> None:
    """Both members have SAs that end."""
    at(r, 1)
    r.a.members[0]._install(SaSet(1, (ends(sa_keys(2, 0, 1)),), ends(sa_keys(1, 0, 1))))
    r.b.members[0]._install(SaSet(1, (ends(sa_keys(1, 0, 1)),), ends(sa_keys(2, 0, 1))))


def test_nothing_is_sent_after_the_deadline_and_the_drop_has_a_name() -> None:
    with rig(members=1) as r:
        with_ends(r)
        at(r, OVER_MS - 1)
        assert r.pass_over(record(1)) == [record(1)]
        at(r, OVER_MS)
        assert r.pass_over(record(2)) == []
        assert r.a.shared.members[0].link[LinkWord.SPI_OUT] == 0
        assert r.a.dropped(DropReason.SA_EXPIRED) == 1
        assert r.a.dropped(DropReason.SA_EXHAUSTED) == 0
        r.a.check_books()


def test_nothing_is_accepted_after_the_deadline_and_keyd_is_not_asked_for_it() -> None:
    with rig(members=1) as r:
        with_ends(r)
        r.a.send(record(1))
        r.a.demux_turn()
        r.a.work()
        at(r, OVER_MS)
        r.b.events(0)
        r.carry()
        assert r.b.delivered() == []
        assert r.b.dropped(DropReason.SA_EXPIRED_IN) == 1
        assert EventKind.UNKNOWN not in [event.kind for event in r.b.events(0)]
        r.b.check_books()


class Ticked(Exception):
    """A turn has come to its tick."""


def test_the_deadline_is_looked_at_in_every_turn_before_the_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    def tick() -> float:
        raise Ticked

    quiet = SimpleNamespace(register=lambda *_: None, poll=lambda _: [])
    monkeypatch.setattr(select, "epoll", lambda: quiet)
    with rig(members=1) as r:
        with_ends(r)
        member = r.a.members[0]
        monkeypatch.setattr(member, "_tick", tick)
        for now_ms, ended in ((OVER_MS - 1, False), (OVER_MS, True)):
            member.clock_ms = partial(int, now_ms)
            with pytest.raises(Ticked):
                member.run()
            assert (member.outbound.sa is None) == ended
            assert (not member.inbound.sas) == ended


def test_an_sa_that_replaces_the_ended_one_is_sent_on() -> None:
    with rig(members=1) as r:
        with_ends(r)
        at(r, OVER_MS)
        r.b.members[0]._install(SaSet(1, (ends(sa_keys(1, 0, 2), 2 * OVER_MS),), None))
        r.a.members[0]._install(SaSet(1, (), ends(sa_keys(1, 0, 2), 2 * OVER_MS)))
        assert r.pass_over(record(1)) == [record(1)]
        at(r, 2 * OVER_MS)
        assert r.pass_over(record(2)) == []


def test_what_is_installed_after_its_deadline_is_not_accepted() -> None:
    with rig(members=1) as r:
        at(r, OVER_MS)
        r.b.members[0]._install(SaSet(1, (ends(sa_keys(1, 0, 0)),), None))
        assert r.pass_over(record(1)) == []
        assert r.b.dropped(DropReason.SA_EXPIRED_IN) == 1


def test_keyd_may_bring_the_end_forward_and_never_puts_off_that_of_the_sa_in_use() -> None:
    with rig(members=1) as r:
        with_ends(r)
        for until_ms in (OVER_MS // 2, OVER_MS):
            r.a.members[0]._install(SaSet(1, (), None, until_ms=until_ms))
        r.b.members[0]._install(SaSet(1, (ends(sa_keys(1, 0, 1), OVER_MS // 2),), None))
        at(r, OVER_MS // 2 - 1)
        assert r.pass_over(record(1)) == [record(1)]
        at(r, OVER_MS // 2)
        assert r.pass_over(record(2)) == []
        assert not r.b.members[0].inbound.sas


@pytest.mark.parametrize("limit", [{"life_packets": 2100}, {"rekey_bytes": 1, "life_bytes": 2100 * 1400}])
def test_packets_and_octets_end_an_sa_both_ways(limit: dict[str, int]) -> None:
    with rig(members=1, rekey_packets=1024, **limit) as r:
        member, far = r.a.members[0], r.b.members[0]
        sent = 0
        while member.outbound.sa is not None and sent < 3000:
            assert len(r.pass_over(*(record(n, 1400) for n in range(50)))) == 50
            sent += 50
            member._tick()
            if far.inbound.sas.get(sa_keys(1, 0, 0).spi) is None:
                break
            far._tick()
        assert 0 < sent < 3000
        assert sa_keys(1, 0, 0).spi not in far.inbound.sas
        member._tick()
        assert r.pass_over(record(1)) == []
        assert r.a.dropped(DropReason.SA_EXPIRED) == 1
        r.a.check_books()
        r.b.check_books()


def test_a_successor_counts_the_packets_that_an_sa_has_carried_before() -> None:
    with rig(members=1, rekey_packets=1024, life_packets=2000) as r:
        assert len(r.pass_over(*(record(n) for n in range(50)))) == 50
        r.b.shared.members[0].slots.words[2 * sa_keys(1, 0, 0).slot + 1] = 2000
        r.b.respawn(0)
        r.b.members[0]._tick()
        assert sa_keys(1, 0, 0).spi not in r.b.members[0].inbound.sas


def test_a_successor_counts_the_octets_that_an_sa_has_carried_before() -> None:
    with rig(members=1, rekey_bytes=1, life_bytes=100 * 1400) as r:
        spi, passed = sa_keys(1, 0, 0).spi, 0
        while spi in r.b.members[0].inbound.sas and passed < 200:
            passed += len(r.pass_over(*(record(n, 1400) for n in range(20))))
            r.b.respawn(0)
            r.b.members[0]._tick()
        assert 80 <= passed <= 120


def test_an_sa_with_an_end_in_octets_alone_is_replaced_before_it() -> None:
    with rig(members=1, life_bytes=100 * 1400) as r:
        r.a.events(0)
        r.pass_over(*(record(n, 1400) for n in range(95)))
        r.a.members[0]._tick()
        assert r.a.members[0].outbound.sa is not None
        assert [event.kind for event in r.a.events(0)] == [EventKind.SOFT_LIMIT]


def test_a_boot_record_that_has_waited_until_its_end_is_passed_over() -> None:
    """Two wait: the first is too old, the second is taken."""
    with rig(members=1) as r:
        now_ms = boot_ms()
        records = [ends(sa_keys(1, 0, 7), now_ms - 1), ends(sa_keys(1, 0, 8), now_ms + 3_600_000)]
        taken: list[SaKeys | None] = []

        class Noted(member_module.Member):
            def run(self) -> None:
                taken.append(self.outbound.sa.keys if self.outbound.sa else None)

        for outbound in records:
            r.a.controls[0].send(SaSet(0, (), outbound).encode())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(member_module, "Member", Noted)
            member_module.run(r.a.parts[0], skip=False)
        assert taken == [records[1]]

"""A member without keys waits for them, at rest; a loop with nothing to do rests, and turns for whatever comes."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from rig import Gateway, record, rig, sa_keys

from fwd.datapath import boot as boot_module
from fwd.datapath import member as member_module
from fwd.datapath.member import IDLE_TICK_S, Member, MemberParts
from fwd.datapath.shared import REST_MAX_S, REST_S, LinkWord
from fwd.datapath.udp import KEEPALIVE_S
from fwd.lab.waiting import until
from fwd.proto.pulse import ECHO_S, MISSES
from fwd.proto.sa import SaSet


class Boots:
    """A member that takes its keys from a pair of its own, in a thread; what became of it is in `made`."""

    def __init__(self, side: Gateway, undo: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        for sock in (sock for pair in pairs for sock in pair):
            sock.setblocking(False)
            undo.callback(sock.close)
        (self.boot, boot_member), (self.control, control_member) = pairs
        self.parts: MemberParts = replace(side.parts[0], boot=boot_member, control=control_member)
        self.made: list[tuple[SaSet, bool]] = []
        made = self.made

        class Noted:
            def __init__(self, parts: MemberParts, boot: SaSet, *, skip: bool) -> None:
                made.append((boot, skip))

            def run(self) -> None:
                pass

        monkeypatch.setattr(member_module, "Member", Noted)
        self.thread = threading.Thread(target=member_module.run, args=(self.parts,), kwargs={"skip": False})

    def give(self) -> SaSet:
        boot = SaSet(0, (), sa_keys(1, 0, 7))
        self.boot.send(boot.encode())
        return boot

    def rests_until(self) -> float:
        """By the member's own word, monotonic seconds."""
        return self.parts.shared.process.heartbeat[0] / 1e9

    def wait_until_it_rests(self) -> None:
        until(lambda: self.rests_until() > time.monotonic())


@pytest.fixture
def boots(monkeypatch: pytest.MonkeyPatch) -> Iterator[Boots]:
    with rig(members=1) as r, contextlib.ExitStack() as undo:
        yield Boots(r.a, undo, monkeypatch)


def test_a_member_whose_keys_are_there_takes_them_and_what_waits_in_its_ring(boots: Boots) -> None:
    boot = boots.give()
    member_module.run(boots.parts, skip=False)
    assert boots.made == [(boot, False)]


def test_a_member_without_keys_rests_until_there_are_some_and_leaves_what_waited(boots: Boots) -> None:
    boots.parts.shared.link[LinkWord.SPI_OUT] = 0x1234  # as its predecessor has left it
    boots.thread.start()
    boots.wait_until_it_rests()
    assert boots.rests_until() <= time.monotonic() + REST_MAX_S
    assert boots.parts.shared.link[LinkWord.SPI_OUT] == 0, "it sends on nothing"
    boot = boots.give()
    boots.thread.join(20)
    assert boots.made == [(boot, True)]


def test_what_keyd_tells_one_that_waits_is_not_kept_for_when_it_has_keys(boots: Boots) -> None:
    """A word to stop, say, of SAs that it never had."""
    boots.thread.start()
    boots.wait_until_it_rests()
    boots.control.send(SaSet(1, (), None, True).encode())
    unread = select.poll()
    unread.register(boots.parts.control, select.POLLIN)
    until(lambda: not unread.poll(0))
    boots.give()
    boots.thread.join(20)
    assert boots.made


def test_the_log_is_told_once_that_a_member_waits(
    boots: Boots, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(boot_module, "_WAITS_S", 0.0)
    with caplog.at_level(logging.INFO):
        boots.thread.start()
        for _ in range(5):
            boots.wait_until_it_rests()
            before = boots.rests_until()
            boots.control.send(b"wake up")
            until(lambda before=before: boots.rests_until() != before)  # type: ignore[misc]
        boots.give()
        boots.thread.join(20)
    assert [one.getMessage() for one in caplog.records] == ["waits for keys: there is no SA to send on yet"]


# -- at rest --------------------------------------------------------------------------------------------------------


def tick(member: Member, count: int) -> float:
    """So many ticks of the member's; returns for how long it then wants to be left alone."""
    wait_s = 0.0
    for _ in range(count):
        member._now += IDLE_TICK_S
        wait_s = member._tick()
    return wait_s


@pytest.mark.parametrize("payload", ["superpacket", "esp"])
def test_a_member_without_traffic_rests_and_one_with_traffic_does_not(payload: str) -> None:
    with rig(members=1, payload=payload) as r:
        (member,) = r.a.members
        assert tick(member, 8) > IDLE_TICK_S
        r.pass_over(record(1, 100))
        assert tick(member, 1) <= IDLE_TICK_S


@pytest.mark.parametrize("payload", ["superpacket", "esp"])
def test_a_member_rests_for_longer_once_nothing_came_while_it_rested(payload: str) -> None:
    with rig(members=1, payload=payload) as r:
        (member,) = r.a.members
        waits = [tick(member, 1) for _ in range(60)]
        first = next(wait_s for wait_s in waits if wait_s > IDLE_TICK_S)
        assert first == REST_S
        assert waits[-1] == REST_MAX_S


def test_a_member_that_rests_wakes_up_for_a_nats_mapping_and_while_losses_are_shown() -> None:
    with rig(members=1, payload="esp") as r:
        (member,) = r.a.members
        assert tick(member, 60) == REST_MAX_S
        member._link[LinkWord.LOSS] = 100
        member._quiet_ticks += 1
        assert member._idle_s() == REST_S
        member._link[LinkWord.LOSS] = 0
        member._shared.keepalive[0] = 1
        assert tick(member, 1) <= KEEPALIVE_S


def test_what_a_member_is_told_while_it_rests_holds_for_what_wakes_it() -> None:
    with rig(members=1) as r:
        (member,) = r.a.members
        poller = select.epoll()
        poller.register(r.a.rings[0].bell, select.EPOLLIN | select.EPOLLET)
        tick(member, 8)
        elsewhere = ("192.0.2.77", 4711)
        telling = threading.Timer(0.05, lambda: (member._shared.far.put(elsewhere), r.a.rings[0].ring_bell()))
        telling.start()
        assert member._rest(poller, member._now + 60)
        telling.join()
        assert member.outbound.peer == elsewhere


def test_a_member_whose_path_is_down_rests_when_it_has_no_sa_to_ask_on() -> None:
    with rig(members=1) as r:
        (member,) = r.a.members
        r.a.send(record(1, 100))
        r.a.demux_turn()
        r.a.work()
        member.echoes.sent(member._now)
        for _ in range(MISSES + 1):
            member._tick()
            member._now += ECHO_S + 0.001
        assert member._shared.path_down
        assert tick(member, 1) < 1.0, "it goes on asking"
        member.outbound.stop()
        assert tick(member, 8) > 1.0


def test_a_member_that_rests_turns_at_once_when_its_bell_is_rung_before_or_meanwhile() -> None:
    with rig(members=1) as r:
        (member,) = r.a.members
        poller = select.epoll()
        poller.register(r.a.rings[0].bell, select.EPOLLIN | select.EPOLLET)
        r.a.send(record(1, 100))
        r.a.demux_turn()
        assert member._rest(poller, member._now + 60) == [], "a segment waits"
        r.a.work()
        r.a.rings[0].ring_bell()
        ringing = threading.Timer(0.05, r.a.rings[0].ring_bell)
        ringing.start()
        assert member._rest(poller, member._now + 60)
        ringing.join()


def test_the_demux_rests_after_a_while_without_records_unless_buckets_are_on_their_way() -> None:
    with rig(members=2) as r:
        demux = r.a.demux
        r.a.demux_turn()
        assert [demux._idle_s() for _ in range(7)][-3:] == [REST_S, REST_MAX_S, REST_MAX_S]
        r.a.send(record(1, 100))
        r.a.demux_turn()
        assert demux._idle_s() == IDLE_TICK_S
        demux._owners.unsettled = 1
        assert [demux._idle_s() for _ in range(6)][-1] == IDLE_TICK_S

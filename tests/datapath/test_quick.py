"""A member's quick loop in the compiled core, beside the same member without it: same packets, same counts, same state.

Both have real UDP sockets on the loopback device. What comes is mostly simple, and sometimes not: several packets at
once, super-packets, echoes, what is refused, lost, doubled, changed in a bit, comes late or from elsewhere. Then the
process is killed at each system call that the loop makes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import random
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from rig import Gateway, Group, Rig, headers, identity_of, peering_of, record, rig
from segkit import super_record

from fwd.datapath.counters import MemberCounter
from fwd.datapath.member import Member
from fwd.datapath.shared import LinkWord
from fwd.proto import core
from fwd.proto.aggfrag import SUBTYPE_ECHO, SUBTYPE_ECHO_REPLY
from fwd.proto.drops import DropReason
from fwd.proto.echo import in_stream
from fwd.proto.esp import NEXT_AGGFRAG
from fwd.supervise import sandbox

pytestmark = pytest.mark.skipif(not core.in_use, reason="there is no compiled core")

ROUNDS = 400
NOW = 1000.0  # for all, so that holes are given up by what comes, and not by the clock
FAR, ELSEWHERE = "127.0.0.2", "127.0.0.3"


class Side:
    """A gateway of one member with a socket of the kernel's, and turns of its loop: the quick one or not."""

    def __init__(self, undo: contextlib.ExitStack, side: int, *, is_quick: bool) -> None:
        own = peering_of(side, members=1, local_addrs="127.0.0.1", remote_addrs=FAR)
        self.gateway = gateway = Gateway(side, own, 1500, undo)
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.far, self.elsewhere = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for sock, address in ((self.sock, "127.0.0.1"), (self.far, FAR), (self.elsewhere, ELSEWHERE)):
            undo.callback(sock.close)
            sock.bind((address, 0))
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        gateway.shared.members[0].far.put(self.far.getsockname())
        self.is_quick = is_quick
        self.epoll = select.epoll()
        undo.callback(self.epoll.close)
        self.epoll.register(gateway.rings[0].bell, select.EPOLLIN | select.EPOLLET)
        self.epoll.register(self.sock, select.EPOLLIN)
        gateway.parts[0] = dataclasses.replace(gateway.parts[0], sock=self.sock)
        self.respawn()

    def respawn(self) -> None:
        self.gateway.respawn(0)
        self.member: Member = self.gateway.members[0]
        assert self.member._quick is not None
        if not self.is_quick:
            self.member._quick = None
        unread = self.member._unread
        unread.clock = time.monotonic
        unread.is_late()
        unread.found_empty()

    def turn(self) -> bool:
        """Let the loop turn once, with nothing to wait for; whether there may be more to do."""
        member = self.member
        member._now = NOW
        if self.gateway.rings[0].left != member._left:
            member._tell_moved()
        busy = member.outbound.work() if member._quick is None else False
        ready, _ = member._wait(self.epoll, 0.0, busy=busy)
        if any(fd == self.sock.fileno() for fd, _ in ready):
            member._receive()
        while member._quick is not None and member.outbound.waits() and ready:
            member.outbound.work()
        return bool(ready) or busy

    def turn_all(self) -> None:
        while self.turn():
            pass

    def comes(self, datagrams: list[bytes], *, elsewhere: bool = False, tos: int = 0) -> None:
        sock = self.elsewhere if elsewhere else self.far
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
        for datagram in datagrams:
            sock.sendto(datagram, self.sock.getsockname())

    def went(self) -> list[bytes]:
        """Datagrams that came to the far side's socket."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self.far.recv(65536))
        return found

    def state(self) -> object:
        """All that outlives a burst."""
        member, shared = self.member, self.gateway.shared.members[0]
        sas = {
            spi: (sa.window.top, sa.window._bits, sa.octets, sa.heard) for spi, sa in member.inbound.sas.items()
        }  # fmt: skip
        out = member.outbound
        assert out.sa is not None
        published, words = shared.counters.read(), (shared.slots.words.tolist(), shared.slots.octets.tolist())
        ring = self.gateway.rings[0]
        return (
            sas, published, list(member._counters), words, shared.link[LinkWord.RX_TAKEN], shared.ledger.entries()[-1],
            out.sa.number, out.peer == self.far.getsockname(), (ring.taken, ring.done), self.gateway.events(0),
        )  # fmt: skip


@contextlib.contextmanager
def sides(side: int) -> Iterator[tuple[Side, Side]]:
    """One with the quick loop, and one without."""
    with contextlib.ExitStack() as undo:
        yield Side(undo, side, is_quick=True), Side(undo, side, is_quick=False)


def same(quick: Side, plain: Side) -> None:
    assert quick.gateway.delivered() == plain.gateway.delivered()
    ours, theirs = quick.state(), plain.state()
    assert ours == theirs


@contextlib.contextmanager
def counted(side: Side, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], tuple[int, int]]]:
    """Count datagrams and segments that Python has taken."""
    taken = [0, 0]
    inbound, outbound = side.member.inbound, side.member.outbound
    take, send = inbound.take, outbound._send_segment

    def taking(length: int, size: int, *others: object) -> bool:
        taken[0] += -(-length // size) if size else 1
        return take(length, size, *others)  # type: ignore[arg-type]

    def sending(*others: object) -> None:
        taken[1] += 1
        send(*others)  # type: ignore[arg-type]

    monkeypatch.setattr(inbound, "take", taking)
    monkeypatch.setattr(outbound, "_send_segment", sending)
    yield lambda: (taken[0], taken[1])


# -- in ---------------------------------------------------------------------------------------------------------------


def datagrams(r: Rig, dice: random.Random, nth: int) -> list[bytes]:
    """What gateway 1 sends of some records, or of its own."""
    match dice.randrange(12):
        case 0:
            r.a.members[0].outbound.send_control(in_stream(SUBTYPE_ECHO_REPLY, nth), NEXT_AGGFRAG)
        case 1:
            r.a.members[0].outbound.send_control(in_stream(SUBTYPE_ECHO, nth), NEXT_AGGFRAG)
        case 2:
            r.a.send(super_record(dice.randbytes(dice.choice((3000, 20000))), 1400))
        case 3:
            r.a.send(*[record(nth * 10 + n, dice.choice((60, 700))) for n in range(dice.randrange(2, 6))])
        case 4:
            r.a.send(record(nth * 10, 1424), record(nth * 10 + 1, 60, port=dice.randrange(1, 9)))
        case 5:
            r.a.send(record(nth * 10, 100, v6=True))
        case _:
            r.a.send(record(nth * 10, dice.choice((60, 100, 1400)), tos=dice.choice((0, 0, 0, 4))))
    r.a.demux_turn()
    r.a.work()
    return [one for group in r.a.wires[0].sent() for one in group.datagrams()]


def spoilt(came: list[bytes], before: list[bytes], dice: random.Random) -> list[bytes]:
    """Lose, double, exchange or change some, or bring old ones again."""
    match dice.randrange(40):
        case 0:
            return came[1:]
        case 1:
            return came + came[:1]
        case 2:
            return came[::-1]
        case 3:
            return [bytes([*came[0][:-1], came[0][-1] ^ 1]), *came[1:]] if came else came
        case 4:
            return before + came
        case 5:
            return [b"\xff", *came]
        case 6:
            return [*came, b"\0" * 50]
    return came


def test_what_comes_is_taken_as_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    dice, sent = random.Random(1), 0
    with rig(members=1) as r, sides(2) as (quick, plain), counted(quick, monkeypatch) as by_python:
        before: list[bytes] = []
        for nth in range(ROUNDS):
            came = spoilt(datagrams(r, dice, nth), before, dice)
            elsewhere, tos = dice.random() < 0.03, dice.choice((0,) * 30 + (3,))
            for one in (quick, plain):
                one.comes(came, elsewhere=elsewhere, tos=tos)
                one.turn_all()
                if nth % 40 == 39:
                    one.member.inbound.expire(float("inf"))
            sent, before = sent + len(came), came
            if dice.random() < 0.05:
                one_more = time.monotonic() + 0.26 if dice.random() < 0.2 else 0
                while time.monotonic() < one_more:
                    time.sleep(0.01)
            same(quick, plain)
            assert [d[:8] for d in quick.went()] == [d[:8] for d in plain.went()]
        quick.gateway.check_books()
        assert by_python()[0] < sent - ROUNDS // 3  # the others were taken by C


# -- out --------------------------------------------------------------------------------------------------------------


def test_what_goes_is_sent_as_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(2)
    with sides(1) as (quick, plain), counted(quick, monkeypatch) as by_python:
        for nth in range(ROUNDS):
            match dice.randrange(8):
                case 0:
                    records = [super_record(dice.randbytes(dice.choice((3000, 30000, 65000))), 1400)]
                case 1:
                    records = [record(nth * 10 + n, dice.choice((60, 700)), tos=n * 4) for n in range(4)]
                case 2:
                    records = [record(nth * 10 + n, 900) for n in range(5)]
                case _:
                    records = [record(nth * 10, dice.choice((60, 100, 1400)))]
            for one in (quick, plain):
                if nth % 50 == 20:
                    one.gateway.rings[0].left = one.gateway.rings[0].head + 1  # the next is not to be sent
                if nth == 100:
                    one.member._sender.forget()
                if nth == 150:
                    one.respawn()
                one.gateway.send(*records)
                one.gateway.demux_turn()
                one.turn_all()
            assert quick.went() == plain.went()
            same(quick, plain)
        quick.gateway.check_books()
        assert 0 < by_python()[1] < ROUNDS // 2


def test_what_the_kernel_does_not_take_goes_the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """To nowhere: what cannot be sent is counted as in Python, once, and the next goes."""
    with sides(1) as (quick, plain):
        for one in (quick, plain):
            one.gateway.send(record(1))
            one.gateway.demux_turn()
            one.turn_all()
            one.member.outbound.peer = ("255.255.255.255", 1)  # not without SO_BROADCAST
            one.gateway.send(*[record(n, 900) for n in range(2, 6)])
            one.gateway.demux_turn()
            one.turn_all()
            assert one.gateway.dropped(DropReason.SEND_FAILED) == 3
            one.member.outbound.peer = one.far.getsockname()
            one.gateway.send(record(7))
            one.gateway.demux_turn()
            one.turn_all()
        assert quick.went() == plain.went()
        same(quick, plain)
        quick.gateway.check_books()


# -- death ------------------------------------------------------------------------------------------------------------


def dies_in(call: str, times: int, scenario: Callable[[], object]) -> None:
    """Run `scenario` so many times, in a fork that is killed in the last when it makes this system call."""
    number = sandbox._NUMBERS[call][0 if platform.machine() == "x86_64" else 1]
    assert number is not None
    pid = os.fork()
    if pid == 0:
        for _ in range(times - 1):
            scenario()
        sandbox._filter([(0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, 0x80000000), (6, 0, 0, 0x7FFF0000)])
        scenario()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGSYS


@pytest.mark.parametrize("times", [1, 3])
def test_a_death_as_a_record_is_delivered_loses_that_one_and_accepts_it_never_again(times: int) -> None:
    with contextlib.ExitStack() as undo, rig(members=1) as r:
        side = Side(undo, 2, is_quick=True)
        sent = []
        for n in range(6):
            r.a.send(record(n))
            r.a.demux_turn()
            r.a.work()
            sent += [d for group in r.a.wires[0].sent() for d in group.datagrams()]
        side.comes(sent[:1])
        side.turn_all()  # the first is not simple: its pair of addresses is not known yet
        rest = iter(sent[1:])

        def take_one() -> None:
            side.comes([next(rest)])
            side.turn_all()

        dies_in("writev", times, take_one)
        side.respawn()
        assert side.gateway.dropped(DropReason.DIED_WITH_MEMBER_IN) == 1
        assert side.gateway.counted(MemberCounter.IN_ESP) == 1 + times

        # All of them come again: what was accepted is refused, and nothing is delivered twice.
        side.comes(sent)
        side.turn_all()
        assert [identity_of(d) for d in side.gateway.delivered()] == [n for n in range(6) if n != times]
        assert side.gateway.dropped(DropReason.REPLAYED) == 1 + times
        side.gateway.check_books()


@pytest.mark.parametrize("times", [1, 3])
def test_a_death_as_a_segment_is_sent_loses_that_one_and_uses_no_number_twice(times: int) -> None:
    with contextlib.ExitStack() as undo:
        side = Side(undo, 1, is_quick=True)
        side.gateway.send(record(0))
        side.gateway.demux_turn()
        side.turn_all()
        for n in range(1, 6):
            side.gateway.send(record(n))
            side.gateway.demux_turn()
        ring = side.gateway.rings[0]
        head, ring.head = ring.head, 1

        def send_one() -> None:
            ring.head += 1
            side.turn()

        dies_in("sendmsg", times, send_one)
        claimed = side.gateway.shared.members[0].ledger.entries()[-1]
        ring.head = head
        side.respawn()
        side.turn_all()
        went = side.went()
        assert side.gateway.dropped(DropReason.DIED_WITH_MEMBER) == 1
        assert len(went) == 5
        nonces = headers([Group(d, len(d)) for d in went])
        assert len(set(nonces)) == len(nonces)
        assert claimed.last == 1 + times
        side.gateway.check_books()

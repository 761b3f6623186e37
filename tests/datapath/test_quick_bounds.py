"""The quick loop (quick.c) at its bounds: words that are wrong, a socket that is not as it was, a pause amid a turn."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

import pytest
from rig import identity_of, record, rig
from test_quick import Side, same, sides

from fwd.datapath import barrier
from fwd.datapath.counters import MemberCounter
from fwd.datapath.payloads.superpacket import SuperpacketIn
from fwd.datapath.ring import CHUNK, FILL, RECORDS, TOS
from fwd.datapath.shared import LinkWord
from fwd.proto import core
from fwd.proto.aggfrag import SUBTYPE_ECHO
from fwd.proto.drops import DropReason
from fwd.proto.echo import MOVED, in_stream
from fwd.proto.esp import NEXT_AGGFRAG

pytestmark = pytest.mark.skipif(not core.in_use, reason="there is no compiled core")

NOWHERE = ("255.255.255.255", 1)  # not without SO_BROADCAST


def sent_to(count: int) -> list[bytes]:
    """Datagrams of gateway 1's, with one record each."""
    with rig(members=1) as r:
        for n in range(count):
            r.a.send(record(n))
            r.a.demux_turn()
            r.a.work()
        return [one for group in r.a.wires[0].sent() for one in group.datagrams()]


def numbers(side: Side) -> int:
    """How many numbers were claimed on the SA that is sent on."""
    return side.gateway.shared.members[0].ledger.entries()[-1].last


# -- the loop ---------------------------------------------------------------------------------------------------------


def test_what_comes_is_taken_while_the_far_member_cannot_be_told_that_buckets_have_moved() -> None:
    with contextlib.ExitStack() as undo:
        side = Side(undo, 2, is_quick=True)
        side.member.outbound.peer = NOWHERE
        side.gateway.rings[0].left = 1
        side.comes(sent_to(1))
        for _ in range(3):
            side.turn()
        assert [identity_of(d) for d in side.gateway.delivered()] == [0]


def test_a_loop_that_cannot_tell_that_buckets_have_moved_does_not_run_round_and_round() -> None:
    with contextlib.ExitStack() as undo:
        side = Side(undo, 2, is_quick=True)
        side.member.outbound.peer = NOWHERE
        side.gateway.rings[0].left = 1
        pid = os.fork()
        if pid == 0:
            side.member.run()
        time.sleep(3)  # longer than a loop without traffic turns before it rests
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert numbers(side) < 100


def test_what_lay_in_the_socket_while_the_loop_was_stopped_amid_a_turn_is_late() -> None:
    with contextlib.ExitStack() as undo, rig(members=1) as r:
        side = Side(undo, 2, is_quick=True)
        for n in range(3):
            r.a.send(record(n))
            r.a.demux_turn()
            r.a.work()
        r.a.members[0].outbound.send_control(in_stream(SUBTYPE_ECHO, MOVED), NEXT_AGGFRAG)
        datagrams = [one for group in r.a.wires[0].sent() for one in group.datagrams()]
        side.comes(datagrams[:1])
        side.turn_all()
        side.gateway.delivered()

        # The device takes nothing for a while, as the second is written; the third has lain there for so long then.
        tun = side.gateway.tun
        with contextlib.suppress(BlockingIOError):
            while True:
                tun.send(bytes(1))
        tun.setblocking(True)
        taken = side.gateway.shared.members[0].link

        def goes_on() -> None:
            while taken[LinkWord.RX_TAKEN] < 2:
                time.sleep(0.001)
            time.sleep(0.3)
            side.gateway.delivered()

        side.comes(datagrams[1:])
        side.member._unread.is_late()
        side.member._unread.found_empty()
        thread = threading.Thread(target=goes_on)
        thread.start()
        side.turn_all()
        thread.join()
        assert side.gateway.dropped(DropReason.BUCKETS_MOVED_IN) == 1
        side.gateway.check_books()


# -- what others may have made wrong -----------------------------------------------------------------------------------


def test_a_segment_that_says_it_has_more_packets_than_rows_takes_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(barrier, "reraise", False)
    with contextlib.ExitStack() as undo:
        side = Side(undo, 1, is_quick=True)
        side.gateway.send(record(0), record(1))
        side.gateway.demux_turn()
        side.turn_all()
        assert numbers(side) == 1
        ring = side.gateway.rings[0]
        fields = ring.segment(ring.head).fields
        fields[FILL], fields[RECORDS], fields[TOS], fields[CHUNK] = 1 << 31, 1, 0, 1
        ring.head += 1
        side.turn_all()
        assert numbers(side) == 1
        assert side.gateway.dropped(DropReason.INTERNAL_ERROR) == 1


def test_a_segment_whose_records_end_before_they_begin_counts_no_octets() -> None:
    with contextlib.ExitStack() as undo:
        side = Side(undo, 1, is_quick=True)
        side.gateway.send(record(0))
        side.gateway.demux_turn()
        side.turn_all()
        before = side.gateway.counted(MemberCounter.OUT_BYTES)
        ring = side.gateway.rings[0]
        segment = ring.segment(ring.head)
        segment.fields[FILL], segment.fields[RECORDS], segment.fields[TOS], segment.fields[CHUNK] = 60, 60, 0, 1000
        for n in range(60):
            segment.ends[n] = 0
        ring.head += 1
        side.turn_all()
        assert side.gateway.counted(MemberCounter.OUT_BYTES) == before


def test_a_far_member_at_an_address_of_another_family_ends_nobody() -> None:
    with sides(1) as (quick, plain):
        for one in (quick, plain):
            one.gateway.send(record(0))
            one.gateway.demux_turn()
            one.turn_all()
            one.member.outbound.peer = ("2001:db8::9", 4500)
            one.gateway.send(record(1))
            one.gateway.demux_turn()
            one.turn_all()
            assert one.gateway.dropped(DropReason.SEND_FAILED) == 1
            one.member.outbound.peer = one.far.getsockname()
            one.gateway.send(record(2))
            one.gateway.demux_turn()
            one.turn_all()
            assert len(one.went()) == 2
        same(quick, plain)


def test_a_socket_that_a_predecessor_made_to_block_holds_nobody_up() -> None:
    with contextlib.ExitStack() as undo:
        side = Side(undo, 2, is_quick=True)
        first, second = sent_to(2)
        side.comes([first])
        side.turn_all()
        os.set_blocking(side.sock.fileno(), True)
        side.comes([second])
        pid = os.fork()
        if pid == 0:
            side.turn_all()
            os._exit(0)
        killer = threading.Timer(5, os.kill, (pid, signal.SIGKILL))
        killer.start()
        status = os.waitpid(pid, 0)[1]
        killer.cancel()
        assert status == 0


def test_numbers_beyond_half_of_all_are_noted_as_any_other() -> None:
    with sides(2) as (quick, plain), rig(members=1) as r:
        start = (1 << 63) - 2
        for one in (quick, plain):
            for sa in one.member.inbound.sas.values():
                sa.window.top = start
            payload = one.member.inbound.payload
            assert isinstance(payload, SuperpacketIn)
            for assembler in payload._assemblers.values():
                assembler.top = start
        out = r.a.members[0].outbound.sa
        assert out is not None
        out.number = start
        for n in range(4):
            r.a.send(record(n))
            r.a.demux_turn()
            r.a.work()
            came = [one for group in r.a.wires[0].sent() for one in group.datagrams()]
            for one in (quick, plain):
                one.comes(came)
                one.turn_all()
            same(quick, plain)

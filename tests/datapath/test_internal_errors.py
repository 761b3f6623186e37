"""An exception at any call of any step costs its burst: the process goes on, the books hold, no number is used twice.

`sys.setprofile` gives an event before each call; at the `nth` one that code of the data path makes, of Python or C, an
exception is raised in its place. The long form tries each call's first two times, the short one each call once.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import propkit
import pytest
import segkit
from rig import Group, Rig, headers, record, rig, sa_keys

from fwd.datapath import barrier
from fwd.datapath import demux as demux_module
from fwd.datapath.counters import DemuxCounter, MemberCounter
from fwd.datapath.demux import DEVICE_GONE
from fwd.datapath.tun import DeviceError
from fwd.proto.drops import DropReason
from fwd.proto.path import SILENCE_S
from fwd.proto.sa import SaSet

PAYLOADS = pytest.mark.parametrize("payload", ["superpacket", "esp"])
DATA_PATH = tuple(
    os.sep + os.path.join("fwd", *names)
    for names in [
        *(
            ("datapath", f"{name}.py")
            for name in (
                *("demux", "owners", "lane", "backlog", "shapes"),
                *("outbound", "inbound", "accepted", "delivery", "member", "udp"),
            )
        ),
        *(("datapath", "payloads", f"{name}.py") for name in ("superpacket", "esp")),
        *(
            ("proto", f"{name}.py")
            for name in ("burst", "compiled", "core", "esp", "segments", "reassembly", "aggfrag", "flow", "ip", "path")
        ),
    ]
)

# Every line of a step is a point to try: minutes on a machine that is busy with other things.
pytestmark = pytest.mark.timeout(900)
CALLS_MAX = 3000
TIMES = 2  # of a call in a loop the first few count: what is new at the fifth is not the call


class Injected(Exception):
    """Raised by the test."""


@pytest.fixture(autouse=True)
def _exceptions_are_survived(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(barrier, "reraise", False)
    caplog.set_level(logging.CRITICAL)


def raises_at(nth: int, times_max: int, step: Callable[[], object], files: tuple[str, ...] = DATA_PATH) -> bool:
    """Carry out `step` with an exception at the `nth` call that `files` make; False: they make fewer.

    Of the times that a call is made the first `times_max` count.
    """
    left = nth
    times: Counter[tuple[CodeType, int]] = Counter()

    def on_event(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal left
        caller = frame.f_back if event == "call" else frame if event == "c_call" else None
        if caller is None or not caller.f_code.co_filename.endswith(files):
            return
        at = caller.f_code, caller.f_lasti
        times[at] += 1
        left -= times[at] <= times_max
        if left == 0:
            sys.setprofile(None)
            raise Injected

    sys.setprofile(on_event)
    try:
        step()
    finally:
        sys.setprofile(None)
    return left <= 0


def every_call(check: Callable[[int, int], bool], every_time: bool, least: int) -> None:
    """Call `check(nth, times)` for 1, 2, …, or one in so many, until it says that there was no such call."""
    times = TIMES if every_time else 1
    last = next(nth for nth in range(1, CALLS_MAX, propkit.one_place_in) if not check(nth, times))
    assert last > least


def batch(payload: str) -> list[bytes]:
    """A bit of everything: super-packets, small datagrams, a checksum to complete, IPv6, another TOS octet."""
    return [
        segkit.super_record(segkit.octets(1, 9000), 1000), *[record(n, 200) for n in range(3)],
        segkit.super_record(b"x" * 50, 1000), record(4, 300, v6=True), record(5, 300, tos=8),
    ]  # fmt: skip


def packets_of(records: list[bytes]) -> set[bytes]:
    return {packet for data in records for packet in segkit.segments(data)}


class Watched:
    """A rig of which every ESP packet is seen."""

    def __init__(self, r: Rig) -> None:
        self.r = r
        self.nonces: list[tuple[int, int]] = []

    def carry(self) -> None:
        groups = self.r.a.wires[0].sent()
        self.nonces += headers(groups)
        self.r.b.arrive(0, groups)

    def check(self, sent: list[bytes]) -> None:
        """The books hold, nothing is made up or repeated, and the next burst passes."""
        r = self.r
        r.a.demux_turn()
        r.a.work()
        self.carry()
        r.b.expire()
        assert packets_of(r.b.delivered()) <= packets_of(sent)
        for n in range(5):  # what comes behind a hole shows that it is one
            good = [record(1000 + n, 300), segkit.super_record(segkit.octets(n, 5000), 1000, port=n)]
            r.a.send(*good)
            r.a.demux_turn()
            r.a.work()
            self.carry()
            r.b.expire()
            got = packets_of(r.b.delivered())
        assert got == packets_of(good)
        assert len(self.nonces) == len(set(self.nonces)), "a number was used twice"
        r.a.check_books()
        r.b.check_books()


@PAYLOADS
def test_in_the_demux(payload: str, every_time: bool) -> None:
    def check(nth: int, times: int) -> bool:
        with rig(members=1, payload=payload) as r:
            sent = batch(payload)
            r.a.demux_turn()
            r.a.send(*sent)
            raised = raises_at(nth, times, r.a.demux_turn)
            r.a.demux_turn()
            assert r.a.records_in() == len(sent)
            assert not raised or r.a.dropped(DropReason.INTERNAL_ERROR) <= len(sent)
            Watched(r).check(sent)
            return raised

    every_call(check, every_time, 30)


@PAYLOADS
def test_on_the_way_out(payload: str, every_time: bool) -> None:
    def check(nth: int, times: int) -> bool:
        with rig(members=1, payload=payload) as r:
            sent = batch(payload)
            r.a.send(*sent)
            r.a.demux_turn()
            raised = raises_at(nth, times, r.a.work)
            watched = Watched(r)
            watched.carry()
            watched.check(sent)
            return raised

    every_call(check, every_time, 30)  # there are few where a call of the compiled core is a burst


@PAYLOADS
def test_on_the_way_in(payload: str, every_time: bool) -> None:
    def check(nth: int, times: int) -> bool:
        with rig(members=1, payload=payload) as r:
            sent = batch(payload)
            r.a.send(*sent)
            r.a.demux_turn()
            r.a.work()
            groups = r.a.wires[0].sent()
            junk = [Group(b"\0\0\1\1" + bytes(60), 64), Group(b"\xff", 1)]
            raised = raises_at(nth, times, lambda: r.b.arrive_only(0, [*junk, *groups]))
            assert r.b.counted(MemberCounter.IN_ESP) <= sum(len(g.datagrams()) for g in groups) + 2
            watched = Watched(r)
            watched.nonces += headers(groups)
            watched.check(sent)
            return raised

    every_call(check, every_time, 40)


def test_in_echoes_and_ticks(every_time: bool) -> None:
    def check(nth: int, times: int) -> bool:
        with rig(members=1) as r:
            member, watched = r.a.members[0], Watched(r)
            sent = [record(1)]
            r.a.send(*sent)
            r.a.demux_turn()
            r.a.work()
            watched.carry()
            member.echoes.sent(member._now)
            member._now += SILENCE_S + 0.01

            def ask_and_answer() -> None:
                member._tick()
                watched.carry()
                r.a.arrive_only(0, r.b.wires[0].sent())

            raised = raises_at(nth, times, ask_and_answer)
            watched.check(sent)
            return raised

    every_call(check, every_time, 40)


def test_in_a_message_of_keyd(every_time: bool) -> None:
    def check(nth: int, times: int) -> bool:
        with rig(members=1) as r:
            member, watched = r.a.members[0], Watched(r)
            inbound = tuple(sa_keys(2, 0, epoch) for epoch in range(6))
            r.a.controls[0].send(SaSet(1, inbound, sa_keys(1, 0, 1)).encode())
            raised = raises_at(nth, times, member._hear_keyd)
            watched.check([])
            return raised

    every_call(check, every_time, 10)


def test_it_is_told_once_a_second_with_its_traceback(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(packet: memoryview) -> int:
        raise Injected

    caplog.set_level(logging.ERROR)
    monkeypatch.setattr(demux_module, "flow_hash", fails)
    with rig(members=1) as r:
        for _ in range(3):
            r.a.send(record(1))
            r.a.demux_turn()
        (told,) = caplog.records
        assert told.exc_info
        assert told.event == "datapath.internal_error"  # type: ignore[attr-defined]
        assert r.a.dropped(DropReason.INTERNAL_ERROR) == 3
        assert r.a.records_in() == r.a._demux()[DemuxCounter.RECORDS] == 3


def test_a_device_that_gives_nothing_any_more_ends_the_process(caplog: pytest.LogCaptureFixture) -> None:
    """Going on would be a loop without end, and a status that says ready."""
    caplog.set_level(logging.ERROR)
    with rig(members=1) as r:
        reading, writing = os.pipe()
        r.a.demux._fd = writing  # of which nothing can be read
        with pytest.raises(DeviceError):
            r.a.demux_turn()
        assert r.a.demux.run() == DEVICE_GONE
        assert [record.event for record in caplog.records] == ["demux.device_gone"]  # type: ignore[attr-defined]
        os.close(reading)
        os.close(writing)

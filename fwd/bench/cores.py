"""Scaling by cores: one demux feeds N member processes over real rings, in memory; no sockets, no device.

For N members there are N cores: each member is pinned to one of its own, and the demux may use any of the N. What the
demux costs is taken from the same cores, so that `efficiency`, the throughput against N times that of one member on
one core, is what adding a core brings, not what an idle core hides.

Sealed: the demux's hash and copy, framing and sealing. Opened: the same, then each member opens what it has sealed,
with a copy between the two for what the kernel does, and writes its records to /dev/null.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from fwd.bench.cpu import CpuTime
from fwd.bench.result import Figure, figure
from fwd.bench.rig import Path, Record
from fwd.datapath.counters import MemberCounter
from fwd.lab.waiting import until
from fwd.lab.world import LabError
from fwd.proto.flow import BUCKET_MASK, flow_hash
from fwd.proto.ip import VNET_BYTES

RECORD_BYTES: Final = 65_000  # of IP, as TCP fills a super-packet
FLOWS: Final = 64
ROUNDS: Final = 5
SECONDS: Final = 1.0
QUICK_SECONDS: Final = 0.15
_WARM_UP_S = 0.1
_RING_FULL_S = 50e-6  # the demux looks again after so long
_CARRY_TIMEOUT_S = 10.0
_POLL_S = 0.001
_BELL_WAIT_S = 0.01

Step = Callable[[int, str], None]


@dataclass(frozen=True)
class Rate:
    """One measurement: payload through all members, and the demux's share of the CPU time."""

    gbps: float
    demux_share: float


def counts() -> list[int]:
    """The numbers of members that are measured: one to the number of cores this process may use."""
    return list(range(1, len(os.sched_getaffinity(0)) + 1))


def steps(*, quick: bool) -> int:
    return len(counts()) * (1 if quick else ROUNDS)


def run(*, quick: bool, step: Step) -> dict[str, Any]:
    """A point for each number of members. The numbers take turns, round by round. Raises LabError."""
    seconds = QUICK_SECONDS if quick else SECONDS
    sealed: dict[int, list[Rate]] = {members: [] for members in counts()}
    opened: dict[int, list[Rate]] = {members: [] for members in counts()}
    done = 0
    for number in range(1 if quick else ROUNDS):
        for members in counts():
            step(done, f"{members} members in memory, round {number + 1}")
            sealed[members].append(measure(members, seconds, opens=False))
            opened[members].append(measure(members, seconds, opens=True))
            done += 1
    step(done, "done")
    return {"points": [_point(n, sealed, opened) for n in counts()]}


def _point(members: int, sealed: dict[int, list[Rate]], opened: dict[int, list[Rate]]) -> dict[str, Any]:
    return {
        "members": members,
        "gbps_sealed": figure([rate.gbps for rate in sealed[members]], "Gbit/s"),
        "gbps_opened": figure([rate.gbps for rate in opened[members]], "Gbit/s"),
        "efficiency_sealed": _efficiency(sealed, members),
        "efficiency_opened": _efficiency(opened, members),
        "demux_share": figure([rate.demux_share for rate in sealed[members]], "share"),
    }


def _efficiency(rates: dict[int, list[Rate]], members: int) -> Figure:
    first = counts()[0]
    pairs = zip(rates[members], rates[first], strict=True)
    return figure([many.gbps / (members * one.gbps) for many, one in pairs], "share")


def measure(members: int, seconds: float, *, opens: bool) -> Rate:
    """One demux and so many members for so long; on a busy machine until anything has come through."""
    with running(members, opens=opens) as load:
        time.sleep(_WARM_UP_S)
        before, cpu, start = load.octets(), load.cpu_s(), time.perf_counter()
        time.sleep(seconds)
        while load.octets() == before and time.perf_counter() - start < _CARRY_TIMEOUT_S:
            time.sleep(_POLL_S)
        octets, elapsed = load.octets() - before, time.perf_counter() - start
        demux_s, workers_s = (now - then for now, then in zip(load.cpu_s(), cpu, strict=True))
    if not octets:
        raise LabError(f"{members} members in memory: nothing came through")
    return Rate(octets * 8 / 1e9 / elapsed, demux_s / ((demux_s + workers_s) or 1.0))


@dataclass(frozen=True)
class Load:
    """A demux and members at work."""

    paths: list[Path]
    demux: int
    members: list[int]
    counter: MemberCounter

    def octets(self) -> int:
        """IP octets carried so far."""
        return sum(path.member.counters.read()[self.counter] for path in self.paths)

    def cpu_s(self) -> tuple[float, float]:
        """CPU seconds so far: of the demux, of all members."""
        try:
            return CpuTime.of(self.demux).total_s, sum(CpuTime.of(pid).total_s for pid in self.members)
        except OSError:
            raise LabError("a process of the data path in memory has ended") from None

    def carry(self, octets: int) -> None:
        """Return when so many more octets have been carried. Raises LabError if they do not move."""
        wanted = self.octets() + octets
        until(lambda: self.octets() >= wanted, f"{octets:,} octets carried", _CARRY_TIMEOUT_S)


@contextmanager
def running(members: int, *, opens: bool) -> Iterator[Load]:
    """One demux feeding so many members, who open what they have sealed if told so; all gone when the block ends."""
    paths = [Path() for _ in range(members)]
    cores = sorted(os.sched_getaffinity(0))[:members]
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=_member, args=(path, core, opens), daemon=True)
        for path, core in zip(paths, cores, strict=True)
    ]
    demux = context.Process(target=_demux, args=(paths, cores), daemon=True)

    # Whatever happens meanwhile, none of them stays.
    try:
        for process in [*workers, demux]:
            process.start()
        counter = MemberCounter.IN_BYTES if opens else MemberCounter.OUT_BYTES
        yield Load(paths, demux.pid or 0, [worker.pid or 0 for worker in workers], counter)
    finally:
        for process in [*workers, demux]:
            if process.pid is not None:
                process.kill()
                process.join()
        for path in paths:
            path.close()


def _begin(cores: set[int]) -> None:
    """As a process of the data path is: pinned, and it does not push another off its core when it wakes up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.sched_setaffinity(0, cores)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _demux(paths: list[Path], cores: list[int]) -> None:
    """Records of many flows, spread over the members as evenly as their number allows."""
    _begin(set(cores))
    lanes = [path.lane for path in paths]
    owner = [bucket % len(lanes) for bucket in range(BUCKET_MASK + 1)]
    records = [Record(RECORD_BYTES, 40_000 + flow) for flow in _even_flows(owner, len(lanes))]
    while True:
        for record in records:
            packet = record.view[VNET_BYTES:]
            lane = lanes[owner[flow_hash(packet) & BUCKET_MASK]]
            while not lane.put(record.view, record.octets, record.length, 0):
                time.sleep(_RING_FULL_S)
        for lane in lanes:
            if lane.open:
                lane.flush()


def _even_flows(owner: list[int], members: int) -> list[int]:
    """FLOWS flows, as many for one member as for another, the members in turns."""
    of: list[list[int]] = [[] for _ in range(members)]
    each, flow = FLOWS // members, 0
    while min(map(len, of)) < each:
        packet = Record(40, 40_000 + flow).view[VNET_BYTES:]
        of[owner[flow_hash(packet) & BUCKET_MASK]].append(flow)
        flow += 1
    return [flows[place] for place in range(each) for flows in of]


def _member(path: Path, core: int, opens: bool) -> None:
    """Seal, and open if told so, whatever the ring has."""
    _begin({core})
    epoll = select.epoll()
    epoll.register(path.ring.bell, select.EPOLLIN | select.EPOLLET)
    while True:
        while path.work():
            if opens:
                path.receive()
        epoll.poll(_BELL_WAIT_S)

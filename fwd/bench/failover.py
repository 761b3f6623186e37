"""Part `failover`: a member of gw1 killed every second under load, in turns; how long its flows were silent.

Eight TCP streams run all the while, and a 1 kHz probe on every member. A kill's gap is the longest silence of the
killed member's probe in the second after the kill, counted to its end. So it holds the machine's own noise, too:
`quiet_gaps_ms` says how much that is, second by second before the first kill. One run: its spread is that of the kills.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from fwd.bench.result import Plan
from fwd.lab import gateways, probe, probing, tools, traffic
from fwd.lab.topology import Topology
from fwd.lab.waiting import until
from fwd.lab.world import LabError

MEMBERS: Final = 4
STREAMS: Final = 8
_SETTLE_S = 1.0  # before anything is counted, and after
_SPARE_S = 30.0  # probes are ended once the streams have
_PID_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Schedule:
    """So many beats are left quiet first, then a member is killed on each."""

    beat_s: float
    quiet: int
    kills: int

    @property
    def load_s(self) -> float:
        """How long streams and probes run."""
        return _SETTLE_S + (self.quiet + self.kills) * self.beat_s + _SETTLE_S


QUICK: Final = Schedule(beat_s=0.5, quiet=2, kills=5)
FULL: Final = Schedule(beat_s=1.0, quiet=5, kills=60)


@dataclass(frozen=True)
class Moments:
    """When what happened, in ns of the wall clock, as the probes' times are."""

    quiet: list[int]
    kills: list[int]  # of member 0, 1, …, 0, 1, …
    end: int


def run(plan: Plan) -> dict[str, Any]:
    """The part's result. Raises LabError."""
    traffic.require_iperf3()
    schedule = QUICK if plan.quick else FULL
    with tools.standing(Topology("bench-failover"), members=MEMBERS) as topology:
        return _measure(topology, schedule, plan)


def _measure(topology: Topology, schedule: Schedule, plan: Plan) -> dict[str, Any]:
    ports, longest_s = probing.ports(topology, MEMBERS), schedule.load_s + _SPARE_S
    with ExitStack() as stack:
        probes = stack.enter_context(probing.probing(topology, topology.run_dir, ports, longest_s))
        stack.enter_context(tools.ended(traffic.start_server(topology, "client2")))
        resets = traffic.tcp_resets(topology)
        client = traffic.start_even(topology, members=MEMBERS, streams=STREAMS, seconds=schedule.load_s)
        stack.enter_context(tools.ended(client))
        moments = _kill_again_and_again(topology, client, schedule, plan)
        # Before the streams end: iperf3 may close its connections with a reset.
        resets = traffic.tcp_resets(topology) - resets
        tcp = traffic.parse(tools.output(client))
        probes.end()
        got = probes.arrivals
    return {
        "members": MEMBERS,
        "streams": STREAMS,
        "kill_every_s": schedule.beat_s,
        "kills": schedule.kills,
        **_silences(schedule, moments, probes.sent, got),
        "tcp_resets": resets,
        "retransmits": tcp.retransmits,
        "received_mbps": tcp.received_mbps,
    }


def _silences(
    schedule: Schedule, moments: Moments, sent: dict[int, probe.Sent], got: dict[int, probe.Ints]
) -> dict[str, Any]:
    """What the probes say."""
    for member, port in enumerate(sent):
        if port not in got:
            raise LabError(f"failover: no probe of member {member} arrived")
    times = [got[port][1] for port in sent]
    within_ns = int(schedule.beat_s * 1e9)
    quiet = [gap for flow in times for gap in probe.silences_ms(flow, moments.quiet, within_ns, moments.end)]
    return {
        "gaps_ms": distribution(gaps_ms(moments, times, within_ns)),
        "quiet_gaps_ms": distribution(quiet),
        "sent_probes": sum(sent[port].count for port in sent),
        "lost_probes": sum(sent[port].count - int(np.unique(got[port][0]).size) for port in sent),
    }


def gaps_ms(moments: Moments, times_ns: Sequence[probe.Ints], within_ns: int) -> list[float]:
    """The gap of each kill; `times_ns`: the arrivals of each member's probes."""
    return [
        probe.silences_ms(times_ns[number % len(times_ns)], [at_ns], within_ns, moments.end)[0]
        for number, at_ns in enumerate(moments.kills)
    ]


def distribution(gaps: list[float]) -> dict[str, Any]:
    """The gaps, and the percentiles that are told of them."""
    p50, p90, p99 = np.percentile(gaps, [50, 90, 99]).round(3).tolist()
    return {"p50": p50, "p90": p90, "p99": p99, "max": max(gaps), "values": gaps}


def _kill_again_and_again(topology: Topology, client: subprocess.Popen[str], schedule: Schedule, plan: Plan) -> Moments:
    """On a fixed beat: leave the members alone for a while, then kill them in turns."""
    moments = Moments([], [], 0)
    start_s = time.monotonic() + _SETTLE_S
    total = schedule.quiet + schedule.kills
    for beat in range(total):
        _await(start_s + beat * schedule.beat_s, client)
        if beat < schedule.quiet:
            moments.quiet.append(time.time_ns())
        else:
            moments.kills.append(_kill(topology, len(moments.kills) % MEMBERS))
        plan.step(beat, total, f"{len(moments.kills)} killed")
    _await(start_s + total * schedule.beat_s, client)
    plan.step(total, total, f"{len(moments.kills)} killed")
    return replace(moments, end=time.time_ns())


def _kill(topology: Topology, member: int) -> int:
    """Kill the process of a member of gw1; returns when, in ns."""

    def running() -> int:
        status = gateways.status(topology, "gw1")
        row = status["peerings"][0]["members"][member] if status else None
        return row["pid"] if row and row["state"] == "running" and row["pid"] > 1 else 0

    pid = until(running, f"failover: member {member} of gw1 is back", _PID_TIMEOUT_S)
    at_ns = time.time_ns()
    os.kill(pid, signal.SIGKILL)
    return at_ns


def _await(beat_s: float, client: subprocess.Popen[str]) -> None:
    """Until `beat_s`, or iperf3 has ended early."""
    while (left_s := beat_s - time.monotonic()) > 0:
        if client.poll() is not None:
            traffic.parse(tools.output(client))  # says why, if it knows
            raise LabError("failover: iperf3 ended before its time")
        time.sleep(min(left_s, 0.25))

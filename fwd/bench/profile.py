"""Part `profile`: where a burst's time goes, stage by stage, out and in; and the demux's share of its gateway's CPU.

Two gateways with two members each under 16 TCP streams. First the kernel's own accounts alone, slice by slice: user
and system time of every process. Then py-spy looks at one process after another; without it, or where it may not look,
there are no stages, and `sampler` says why. Shares of stages are of the samples in which the process was at work; they
times its CPU time over its records give the microseconds. A record is one read or write of the TUN device, of up to
64 KiB. Last, super-packets over a line of 9,000 bytes beside one of 1,500 (`jumbo`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from fwd.bench import jumbo, stages
from fwd.bench.cpu import CpuTime
from fwd.bench.result import Plan, figure
from fwd.lab import gateways, told, tools, traffic
from fwd.lab.topology import GATEWAYS, Topology
from fwd.lab.waiting import until
from fwd.lab.world import LabError

MEMBERS: Final = 2
STREAMS: Final = 16
SAMPLED: Final = ("gw1 demux", "gw1 member 0", "gw2 member 0", "gw2 demux")
_LOAD_TIMEOUT_S = 10.0
_LOAD_BYTES = 20_000_000


@dataclass(frozen=True)
class Schedule:
    """How long each thing is looked at."""

    slices: int
    slice_s: float
    sample_s: int  # of each sampled process

    @property
    def load_s(self) -> float:
        """The longest that the load may be wanted; it is ended before."""
        return 30 + self.slices * self.slice_s + len(SAMPLED) * (self.sample_s + 5.0)


QUICK: Final = Schedule(slices=2, slice_s=0.5, sample_s=1)
FULL: Final = Schedule(slices=5, slice_s=2.0, sample_s=5)


@dataclass(frozen=True)
class Usage:
    """What one process has used and done: CPU time, and records (and their bytes) by direction."""

    cpu: CpuTime
    records: Mapping[stages.Direction, int]
    bytes: int

    def __sub__(self, other: Usage) -> Usage:
        records = {way: count - other.records[way] for way, count in self.records.items()}
        return Usage(self.cpu - other.cpu, records, self.bytes - other.bytes)


Usages = dict[str, Usage]  # by process


def run(plan: Plan) -> dict[str, Any]:
    """The part's result. Raises LabError."""
    traffic.require_iperf3()
    schedule = QUICK if plan.quick else FULL
    before_jumbo = schedule.slices + len(SAMPLED)
    total = before_jumbo + jumbo.steps(quick=plan.quick)

    # A loaded lab; then slices of CPU time, and samples of what it is spent on.
    with tools.standing(Topology("bench-profile"), members=MEMBERS) as topology, ExitStack() as stack:
        stack.enter_context(tools.ended(traffic.start_server(topology, "client2")))
        load = traffic.start_even(topology, members=MEMBERS, streams=STREAMS, seconds=schedule.load_s)
        stack.enter_context(tools.ended(load))
        _await_load(topology)
        pids = _pids(topology)
        slices = []
        for done in range(schedule.slices):
            plan.step(done, total, "CPU time of every process")
            before = _read(topology, pids)
            time.sleep(schedule.slice_s)
            slices.append(_since(before, _read(topology, pids)))
        body = _accounts(slices, schedule.slice_s)
        body["sampler"] = _sample(
            topology, pids, schedule.sample_s, body["processes"],
            lambda done, title: plan.step(schedule.slices + done, total, f"stages of {title}"),
        )  # fmt: skip

    # The lines are compared in labs of their own.
    body["jumbo"] = jumbo.run(quick=plan.quick, step=lambda done, what: plan.step(before_jumbo + done, total, what))
    return {"members": MEMBERS, "streams": STREAMS, **body}


# -- the kernel's accounts ----------------------------------------------------------------------------------------


def _accounts(slices: Sequence[Usages], slice_s: float) -> dict[str, Any]:
    """Every process's CPU time, and the demux's share of its gateway's."""
    processes: dict[str, dict[str, Any]] = {}
    for title in slices[0]:
        user, system = (sum(getattr(each[title].cpu, which) for each in slices) for which in ("user_s", "system_s"))
        records = sum(sum(each[title].records.values()) for each in slices)
        processes[title] = {
            "cores": (user + system) / (slice_s * len(slices)),
            "user": user / ((user + system) or 1),
            "system": system / ((user + system) or 1),
            "record_bytes": round(sum(each[title].bytes for each in slices) / (records or 1)),
        }
    shares = {host: [_demux_share(each, host) for each in slices] for host in GATEWAYS}
    carried = [sum(each[f"gw2 member {i}"].bytes for i in range(MEMBERS)) for each in slices]
    return {
        "processes": processes,
        "delivered_mbps": figure([octets * 8 / 1e6 / slice_s for octets in carried], "Mbit/s"),
        # Of the gateway where it is larger: the one that sends reads the data, the other one ACKs.
        "demux_share": figure([max(pair) for pair in zip(*shares.values(), strict=True)], "share"),
        "demux_share_of": {host: figure(values, "share") for host, values in shares.items()},
    }


def _demux_share(usages: Usages, host: str) -> float:
    total_s = sum(usage.cpu.total_s for title, usage in usages.items() if title.startswith(host))
    if not total_s:
        raise LabError(f"profile: {host} used no CPU time while the streams ran")
    return usages[f"{host} demux"].cpu.total_s / total_s


def _since(before: Usages, now: Usages) -> Usages:
    return {title: usage - before[title] for title, usage in now.items()}


def _read(topology: Topology, pids: Mapping[str, int]) -> Usages:
    work: dict[str, tuple[dict[stages.Direction, int], int]] = {}
    for host in GATEWAYS:
        peering = _peering(topology, host)
        work[f"{host} demux"] = ({"out": peering["demux"]["records"], "in": 0}, peering["demux"]["bytes"])
        for member in peering["members"]:
            out, back = member["out"], member["in"]
            ways: dict[stages.Direction, int] = {"out": out["records"], "in": back["records"]}
            work[f"{host} member {member['index']}"] = (ways, out["bytes"] + back["bytes"])
    try:
        cpu = {title: CpuTime.of(pid) for title, pid in pids.items()}
    except OSError:
        raise LabError("profile: a process of a gateway ended under load") from None
    return {title: Usage(cpu[title], *work.get(title, ({"out": 0, "in": 0}, 0))) for title in pids}


def _peering(topology: Topology, host: str) -> Mapping[str, Any]:
    peering: Mapping[str, Any] = _status(topology, host)["peerings"][0]
    return peering


def _status(topology: Topology, host: str) -> Mapping[str, Any]:
    status = gateways.status(topology, host)
    if status is None:
        raise LabError(f"profile: {host} tells no status")
    return status


def _pids(topology: Topology) -> dict[str, int]:
    """Every process of both gateways by title, the member's number last."""
    found: dict[str, int] = {}
    for host in GATEWAYS:
        status = _status(topology, host)
        rows = told.processes(status).items()
        found |= {f"{host} {name.replace('member-', 'member ')}": row["pid"] for name, row in rows}
        found[f"{host} supervisor"] = status["gateway"]["pid"]
    return found


def _await_load(topology: Topology) -> None:
    def loaded() -> bool:
        return bool(sum(member["in"]["bytes"] for member in _peering(topology, "gw2")["members"]) >= _LOAD_BYTES)

    until(loaded, f"profile: {_LOAD_BYTES:,} bytes of TCP carried", _LOAD_TIMEOUT_S)


# -- the sampler --------------------------------------------------------------------------------------------------


def _sample(
    topology: Topology,
    pids: Mapping[str, int],
    seconds: int,
    processes: Mapping[str, dict[str, Any]],
    step: Callable[[int, str], None],
) -> str:
    """Put `waiting` and `stages` into the sampled processes; returns with what, or why not."""
    tool = stages.sampler()
    if tool is None:
        return "none: py-spy is not there: pip install 'fwd[bench]'"
    out = topology.run_dir / "samples.txt"
    for done, title in enumerate(SAMPLED):
        step(done, title)
        before = _read(topology, pids)
        try:
            samples = stages.sample(tool, pids[title], seconds, out)
        except OSError as error:
            return f"none: {error}"
        processes[title] |= stage_rows(samples, _since(before, _read(topology, pids))[title])
    return "py-spy"


def stage_rows(samples: Mapping[stages.Stage, int], used: Usage) -> dict[str, Any]:
    """The stages of one process, the longest first; `waiting` is the share of all samples that were in none."""
    waiting = samples.get(stages.WAIT, 0)
    working = sum(samples.values()) - waiting
    rows = []
    for stage, count in sorted(samples.items(), key=lambda item: -item[1]):
        if stage == stages.WAIT:
            continue
        row = {"stage": stage.name, "where": stage.where, "direction": stage.direction, "share": count / working}
        records = used.records.get(stage.direction, sum(used.records.values()))
        if records:
            row["us_per_record"] = count / working * used.cpu.total_s * 1e6 / records
        rows.append(row)
    return {"samples": working + waiting, "waiting": waiting / ((working + waiting) or 1), "stages": rows}

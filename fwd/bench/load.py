"""The kinds of traffic that every peer is measured with, and how long each takes.

A measurement works on a lab whose tunnel is up, and gives a value for each of its kinds:

    tcp-N, tcp-N-reverse, tcp-N-both    Mbit/s of N iperf3 streams: client1 to client2, back, both ways at once (summed)
    udp-B                               datagrams of B bytes delivered a second (fwd.bench.udp)
    ping-idle-p50, ping-idle-p99        ms without load (fwd.bench.ping)
    ping-loaded-p50, ping-loaded-p99    ms under 16 TCP streams
    http-new, http-kept                 short HTTP requests answered a second, 64 at once (fwd.bench.http): each over a
                                        connection of its own, and over connections that are kept
    cpu                                 CPU seconds of both gateways for each gigabyte of tcp-4
    loss-0.1, loss-1                    share of the throughput of 4 streams without loss that 0.1 % or 1 % of loss
                                        leaves (fwd.bench.loss), on the same line and in the same round
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fwd.bench import http, loss, ping, udp
from fwd.bench.cpu import CpuTime
from fwd.lab import processes, tools, traffic
from fwd.lab.topology import GATEWAYS, Topology
from fwd.lab.waiting import until
from fwd.lab.world import LabError

STREAMS: Final = (1, 4, 16)
IDLE: Final = "ping-idle"
CPU_STREAMS: Final = 4  # of the forward run that CPU time is taken from
_LOSS_STREAMS = 4
_LOADED_STREAMS = 16
_LOADED_BYTES = 5_000_000
_LOADED_TIMEOUT_S = 10.0
_NETNS_DIR = Path("/run/netns")


@dataclass(frozen=True)
class Schedule:
    """What is measured, and for how long; TCP runs for whole seconds."""

    rounds: int
    tcp: tuple[int, ...]  # numbers of streams
    other_ways: bool  # reverse, and both at once
    tcp_s: int  # forward
    other_ways_s: int
    udp_bytes: tuple[int, ...]
    udp_probe_s: float
    udp_first_probes: int
    udp_later_probes: int
    pings: int
    loaded_pings: int
    http_s: int
    http_requests: int  # it ends sooner when so many have been sent
    loss_percent: tuple[float, ...]
    loss_s: int


FULL: Final = Schedule(
    rounds=3,
    tcp=STREAMS, other_ways=True, tcp_s=3, other_ways_s=1,
    udp_bytes=(64, 512, 1400), udp_probe_s=0.5, udp_first_probes=7, udp_later_probes=4,
    pings=150, loaded_pings=300,
    http_s=2, http_requests=400_000,
    loss_percent=(0.1, 1), loss_s=3,
)  # fmt: skip
QUICK: Final = Schedule(
    rounds=1,
    tcp=(4,), other_ways=False, tcp_s=1, other_ways_s=1,
    udp_bytes=(512,), udp_probe_s=0.15, udp_first_probes=2, udp_later_probes=2,
    pings=40, loaded_pings=0,
    http_s=1, http_requests=300,
    loss_percent=(1,), loss_s=1,
)  # fmt: skip


@dataclass
class Taken:
    """What one measurement gave: a value for each kind, and what came to light beside it."""

    values: dict[str, float]
    retransmits: dict[str, float] = field(default_factory=dict)  # TCP segments, by kind
    unanswered: dict[str, float] = field(default_factory=dict)  # share of the pings, by kind
    cpu_s_per_gb: dict[str, float] = field(default_factory=dict)  # by process


@dataclass(frozen=True)
class Measurement:
    """One kind of traffic, or two that come from the same run."""

    name: str
    take: Callable[[Topology], Taken]


def unit(kind: str) -> str:
    units = {"tcp": "Mbit/s", "udp": "packets/s", "ping": "ms", "http": "requests/s", "cpu": "s/GB", "loss": "share"}
    return units[kind.partition("-")[0]]


def measurements(schedule: Schedule) -> list[Measurement]:
    """In the order in which each round takes them."""
    found = [_tcp(streams, "", schedule.tcp_s) for streams in schedule.tcp]
    if schedule.other_ways:
        found += [_tcp(streams, way, schedule.other_ways_s) for way in ("reverse", "both") for streams in schedule.tcp]
    found += [_udp(size, schedule) for size in schedule.udp_bytes]
    found.append(Measurement(IDLE, lambda topology: _idle(topology, schedule.pings)))
    if schedule.loaded_pings:
        found.append(Measurement("ping-loaded", lambda topology: _loaded(topology, schedule.loaded_pings)))
    found.append(Measurement("http", lambda topology: _http(topology, schedule)))
    found.append(Measurement("loss", lambda topology: _loss(topology, schedule)))
    return found


# -- TCP ----------------------------------------------------------------------------------------------------------


def _tcp(streams: int, way: str, seconds: int) -> Measurement:
    kind = f"tcp-{streams}-{way}" if way else f"tcp-{streams}"

    def take(topology: Topology) -> Taken:
        before = _cpu(topology)
        result = traffic.run(topology, streams=streams, seconds=seconds, reverse=way == "reverse", both=way == "both")
        taken = Taken({kind: result.received_mbps}, {kind: result.retransmits})
        if streams == CPU_STREAMS and not way:
            gigabytes = result.received_mbps * seconds / 8000
            taken.cpu_s_per_gb = per_gigabyte(before, _cpu(topology), gigabytes)
            if taken.cpu_s_per_gb:  # plain forwarding has no process
                taken.values["cpu"] = sum(taken.cpu_s_per_gb.values())
        return taken

    return Measurement(kind, take)


def _cpu(topology: Topology) -> dict[tuple[str, int], tuple[str, float]]:
    """CPU seconds so far of every process on the gateways: by host and pid its name and seconds."""
    found = {}
    for host in GATEWAYS:
        for process in processes.in_network_of(_NETNS_DIR / topology.ns(host)):
            try:
                name = Path(f"/proc/{process.pid}/comm").read_text().strip()
                found[host, process.pid] = name, CpuTime.of(process.pid).total_s
            except OSError:
                continue  # it has ended
    return found


def per_gigabyte(
    before: Mapping[tuple[str, int], tuple[str, float]],
    after: Mapping[tuple[str, int], tuple[str, float]],
    gigabytes: float,
) -> dict[str, float]:
    """CPU seconds for each gigabyte by process: host and name; those of one name together."""
    used: dict[str, float] = {}
    for key, (name, seconds) in after.items():
        title = f"{key[0]} {name}"
        used[title] = used.get(title, 0.0) + seconds - before.get(key, (name, 0.0))[1]
    return {title: seconds / gigabytes for title, seconds in used.items()}


# -- UDP ----------------------------------------------------------------------------------------------------------


def _udp(size_bytes: int, schedule: Schedule) -> Measurement:
    found_pps: dict[str, float] = {}  # by lab, in the round before

    def take(topology: Topology) -> Taken:
        first = topology.name not in found_pps
        factor, probes = (2.0, schedule.udp_first_probes) if first else (1.2, schedule.udp_later_probes)
        with udp.load(topology, size_bytes, schedule.udp_probe_s) as probe:
            pps = udp.highest(probe, found_pps.get(topology.name, udp.START_PPS), factor, probes)
        found_pps[topology.name] = pps
        return Taken({f"udp-{size_bytes}": pps})

    return Measurement(f"udp-{size_bytes}", take)


# -- ping ---------------------------------------------------------------------------------------------------------


def _idle(topology: Topology, count: int) -> Taken:
    return _pinged(IDLE, ping.run(topology, count))


def _loaded(topology: Topology, count: int) -> Taken:
    traffic.require_iperf3()
    # Ended as soon as the pings are; the time is the longest that it may take.
    seconds = count * ping.INTERVAL_S + _LOADED_TIMEOUT_S
    with tools.ended(traffic.start_server(topology, "client2")):
        to = topology.address("client2")
        client = traffic.start_client(topology, "client1", to, streams=_LOADED_STREAMS, seconds=seconds)
        with tools.ended(client):
            _await_load(topology)
            pings = ping.run(topology, count)
            if client.poll() is not None:
                raise LabError("the TCP streams ended before the pings under load did")
    return _pinged("ping-loaded", pings)


def _pinged(kind: str, pings: ping.Pings) -> Taken:
    values = {f"{kind}-p50": pings.p50_ms, f"{kind}-p99": pings.p99_ms}
    return Taken(values, unanswered={kind: pings.unanswered})


def _await_load(topology: Topology) -> None:
    """Until the streams, which have just been started, are under way."""
    wanted = _received_bytes(topology) + _LOADED_BYTES
    until(lambda: _received_bytes(topology) >= wanted, f"{_LOADED_BYTES:,} bytes of TCP carried", _LOADED_TIMEOUT_S)


def _received_bytes(topology: Topology) -> int:
    return int(topology.run("client2", ["cat", "/sys/class/net/eth0/statistics/rx_bytes"]).stdout)


# -- HTTP ---------------------------------------------------------------------------------------------------------


def _http(topology: Topology, schedule: Schedule) -> Taken:
    with http.serving(topology):
        return Taken({
            f"http-{name}": http.run(topology, seconds=schedule.http_s, requests=schedule.http_requests, kept=kept)
            for name, kept in (("new", False), ("kept", True))
        })  # fmt: skip


# -- loss ---------------------------------------------------------------------------------------------------------


def _loss(topology: Topology, schedule: Schedule) -> Taken:
    taken = Taken({})
    with loss.segmented(topology):
        whole_mbps = traffic.run(topology, streams=_LOSS_STREAMS, seconds=schedule.loss_s).received_mbps
        for percent in schedule.loss_percent:
            with loss.dropping(topology, percent / 100):
                result = traffic.run(topology, streams=_LOSS_STREAMS, seconds=schedule.loss_s)
            kind = f"loss-{percent:g}"
            taken.values[kind] = result.received_mbps / whole_mbps
            taken.retransmits[kind] = result.retransmits
    return taken

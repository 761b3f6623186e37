"""Scaling over a line that caps every 5-tuple: as cloud networks do, and as a tunnel on one core does.

HTB on gw1's WAN device holds each member's 5-tuple to `cap_mbps` and all together to `line_mbps`. So throughput
should be min(N × cap, line). What counts are the octets of ESP packets that HTB has let through, Ethernet header
included, since HTB counts it too. Then the same with half a core taken by another load (`busy`). Both WAN devices send
single packets meanwhile, as a real line does: HTB lets whole sends pass otherwise, of 64 KiB each.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from fwd.bench import busy, loss
from fwd.bench.result import figure
from fwd.lab import gateways, tools, traffic
from fwd.lab.topology import Topology
from fwd.lab.world import LabError
from fwd.model import config

CAP_MBPS: Final = 100
LINE_MBPS: Final = 500
STREAMS: Final = 64
MEMBERS: Final = (1, 2, 3, 4, 5, 6, 7, 8)
QUICK_MEMBERS: Final = (1, 2)
SLICES, SLICE_S, SETTLE_S = 3, 2.0, 2.5
QUICK_SLICES, QUICK_SLICE_S, QUICK_SETTLE_S = 1, 0.5, 1.0
_SPARE_S = 5.0
_QUEUE_MS = 50  # a class's queue, at its cap
_BURST = "32k"
_SENT = re.compile(r"^class htb (1:[0-9a-f]+) .*\n Sent (\d+) bytes", re.MULTILINE)

Step = Callable[[int, str], None]


def steps(*, quick: bool) -> int:
    return len(QUICK_MEMBERS if quick else MEMBERS)


def run(*, quick: bool, step: Step) -> dict[str, Any]:
    """A point for each number of members. Raises LabError."""
    traffic.require_iperf3()
    points = []
    for done, members in enumerate(QUICK_MEMBERS if quick else MEMBERS):
        step(done, f"{members} members, line-limited")
        points.append(point(members, quick=quick))
    step(steps(quick=quick), "done")
    return {"cap_mbps": CAP_MBPS, "line_mbps": LINE_MBPS, "streams": STREAMS, "points": points}


def point(members: int, *, quick: bool) -> dict[str, Any]:
    """Throughput of so many members, in slices of one run under steady load, alone and beside another load."""
    slices, slice_s, settle_s = (QUICK_SLICES, QUICK_SLICE_S, QUICK_SETTLE_S) if quick else (SLICES, SLICE_S, SETTLE_S)
    ideal = min(members * CAP_MBPS, LINE_MBPS)
    with loaded(members, 2 * slices * slice_s + settle_s, settle_s=settle_s) as topology:
        alone = _slices(topology, slices, slice_s)
        with busy.half_a_core():
            time.sleep(settle_s)
            beside = _slices(topology, slices, slice_s)
    return {"members": members, "ideal_mbps": ideal, **_held(alone, ideal), "busy": _held(beside, ideal)}


def _slices(topology: Topology, slices: int, slice_s: float) -> list[float]:
    """Mbit/s of ESP packets in each slice."""
    mbps = []
    for _ in range(slices):
        before, start = sent_bytes(topology), time.perf_counter()
        time.sleep(slice_s)
        sent = sent_bytes(topology) - before
        mbps.append(sent * 8 / 1e6 / (time.perf_counter() - start))
    return mbps


def _held(mbps: list[float], ideal: float) -> dict[str, Any]:
    return {
        "mbps": figure(mbps, "Mbit/s"),
        "share_of_ideal": figure([value / ideal for value in mbps], "share"),
    }


@contextmanager
def loaded(members: int, seconds: float, settle_s: float = SETTLE_S) -> Iterator[Topology]:
    """The lab with so many members over the capped line, under load that is steady now and for so long."""
    with ExitStack() as stack:
        topology = stack.enter_context(tools.standing(Topology("bench-line"), members=members))
        stack.enter_context(loss.segmented(topology))
        _shape(topology, members)
        stack.enter_context(tools.ended(traffic.start_server(topology, "client2")))
        load_s = settle_s + seconds + _SPARE_S  # it is ended before
        client = traffic.start_even(topology, members=members, streams=STREAMS, seconds=load_s)
        stack.enter_context(tools.ended(client))
        time.sleep(settle_s)
        yield topology
        if client.poll() is not None:
            raise LabError(f"{members} members over a capped line: the streams ended early")


def _shape(topology: Topology, members: int) -> None:
    """One class for the line, and below it one for each member's UDP port."""
    queue_bytes = CAP_MBPS * 125 * _QUEUE_MS
    first_port = config.load(gateways.files(topology, "gw1").config).peering[0].port
    lines = [
        "qdisc add dev wan root handle 1: htb",
        f"class add dev wan parent 1: classid 1:1 htb rate {LINE_MBPS}mbit burst {_BURST} cburst {_BURST} quantum 3000",
    ]
    for member in range(members):
        # What is guaranteed together is not more than the line; each may borrow up to its cap.
        rate, minor, port = min(CAP_MBPS, LINE_MBPS // members), f"1:{member + 0x10:x}", first_port + member
        lines += [
            f"class add dev wan parent 1:1 classid {minor} htb rate {rate}mbit ceil {CAP_MBPS}mbit"
            f" burst {_BURST} cburst {_BURST} quantum 3000",
            f"qdisc add dev wan parent {minor} bfifo limit {queue_bytes}",
            f"filter add dev wan parent 1: protocol ip u32 match ip dport {port} 0xffff flowid {minor}",
        ]
    done = topology.run("gw1", ["tc", "-batch", "-"], check=False, input="\n".join(lines) + "\n")
    if done.returncode:
        raise LabError(f"gw1: tc: {(done.stderr or 'failed').strip().splitlines()[0]}")


def sent_bytes(topology: Topology) -> int:
    """Bytes of ESP packets that the members' classes have sent."""
    told = topology.run("gw1", ["tc", "-s", "class", "show", "dev", "wan"]).stdout
    return sum(int(sent) for minor, sent in _SENT.findall(told) if minor != "1:1")

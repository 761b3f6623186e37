"""Scaling with gateways: pairs of them behind routers, each held to `cap_mbps`, all together to what the line carries.

Two VPCs of a lab with a controller, a router and up to five gateways in each; one cluster of each VPC grows by a pair
after the other. Each gateway's outer device sends `cap_mbps` at most (TBF), and the line between the sites `line_mbps`.
So throughput should be min(N × cap, line). What counts are the octets of packets between the VPCs' gateways that the
line has let through, Ethernet header included, as TBF counts them: ESP, and IKE's few. `delivered_mbps` is what the far
client's device has received meanwhile: the same without what ESP adds. Payload `superpacket`, as for members: with
`esp` two cores are full with three pairs.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from fwd.bench.result import figure
from fwd.lab import tools, traffic
from fwd.lab.fleet.lab import Lab
from fwd.lab.fleet.plan import NET, Fleet
from fwd.lab.waiting import until
from fwd.lab.world import LabError

CAP_MBPS: Final = 100
LINE_MBPS: Final = 500
STREAMS: Final = 64
PAYLOAD: Final = "superpacket"
PAIRS: Final = (1, 2, 3, 4, 5)
QUICK_PAIRS: Final = (1, 2)
SLICES, SLICE_S, SETTLE_S = 3, 2.0, 4.0
QUICK_SLICES, QUICK_SLICE_S, QUICK_SETTLE_S = 1, 0.5, 1.0
_SPARE_S: Final = 5.0
_USED_S: Final = 90.0
_QUEUE_MS: Final = 50
_BURST: Final = "32k"
_OFFLOADS: Final = ("tx-udp-segmentation", "tcp-segmentation-offload")
_SENT: Final = re.compile(r"Sent (\d+) bytes")
_TABLE: Final = 7  # of routes by the line
_LINE_MACS: Final = ("02:00:00:00:00:01", "02:00:00:00:00:02")
_LINE_HOP: Final = "192.0.2.253"

Step = Callable[[int, str], None]


def steps(*, quick: bool) -> int:
    return len(QUICK_PAIRS if quick else PAIRS) + 1


def run(*, quick: bool, step: Step) -> dict[str, Any]:
    """A point for each number of pairs. Raises LabError."""
    traffic.require_iperf3()
    counts, points = QUICK_PAIRS if quick else PAIRS, []
    step(0, f"{counts[-1]} pairs of gateways join a controller")
    with standing(counts[-1]) as lab:
        for done, pairs in enumerate(counts, 1):
            step(done, f"{pairs} pairs of gateways")
            use(lab, pairs)
            points.append(point(lab, pairs, quick=quick))
    step(steps(quick=quick), "done")
    return {"cap_mbps": CAP_MBPS, "line_mbps": LINE_MBPS, "streams": STREAMS, "payload": PAYLOAD, "points": points}


def point(lab: Lab, pairs: int, *, quick: bool) -> dict[str, Any]:
    """Throughput of so many pairs, in slices of one run under steady load."""
    slices, slice_s = (QUICK_SLICES, QUICK_SLICE_S) if quick else (SLICES, SLICE_S)
    settle_s = QUICK_SETTLE_S if quick else SETTLE_S
    ideal, wire, delivered = min(pairs * CAP_MBPS, LINE_MBPS), [], []

    # Each slice by the kernel's counters, before and after; streams that end would make the last ones less.
    with loaded(lab.fleet, settle_s + slices * slice_s) as client:
        time.sleep(settle_s)
        for _ in range(slices):
            before, start = _counted(lab.fleet), time.perf_counter()
            time.sleep(slice_s)
            octets = [after - old for after, old in zip(_counted(lab.fleet), before, strict=True)]
            mbps = [count * 8 / 1e6 / (time.perf_counter() - start) for count in octets]
            wire.append(mbps[0])
            delivered.append(mbps[1])
        if client.poll() is not None:
            raise LabError(f"{pairs} pairs of gateways: the streams ended early")
    return {
        "pairs": pairs,
        "mbps": figure(wire, "Mbit/s"),
        "ideal_mbps": ideal,
        "share_of_ideal": figure([value / ideal for value in wire], "share"),
        "delivered_mbps": figure(delivered, "Mbit/s"),
    }


@contextmanager
def standing(pairs: int) -> Iterator[Lab]:
    """Two VPCs of so many gateways, all joined to a controller, and the line between them; no cluster yet."""
    lab = Lab(Fleet("bench-pairs", sites={"vpc1": pairs, "vpc2": pairs}))
    with ExitStack() as stack:
        stack.callback(lab.down)
        lab.down()  # what an earlier run left
        lab.fleet.up()
        _lay_line(lab.fleet)
        for gateway in lab.fleet.gateways:
            _hold(lab.fleet, gateway, "wan", CAP_MBPS)
        lab.up()

        # One tunnel each: here gateways add up, and not members.
        for gateway in lab.fleet.gateways:
            lab.api.change("gateways", gateway, members=1)
        yield lab


def use(lab: Lab, pairs: int) -> None:
    """Have so many gateways of each VPC share its traffic, and wait until they do."""
    used = {site.name: site.gateways[:pairs] for site in lab.fleet.plan}
    known = {one["name"] for one in lab.api.items("clusters")}
    for vpc, gateways in used.items():
        if vpc in known:
            lab.api.change("clusters", vpc, gateways=list(gateways))
        else:
            lab.api.create("clusters", name=vpc, vpc=vpc, gateways=list(gateways))
    if not known:
        lab.api.create("peerings", name="one-two", clusters=list(used), payload=PAYLOAD)

    # A slot that another is to serve moves while nothing uses it.
    for site in lab.fleet.plan:
        wanted = set(used[site.name])
        for router in lab.fleet.routers_of(site):
            until(lambda r=router, w=wanted: _spreads(lab, r, w), f"{router} spreads flows over {len(wanted)}", _USED_S)  # type: ignore[misc]
    for gateway in (one for gateways in used.values() for one in gateways):
        until(lambda g=gateway: lab.ready(g), f"{gateway} is ready", _USED_S, [lab.daemon(gateway)])  # type: ignore[misc]


def _spreads(lab: Lab, router: str, gateways: set[str]) -> bool:
    """Whether a router spreads flows over these, and no slot is still to move."""
    return any(
        {one["name"] for one in spread["gateways"] if one["use"] == "up"} == gateways and not spread["waiting"]
        for spread in lab.router(router).get("spreads", ())
    )


@contextmanager
def loaded(fleet: Fleet, seconds: float) -> Iterator[Any]:
    """TCP from the first client to the second for so long, at least, ended with the block."""
    with ExitStack() as stack:
        stack.enter_context(tools.ended(traffic.start_server(fleet, "client2")))
        to = fleet.address("client2")
        client = traffic.start_client(fleet, "client1", to, streams=STREAMS, seconds=seconds + _SPARE_S)
        yield stack.enter_context(tools.ended(client))


def _lay_line(fleet: Fleet) -> None:
    """Lead what goes from the first VPC's gateways to the second's by one device of the net, the line."""
    near, far = (site.gateways for site in fleet.plan)
    lines = [
        f"link add line address {_LINE_MACS[0]} type veth peer name line-end address {_LINE_MACS[1]}",
        "link set line up",
        "link set line-end up",
        f"neigh add {_LINE_HOP} lladdr {_LINE_MACS[1]} dev line nud permanent",
        *(f"route add {fleet.outer(one)} via {_LINE_HOP} dev line onlink table {_TABLE}" for one in far),
        *(f"rule add iif {one} lookup {_TABLE}" for one in near),
    ]
    _do(fleet, NET, ["ip", "-batch", "-"], "\n".join(lines) + "\n")
    _hold(fleet, NET, "line", LINE_MBPS)


def _hold(fleet: Fleet, host: str, device: str, mbps: int) -> None:
    """Have a device send so much and no more, in single packets, as a real line does."""
    for offload in _OFFLOADS:
        fleet.ethtool(host, device, offload, False)
    limit = mbps * 125 * _QUEUE_MS
    _do(fleet, host, f"tc qdisc add dev {device} root tbf rate {mbps}mbit burst {_BURST} limit {limit}".split())


def _do(fleet: Fleet, host: str, argv: list[str], text: str = "") -> None:
    done = fleet.run(host, argv, check=False, input=text)
    if done.returncode:
        raise LabError(f"{host}: {argv[0]}: {(done.stderr or 'failed').strip().splitlines()[0]}")


def _counted(fleet: Fleet) -> tuple[int, int]:
    """Octets that the line has let through, and that the second client has received."""
    told = fleet.run(NET, ["tc", "-s", "qdisc", "show", "dev", "line"]).stdout
    sent = _SENT.search(told)
    if sent is None:
        raise LabError("the line's queue tells no octets")
    received = fleet.run("client2", ["cat", "/sys/class/net/eth0/statistics/rx_bytes"]).stdout
    return int(sent[1]), int(received)

"""Gateways are added, drained and removed under TCP streams and numbered UDP flows, and nobody notices; new flows go to
each by its weight. All of it in one subnet, and in two with other weights.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import pytest
from clusterkit import FLOWS, NAME, STREAMS, Cluster, MakeFleet, until
from slotkit import IDLE_S, Watch, busy, wished

from fwd.router.slots import SLOTS

NEW_FLOWS, QUICK_FLOWS = 8000, 2000
POINTS = 0.05  # by how much a share of them may be another than its weight says
SHARE_S = 2.0  # until a gateway that is used has its share
STREAM_S = 20.0  # after which a TCP stream ends and begins anew
SENDER = """
import socket, sys, time
for port in range(20000, 20000 + int(sys.argv[2])):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", port))
        sock.sendto(b"new", (sys.argv[1], 9))
    if port % 20 == 0:
        time.sleep(0.002)
"""


@pytest.fixture(scope="module")
def lab(module_fleets: MakeFleet, request: pytest.FixtureRequest) -> Cluster:
    """Two clusters of two; of the first VPC a third gateway is in none. The parameter: in how many subnets the gateways
    of a VPC are, and gw2's weight; and the routers' drain_deadline.
    """
    subnets, deadline_s = request.param
    lab = module_fleets(3, 2, subnets=subnets, drain_s=deadline_s)
    first, second = lab.fleet.plan
    lab.api.change("gateways", "gw2", weight=float(subnets))
    lab.api.create("clusters", name="one", vpc="vpc1", gateways=list(first.gateways[:2]))
    lab.api.create("clusters", name="two", vpc="vpc2", gateways=list(second.gateways))
    lab.api.create("peerings", name=NAME, clusters=["one", "two"])
    lab.until_uses("router1", gw1="up", gw2="up")
    lab.until_uses("router2", gw4="up", gw5="up")
    return lab


def is_near(shares: dict[str, float], wanted: dict[str, float]) -> bool:
    """Whether each share is what is wanted, but for a few points."""
    return all(abs(shares[one] - wanted[one]) < POINTS for one in wanted)


def send_new_flows(lab: Cluster, count: int, counted: Callable[[], dict[str, int]]) -> dict[str, float]:
    """Send a packet of each of so many flows, and say which share each gateway got."""
    before = counted()
    client = [sys.executable, "-I", "-c", SENDER, lab.fleet.address("client2"), str(count)]
    lab.fleet.run("client1", client)
    until(lambda: sum(counted().values()) - sum(before.values()) > 0.95 * count, "all of them")
    news = {gateway: packets - before[gateway] for gateway, packets in counted().items()}
    return {gateway: packets / sum(news.values()) for gateway, packets in news.items()}


@pytest.mark.alone
@pytest.mark.parametrize("lab", [(1, 5), (2, 5)], indirect=True)
@pytest.mark.timeout(300)
def test_new_flows_go_to_each_gateway_by_its_weight(lab: Cluster) -> None:
    weights = {one["name"]: one["weight"] for one in lab.api.items("gateways") if one["name"] in ("gw1", "gw2")}
    until(lab.passes, "flows over all slots")
    wanted = {one: weight / sum(weights.values()) for one, weight in weights.items()}
    until(lambda: is_near({one: lab.shares("router1")[one] / SLOTS for one in wanted}, wanted), "idle slots have moved")
    with lab.counting(*weights, what="iifname lan udp dport 9") as counted:
        shares = send_new_flows(lab, NEW_FLOWS, counted)
    assert is_near(shares, wanted), shares


@pytest.mark.alone
@pytest.mark.parametrize(
    ("lab", "rounds"),
    [
        ((1, 5), 1),
        pytest.param((2, 5), 1, marks=pytest.mark.long),
        pytest.param((1, 20), 10, marks=pytest.mark.long),
        pytest.param((2, 20), 10, marks=pytest.mark.long),
    ],
    indirect=["lab"],
)
@pytest.mark.timeout(1200)
def test_nothing_is_lost_or_reordered_when_a_gateway_is_added_drained_and_removed(
    lab: Cluster, rounds: int, request: pytest.FixtureRequest
) -> None:
    deadline_s = float(request.node.callspec.params["lab"][1])
    for round_ in range(rounds):
        if round_:
            lab.api.ask("POST", "gateways/gw2/undrain")
            lab.api.change("clusters", "one", gateways=["gw1", "gw2"])
            lab.until_uses("router1", gw1="up", gw2="up")
            lab.until_uses("router2", gw4="up", gw5="up")
        come_and_go(lab, deadline_s)


def come_and_go(lab: Cluster, deadline_s: float) -> None:
    """gw3 is added, gw2 is drained and removed."""
    until(lab.passes, "flows over all slots")
    watch = Watch(lab, lab.fleet.all_routers)
    with lab.load(stream_s=STREAM_S) as load, watch.running():
        until(lambda: min(len(busy(lab, one)) for one in watch.routers) > FLOWS / 2, "flows over slots of both routers")
        added_at = time.monotonic()
        share_s = add_one(lab)
        lab.until_uses("router2", gw4="up", gw5="up")

        # Drained it keeps what is busy until its time is over, and nothing else. Then that moves, too.
        until(lambda: len(busy(lab, "router1")) <= FLOWS + STREAMS, "new flows are over")
        drained_at = time.monotonic()
        lab.api.ask("POST", "gateways/gw2/drain")
        lab.until_uses("router1", gw1="up", gw2="draining", gw3="up")
        kept = busy(lab, "router1", "gw2")
        lab.until_uses("router1", gw1="up", gw2="leaving", gw3="up")
        until(lambda: not lab.shares("router1")["gw2"], "it has no slot any more")

        lab.api.change("clusters", "one", gateways=["gw1", "gw3"])
        lab.until_uses("router1", gw1="up", gw3="up")
        until(lambda: not lab.status("gw2")["peerings"], "it has no peering any more")
        lab.until_uses("router2", gw4="up", gw5="up")
        load.end()
    late = watch.busy_moves(drained_at + deadline_s)
    here, there = (len([one for one in late if one.router == router]) for router in watch.routers)
    print(
        f"share of the new one after {share_s:.2f} s; {len(watch.moves)} moves seen in {watch.looks} looks; of gw2"
        f" {len(kept)} slots busy when it was drained, {here} moved at its deadline, and {there} on the far side when"
        f" it was removed; {load.streams_ended} streams; longest silence {max(load.silence_s):.3f} s"
    )
    assert watch.busy_moves(added_at, drained_at + deadline_s) == []
    assert kept
    moved = {one.slot for one in watch.moves if one.router == "router1" and one.at >= drained_at + deadline_s}
    assert moved & kept, "what was busy stayed until then"  # and a slow look cannot say that it was busy still
    assert (load.lost, load.reordered, load.resets) == (0, 0, 0), max(load.silence_s)


def add_one(lab: Cluster) -> float:
    """Add gw3, and see that it has its share of new flows soon after it is used. After how many seconds that was."""
    wanted, inner = wished(lab, "gw1", "gw2", "gw3"), lab.fleet.inner("gw3")[0]
    due = {slot for slot, gateway in wanted.items() if gateway == "gw3"}

    def has_all_idle() -> bool:
        slots = lab.slots("router1")
        return all(slots[slot].gateway == inner for slot in due if slots[slot].idle_s >= IDLE_S)

    with lab.counting("gw1", "gw2", "gw3", what="iifname lan udp dport 9") as counted:
        lab.api.change("clusters", "one", gateways=["gw1", "gw2", "gw3"])
        lab.until_uses("router1", gw1="up", gw2="up", gw3="up")
        used_at = time.monotonic()
        until(has_all_idle, "it has all idle slots that are its own", SHARE_S)
        share_s = time.monotonic() - used_at
        shares = send_new_flows(lab, QUICK_FLOWS, counted)
    slots = {gateway: count / SLOTS for gateway, count in lab.shares("router1").items()}
    assert is_near(shares, slots), (shares, slots)
    assert slots["gw3"] > len(due) / SLOTS / 2, slots
    return share_s

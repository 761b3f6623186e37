"""Steering by the kernel: each member reads a queue of its own, in order through deaths, hangs and moves."""

from __future__ import annotations

import signal
import sys
from ipaddress import ip_address

import pytest
from gwkit import UDP, MakePair, Pair, assert_books_balance, until

from fwd.agent.client import query
from fwd.lab import probing
from fwd.lab.probe import Arrived
from fwd.lab.topology import GATEWAYS
from fwd.proto.flow import owners, rendezvous_scores
from fwd.proto.sample import Flow

MEMBERS = 3
RATE_HZ = 500.0
STEERED = "kernel-steering"


@pytest.fixture(scope="module", params=["superpacket", "esp"])
def pair(request: pytest.FixtureRequest, module_pairs: MakePair) -> Pair:
    table = {"members": MEMBERS, "payload": request.param, "steering": "kernel", "drain_deadline": 2}
    return module_pairs([table], keys={"source": "psk", "grace": 30})


@pytest.fixture(autouse=True)
def settled(request: pytest.FixtureRequest) -> None:
    """All buckets are back with those whom the hash names: of a test before they were busy with others."""
    if "pair" in request.fixturenames:
        pair: Pair = request.getfixturevalue("pair")
        named = owners(rendezvous_scores(MEMBERS), (1 << MEMBERS) - 1).tolist()
        shares = [named.count(member) for member in range(MEMBERS)]
        for host in GATEWAYS:
            until(lambda host=host: [one["buckets"] for one in pair.members(host)] == shares, 30.0, f"{host}: {shares}")  # type: ignore[misc]


def in_order(pair: Pair, arrived: dict[int, Arrived]) -> None:
    """Nothing arrived twice or behind what was sent after it, and the books balance."""
    found = {port: (one.inversions, one.duplicates) for port, one in arrived.items()}
    assert set(found.values()) == {(0, 0)}, found
    for books in pair.wait_quiet():
        assert_books_balance(books)


def test_traffic_passes_the_demux_by(pair: Pair) -> None:
    assert all(STEERED in pair.peering(host)["offloads"]["in_force"] for host in GATEWAYS)
    assert pair.ping(count=3)
    assert pair.tcp() > 1.0
    assert pair.tcp(version=6, reverse=True) > 1.0
    with pair.probes(pair.flow_ports(MEMBERS), rate_hz=RATE_HZ) as arrived:
        before = [one["out"]["records"] for one in pair.members("gw1")]
        until(lambda: all(b + 100 < m["out"]["records"] for b, m in zip(before, pair.members("gw1"), strict=True)))
    in_order(pair, arrived)
    assert [one.lost for one in arrived.values()] == [0] * MEMBERS


@pytest.mark.parametrize("host", GATEWAYS)
def test_members_that_are_killed_again_and_again_keep_order(pair: Pair, host: str) -> None:
    with pair.probes(pair.flow_ports(MEMBERS), rate_hz=RATE_HZ) as arrived:
        for index in (0, 1, 2, 0):
            pid = pair.kill(host, f"member-{index}")
            pair.wait_replaced(host, f"member-{index}", pid)
    in_order(pair, arrived)


def test_a_killed_demux_costs_nothing(pair: Pair) -> None:
    with pair.probes(pair.flow_ports(MEMBERS), rate_hz=RATE_HZ) as arrived:
        pid = pair.kill("gw1", "demux")
        pair.wait_replaced("gw1", "demux", pid)
    in_order(pair, arrived)
    assert [one.lost for one in arrived.values()] == [0] * MEMBERS


def test_a_member_that_is_stopped_loses_its_flows_to_others_in_order(pair: Pair) -> None:
    """What lies in its queue when they go on elsewhere is not sent by its successor."""
    before = pair.drops("gw1")
    with pair.probes(pair.flow_ports(MEMBERS), rate_hz=RATE_HZ) as arrived:
        pid = pair.kill("gw1", "member-1", signal.SIGSTOP)
        pair.wait_replaced("gw1", "member-1", pid)
        until(lambda: pair.member("gw1", 1)["buckets"] > 0, 30.0, "it has buckets again")
    in_order(pair, arrived)
    after = pair.drops("gw1")
    gone = sum(after[name] - before[name] for name in ("buckets_moved", "failed_skipped", "died_with_member"))
    assert gone > 0, (before, after)


def test_a_path_that_is_blocked_and_comes_back_keeps_order(pair: Pair) -> None:
    with pair.probes(pair.flow_ports(MEMBERS), rate_hz=RATE_HZ) as arrived:
        with pair.rule("gw1", "output", "udp dport 4501 drop"):
            until(lambda: not pair.member("gw1", 1)["buckets"], 30.0, "its flows are elsewhere")
        until(lambda: pair.member("gw1", 1)["buckets"] > 0, 30.0, "it has buckets again")
    in_order(pair, arrived)


def test_members_come_and_go_beside_busy_flows(pair: Pair) -> None:
    """At the deadline busy buckets move: held until the old member has sent what it had."""

    def resize(members: int) -> None:
        pair.peerings[0]["members"] = members
        for host in GATEWAYS:
            pair.write_config(host)
            pair.reload(host)
        for host in GATEWAYS:
            carries = lambda host=host: [m["index"] for m in pair.members(host) if m["buckets"]] == list(range(members))  # noqa: E731
            until(carries, 30.0, f"{host}: {members} members carry")

    with pair.probes(pair.flow_ports(MEMBERS + 2), rate_hz=RATE_HZ) as arrived:
        resize(MEMBERS + 2)
        resize(MEMBERS)
        for host in GATEWAYS:
            until(lambda host=host: len(pair.members(host)) == MEMBERS, 30.0, "they have left")  # type: ignore[misc]
    in_order(pair, arrived)
    assert [one.lost for one in arrived.values()] == [0] * (MEMBERS + 2)


def test_a_device_that_is_deleted_steers_again(pair: Pair) -> None:
    tun = pair.peering("gw1")["tun"]
    pair.topology.run("gw1", ["ip", "link", "del", tun])
    until(lambda: pair.ping("-W", "1"), 30.0, "traffic passes again")
    pair.wait_ready()
    with pair.probes(pair.flow_ports(MEMBERS), rate_hz=RATE_HZ) as arrived:
        until(lambda: all(one["out"]["records"] for one in pair.members("gw1")))
    in_order(pair, arrived)


def test_fwd_path_names_the_member_that_the_kernel_steers_to(pair: Pair) -> None:
    source, destination = (ip_address(pair.topology.address(client)) for client in ("client1", "client2"))
    for member, port in enumerate(pair.flow_ports(MEMBERS)):
        flow = Flow(source, destination, UDP, port, probing.PORT)
        assert query(pair.control("gw1"), "flow", more=flow.as_json())["peerings"][0]["member"] == member


def test_without_cap_bpf_the_demux_steers_and_the_status_says_why(pairs: MakePair) -> None:
    pair = pairs([{"members": 2, "steering": "kernel"}], start=False)
    words = ["setpriv", "--bounding-set", "-bpf,-sys_admin", sys.executable, *pair.program]
    pair.program = ["-c", f"import os, sys; os.execvp('setpriv', [*{words}, *sys.argv[1:]])"]
    pair.start()
    for host in GATEWAYS:
        offloads = pair.peering(host)["offloads"]
        assert STEERED not in offloads["in_force"]
        assert "CAP_BPF" in offloads["refused"][STEERED]
        assert "offload kernel-steering refused" in pair.log(host)
    assert pair.tcp() > 1.0
    for books in pair.wait_quiet():
        assert_books_balance(books)

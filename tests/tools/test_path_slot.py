"""`fwd path` on a router's host: the slot and the gateway that it tells are those that the kernel takes.

    client ── router ── three addresses of a sink

What the kernel took is seen in its own table: of the packet's bucket alone the idle time is short. The sink answers
for its addresses: the kernel's own word of a neighbour that does not answer would count as use of a bucket, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fwd.lab.waiting import until

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("needs_netns"), pytest.mark.timeout(120)]

HOSTS = ("client", "router", "sink")
CLIENT = {4: "10.1.0.10", 6: "fd00:1::10"}
FAR = {4: "10.2.0.10", 6: "fd00:2::10"}

LINES = """
ip link add eth0 netns {0}-client type veth peer name inside netns {0}-router
ip link add lan netns {0}-router type veth peer name eth0 netns {0}-sink
ip -n {0}-client addr add 10.1.0.10/24 dev eth0
ip -n {0}-client addr add fd00:1::10/64 dev eth0 nodad
ip -n {0}-router addr add 10.1.0.1/24 dev inside
ip -n {0}-router addr add fd00:1::1/64 dev inside nodad
ip -n {0}-router addr add 10.9.0.1/24 dev lan
ip -n {0}-router addr add fd00:9::1/64 dev lan nodad
ip -n {0}-sink addr add 10.9.0.11/24 dev eth0
ip -n {0}-sink addr add 10.9.0.12/24 dev eth0
ip -n {0}-sink addr add 10.9.0.13/24 dev eth0
ip -n {0}-sink addr add fd00:9::11/64 dev eth0 nodad
ip -n {0}-sink addr add fd00:9::12/64 dev eth0 nodad
ip -n {0}-sink addr add fd00:9::13/64 dev eth0 nodad
ip -n {0}-client link set eth0 up
ip -n {0}-sink link set eth0 up
ip -n {0}-router link set inside up
ip -n {0}-router link set lan up
ip -n {0}-client route add default via 10.1.0.1
ip -n {0}-client -6 route add default via fd00:1::1
"""
SETTINGS = """
cd /proc/sys/net
echo 1 > ipv4/ip_forward; echo 1 > ipv6/conf/all/forwarding
echo 1 > ipv4/fib_multipath_hash_policy; echo 1 > ipv6/fib_multipath_hash_policy
"""
# A router's table, without the router: every third slot has the same gateway.
TABLE = """
import socket
from ipaddress import ip_address, ip_network
from fwd.router.kernel import group_id, members_of
from fwd.router.nexthop import NextHops, Target, Way
hops, device = NextHops(), socket.if_nametoindex("lan")
for version, gateway, network in ((4, "10.9.0.1", "10.2.0.0/16"), (6, "fd00:9::1", "fd00:2::/64")):
    group = group_id(0, version)
    hops.point({one: Target(device, ip_address(f"{gateway}{i % 3 + 1}")) for i, one in enumerate(members_of(group))})
    hops.make_group(group, members_of(group))
    hops.route([Way(ip_network(network), None), Way(ip_network(network), group)])
"""
# Where the last packet went: the slot that was used after all others.
LAST = """
import sys
from fwd.router.kernel import group_id
from fwd.router.nexthop import NextHops
group = group_id(0, int(sys.argv[1]))
table = NextHops().table(group).values()
first, second = sorted(table, key=lambda one: one.idle_s)[:2]
assert second.idle_s - first.idle_s > 0.05, (first, second)
print(first.hop_id - group - 1)
"""
# Not connected: a connected socket's packets carry a hash of the socket's own from one namespace to the next.
SEND = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
sock = socket.socket(family, socket.SOCK_DGRAM)
sock.bind(("", int(sys.argv[2])))
sock.sendto(b"x", (sys.argv[1], 7000))
"""


class Site:
    """The namespaces."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, host: str, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["ip", "netns", "exec", f"{self.name}-{host}", *argv], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0 or not check, done.stderr
        return done

    def python(self, host: str, script: str, *arguments: str) -> str:
        return self.run(host, sys.executable, "-P", "-c", script, *arguments).stdout

    def path(self, source: str, destination: str, port: int) -> tuple[int, dict[str, Any]]:
        """Ask `fwd path` on the router: exit status, and what it tells."""
        argv = ["-P", "-m", "fwd", "path", "--from", source, "--to", destination, "--proto", "udp", "--json"]
        sockets = ["--control", "/nonexistent/fwd", "--router-control", "/nonexistent/router"]
        ports = ["--sport", str(port), "--dport", "7000"]
        done = self.run("router", sys.executable, *argv, *ports, *sockets, check=False)
        return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    made = Site(f"fwd-lab-p{os.getpid()}")
    try:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "add", f"{made.name}-{host}"], check=True)
        for line in LINES.format(made.name).strip().splitlines():
            subprocess.run(line.split(), check=True)
        made.run("router", "sh", "-ec", SETTINGS)
        made.run("client", "sh", "-ec", "echo 0 > /proc/sys/net/ipv6/auto_flowlabels")  # which hash packets, too
        made.python("router", TABLE)
        yield made
    finally:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "del", f"{made.name}-{host}"], check=False)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("seed", "port"), [(0, 5000), (12345, 5001), (12345, 5002)])
def test_the_slot_is_the_one_that_the_packet_takes(site: Site, version: int, seed: int, port: int) -> None:
    site.run("router", "sh", "-ec", f"echo {seed} > /proc/sys/net/ipv4/fib_multipath_hash_seed")  # 0: the kernel's own
    status, told = site.path(CLIENT[version], FAR[version], port)
    assert (status, told["here"]) == (0, "router"), told
    site.python("client", SEND, FAR[version], str(port))
    slot = int(site.python("router", LAST, str(version)))
    assert told["facts"]["slot"] == slot
    assert told["facts"]["address"].endswith(f"1{slot % 3 + 1}")
    assert told["back"] == [
        "by whichever gateway the far side sends it to, in by lan",
        f"leaves by inside to {CLIENT[version]}",
    ]


def diagnose(site: Site, tmp_path: Path) -> tuple[int, list[dict[str, Any]]]:
    """Ask `fwd diagnose` on the router: exit status and findings, but that no router runs."""
    key, config = tmp_path / "probe.key", tmp_path / "router.toml"
    key.touch(0o600)
    key.write_text("07" * 32)
    hop = '[[spread.gateway]]\nname = "a1"\naddresses = ["10.9.0.11", "fd00:9::11"]\n'
    spread = f'[[spread]]\nname = "s"\nremote_ts = ["10.2.0.0/16", "fd00:2::/64"]\n{hop}'
    config.write_text(f'[router]\ncontrol = "{tmp_path}/none.sock"\nprobe_key = "{key}"\n{spread}')
    done = site.run(
        "router", sys.executable, "-P", "-m", "fwd", "diagnose", "--config", str(config), "--json", check=False
    )
    told = json.loads(done.stdout)
    assert told["unseen"] == []
    assert told["findings"][0]["check"] == "not_running"
    return done.returncode, told["findings"][1:]


@pytest.mark.parametrize(
    ("script", "network", "way"),
    [
        ("true", "", ""),
        ("ip route add 10.2.7.0/24 via 10.1.0.10", "10.2.7.0/24", "by inside to 10.1.0.10"),
        ("ip route add 10.2.7.7 dev inside", "10.2.7.7/32", "by inside, as to a neighbour"),
        ("ip -6 route add fd00:2::7:0/112 via fd00:1::10", "fd00:2::7:0/112", "by inside to fd00:1::10"),
        ("ip route add 10.2.7.0/24 via 10.9.0.12", "", ""),  # by a gateway
        ("ip route add unreachable 10.2.7.0/24", "", ""),  # nowhere
        ("ip route add 10.2.7.0/24 via 10.1.0.10 table 77", "", ""),  # a table that nobody asks
        ("ip route add 10.2.0.0/16 via 10.1.0.10 table 78; ip rule add pref 9 lookup 78", "10.2.0.0/16", "by inside"),
    ],
)
def test_what_goes_round_the_tunnels_is_found(site: Site, script: str, network: str, way: str, tmp_path: Path) -> None:
    site.run("router", "sh", "-ec", script)
    try:
        status, found = diagnose(site, tmp_path)
    finally:
        site.run("router", "sh", "-ec", script.replace(" add ", " del "))
    assert status == 1
    assert [one["check"] for one in found] == (["direct_route"] if network else [])
    assert all(f"packets to {network} " in one["what"] and way in one["evidence"] for one in found)


def test_asking_leaves_nothing_behind(site: Site) -> None:
    def kept() -> list[str]:
        return [site.run("router", "ip", *line.split()).stdout for line in ("link", "address", "route", "nexthop")]

    until(lambda: "tentative" not in kept()[1], "the kernel's own addresses may be used")
    before = kept()
    site.path(CLIENT[4], FAR[4], 5002)
    assert kept() == before


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("ip route add 10.2.0.10/32 via 10.9.0.99 dev lan", "round the tunnels"),
        ("ip route add blackhole 10.2.0.10/32", "a blackhole route"),
        ("ip route add unreachable 10.2.0.10/32", "an unreachable route"),
        ("ip route add prohibit 10.2.0.10/32", "a route that prohibits it"),
        ("echo 0 > /proc/sys/net/ipv4/ip_forward", "forwarding is off"),
        ("ip rule add pref 1 from 10.2.0.0/16 to 10.1.0.10 prohibit", "drops what comes back"),
    ],
)
def test_where_it_breaks_is_said(site: Site, script: str, why: str) -> None:
    undo = {"ip": script.replace(" add ", " del "), "echo": script.replace("echo 0", "echo 1")}[script.split()[0]]
    site.run("router", "sh", "-ec", script)
    try:
        status, told = site.path(CLIENT[4], FAR[4], 5003)
    finally:
        site.run("router", "sh", "-ec", undo)
    assert status == 1
    assert any(why in one for one in told["breaks"]), told["breaks"]

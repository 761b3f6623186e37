"""Behind gw2 a router r on a transit link, which is in nobody's subnets, and a host far, to which r has a smaller MTU.

What r says of packets that came out of the tunnel must reach their sender: TCP would hang, and traceroute have a hole.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from gwkit import MakePair, Pair, until

from fwd.lab.topology import kernel_has_ipv6

SUBNETS = {"gw1": ["10.1.0.0/24", "fd00:1::/64"], "gw2": ["10.2.0.0/16", "fd00:2::/32"]}
R = {4: "172.16.9.2", 6: "2001:db8:9::2"}
FAR = {4: "10.2.9.10", 6: "fd00:2:9::10"}
MTU = 1300  # from r to far
OCTETS = 400_000
VERSIONS = pytest.mark.parametrize("version", [4, 6] if kernel_has_ipv6() else [4])
# Both links have the usual MTU at both ends, so that far knows nothing of r's, and says nothing by its MSS.
COMMANDS = {
    "gw2": """
        addr add 172.16.9.1/30 dev t0
        link set t0 up
        route add 10.2.9.0/24 via 172.16.9.2""",
    "r": f"""
        addr add 172.16.9.2/30 dev t1
        addr add 10.2.9.1/24 dev e0
        link set t1 up
        link set e0 up
        route add default via 172.16.9.1
        route change 10.2.9.0/24 dev e0 mtu lock {MTU}""",
    "far": """
        addr add 10.2.9.10/24 dev e1
        link set e1 up
        route add default via 10.2.9.1""",
}
COMMANDS6 = {
    "gw2": """
        addr add 2001:db8:9::1/64 dev t0 nodad
        route add fd00:2:9::/64 via 2001:db8:9::2""",
    "r": f"""
        addr add 2001:db8:9::2/64 dev t1 nodad
        addr add fd00:2:9::1/64 dev e0 nodad
        route add default via 2001:db8:9::1
        route add fd00:2:9::/64 dev e0 metric 1 mtu {MTU}""",
    "far": """
        addr add fd00:2:9::10/64 dev e1 nodad
        route add default via fd00:2:9::1""",
}


class Behind:
    """The namespaces behind gw2."""

    def __init__(self, pair: Pair) -> None:
        name = pair.topology.name
        self.namespaces = {"gw2": pair.topology.ns("gw2"), "r": f"{name}-r", "far": f"{name}-far"}

    def up(self) -> None:
        gw2, r, far = self.namespaces.values()
        for name in (r, far):
            run("ip", "netns", "add", name)
        run("ip", "link", "add", "t0", "netns", gw2, "type", "veth", "peer", "name", "t1", "netns", r)
        run("ip", "link", "add", "e0", "netns", r, "type", "veth", "peer", "name", "e1", "netns", far)
        settings = ["net.ipv4.ip_forward=1", *(["net.ipv6.conf.all.forwarding=1"] if kernel_has_ipv6() else [])]
        run(*self.inside("r"), "sysctl", "-qw", *settings)
        for commands in (COMMANDS, COMMANDS6) if kernel_has_ipv6() else (COMMANDS,):
            for host, lines in commands.items():
                run("ip", "-n", self.namespaces[host], "-batch", "-", input=lines)

    def down(self) -> None:
        for host in ("r", "far"):
            subprocess.run(["ip", "netns", "del", self.namespaces[host]], check=False, stderr=subprocess.DEVNULL)

    def inside(self, host: str) -> list[str]:
        return ["ip", "netns", "exec", self.namespaces[host]]


def run(*argv: str, **more: Any) -> None:
    subprocess.run(argv, check=True, text=True, **more)


@pytest.fixture(scope="module", params=["superpacket", "esp"])
def pair(request: pytest.FixtureRequest, module_pairs: MakePair) -> Iterator[tuple[Pair, Behind]]:
    found = module_pairs([{"payload": request.param, "subnets": SUBNETS}], start=False)
    behind = Behind(found)
    try:
        behind.up()
        found.start()
        for version in (4, 6) if kernel_has_ipv6() else (4,):
            until(lambda version=version: found.ping(to=FAR[version]), 10.0, f"first ping, {version=}")  # type: ignore[misc]
        yield found, behind
    finally:
        behind.down()


LISTEN = (
    "import socket, sys; s = socket.create_server((sys.argv[1], 5001), family=int(sys.argv[2]))\n"
    "print('ready', flush=True)\n"
    "c, _ = s.accept(); c.settimeout(20); got = 0\n"
    "while data := c.recv(65536): got += len(data)\n"
    "print(got)"
)
SEND = (
    "import socket, sys; s = socket.create_connection((sys.argv[1], 5001), 20); s.settimeout(20)\n"
    "s.sendall(bytes(int(sys.argv[2]))); s.close()"
)


def python(script: str, *words: object) -> Sequence[str]:
    return [sys.executable, "-c", script, *map(str, words)]


@VERSIONS
def test_tcp_learns_of_a_narrow_link_behind_it(pair: tuple[Pair, Behind], version: int) -> None:
    gateways, behind = pair
    family = {4: 2, 6: 10}[version]
    argv = [*behind.inside("far"), *python(LISTEN, FAR[version], family)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            gateways.topology.run("client1", python(SEND, FAR[version], OCTETS), timeout=60)
            assert server.communicate(timeout=60)[0] == f"{OCTETS}\n"
        finally:
            server.kill()


@VERSIONS
def test_each_hop_answers(pair: tuple[Pair, Behind], version: int) -> None:
    """As traceroute asks: by packets that end at r."""
    gateways, _ = pair
    before = gateways.peering("gw2")["icmp_errors"]["out"]
    said = gateways.topology.ping_output("-n", "-t", "3", to=FAR[version]).stdout
    assert f"From {R[version]} icmp_seq=1 Time" in said
    until(lambda: gateways.peering("gw2")["icmp_errors"]["out"] > before, what="counted at gw2")
    until(lambda: gateways.peering("gw1")["icmp_errors"]["in"] > 0, what="counted at gw1")

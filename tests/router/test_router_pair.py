"""Two routers that share an address by keepalived, as docs/router.md has it: one host goes, and its flows go on.

client ──┐                ┌── gateway 1 ──┐
         lan ── router 1 ── mid            far
           └─── router 2 ──┘└── gateway 2 ──┘     `lan` and `mid` are bridges; replies come by gateway 1

All of it has IPv4 and IPv6.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from routekit import BEACON, ECHO, FLOWS, KEY, LIMIT_S, SENDER, Flows, Site

from fwd.lab.waiting import until
from fwd.proto.errors import UserError
from fwd.router.client import ask

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("needs_netns"), pytest.mark.timeout(240)]
HOSTS = ("client", "r1", "r2", "switch", "g1", "g2", "far")
ROUTERS = ("r1", "r2")
DOCUMENTED = Path(__file__).parents[2] / "docs" / "router.md"
SHARED = ("10.1.9.1", "10.1.5.1", "fd00:1:9::1", "fd00:1:5::1")
SILENCE_MAX = 100  # messages, one every 10 ms or later


def documented() -> str:
    """The file of keepalived's in the manual."""
    (found,) = re.findall(r"```\n(global_defs.*?)```", DOCUMENTED.read_text(), re.DOTALL)
    return str(found)


def in_6(script: str) -> str:
    """The same over IPv6."""
    return script.replace("AF_INET,", "AF_INET6,").replace("10.2.0.10", "fd00:2::10")


def is_ready(control: Path) -> bool:
    with contextlib.suppress(UserError):
        return bool(ask(control)["ready"])
    return False


class Two(Site):
    """The namespaces, and what runs in them."""

    def up(self) -> None:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "add", self.ns(host)], check=True)
            self.sh(host, "ip link set lo up; echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter")
        for bridge in ("lan", "mid"):
            self.sh("switch", f"ip link add {bridge} type bridge; ip link set {bridge} up")
        self._plug("client", "eth0", "10.1.9.10/24", "lan")
        self.sh("client", "ip route add default via 10.1.9.1")
        self.add6("client", "eth0", "fd00:1:9::10/64", "default via fd00:1:9::1")
        for n, router in enumerate(ROUTERS, 2):
            self._plug(router, "inside", f"10.1.9.{n}/24", "lan")
            self._plug(router, "outside", f"10.1.5.{n}/24", "mid")
            self.add6(router, "inside", f"fd00:1:9::{n}/64")
            self.add6(router, "outside", f"fd00:1:5::{n}/64")
        self.sh("far", "ip address add 10.2.0.10/32 dev lo")
        self.add6("far", "lo", "fd00:2::10/128")
        for n, host in enumerate(("g1", "g2"), 1):
            self._plug(host, "lan", f"10.1.5.1{n}/24", "mid")
            self._link(host, "wan", f"10.3.{n}.1/24", "far", f"wan{n}", f"10.3.{n}.10/24")
            self.sh(host, f"ip route add 10.2.0.0/24 via 10.3.{n}.10; ip route add 10.1.9.0/24 via 10.1.5.1")
            self.sh(host, "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv4/conf/lan/rp_filter")
            self.sh("far", f"echo 0 > /proc/sys/net/ipv4/conf/wan{n}/rp_filter")
            self.sh(host, "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
            self.add6(host, "lan", f"fd00:1:5::1{n}/64", "fd00:1:9::/64 via fd00:1:5::1")
            self.add6(host, "wan", f"fd00:3:{n}::1/64", f"fd00:2::/64 via fd00:3:{n}::10")
            self.add6("far", f"wan{n}", f"fd00:3:{n}::10/64")
            self.say(host)
            self.start(host, BEACON, KEY, str(self.directory / f"{host}.json"))
        self.sh("far", "ip route add 10.1.9.0/24 via 10.3.1.1; ip route add fd00:1:9::/64 via fd00:3:1::1")
        self.start("far", ECHO)
        self._run("far6", "far", sys.executable, "-P", "-c", in_6(ECHO))

    def add6(self, host: str, device: str, address: str, route: str = "") -> None:
        self.sh(host, f"ip address add {address} dev {device} nodad")
        if route:
            self.sh(host, f"ip route add {route}")

    def _plug(self, host: str, device: str, address: str, bridge: str) -> None:
        self._link(host, device, address, "switch", f"{bridge}-{host}", "0.0.0.0/32")
        self.sh("switch", f"ip link set {bridge}-{host} master {bridge}")

    def share(self) -> None:
        """Start both routers, and keepalived beside each, with the manual's file."""
        key = self.directory / "probe.key"
        key.touch(0o600)
        key.write_text(KEY)
        hops = "".join(
            f'[[spread.gateway]]\nname = "g{n}"\naddresses = ["10.1.5.1{n}", "fd00:1:5::1{n}"]\n' for n in (1, 2)
        )
        for n, router in enumerate(ROUTERS, 2):
            control, config = self.directory / f"{router}.sock", self.directory / f"{router}.toml"
            config.write_text(
                f'[router]\ncontrol = "{control}"\nprobe_key = "{key}"\nhash_seed = 7\n'
                f'[[spread]]\nname = "to-b"\nremote_ts = ["10.2.0.0/24", "fd00:2::/64"]\n{hops}'
            )
            self._run(router, router, sys.executable, "-P", "-m", "fwd", "router", "--config", str(config))
            until(lambda control=control: is_ready(control), "the router is ready", LIMIT_S)  # type: ignore[misc]

            # What stands in the manual is for the first router.
            words = f"{Path(sys.executable).with_name('fwd')} router ready --control {control}"
            text = documented().replace("/usr/bin/fwd router ready", words)
            if router == "r2":
                text = text.replace("10.1.9.2", "X").replace("10.1.9.3", "10.1.9.2").replace("X", "10.1.9.3")
            file = self.directory / f"{router}.conf"
            file.write_text(text)
            pids = [word for which in "pr" for word in (f"-{which}", str(self.directory / f"{router}-{which}.pid"))]
            self._run(f"{router}-vrrp", router, "keepalived", "-n", "-l", "-P", "-f", str(file), *pids)
            until(lambda n=n: self.holders(), "somebody has the address", LIMIT_S)  # type: ignore[misc]

    def _run(self, name: str, host: str, *argv: str) -> None:
        with (self.directory / f"{name}.log").open("a") as log:
            words = ["ip", "netns", "exec", self.ns(host), *argv]
            self.running[name] = subprocess.Popen(words, stdout=log, stderr=log, text=True)

    def holders(self) -> list[str]:
        """Who has the shared addresses, all of them."""
        look = "ip -o address show dev inside; ip -o address show dev outside"
        told = {router: self.sh(router, look) for router in ROUTERS}
        return [one for one in ROUTERS if all(f" {address}/" in told[one] for address in SHARED)]

    def destroy(self, router: str) -> None:
        """Take a router's host away, as a loss of power does."""
        self.sh(router, "ip link set inside down; ip link set outside down")
        for name in (f"{router}-vrrp", router):
            self.running[name].kill()

    def down(self) -> None:
        for name in [name for name in self.running if name.endswith("-vrrp")]:
            self.running[name].terminate()  # which ends its child, too
            self.running.pop(name).wait(timeout=30)
        super().down()
        for host in HOSTS:
            subprocess.run(["ip", "netns", "delete", self.ns(host)], check=False, capture_output=True)


class Sent(Flows):
    def forwarded(self) -> int:
        """How many packets the client has sent."""
        return int(self.site.sh("client", "cat /sys/class/net/eth0/statistics/tx_packets"))


class Sent6(Sent):
    """The same over IPv6."""

    def __init__(self, site: Two) -> None:
        self.site = site
        self.process = site.start("client", in_6(SENDER), str(FLOWS))
        until(lambda: self.forwarded() > 10 * FLOWS, "what the client sends", LIMIT_S)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    made = Two(f"fwd-lab-v{os.getpid()}", tmp_path)
    try:
        made.up()
        made.share()
        yield made
    finally:
        made.down()


def slots(two: Two, router: str) -> list[object]:
    """Where each slot of a router points, in order."""
    hops = json.loads(two.sh(router, "ip -j nexthop"))
    return [one.get("gateway") for one in sorted(hops, key=lambda one: int(one["id"]))]


@pytest.mark.alone
@pytest.mark.parametrize("kind", [Sent, Sent6], ids=["ipv4", "ipv6"])
def test_a_router_that_is_gone_costs_its_flows_less_than_a_second(two: Two, kind: type[Sent]) -> None:
    assert two.holders() == ["r1"]
    assert slots(two, "r1") == slots(two, "r2"), "both choose alike"
    flows = kind(two)
    flows.go_on(1)
    two.destroy("r1")
    until(lambda: "r2" in two.holders(), "the other has the address", LIMIT_S)
    flows.go_on(2)
    assert flows.silence() < SILENCE_MAX


def test_one_that_is_not_ready_gives_the_address_away(two: Two) -> None:
    two.running["r1"].kill()
    until(lambda: two.holders() == ["r2"], "the other has the address", LIMIT_S)

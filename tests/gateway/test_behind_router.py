"""`fwd router` in a VPC with two gateways: one that freezes leaves its flows to the other.

app ── client2, the router ── gw2, gw3 ═══ gw1 ── client1
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest
from farkit import FORK, Fan
from gwkit import Json, MakePair, inside, until

from fwd.agent.client import query
from fwd.proto.sample import Flow
from fwd.router.client import ask

APP = "10.2.0.200"
PORT = 7000
FLOWS = 32
GAP_S_MAX = 2.0  # on a busy machine

ECHO = f"""
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", {PORT}))
while True:
    data, source = sock.recvfrom(100)
    sock.sendto(data, source)
"""
SENDER = f"""
import json, signal, socket, sys, time
flows = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range({FLOWS})]
for flow in flows:
    flow.setblocking(False)
    flow.connect((sys.argv[1], {PORT}))
ended = []
signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
heard, gap = [None] * {FLOWS}, [0.0] * {FLOWS}
while not ended:
    for index, flow in enumerate(flows):
        try:
            flow.send(b"x")
        except OSError:
            pass
        try:
            while flow.recv(100):
                now = time.monotonic()
                gap[index] = max(gap[index], now - (heard[index] or now))
                heard[index] = now
        except OSError:
            pass
    time.sleep(0.01)
now = time.monotonic()
print(json.dumps([max(g, now - h) if h else None for g, h in zip(gap, heard)]))
"""


class Vpc(Fan):
    """The gateways; client2 is the router, and `client9` an application host behind it."""

    def routed(self, stack: contextlib.ExitStack) -> None:
        """Make the application host, and start the router."""
        topology = self.topology
        app, router = f"{topology.name}-client9", topology.ns("client2")
        subprocess.run(["ip", "netns", "add", app], check=True)
        stack.callback(subprocess.run, ["ip", "netns", "del", app], check=False, capture_output=True)
        link = f"ip link add app netns {router} type veth peer name eth0 netns {app}"
        subprocess.run(link.split(), check=True)
        for namespace, lines in (
            (app, ["addr add 10.2.0.200/32 dev eth0", "link set lo up", "link set eth0 up",
                   "route add 10.2.0.10 dev eth0", "route add default via 10.2.0.10"]),
            (router, ["link set app up", "route add 10.2.0.200 dev app"]),
            (topology.ns("gw2"), ["route add 10.2.0.200 via 10.2.0.10"]),
            (topology.ns("gw3"), ["route add 10.2.0.200 via 10.2.0.10"]),
        ):  # fmt: skip
            subprocess.run(["ip", "-n", namespace, "-batch", "-"], input="\n".join(lines), text=True, check=True)

        config = topology.run_dir / "router.toml"
        hops = "".join(
            f'[[spread.gateway]]\nname = "{one}"\naddresses = ["{topology.address(one, "lan")}"]\n'
            for one in ("gw2", "gw3")
        )
        config.write_text(
            f'[router]\ncontrol = "{self.socket}"\nprobe_key = "{topology.run_dir / "probe.key"}"\n'
            f'[[spread]]\nname = "to-gw1-0"\nremote_ts = ["10.1.0.0/24"]\n{hops}'
        )
        self._begin(stack, "client2", ["-P", "-m", "fwd", "router", "--config", str(config)])

    @property
    def socket(self) -> Any:
        return self.topology.run_dir / "router.sock"

    def _begin(self, stack: contextlib.ExitStack, host: str, argv: list[str]) -> subprocess.Popen[str]:
        namespace = f"{self.topology.name}-{host}"
        made = subprocess.Popen(
            ["ip", "netns", "exec", namespace, sys.executable, *argv], stdout=subprocess.PIPE, text=True
        )
        stack.callback(made.communicate)
        stack.callback(made.kill)
        return made

    def seen(self) -> dict[str, Json]:
        with contextlib.suppress(Exception):
            return {one["name"]: one for one in ask(self.socket)["spreads"][0]["gateways"]}
        return {}

    def until_uses(self, **wanted: str) -> None:
        until(lambda: {name: one["use"] for name, one in self.seen().items()} == wanted, 120.0, f"{wanted}")

    def flows(self, stack: contextlib.ExitStack) -> subprocess.Popen[str]:
        self._begin(stack, "client1", ["-P", "-c", ECHO])
        return self._begin(stack, "client9", ["-P", "-c", SENDER, self.topology.address("client1")])

    def all_of(self, host: str) -> list[int]:
        pid = self.running[host].pid
        return [pid, *(one.pid for one in inside(self.topology, host) if one.pid != pid)]

    def path(self, host: str, flow: Flow) -> Json:
        """Ask `fwd path` there."""
        ports = ["--sport", str(flow.source_port), "--dport", str(flow.destination_port)]
        ends = ["--from", str(flow.source), "--to", str(flow.destination), "--proto", "udp", "--json"]
        control = self.control(host) if host in self.topology.gateways else "/nonexistent"
        sockets = ["--control", str(control), "--router-control", str(self.socket)]
        argv = [sys.executable, "-P", "-m", "fwd", "path", *ends, *ports, *sockets]
        told = json.loads(self.topology.run(host, argv, check=False).stdout)
        assert isinstance(told, dict)
        return told

    def send(self, flow: Flow, count: int) -> None:
        """Send some datagrams from the application host, each of a socket that is not connected."""
        script = (
            "import socket,sys; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(('',int(sys.argv[2])))\n"
            "for _ in range(int(sys.argv[4])): s.sendto(b'x',(sys.argv[1],int(sys.argv[3])))"
        )
        numbers = (flow.source_port, flow.destination_port, count)
        argv = [sys.executable, "-P", "-c", script, str(flow.destination), *map(str, numbers)]
        subprocess.run(["ip", "netns", "exec", f"{self.topology.name}-client9", *argv], check=True)

    def counted(self, direction: str, *hosts: str) -> dict[tuple[str, int], int]:
        """Records of each member of gateways, by default the two behind the router."""
        hosts = hosts or ("gw2", "gw3")
        return {(host, one["index"]): one[direction]["records"] for host in hosts for one in self.members(host)}

    def carried(self, host: str) -> int:
        found: int = self.peering(host)["books"]["out_records_out"]
        return found


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as made:
        yield made


@pytest.fixture
def vpc(pairs: MakePair, stack: contextlib.ExitStack) -> Vpc:
    """Both gateways behind the router, in use."""
    vpc = pairs(kind=Vpc, start=False, **FORK)
    assert isinstance(vpc, Vpc)
    vpc.answer_routers()
    vpc.start()
    vpc.routed(stack)
    vpc.until_uses(gw2="up", gw3="up")
    return vpc


def test_the_flows_of_a_gateway_that_freezes_go_by_the_other(vpc: Vpc, stack: contextlib.ExitStack) -> None:
    sender = vpc.flows(stack)
    until(lambda: min(vpc.carried("gw2"), vpc.carried("gw3")) > 500, 60.0, "flows by both")

    frozen = vpc.all_of("gw2")
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        vpc.until_uses(gw2="down", gw3="up")
        before = vpc.carried("gw3")
        until(lambda: vpc.carried("gw3") > before + 100 * FLOWS, 60.0, "all flows by the other one")
    finally:
        for pid in frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    vpc.until_uses(gw2="up", gw3="up")
    sender.terminate()
    gaps = json.loads(sender.communicate(timeout=60)[0])
    print("longest silence of any flow", max(gaps))
    assert all(gap is not None and gap < GAP_S_MAX for gap in gaps), gaps


SENT = 50


def took_records(before: dict[tuple[str, int], int], after: dict[tuple[str, int], int]) -> set[tuple[str, int]]:
    """Return the members that have counted all that was sent."""
    return {one for one in after if after[one] - before[one] >= SENT}


def test_a_flow_takes_the_gateway_and_the_members_that_fwd_path_tells(vpc: Vpc, stack: contextlib.ExitStack) -> None:
    client1 = vpc.topology.address("client1")
    vpc._begin(stack, "client1", ["-P", "-c", ECHO])
    for port in (5000, 5001, 5002):
        flow = Flow(ip_address(APP), ip_address(client1), 17, port, PORT)
        at_router = vpc.path("client2", flow)
        assert (at_router["here"], at_router["breaks"]) == ("router", []), at_router
        gateway = at_router["facts"]["gateway"]
        here = vpc.path(gateway, flow)
        assert (here["here"], here["breaks"]) == ("gateway", []), here
        back = vpc.path("gw1", flow.back)["facts"]

        # The flow, and then which of all members has counted it.
        before_out, before_in, far_before = vpc.counted("out"), vpc.counted("in"), vpc.counted("out", "gw1")
        vpc.send(flow, SENT)
        took = (gateway, here["facts"]["member"])
        until(lambda took=took, b=before_out: vpc.counted("out")[took] >= b[took] + SENT, 30.0, f"{took} took it")  # type: ignore[misc]
        vpc.wait_quiet()
        assert took_records(before_out, vpc.counted("out")) == {took}

        # The replies: what gw1 tells, and which member of which gateway has received them.
        far = {host: vpc.topology.outer(host) for host in ("gw2", "gw3")}
        assert took_records(far_before, vpc.counted("out", "gw1")) == {("gw1", back["member"])}
        partner = back["member"] // len(far)
        came_by = {(host, partner) for host, address in far.items() if address == back["far"]}
        assert took_records(before_in, vpc.counted("in")) == came_by

    # What is outside the peering's subnets breaks, and what is no flow is told so.
    stranger = Flow(ip_address("10.2.1.200"), ip_address(client1), 17, 5000, PORT)
    vpc.topology.run("gw2", ["ip", "route", "add", "10.2.1.0/24", "via", vpc.topology.address("client2")])
    assert any("outside the peering's subnets" in one for one in vpc.path("gw2", stranger)["breaks"])
    with_error = {"command": "flow", "source": "x"}
    assert "no flow" in query(vpc.control("gw2"), "flow", more=with_error)["error"]


def test_a_router_is_diagnosed(vpc: Vpc) -> None:
    def diagnose() -> list[Json]:
        config = str(vpc.topology.run_dir / "router.toml")
        argv = [sys.executable, "-P", "-m", "fwd", "diagnose", "--config", config, "--json"]
        found: list[Json] = json.loads(vpc.topology.run("client2", argv, check=False).stdout)["findings"]
        return found

    assert diagnose() == []
    with vpc.rule("gw3", "prerouting", "udp dport 4790 drop"):
        vpc.until_uses(gw2="up", gw3="down")
        (one,) = diagnose()
    assert (one["check"], one["severity"], one["peering"]) == ("gateway", "warning", "to-gw1-0")
    assert one["what"] == "gateway gw3 is not used: does not answer probes"
    assert "with `beacon` and this probe key" in one["remedy"]

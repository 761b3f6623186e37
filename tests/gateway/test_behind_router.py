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
from typing import Any

import pytest
from farkit import FORK, Fan
from gwkit import Json, MakePair, inside, until

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

    def carried(self, host: str) -> int:
        found: int = self.peering(host)["books"]["out_records_out"]
        return found


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as made:
        yield made


def test_the_flows_of_a_gateway_that_freezes_go_by_the_other(pairs: MakePair, stack: contextlib.ExitStack) -> None:
    vpc = pairs(kind=Vpc, start=False, **FORK)
    assert isinstance(vpc, Vpc)
    key = vpc.topology.run_dir / "probe.key"
    vpc.gateway = {"beacon": "0.0.0.0:4790", "probe_key": str(key)}
    key.touch(0o600)
    key.write_text(os.urandom(32).hex())
    vpc.start()
    vpc.routed(stack)
    vpc.until_uses(gw2="up", gw3="up")
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

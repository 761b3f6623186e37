"""A router, three gateways and a client in namespaces of their own: flows, and what becomes of them.

The gateways are hosts that forward in the clear, each with a beacon that answers as a gateway's does; what the router
does with them is real: probes, next hops, routes.

    client ── router ── gateway 1, 2, 3, each in a subnet of its own ── far
                 └────────────── the way back ──────────────────────────┘
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from fwd.lab.waiting import until

HOSTS = ("client", "router", "g1", "g2", "g3", "far")
GATEWAYS = ("g1", "g2", "g3")
KEY = "07" * 32
FLOWS = 64
LIMIT_S = 60.0

BEACON = """
import json, socket, sys
from fwd.proto.probe import Answer, Said, decode_request, encode_answer, peering_id
key, path = bytes.fromhex(sys.argv[1]), sys.argv[2]
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", 4790))
while True:
    data, source = sock.recvfrom(2048)
    said = json.load(open(path))
    if (nonce := decode_request(data, key)) is not None:
        one = Said(said["passes"], said["loss"])
        sock.sendto(encode_answer(Answer(nonce, {peering_id("to-b"): one}, said["draining"]), key), source)
"""
SENDER = """
import json, signal, socket, sys, time
flows = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(int(sys.argv[1]))]
for flow in flows:
    flow.setblocking(False)
    flow.setsockopt(socket.SOL_SOCKET, 33, 1 << 20)
    flow.connect(("10.2.0.10", 7000))
ended = []
signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
number, got = 0, [set() for _ in flows]
end = None
while end is None or time.monotonic() < end:
    if ended and end is None:
        end = time.monotonic() + 10
    if end is not None and all(len(one) == number for one in got):
        break
    if end is None:
        for flow in flows:
            try:
                flow.send(str(number).encode())
            except OSError:
                pass
        number += 1
    time.sleep(0.01)
    for index, flow in enumerate(flows):
        try:
            while True:
                got[index].add(int(flow.recv(100)))
        except OSError:
            pass
print(json.dumps({"sent": number, "lost": [sorted(set(range(number)) - one) for one in got]}))
"""
ECHO = """
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE: room for all, while others have the processor
sock.bind(("10.2.0.10", 7000))
while True:
    data, source = sock.recvfrom(100)
    sock.sendto(data, source)
"""


class Site:
    """The namespaces, and what runs in them."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name, self.directory = name, directory
        self.running: dict[str, subprocess.Popen[str]] = {}
        self.config = directory / "router.toml"
        self.control = directory / "router.sock"

    def ns(self, host: str) -> str:
        return f"{self.name}-{host}"

    def sh(self, host: str, script: str) -> str:
        argv = ["ip", "netns", "exec", self.ns(host), "sh", "-ec", script]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    def up(self) -> None:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "add", self.ns(host)], check=True)
            self.sh(host, "ip link set lo up")
        self._link("client", "eth0", "10.1.9.10/24", "router", "inside", "10.1.9.1/24")
        self.sh("client", "ip route add default via 10.1.9.1")
        self._link("far", "back", "10.3.9.10/24", "router", "back", "10.3.9.1/24")
        self.sh("far", "ip address add 10.2.0.10/32 dev lo; ip route add 10.1.9.0/24 via 10.3.9.1")
        for number, host in enumerate(GATEWAYS, 1):
            self._link(host, "lan", f"10.1.{number}.11/24", "router", f"lan{number}", f"10.1.{number}.1/24")
            self._link(host, "wan", f"10.3.{number}.1/24", "far", f"wan{number}", f"10.3.{number}.10/24")
            self.sh(host, f"ip route add 10.2.0.0/24 via 10.3.{number}.10; echo 1 > /proc/sys/net/ipv4/ip_forward")
            self.sh("far", f"echo 0 > /proc/sys/net/ipv4/conf/wan{number}/rp_filter")
        for host in GATEWAYS:
            self.say(host)
            self.start(host, BEACON, KEY, str(self.directory / f"{host}.json"))
        self.sh("far", "echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter")
        self.start("far", ECHO)

    def _link(self, host: str, device: str, address: str, other: str, name: str, there: str) -> None:
        add = f"ip link add {device} netns {self.ns(host)} type veth peer name {name} netns {self.ns(other)}"
        subprocess.run(add.split(), check=True)
        self.sh(host, f"ip address add {address} dev {device}; ip link set {device} up")
        self.sh(other, f"ip address add {there} dev {name}; ip link set {name} up")

    def start(self, host: str, script: str, *arguments: str) -> subprocess.Popen[str]:
        argv = ["ip", "netns", "exec", self.ns(host), sys.executable, "-P", "-c", script, *arguments]
        made = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        self.running[host] = made
        return made

    def say(self, host: str, *, passes: bool = True, loss: float = 0.0, draining: bool = False) -> None:
        """Have a gateway's beacon say this from now on."""
        new = self.directory / f"{host}.new"
        new.write_text(json.dumps({"passes": passes, "loss": loss, "draining": draining}))
        new.rename(self.directory / f"{host}.json")

    def configure(self, *gateways: str, draining: str = "", deadline_s: int = 60) -> None:
        rows = "".join(
            f'[[spread.gateway]]\nname = "{host}"\naddresses = ["10.1.{host[1]}.11"]\n'
            + ('state = "draining"\n' if host == draining else "")
            for host in gateways
        )
        key = self.directory / "probe.key"
        key.write_text(KEY)
        key.chmod(0o600)
        self.config.write_text(
            f'[router]\ncontrol = "{self.control}"\nprobe_key = "{key}"\n'
            f'[[spread]]\nname = "to-b"\nremote_ts = ["10.2.0.0/24"]\ndrain_deadline = {deadline_s}\n{rows}'
        )
        if "router" in self.running:
            self.running["router"].send_signal(signal.SIGHUP)

    def route(self) -> None:
        """Start the router."""
        argv = ["ip", "netns", "exec", self.ns("router"), sys.executable, "-P", "-m", "fwd", "router"]
        self.control.unlink(missing_ok=True)
        with (self.directory / "router.log").open("a") as log:
            self.running["router"] = subprocess.Popen([*argv, "--config", str(self.config)], stderr=log, text=True)
        until(self.control.exists, "the router's socket", LIMIT_S)

    def status(self) -> dict[str, Any]:
        from fwd.router.client import ask

        return ask(self.control)

    def gateways(self) -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in self.status()["spreads"][0]["gateways"]}

    def uses(self, **wanted: str) -> None:
        until(lambda: {name: one["use"] for name, one in self.gateways().items()} == wanted, f"{wanted}", LIMIT_S)

    def shares(self) -> Counter[str]:
        return Counter({name: one["share"]["4"] for name, one in self.gateways().items()})

    def down(self) -> None:
        for process in self.running.values():
            process.kill()
            process.communicate()
        for host in HOSTS:
            subprocess.run(["ip", "netns", "delete", self.ns(host)], check=False, capture_output=True)


class Flows:
    """FLOWS numbered UDP flows from the client to the far host and back, each a message every 10 ms."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.process = site.start("client", SENDER, str(FLOWS))
        until(lambda: self.forwarded() > 10 * FLOWS, "what the client sends", LIMIT_S)

    def forwarded(self) -> int:
        """How many packets the router has sent to the gateways."""
        devices = (f"/sys/class/net/lan{number}/statistics/tx_packets" for number in (1, 2, 3))
        return sum(map(int, self.site.sh("router", f"cat {' '.join(devices)}").split()))

    def go_on(self, seconds: float) -> None:
        """Let so many seconds' messages pass."""
        until_packets = self.forwarded() + int(seconds * 100 * FLOWS * 0.5)
        until(lambda: self.forwarded() > until_packets, "more of what the client sends", LIMIT_S)

    def end(self) -> dict[str, Any]:
        self.process.send_signal(signal.SIGTERM)
        out, _ = self.process.communicate(timeout=60)
        found: dict[str, Any] = json.loads(out)
        return found

    def assert_none_lost(self) -> None:
        """End them; what was lost is told with what the hosts' sockets and the machine's backlog have dropped."""
        lost = self.end()["lost"]
        look = "grep ^Udp: /proc/net/snmp; cat /proc/net/softnet_stat"
        assert not any(lost), (lost[:4], {host: self.site.sh(host, look) for host in ("client", "router", "far")})

    def silence(self) -> int:
        """The longest run of lost messages of any flow, after the end."""
        worst = 0
        for lost in self.end()["lost"]:
            run, last = 0, -2
            for number in lost:
                run = run + 1 if number == last + 1 else 1
                worst, last = max(worst, run), number
        return worst

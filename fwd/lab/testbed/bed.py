"""The testbed while it stands: its containers as hosts, what its gateways say of themselves, load, and the wire.

Commands run with this machine's tools in a container's network namespace, found by the pid of its first process: so
the engine must be on this machine, and the user root. The gateways' control sockets are reached the same way, through
/proc/PID/root. Refuses, as Failed or LabError: what does not come about in time.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError
from urllib.request import urlopen

from fwd.agent.client import query
from fwd.lab import flows, probe, tools, traffic
from fwd.lab.scenario import Failed
from fwd.lab.testbed import silence
from fwd.lab.testbed.engine import PROJECT, Engine
from fwd.lab.waiting import until

MEMBERS: Final = 4
GATEWAYS: Final = ("gw1", "gw2")
OUTER: Final = {"gw1": "192.0.2.1", "gw2": "192.0.2.2"}
IPV6: Final = {"client1": "fd00:1::10", "client2": "fd00:2::10"}
METRICS: Final = {"gw1": "10.1.0.1:9595", "gw2": "10.2.0.1:9595"}
PEERING: Final = f"{PROJECT}_peering"
_ADDRESS: Final = {"client1": "10.1.0.10", "client2": "10.2.0.10"}
_PORT = 4500
_PROBE_PORT, _PROBE_SOURCE_PORT, _PROBE_HZ = 7777, 20000, 200
_LOAD_PORT, _LOAD_STREAMS, _LOAD_RATE = 5301, 2, "20M"  # of each stream
_RESETS_BEFORE_END_S = 0.5
_UDP = 17


@dataclass(frozen=True)
class Felt:
    """What a disturbance meant for whoever used the tunnels meanwhile."""

    streams: int
    tcp_silence_s: float
    tcp_resets: int
    probe_silence_ms: float
    probes_lost: int

    def figures(self) -> dict[str, Any]:
        return vars(self).copy()


class Bed:
    """The running project. `magic` marks the probes, so that one in the clear is found on the wire."""

    def __init__(self, engine: Engine, directory: Path, secret: str) -> None:
        self.engine, self.secret = engine, secret
        self._directory = directory
        self.logs: list[str] = []  # of gateways that are gone, and of those that stand
        self.magic = os.urandom(16).hex()

    # -- hosts ------------------------------------------------------------------------------------------------

    def container(self, service: str) -> str:
        """The identifier of a service's only container."""
        found = self.engine.containers(service)
        if len(found) != 1:
            raise Failed(f"{service} has {len(found)} containers")
        return found[0]

    def pid(self, service: str) -> int:
        """Of the container's first process, as this machine numbers it."""
        pid: int = self.engine.inspect(self.container(service))["State"]["Pid"]
        if pid == 0:
            raise Failed(f"{service} does not run")
        return pid

    def execute(self, service: str, *words: str) -> str:
        """What a command inside a container prints."""
        return self.engine.docker("exec", self.container(service), *words)

    def address(self, host: str) -> str:
        return _ADDRESS[host]

    def run(self, host: str, argv: Sequence[str], check: bool = True, **kw: Any) -> subprocess.CompletedProcess[str]:
        """As lab.topology.Hosts has it."""
        if "stdout" not in kw and "stderr" not in kw:
            kw.setdefault("capture_output", True)
        return subprocess.run(self._argv(host, argv), check=check, text=True, **kw)

    def popen(self, host: str, argv: Sequence[str], **kw: Any) -> subprocess.Popen[Any]:
        """As lab.topology.Hosts has it."""
        return subprocess.Popen(self._argv(host, argv), **kw)

    def _argv(self, host: str, argv: Sequence[str]) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.pid(host)}/ns/net", *argv]

    # -- gateways ---------------------------------------------------------------------------------------------

    def status(self, gateway: str) -> dict[str, Any]:
        """As `fwd status --json` has it. Raises OSError if nobody answers."""
        return query(Path(f"/proc/{self.pid(gateway)}/root/run/fwd/fwd.sock"))

    def lives(self, gateway: str) -> dict[str, tuple[int, int]]:
        """Each process of a gateway: its pid and how often it was replaced."""
        status = self.status(gateway)
        found = {p["name"]: (p["pid"], p["restarts"]) for p in status["processes"]}
        for peering in status["peerings"]:
            found["demux"] = (peering["demux"]["pid"], peering["demux"]["restarts"])
            found |= {f"member {m['index']}": (m["pid"], m["restarts"]) for m in peering["members"]}
        return found

    def keep_logs(self) -> None:
        """Of both gateways, as they are now: a container that is replaced takes its own along."""
        self.logs += [self.engine.logs(self.container(gateway)) for gateway in GATEWAYS]

    @staticmethod
    def ready(gateway: str) -> bool:
        """What /readyz says."""
        try:
            with urlopen(f"http://{METRICS[gateway]}/readyz", timeout=1):
                return True
        except (URLError, OSError):
            return False

    def healthy(self, gateway: str) -> bool:
        """What the engine says, by the image's health check."""
        return bool(self.engine.inspect(self.container(gateway))["State"]["Health"]["Status"] == "healthy")

    def await_ready(self, *gateways: str) -> float:
        """Until they all are; how long that took, in seconds."""
        start_s = time.monotonic()
        until(lambda: all(map(self.ready, gateways)), f"{' and '.join(gateways)} ready")
        return time.monotonic() - start_s

    def await_ping(self) -> float:
        """Until one passes; how long that took, in seconds."""
        start_s = time.monotonic()
        until(self.ping, "a ping")
        return time.monotonic() - start_s

    def ignore_redirects(self) -> None:
        """Clients take no ICMP redirects: a gateway's container forwards before its first command has set a route, by
        Docker's default route, and would send its client there for five minutes."""
        for client in _ADDRESS:
            for scope in ("all", "eth0"):
                self.run(client, ["sysctl", "-qw", f"net.ipv4.conf.{scope}.accept_redirects=0"])

    def ping(self, to: str = "", count: int = 1) -> bool:
        """From client1, to client2's IPv4 address if no other is named."""
        argv = ["ping", "-n", "-c", str(count), "-i", "0.1", "-W", "1", to or self.address("client2")]
        return self.run("client1", argv, check=False).returncode == 0

    # -- the wire ---------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def wire(self) -> Iterator[dict[str, Any]]:
        """Every frame on `peering` while the block runs; the capture's result is there afterwards."""
        result: dict[str, Any] = {}
        out = self._directory / "capture.json"
        bridge = f"br-{self.engine.inspect(PEERING)['Id'][:12]}"
        argv = [sys.executable, "-P", "-m", "fwd.lab.capture", "--iface", bridge, "--bridge", "--marker", self.magic]
        argv += ["--ports", f"{_PORT}-{_PORT + MEMBERS - 1}", "--out", str(out)]
        argv += [word for address in OUTER.values() for word in ("--outer", address)]
        with tools.ended(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)) as process:
            tools.await_ready(process, "the capture")
            yield result
            tools.stop(process)
        result |= json.loads(out.read_text())

    @contextlib.contextmanager
    def encrypted(self) -> Iterator[dict[str, Any]]:
        """The block's traffic passes `peering` as ESP, none in the clear, no nonce twice; fills in the figures."""
        figures: dict[str, Any] = {}
        with self.wire() as seen:
            yield figures
        figures |= {name: seen[name] for name in ("esp_packets", "plaintext_packets", "repeated_nonces")}
        if seen["plaintext_packets"] or seen["repeated_nonces"]:
            raise Failed(f"on the wire: {figures}; {' '.join(seen['plaintext_examples'])}")
        if seen["capture_drops"]:
            raise Failed(f"the capture missed {seen['capture_drops']} frames: nobody knows what they were")
        if not seen["esp_packets"]:
            raise Failed("no ESP packet on the wire")

    # -- load -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def load(self, seconds: int) -> Iterator[list[Felt]]:
        """TCP streams both ways and numbered probes for `seconds`, in the midst of which the block disturbs.

        The probes' flow is member 0's. What was felt is there when the block has ended.
        """
        felt: list[Felt] = []
        with ExitStack() as stack:
            probes = stack.enter_context(self._probes(seconds))
            server = traffic.start_server(self, "client2", _LOAD_PORT)
            stack.enter_context(tools.ended(server))
            resets, start_s = traffic.tcp_resets(self), time.monotonic()
            argv = ["iperf3", "-J", "-c", self.address("client2"), "-p", str(_LOAD_PORT), "-i", "0.1"]
            argv += ["-P", str(_LOAD_STREAMS), "-b", _LOAD_RATE, "--bidir", "-t", str(seconds)]
            client = self.popen("client1", argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            stack.enter_context(tools.ended(client))
            time.sleep(1.0)
            yield felt
            time.sleep(max(0.0, start_s + seconds - _RESETS_BEFORE_END_S - time.monotonic()))
            resets = traffic.tcp_resets(self) - resets
            streams = silence.read(tools.output(client))
            arrived = probes()
        felt.append(Felt(
            streams.count, streams.longest_silence_s, resets, arrived.longest_gap_ms, arrived.lost
        ))  # fmt: skip

    @contextlib.contextmanager
    def _probes(self, seconds: int) -> Iterator[Callable[[], probe.Arrived]]:
        """Numbered datagrams from client1 to client2; the call gives what became of them."""
        out = self._directory / "probes.json"
        source, to = self.address("client1"), self.address("client2")
        member = flows.member_of_flow(MEMBERS)
        port = next(
            port for port in range(_PROBE_SOURCE_PORT, 65536) if member(source, port, to, _PROBE_PORT, _UDP) == 0
        )
        common = ["--magic", self.magic, "--seconds"]
        receive = ["fwd.lab.probe", "receive", "--port", str(_PROBE_PORT), "--out", str(out)]
        send = ["fwd.lab.probe", "send", "--to", f"{to}:{_PROBE_PORT}", "--from-port", str(port)]
        send += ["--rate", str(_PROBE_HZ), *common, str(seconds)]
        with (
            tools.tool(self, "client2", [*receive, *common, str(seconds + tools.END_TIMEOUT_S)]) as receiver,
            tools.tool(self, "client1", send, waits_ready=False) as sender,
        ):

            def result() -> probe.Arrived:
                sent = probe.read_sent(tools.output(sender))[port]
                tools.stop(receiver)
                return probe.merge(sent, probe.read_arrived(out.read_text()).get(port))

            yield result

    def udp(self, address: str, seconds: int = 2) -> tuple[float, float]:
        """iperf3's UDP from client1: Mbit/s that arrived, and per cent lost."""
        server = traffic.start_server(self, "client2", _LOAD_PORT)
        argv = ["iperf3", "-J", "-u", "-b", "50M", "-c", address, "-p", str(_LOAD_PORT), "-t", str(seconds)]
        client = self.popen("client1", argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        with tools.ended(server), tools.ended(client):
            return silence.read_udp(tools.output(client))

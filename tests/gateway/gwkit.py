"""Real gateways in a lab of the test's own, and what the tests ask of them. Everything waits for a condition."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

import pytest
from nursery import Nursery, Running

from fwd.lab import flows, probe, probing, processes, traffic, waiting, wire
from fwd.lab.gateway import PROGRAM, Gateway, peering
from fwd.lab.processes import Process
from fwd.lab.told import Json as Json
from fwd.lab.told import Told
from fwd.lab.tools import ended as ended
from fwd.lab.topology import GATEWAYS, Topology, why_not
from fwd.lab.world import Pairing
from fwd.proto.probe import KEY_BYTES

T = TypeVar("T")
# Limits are a quiet machine's: one that is busy with other workers' gateways gets more.
PATIENCE, PATIENT_S = 4.0, 60.0
PORT = 4500  # of member 0
TCP_OCTETS = 32 << 20  # full queues, and super-packets by the hundred
TCP_MBPS_MIN = 1.0  # it works; how fast, is a benchmark's business
BEACON = "0.0.0.0:4790"
ICMP, TCP, UDP = 1, 6, 17
# Drop reasons.
CONGESTION = ("ring_full", "queue_stands", "tun_queue_full", "socket_overflow", "send_failed")
OF_KEYS = ("unknown_spi", "replayed", "too_old", "bad_icv", "sa_exhausted")


def until(condition: Callable[[], T], seconds: float = 8.0, what: str = "") -> T:
    """The first true value that `condition` gives; it is waited for with patience."""
    return waiting.until(condition, what, max(seconds, min(seconds * PATIENCE, PATIENT_S)))


class Pair(Told):
    """The gateways of a lab that is up, gw1 and gw2 as a rule. `peerings`: tables that all configurations share, one a
    peering; `keys`: of their keys. The `nursery` starts them, if there is one."""

    nursery: Nursery | None = None

    def __init__(
        self,
        topology: Topology,
        peerings: Sequence[Mapping[str, Any]] = ({},),
        gateway: Mapping[str, Any] | None = None,
        arguments: Sequence[str] = (),
        keys: Mapping[str, Any] | None = None,
    ) -> None:
        self.topology = topology
        self.keys = dict(keys or {})
        self.peerings = [dict(p) for p in peerings]
        self.gateway = dict(gateway or {})
        self.arguments = list(arguments)
        self.program = list(PROGRAM)
        self.secret = b""
        self.probe_key = os.urandom(KEY_BYTES)
        self.running: dict[str, Running] = {}
        self.outer: list[str] = []  # addresses of the tunnels, if they are not the lab's
        self.ports = ""  # of the members, if they are not 4500 and the next

    # -- files ------------------------------------------------------------------------------------------------

    def files(self, host: str) -> Gateway:
        return Gateway(self.topology.run_dir, host)

    def config(self, host: str) -> Path:
        return self.files(host).config

    def control(self, host: str) -> Path:
        return self.files(host).control

    def secret_path(self, host: str) -> Path:
        return self.files(host).secret

    def log(self, host: str) -> str:
        return self.files(host).logged()

    def write_config(self, host: str) -> Path:
        peerings = [
            self._peering(host, pairing, i, peering)
            for i, peering in enumerate(self.peerings)
            for pairing in self.topology.pairings(host)
        ]
        return self.files(host).configure(peerings, self.gateway)

    def _peering(self, host: str, pairing: Pairing, index: int, table: Mapping[str, Any]) -> Mapping[str, Any]:
        """One table: `members` is those for each far gateway, `subnets` and `keys` are given by host."""
        settings: Json = {"name": f"to-{pairing.far[0]}-{index}", "members": 2, **table}
        keys = {"source": "lab", "secret": str(self.secret_path(host)), **self.keys}
        keys |= settings.pop("keys", {}).get(host, {})
        if subnets := settings.pop("subnets", None):
            settings = {"local_ts": subnets[host], "remote_ts": subnets[pairing.far[0]], **settings}
        return peering(self.topology, host, pairing, keys, **settings)

    def write_secret(self, host: str) -> None:
        self.files(host).write_secret(self.secret.hex().encode() if self.keys else self.secret)

    def answer_routers(self) -> None:
        """Give each gateway a beacon, and all the same key."""
        path = self.topology.run_dir / "probe.key"
        path.touch(0o600)
        path.write_text(self.probe_key.hex())
        self.gateway |= {"beacon": BEACON, "probe_key": str(path)}

    def add_second_subnets(self) -> None:
        """Give each client, and its gateway, an address in a second subnet: 10.11.0.0/24 and 10.12.0.0/24."""
        for client, gateway, net in (("client1", "gw1", "10.11.0"), ("client2", "gw2", "10.12.0")):
            self.topology.run(client, ["ip", "addr", "add", f"{net}.10/24", "dev", "eth0"])
            self.topology.run(gateway, ["ip", "addr", "add", f"{net}.1/24", "dev", "lan"])

    # -- processes --------------------------------------------------------------------------------------------

    def start(self) -> Pair:
        """Both, with a secret never used before, and wait until they are ready."""
        self.secret = os.urandom(32)
        for host in self.topology.gateways:
            self.launch(host)
        self.wait_ready()

        # A fresh link forwards up to a second after it is up, and what asks for an address meanwhile is lost.
        any(self.ping("-W", "1") for _ in range(3))
        return self

    def launch(self, host: str) -> None:
        """One of them, with the secret as it is now."""
        self.write_config(host)
        self.write_secret(host)
        self.begin(host)

    def begin(self, host: str) -> None:
        """One of them, with its files as they are."""
        with self.files(host).log.open("wb") as log:
            self.running[host] = self.popen(host, self.config(host), log)

    def popen(self, host: str, config: Path, log: IO[bytes]) -> Running:
        """Start a gateway with whatever configuration."""
        if self.nursery is not None and self.program == list(PROGRAM):
            return self.nursery.start(self.network(host), ["demux", "--config", str(config), *self.arguments], log, log)
        argv = [sys.executable, *self.program, "demux", "--config", str(config), *self.arguments]
        return self.topology.popen(host, argv, stdout=log, stderr=log)

    def network(self, host: str) -> Path:
        """Where the network namespace of a host is bound."""
        return Path("/run/netns") / self.topology.ns(host)

    def refused(self, host: str, config: Path, *arguments: str) -> str:
        """The one line with which `fwd demux` says that it cannot start like this."""
        assert self.nursery is not None
        done = self.nursery.run(self.network(host), ["demux", "--config", str(config), *arguments], 60.0)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        return done.stderr

    def ready(self, host: str) -> bool:
        assert self.running[host].poll() is None, self.log(host)
        return super().ready(host)

    def wait_ready(self, *hosts: str, seconds: float = 60.0) -> None:
        for host in hosts or self.topology.gateways:
            until(lambda host=host: self.ready(host), seconds, f"{host} ready")  # type: ignore[misc]

    def stop(self, host: str, number: signal.Signals = signal.SIGTERM) -> int:
        """Tell the supervisor to end; its exit status."""
        process = self.running.pop(host)
        process.send_signal(number)
        try:
            return process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def close(self) -> None:
        """End what still runs, and everything that was started in a gateway's namespace."""
        ending = [self.running.pop(host) for host in list(self.running)]
        for process in ending:  # all at once: each takes a moment
            process.send_signal(signal.SIGTERM)
        for process in ending:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    # -- what the gateways say --------------------------------------------------------------------------------

    def key_drops(self) -> dict[str, int]:
        """What went wrong with keys, over both gateways."""
        drops = {host: self.drops(host) for host in GATEWAYS}
        return {f"{host} {name}": drops[host][name] for host in GATEWAYS for name in OF_KEYS if drops[host][name]}

    def congested(self) -> int:
        """How much both gateways had no room for."""
        drops = [self.drops(host) for host in GATEWAYS]
        return sum(found[name] for found in drops for name in CONGESTION)

    def members(self, host: str) -> list[Json]:
        """Those of a gateway's first peering."""
        found: list[Json] = self.peering(host)["members"]
        return found

    def reload(self, *hosts: str, words: str = "configuration re-read") -> None:
        """Have gateways read their configurations again, one after the other, until each has logged these words."""
        for host in hosts:
            seen = self.log(host).count(words)
            self.running[host].send_signal(signal.SIGHUP)
            until(lambda host=host, seen=seen: self.log(host).count(words) > seen, 15.0, f"{host}: {words}")  # type: ignore[misc]

    def kill(self, host: str, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a child a signal; its pid."""
        pid = self.pids(host)[name]
        assert pid > 1, f"{name} of {host} does not run"
        os.kill(pid, number)
        return pid

    def wait_replaced(self, host: str, name: str, pid: int, seconds: float = 8.0) -> None:
        """Another process than `pid` runs under that name, and the gateway is ready."""
        until(lambda: self.pids(host)[name] not in (0, pid) and self.ready(host), seconds, f"{name} replaced")

    # -- traffic ----------------------------------------------------------------------------------------------

    def ping(self, *options: str, host: str = "client1", to: str = "", count: int = 1) -> bool:
        return self.topology.ping(*options, host=host, to=to, count=count)

    def tcp(self, *, seconds: float = 0.0, streams: int = 2, reverse: bool = False, version: int = 4) -> float:
        """TCP from client1 to client2, or back; Mbit/s received. So many `seconds` of it, or TCP_OCTETS in any time."""
        address = self.topology.address("client2", version=version)  # type: ignore[arg-type]
        octets = None if seconds else TCP_OCTETS
        return traffic.run(
            self.topology,
            streams=streams,
            seconds=seconds or PATIENT_S,
            reverse=reverse,
            address=address,
            octets=octets,
        ).received_mbps

    @contextlib.contextmanager
    def flood(self, megabits: int, octets: int, source_port: int, seconds: float = 30.0) -> Iterator[None]:
        """UDP datagrams from client1 to client2 while the block runs; nobody need listen.

        More octets than a packet takes go as a super-packet of 1,400-octet datagrams, not as fragments.
        """
        script = (
            "import socket,sys,time\n"
            "to,port,source,octets,mbps,seconds=sys.argv[1],*map(float,sys.argv[2:])\n"
            "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.bind(('',int(source)))\n"
            "if octets>1472: s.setsockopt(17,103,1400)\n"
            "data=bytes(int(octets));start=time.monotonic();sent=0\n"
            "while (t:=time.monotonic()-start)<seconds:\n"
            "    if sent*octets*8>t*mbps*1e6: time.sleep(.001);continue\n"
            "    sent+=1\n"
            "    try: s.sendto(data,(to,int(port)))\n"
            "    except OSError: pass\n"
        )
        numbers = (probing.PORT, source_port, octets, megabits, seconds)
        argv = [sys.executable, "-c", script, self.topology.address("client2"), *map(str, numbers)]
        process = self.topology.popen("client1", argv)
        try:
            yield
        finally:
            process.kill()
            process.wait()

    # -- the wire ---------------------------------------------------------------------------------------------

    def nft(self, host: str, rules: str) -> None:
        """Load rules into a host, as a table `test` of their own unless they name another."""
        self.topology.run(host, ["nft", "-f", "-"], input=rules)

    @contextlib.contextmanager
    def rule(self, host: str, hook: str, *rules: str) -> Iterator[Callable[[], list[int]]]:
        """Rules before all others in a host's hook; gives a function that reads their counters' packets."""
        body = "\n".join(rules)
        self.nft(host, f"table inet test {{ chain c {{ type filter hook {hook} priority -350; {body}\n}}\n}}\n")
        try:
            yield lambda: nft_packets(self.topology.run(host, ["nft", "list", "table", "inet", "test"]).stdout)
        finally:
            self.nft(host, "delete table inet test\n")

    @contextlib.contextmanager
    def capture(
        self, host: str = "gw1", dev: str = "wan", marker: bytes | None = None, pcap: Path | None = None
    ) -> Iterator[Json]:
        """The wire from a gateway's end; the dictionary is filled when the block ends."""
        outer = self.outer or [self.topology.outer(gateway) for gateway in GATEWAYS]
        options = ["--marker", marker.hex()] if marker else []
        options += ["--pcap", str(pcap)] if pcap else []
        options += ["--ports", self.ports] if self.ports else []
        with wire.watched(self.topology, host, self.topology.run_dir, outer, *options, iface=dev) as seen:
            yield seen
        why = wire.missed(seen)
        assert not why, why

    @contextlib.contextmanager
    def probes(
        self, ports: Sequence[int], seconds: float = 60.0, rate_hz: float = 1000.0
    ) -> Iterator[dict[int, probe.Arrived]]:
        """Numbered datagrams at `rate_hz` from client1 to client2 on these flows; filled when the block ends."""

        def records() -> int:
            return sum(member["in"]["records"] for member in self.peering("gw2")["members"])

        came: dict[int, probe.Arrived] = {}
        before = records()
        with probing.probing(self.topology, self.topology.run_dir, ports, seconds, rate_hz=rate_hz) as probes:
            until(lambda: records() > before + 50, what="probes on their way")
            yield came
            probes.end()
            assert probes.sent
            self.wait_quiet()
            came |= probes.came

    # -- the books --------------------------------------------------------------------------------------------

    def wait_quiet(self, *hosts: str) -> tuple[Json, ...]:
        """The books of both gateways once nothing moves: no record waits and two looks agree."""
        last: list[Any] = [None]

        def settled() -> tuple[Json, ...]:
            now = tuple(self.peering(host)["books"] for host in hosts or self.topology.gateways)
            quiet = now == last[0] and not any(b["out_waiting"] or b["in_esp_waiting"] for b in now)
            last[0] = now
            if not quiet:
                time.sleep(0.25)  # longer than an echo waits for its answer
            return now if quiet else ()

        return until(settled, 20.0, "books at rest")

    def flow_ports(self, members: int, first: int = probing.SOURCE_PORT) -> list[int]:
        """For each member, a UDP source port of the probes' flow that it carries while all live."""
        return probing.ports(self.topology, members, first, steered=self.is_steered)

    @property
    def is_steered(self) -> bool:
        """Whether the kernel is to steer."""
        return self.peerings[0].get("steering") == "kernel"

    def icmp_member(self, members: int) -> int:
        """Which member of gw1 carries pings from client1 to client2."""
        return flows.between_clients(self.topology, members, 0, ICMP)(0)


def assert_books_balance(books: Json) -> None:
    """in = out + drops, both ways (rule 5)."""
    assert books["out_records_in"] == books["out_records_out"] + books["out_drops"] + books["out_waiting"], books
    assert books["in_esp_in"] == books["in_esp_ok"] + books["in_esp_drops"], books
    assert books["in_records_in"] == books["in_records_out"] + books["in_drops"], books


def nft_packets(listing: str) -> list[int]:
    return [int(n) for n in re.findall(r"counter packets (\d+)", listing)]


def network_of(topology: Topology, host: str) -> str:
    """Links, routes and nftables rules of a host, without counters and what ages by itself."""
    commands = (
        ["ip", "-br", "link"],
        ["ip", "-4", "route", "show", "table", "all"],
        ["ip", "-6", "route", "show", "table", "all"],
        ["nft", "-s", "list", "ruleset"],
    )
    found = "".join(topology.run(host, argv).stdout for argv in commands)
    return re.sub(r" expires \d+sec", "", found)


def inside(topology: Topology, host: str) -> set[Process]:
    """Processes that run in a host's namespace."""
    return set(processes.in_network_of(Path("/run/netns") / topology.ns(host)))


MakePair = Callable[..., Pair]
_serial = itertools.count()
_standing: set[str] = set()  # labs of this run, those of a whole module among them


@contextlib.contextmanager
def pairs_without_trace(config: pytest.Config, nursery: Nursery | None = None) -> Iterator[MakePair]:
    """Makes pairs of gateways, each in a lab of its own; at the end all is taken down, and nothing may be left."""
    if reason := why_not():
        pytest.skip(reason)
    outer = config.pluginmanager.get_plugin(str(Path(__file__).parents[1] / "conftest.py"))
    assert outer is not None
    before = outer.Belongings.now()
    with contextlib.ExitStack() as stack:

        def make(
            peerings: Any = None,
            *,
            lab: Json | None = None,
            start: bool = True,
            kind: type[Pair] = Pair,
            **other: Any,
        ) -> Pair:
            topology = Topology(f"t{os.getpid()}-g{next(_serial)}", **(lab or {}))
            _standing.add(topology.name)
            stack.callback(_standing.discard, topology.name)
            stack.callback(topology.down)
            topology.up()
            pair = kind(topology, peerings or ({},), **other)
            pair.nursery = nursery
            stack.callback(pair.close)
            return pair.start() if start else pair

        yield make
    # What runs in a lab that still stands is for its own maker to look after; there, children come and go.
    left = outer.Belongings.now().left_since(before)
    left = [item for item in left if not any(f"/{name}/" in item for name in _standing)]
    assert not left, "left behind: " + "; ".join(left)

"""A fleet in a lab of the test's own: hosts that have joined a controller, and what the tests ask of them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from nursery import Forked, Nursery

from fwd.lab import processes, tools, traffic, waiting
from fwd.lab.fleet import quickstart
from fwd.lab.fleet.lab import Lab
from fwd.lab.fleet.plan import CONTROLLER, NET, Fleet
from fwd.lab.gateway import PROGRAM
from fwd.lab.processes import Process
from fwd.lab.told import asked
from fwd.lab.topology import why_not
from fwd.model import render

T = TypeVar("T")
LIMIT_S = 60.0  # of whatever comes about, on a busy machine
FLOWS, HZ = 40, 25.0  # of numbered UDP
STREAMS, STREAM_S = 16, 600.0  # of TCP, and after how long each ends and begins anew
GAP_S_MAX = 2.0  # silence of any flow, on a busy machine
NAME = "one-two"  # of the peering
TALK, STREAM = "fwd.lab.fleet.talk", "fwd.lab.streams"
# What libfaketime does to other clocks than the wall's is put right: of the CPU (negative ids), and in sleeps.
FAKED = """\
import os, select, time
from fwd.cli import main
read, off_s = time.clock_gettime, float(os.environ["FAKETIME"][:-1])
time.clock_gettime = lambda clock: read(clock) - (off_s if clock < 0 else 0.0)
time.sleep = lambda seconds: select.poll().poll(seconds * 1000)
main()
"""


def until(condition: Callable[[], T], what: str, seconds: float = LIMIT_S) -> T:
    """The first true value that `condition` gives."""
    return waiting.until(condition, what, seconds)


@dataclass(frozen=True)
class Slot:
    """One slot of a router: the inner address of the gateway that serves it, and for how long nothing has used it."""

    gateway: str
    idle_s: float


class Load:
    """Numbered UDP flows with answers, and TCP streams, between two clients, on their way."""

    def __init__(
        self, fleet: Fleet, asking: subprocess.Popen[str], streams: subprocess.Popen[str] | None,
        hosts: tuple[str, str], news: Callable[[], str],
    ) -> None:  # fmt: skip
        self._fleet, self._asking, self._streams, self._hosts, self._news = fleet, asking, streams, hosts, news
        self._resets = traffic.connections_reset(fleet, hosts)
        self.sent: list[int] = []
        self.lost = self.reordered = self.resets = self.streams_ended = 0
        self.silence_s: list[float] = []

    def end(self) -> Load:
        """End the flows; what became of them. A stream that was not whole counts as one that was reset."""
        if self._streams is not None:
            self._streams.terminate()
            told = json.loads(tools.output(self._streams))
            self.streams_ended = told["ended"]
            self.resets = len(told["broken"])
        self.resets += traffic.connections_reset(self._fleet, self._hosts) - self._resets
        self._asking.terminate()
        told = json.loads(tools.output(self._asking))
        self.sent, self.silence_s = told["sent"], told["silence_s"]
        self.lost, self.reordered = told["lost"], told["reordered"]
        if (self.lost, self.reordered, self.resets) != (0, 0, 0):
            print(self._news())
        return self


class Cluster(Lab):
    """See the module. The `nursery` starts its programs."""

    def __init__(self, fleet: Fleet, nursery: Nursery) -> None:
        super().__init__(fleet)
        self._nursery = nursery
        self._forked: dict[int, Forked] = {}  # by pid
        self.tables: dict[str, dict[str, Any]] = {}  # of the controller's file, besides [controller]
        self.clocks: dict[str, int] = {}  # by host: how many seconds the clock is ahead of all programs started there

    def write_controller(self, **keys: Any) -> None:
        super().write_controller(**keys)
        with self.controller_config.open("a") as file:
            for name, table in self.tables.items():
                file.write("\n" + "\n".join(render.table(f"[{name}]", table)) + "\n")

    def program(self, host: str) -> list[str]:
        if not (off_s := self.clocks.get(host)):
            return super().program(host)
        (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
        faked = {"LD_PRELOAD": library, "FAKETIME": f"{off_s:+d}s", "FAKETIME_DONT_FAKE_MONOTONIC": 1}
        return ["env", *(f"{name}={value}" for name, value in faked.items()), sys.executable, "-P", "-c", FAKED]

    def _start(self, host: str, command: Iterable[str], log: Path) -> Process:
        program, arguments = (sys.executable, *PROGRAM), tuple(command)
        if arguments[: len(program)] != program:  # another program than fwd as it is
            return super()._start(host, arguments, log)
        with log.open("wb") as out:
            network = Path("/run/netns") / self.fleet.ns(host)
            forked = self._nursery.start(network, arguments[len(program) :], out, out)
        self._forked[forked.pid] = forked
        process = Process.of(forked.pid) or Process(forked.pid, 0)
        self._remember(host, process)
        return process

    def down(self) -> None:
        super().down()
        for forked in self._forked.values():
            forked.wait(LIMIT_S)

    def wait_ready(self) -> None:
        """Until all gateways and routers carry."""
        quickstart.wait_ready(self)

    def wait_carrying(self, *gateways: str) -> None:
        """Until these are ready, and those of them that routers use are in use."""
        for host in gateways:
            until(lambda host=host: self.ready(host), f"{host} is ready")  # type: ignore[misc]

    def health(self, kind: str, name: str) -> str:
        """How the controller says that a host is."""
        return str(self.api.get(f"{kind}/{name}")["health"]["state"])

    def until_health(self, name: str, *states: str, kind: str = "gateways", seconds: float = LIMIT_S) -> None:
        until(lambda: self.health(kind, name) in states, f"{name} is {states}", seconds)

    def uses(self, router: str, name: str = NAME) -> dict[str, str]:
        """How a router uses the gateways of a spread."""
        spreads = {one["name"]: one for one in self.router(router).get("spreads", [])}
        return {one["name"]: one["use"] for one in spreads[name]["gateways"]} if name in spreads else {}

    def until_uses(self, router: str, name: str = NAME, **wanted: str) -> None:
        until(lambda: self.uses(router, name) == wanted, f"{router} uses {wanted}")

    def slots(self, router: str) -> dict[int, Slot]:
        """The IPv4 slots of a router's only spread."""

        def rows(*words: str) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = json.loads(self.fleet.run(router, ["ip", "-j", "nexthop", *words]).stdout)
            return found

        via = {one["id"]: one["gateway"] for one in rows() if ":" not in one.get("gateway", ":")}
        idle_s = {one["bucket"]["nhid"]: float(one["bucket"]["idle_time"]) for one in rows("bucket", "show")}
        mine = sorted(idle_s.keys() & via.keys())  # a next hop a slot, in their order
        return {slot: Slot(via[hop], idle_s[hop]) for slot, hop in enumerate(mine)}

    def shares(self, router: str) -> Counter[str]:
        """How many slots each gateway serves, by its name."""
        names = {self.fleet.inner(host)[0]: host for host in self.fleet.gateways}
        return Counter(names[slot.gateway] for slot in self.slots(router).values())

    def everything_of(self, host: str) -> list[int]:
        """All processes on a host."""
        return [one.pid for one in processes.in_network_of(Path("/run/netns") / self.fleet.ns(host))]

    def signal(self, host: str, number: signal.Signals) -> None:
        """Send a signal to all processes on a host."""
        for pid in self.everything_of(host):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self, name: str) -> None:
        """SIGKILL one of the lab's programs."""
        process = self.running[name]
        os.kill(process.pid, signal.SIGKILL)
        until(lambda: not process.alive(), f"{name} is gone")
        self.reap(process)

    def reap(self, process: Process) -> None:
        """Take the exit status of one that has ended, from whoever is its parent."""
        if process.pid in self._forked:
            self._forked[process.pid].wait(LIMIT_S)
        else:
            os.waitid(os.P_PID, process.pid, os.WEXITED)

    @contextlib.contextmanager
    def cut_off(self, host: str) -> Iterator[None]:
        """Nothing reaches a host from outside, nor leaves it, while the block runs."""
        with self._dropping(f"iifname {host} drop; oifname {host} drop;"):
            yield

    @contextlib.contextmanager
    def cut_from_controller(self, host: str) -> Iterator[None]:
        """Nothing goes between a host and the controller while the block runs."""
        with self._dropping(f"iifname {host} oifname {CONTROLLER} drop; iifname {CONTROLLER} oifname {host} drop;"):
            yield

    @contextlib.contextmanager
    def losing(self, host: str, share: float) -> Iterator[None]:
        """Of what comes to a host from outside this share is lost, at random, while the block runs."""
        with self._dropping(f"oifname {host} numgen random mod 1000 < {round(1000 * share)} drop;"):
            yield

    @contextlib.contextmanager
    def _dropping(self, rules: str) -> Iterator[None]:
        """Have the net drop what these rules of nft say."""
        table = "table inet cut { chain c { type filter hook forward priority 0; " + rules + " }\n}\n"
        self.fleet.run(NET, ["nft", "-f", "-"], input=table)
        try:
            yield
        finally:
            self.fleet.run(NET, ["nft", "delete", "table", "inet", "cut"])

    @contextlib.contextmanager
    def in_the_clear(self) -> Iterator[Callable[[], int]]:
        """Count what goes between VPCs past the tunnels, in the net; gives what says how much that was."""
        inner = ("ip saddr 10.0.0.0/8 ip daddr 10.0.0.0/8", "ip6 saddr fd00::/8 ip6 daddr fd00::/8")
        with self.counting(NET, what=" counter; ".join(inner)) as counted:
            yield lambda: sum(counted().values())

    @contextlib.contextmanager
    def counting(self, *hosts: str, what: str) -> Iterator[Callable[[], dict[str, int]]]:
        """Count the packets that come to each host and match; gives what says how many those were."""
        table = (
            "table inet counting { chain c { type filter hook prerouting priority -300; " + what + " counter; }\n}\n"
        )

        def packets(host: str) -> int:
            listing = self.fleet.run(host, ["nft", "list", "table", "inet", "counting"]).stdout
            return sum(int(count) for count in re.findall(r"counter packets (\d+)", listing))

        with contextlib.ExitStack() as stack:
            for host in hosts:
                self.fleet.run(host, ["nft", "-f", "-"], input=table)
                stack.callback(self.fleet.run, host, ["nft", "delete", "table", "inet", "counting"])
            yield lambda: {host: packets(host) for host in hosts}

    def events(self) -> set[str]:
        """What has happened, by its words."""
        return {str(one["what"]) for one in self.api.items("events")}

    def watching(self) -> Callable[[], str]:
        """Give what says what gateways and routers have dropped and logged since now: for who looks for a cause."""
        hosts = [one for one in (*self.fleet.gateways, *self.fleet.all_routers) if self.files(one).log.exists()]
        said, dropped = {host: len(self.log(host)) for host in hosts}, {host: self._dropped(host) for host in hosts}

        def news() -> str:
            lines = []
            for host in hosts:
                text = self.log(host)
                since = text[said[host] if len(text) >= said[host] else 0 :]  # all, if it was started anew
                lines += [f"{host} has dropped {dict(self._dropped(host) - dropped[host])}, and says:", since]
            return "\n".join(lines)

        return news

    def _dropped(self, host: str) -> Counter[str]:
        """What a gateway has dropped, by reason; nothing of a router, or of one that does not answer."""
        if host not in self.fleet.gateways:
            return Counter()
        peerings = (asked(self.control(host)) or {"peerings": []})["peerings"]
        return sum((Counter(one["drops"]) for one in peerings), Counter())

    def partners(self, gateway: str) -> set[str]:
        """The gateways that one is paired with."""
        pairs = [(one["a"], one["b"]) for one in self.api.items("pairs")]
        return {b for a, b in pairs if a == gateway} | {a for a, b in pairs if b == gateway}

    def is_whole(self) -> bool:
        """Whether the controller hears all gateways, and sees them up."""
        hosts = self.fleet.gateways
        return all(self.status(one)["controller"]["connected"] for one in hosts) and {
            self.health("gateways", one) for one in hosts
        } == {"up"}

    def records(self, host: str) -> int:
        """Records that a gateway has sent into its tunnels, and out of them, over all peerings."""
        books = [one["books"] for one in self.status(host)["peerings"]]
        return sum(one["out_records_out"] + one["in_records_out"] for one in books)

    @contextlib.contextmanager
    def load(
        self, tcp: bool = True, here: str = "client1", there: str = "client2", stream_s: float = STREAM_S
    ) -> Iterator[Load]:
        """Flows between two clients while the block runs; each of the TCP streams ends after `stream_s`."""
        fleet, to, streams = self.fleet, self.fleet.address(there), None
        with contextlib.ExitStack() as stack:
            stack.enter_context(tools.tool(fleet, there, [TALK, "answer"]))
            if tcp:
                stack.enter_context(tools.tool(fleet, there, [STREAM, "answer"]))
                ask = [STREAM, "ask", to, str(STREAMS), f"{stream_s:g}"]
                streams = stack.enter_context(tools.tool(fleet, here, ask))
            asking = stack.enter_context(tools.tool(fleet, here, [TALK, "ask", to, str(FLOWS), str(HZ)]))
            yield Load(fleet, asking, streams, (here, there), self.watching())

    def passes(self, here: str = "client1", there: str = "client2") -> bool:
        """Whether flows over all slots are answered: as many as prove it."""
        to = self.fleet.address(there)
        with (
            tools.tool(self.fleet, there, [TALK, "answer"]),
            tools.tool(self.fleet, here, [TALK, "ask", to, "64", "20"]) as asking,
        ):
            time.sleep(0.5)
            asking.terminate()
            return int(json.loads(tools.output(asking))["lost"]) == 0

    def carried_by_all(self, gateways: Mapping[str, Any] | tuple[str, ...]) -> None:
        """Traffic of both ways goes over each of these gateways."""
        before = {host: self.records(host) for host in gateways}
        with self.load(tcp=False):
            until(lambda: all(self.records(one) > before[one] + 10 for one in gateways), "traffic over all pairs")


MakeFleet = Callable[..., Cluster]


_serial = itertools.count()
_standing: set[str] = set()


@contextlib.contextmanager
def fleets_without_trace(config: pytest.Config, nursery: Nursery) -> Iterator[MakeFleet]:
    """Makes fleets; at the end all is taken down, and nothing may be left."""
    if reason := why_not():
        pytest.skip(reason)
    outer = config.pluginmanager.get_plugin(str(Path(__file__).parents[1] / "conftest.py"))
    assert outer is not None
    before = outer.Belongings.now()
    with contextlib.ExitStack() as stack:

        def make(
            *counts: int, peered: bool = False, up: bool = True, keys: Any = None, drain_s: int | None = None,
            before: Callable[[Cluster], None] = lambda cluster: None, **world: Any,
        ) -> Cluster:  # fmt: skip
            sites = {f"vpc{number}": count for number, count in enumerate(counts, 1)}
            cluster = Cluster(Fleet(f"t{os.getpid()}-c{next(_serial)}", sites=sites, **world), nursery)
            _standing.add(cluster.fleet.name)
            stack.callback(_standing.discard, cluster.fleet.name)
            stack.callback(cluster.down)
            cluster.fleet.up()
            before(cluster)  # there is the net, and no program
            cluster.begin(**(keys or {}))
            if up:
                cluster.fill()
            for router in cluster.fleet.all_routers if up and drain_s is not None else ():
                cluster.api.change("routers", router, drain_deadline=drain_s)
            if peered:
                quickstart.peer(cluster)
                cluster.wait_ready()
                until(cluster.is_whole, "the controller has heard that all are up")
            return cluster

        yield make
    left = outer.Belongings.now().left_since(before)
    left = [item for item in left if not any(name in item for name in _standing)]
    assert not left, "left behind: " + "; ".join(left)

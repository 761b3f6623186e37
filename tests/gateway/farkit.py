"""One gateway and its two far gateways, gw2 and gw3, which share a LAN and know nothing of each other.

    client1 ── lan gw1 wan ════ wan gw2 lan ──── eth0 client2
                   gw1 wan3 ═══ wan gw3 lan ──── eth1 client2

gw1 has one outer address for both. client2 answers by way of gw2, so what comes through gw3 is one way only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from gwkit import Json, Pair, inside, until

from fwd.lab import processes
from fwd.lab.topology import Topology
from fwd.model import render
from fwd.proto.flow import owners, rendezvous_scores

HOSTS = ("gw1", "gw2", "gw3")
MEMBERS = 4  # of gw1; the others have two each
FAR = 1  # gw3 is the second of gw1's far gateways
ITS_MEMBERS = (1, 3)
OUTER = "192.0.2.3"
SUBNETS = {"gw1": ["10.1.0.0/24"], "gw2": ["10.2.0.0/24"], "gw3": ["10.2.0.0/24"]}


class Fork(Topology):
    """A lab with a third gateway."""

    def ns(self, host: str) -> str:
        return f"{self.name}-gw3" if host == "gw3" else super().ns(host)

    def outer(self, host: str) -> str:
        return OUTER if host == "gw3" else super().outer(host)

    def up(self) -> None:
        super().up()
        self._command("ip", "netns", "add", self.ns("gw3"))
        self._set_sysctls("gw3")
        for near, dev, host, far_dev in (("gw3", "wan", "gw1", "wan3"), ("gw3", "lan", "client2", "eth1")):
            ends = "link", "add", dev, "netns", self.ns(near), "type", "veth", "peer", "name", far_dev
            self._command("ip", *ends, "netns", self.ns(host))
        for host, lines in {
            "gw1": ["link set wan3 up"],
            "client2": ["link set eth1 up"],
            "gw3": ["link set lo up", "link set wan up", "link set lan up", f"addr add {OUTER}/24 dev wan",
                    "addr add 10.2.0.2/24 dev lan"],
        }.items():  # fmt: skip
            for line in lines:
                self._command("ip", "-n", self.ns(host), *line.split())
        self._command("ip", "-n", self.ns("gw1"), "route", "add", OUTER, "dev", "wan3", "src", super().outer("gw1"))
        self._command("ip", "-n", self.ns("gw3"), "route", "add", "default", "via", super().outer("gw1"))

    def down(self) -> None:
        namespace = Path("/run/netns") / self.ns("gw3")
        if namespace.exists():
            while inside := processes.in_network_of(namespace):
                processes.end(inside)
            self._command("ip", "netns", "del", namespace.name)
        super().down()

    @staticmethod
    def _command(*argv: str) -> None:
        subprocess.run(argv, check=True, capture_output=True)


class Fan(Pair):
    """gw1 with gw2 and gw3."""

    def write_config(self, host: str) -> Path:
        near = host == "gw1"
        own = {key: value for key, value in self.peerings[0].items() if key != "keys"}
        peering = {
            "name": "far-side" if near else "near-side",
            "local_addrs": self.topology.outer(host),
            "remote_addrs": [self.topology.outer(far) for far in HOSTS[1:]] if near else self.topology.outer("gw1"),
            "local_ts": SUBNETS[host],
            "remote_ts": SUBNETS["gw2" if near else "gw1"],
            "members": MEMBERS if near else MEMBERS // 2,
            **own,
            "keys": {"source": "psk", "secret": str(self.secret_path(host)), "dpd_delay": 1},
        }
        gateway = {"control": str(self.control(host)), **self.gateway}
        self.config(host).write_text(render.write({"gateway": gateway, "peering": [peering]}))
        return self.config(host)

    def start(self) -> Fan:
        """All three, and wait until gw1 has both far gateways."""
        self.keys = {"source": "psk"}
        self.secret = b"\x5a\x01\x77" * 10 + bytes(range(16))
        for host in HOSTS:
            self.launch(host)
        self.wait_ready(*HOSTS, seconds=60.0)
        until(lambda: [far["state"] for far in self.peering("gw1")["far"]] == ["up", "up"], 30.0, "both far up")
        self.wait_shared()
        return self

    def wait_shared(self) -> None:
        """Every bucket is with the member that it belongs to while all are there."""
        owned = np.bincount(owners(rendezvous_scores(MEMBERS), (1 << MEMBERS) - 1), minlength=MEMBERS).tolist()
        until(lambda: [m["buckets"] for m in self.peering("gw1")["members"]] == owned, 30.0, "every bucket at home")

    def far(self) -> Json:
        """What gw1 says of gw3."""
        found: Json = self.peering("gw1")["far"][FAR]
        return found

    def buckets(self) -> list[int]:
        """How many buckets the members of gw1 have that are paired with gw3."""
        members = self.peering("gw1")["members"]
        return [members[i]["buckets"] for i in ITS_MEMBERS]

    def kill_gw3(self) -> None:
        """All of its fwd, at once and without a word."""
        process = self.running.pop("gw3")
        for pid in [process.pid, *(one.pid for one in inside(self.topology, "gw3") if one.pid != process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    @contextlib.contextmanager
    def gw3_gone(self, how: str) -> Iterator[None]:
        """gw3 is killed, or its link is cut; at the end it is back, and begins."""
        if how == "killed":
            self.kill_gw3()
            yield
            self.launch("gw3")
        else:
            with self.rule("gw3", "prerouting", "iifname wan drop"):
                yield

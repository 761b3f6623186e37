"""The testbed of two gateways while it stands: what they say of themselves, load, and the wire.

Refuses, as Failed or LabError: what does not come about in time.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError
from urllib.request import urlopen

from fwd.lab import probing, tools, traffic
from fwd.lab.testbed import silence
from fwd.lab.testbed.containers import Containers, esp_alone
from fwd.lab.testbed.engine import Engine
from fwd.lab.waiting import until

MEMBERS: Final = 4
GATEWAYS: Final = ("gw1", "gw2")
OUTER: Final = {"gw1": "192.0.2.1", "gw2": "192.0.2.2"}
IPV6: Final = {"client1": "fd00:1::10", "client2": "fd00:2::10"}
METRICS: Final = {"gw1": "10.1.0.1:9595", "gw2": "10.2.0.1:9595"}
_ADDRESS: Final = {"client1": "10.1.0.10", "client2": "10.2.0.10"}
_PROBE_HZ = 200
_LOAD_PORT, _LOAD_STREAMS, _LOAD_MBPS, _LOAD_INTERVAL_S = 5301, 2, 20, 0.1  # Mbit/s of each stream
_UDP_MBPS = 50
_RESETS_BEFORE_END_S = 0.5


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


class Bed(Containers):
    """The running project. `magic` marks the probes, so that one in the clear is found on the wire."""

    def __init__(self, engine: Engine, directory: Path, secret: str) -> None:
        super().__init__(engine, directory, _ADDRESS)
        self.secret = secret
        self.logs: list[str] = []  # of gateways that are gone, and of those that stand
        self.magic = os.urandom(16).hex()

    # -- gateways ---------------------------------------------------------------------------------------------

    def keep_logs(self) -> None:
        """Of both gateways, as they are now: a container that is replaced takes its own along."""
        self.logs += [self.engine.logs(self.container(gateway)) for gateway in GATEWAYS]

    @staticmethod
    def readyz(gateway: str) -> bool:
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
        until(lambda: all(map(self.readyz, gateways)), f"{' and '.join(gateways)} ready")
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

    # -- the wire ---------------------------------------------------------------------------------------------

    def wire(self) -> AbstractContextManager[dict[str, Any]]:
        """Every frame on `peering` while the block runs; the capture's result is there afterwards."""
        return self.watched(tuple(OUTER.values()), MEMBERS, "--marker", self.magic)

    def encrypted(self) -> AbstractContextManager[dict[str, Any]]:
        """The block's traffic passes `peering` as ESP, none in the clear, no nonce twice; fills in the figures."""
        return esp_alone(self.wire())

    # -- load -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def load(self, seconds: int) -> Iterator[list[Felt]]:
        """TCP streams both ways and numbered probes for `seconds`, in the midst of which the block disturbs.

        The probes' flow is member 0's. What was felt is there when the block has ended.
        """
        felt: list[Felt] = []
        with ExitStack() as stack:
            port = probing.ports(self, MEMBERS)[0]
            flow = probing.probing(self, self._directory, [port], seconds, magic=self.magic, rate_hz=_PROBE_HZ)
            probes = stack.enter_context(flow)
            server = traffic.start_server(self, "client2", _LOAD_PORT)
            stack.enter_context(tools.ended(server))
            resets, start_s = traffic.tcp_resets(self), time.monotonic()
            client = traffic.start_client(
                self, "client1", self.address("client2"), streams=_LOAD_STREAMS, seconds=seconds, port=_LOAD_PORT,
                both=True, mbps=_LOAD_MBPS, interval_s=_LOAD_INTERVAL_S,
            )  # fmt: skip
            stack.enter_context(tools.ended(client))

            # All are on their way before the block begins; what ends by itself at the end is not counted.
            time.sleep(1.0)
            yield felt
            time.sleep(max(0.0, start_s + seconds - _RESETS_BEFORE_END_S - time.monotonic()))
            resets = traffic.tcp_resets(self) - resets
            streams = silence.read(tools.output(client))
            arrived = probes.came[port]
        felt.append(Felt(
            streams.count, streams.longest_silence_s, resets, arrived.longest_gap_ms, arrived.lost
        ))  # fmt: skip

    def udp(self, address: str, seconds: int = 2) -> tuple[float, float]:
        """iperf3's UDP from client1: Mbit/s that arrived, and per cent lost."""
        server = traffic.start_server(self, "client2", _LOAD_PORT)
        client = traffic.start_client(
            self, "client1", address, streams=1, seconds=seconds, port=_LOAD_PORT, mbps=_UDP_MBPS, udp=True
        )
        with tools.ended(server), tools.ended(client):
            return silence.read_udp(tools.output(client))

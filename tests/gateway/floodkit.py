"""Floods at a gateway's IKE port, and what a gateway must be like while one lasts."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gwkit import Json, Pair, ended, until

from fwd.lab import told

IKE_PORT, CLOSED_PORT = 500, 501
KEYD_MIB_MAX = 128
CONNECT_S = 5.0


@dataclass(frozen=True)
class Flood:
    """A kind of `fwd.lab.flood`. `at_peer`: it comes from the configured peer's address, else from anybody's."""

    kind: str
    per_s: int
    at_peer: bool
    octets: int = 0

    def __str__(self) -> str:
        size = f"-{self.octets}" if self.octets else ""
        return f"{self.kind}{size}-{'peer' if self.at_peer else 'anybody'}"


def of_100_mbps(octets: int, *, at_peer: bool) -> Flood:
    """Forged messages of this size that fill 100 Mbit/s."""
    return Flood("forged", 100_000_000 // 8 // octets, at_peer, octets)


FLOODS = (
    *(of_100_mbps(octets, at_peer=at_peer) for octets in (1400, 65000) for at_peer in (True, False)),
    Flood("junk", 20_000, True),
    Flood("junk", 20_000, False),
    Flood("stranger", 100, True),
)


@contextmanager
def flooded(pair: Pair, flood: Flood, seconds: float, port: int = IKE_PORT) -> Iterator[subprocess.Popen[Any]]:
    """Send the flood from gw2's host to gw1 while the block runs, but for no longer than `seconds`."""
    count = int(flood.per_s * seconds)
    argv = [sys.executable, "-P", "-m", "fwd.lab.flood", flood.kind, "--to", pair.topology.outer("gw1")]
    argv += ["--port", str(port), "--rate", str(flood.per_s), "--count", str(count)]
    argv += ["--octets", str(flood.octets)] if flood.octets else []
    argv += ["--sources", pair.topology.outer("gw2")] if flood.at_peer else []
    with ended(pair.topology.popen("gw2", argv, stdout=subprocess.PIPE)) as process:
        yield process


def peak_mib(pid: int) -> float:
    """The most memory that a process has had resident."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def restarts(status: Json) -> dict[str, int]:
    """The processes of a gateway that were started more than once."""
    return {name: row["restarts"] for name, row in told.processes(status).items() if row["restarts"]}


def time_to_connect(pair: Pair) -> float:
    """Start the far gateway anew; seconds until a ping passes once it takes connections."""
    pair.stop("gw2")
    pair.launch("gw2")
    until(lambda: pair.control("gw2").is_socket(), 20.0, "gw2's control socket")
    start_s = time.monotonic()
    until(pair.ping, 30.0, "a ping under the flood")
    return time.monotonic() - start_s

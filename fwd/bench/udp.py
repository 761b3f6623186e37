"""How many UDP datagrams a second a tunnel delivers at under 1 % loss, by bisection on the offered rate.

A probe offers one rate for a moment; what has not arrived soon after the last was sent (datagrams.GRACE_S) is lost, so
that no deep queue passes for speed. Rates are bisected on a logarithmic scale, and the answer is the most that a probe
delivered which passed. Four flows, whose source ports spread evenly over fwd's members, are the same for every peer.
Why not iperf3: its sender and its receiver each take most of a core at these rates.
"""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from fwd.bench.tunnels import ours
from fwd.lab import flows, tools
from fwd.lab.topology import Topology
from fwd.lab.world import LabError

LOSS_BELOW: Final = 0.01
FLOWS: Final = 4
START_PPS: Final = 20_000.0
_LOWEST_PPS = 500.0
_PORT = 7000
_SOURCE_PORTS = range(20000, 21000)
_UDP = 17
_QUIET_S = 0.03
_QUIET_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Delivery:
    """What became of one probe."""

    sent: int
    delivered: int
    seconds: float

    @property
    def passed(self) -> bool:
        return self.sent > 0 and self.sent - self.delivered < LOSS_BELOW * self.sent

    @property
    def delivered_pps(self) -> float:
        return self.delivered / self.seconds


def highest(probe: Callable[[float], Delivery], start_pps: float, factor: float, probes: int) -> float:
    """Search from `start_pps`, by `factor` until one probe has passed and one has not, then between the two.

    More probes than `probes` are made only while none has passed. Raises LabError if none does.
    """
    passed_pps, failed_pps, best_pps = 0.0, math.inf, 0.0
    rate_pps = start_pps
    while probes > 0 or not passed_pps:
        if rate_pps < _LOWEST_PPS:
            raise LabError(f"UDP: more than {LOSS_BELOW:.0%} lost even at {failed_pps:,.0f} packets/s")
        delivery = probe(rate_pps)
        probes -= 1
        if delivery.passed:
            passed_pps = max(passed_pps, rate_pps)
            best_pps = max(best_pps, delivery.delivered_pps)
        else:
            failed_pps = min(failed_pps, rate_pps)
        if math.isinf(failed_pps):
            rate_pps = passed_pps * factor
        elif passed_pps:
            rate_pps = math.sqrt(passed_pps * failed_pps)
        else:
            rate_pps = failed_pps / factor
    return best_pps


@contextlib.contextmanager
def load(topology: Topology, payload_bytes: int, seconds: float) -> Iterator[Callable[[float], Delivery]]:
    """Sender and sink stand; what it yields makes one probe at a rate."""
    with ExitStack() as stack:
        sink = stack.enter_context(_talking(topology, "client2", ["sink", "--port", str(_PORT)]))
        ports = source_ports(topology)
        argv = ["send", "--to", topology.address("client2"), "--port", str(_PORT)]
        argv += ["--from-port", f"{ports[0]}-{ports[-1]}", "--bytes", str(payload_bytes)]
        sender = stack.enter_context(_talking(topology, "client1", argv))

        def probe(rate_pps: float) -> Delivery:
            before = _when_quiet(sink)
            sent, took_s = _ask(sender, f"{rate_pps:g} {seconds:g}").split()
            return Delivery(int(sent), int(_ask(sink, "")) - before, float(took_s))

        yield probe


def source_ports(topology: Topology) -> range:
    """Successive ports whose flows spread evenly over fwd's members."""
    member = flows.between_clients(topology, ours.MEMBERS, _PORT, _UDP)
    first = flows.evenest_run(member, ours.MEMBERS, FLOWS, _SOURCE_PORTS)
    return range(first, first + FLOWS)


@contextlib.contextmanager
def _talking(topology: Topology, host: str, words: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-P", "-m", "fwd.bench.datagrams", *words]
    process = topology.popen(host, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    with tools.ended(process):
        if _read(process) != "ready":
            raise LabError(f"{host}: the UDP {words[0]} did not start")
        yield process


def _ask(process: subprocess.Popen[str], line: str) -> str:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    return _read(process)


def _read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _when_quiet(sink: subprocess.Popen[str]) -> int:
    """The sink's count once nothing arrives any more from the probe before."""
    deadline_s = time.monotonic() + _QUIET_TIMEOUT_S
    before, now = -1, int(_ask(sink, ""))
    while now != before:
        if time.monotonic() > deadline_s:
            raise LabError(f"UDP: datagrams still arrive {_QUIET_TIMEOUT_S:.0f} s after the last was sent")
        time.sleep(_QUIET_S)
        before, now = now, int(_ask(sink, ""))
    return now

"""TCP load through the lab with iperf3, and the resets that its hosts count.

The server takes one test and ends. A stream's source port is the first one plus its number, so that the caller
chooses the flows. Resets come from the hosts' own counters (RFC 4022: tcpEstabResets, tcpOutRsts): read them
before the streams end, since iperf3 may close its connections with a reset itself.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fwd.lab import flows
from fwd.lab.hosts import Hosts
from fwd.lab.topology import Topology
from fwd.lab.waiting import Daemon, until
from fwd.lab.world import LabError

SERVER_PORT = 5201
_LISTEN_TIMEOUT_S = 5.0
# Each test has other source ports than those of the last minute, which the kernel keeps for what may come late.
_SOURCE_PORTS = itertools.cycle([range(first, first + 400) for first in range(22000, 32000, 400)])
_TCP = 6


@dataclass(frozen=True)
class TcpResult:
    """What iperf3 says of a run, all streams together."""

    received_mbps: float
    retransmits: int
    streams: int


def require_iperf3() -> None:
    if shutil.which("iperf3") is None:
        raise LabError("the command iperf3 is missing: install iperf3")


def start_server(topology: Hosts, host: str, port: int = SERVER_PORT) -> subprocess.Popen[Any]:
    """An iperf3 server that listens when this returns, and ends after one test."""
    argv = ["iperf3", "-s", "-1", "-p", str(port)]
    server = topology.popen(host, argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    listening = ["ss", "-Hltn", f"sport = :{port}"]
    daemon = Daemon.of(f"{host}'s iperf3", server, Path(os.devnull))
    try:
        until(lambda: topology.run(host, listening).stdout, f"it listens on port {port}", _LISTEN_TIMEOUT_S, [daemon])
    except BaseException:
        server.kill()
        server.wait()
        raise
    return server


def start_client(
    topology: Hosts,
    host: str,
    address: str,
    *,
    streams: int,
    seconds: float,
    port: int = SERVER_PORT,
    first_source_port: int | None = None,
    reverse: bool = False,
    both: bool = False,
    mbps: float | None = None,
    block_bytes: int | None = None,
    udp: bool = False,
    interval_s: float | None = None,
    octets: int | None = None,
) -> subprocess.Popen[str]:
    """An iperf3 client on its way; give what it prints to `parse`. With `both`, as many streams each way at once.

    `mbps` paces each stream, by blocks of 128 KiB if `block_bytes` says no other: seconds may be between two of them.
    `interval_s`: how often it notes what has passed; `octets`: it ends after so many, however long they take. Else it
    runs for whole seconds, as iperf3 knows no others and takes 0 for ever.
    """
    argv = ["iperf3", "-J", "-c", address, "-p", str(port), "-P", str(streams), "--connect-timeout", "3000"]
    argv += ["-t", str(math.ceil(seconds))] if octets is None else ["-n", str(octets)]
    argv += ["--cport", str(first_source_port)] if first_source_port is not None else []
    argv += ["-R"] if reverse else []
    argv += ["--bidir"] if both else []
    argv += ["-b", f"{mbps}M"] if mbps is not None else []
    argv += ["-l", str(block_bytes)] if block_bytes is not None else []
    argv += ["-u"] if udp else []
    argv += ["-i", f"{interval_s:g}"] if interval_s is not None else []
    client: subprocess.Popen[str] = topology.popen(
        host, argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    return client


def start_even(
    topology: Topology, *, members: int, streams: int, seconds: float, port: int = SERVER_PORT
) -> subprocess.Popen[str]:
    """A client1 → client2 test on its way whose streams spread evenly over the members of gw1."""
    first = flows.evenest_run(
        flows.between_clients(topology, members, port, _TCP), members, streams, next(_SOURCE_PORTS)
    )
    to = topology.address("client2")
    return start_client(topology, "client1", to, streams=streams, seconds=seconds, port=port, first_source_port=first)


def report(output: str) -> dict[str, Any]:
    """What `iperf3 -J` has printed. Raises LabError with iperf3's own reason if it failed."""
    try:
        printed: dict[str, Any] = json.loads(output)
    except json.JSONDecodeError:
        raise LabError("iperf3 gave no result") from None
    if "error" in printed:
        raise LabError(f"iperf3: {printed['error']}")
    return printed


def parse(output: str) -> TcpResult:
    """The sums of `iperf3 -J`, of both ways if it went both. Raises LabError with iperf3's own reason if it failed."""
    end = report(output)["end"]
    ways = ("", "_bidir_reverse")
    received, sent = ([end.get(f"sum_{which}{way}", {}) for way in ways] for which in ("received", "sent"))
    return TcpResult(
        received_mbps=sum(way.get("bits_per_second", 0.0) for way in received) / 1e6,
        retransmits=sum(way.get("retransmits", 0) for way in sent),
        streams=len(end["streams"]),
    )


def run(
    topology: Hosts,
    *,
    streams: int,
    seconds: float,
    reverse: bool = False,
    both: bool = False,
    address: str | None = None,
    octets: int | None = None,
) -> TcpResult:
    """TCP from client1 to client2 (or back, or both ways at once) to its end; with `octets`, `seconds` at most."""
    require_iperf3()
    server = start_server(topology, "client2")
    client = start_client(
        topology,
        "client1",
        address or topology.address("client2"),
        streams=streams,
        seconds=seconds,
        reverse=reverse,
        both=both,
        octets=octets,
    )

    # Whatever happens, neither stays.
    with server, client:
        try:
            output, _ = client.communicate(timeout=seconds + 15)
        except subprocess.TimeoutExpired:
            raise LabError(f"iperf3 did not end within {seconds + 15:.0f} s") from None
        finally:
            server.kill()
            client.kill()
    return parse(output)


def tcp_resets(topology: Hosts, hosts: Iterable[str] = ("client1", "client2")) -> int:
    """Connections reset and resets sent so far, over all these hosts."""
    return sum(resets_in(topology.run(host, ["cat", "/proc/net/snmp"]).stdout) for host in hosts)


def connections_reset(topology: Hosts, hosts: Iterable[str] = ("client1", "client2")) -> int:
    """Established connections reset so far, over all these hosts; without what answers a late copy of a last segment.

    A host that repeats its FIN while the answer is under way gets a reset for a connection that both have closed.
    """
    return sum(counters_in(topology.run(host, ["cat", "/proc/net/snmp"]).stdout)["EstabResets"] for host in hosts)


def resets_in(snmp: str) -> int:
    """EstabResets + OutRsts of a /proc/net/snmp."""
    counters = counters_in(snmp)
    return counters["EstabResets"] + counters["OutRsts"]


def counters_in(snmp: str, protocol: str = "Tcp") -> dict[str, int]:
    """A protocol's counters of a /proc/net/snmp."""
    names, values = (line.split()[1:] for line in snmp.splitlines() if line.startswith(f"{protocol}:"))
    return dict(zip(names, map(int, values), strict=True))

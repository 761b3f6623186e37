"""TCP load through the lab with iperf3, and the resets that its hosts count.

The server takes one test and ends. A stream's source port is the first one plus its number, so that the caller
chooses the flows. Resets come from the hosts' own counters (RFC 4022: tcpEstabResets, tcpOutRsts): read them
before the streams end, since iperf3 may close its connections with a reset itself.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fwd.lab.topology import LabError, Topology

SERVER_PORT = 5201
_LISTEN_TIMEOUT_S = 5.0
_POLL_S = 0.02


@dataclass(frozen=True)
class TcpResult:
    """What iperf3 says of a run, all streams together."""

    received_mbps: float
    retransmits: int
    streams: int


def require_iperf3() -> None:
    if shutil.which("iperf3") is None:
        raise LabError("the command iperf3 is missing: install iperf3")


def start_server(topology: Topology, host: str, port: int = SERVER_PORT) -> subprocess.Popen[Any]:
    """An iperf3 server that listens when this returns, and ends after one test."""
    argv = ["iperf3", "-s", "-1", "-p", str(port)]
    server = topology.popen(host, argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + _LISTEN_TIMEOUT_S
    while not topology.run(host, ["ss", "-Hltn", f"sport = :{port}"]).stdout:
        if server.poll() is not None or time.monotonic() > deadline_s:
            server.kill()
            server.wait()
            raise LabError(f"{host}: iperf3 does not listen on port {port}")
        time.sleep(_POLL_S)
    return server


def start_client(
    topology: Topology,
    host: str,
    address: str,
    *,
    streams: int,
    seconds: float,
    port: int = SERVER_PORT,
    first_source_port: int | None = None,
    reverse: bool = False,
) -> subprocess.Popen[str]:
    """An iperf3 client on its way; give what it prints to `parse`."""
    argv = ["iperf3", "-J", "-c", address, "-p", str(port), "-P", str(streams), "-t", f"{seconds:g}"]
    argv += ["--connect-timeout", "3000"]
    argv += ["--cport", str(first_source_port)] if first_source_port is not None else []
    argv += ["-R"] if reverse else []
    client: subprocess.Popen[str] = topology.popen(
        host, argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    return client


def parse(output: str) -> TcpResult:
    """The sums of `iperf3 -J`. Raises LabError with iperf3's own reason if the run failed."""
    try:
        report = json.loads(output)
    except json.JSONDecodeError:
        raise LabError("iperf3 gave no result") from None
    if "error" in report:
        raise LabError(f"iperf3: {report['error']}")
    end = report["end"]
    return TcpResult(
        received_mbps=end["sum_received"]["bits_per_second"] / 1e6,
        retransmits=end["sum_sent"].get("retransmits", 0),
        streams=len(end["streams"]),
    )


def run(
    topology: Topology, *, streams: int, seconds: float, reverse: bool = False, address: str | None = None
) -> TcpResult:
    """TCP from client1 to client2 (or back) to its end."""
    require_iperf3()
    server = start_server(topology, "client2")
    client = start_client(
        topology,
        "client1",
        address or topology.address("client2"),
        streams=streams,
        seconds=seconds,
        reverse=reverse,
    )
    with server, client:
        try:
            output, _ = client.communicate(timeout=seconds + 15)
        except subprocess.TimeoutExpired:
            raise LabError(f"iperf3 did not end within {seconds + 15:.0f} s") from None
        finally:
            server.kill()
            client.kill()
    return parse(output)


def tcp_resets(topology: Topology, hosts: Iterable[str] = ("client1", "client2")) -> int:
    """Connections reset and resets sent so far, over all these hosts."""
    return sum(resets_in(topology.run(host, ["cat", "/proc/net/snmp"]).stdout) for host in hosts)


def resets_in(snmp: str) -> int:
    """EstabResets + OutRsts of a /proc/net/snmp."""
    names, values = (line.split()[1:] for line in snmp.splitlines() if line.startswith("Tcp:"))
    counters = dict(zip(names, map(int, values), strict=True))
    return counters["EstabResets"] + counters["OutRsts"]

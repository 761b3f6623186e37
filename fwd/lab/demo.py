"""The main job, shown: TCP over N encrypted members, one of them killed half way, every packet on the wire seen.

Two phases with the same load and probes: a quiet one, for the noise of the machine, and one in which a member
of gw1 dies by SIGKILL. A capture on gw1's WAN runs all the while. The result goes to a JSON file; the exit
status is 0 only if `fwd.lab.verdict` finds no fault. The lab is its own and always taken down.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fwd.lab import gateways, probe, probing, tools, traffic, verdict, wire
from fwd.lab.topology import GATEWAYS, Topology, why_not
from fwd.lab.view import Reading, View
from fwd.lab.waiting import until
from fwd.lab.world import LabError
from fwd.model.config import MEMBERS_MAX

ESP_PORT = 4500  # member i uses ESP_PORT + i
VICTIM = 0
_READING_EVERY_S = 0.25
_RESETS_BEFORE_END_S = 1.0
_READING_S_MAX = 2.0  # a gateway that is asked may take so long
_PING_WAIT_S = 0.02
_FIRST_PACKET_S_MAX = 10.0


@dataclass(frozen=True)
class Phase:
    """What one phase showed; probes by source port."""

    tcp: traffic.TcpResult
    probes: Mapping[int, probe.Arrived]
    tcp_resets: int


class _Demo:
    """The demo's parts on a lab that is up."""

    def __init__(self, topology: Topology, members: int, streams: int, view: View) -> None:
        self.topology, self.members, self.streams, self.view = topology, members, streams, view
        self.magic = os.urandom(16).hex()
        self.probe_port = probing.ports(topology, members)[VICTIM]

    def capture(self) -> AbstractContextManager[dict[str, Any]]:
        """Watch gw1's WAN while a block runs."""
        outer = [self.topology.outer(host) for host in GATEWAYS]
        options = ["--ports", f"{ESP_PORT}-{ESP_PORT + self.members - 1}", "--marker", self.magic]
        return wire.watched(self.topology, "gw1", self.topology.run_dir, outer, *options)

    def phase(self, title: str, seconds: float, server_port: int, kill: bool) -> Phase:
        """Load and probes for `seconds`; half way a member dies, if `kill`."""
        self.view.phase = title
        with ExitStack() as stack:
            flow = probing.probing(
                self.topology, self.topology.run_dir, [self.probe_port], seconds, magic=self.magic
            )  # fmt: skip
            probes = stack.enter_context(flow)
            server = traffic.start_server(self.topology, "client2", server_port)
            stack.enter_context(tools.ended(server))
            resets = traffic.tcp_resets(self.topology)
            client = traffic.start_even(
                self.topology, members=self.members, streams=self.streams, seconds=seconds, port=server_port
            )
            stack.enter_context(tools.ended(client))

            # Load runs by itself; a member is killed half way.
            self._watch(seconds, kill)
            resets = traffic.tcp_resets(self.topology) - resets
            tcp = traffic.parse(tools.output(client))
            came = probes.came
        return Phase(tcp, came, resets)

    def _watch(self, seconds: float, kill: bool) -> None:
        """Show readings, return shortly before the streams end; in the middle, kill."""
        start_s = time.monotonic()
        end_s = seconds - _RESETS_BEFORE_END_S
        while (elapsed_s := time.monotonic() - start_s) < (end_s if kill else end_s - _READING_S_MAX):
            status = gateways.status(self.topology, "gw1")
            if status is not None:
                self.view.show(Reading.of(status, time.monotonic()))
                if kill and elapsed_s >= seconds / 2:
                    self._kill(status)
                    kill = False
            time.sleep(_READING_EVERY_S)
        if kill:
            raise LabError("gw1 told no status while the streams ran: no member could be killed")
        time.sleep(max(0.0, start_s + end_s - time.monotonic()))

    def _kill(self, status: Mapping[str, Any]) -> None:
        pid = status["peerings"][0]["members"][VICTIM]["pid"]
        if not isinstance(pid, int) or pid <= 1:
            raise LabError(f"gw1 has no process for member {VICTIM}")
        os.kill(pid, signal.SIGKILL)
        self.view.say(f"killed member {VICTIM} of gw1, process {pid}")

    def ledgers(self) -> list[list[Mapping[str, Any]]]:
        """What each gateway's members say of the numbers they have used."""
        found = []
        for host in GATEWAYS:
            status = gateways.status(self.topology, host)
            if status is None:
                raise LabError(f"{host} tells no status: its ledgers cannot be read")
            found.append(status["peerings"][0]["members"])
        return found


def run_demo(
    topology: Topology,
    *,
    members: int = 4,
    streams: int = 8,
    seconds: float = 14.0,
    out: Path = Path("build/demo.json"),
    console: Console | None = None,
) -> int:
    """Run the demo for `seconds` with a kill, after half as long without; returns the exit status."""
    console = console or Console()
    traffic.require_iperf3()
    if topology.exists():
        raise LabError(f"lab {topology.name} is up: the demo brings up its own; run `fwd lab down` first")
    out.unlink(missing_ok=True)

    # A lab of its own, loaded twice under one capture.
    with ExitStack() as stack:
        stack.callback(topology.down)
        topology.up()
        stack.callback(gateways.stop, topology)
        gateways.start(topology, members=members)
        first_packet_ms = _first_packet_ms(topology)
        view = stack.enter_context(View(console))
        demo = _Demo(topology, members, streams, view)
        with demo.capture() as captured:
            port = traffic.SERVER_PORT
            quiet = demo.phase("nobody is killed", seconds / 2, port, kill=False)
            killed = demo.phase("a member is killed", seconds, port + 1, kill=True)
        ledgers = demo.ledgers()

    # What came of it, as figures and as a verdict.
    result = verdict.summary(
        first_packet_ms=first_packet_ms,
        streams=killed.tcp.streams,
        tcp_mbps=killed.tcp.received_mbps,
        ports=range(ESP_PORT, ESP_PORT + members),
        capture=captured,
        quiet=quiet.probes,
        killed=killed.probes,
        victim_flow=demo.probe_port,
        tcp_resets=quiet.tcp_resets + killed.tcp_resets,
        ledgers=ledgers,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    return _report(console, result, captured, out)


def _first_packet_ms(topology: Topology) -> float:
    """From the second gateway's start until a packet has passed there and back; the first one's guards stand."""
    gateways.again(topology, "gw2")
    start_s = time.monotonic()
    until(lambda: topology.ping("-W", str(_PING_WAIT_S)), "a packet there and back", _FIRST_PACKET_S_MAX)
    passed_s = time.monotonic()
    gateways.wait_ready(topology)
    return round((passed_s - start_s) * 1000, 1)


def _report(console: Console, result: Mapping[str, Any], captured: Mapping[str, Any], out: Path) -> int:
    table = Table(title="fwd demo", title_justify="left", show_header=False)
    for name, value in result.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int | float) else str(value))
    console.print(table)
    console.print(f"{captured['esp_packets']:,} ESP packets seen on the wire; result in {out}", highlight=False)
    faults = verdict.failures(result)
    for fault in faults:
        console.print(f"[red]failed:[/red] {fault}", highlight=False)
    for example in captured["plaintext_examples"]:
        console.print(f"plaintext frame: {example}", highlight=False)
    if not faults:
        console.print("[green]all as it must be[/green]")
    return 1 if faults else 0


def demo_command(
    members: Annotated[int, typer.Option(min=1, max=MEMBERS_MAX, help="Tunnels between the gateways.")] = 4,
    streams: Annotated[int, typer.Option(min=1, max=64, help="TCP streams.")] = 8,
    seconds: Annotated[float, typer.Option(min=4, max=600, help="Length of the phase with the kill.")] = 14,
    out: Annotated[Path, typer.Option(help="Where the result goes, as JSON.")] = Path("build/demo.json"),
    name: Annotated[str, typer.Option("--name", help="Name of the demo's own lab.")] = "fwd-demo",
) -> None:
    """Join two VPCs, load the tunnels, kill a member, and show that nothing leaked or broke."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if reason := why_not():
            raise LabError(reason)
        status = run_demo(Topology(name), members=members, streams=streams, seconds=seconds, out=out)
    except LabError as error:
        typer.echo(f"fwd lab: {error}", err=True)
        raise typer.Exit(2) from None
    except OSError as error:
        typer.echo(f"fwd lab: {error.filename or 'demo'}: {error.strerror}", err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(status)

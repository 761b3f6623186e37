"""`fwd lab`: bring the lab up, look at it, run commands in it, take it down.

Everything that a user can get wrong ends in one line on stderr and exit status 2.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fwd.lab import certificates, charon, gateways, traffic
from fwd.lab import interop as scenarios
from fwd.lab.demo import demo_command
from fwd.lab.fleet import quickstart as quickstarting
from fwd.lab.fleet.lab import Lab
from fwd.lab.fleet.plan import ROUTERS_MAX, Fleet
from fwd.lab.testbed import run as testbed_run
from fwd.lab.topology import Topology, why_not
from fwd.lab.world import SITE_GATEWAYS_MAX, LabError
from fwd.model.config import MEMBERS_MAX
from fwd.model.words import Payload

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Two VPCs in network namespaces, joined by fwd; needs root."
)
app.command("demo")(demo_command)

Name = Annotated[str, typer.Option("--name", help="Name of the lab; its namespaces are NAME-gw1 and so on.")]


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn what cannot be done, be it for the lab or for this machine, into one line and exit status 2."""
    try:
        if reason := why_not():
            raise LabError(reason)
        yield
    except LabError as error:
        typer.echo(f"fwd lab: {error}", err=True)
        raise typer.Exit(2) from None


@app.command()
def up(
    count: Annotated[
        int, typer.Option("--gateways", min=1, max=SITE_GATEWAYS_MAX, help="Gateways of each VPC, paired one to one.")
    ] = 1,
    members: Annotated[int, typer.Option(min=1, max=MEMBERS_MAX, help="Tunnels between two gateways.")] = 4,
    payload: Annotated[Payload, typer.Option(help="What the tunnels carry.")] = "superpacket",
    ipv6: Annotated[bool, typer.Option("--ipv6", help="Run the tunnels over IPv6.")] = False,
    controller: Annotated[
        bool, typer.Option("--controller", help="With a controller, which all gateways have joined, and routers.")
    ] = False,
    routers: Annotated[int, typer.Option(min=1, max=ROUTERS_MAX, help="Of each VPC, with --controller.")] = 1,
    name: Name = "fwd",
) -> None:
    """Bring the namespaces and the gateways up. A second time it does nothing."""
    with clear_errors():
        if controller:
            _up_with_controller(Fleet(name, sites={"vpc1": count, "vpc2": count}, routers=routers))
            return
        topology = Topology(name=name, ipv6=ipv6, sites={"vpc1": count, "vpc2": count}, spread=count > 1)
        fresh = not topology.exists()
        topology.up()
        try:
            gateways.start(topology, members, payload)
        except BaseException:
            if fresh:
                topology.down()
            raise
        option = "" if name == "fwd" else f"--name {name} "
        command = f"fwd lab exec {option}client1 -- ping {topology.address('client2')}"
        typer.echo(f"lab {name} is up: try `{command}`")


@app.command()
def down(name: Name = "fwd") -> None:
    """Stop the gateways and remove everything the lab made. Fine if there is nothing."""
    with clear_errors():
        topology = Topology.load(name) or Topology(name)
        Lab(Fleet(name)).stop()
        gateways.stop(topology)
        topology.down()


@app.command("exec", context_settings={"allow_interspersed_args": False})
def exec_(
    host: Annotated[str, typer.Argument(help="client1, gw1, gw2, client2, and so on.")],
    command: Annotated[list[str], typer.Argument(metavar="-- CMD...", help="The command and its arguments.")],
    name: Name = "fwd",
) -> None:
    """Run a command on a host of the lab; its exit status is this command's."""
    with clear_errors():
        namespace = _standing(name).ns(host)
        # Only what follows HOST is the command's own, so the parser leaves the dashes to us.
        argv = command[1:] if command[0] == "--" else command
        if not argv:
            raise LabError("exec: no command given: fwd lab exec HOST -- CMD")
        if shutil.which(argv[0]) is None:
            raise LabError(f"exec: {argv[0]}: no such command")
        os.execvp("ip", ["ip", "netns", "exec", namespace, *argv])


@app.command()
def interop(
    only: Annotated[str, typer.Argument(metavar="[WORDS]", help="Only scenarios with these words in their name.")] = "",
    out: Annotated[Path, typer.Option(help="Where the rows go, as JSON.")] = Path("build/interop.json"),
) -> None:
    """fwd and strongSwan as each other's peers: every scenario in a lab of its own. Exit status 1 if one fails."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with clear_errors():
        charon.require()
        certificates.require()
        traffic.require_iperf3()
        rows = []
        for row in scenarios.run(out, only):
            rows.append(row)
            _show(row)
        typer.echo(f"{len(rows)} scenarios, {_failed(rows)} failed; {out}")
    if _failed(rows):
        raise typer.Exit(1)


@app.command("testbed")
def containers(
    only: Annotated[str, typer.Argument(metavar="[WORDS]", help="Only scenarios with these words in their name.")] = "",
    base: Annotated[str, typer.Option(help="The images' base, with Debian 12 and Python.")] = testbed_run.BASE,
    build_only: Annotated[bool, typer.Option("--build-only", help="Build the images, and no more.")] = False,
    out: Annotated[Path, typer.Option(help="Where the rows go, as JSON.")] = Path("build/testbed.json"),
) -> None:
    """docker/compose.yml brought up, put through every scenario, taken down. Exit status 1 if one fails."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with clear_errors():
        if build_only:
            rows = [testbed_run.build(testbed_run.engine(Path("/dev/null")), base)]
            _show(rows[0])
        else:
            traffic.require_iperf3()
            rows = []
            for row in testbed_run.run(out, base, only):
                rows.append(row)
                _show(row)
            images = ", ".join(testbed_run.IMAGES)
            typer.echo(f"{len(rows)} scenarios, {_failed(rows)} failed; {out}; the images stay: {images}")
    if _failed(rows):
        raise typer.Exit(1)


@app.command()
def status(name: Name = "fwd") -> None:
    """Show the hosts, their addresses, and the gateways' processes."""
    with clear_errors():
        topology = _standing(name)
        running = gateways.alive(topology)
        started = gateways.parameters(topology)
        what = f", {started['members']} members, {started['payload']}" if started else ""
        if isinstance(topology, Fleet):
            running = {host: process for host, process in Lab(topology).running.items() if process.alive()}
        table = Table(title=f"lab {name}{what}", title_justify="left")
        for heading in ("host", "IPv4", "IPv6", "fwd", "ready"):
            table.add_column(heading)
        for host in topology.hosts:
            pid = str(running[host].pid) if host in running else "not running"
            answer = gateways.status(topology, host) if host in running and host in topology.gateways else None
            ready = "yes" if answer and answer["ready"] else "no"
            last = (pid, ready) if host in topology.gateways else (pid if host in running else "", "")
            addresses = (" ".join(topology.addresses(host, version)) for version in (4, 6))
            table.add_row(host, *addresses, *last)
        Console().print(table)


@app.command()
def quickstart(
    count: Annotated[int, typer.Option("--gateways", min=1, max=SITE_GATEWAYS_MAX, help="Of each VPC.")] = 3,
    out: Annotated[Path, typer.Option(help="Where addresses and times go, as JSON.")] = Path("build/quickstart.json"),
    name: Name = "fwd",
) -> None:
    """A controller, two clusters peered through its API, traffic over all pairs. It stays up: `fwd lab down`."""
    with clear_errors():
        lab = Lab(Fleet(name, sites={"vpc1": count, "vpc2": count}))
        if lab.fleet.exists():
            raise LabError(f"lab {name} is up: take it down first")
        with _undone(lab):
            found = quickstarting.run(lab, out, typer.echo)
    for line in (
        f"controller   {found['controller']}   (CA: {found['ca']})",
        *quickstarting.to_look(found["controller"], Path(found["viewer_token_file"])),
        f"as admin     FWD_CLIENT={found['client_file']} fwd gateway list",
        f"end it       fwd lab down{'' if name == 'fwd' else f' --name {name}'}",
    ):
        typer.echo(line)


def _up_with_controller(fleet: Fleet) -> None:
    """Bring a fleet up, its gateways in no cluster yet; nothing if it is up."""
    lab = Lab(fleet)
    if not fleet.exists():
        with _undone(lab):
            fleet.up()
            lab.up()
    fleet.up()  # refuses one with other parameters
    typer.echo(f"lab {fleet.name} is up: try `FWD_CLIENT={lab.directory / 'client.toml'} fwd gateway list`")
    for line in quickstarting.to_look(lab.url, quickstarting.viewer_token(lab)):
        typer.echo(line)


@contextmanager
def _undone(lab: Lab) -> Iterator[None]:
    """Take a lab down again that does not come up."""
    try:
        yield
    except BaseException:
        lab.down()
        raise


def _show(row: Mapping[str, Any]) -> None:
    """A scenario's row, as it ends."""
    state = "[green]ok[/green]    " if row["passed"] else "[red]failed[/red]"
    name = f"{row['name']}, {row['initiator']} begins" if "initiator" in row else row["name"]
    reason = row.get("reason") or ", ".join(f"{word} {value}" for word, value in row["figures"].items())
    Console().print(f"{state} {name}: {reason}", highlight=False, soft_wrap=True)


def _failed(rows: Sequence[Mapping[str, Any]]) -> int:
    return sum(not row["passed"] for row in rows)


def _standing(name: str) -> Topology:
    topology = Topology.load(name)
    if topology is None:
        raise LabError(f"lab {name} is not up: run `fwd lab up` first")
    return topology

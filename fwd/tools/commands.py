"""The tools on the command line. Each imports what it needs when it runs: `fwd` reads this at each start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fwd.router.client import CONTROL as ROUTER_CONTROL
from fwd.tools.graph import Format

CONTROL = Path("/run/fwd/fwd.sock")

_Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


def show(json_: _Json = False) -> None:
    """Show the whole fleet at one look: VPCs, clusters, hosts and how they are, peerings, pairs. Of a controller."""
    from fwd.tools import show

    show.run(as_json=json_)


def graph(
    format: Annotated[Format, typer.Option("--format", help="How the graph is written.")] = Format.MERMAID,
) -> None:
    """Write the fleet as text of a graph, of which Mermaid or Graphviz (dot) makes a picture. Of a controller."""
    from fwd.tools.fleet import fetch
    from fwd.tools.graph import graph_of, text_of

    typer.echo(text_of(graph_of(fetch()), format), nl=False)


def path(
    source: Annotated[str, typer.Option("--from", metavar="ADDRESS", help="Where the flow begins.")],
    destination: Annotated[str, typer.Option("--to", metavar="ADDRESS", help="Where it goes.")],
    proto: Annotated[str, typer.Option(metavar="PROTO", help="tcp, udp or icmp.")] = "tcp",
    sport: Annotated[int | None, typer.Option(metavar="N", help="Its source port, of tcp and udp.")] = None,
    dport: Annotated[int | None, typer.Option(metavar="N", help="Its destination port, of tcp and udp.")] = None,
    json_: _Json = False,
    control: Annotated[Path, typer.Option(metavar="PATH", help="A gateway's control socket.")] = CONTROL,
    router_control: Annotated[Path, typer.Option(metavar="PATH", help="A router's socket.")] = ROUTER_CONTROL,
) -> int:
    """Say which way a flow goes through this host and back: slot and gateway on a router, member and SA on a gateway.

    As root. Elsewhere the controller tells by what it can go. Exit status 0 if nothing breaks it, 1 if something does.
    """
    from fwd.model.trace import flow_of
    from fwd.tools import path

    flow = flow_of(source, destination, proto, sport, dport)
    text, status = path.run(flow, control, router_control, as_json=json_)
    typer.echo(text)
    return status


def gather(
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="The bundle; must not be there yet.")] = None,
    config: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A configuration; may be given again. Default: those in /etc/fwd."),
    ] = None,
    control: Annotated[Path, typer.Option(metavar="PATH", help="A gateway's control socket.")] = CONTROL,
    router_control: Annotated[Path, typer.Option(metavar="PATH", help="A router's socket.")] = ROUTER_CONTROL,
) -> None:
    """Put what is needed to look for a fault from afar into one file, tar.gz, and no secret with it. As root."""
    from fwd.tools import bundle

    typer.echo(bundle.run(output, config or [], control, router_control))


def verify(
    peering: Annotated[str, typer.Argument(metavar="[PEERING]", help="Of this one alone; default: of all.")] = "",
    json_: _Json = False,
    control: Annotated[Path, typer.Option(metavar="PATH", help="The gateway's control socket.")] = CONTROL,
) -> int:
    """Send packets over every pair of this gateway, on the SA of each member, and count what comes back. As root.

    Exit status 0 if all came back and the gateway is ready, 1 if not.
    """
    from fwd.tools import verify

    text, status = verify.run(control, peering, as_json=json_)
    typer.echo(text)
    return status


COMMANDS = (show, graph, path, verify, gather)

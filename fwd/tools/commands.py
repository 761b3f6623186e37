"""The tools on the command line. Each imports what it needs when it runs: `fwd` reads this at each start."""

from __future__ import annotations

from typing import Annotated

import typer

from fwd.tools.graph import Format

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


COMMANDS = (show, graph)

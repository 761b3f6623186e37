"""Commands of a host that is to be a controller's, as the command line has them (fwd/cli.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

JOINED = Path("/etc/fwd/controller")


def join(
    url: Annotated[str, typer.Argument(metavar="URL", help="The controller's, such as https://controller:8443.")],
    token_file: Annotated[Path, typer.Option(metavar="FILE", help="What `fwd token create` has shown; mode 0600.")],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What it is called there; default: this host's.")
    ] = None,
    inner: Annotated[
        list[str] | None, typer.Option(metavar="ADDR", help="Its address in the VPC; one a family.")
    ] = None,
    outer: Annotated[list[str] | None, typer.Option(metavar="ADDR", help="Its address outside.")] = None,
    members: Annotated[int | None, typer.Option(metavar="N", help="Members of each of its peerings.")] = None,
    directory: Annotated[Path, typer.Option(metavar="DIR", help="Where keys and certificates go.")] = JOINED,
    again: Annotated[bool, typer.Option("--again", help="Join anew, with other keys.")] = False,
) -> None:
    """Make this host a gateway of a controller's. As root; fwd.toml says what that may set (docs/joining.md)."""
    import socket

    from fwd.control import join as joining

    wish = joining.Wish(name or socket.gethostname().partition(".")[0].lower(), inner or (), outer or (), members)
    typer.echo(joining.join(url, token_file, wish, directory, again=again))

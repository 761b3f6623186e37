"""Commands of a host that is to be a controller's, as the command line has them (fwd/cli.py)."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

JOINED = Path("/etc/fwd/controller")


class HostKind(StrEnum):
    """What a host joins as."""

    GATEWAY = "gateway"
    ROUTER = "router"


def join(
    url: Annotated[str, typer.Argument(metavar="URL", help="The controller's, such as https://controller:8443.")],
    token_file: Annotated[Path, typer.Option(metavar="FILE", help="What `fwd token create` has shown; mode 0600.")],
    kind: Annotated[
        HostKind, typer.Option(help="What it joins as: `fwd demux` runs here, or `fwd router`.")
    ] = HostKind.GATEWAY,
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
    """Make this host a controller's. As root; fwd.toml, or router.toml, says what that may set (docs/joining.md)."""
    import socket

    from fwd.control import join as joining

    called = name or socket.gethostname().partition(".")[0].lower()
    host: Literal["gateway", "router"] = "router" if kind is HostKind.ROUTER else "gateway"
    wish = joining.Wish(called, inner or (), outer or (), members, host)
    typer.echo(joining.join(url, token_file, wish, directory, again=again))

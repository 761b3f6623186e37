"""Commands of a router, as the command line has them (fwd/cli.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fwd.router.client import CONTROL

CONFIG = Path("/etc/fwd/router.toml")
app = typer.Typer(help="Spread a VPC's flows over its gateways; without a command: do so until SIGTERM.")


@app.callback()
def router(
    context: typer.Context,
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="The configuration, TOML.")] = CONFIG,
) -> None:
    """Spread a VPC's flows over its gateways; without a command: do so until SIGTERM. Needs root."""
    if context.invoked_subcommand is None:
        from fwd.router import service

        service.run(config)


_Control = Annotated[Path, typer.Option("--control", metavar="PATH", help="The router's socket.")]


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The configuration, TOML.")],
) -> None:
    """Check a router's configuration file and its probe key; nothing else is touched."""
    from fwd.files import read_probe_key
    from fwd.model.router import load_router

    config = load_router(file)
    if config.controller is None:
        read_probe_key(config.probe_key)
    told = [f"{one.name} over {', '.join(hop.name for hop in one.gateway)}" for one in config.spread]
    told += [f"others as the controller says ({config.controller.directory})"] if config.controller else []
    typer.echo(f"{file}: OK: {'; '.join(told)}")


@app.command("status")
def status(control: _Control = CONTROL) -> None:
    """Show a running router as JSON: each spread's gateways, their share and what keeps one out."""
    import json

    from fwd.router.client import ask

    typer.echo(json.dumps(ask(control), indent=2))


@app.command("ready")
def ready(control: _Control = CONTROL) -> int:
    """Say whether the router can carry traffic: exit status 0, or 1 and why not. For keepalived's scripts."""
    from fwd.router.client import is_ready

    return int(not is_ready(control))


@app.command("clear")
def clear() -> None:
    """Take away the routes and next hops that a router has left in the kernel."""
    from fwd.router.service import clear

    clear()

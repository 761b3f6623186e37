"""`fwd controller` and its commands; what they need is imported when they run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

CONFIG = Path("/etc/fwd/controller.toml")
app = typer.Typer(help="Control a fleet of gateways and routers; without a command: until SIGTERM.")


class LogFormat(StrEnum):
    """How the log is written (fwd/supervise/loglines.py)."""

    TEXT = "text"
    JSON = "json"


_File = Annotated[Path, typer.Argument(metavar="FILE", help="The configuration, TOML.")]


@app.callback()
def controller(
    context: typer.Context,
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="The configuration, TOML.")] = CONFIG,
    log_format: Annotated[LogFormat, typer.Option(help="json: one object a line.")] = LogFormat.TEXT,
) -> None:
    """Control a fleet of gateways and routers; without a command: until SIGTERM. Needs no root."""
    if context.invoked_subcommand is None:
        from fwd.controller import service

        service.run(config, log_format.value)


@app.command()
def check(file: _File) -> None:
    """Check a controller's configuration file; nothing else is touched."""
    from fwd.controller.config import load

    config = load(file)
    typer.echo(f"{file}: OK: {config.controller.url}, store {config.store.kind}")


@app.command("rotate-ca")
def rotate_ca(file: _File = CONFIG) -> None:
    """Replace the CA, a step at a time: says what was done, and what comes next."""
    import time

    from fwd.controller.config import load
    from fwd.controller.rotate import ask_running, rotate

    about = load(file).controller
    typer.echo(rotate(about.state, time.time(), lambda: ask_running(about.url, about.state)))

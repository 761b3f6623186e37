"""The command line. Every error that a user can mend is one line on stderr and exit status 2.

Commands import what they need when they run: `fwd status` starts without NumPy and cryptography.
"""

from __future__ import annotations

import os
import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer

from fwd import __version__
from fwd.control.commands import join
from fwd.controller.commands import app as controller_app
from fwd.objects.kinds import KINDS
from fwd.proto.errors import UserError
from fwd.router.client import CONTROL as ROUTER_CONTROL
from fwd.router.commands import app as router_app
from fwd.tools import commands as tools
from fwd.tools.commands import CONTROL

CONFIG = Path("/etc/fwd/fwd.toml")

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A userspace, scale-out IPsec gateway.",
)
config_app = typer.Typer(no_args_is_help=True, help="Check a configuration, or see an example.")
app.add_typer(config_app, name="config")
keygen_app = typer.Typer(no_args_is_help=True, help="Make keys for IKEv2.")
app.add_typer(keygen_app, name="keygen")
app.add_typer(router_app, name="router", invoke_without_command=True)
app.add_typer(controller_app, name="controller", invoke_without_command=True)


class LogFormat(StrEnum):
    """How the log is written (fwd/supervise/loglines.py)."""

    TEXT = "text"
    JSON = "json"


_File = Annotated[Path, typer.Argument(metavar="FILE", help="The configuration, TOML.")]


def main() -> NoReturn:
    """Run the command line (fwd/__main__.py is the `fwd` script)."""
    sys.exit(_exit_status(sys.argv[1:]))


def _exit_status(args: list[str]) -> int:
    try:
        status = app(args, prog_name="fwd", standalone_mode=False)
        if sys.stdout is not None:  # closed by whoever has started it, as keepalived does
            sys.stdout.flush()
    except (UserError, typer.TyperException) as error:
        message = _told(error) if isinstance(error, typer.TyperException) else str(error)
        if message:  # empty: help was shown instead
            typer.echo(f"fwd: {' '.join(message.split())}", err=True)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        # The interpreter flushes once more on its way out; let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status if isinstance(status, int) else 0


_EXPECTED: Final = {"integer": "expected a whole number", "number": "expected a number"}


def _told(error: typer.TyperException) -> str:
    """Say what is wrong with a command line, and which help shows how it is right; empty: help was shown instead."""
    message, context = error.format_message(), getattr(error, "ctx", None)
    message = re.sub(r"Input should be a valid (integer|number).*", lambda one: _EXPECTED[one[1]], message)
    return f"{message.rstrip('.')}: see `{context.command_path} --help`" if message and context else message


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fwd {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def demux(
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="The configuration, TOML.")] = CONFIG,
    members: Annotated[int | None, typer.Option(metavar="N", help="Members of every peering.")] = None,
    no_offload: Annotated[bool, typer.Option("--no-offload", help="No segmentation offload.")] = False,
    save_keys: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="For debugging: write ALL KEYS, for Wireshark; mode 0600."),
    ] = None,
    log_format: Annotated[LogFormat, typer.Option(help="json: one object a line.")] = LogFormat.TEXT,
) -> int:
    """Run a gateway until SIGTERM or SIGINT; needs root. SIGHUP re-reads the configuration."""
    import signal

    # Until there is a handler, SIGHUP waits: by default it would end fwd, and what follows takes a second.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    from fwd.supervise import running

    return running.run(config, members, no_offload, save_keys, log_format.value)


@app.command()
def status(
    control: Annotated[Path, typer.Option(metavar="PATH", help="The gateway's control socket.")] = CONTROL,
    json_: Annotated[bool, typer.Option("--json", help="As JSON, one object with a versioned schema.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Again and again, until Ctrl-C.")] = False,
    drops: Annotated[bool, typer.Option("--drops", help="What was dropped, and what each reason means.")] = False,
) -> None:
    """Show a running gateway: peerings, members, traffic, drops."""
    if json_ and watch:
        raise UserError("--json and --watch do not go together: poll `fwd status --json` instead")
    if drops and (json_ or watch):
        raise UserError("--drops goes alone")
    if json_:
        import json

        typer.echo(json.dumps(_ask(control), indent=2))
        return
    from fwd.agent import render

    if watch:
        render.watch(lambda: _ask(control))
    else:
        render.show(render.drops(_ask(control)) if drops else render.render(_ask(control)))


def _ask(control: Path) -> dict[str, Any]:
    """The status of the gateway that listens there. Raises UserError."""
    from fwd.agent.client import ask

    return ask(control)


_Peering = Annotated[str, typer.Argument(metavar="PEERING", help="Its name in the configuration.")]
_Control = Annotated[Path, typer.Option(metavar="PATH", readable=False, help="The gateway's control socket.")]


@app.command()
def apply(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="The configuration, TOML.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, and change nothing.")] = False,
    confirm: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Go back after this time, such as 60s, unless `fwd confirm` comes."),
    ] = None,
    accept_shrink: Annotated[
        bool, typer.Option("--accept-shrink", help="No FILE: let pass what the controller wants and is held.")
    ] = False,
    control: _Control = CONTROL,
) -> None:
    """Put a configuration in force while traffic flows, and in the place of fwd's file; prints the plan. As root."""
    from fwd.control import apply as applies
    from fwd.model.words import DAY_S, seconds_in

    if accept_shrink:
        if file is not None or dry_run or confirm is not None:
            raise UserError("--accept-shrink goes alone: it is about the controller's document, and no file")
        typer.echo(applies.accept_shrink(control))
        return
    if file is None:
        raise UserError("Missing argument 'FILE'.")
    confirm_s = 0 if confirm is None else seconds_in(confirm, "--confirm", DAY_S)
    for line in applies.apply(control, file, dry_run=dry_run, confirm_s=confirm_s):
        typer.echo(line)


@app.command()
def confirm(control: _Control = CONTROL) -> None:
    """Keep what `fwd apply --confirm` has put in force. As root."""
    from fwd.control import apply as applies

    typer.echo(applies.confirm(control))


app.command()(join)


@app.command()
def rekey(peering: _Peering, control: _Control = CONTROL) -> None:
    """Replace every Child SA in use and the IKE SA of a peering, now; no packet is lost. As root."""
    from fwd.control import ike

    typer.echo(ike.rekey(control, peering))


@app.command()
def terminate(peering: _Peering, control: _Control = CONTROL) -> None:
    """End a peering's IKE SA and Child SAs, and so all its traffic, until `fwd initiate`. As root."""
    from fwd.control import ike

    typer.echo(ike.terminate(control, peering))


@app.command()
def initiate(peering: _Peering, control: _Control = CONTROL) -> None:
    """Begin a peering that was terminated, or waits for the far side (start_action none). As root."""
    from fwd.control import ike

    typer.echo(ike.initiate(control, peering))


@app.command()
def drain(control: _Control = CONTROL) -> None:
    """Show a gateway as not ready, here and to far gateways that are fwd; traffic goes on. As root."""
    from fwd.control import admin

    admin.tell(control, "drain")
    typer.echo("draining: the gateway is not ready until `fwd undrain`, or until fwd is restarted; traffic goes on")


@app.command()
def undrain(control: _Control = CONTROL) -> None:
    """End `fwd drain`. As root."""
    from fwd.control import admin

    admin.tell(control, "undrain")
    typer.echo("not draining any more")


@app.command()
def diagnose(
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="The configuration, TOML.")] = CONFIG,
    control: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The control socket; default: the configuration's.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="As JSON: findings, and what was not looked at.")] = False,
) -> int:
    """Look for what keeps a gateway from carrying, whether it runs or not: finding, evidence, remedy; as root.

    A router, too: --config /etc/fwd/router.toml, which is also the default where there is no fwd.toml.

    Exit status 0 if nothing is found, 1 if something is.
    """
    from fwd.tools import router_look

    if os.geteuid() != 0:
        raise UserError("fwd diagnose needs root: it looks at sockets, filters and secrets, and tries fwd's ports")
    text, status = router_look.diagnose(router_look.chosen(config, CONFIG), control, as_json=json_)
    typer.echo(text)
    return status


@config_app.command()
def check(
    file: _File,
    secrets: Annotated[
        bool, typer.Option("--secrets", help="Open and examine keys and certificates, too: as who runs fwd.")
    ] = False,
) -> int:
    """Check a configuration file; nothing is touched, and no secret is read but with --secrets."""
    from fwd.model.config import load

    config = load(file)
    peerings, faults = config.peering, 0
    if reason := _user_missing(config.gateway.user):
        faults += secrets
        typer.echo(f"fwd: {file}: {'' if secrets else 'warning: '}on this host, {reason}", err=True)
    if secrets:
        from fwd.files import why_no_probe_key
        from fwd.keyd.checkup import examine

        if config.gateway.probe_key is not None and (fault := why_no_probe_key(config.gateway.probe_key)):
            faults += 1
            typer.echo(f"fwd: {file}: gateway.probe_key: {fault}", err=True)
        for peering in peerings:
            for found in examine(peering):
                faults += found.fault
                typer.echo(f"fwd: {file}: {peering.name}: {'' if found.fault else 'warning: '}{found.text}", err=True)
    if not faults:
        typer.echo(f"{file}: OK: {', '.join(f'{p.name} with {p.members} members' for p in peerings)}")
    return 2 if faults else 0


def _user_missing(user: str | int | None) -> str:
    """Why no process can run as `gateway.user` on this host; empty if it can, or fwd finds users itself."""
    from fwd.supervise.users import find_users

    try:
        if user is not None:
            find_users(user)
    except UserError as error:
        return str(error)
    return ""


@config_app.command()
def example() -> None:
    """Print a configuration with comments, to start from."""
    from fwd.model.example import EXAMPLE

    typer.echo(EXAMPLE, nl=False)


@keygen_app.command()
def psk(file: Annotated[Path, typer.Argument(metavar="FILE", help="Where it goes; must not be there yet.")]) -> None:
    """A pre-shared key; bring a copy to the far gateway over a safe way."""
    from fwd.keyd import generate

    generate.write_psk(file)
    typer.echo(f"{file}: the same for both gateways, mode 0600")


@keygen_app.command()
def ca(
    directory: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="Where the files go.")],
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Identities: host names or addresses.")],
) -> None:
    """A small CA for trying certificates out, and one for each gateway; again: more of the same CA."""
    from fwd.keyd import generate

    for path in generate.write_authority(directory, names):
        typer.echo(str(path))


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False},
    add_help_option=False,
)
def lab(context: typer.Context) -> int:
    """Two VPCs in network namespaces, joined by fwd; needs root."""
    from fwd.lab.commands import app as lab_app

    status = lab_app(context.args, prog_name="fwd lab", standalone_mode=False)
    return status if isinstance(status, int) else 0


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False},
    add_help_option=False,
)
def bench(context: typer.Context) -> int:
    """Measure fwd beside its peers, and how it scales; needs root."""
    from fwd.bench.commands import app as bench_app

    status = bench_app(context.args, prog_name="fwd bench", standalone_mode=False)
    return status if isinstance(status, int) else 0


@router_app.command("accept-shrink")
def router_accept_shrink(
    control: Annotated[Path, typer.Option("--control", metavar="PATH", help="The router's socket.")] = ROUTER_CONTROL,
) -> None:
    """Let pass what the controller wants and is held, since it takes away too much. As root."""
    from fwd.control import apply as applies

    typer.echo(applies.accept_shrink(control))


@controller_app.command("status")
def controller_status(json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Show the controller that is asked: whether it leads, and which one does."""
    import json

    from fwd.objects.commands import ask
    from fwd.objects.values import lines_of

    found = ask("GET", "/v1/controller")
    typer.echo(json.dumps(found, indent=2) if json_ else "\n".join(lines_of(found)))


@controller_app.command("recover")
def controller_recover() -> None:
    """Have hosts take what the store says now, after an older one was put back: asked of the leading controller."""
    from fwd.objects.commands import ask

    typer.echo(f"operation {ask('POST', '/v1/recover')['operation']}")


def _add_objects(within: typer.Typer, name: str, *words: str) -> None:
    """The commands of a kind of objects, `words` and what follows: its own command line, made when it is used."""
    kind = words[0]

    @within.command(
        name,
        help=f"{name.capitalize()}: a controller's routers." if len(words) > 1 else KINDS[kind].help,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False},
        add_help_option=False,
    )
    def objects(context: typer.Context) -> int:
        from fwd.objects.commands import app_of

        arguments = [*words[1:], *context.args]
        status = app_of(kind)(arguments, prog_name=f"fwd {kind}", standalone_mode=False)
        return status if isinstance(status, int) else 0


# `fwd router` by itself is the router: what is done with those of a controller stands beside.
for _kind in KINDS:
    if _kind != "router":
        _add_objects(app, _kind, _kind)
for _verb in KINDS["router"].verbs:
    _add_objects(router_app, _verb, "router", _verb)

for _tool in tools.COMMANDS:
    app.command()(_tool)

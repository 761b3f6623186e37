"""The commands of a kind, made of its row in the table (kinds.py)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from fwd.files import create_private
from fwd.objects.kinds import KINDS, Kind
from fwd.objects.values import fields_in, lines_of, needs_object, table
from fwd.proto.errors import UserError

_RUNNING, _LOOK_S = "in progress", 1.0
_Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name.")]
_Fields = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Its fields.")]
_Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would come of it.")]
_IfMatch = Annotated[int | None, typer.Option("--revision", metavar="N", help="Only if it is still at this revision.")]
_Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Show how it goes on, until it ends.")]
_Output = Annotated[
    Path | None, typer.Option("--output", metavar="FILE", help="Write the token to a new file, mode 0600.")
]


def app_of(name: str) -> typer.Typer:
    """Make the command line of a kind."""
    kind = KINDS[name]
    keys = f" Keys: {', '.join(kind.fields)}." if kind.fields else ""
    app = typer.Typer(
        no_args_is_help=True, add_completion=False, help=kind.help + keys,
        context_settings={"help_option_names": ["-h", "--help"]},
    )  # fmt: skip
    app.callback()(_root)  # else one command alone would have no name
    for verb in kind.verbs:
        _ADDING[verb, name == "token"](app, name, kind)
    return app


def _root() -> None:
    """Do nothing: help and commands are the application's."""


def ask(method: str, path: str, body: Mapping[str, Any] | None = None, **how: Any) -> dict[str, Any]:
    """Ask the controller."""
    from fwd.objects.client import Client

    return Client().ask(method, path, body, **how)


def _path(kind: Kind, name: str | None = None, act: str = "") -> str:
    if name is not None and (name in ("", ".", "..") or "/" in name or not name.isascii()):
        raise UserError(f"{name!a}: not a name: expected small letters, digits and dashes")
    parts = [quote(one, safe="") for one in (name, act) if one]
    return "/".join(["/v1", kind.plural, *parts])


def _add_list(app: typer.Typer, name: str, kind: Kind) -> None:
    @app.command("list", help=f"List all {kind.plural}.")
    def list_all(json_: _Json = False) -> None:
        found = ask("GET", _path(kind))["items"]
        _show(found, json_, table(kind.columns, found))


def _add_show(app: typer.Typer, name: str, kind: Kind) -> None:
    @app.command("show", help=f"Show a {name}, and all that is known of it.")
    def show(name: _Name, json_: _Json = False) -> None:
        found = {key: value for key, value in ask("GET", _path(kind, name)).items() if key != "etag"}
        _show(found, json_, lines_of(found))


def _add_create(app: typer.Typer, name: str, kind: Kind) -> None:
    @app.command("create", help=f"Create a {name}. Keys: {', '.join(kind.fields)}.")
    def create(name: _Name, fields: _Fields = None, dry_run: _DryRun = False, json_: _Json = False) -> None:
        body = {"name": name, **fields_in(kind, fields or ())}
        _tell(ask("POST", _path(kind), body, params=_dry(dry_run)), json_)


def _add_set(app: typer.Typer, name: str, kind: Kind) -> None:
    @app.command("set", help=f"Change fields of a {name}: KEY=VALUE, and of lists KEY+=VALUE and KEY-=VALUE.")
    def set_fields(
        name: _Name, fields: _Fields = None, revision: _IfMatch = None, dry_run: _DryRun = False, json_: _Json = False
    ) -> None:
        words, tag, there = fields or [], _tag(revision), None
        if not words:
            raise UserError(f"nothing to set: expected KEY=VALUE, with one of the keys {', '.join(kind.fields)}")
        if needs_object(words):
            there = ask("GET", _path(kind, name))
            tag = tag or there["etag"]
        body = fields_in(kind, words, there)
        _tell(ask("PATCH", _path(kind, name), body, params=_dry(dry_run), if_match=tag), json_)


def _add_delete(app: typer.Typer, name: str, kind: Kind) -> None:
    @app.command("delete", help=f"Delete a {name}.")
    def delete(name: _Name, revision: _IfMatch = None, dry_run: _DryRun = False, json_: _Json = False) -> None:
        _tell(ask("DELETE", _path(kind, name), params=_dry(dry_run), if_match=_tag(revision)), json_)


def _add_drain(app: typer.Typer, name: str, kind: Kind) -> None:
    _add_act(app, name, kind, "drain", f"Take a {name} out of service: its flows go on as they are, new ones do not.")


def _add_undrain(app: typer.Typer, name: str, kind: Kind) -> None:
    _add_act(app, name, kind, "undrain", f"Take a {name} back into service.")


def _add_rekey(app: typer.Typer, name: str, kind: Kind) -> None:
    _add_act(app, name, kind, "rekey", f"Give all tunnels of a {name} new keys: no packet is lost.")


def _add_act(app: typer.Typer, name: str, kind: Kind, act: str, text: str) -> None:
    @app.command(act, help=text)
    def do(name: _Name, revision: _IfMatch = None, dry_run: _DryRun = False, json_: _Json = False) -> None:
        _tell(ask("POST", _path(kind, name, act), params=_dry(dry_run), if_match=_tag(revision)), json_)


def _add_create_token(app: typer.Typer, name: str, kind: Kind) -> None:
    @app.command(
        "create", help="Make a token: vpc=NAME for a gateway that joins, kind=router for a router; role=viewer|admin."
    )
    def create(fields: _Fields = None, output: _Output = None, json_: _Json = False) -> None:
        body = fields_in(kind, fields or ())
        if output is None:
            made = ask("POST", _path(kind), body)
            _show(made, json_, [made["token"]])
            return
        made = _made_into(output, lambda: ask("POST", _path(kind), body))
        shown = {key: value for key, value in made.items() if key != "token"}
        _show(shown, json_, [f"{output}: token {made['name']}, {made['role']}"])


def _add_delete_token(app: typer.Typer, name: str, kind: Kind) -> None:
    @app.command("delete", help="Delete a token: it is worth nothing from then on.")
    def delete(name: _Name, json_: _Json = False) -> None:
        _tell(ask("DELETE", _path(kind, name)), json_)


def _add_upgrade(app: typer.Typer, name: str, kind: Kind) -> None:
    @app.command(
        "upgrade", help="Upgrade gateways, one after another: each is drained meanwhile. Exit status 1: failed."
    )
    def upgrade(
        names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Gateways, in this order.")],
        dry_run: _DryRun = False,
        wait: _Wait = True,
        json_: _Json = False,
    ) -> int:
        made = ask("POST", "/v1/upgrade", {"gateways": names}, params=_dry(dry_run))
        _tell(made, json_)
        return 0 if dry_run or json_ or not wait else _follow(made["operation"])


def _add_restart(app: typer.Typer, name: str, kind: Kind) -> None:
    @app.command(
        "restart", help=f"Restart a {name}'s host, by the controller's restart_command. Exit status 1: failed."
    )
    def restart(
        name: _Name, revision: _IfMatch = None, dry_run: _DryRun = False, wait: _Wait = True, json_: _Json = False
    ) -> int:
        made = ask("POST", _path(kind, name, "restart"), params=_dry(dry_run), if_match=_tag(revision))
        _tell(made, json_)
        return 0 if dry_run or json_ or not wait else _follow(made["operation"])


def _follow(operation: str) -> int:
    """Show the steps of an operation as they change, until it ends."""
    import time

    shown: set[str] = set()
    while True:
        one = ask("GET", f"/v1/operations/{operation}")
        for line in one["steps"]:
            if line not in shown:
                typer.echo(line)
                sys.stdout.flush()
        shown |= set(one["steps"])
        if one["result"] != _RUNNING:
            typer.echo(f"operation {operation}: {one['result']}")
            return 0 if one["result"].startswith("done") else 1
        time.sleep(_LOOK_S)


# By verb, and whether it is a token's.
_ADDING = {
    **{(verb, token): add for verb, add in (("list", _add_list), ("show", _add_show)) for token in (False, True)},
    ("create", False): _add_create,
    ("set", False): _add_set,
    ("delete", False): _add_delete,
    ("drain", False): _add_drain,
    ("undrain", False): _add_undrain,
    ("rekey", False): _add_rekey,
    ("upgrade", False): _add_upgrade,
    ("restart", False): _add_restart,
    ("create", True): _add_create_token,
    ("delete", True): _add_delete_token,
}


def _dry(dry_run: bool) -> dict[str, str] | None:
    return {"dry_run": "1"} if dry_run else None


def _tag(revision: int | None) -> str:
    return f'"{revision}"' if revision is not None else ""


def _tell(changed: Mapping[str, Any], json_: bool) -> None:
    """Say what came of a change: its plan, and the operation by which its progress is seen."""
    last = f"operation {changed['operation']}" if changed["operation"] else "nothing has changed"
    if changed["dry_run"]:
        last = "dry run: nothing has changed"
    _show({key: value for key, value in changed.items() if key != "etag"}, json_, [*changed["plan"], last])


def _show(value: Any, json_: bool, lines: list[str]) -> None:
    for line in [json.dumps(value, indent=2)] if json_ else lines:
        typer.echo(line)
    sys.stdout.flush()


def _made_into(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Make a token and write it to a new file, which is there before the token is: it would be lost otherwise."""
    fd = create_private(path)
    try:
        made = make()
    except BaseException:
        os.close(fd)
        path.unlink(missing_ok=True)
        raise
    try:
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(f"{made['token']}\n")
    except OSError as error:
        lost = f"token {made['name']} is lost: `fwd token delete {made['name']}`"
        raise UserError(f"{path}: cannot be written: {error.strerror}: {lost}") from None
    return made

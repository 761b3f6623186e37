"""Writes the manual pages, fwd(8) and fwd.toml(5), to a directory: `python manpages.py DIRECTORY`.

Commands, options and their help come from the command line's own description (fwd/cli.py), keys, defaults and bounds
from the configuration's (fwd/model/tables.py), so neither can lag behind. What neither says stands here: files,
signals, exit statuses.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.main import get_command

from fwd import __version__
from fwd.bench.commands import app as bench
from fwd.cli import app
from fwd.lab.commands import app as lab
from fwd.model.example import EXAMPLE
from fwd.model.tables import TABLES, described, keys_of
from fwd.objects.commands import app_of
from fwd.objects.kinds import KINDS

_PASSED_ON = {
    "lab": lab,
    "bench": bench,
    **{kind: app_of(kind) for kind in KINDS if kind != "router"},
}  # commands that hand their arguments to a command line of their own

_DESCRIPTION = """\
fwd joins two VPCs by many IPsec tunnels at once. One process hashes flows, N processes each own one ESP tunnel, and a
supervisor replaces any of them that dies. Packets of one flow always take one tunnel.
"""
_SIGNALS = [
    ("SIGTERM, SIGINT", "A clean stop: peers are told, devices, routes and leak guards are removed."),
    (
        "SIGHUP",
        "Read the configuration and the files that it names again. A bad file leaves the running one in force; "
        "fwd.toml(5) says what a change of each key does. What a changed secret, CA or identity authenticated ends "
        "after keys.grace. What fwd apply --confirm has on trial is over.",
    ),
]
_FILES = [
    ("/etc/fwd/fwd.toml", "What fwd demux reads unless --config names another file, see fwd.toml(5)."),
    ("/etc/fwd/fwd.toml.before", "What it held before fwd apply or fwd confirm replaced it."),
    ("/etc/fwd/fwd.toml.pending", "What is on trial: fwd apply --confirm, until fwd confirm or the end of its time."),
    ("/etc/fwd/fwd.toml.edited", "What it held itself, if that was put on trial and is not confirmed."),
    ("/etc/fwd/controller", "Keys, certificates and documents of a controller's gateway; fwd join makes it."),
    ("/etc/fwd/router.toml", "What fwd router reads unless --config names another file, see docs/router.md."),
    ("/etc/fwd/controller.toml", "What fwd controller reads unless --config names another file, see docs/cluster.md."),
    ("~/.config/fwd/client.toml", "Where fwd vpc and its like find a controller, see docs/cluster.md."),
    ("/run/fwd/fwd.sock", "The control socket, unless the configuration names another."),
    ("/run/fwd/fwd-admin.sock", "The admin socket, beside it: what changes anything is asked there, by root."),
]
_EXIT = [("0", "Success."), ("1", "Something failed; the log says what."), ("2", "Wrong usage, configuration or host.")]


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, lines in (("fwd.8", _fwd()), ("fwd.toml.5", _fwd_toml())):
        (directory / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _fwd() -> Iterator[str]:
    """fwd(8)."""
    yield from _head("fwd", 8, "a userspace, scale-out IPsec gateway")
    yield from (".SH SYNOPSIS", r".B fwd", r".I COMMAND", r"[\fIOPTIONS\fR] [\fIARGUMENTS\fR]")
    yield from (".SH DESCRIPTION", _escaped(_DESCRIPTION.strip()), ".SH COMMANDS")
    for name, command in _commands(get_command(app), "fwd"):
        yield f".SS {_escaped(name)}"
        yield _escaped(" ".join((command.help or "").split()))
        context = typer.Context(command)
        for parameter in command.params:
            yield from _item(*parameter.get_help_record(context))
    for title, items in (("SIGNALS", _SIGNALS), ("FILES", _FILES), ("EXIT STATUS", _EXIT)):
        yield f".SH {title}"
        for what, text in items:
            yield from _item(what, text)
    yield from (".SH SEE ALSO", r".BR fwd.toml (5),", r".BR systemctl (1),", r".BR nft (8)")


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command that does something itself, with its full name."""
    for sub_name, sub in sorted(getattr(command, "commands", {}).items()):
        if sub.hidden:
            continue
        sub = get_command(_PASSED_ON[sub_name]) if sub_name in _PASSED_ON else sub
        if hasattr(sub, "commands"):
            if sub.invoke_without_command:
                yield f"{name} {sub_name}", sub
            yield from _commands(sub, f"{name} {sub_name}")
        else:
            yield f"{name} {sub_name}", sub


def _fwd_toml() -> Iterator[str]:
    """fwd.toml(5)."""
    yield from _head("fwd.toml", 5, "configuration of a fwd gateway")
    yield ".SH DESCRIPTION"
    yield _escaped("The file is TOML: one [gateway], and a [[peering]] with its [peering.keys] for each far gateway.")
    yield (
        r"\fBfwd config check\fR \fIFILE\fR says what is wrong with one; with \fB\-\-secrets\fR, as root, also"
        " with keys and certificates. Unknown keys are refused."
    )
    yield _escaped(
        "While fwd runs, a changed key that is marked live holds at once, or for SAs to come, and no packet is lost. "
        "One that is marked restart sets up its peering anew, with the leak guards standing; in [gateway] it is "
        "refused until fwd is restarted."
    )
    for title, model in TABLES.items():
        yield f".SH {_quoted(title)}"
        yield _escaped(" ".join((model.__doc__ or "").split()))
        for key, schema in keys_of(model).items():
            yield from _item(key, f"{described(schema)}; {schema['change']}")
    yield from (".SH EXAMPLE", ".nf", _escaped(EXAMPLE.rstrip()), ".fi", ".SH SEE ALSO", r".BR fwd (8)")


def _head(name: str, section: int, summary: str) -> Iterator[str]:
    yield f'.TH {_quoted(name.upper())} {section} "" "fwd {__version__}"'
    yield ".ad l"
    yield ".SH NAME"
    yield f"{_escaped(name)} \\- {_escaped(summary)}"


def _item(what: str, text: str) -> Iterator[str]:
    yield ".TP"
    yield f"\\fB{_escaped(what)}\\fR"
    yield _escaped(" ".join(text.split()))


def _quoted(text: str) -> str:
    """An argument of a macro."""
    return '"' + _escaped(text).replace('"', "\\(dq") + '"'


def _escaped(text: str) -> str:
    """Text as roff takes it: a hyphen that can be copied, and no line that looks like a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join("\\&" + line if line.startswith((".", "'")) else line for line in text.split("\n"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""`fwd gather`: what somebody needs who looks for a fault from afar, in one file, and no secret in it (redact.py).

Whatever cannot be had is said in `missing.txt`. Changes nothing. Refuses to overwrite a file. Needs root.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import os
import platform
import socket
import subprocess
import tarfile
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fwd import __version__
from fwd.agent.client import ask as ask_gateway
from fwd.files import create_private
from fwd.model.toml import read_text
from fwd.proto.errors import UserError
from fwd.router.client import ask as ask_router
from fwd.tools import fleet, redact
from fwd.tools.router_look import diagnose

CONFIGS: Final = tuple(Path("/etc/fwd", name) for name in ("fwd.toml", "router.toml", "controller.toml"))
# Besides what configurations name: directories in which fwd itself keeps keys and tokens.
_KEPT: Final = (Path("/etc/fwd/controller"), Path("/var/lib/fwd/controller"))
_PLACES: Final = ("state", "directory")  # keys of [controller]
_KEPT_NAMES: Final = ("*.key", "*.token", "*.psk")
_SECRET_BYTES_MAX: Final = 1 << 16
_TEXT_MAX: Final = 8 << 20
_COMMAND_S: Final = 20.0
_LOG_LINES: Final = "5000"
_COMMANDS: Final[Mapping[str, Sequence[str]]] = {
    "kernel/links.txt": ("ip", "-d", "-s", "link"),
    "kernel/addresses.txt": ("ip", "address"),
    "kernel/routes4.txt": ("ip", "-4", "route", "show", "table", "all"),
    "kernel/routes6.txt": ("ip", "-6", "route", "show", "table", "all"),
    "kernel/rules4.txt": ("ip", "-4", "rule"),
    "kernel/rules6.txt": ("ip", "-6", "rule"),
    "kernel/nexthops.txt": ("ip", "nexthop"),
    "kernel/neighbours.txt": ("ip", "neighbour"),
    "kernel/filters.txt": ("nft", "list", "ruleset"),
    "kernel/sockets.txt": ("ss", "-nuap"),
    "log.txt": ("journalctl", "--unit", "fwd*", "--lines", _LOG_LINES, "--no-pager", "--output", "short-iso"),
}
_PACKAGES: Final = ("cryptography", "numpy", "pyroute2", "pydantic", "xxhash", "fastapi", "uvicorn", "httpx")


@dataclass
class Bundle:
    """Texts by name, as they are before they are cleaned, and what could not be had."""

    texts: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def add(self, name: str, look: Callable[[], str]) -> None:
        """Add what `look` gives; or why it gives nothing."""
        try:
            text = look()
        except Exception as error:  # noqa: BLE001 - a bundle of what is left is worth more than none
            self.missing.append(f"{name}: {' '.join(str(error).split()) or type(error).__name__}")
        else:
            more = len(text) - _TEXT_MAX
            self.texts[name] = text if more <= 0 else f"[{more} characters before this]\n{text[-_TEXT_MAX:]}"


def run(output: Path | None, configs: Sequence[Path], control: Path, router_control: Path) -> str:
    """Write the bundle, and return what to say. Raises UserError."""
    if os.geteuid() != 0:
        raise UserError("fwd gather needs root: it looks at the kernel's tables, and at secrets, to leave them out")
    for one in configs:
        if not one.exists():
            raise UserError(f"--config: {one} is not there")
    name = f"fwd-{socket.gethostname()}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    path = output or Path(f"{name}.tar.gz")

    # The file is there before anybody looks: what cannot be written is known at once. Of half a bundle nothing stays.
    fd = create_private(path)
    try:
        with os.fdopen(fd, "wb") as file:
            bundle = collect([*(configs or (one for one in CONFIGS if one.exists()))], control, router_control)
            file.write(packed(name, bundle))
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(f"{path}: cannot be written: {error.strerror}") from None
        raise
    return f"{path}: {len(bundle)} files, without secrets; see missing.txt in it for what could not be had"


def collect(configs: Sequence[Path], control: Path, router_control: Path) -> dict[str, str]:
    """Return the texts of a bundle by name, without secrets."""
    bundle = Bundle()
    read: dict[Path, dict[str, Any]] = {}
    for path in configs:
        bundle.add(f"config/{path.name}.json", lambda path=path: _config(path, read))  # type: ignore[misc]
    bundle.add("versions.json", lambda: _json(_versions()))
    bundle.add("status.json", lambda: _json(ask_gateway(control)))
    bundle.add("router.json", lambda: _json(ask_router(router_control)))
    bundle.add("fleet.json", lambda: _json(fleet.fetch()))
    for path, data in read.items():
        for kind, socket_ in (("gateway", control), ("router", router_control)):
            if kind in data or (kind == "gateway" and "peering" in data):
                bundle.add(f"diagnose-{kind}.txt", lambda p=path, s=socket_: diagnose(p, s, as_json=False)[0])  # type: ignore[misc]
    for name, argv in _COMMANDS.items():
        bundle.add(name, lambda argv=argv: _said(argv))  # type: ignore[misc]

    # Nothing leaves here but what is clean, the reasons of what is missing as well.
    bundle.texts["missing.txt"] = "".join(f"{one}\n" for one in bundle.missing)
    forms = redact.forms_of(_secrets(read.values()))
    return {name: redact.clean(text, forms) for name, text in sorted(bundle.texts.items())}


def packed(name: str, texts: Mapping[str, str]) -> bytes:
    """Return the bundle as a compressed archive; each of its files is its owner's alone, too."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for member, text in texts.items():
            data = text.encode("utf-8", "replace")
            about = tarfile.TarInfo(f"{name}/{member}")
            about.size, about.mode, about.mtime = len(data), 0o600, int(time.time())
            archive.addfile(about, io.BytesIO(data))
    return out.getvalue()


def _config(path: Path, read: dict[Path, dict[str, Any]]) -> str:
    """Return a configuration without its comments and secrets. One that is no TOML is not shown: it may be anything."""
    text = read_text(path)
    try:
        read[path] = data = tomllib.loads(text)
    except (ValueError, RecursionError):
        raise UserError("not TOML, so it is not shown: `fwd config check` says where it is wrong") from None
    return _json(redact.shown(data))


def _secrets(configs: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """Yield the contents of all files that hold secrets, as far as they are known."""
    configs = list(configs)
    named = [Path(path) for data in configs for path in redact.paths_in(data)]
    named += [Path(os.environ[one]) for one in ("FWD_CONTROLLER_TOKEN_FILE",) if os.environ.get(one)]
    tables = [_table(data) for data in configs]
    directories = [*_KEPT, *(Path(str(table[key])) for table in tables for key in _PLACES if key in table)]
    named += [path for one in directories for pattern in _KEPT_NAMES for path in one.glob(pattern)]
    for path in named:
        with contextlib.suppress(OSError), open(path, "rb", opener=_at_once) as file:
            yield file.read(_SECRET_BYTES_MAX)
    if token := os.environ.get("FWD_CONTROLLER_TOKEN"):
        yield token.encode()


def _table(data: Mapping[str, Any]) -> Mapping[str, Any]:
    found = data.get("controller")
    return found if isinstance(found, dict) else {}


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _versions() -> dict[str, Any]:
    found = {}
    for one in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[one] = importlib.metadata.version(one)
    release = {}
    with contextlib.suppress(OSError):
        release = platform.freedesktop_os_release()
    return {
        "fwd": __version__,
        "python": platform.python_version(),
        "kernel": f"{platform.release()} {platform.version()}",
        "machine": platform.machine(),
        "system": release.get("PRETTY_NAME", ""),
        "packages": found,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _said(argv: Sequence[str]) -> str:
    """Return what a program prints, and that it has failed if it has."""
    environ = {"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "LC_ALL": "C"}
    done = subprocess.run(
        argv, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=_COMMAND_S, check=False
    )
    text = done.stdout.decode("utf-8", "replace")
    if done.returncode:
        text += f"\n{argv[0]}: exit status {done.returncode}: {done.stderr.decode('utf-8', 'replace')}"
    return text


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"

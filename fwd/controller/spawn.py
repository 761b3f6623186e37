"""Run a program of the operator's on this host: an argv, never a shell, with a time limit, and without waiting for it.

What may be put into its arguments are the words of one host (`words_of`): its name, of small letters, digits and
dashes, and addresses. It has no input, an environment of its own, and a process group that ends with its time. Of its
output the first line is kept, and the rest read and forgotten, so that it never waits for its reader.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fwd.model.fleet import Gateway, Router
from fwd.proto.text import line_of

LINE_CHARS_MAX: Final = 200
_OCTETS_KEPT: Final = 4096
_READ_OCTETS: Final = 65536
_WORD: Final = re.compile(r"\{([^{}]*)\}")
WORDS: Final = ("name", "kind", "vpc", "inner", "outer")
_ENVIRONMENT: Final = ("PATH", "HOME", "LANG", "TZ", "SSH_AUTH_SOCK")


@dataclass(frozen=True)
class Ran:
    """How a program has ended. `line`: the first one that it wrote, to either output."""

    good: bool
    line: str


def why_no_argv(argv: Sequence[str]) -> str:
    """Say why this cannot be a program's argv; empty if it can."""
    if not argv:
        return ""
    if not os.path.isabs(argv[0]) or _WORD.search(argv[0]):
        return f"{argv[0]!r}: the program's whole path is needed, from / on"
    for part in argv:
        if "\0" in part:
            return f"{part!r}: has an octet of zero in it"
        if strange := [word for word in _WORD.findall(part) if word not in WORDS]:
            return f"{{{strange[0]}}}: use one of {', '.join(f'{{{word}}}' for word in WORDS)}"
    return ""


def why_not_executable(argv: Sequence[str]) -> str:
    """Say why this host has no such program; empty if it has."""
    if argv and not (os.path.isfile(argv[0]) and os.access(argv[0], os.X_OK)):
        return f"{argv[0]}: there is no such program here that this user may run"
    return ""


def words_of(host: Gateway | Router) -> dict[str, str]:
    """The words of a host. A router has no outer address."""
    is_gateway = isinstance(host, Gateway)
    return {
        "name": host.name, "kind": "gateway" if is_gateway else "router", "vpc": host.vpc, "inner": str(host.inner[0]),
        "outer": str(host.outer) if isinstance(host, Gateway) else "",
    }  # fmt: skip


def filled(argv: Sequence[str], words: Mapping[str, str]) -> list[str]:
    """Put a host's words into an argv."""
    return [_WORD.sub(lambda match: words[match[1]], part) for part in argv]


async def run(argv: Sequence[str], limit_s: float) -> Ran:
    """Run a program to its end. Cancelled, it is killed, too."""
    near, far = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    output = _Output(near)
    try:
        os.set_blocking(far, True)
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.DEVNULL, stdout=far, stderr=far, start_new_session=True, cwd="/",
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        )  # fmt: skip
    except OSError as error:
        output.close()
        return Ran(False, f"{argv[0]}: cannot be run: {error.strerror}")
    finally:
        os.close(far)

    # What it leaves behind may hold its output open: its own end counts.
    try:
        async with asyncio.timeout(limit_s):
            status = await process.wait()
    except TimeoutError:
        return Ran(False, _joined(f"not done after {limit_s:.0f} s, and killed", output.line()))
    finally:
        _kill(process)
        output.take()
        output.close()
    if status == 0:
        return Ran(True, output.line())
    how = f"exit status {status}" if status > 0 else f"ended by signal {-status}"
    return Ran(False, _joined(how, output.line()))


def _kill(process: asyncio.subprocess.Process) -> None:
    """End it if it has not ended, with all that it has started in its group."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _joined(how: str, line: str) -> str:
    return f"{how}: {line}" if line else how


class _Output:
    """The end of a pipe that is read while it is written to."""

    def __init__(self, fd: int) -> None:
        self._fd, self._kept = fd, b""
        asyncio.get_running_loop().add_reader(fd, self._read)

    def _read(self) -> bool:
        """Read once; False: there was nothing."""
        try:
            data = os.read(self._fd, _READ_OCTETS)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._fd)
        self._kept = (self._kept + data)[:_OCTETS_KEPT]
        return bool(data)

    def take(self) -> None:
        """Read what is left, unless it is very much."""
        for _ in range(16):
            if not self._read():
                return

    def line(self) -> str:
        """The first line that is not empty, in characters that a log may have."""
        lines = (one.strip() for one in self._kept.decode(errors="replace").splitlines())
        return line_of(next((one for one in lines if one), ""), LINE_CHARS_MAX)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

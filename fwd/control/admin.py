"""Ask a gateway's supervisor over its admin socket (supervise/admin.py): one message there, one back."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

from fwd.agent.client import harmless
from fwd.model.config import admin_path
from fwd.proto.errors import UserError

ANSWER_S: Final = 15.0
_ANSWER_BYTES_MAX: Final = 1 << 18
Json = dict[str, Any]


def tell(control: Path, command: str, **words: object) -> Json:
    """Have the gateway whose control socket is `control` do something. Raises UserError, also if it refuses."""
    with contextlib.closing(answers(control, command, None, **words)) as said:
        return next(said)


def answers(control: Path, command: str, file: int | None, **words: object) -> Generator[Json]:
    """Have it do something, with a file; gives what it says, bit by bit. Raises UserError, also if it refuses."""
    path = admin_path(control)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(ANSWER_S)
        try:
            sock.connect(str(path))
            request = json.dumps({"command": command, **words}).encode()
            socket.send_fds(sock, [request], [] if file is None else [file])
            while True:
                yield answer(sock)
        except PermissionError:
            raise UserError(f"fwd {command} is for root alone: {path} refuses you") from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(
                f"{path}: nobody answers ({reason}): is `fwd demux` running? --control names its socket, if another"
            ) from None


def answer(sock: socket.socket) -> Json:
    """Return the next thing it says. Raises UserError if that is a refusal, OSError if it says nothing."""
    data = sock.recv(_ANSWER_BYTES_MAX)
    try:
        said = harmless(json.loads(data)) if data else None
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise ConnectionError("the supervisor closed the connection without an answer")
    if "error" in said:
        raise UserError(str(said["error"]))
    return said

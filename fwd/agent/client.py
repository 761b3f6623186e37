"""Ask a gateway's agent over its control socket: one JSON line there, one JSON line back.

Light on purpose (standard library only): `fwd status` and the lab poll with it. Whatever goes wrong, from a missing
socket to an answer that is not an agent's, is an OSError.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fwd import __version__
from fwd.model.status import SCHEMA
from fwd.proto.errors import UserError

ANSWER_BYTES_MAX: Final = 64 << 20  # 64 peerings of 64 members with full ledgers take less


def query(
    path: Path, command: str = "status", timeout_s: float = 2.0, more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The agent's answer to `command`; `more`: what is asked besides. Raises OSError if nobody answers in time."""
    deadline_s = time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        sock.connect(str(path))
        sock.sendall(json.dumps({**(more or {}), "command": command}).encode() + b"\n")

        # One line, within the time for all of it, and not without end: the agent may be taken over.
        answer = bytearray()
        while not answer.endswith(b"\n"):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("timed out")
            sock.settimeout(left_s)
            piece = sock.recv(1 << 16)
            if not piece:
                raise ConnectionError("the agent closed the connection without an answer")
            answer += piece
            if len(answer) > ANSWER_BYTES_MAX:
                raise ConnectionError("the answer is too long for an agent's")

    # Nothing in it reaches a terminal that it could steer.
    try:
        value = harmless(json.loads(answer))
    except (ValueError, RecursionError):
        raise ConnectionError("the answer is not JSON") from None
    if not isinstance(value, dict):
        raise ConnectionError("the answer is not a JSON object")
    return value


def harmless(value: Any) -> Any:
    """The same without what a terminal would obey: who asks may be root, and an agent may be taken over."""
    if isinstance(value, str):
        return value if value.isprintable() else "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in value)
    if isinstance(value, list):
        return [harmless(one) for one in value]
    if isinstance(value, dict):
        return {harmless(name): harmless(one) for name, one in value.items()}
    return value


def ask(control: Path, command: str = "status", more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The same, for a user. Raises UserError, also when the agent answers with an error."""
    try:
        answer = query(control, command, more=more)
    except PermissionError:
        raise UserError(f"{control}: root alone may ask there, and its group: use sudo") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{control}: nobody answers ({reason}): is `fwd demux` running? --control names its socket, if another"
        ) from None
    if "error" in answer:
        raise UserError(f"{control}: {answer['error']}")
    if command == "status" and answer.get("schema") != SCHEMA:
        raise UserError(f"{control}: the gateway speaks another schema than this fwd {__version__}: use its own `fwd`")
    return answer

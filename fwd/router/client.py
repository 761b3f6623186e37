"""Ask a router for its state over its socket. Raises UserError."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any, Final

from fwd.proto.errors import UserError

CONTROL: Final = Path("/run/fwd/router.sock")
_ANSWER_BYTES_MAX: Final = 4 << 20
_ANSWER_S: Final = 5.0


def ask(path: Path) -> dict[str, Any]:
    """Return the whole state."""
    answer = bytearray()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(_ANSWER_S)
            sock.connect(str(path))
            while (piece := sock.recv(1 << 16)) and len(answer) <= _ANSWER_BYTES_MAX:
                answer += piece
        value = json.loads(answer)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"{path}: no router answers ({reason}): is `fwd router` running? --control names its socket, if another"
        ) from None
    assert isinstance(value, dict)
    return value


def is_ready(path: Path) -> bool:
    """Say whether a router can carry traffic; what keeps it from that goes to standard output."""
    status = ask(path)
    for reason in status["reasons"]:
        print(reason)
    return bool(status["ready"])

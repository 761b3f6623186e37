"""The audit log: who has asked the controller for a change, from where, for which one, when, and what came of it.

One record for each request that may change something, refused ones too, but of those who have not said who they are a
few an address; none for heartbeats that are heard. They go where fwd's log goes, or as one JSON object a line to a file
of their own, which is reopened when something else has renamed it (logrotate).
"""

from __future__ import annotations

import logging
import os
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Final

from fwd.proto.errors import UserError
from fwd.proto.logged import event
from fwd.proto.text import line_of
from fwd.supervise.loglines import JsonLines

_FIELD_CHARS_MAX: Final = 200
log = logging.getLogger("fwd.controller.audit")


def audit(who: str, address: str, method: str, path: str, status: int) -> None:
    """Note a request and its answer."""
    path = line_of(path, _FIELD_CHARS_MAX)
    about = {"who": who, "address": address, "method": method, "path": path, "status": status}
    log.log(
        logging.INFO if status < 400 else logging.WARNING, "%s: %s %s: %d", who, method, path, status,
        extra=event("controller.asked", **about),
    )  # fmt: skip


def write_to(path: Path) -> None:
    """Have records written to a file of their own from now on. Raises UserError."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
        handler = WatchedFileHandler(path, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: the audit log cannot be written: {error.strerror}") from None
    handler.setFormatter(JsonLines(journal=False))
    log.handlers[:] = [handler]
    log.propagate = False

"""The audit log: who has asked the controller for a change, from where, for which one, when, and what came of it.

One record for each request that may change something, refused ones too, but few of what anybody can have refused
without end: of those who have not said who they are by address, of hosts, and of whoever may not or asks too often. The
next record says how many were left out. There is none for heartbeats that are heard.

They go where fwd's log goes, or as one JSON object a line to a file of their own, for its owner alone, which is made
anew when something else has renamed it (logrotate). What cannot be written there goes to fwd's log: whoever has asked
is answered all the same.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Final

from fwd.proto.errors import UserError
from fwd.proto.logged import event
from fwd.proto.text import line_of
from fwd.supervise.loglines import JsonLines

_FIELD_CHARS_MAX: Final = 200
log = logging.getLogger("fwd.controller.audit")
_own_log = logging.getLogger("fwd.controller")


def audit(who: str, address: str, method: str, path: str, status: int, left_out: int = 0) -> None:
    """Note a request and its answer; `left_out`: how many have no record since the last one."""
    path = line_of(path, _FIELD_CHARS_MAX)
    about = {"who": who, "address": address, "method": method, "path": path, "status": status}
    about |= {"left_out": left_out} if left_out else {}
    log.log(
        logging.INFO if status < 400 else logging.WARNING, "%s: %s %s: %d", who, method, path, status,
        extra=event("controller.asked", **about),
    )  # fmt: skip


def write_to(path: Path) -> None:
    """Have records written to a file of their own from now on. Raises UserError."""
    try:
        handler = _File(path, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: the audit log cannot be written: {error.strerror}") from None
    handler.setFormatter(JsonLines(journal=False))
    log.handlers[:] = [handler]
    log.propagate = False


class _File(WatchedFileHandler):
    """The audit log's file, opened anew for the next record after one that could not be written."""

    _trouble = ""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError as error:
            self._write_elsewhere(record, error)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the standard library's name)
        self._write_elsewhere(record, sys.exc_info()[1])

    def _open(self) -> TextIOWrapper:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return TextIOWrapper(open(os.open(self.baseFilename, flags, 0o600), "ab"), encoding=self.encoding)

    def _write_elsewhere(self, record: logging.LogRecord, error: BaseException | None) -> None:
        """Have a record in fwd's log, and before the first one why; of a disk that is full nothing waits here."""
        if (stream := self.stream) is not None:
            self.stream = None  # as reopenIfNeeded has it
            with contextlib.suppress(OSError):
                stream.close()
        why = getattr(error, "strerror", None) or str(error)
        if why != self._trouble:
            self._trouble = why
            text = "%s: the audit log cannot be written: %s: its records are here instead"
            told = event("controller.audit_elsewhere", path=self.baseFilename, reason=why)
            _own_log.error(text, self.baseFilename, why, extra=told)
        _own_log.handle(record)

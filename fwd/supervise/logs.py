"""One log of all processes, on standard error.

Supervisor, keyd and agent log through multiprocessing-logging. Its queue has a lock that a process killed at the wrong
moment would keep, so the processes that are killed in the course of business, demux and members, write their records
to a non-blocking socket of their own instead; the supervisor feeds them into the same logging tree. A full socket
loses a record, never time. How a record looks is said in loglines.py.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import struct
import sys

import multiprocessing_logging

from fwd.supervise import loglines

_RECORD_MAX = 16384
_HEAD = struct.Struct("=BId")  # level, process, time; then _TEXTS texts with zeros between
_TEXTS = 5  # logger, process name, event, fields as JSON, message
_TIME_MAX = 1e11
_FEED_MAX = 256  # records in one turn of the supervisor, so that a process which logs without end cannot hold it


def set_up(level: str, form: loglines.Form = "text") -> None:
    """In the supervisor, before the first fork."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(loglines.formatter(form, sys.stderr.fileno()))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for library in ("pyroute2", "asyncio"):  # `debug` is to show what fwd does
        logging.getLogger(library).setLevel(logging.WARNING)
    multiprocessing_logging.install_mp_handler()


def tear_down() -> None:
    """Stop the logging thread, after all records are out."""
    multiprocessing_logging.uninstall_mp_handler()
    for handler in logging.getLogger().handlers:
        handler.flush()


def queue_fds() -> set[int]:
    """Descriptors of the logging queue: what a child that logs through it must keep."""
    fds: set[int] = set()
    for handler in logging.getLogger().handlers:
        queue = getattr(handler, "queue", None)
        if queue is not None:
            fds |= {queue._reader.fileno(), queue._writer.fileno()}
    return fds


class SocketHandler(logging.Handler):
    """Writes each record as one message to a socket, and never waits."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._sock = sock

    def emit(self, record: logging.LogRecord) -> None:
        """Send the record with its text made up, exceptions included."""
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        head = _HEAD.pack(record.levelno, record.process or 0, record.created)
        event, fields = getattr(record, "event", ""), json.dumps(getattr(record, "fields", {}), default=str)
        texts = "\0".join((record.name, record.processName or "", event, fields, text))
        with contextlib.suppress(OSError):
            self._sock.send((head + texts.encode(errors="backslashreplace"))[:_RECORD_MAX])


def log_to(sock: socket.socket) -> None:
    """In a child that may be killed at any moment."""
    logging.getLogger().handlers = [SocketHandler(sock)]


def feed(sock: socket.socket) -> None:
    """In the supervisor: put what waits in `sock` into the logging tree."""
    with contextlib.suppress(BlockingIOError):
        for _ in range(_FEED_MAX):
            record = _decode(sock.recv(_RECORD_MAX))
            if record is not None and record.levelno >= logging.getLogger().level:
                logging.getLogger(record.name).handle(record)


def _decode(data: bytes) -> logging.LogRecord | None:
    """The record that `data` is; None if it is none, since a child is not trusted with the supervisor's life."""
    texts = data[_HEAD.size :].decode(errors="ignore").split("\0", _TEXTS - 1)
    if len(texts) != _TEXTS:
        return None
    level, process, created = _HEAD.unpack_from(data)
    if not 0 <= created < _TIME_MAX:
        return None
    name, process_name, event, fields, text = texts
    return logging.makeLogRecord(
        {
            **_extra(event, fields),
            "name": name,
            "levelno": level,
            "levelname": logging.getLevelName(level),
            "msg": text,
            "created": created,
            "msecs": created % 1 * 1000,
            "process": process,
            "processName": process_name,
        }
    )


def _extra(event: str, fields: str) -> dict[str, object]:
    """What a record carries beside its message (loglines.py); nothing if it has no event."""
    if not event:
        return {}
    try:
        found = json.loads(fields)
    except (ValueError, RecursionError):
        found = None
    return {"event": event, "fields": found if isinstance(found, dict) else {}}

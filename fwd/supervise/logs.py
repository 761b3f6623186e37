"""One log of all processes, on standard error.

Supervisor, keyd and agent log through multiprocessing-logging. Its queue has a lock that a process killed at the wrong
moment would keep, so the processes that are killed in the course of business, demux and members, write their records
to a non-blocking socket of their own instead; the supervisor feeds them into the same logging tree. A full socket
loses a record, never time.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import sys

import multiprocessing_logging

_FORMAT = "%(asctime)s %(levelname)s %(processName)s: %(message)s"
_RECORD_MAX = 16384
_HEAD = struct.Struct("=BId")  # level, process, time; then logger, process name and text, with zeros between
_TIME_MAX = 1e11
_FEED_MAX = 256  # records in one turn of the supervisor, so that a process which logs without end cannot hold it


def set_up(level: str) -> None:
    """In the supervisor, before the first fork."""
    logging.basicConfig(level=level.upper(), format=_FORMAT, stream=sys.stderr, force=True)
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
        names = f"{record.name}\0{record.processName}\0"
        with contextlib.suppress(OSError):
            self._sock.send((head + (names + text).encode(errors="backslashreplace"))[:_RECORD_MAX])


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
    names = data[_HEAD.size :].decode(errors="ignore").split("\0", 2)
    if len(names) != 3:
        return None
    level, process, created = _HEAD.unpack_from(data)
    if not 0 <= created < _TIME_MAX:
        return None
    name, process_name, text = names
    return logging.makeLogRecord(
        {
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

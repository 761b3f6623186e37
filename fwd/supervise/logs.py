"""One log of all processes, on the supervisor's standard error. How a record looks is said in loglines.py.

The supervisor's own records go through multiprocessing-logging. Its queue is unpickled, and has a lock that a killed
process would keep, so no child has it. A child writes each record as one message to a socket of its slot, and what the
interpreter itself writes (faulthandler) to a pipe; both never block: what does not fit is lost, and counted. The
supervisor reads them (Inbox) and trusts none of it: process and pid are the slot's, loggers, levels, times and events
are bounded, and a slot that writes without end is read only so far (RATE, BURST).
"""

from __future__ import annotations

import contextlib
import json
import linecache
import logging
import os
import re
import select
import socket
import struct
import sys
import threading
import time
from typing import Final

import multiprocessing_logging

from fwd.proto.logged import event
from fwd.supervise import loglines

BURST: Final = 500  # lines of one slot's log that are taken at once …
RATE: Final = 50.0  # … and in a second after that
_THREAD: Final = "mp-handler-"  # how multiprocessing-logging calls its own
WAITING_MAX: Final = 10_000  # records that nobody has read yet
_TURN_MAX = 64  # messages of one slot in a turn of the supervisor
_LEFT_MAX = 4096  # messages that an ended process can have left: more than a socket's buffer holds
_RECORD_MAX = 16384
_FIELDS_MAX = 8192  # of those, for a record's fields
_NESTED_MAX = 32  # lists and objects in a record's fields: a thousand within each other could not be pickled
_LINE_MAX = 1024  # of standard error
_HEAD = struct.Struct("=BdI")  # level, time, records lost before this one; then _TEXTS texts with zeros between
_TEXTS = 4  # logger, event, fields as JSON, message
_EVENT = re.compile(r"[a-z0-9_.]{1,64}")
_LATE_S = 10.0  # how old a record may be
_LOST_EVERY_S = 5.0
_LEVELS: Final = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)

log = logging.getLogger(__name__)
_inherited: list[logging.Handler] = []  # kept: their finalizers would close descriptors that are others' by now


def set_up(level: str, form: loglines.Form = "text") -> None:
    """In the supervisor, before the first fork."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(loglines.formatter(form, sys.stderr.fileno()))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for library in ("pyroute2", "asyncio"):  # `debug` is to show what fwd does
        logging.getLogger(library).setLevel(logging.WARNING)
    multiprocessing_logging.install_mp_handler()
    for queued in logging.getLogger().handlers:
        queued.addFilter(_Room(queued))


def tear_down() -> bool:
    """Stop the logging thread. False: nobody reads what it writes, and an orderly exit would wait for it for ever."""
    queued = list(logging.getLogger().handlers)
    multiprocessing_logging.uninstall_mp_handler()
    for handler in queued:
        handler.close()  # waits for some seconds at most
    return not any(thread.name.startswith(_THREAD) for thread in threading.enumerate())


class _Room(logging.Filter):
    """Lets a record into a handler's queue while there is room: who reads standard error may have stopped."""

    def __init__(self, queued: logging.Handler) -> None:
        super().__init__()
        self._queued = queued
        self._lost = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if _waiting(self._queued) >= WAITING_MAX:
            self._lost += 1
            return False
        if self._lost:
            lost, self._lost = self._lost, 0
            told = event("log.lost", name="supervisor", records=lost)
            log.warning("%d records of the log are lost: nobody read it", lost, extra=told)
        return True


def _waiting(handler: logging.Handler) -> int:
    """Records in the queue of multiprocessing-logging's handler."""
    queue = getattr(handler, "queue", None)
    return int(queue.qsize()) if queue is not None else 0


# -- in a child ------------------------------------------------------------------------------------------------------


class SocketHandler(logging.Handler):
    """Writes each record as one message to a socket, and never waits."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._sock = sock
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Send the record with its text made up, exceptions included."""
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        head = _HEAD.pack(record.levelno, record.created, self._lost)
        name, fields = getattr(record, "event", ""), json.dumps(getattr(record, "fields", {}), default=str)
        if len(fields) > _FIELDS_MAX:  # the text says it, as far as there is room
            fields = "{}"
        texts = "\0".join((record.name, name, fields, text))
        try:
            self._sock.send((head + texts.encode(errors="backslashreplace"))[:_RECORD_MAX])
            self._lost = 0
        except OSError:
            self._lost += 1


def log_to(sock: socket.socket) -> None:
    """Log to `sock` from now on, in a child. Tracebacks have no source lines: those are files, and it may open none."""
    _inherited.extend(logging.getLogger().handlers)
    logging.getLogger().handlers = [SocketHandler(sock)]
    linecache.clearcache()
    linecache.updatecache = lambda *_: []
    linecache.checkcache = lambda *_: None


# -- in the supervisor -----------------------------------------------------------------------------------------------


class ChildLog:
    """One process slot's way into the log. It outlives the slot's processes; `pid` is that of the present one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pid = 0
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.near.setblocking(False)
        self.far.setblocking(False)
        self.stderr_read, self.stderr = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._unfinished = b""
        self._lines, self._counted_at = float(BURST), 0.0
        self._lost, self._told_at = 0, float("-inf")

    def read(self, now: float) -> bool:
        """Put what waits into the logging tree, within the slot's share; False when that is used up for now."""
        self._lines = min(float(BURST), self._lines + (now - self._counted_at) * RATE)
        self._counted_at = now
        with contextlib.suppress(BlockingIOError):
            for _ in range(_TURN_MAX):
                if self._lines < 1:
                    break
                self._take(self.near.recv(_RECORD_MAX))
        with contextlib.suppress(BlockingIOError):
            if self._lines >= 1:
                self._take_stderr(os.read(self.stderr_read, _LINE_MAX))
        self._tell_lost(now)
        return self._lines >= 1

    def finish(self, now: float) -> None:
        """Read all that a process that has ended left; what is more than the slot's share is lost."""
        poll = select.poll()
        for fd in (self.near.fileno(), self.stderr_read):
            poll.register(fd, select.POLLIN)
        while self.read(now) and poll.poll(0):
            pass
        # So many and no more: a far end that was shut down would give empty messages for ever.
        with contextlib.suppress(BlockingIOError):
            for _ in range(_LEFT_MAX):
                _, lost = _decode(self.near.recv(_RECORD_MAX))
                self._lost += 1 + lost
        with contextlib.suppress(BlockingIOError):
            for _ in range(_LEFT_MAX):
                self._lost += os.read(self.stderr_read, _RECORD_MAX).count(b"\n")
        self._take_stderr(b"\n")
        self._told_at = float("-inf")
        self._tell_lost(now)

    def close(self) -> None:
        """Close all four ends."""
        self.near.close()
        self.far.close()
        os.close(self.stderr_read)
        os.close(self.stderr)

    def _take(self, data: bytes) -> None:
        record, lost = _decode(data)
        self._lost += lost
        self._lines -= 1
        if record is not None:
            self._handle(record)

    def _take_stderr(self, data: bytes) -> None:
        """Log each whole line that was written to standard error, and what is too long to wait for its end."""
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        if len(self._unfinished) >= _LINE_MAX:
            lines.append(self._unfinished)
            self._unfinished = b""
        for line in filter(None, lines):
            text = line.decode(errors="backslashreplace")
            told = {**event("process.stderr", name=self.name), "name": __name__}
            self._lines -= 1
            self._handle(_record(told, logging.ERROR, text, time.time()))

    def _handle(self, record: logging.LogRecord) -> None:
        record.process, record.processName = self.pid, self.name
        self._lines -= record.msg.count("\n")
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)

    def _tell_lost(self, now: float) -> None:
        if self._lost and now - self._told_at >= _LOST_EVERY_S:
            told = event("log.lost", name=self.name, records=self._lost)
            log.warning("%s: %d records of its log are lost: it writes too much", self.name, self._lost, extra=told)
            self._lost, self._told_at = 0, now


class Inbox:
    """The logs of all slots behind one descriptor, which is readable when one has something and may be read."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._logs: dict[int, ChildLog] = {}
        self._waiting: set[ChildLog] = set()  # that have used up their share

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._epoll.fileno()

    def add(self, child_log: ChildLog) -> None:
        """Read this slot's log from now on."""
        for fd in (child_log.near.fileno(), child_log.stderr_read):
            self._logs[fd] = child_log
            self._epoll.register(fd, select.EPOLLIN)

    def remove(self, child_log: ChildLog) -> None:
        """Forget a slot; what is forgotten already is not missed."""
        self._waiting.discard(child_log)
        for fd in (child_log.near.fileno(), child_log.stderr_read):
            self._logs.pop(fd, None)
            with contextlib.suppress(FileNotFoundError):
                self._epoll.unregister(fd)

    def read(self, now: float) -> None:
        """Read each log that waits, once, and those again that had to wait for their share."""
        ready = {self._logs[fd] for fd, _ in self._epoll.poll(0)}
        for child_log in ready | self._waiting:
            more = child_log.read(now)
            if more == (child_log in self._waiting):  # has changed
                self._listen(child_log, more)

    def _listen(self, child_log: ChildLog, on: bool) -> None:
        """Not to be woken again and again by what may not be read yet, nor by a far end that was shut down."""
        (self._waiting.discard if on else self._waiting.add)(child_log)
        for fd in (child_log.near.fileno(), child_log.stderr_read):
            if on:
                self._epoll.register(fd, select.EPOLLIN)
            else:
                self._epoll.unregister(fd)

    def close(self) -> None:
        """Close the descriptor; the logs are their slots' own."""
        self._epoll.close()


def _decode(data: bytes) -> tuple[logging.LogRecord | None, int]:
    """Return the record that `data` is, None if it is none, and how many the child says were lost before it."""
    texts = data[_HEAD.size :].decode(errors="ignore").split("\0", _TEXTS - 1)
    if len(texts) != _TEXTS:
        return None, 0
    level, created, lost = _HEAD.unpack_from(data)
    name, event_name, fields, text = texts
    # Names of loggers are kept for ever, so no new ones; and a time that the child chooses could hide a record.
    known = name if name.startswith("fwd.") and name in logging.root.manager.loggerDict else "fwd"
    now = time.time()
    level = min(_LEVELS, key=lambda one: abs(one - level))
    at = created if now - _LATE_S <= created <= now else now
    return _record({**_extra(event_name, fields), "name": known}, level, text, at), lost


def _record(extra: dict[str, object], level: int, text: str, created: float) -> logging.LogRecord:
    about = {"levelno": level, "levelname": logging.getLevelName(level), "msg": text}
    return logging.makeLogRecord({**extra, **about, "created": created, "msecs": created % 1 * 1000})


def _extra(name: str, fields: str) -> dict[str, object]:
    """What a record carries beside its message (loglines.py); nothing if it has no event."""
    if not _EVENT.fullmatch(name):
        return {}
    found = None
    if fields.count("[") + fields.count("{") <= _NESTED_MAX:
        with contextlib.suppress(ValueError):
            read = json.loads(fields)
            json.dumps(read, ensure_ascii=False, allow_nan=False).encode()  # what strict readers refuse goes no further
            found = read
    return {"event": name, "fields": found if isinstance(found, dict) else {}}

"""Log records of processes that are killed: the others' still arrive, and no bytes hurt the supervisor."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.process import BaseProcess

import pytest

from fwd.proto.logged import event
from fwd.supervise import logs

Pair = tuple[socket.socket, socket.socket]
_fork = multiprocessing.get_context("fork")


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    made = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
    for sock in (s for pair in made for s in pair):
        sock.setblocking(False)
    yield made
    for sock in (s for pair in made for s in pair):
        sock.close()


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def _log_for_ever(sock: socket.socket) -> None:
    logs.log_to(sock)
    number = 0
    while True:
        logging.getLogger("member").info("record %d of %s", number, "x" * 300)
        number += 1


def _log_once(sock: socket.socket, text: str) -> None:
    logs.log_to(sock)
    logging.getLogger("other").warning("%s", text)
    os._exit(0)


def _start(target: object, *arguments: object) -> BaseProcess:
    process = _fork.Process(target=target, args=arguments)  # type: ignore[arg-type]
    process.start()
    return process


def test_a_hundred_kills_of_a_logging_member(pairs: list[Pair], heard: pytest.LogCaptureFixture) -> None:
    (near, far), (other_near, other_far), _ = pairs
    for turn in range(100):
        process = _start(_log_for_ever, far)
        assert select.select([near], [], [], 10)[0], "it never logged"
        logs.feed(near)  # returns, however much comes meanwhile
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        logs.feed(near)
        other = _start(_log_once, other_far, f"other {turn}")
        other.join()
        logs.feed(other_near)
        assert heard.messages[-1] == f"other {turn}"
        heard.clear()
    assert multiprocessing.active_children() == []


def test_a_record_arrives_as_it_was(pairs: list[Pair], heard: pytest.LogCaptureFixture) -> None:
    near, far = pairs[0]
    handler = logs.SocketHandler(far)
    try:
        raise ValueError("the reason")
    except ValueError:
        record = logging.getLogger("fwd.x").makeRecord(
            "fwd.x", logging.ERROR, "f", 1, "100%% of %d", (7,), sys.exc_info()
        )
    handler.emit(record)
    logs.feed(near)
    (got,) = heard.records
    assert (got.name, got.levelno, got.process, got.created) == ("fwd.x", logging.ERROR, record.process, record.created)
    assert got.getMessage().startswith("100% of 7\nTraceback")
    assert "the reason" in got.getMessage()


@pytest.mark.parametrize("text", ["x" * 100_000, "é" * 100_000, "\0\n\x1b" * 30_000, "100% %s %d {} \\"])
def test_long_and_strange_texts_arrive(text: str, pairs: list[Pair], heard: pytest.LogCaptureFixture) -> None:
    near, far = pairs[0]
    _start(_log_once, far, text).join()
    logs.feed(near)
    (got,) = heard.messages
    assert len(got) > 5000 or got == text
    assert text.startswith(got)


def test_a_full_socket_loses_records_and_never_time(pairs: list[Pair]) -> None:
    handler = logs.SocketHandler(pairs[0][1])
    for _ in range(5000):
        handler.emit(logging.getLogger("m").makeRecord("m", logging.INFO, "f", 1, "x" * 1000, (), None))


HEAD = struct.Struct("=BId")
HOSTILE = [
    b"x", b"\0" * 12, b"\0" * 13, b"\0" * 15, b"\xff\xfe", b"\xff" * 16384, b"{" * 16384, os.urandom(16384),
    *(HEAD.pack(40, 1, t) + b"m\0p\0e\0{}\0text" for t in (float("nan"), float("inf"), -1.0, 1e300, 99e9)),
    HEAD.pack(40, 1, 1.0) + b"m\0p\0e\0{}", HEAD.pack(255, 2**32 - 1, 1.0) + b"\0\0\0\0",
    *(HEAD.pack(40, 1, 1.0) + b"m\0p\0event\0" + fields + b"\0%s %d"
      for fields in (b"", b"{", b"[]", b"[" * 9999, b'{"a": ' + b"9" * 9999 + b"}", b'{"a": NaN, "b": "\\ud800"}')),
]  # fmt: skip


@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
def test_no_bytes_hurt_the_supervisor(data: bytes, pairs: list[Pair], heard: pytest.LogCaptureFixture) -> None:
    near, far = pairs[0]
    far.send(data)
    logs.SocketHandler(far).emit(logging.getLogger("m").makeRecord("m", logging.INFO, "f", 1, "still here", (), None))
    logs.feed(near)
    assert heard.messages[-1] == "still here"


def test_the_level_holds_for_fed_records(pairs: list[Pair], heard: pytest.LogCaptureFixture) -> None:
    near, far = pairs[0]
    for level in (logging.DEBUG, logging.WARNING):
        logs.SocketHandler(far).emit(logging.getLogger("m").makeRecord("m", level, "f", 1, str(level), (), None))
    logs.feed(near)
    assert heard.messages == [str(logging.WARNING)]


def test_an_event_and_its_fields_arrive(pairs: list[Pair], heard: pytest.LogCaptureFixture) -> None:
    near, far = pairs[0]
    extra = event("some.thing", spi="0x101", count=3)
    logs.SocketHandler(far).emit(
        logging.getLogger("m").makeRecord("m", logging.INFO, "f", 1, "text", (), None, extra=extra)
    )
    logs.feed(near)
    (got,) = heard.records
    assert (got.event, got.fields) == ("some.thing", {"spi": "0x101", "count": 3})  # type: ignore[attr-defined]


def test_an_event_passes_through_the_queue_of_supervisor_keyd_and_agent() -> None:
    """In a process of its own, since the queue is the process's."""
    script = (
        "import logging, multiprocessing, sys\n"
        "from fwd.proto.logged import event\n"
        "from fwd.supervise import logs\n"
        "multiprocessing.set_start_method('fork')\n"
        "logs.set_up('info', 'json')\n"
        "def child():\n"
        "    logging.getLogger('fwd').info('said %d', 7, extra=event('some.thing', name='x'))\n"
        "process = multiprocessing.Process(target=child, name='keyd')\n"
        "process.start(); process.join(); logs.tear_down()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    told = json.loads(done.stderr)
    assert (told["process"], told["event"], told["message"]) == ("keyd", "some.thing", "said 7")
    assert told["fields"] == {"name": "x"}

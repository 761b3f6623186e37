"""Log records of children: they arrive as what they are, nobody's can pass for another's, and none hurts the rest."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import random
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess

import pytest

from fwd.proto.logged import event
from fwd.supervise import logs

_fork = multiprocessing.get_context("fork")
HEAD = struct.Struct("=BdI")
KNOWN = "fwd.supervise.logs"


@pytest.fixture
def slots() -> Iterator[list[logs.ChildLog]]:
    """Three process slots' logs."""
    made = [logs.ChildLog(name) for name in ("vpc2/member-0", "keyd", "agent")]
    for number, slot in enumerate(made):
        slot.pid = 1000 + number
    yield made
    for slot in made:
        slot.close()


@pytest.fixture
def inbox(slots: list[logs.ChildLog]) -> Iterator[logs.Inbox]:
    inbox = logs.Inbox()
    for slot in slots:
        inbox.add(slot)
    yield inbox
    inbox.close()


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def _log_for_ever(sock: socket.socket) -> None:
    logs.log_to(sock)
    number = 0
    while True:
        logging.getLogger("fwd.member").info("record %d of %s", number, "x" * 300)
        number += 1


def _log_once(sock: socket.socket, text: str) -> None:
    logs.log_to(sock)
    logging.getLogger("fwd.other").warning("%s", text)
    os._exit(0)


def _start(target: object, *arguments: object) -> BaseProcess:
    process = _fork.Process(target=target, args=arguments)  # type: ignore[arg-type]
    process.start()
    return process


def say(slot: logs.ChildLog, text: str, level: int = logging.INFO, **extra: object) -> None:
    """One record, as a child of this slot writes it."""
    made = logging.getLogger(KNOWN).makeRecord(KNOWN, level, "f", 1, text, (), None)
    vars(made).update(extra)
    logs.SocketHandler(slot.far).emit(made)


def raw(texts: bytes, level: int = logging.ERROR, at: float = 0.0, lost: int = 0) -> bytes:
    """A message as a child that was taken over may write it: logger, event, fields and text, with zeros between."""
    return HEAD.pack(level, at, lost) + texts


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.long)])
def test_kills_of_a_logging_member(slots: list[logs.ChildLog], heard: pytest.LogCaptureFixture, kills: int) -> None:
    slot, other_slot, _ = slots
    for turn in range(kills):
        process = _start(_log_for_ever, slot.far)
        assert select.select([slot.near], [], [], 10)[0], "it never logged"
        slot.read(turn * 60.0)  # returns, however much comes meanwhile
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        slot.finish(turn * 60.0)
        other = _start(_log_once, other_slot.far, f"other {turn}")
        other.join()
        other_slot.read(turn * 60.0)
        assert heard.messages[-1] == f"other {turn}"
        heard.clear()
    assert multiprocessing.active_children() == []


class _Shared(logging.Handler):
    """Stands for the supervisor's queue: what goes into it is seen in a pipe."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd

    def emit(self, record: logging.LogRecord) -> None:
        os.write(self._fd, record.getMessage().encode())


def test_a_child_leaves_the_supervisors_queue_alone(
    slots: list[logs.ChildLog], heard: pytest.LogCaptureFixture
) -> None:
    """One that is killed while it holds the queue's lock would silence all that share it."""
    read, write = os.pipe()
    queue, root = _Shared(write), logging.getLogger()
    root.addHandler(queue)
    try:
        other = _start(_log_once, slots[0].far, "by its own socket")
        other.join()
    finally:
        root.removeHandler(queue)
        os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == b""
    slots[0].read(0.0)
    assert heard.messages == ["by its own socket"]


def test_a_record_arrives_as_it_was(slots: list[logs.ChildLog], heard: pytest.LogCaptureFixture) -> None:
    handler = logs.SocketHandler(slots[0].far)
    try:
        raise ValueError("the reason")
    except ValueError:
        record = logging.getLogger(KNOWN).makeRecord(KNOWN, logging.ERROR, "f", 1, "100%% of %d", (7,), sys.exc_info())
    handler.emit(record)
    slots[0].read(0.0)
    (got,) = heard.records
    assert (got.name, got.levelno, got.created) == (KNOWN, logging.ERROR, record.created)
    assert got.getMessage().startswith("100% of 7\nTraceback")
    assert "the reason" in got.getMessage()


def test_process_and_pid_are_the_slots(slots: list[logs.ChildLog], heard: pytest.LogCaptureFixture) -> None:
    for slot in slots:
        say(slot, "text", process=1, processName="supervisor")
        slot.read(0.0)
    assert [(got.processName, got.process) for got in heard.records] == [
        ("vpc2/member-0", 1000), ("keyd", 1001), ("agent", 1002),
    ]  # fmt: skip


def test_a_logger_that_the_supervisor_does_not_know_is_not_made(
    slots: list[logs.ChildLog], heard: pytest.LogCaptureFixture
) -> None:
    for name in ("fwd.never.heard.of", "root", "", "multiprocessing"):
        slots[0].far.send(raw(name.encode() + b"\0\0{}\0text"))
    before = set(logging.root.manager.loggerDict)
    slots[0].read(0.0)
    assert [got.name for got in heard.records] == ["fwd"] * 4
    assert set(logging.root.manager.loggerDict) <= before | {"fwd"}


@pytest.mark.parametrize("at", [0.0, -1.0, 1e300, float("nan"), float("inf"), 99e9])
def test_a_time_that_cannot_be_is_not_believed(
    at: float, slots: list[logs.ChildLog], heard: pytest.LogCaptureFixture
) -> None:
    slots[0].far.send(raw(b"\0\0{}\0text", at=at))
    before = time.time()
    slots[0].read(0.0)
    assert before <= heard.records[0].created <= time.time()


@pytest.mark.parametrize(("said", "level"), [(0, 10), (21, 20), (200, 50), (255, 50)])
def test_levels_are_the_five(
    said: int, level: int, slots: list[logs.ChildLog], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    slots[0].far.send(raw(b"\0\0{}\0text", said))
    slots[0].read(0.0)
    assert caplog.records[0].levelno == level


@pytest.mark.parametrize("text", ["x" * 100_000, "é" * 100_000, "\0\n\x1b" * 30_000, "100% %s %d {} \\"])
def test_long_and_strange_texts_arrive(text: str, slots: list[logs.ChildLog], heard: pytest.LogCaptureFixture) -> None:
    _start(_log_once, slots[0].far, text).join()
    slots[0].read(0.0)
    (got,) = heard.messages
    assert len(got) > 5000 or got == text
    assert text.startswith(got)


def test_a_full_socket_loses_records_and_never_time_and_says_how_many(
    slots: list[logs.ChildLog], heard: pytest.LogCaptureFixture
) -> None:
    handler = logs.SocketHandler(slots[0].far)
    made = logging.getLogger(KNOWN).makeRecord(KNOWN, logging.INFO, "f", 1, "x" * 1000, (), None)
    for _ in range(5000):
        handler.emit(made)
    while slots[0].read(0.0) and select.select([slots[0].near], [], [], 0)[0]:
        pass
    taken = len(heard.records)
    handler.emit(made)
    slots[0].read(0.0)
    assert heard.records[-1].fields == {"name": "vpc2/member-0", "records": 5000 - taken}  # type: ignore[attr-defined]
    assert "records of its log are lost" in heard.messages[-1]


HOSTILE = [
    b"", b"x", b"\0" * 12, b"\0" * 13, b"\0" * 16, b"\xff\xfe", b"\xff" * 16384, b"{" * 16384,
    random.Random(1).randbytes(16384),
    raw(b"m\0e\0{}"), raw(b"\0\0\0", 255, 1.0, 2**32 - 1), raw(b"\0\0\0" + b"\n" * 16000),
    raw(b"m\0event\0" + b'{"a":' + b"[" * 700 + b"]" * 700 + b"}\0nested"),
    *(raw(b"m\0event\0" + fields + b"\0%s %d")
      for fields in (b"", b"{", b"[]", b"[" * 9999, b'{"a": ' + b"9" * 9999 + b"}", b'{"a": NaN, "b": "\\ud800"}')),
]  # fmt: skip


def test_what_an_ended_process_had_lost_before_what_is_not_read_any_more_counts_too(
    slots: list[logs.ChildLog], heard: pytest.LogCaptureFixture
) -> None:
    slot = slots[0]
    slot.read(1.0)
    slot._lines = 0.0  # its share is used up
    slot.far.send(raw(b"fwd\0\0{}\0one", lost=7))
    slot.far.send(raw(b"fwd\0\0{}\0another"))
    slot.finish(1.0)
    assert [record.fields["records"] for record in heard.records if hasattr(record, "fields")] == [9]


@pytest.mark.parametrize("value", [b"NaN", b"-Infinity", b"1e999", b'"\\ud800"', b'{"\\udfff": [1e999]}'])
def test_fields_that_strict_readers_of_json_refuse_are_left_out(
    value: bytes, slots: list[logs.ChildLog], heard: pytest.LogCaptureFixture
) -> None:
    slots[0].far.send(raw(b"m\0some.event\0" + b'{"a": ' + value + b"}\0text"))
    slots[0].read(0.0)
    assert vars(heard.records[-1])["fields"] == {}
    assert heard.messages[-1] == "text"


@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
def test_no_bytes_hurt_the_supervisor(data: bytes, slots: list[logs.ChildLog], heard: pytest.LogCaptureFixture) -> None:
    slots[0].far.send(data)
    say(slots[1], "still here")
    for slot in slots:
        slot.read(0.0)
    assert "still here" in heard.messages
    slots[0].finish(0.0)
    say(slots[0], "its successor's")
    slots[0].read(1000.0)
    assert heard.messages[-1] == "its successor's"
    for record in heard.records:
        pickle.dumps(record)  # as on its way through the supervisor's own queue


def test_a_far_end_that_was_shut_down_neither_holds_nor_wakes_the_supervisor(
    slots: list[logs.ChildLog], inbox: logs.Inbox, heard: pytest.LogCaptureFixture
) -> None:
    slots[0].far.shutdown(socket.SHUT_RDWR)
    for turn in range(100):
        say(slots[1], f"keyd {turn}")
        inbox.read(turn * 0.01)
    assert len([text for text in heard.messages if text.startswith("keyd")]) == 100
    assert not select.select([inbox], [], [], 0)[0], "the supervisor is wakened for what it may not read"
    slots[0].finish(1.0)  # returns


def test_who_floods_the_log_neither_holds_the_supervisor_nor_hides_others(
    slots: list[logs.ChildLog], inbox: logs.Inbox, heard: pytest.LogCaptureFixture
) -> None:
    """Most of the records are 16 KiB of empty lines."""

    def flood(slot: logs.ChildLog) -> None:
        slot.far.setblocking(True)
        while True:
            slot.far.send(raw(b"\0\0{}\0one"))
            slot.far.send(raw(b"\0\0{}\0" + b"\n" * 16000))

    process = _start(flood, slots[0])
    try:
        assert select.select([slots[0].near], [], [], 10)[0], "it never logged"
        for turn in range(100):
            say(slots[1], f"keyd {turn}")
            inbox.read(turn * 0.01)
        assert [text for text in heard.messages if text.startswith("keyd")] == [f"keyd {turn}" for turn in range(100)]
        assert sum(text.count("\n") + 1 for text in heard.messages) < 100 + logs.BURST + logs.RATE + 16001
        assert not select.select([inbox], [], [], 0)[0], "the supervisor is wakened for what it may not read"
    finally:
        process.kill()
        process.join()
    slots[0].finish(1.0)
    assert "records of its log are lost" in heard.messages[-1]


def test_what_the_interpreter_writes_by_itself_is_the_slots(
    slots: list[logs.ChildLog], inbox: logs.Inbox, heard: pytest.LogCaptureFixture
) -> None:
    """A traceback of faulthandler, in pieces; and a line that never ends."""
    for piece in (b"Fatal Python err", b"or: Aborted\n\nCurrent", b" thread\n"):
        os.write(slots[0].stderr, piece)
        inbox.read(0.0)
    assert heard.messages == ["Fatal Python error: Aborted", "Current thread"]
    assert {got.processName for got in heard.records} == {"vpc2/member-0"}
    os.write(slots[0].stderr, b"x" * 3000 + b"end")
    slots[0].finish(0.0)
    assert "".join(heard.messages[2:]) == "x" * 3000 + "end"


def test_the_level_holds_for_fed_records(slots: list[logs.ChildLog], heard: pytest.LogCaptureFixture) -> None:
    for level in (logging.DEBUG, logging.WARNING):
        say(slots[0], str(level), level)
    slots[0].read(0.0)
    assert heard.messages == [str(logging.WARNING)]


def test_an_event_and_its_fields_arrive(slots: list[logs.ChildLog], heard: pytest.LogCaptureFixture) -> None:
    say(slots[0], "text", **event("some.thing", spi="0x101", count=3))
    slots[0].read(0.0)
    (got,) = heard.records
    assert (got.event, got.fields) == ("some.thing", {"spi": "0x101", "count": 3})  # type: ignore[attr-defined]


def test_fields_that_are_too_long_do_not_take_their_record_along(
    slots: list[logs.ChildLog], heard: pytest.LogCaptureFixture
) -> None:
    say(slots[0], "text", **event("some.thing", reason="x" * 100_000))
    slots[0].read(0.0)
    (got,) = heard.records
    assert (got.message, got.event, got.fields) == ("text", "some.thing", {})  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["two words", "new\nline", "x" * 65, "Ä"])
def test_what_is_no_name_of_an_event_is_none(
    name: str, slots: list[logs.ChildLog], heard: pytest.LogCaptureFixture
) -> None:
    slots[0].far.send(raw(b"\0" + name.encode() + b"\0{}\0text"))
    slots[0].read(0.0)
    assert not hasattr(heard.records[0], "event")


def test_a_traceback_in_a_child_opens_no_source_file(slots: list[logs.ChildLog]) -> None:
    """Its system call filter would end it for that."""

    def fail() -> None:
        logs.log_to(slots[0].far)
        opened: list[str] = []
        sys.addaudithook(lambda what, args: opened.append(str(args[0])) if what == "open" else None)
        try:
            json.loads("{")
        except ValueError:
            logging.getLogger("fwd").exception("failed")
        os._exit(len(opened))

    process = _start(fail)
    process.join()
    assert process.exitcode == 0


def test_the_supervisors_own_records_pass_through_its_queue() -> None:
    """In a process of its own, since the queue is the process's."""
    script = (
        "import logging, multiprocessing\n"
        "from fwd.proto.logged import event\n"
        "from fwd.supervise import logs\n"
        "multiprocessing.set_start_method('fork')\n"
        "logs.set_up('info', 'json')\n"
        "logging.getLogger('fwd').info('said %d', 7, extra=event('some.thing', name='x'))\n"
        "logs.tear_down()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    told = json.loads(done.stderr)
    assert (told["event"], told["message"], told["fields"]) == ("some.thing", "said 7", {"name": "x"})


def test_a_childs_records_go_to_its_slot_and_not_to_the_supervisors_queue() -> None:
    """Which unpickles, and has a lock that a killed process would keep."""
    script = (
        "import logging, multiprocessing, os, socket\n"
        "from fwd.supervise import logs\n"
        "multiprocessing.set_start_method('fork')\n"
        "logs.set_up('info')\n"
        "near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "near.setblocking(False)\n"
        "if os.fork() == 0:\n"
        "    for queued in logging.getLogger().handlers:\n"
        "        queued.emit = lambda record: os._exit(9)\n"
        "    logs.log_to(far)\n"
        "    logging.getLogger('fwd').info('of a child')\n"
        "    os._exit(0)\n"
        "assert os.wait()[1] == 0\n"
        "assert b'of a child' in near.recv(65536)\n"
        "logs.tear_down()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_an_ended_process_left_is_read_whatever_number_its_descriptors_have() -> None:
    """A gateway of many peerings has thousands; select(2) knows 1024."""
    near, far = os.pipe()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    held = [os.dup(near) for _ in range(1100)]
    try:
        slot = logs.ChildLog("vpc2/member-0")
        slot.far.send(raw(b"\0\0{}\0the last word"))
        slot.finish(time.monotonic())
        with pytest.raises(BlockingIOError):
            slot.near.recv(1)
        slot.close()
    finally:
        for fd in (*held, near, far):
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_reader_that_has_stopped_costs_no_memory_and_holds_nobody_up() -> None:
    """The supervisor's own records: only so many wait, and its end does not wait for ever."""
    script = (
        "import logging, multiprocessing, os\n"
        "from fwd.supervise import logs\n"
        "multiprocessing.set_start_method('fork')\n"
        "logs.set_up('info')\n"
        "logs.WAITING_MAX = 2000\n"
        "for number in range(5000):\n"
        "    logging.getLogger('fwd').info('%d %s', number, 'x' * 100)\n"
        "(queued,) = logging.getLogger().handlers\n"
        "print(queued.queue.qsize(), logs.tear_down(), flush=True)\n"
        "os._exit(0)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        waiting, told = process.stdout.readline().split()
        assert process.wait(60) == 0
    assert (1000 < int(waiting) <= 2100, told) == (True, b"False")  # the lines that tell of losses come on top

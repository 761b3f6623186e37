"""How log records look: for people, for programs, for the journal; and that no text can pass for a record."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import tempfile
from datetime import datetime
from typing import Any

import pytest

from fwd.proto.logged import event
from fwd.supervise import loglines


def record(text: str = "words", level: int = logging.WARNING, **extra: Any) -> logging.LogRecord:
    made = logging.getLogger("x").makeRecord("x", level, "f", 1, text, (), None, extra=extra or None)
    made.processName = "vpc2/member-0"
    return made


def line(form: loglines.Form, made: logging.LogRecord, *, journal: bool = False) -> str:
    with tempfile.TemporaryFile() as stderr:
        stat = os.fstat(stderr.fileno())
        environ = {"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"} if journal else {}
        return loglines.formatter(form, stderr.fileno(), environ).format(made)


def test_text_has_time_level_process_and_event() -> None:
    text = line("text", record(**event("peering.down", peering="vpc2")))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} WARNING vpc2/member-0: words event=peering\.down", text)


def test_text_without_an_event() -> None:
    assert line("text", record()).endswith("WARNING vpc2/member-0: words")


def test_json_is_one_object_with_everything() -> None:
    made = record(**event("peering.down", peering="vpc2", members=[0, 1]))
    told = json.loads(line("json", made))
    assert datetime.fromisoformat(told.pop("time")).timestamp() == pytest.approx(made.created, abs=0.001)
    assert told == {
        "level": "warning", "process": "vpc2/member-0", "event": "peering.down", "message": "words",
        "fields": {"peering": "vpc2", "members": [0, 1]},
    }  # fmt: skip


def test_json_without_an_event_has_the_same_keys() -> None:
    told = json.loads(line("json", record()))
    assert list(told) == ["time", "level", "process", "event", "message", "fields"]
    assert (told["event"], told["fields"]) == (None, {})


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "\0\x1b[31m", "é\x85\u2028", "\ud800", '"}{'])
def test_json_is_one_line_whatever_the_text(text: str) -> None:
    written = line("json", record(text))
    assert len(written.splitlines()) == 1
    assert json.loads(written)["message"] == text


@pytest.mark.parametrize(
    ("level", "priority"), [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3)]
)
def test_the_journal_is_told_the_priority_and_not_the_time(level: int, priority: int) -> None:
    assert line("text", record(level=level), journal=True) == f"<{priority}>vpc2/member-0: words"
    assert line("json", record(level=level), journal=True).startswith(f'<{priority}>{{"time"')


def test_a_stream_that_was_redirected_is_not_the_journal() -> None:
    with tempfile.TemporaryFile() as other:
        stat = os.fstat(other.fileno())
        environ = {"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"}
        assert "WARNING" in loglines.formatter("text", 2, environ).format(record())


def traceback() -> logging.LogRecord:
    made = record("failed", **event("process.failed"))
    try:
        raise ValueError("the reason")
    except ValueError:
        made.exc_info = sys.exc_info()
    return made


def test_a_traceback_follows_indented() -> None:
    first, *rest = line("text", traceback()).split("\n")
    assert first.endswith("failed event=process.failed")
    assert rest[-1].strip() == "ValueError: the reason"
    assert all(text.startswith("  ") for text in rest)


def test_every_line_of_a_traceback_has_the_priority() -> None:
    lines = line("text", traceback(), journal=True).split("\n")
    assert len(lines) > 2
    assert all(text.startswith("<4>") for text in lines)


@pytest.mark.parametrize("journal", [False, True])
def test_no_text_can_pass_for_a_record(journal: bool) -> None:
    forged = "x\n<0>2026-01-01 00:00:00,000 ERROR keyd: all is lost\r\x1b[2K\x85y"
    written = line("text", record(forged), journal=journal)
    assert not set(written) & set("\r\x1b\x85")
    _, second = written.split("\n")
    assert second.removeprefix("<4>").startswith("  <0>2026")


def test_numbers_that_no_json_has_take_their_fields_along_and_not_the_line() -> None:
    told = json.loads(line("json", record(**event("some.thing", loss=float("nan")))), parse_constant=pytest.fail)
    assert (told["event"], told["message"], told["fields"]) == ("some.thing", "words", {})

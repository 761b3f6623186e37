"""How a log record looks as lines on standard error: text for people, JSON for programs, either for the journal.

Text ends in `event=NAME` if the record has a name (fwd/proto/logged.py); JSON has the fields as well:

    {"time": …, "level": …, "process": …, "event": …, "message": …, "fields": {…}}

On the journal's own stream (JOURNAL_STREAM, systemd.exec(5)) each line begins with its priority instead of the time.
No text can look like a record of its own: what follows its first line is indented, and control characters are written
as escapes.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Literal

Form = Literal["text", "json"]
_WITH_TIME: Final = "%(asctime)s %(levelname)s %(processName)s: %(message)s"

_ESCAPES: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code not in b"\n\t"} | {
    code: f"\\u{code:04x}"  # line ends of Unicode, and what turns the direction of writing
    for code in (0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A), 0xFEFF)
}
_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))  # sd-daemon(3); below: 7


def formatter(form: Form, fd: int, environ: Mapping[str, str] = os.environ) -> logging.Formatter:
    """For records that are written to descriptor `fd`."""
    journal = _is_journal(fd, environ.get("JOURNAL_STREAM", ""))
    return JsonLines(journal) if form == "json" else TextLines(journal)


def _is_journal(fd: int, stream: str) -> bool:
    """Whether `fd` is the stream that JOURNAL_STREAM names: it may have been redirected since."""
    stat = os.fstat(fd)
    return stream == f"{stat.st_dev}:{stat.st_ino}"


class TextLines(logging.Formatter):
    """One line a record, as a rule; a traceback goes on indented."""

    def __init__(self, journal: bool) -> None:
        super().__init__("%(processName)s: %(message)s" if journal else _WITH_TIME)
        self._journal = journal

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the standard library's name)
        text = super().formatMessage(record)
        event = getattr(record, "event", None)
        if event is None:
            return text
        first, newline, rest = text.partition("\n")
        return f"{first} event={event}{newline}{rest}"

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record).translate(_ESCAPES).replace("\n", "\n  ")
        return _with_priority(text, record.levelno) if self._journal else text


class JsonLines(logging.Formatter):
    """One object a line."""

    def __init__(self, journal: bool) -> None:
        super().__init__("%(message)s")
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        try:
            json.dumps(fields, default=str, allow_nan=False)
        except ValueError:  # no JSON has such numbers; the text says it
            fields = {}
        line = json.dumps(
            {
                "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
                "level": record.levelname.lower(),
                "process": record.processName,
                "event": getattr(record, "event", None),
                "message": super().format(record),
                "fields": fields,
            },
            default=str,
        )
        return _with_priority(line, record.levelno) if self._journal else line


def _with_priority(text: str, level: int) -> str:
    priority = next((number for least, number in _PRIORITIES if level >= least), 7)
    return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))

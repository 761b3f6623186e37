"""What a gateway's log must be: one line an event, each with time, level and process, and no key in any. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Final

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d\S* ")
_LINE: Final = re.compile(_TIME.pattern + r"(DEBUG|INFO|WARNING|ERROR) [^\s:]+: \S[^\x00-\x1f\x7f]*")
_DUMP: Final = ": Fatal Python error: Aborted"
_STDERR: Final = " event=process.stderr"
_HEX: Final = re.compile(r"[0-9a-f]{32,}", re.IGNORECASE)  # 128 bits or more; SPIs are 64 at most


def without_dumps(lines: Iterable[str]) -> tuple[list[str], int]:
    """The lines, and how many tracebacks were among them of processes that the watchdog has aborted: a machine that is
    busy with other things may keep one from its core for as long as it takes. Python writes those by itself.
    """
    kept, dumps = [], 0
    for line in lines:
        dumps += _DUMP in line
        if not line.endswith(_STDERR):
            kept.append(line)
    return kept, dumps


def odd_lines(lines: Iterable[str]) -> list[str]:
    """Those that are no line of fwd's log: of a traceback, torn, two in one, with control characters."""
    return [line for line in lines if not _LINE.fullmatch(line) or _TIME.search(line, 1)]


def with_keys(lines: Iterable[str], secret: str) -> list[str]:
    """Those with the pre-shared key in them, or with as many hexadecimal digits in a row as a key has."""
    return [line for line in lines if secret in line or _HEX.search(line)]


def moment(text: str) -> float:
    """The engine's time, nanoseconds and Z, as seconds of the epoch."""
    seconds, _, rest = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{seconds}+00:00").timestamp() + float(f"0.{rest or 0}")

"""Command lines of the lab's small tools: bad input is one line on stderr and exit status 2."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn


class OneLineParser(argparse.ArgumentParser):
    """An ArgumentParser that says what is wrong, and where to read more, in one line."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message} (see --help)", file=sys.stderr)
        raise SystemExit(2)


def fail(program: str, message: str) -> NoReturn:
    """End with one line on stderr and exit status 2."""
    print(f"{program}: {message}", file=sys.stderr)
    raise SystemExit(2)


def magic(text: str) -> bytes:
    """16 bytes in hex: the mark that a probe's payload bears and a capture looks for."""
    value = bytes.fromhex(text)
    if len(value) != 16:
        raise ValueError("expected 32 hex digits")
    return value


def ports(text: str) -> range:
    """`4500-4503` or `4500`."""
    first, _, last = text.partition("-")
    found = range(int(first), int(last or first) + 1)
    if not found or found[0] < 1 or found[-1] > 65535:
        raise ValueError("expected ports such as 4500-4503")
    return found


def positive(text: str) -> float:
    """A number above zero."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError("expected a number above zero")
    return value


def new_file(text: str) -> Path:
    """A file that can be written; found out before the work, not after it."""
    path = Path(text)
    try:
        path.open("w").close()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be written: {error.strerror}") from None
    return path

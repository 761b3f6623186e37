"""Read a TOML file into a checked model: any of fwd's configurations.

Refuses, as ConfigError of one line: a file that cannot be read, that others may write, that is no text or no TOML, and
whatever the model does not take, by key and reason.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from fwd.files import why_not_believed
from fwd.model.mistakes import first_reason
from fwd.model.places import remedy
from fwd.model.words import ConfigError

_M = TypeVar("_M", bound=BaseModel)
FILE_OCTETS_MAX: Final = 4 << 20
_BYTE_ORDER_MARK: Final = "\ufeff"  # as Windows' editors write it
# Of other encodings: their marks, and what of theirs is in no UTF-8 text that people write.
_OTHERS: Final = {
    "UTF-32": (b"\xff\xfe\0\0", b"\0\0\xfe\xff"), "UTF-16": (b"\xff\xfe", b"\xfe\xff"),
}  # fmt: skip


def parse_as(model: type[_M], text: str, source: str, tables: Mapping[str, type[BaseModel]]) -> _M:
    """Parse a configuration's text; `source` names it in errors, and `tables` what may be meant by a wrong key."""
    text = text.lstrip(_BYTE_ORDER_MARK)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not TOML: {error}{remedy(str(error), text)}") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{source}: not TOML: nested too deeply, or a number of too many digits") from None
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{source}: {first_reason(error, tables, data, text)}") from None


def read_text(path: Path) -> str:
    """Read the file at `path`; links are followed."""
    try:
        with open(path, "rb", opener=_at_once) as file:
            about, data = os.fstat(file.fileno()), file.read(FILE_OCTETS_MAX + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if stat.S_ISREG(about.st_mode) and (reason := why_not_believed(about)):
        raise ConfigError(f"{path}: configuration {reason}")
    return text_of(data, str(path))


def _at_once(path: str, flags: int) -> int:
    """Open a file for reading; a FIFO to which nobody writes is empty, and nobody is waited for."""
    fd = os.open(path, flags | os.O_NONBLOCK)
    os.set_blocking(fd, True)
    return fd


def text_of(data: bytes, source: str) -> str:
    """Return the text that a file holds; `source` names it in errors."""
    if len(data) > FILE_OCTETS_MAX:
        raise ConfigError(f"{source}: more than {FILE_OCTETS_MAX} octets: is this a configuration?")
    for encoding, marks in _OTHERS.items():
        if data.startswith(marks):
            raise ConfigError(f"{source}: is {encoding}: save it as UTF-8")
    if b"\0" in data:
        raise ConfigError(f"{source}: has octets of zero in it, as UTF-16 has: save it as UTF-8")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{source}: not UTF-8 text, at line {line}: save it as UTF-8") from None

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
from fwd.model.words import ConfigError

_M = TypeVar("_M", bound=BaseModel)
FILE_OCTETS_MAX: Final = 4 << 20
_BYTE_ORDER_MARK, _UTF_16_MARKS = "\ufeff", (b"\xff\xfe", b"\xfe\xff")  # as Windows' editors write them


def parse_as(model: type[_M], text: str, source: str, tables: Mapping[str, type[BaseModel]]) -> _M:
    """Parse a configuration's text; `source` names it in errors, and `tables` what may be meant by a wrong key."""
    try:
        data = tomllib.loads(text.removeprefix(_BYTE_ORDER_MARK))
    except tomllib.TOMLDecodeError as error:
        hint = "; texts are in quotes" if str(error).startswith("Invalid value") else ""
        raise ConfigError(f"{source}: not TOML: {error}{hint}") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{source}: not TOML: nested too deeply, or a number of too many digits") from None
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{source}: {first_reason(error, tables)}") from None


def read_text(path: Path) -> str:
    """Read the file at `path`; links are followed."""
    try:
        with path.open("rb") as file:
            about, data = os.fstat(file.fileno()), file.read(FILE_OCTETS_MAX + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if stat.S_ISREG(about.st_mode) and (reason := why_not_believed(about)):
        raise ConfigError(f"{path}: configuration {reason}")
    return text_of(data, str(path))


def text_of(data: bytes, source: str) -> str:
    """Return the text that a file holds; `source` names it in errors."""
    if len(data) > FILE_OCTETS_MAX:
        raise ConfigError(f"{source}: more than {FILE_OCTETS_MAX} octets: is this a configuration?")
    if data.startswith(_UTF_16_MARKS):
        raise ConfigError(f"{source}: is UTF-16: save it as UTF-8")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{source}: not UTF-8 text, at line {line}: save it as UTF-8") from None

"""A configuration that comes as a descriptor, read and checked by a child without rights.

The supervisor waits for nobody: it looks whether the child has said something. What it says is a line of JSON, with the
checked model or a refusal, and behind it the text as it stands; a child that says neither within DEADLINE_S is ended,
and nothing is taken. A line of more than the largest configuration needs is not looked into: that costs the loop which
watches everybody. Whatever the descriptor is, no more than a configuration's size is read of it, and by offset: of what
has none, a FIFO or a socket, nothing at all.
"""

from __future__ import annotations

import errno
import json
import os
from typing import Any, Final

from fwd.model.config import Config, parse_octets
from fwd.model.toml import FILE_OCTETS_MAX
from fwd.model.words import ConfigError
from fwd.proto.errors import UserError
from fwd.supervise import privileges, sandbox
from fwd.supervise.asked import Asked, say
from fwd.supervise.users import User

_LINE_BYTES_MAX: Final = 2 << 20  # 64 peerings of 255 subnets a side need a third of it …
_LINE_THINGS_MAX: Final = 80_000  # … and half of these
_SAID_BYTES_MAX: Final = _LINE_BYTES_MAX + 1 + FILE_OCTETS_MAX
_CHILD_OCTETS: Final = 1 << 30  # beyond what it inherits
REASON_CHARACTERS_MAX: Final = 1000


class Reading(Asked):
    """A child that reads one configuration, as `user`."""

    def __init__(self, file: int, source: str, user: User, now: float) -> None:
        super().__init__(lambda far, parent: _read(file, source, user, parent, far), _SAID_BYTES_MAX, now)

    def heard(self, now: float) -> tuple[Config, str] | None:
        """Return the configuration and its text once they are here; None: not yet. Raises UserError."""
        said = self.said(now)
        return None if said is None else answer_in(said)


def answer_in(said: bytes) -> tuple[Config, str]:
    """Return what a child has said: a checked configuration, and its text. Raises UserError with the child's reason."""
    line, _, text = said.partition(b"\n")
    try:
        if is_too_much(line) or len(text) > FILE_OCTETS_MAX:
            raise ValueError("more than a configuration")
        words = json.loads(line)
        if "error" in words:
            reason = str(words["error"])[:REASON_CHARACTERS_MAX]
        else:
            return Config.model_validate(words["config"]), text.decode()
    except (ValueError, TypeError, KeyError, RecursionError):
        reason = "it could not be read: the process that reads it has ended without a word"
    raise UserError("".join(one if one.isprintable() else " " for one in reason))


def is_too_much(line: bytes) -> bool:
    """Whether a line of JSON is of more than any configuration; each entry of a list or an object has a comma."""
    return len(line) > _LINE_BYTES_MAX or line.count(b",") > _LINE_THINGS_MAX


# -- the child ------------------------------------------------------------------------------------------------------


def _read(file: int, source: str, user: User, parent: int, far: int) -> None:
    """Give up root, read, check, and say what comes of it."""
    privileges.shed("apply", lambda: {far, file}, lambda: None)
    privileges.limit_short(_CHILD_OCTETS)
    privileges.drop(*user, parent)
    sandbox.enter("keyd")

    said: dict[str, Any]
    text = ""
    try:
        text, config = parse_octets(_octets(file), source)
        said = {"config": config.model_dump(mode="json")}
    except UserError as error:
        said = {"error": str(error)}
    except (OSError, MemoryError) as error:
        said = {"error": f"{source}: cannot be read: {getattr(error, 'strerror', None) or error!r}"}
    line = json.dumps(said).encode()
    if is_too_much(line):
        line = json.dumps({"error": f"{source}: more than fwd takes while it runs"}).encode()
    say(far, line, b"\n", text.encode())


def _octets(file: int) -> bytes:
    """Read a file from its beginning. Raises ConfigError if it is none."""
    found = bytearray()
    try:
        while len(found) <= FILE_OCTETS_MAX and (data := os.pread(file, FILE_OCTETS_MAX + 1 - len(found), len(found))):
            found += data
    except OSError as error:
        if error.errno not in (errno.ESPIPE, errno.EISDIR):
            raise
        raise ConfigError("what was given is not a regular file") from None
    return bytes(found)

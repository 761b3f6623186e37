"""`fwd apply` and `fwd confirm`: hand a configuration to the supervisor, and print its plan and what came of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from fwd.control.admin import answers, tell
from fwd.proto.errors import UserError


def apply(control: Path, file: Path, *, dry_run: bool, confirm_s: int) -> Iterator[str]:
    """Gives line after line, as they come. Raises UserError; if that comes first, nothing has changed."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        said = answers(control, "apply", fd, name=str(file)[-200:], dry_run=dry_run, confirm_s=confirm_s)
        with contextlib.closing(said):
            first = next(said)
            yield from first["plan"] or ["nothing differs from what is in force"]
            if dry_run:
                yield "dry run: nothing has changed"
                return
            waiting = next(said)["waiting"]
    finally:
        os.close(fd)

    yield from (f"{name}: not in force yet: {why or 'it is tried again'}" for name, why in waiting.items())
    if confirm_s:
        yield f"in force for {confirm_s} s: it goes unless `fwd confirm` comes"
    else:
        yield "applied; what the configuration file held is beside it, .before"


def accept_shrink(control: Path) -> str:
    """Let the controller's document pass that is held; returns one line for the user."""
    term, generation = tell(control, "accept-shrink")["accepted"]
    return f"the controller's document {term}.{generation} is in force"


def confirm(control: Path) -> str:
    """Returns one line for the user."""
    return f"{tell(control, 'confirm')['confirmed']}: confirmed; what it held is beside it, .before"

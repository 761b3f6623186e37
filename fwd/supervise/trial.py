"""A configuration on trial: in force, and gone again unless it is confirmed in time.

The configuration file is what a gateway starts with, so it is replaced by what has been confirmed, and by nothing else.
What is on trial lies beside it (`fwd.toml.pending`) with the time that it has, by clocks that go on without fwd: the
supervisor that starts next tries it for as long as is left. A file that was edited in its place and is tried holds what
is in force again until it is confirmed, and what was edited lies beside it (`fwd.toml.edited`). What the file held
before it was replaced is kept (`fwd.toml.before`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fwd.files import why_not_believed
from fwd.model.words import DAY_S
from fwd.proto.logged import event

log = logging.getLogger(__name__)

CONFIRM_S_MAX: Final = DAY_S
_PENDING_BYTES_MAX: Final = 32 << 20  # the text as JSON
_OWNER_ONLY: Final = 0o600
_NUMBERS: Final = ("seconds", "began_since_boot_s", "began_of_day_s")


@dataclass(frozen=True)
class Now:
    """What two clocks say: of the boot, which nobody sets, asleep or not; and of the day, which goes on over a boot."""

    since_boot_s: float
    of_day_s: float


def now() -> Now:
    """Look at both clocks."""
    return Now(time.clock_gettime(time.CLOCK_BOOTTIME), time.time())


@dataclass(frozen=True)
class Trial:
    """What is tried, since when, and for how long."""

    text: str
    seconds: float
    began: Now

    def left_s(self, at: Now) -> float:
        """Return how long it may go on in the boot that it began in; 0: it is to go back."""
        past_s = at.since_boot_s - self.began.since_boot_s
        return max(0.0, self.seconds - past_s) if past_s >= 0 else 0.0

    def left_after_restart_s(self, at: Now) -> float:
        """Return how long it may go on if fwd has begun anew, or the machine has, which the day's clock tells, too."""
        past_s = at.of_day_s - self.began.of_day_s
        return min(self.left_s(at), max(0.0, self.seconds - past_s)) if past_s >= 0 else 0.0


def trial_in(data: bytes) -> Trial | None:
    """Return the trial that a pending file holds; None if it holds none."""
    try:
        words = json.loads(data)
        text, numbers = words["text"], [float(words[name]) for name in _NUMBERS]
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None
    if not isinstance(text, str) or not all(math.isfinite(one) for one in numbers) or numbers[0] > CONFIRM_S_MAX:
        return None
    return Trial(text, numbers[0], Now(*numbers[1:]))


def as_data(trial: Trial) -> bytes:
    """Return what a pending file holds."""
    numbers = (trial.seconds, trial.began.since_boot_s, trial.began.of_day_s)
    return json.dumps({"text": trial.text, **dict(zip(_NUMBERS, numbers, strict=True))}).encode()


class Store:
    """The configuration file, and what lies beside it. Links are followed each time, to where they lead then.

    The file itself is replaced: a link stays, and so does what it led to before somebody has turned it.
    """

    def __init__(self, path: Path) -> None:
        self._named = path.absolute()
        self._kept = set[Path]()  # what is on trial, wherever it lies
        self._in_force = b""
        self.note_in_force()

    @property
    def path(self) -> Path:
        """Return where the file is now."""
        return Path(os.path.realpath(self._named))

    def _beside(self, ending: str) -> Path:
        path = self.path
        return path.with_name(f"{path.name}.{ending}")

    def note_in_force(self) -> None:
        """Take note that what the file holds is in force: fwd has just read it."""
        with contextlib.suppress(OSError):
            self._in_force = self.path.read_bytes()

    def load(self) -> Trial | None:
        """Return what was on trial when fwd ended last. What nobody but root can have written is believed."""
        with contextlib.suppress(OSError):
            fd = os.open(self._beside("pending"), os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(fd, "rb") as file:
                about = os.fstat(fd)
                if stat.S_ISREG(about.st_mode) and not why_not_believed(about):
                    return trial_in(file.read(_PENDING_BYTES_MAX))
        return None

    def keep(self, trial: Trial) -> None:
        """Have it on disk, whatever becomes of this process, and not as the configuration file.

        Raises OSError; then nothing is kept.
        """
        path, pending = self.path, self._beside("pending")
        about, data = path.stat(), trial.text.encode()
        with (
            _prepared(pending, as_data(trial), None) as put,
            _prepared(self._beside("edited"), data, about) as put_aside,
            _prepared(path, self._in_force, about) as put_back,
        ):
            put()
            self._kept.add(pending)
            if path.read_bytes() == data != self._in_force:
                put_aside()
                put_back()

    def drop(self) -> None:
        """Have nothing on trial any more. Raises OSError."""
        for pending in (*self._kept, self._beside("pending")):
            pending.unlink(missing_ok=True)
        self._kept.clear()

    def replace(self, text: str) -> None:
        """Have this as the configuration file, its mode and owner kept, and the former beside it.

        Raises OSError; then both are as they were.
        """
        path = self.path
        about, data, held = path.stat(), text.encode(), path.read_bytes()
        former = self._in_force if held == data else held  # it was edited in its place
        with _prepared(path, data, about) as put, _prepared(self._beside("before"), former, about) as put_former:
            put_former()
            put()
        self._in_force = data
        with contextlib.suppress(OSError):
            self._beside("edited").unlink()


@contextlib.contextmanager
def _prepared(path: Path, data: bytes, like: os.stat_result | None) -> Iterator[Callable[[], None]]:
    """Write a file whole, beside its place; what is given puts it there. Its mode and owner: another's, or its owner's.

    What can fail does so before it is in its place.
    """
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _OWNER_ONLY)
        with os.fdopen(fd, "wb") as file:
            mine = os.fstat(fd)
            if like is not None:
                if (like.st_uid, like.st_gid) != (mine.st_uid, mine.st_gid):
                    os.fchown(fd, like.st_uid, like.st_gid)
                os.fchmod(fd, stat.S_IMODE(like.st_mode))
            file.write(data)
            file.flush()
            os.fsync(fd)
        yield lambda: _put(new, path, directory)
    finally:
        new.unlink(missing_ok=True)
        os.close(directory)


def _put(new: Path, path: Path, directory: int) -> None:
    """Put a file in its place. It is there then, though a machine that loses power at once may not know it any more."""
    new.rename(path)
    try:
        os.fsync(directory)
    except OSError as error:
        told = event("config.not_synced", path=str(path), reason=error.strerror)
        log.warning("%s is written, perhaps not to the disk yet: %s", path, error.strerror, extra=told)

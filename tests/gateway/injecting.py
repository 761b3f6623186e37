"""`fwd demux` in which every call that the supervisor's loop makes fails once: `injecting.py FILE CONFIG SPARED WHERE`.

A profile hook sees each call whose caller is a function of fwd.supervise under the loop, of Python or of C, so a call
that is new in the code is tried without a word here. Each pair of caller and callee fails once, with the next kind of
exception, and one in a turn. What is done for the peering SPARED, or for its children, never fails.
WHERE is `changes`, for what SIGHUP and the attempts after it do, or `turns`, for all else. The places that have failed
are written to FILE, one a line; nothing fails before FILE is there, nor when it is gone.
"""

from __future__ import annotations

import errno
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from fwd.supervise import policy, running, supervisor

HERE = str(Path(supervisor.__file__).parent)
RETRY_S = 0.1  # what failed is to be tried again soon
CHANGES = {"_re_read", "_settle"}
# What deals with trouble, and comes after it alone; and signal handlers, which only set a flag.
NEVER = {"note", "reason", "_tell_troubles", "_on_stop", "_on_reload"}


def kinds() -> Iterator[Exception]:
    for make in itertools.cycle(
        (
            lambda: OSError(errno.EMFILE, "Too many open files"),
            lambda: NetlinkError(errno.ENOBUFS, "injected"),
            lambda: ValueError("injected"),
            lambda: RuntimeError("injected"),
            lambda: OSError(errno.ENOMEM, "Cannot allocate memory"),
            lambda: MemoryError(),
        )
    ):
        yield make()


class Injector:
    def __init__(self, record: Path, spared: str, where: str) -> None:
        self._record = record
        self._spared = spared
        self._changes = where == "changes"
        self._pid = os.getpid()
        self._kinds = kinds()
        self._seen: set[tuple[str, str, str]] = set()
        self._armed = False

    def turn(self) -> None:
        """The loop begins another turn."""
        self._armed = self._record.exists()
        sys.setprofile(self.hook)  # it is gone after each exception

    def hook(self, frame: FrameType, what: str, argument: Any) -> None:
        if os.getpid() != self._pid:
            sys.setprofile(None)
            return
        if not self._armed or what not in ("call", "c_call"):
            return
        caller = frame if what == "c_call" else frame.f_back
        callee = argument.__name__ if what == "c_call" else frame.f_code.co_name
        if caller is None or not caller.f_code.co_filename.startswith(HERE) or not self._may_fail(caller, callee):
            return
        place = (Path(caller.f_code.co_filename).name, caller.f_code.co_name, callee)
        if place not in self._seen:
            self._seen.add(place)
            self._armed = False
            try:
                fd = os.open(self._record, os.O_WRONLY | os.O_APPEND)
            except FileNotFoundError:
                return
            with os.fdopen(fd, "w") as file:
                file.write(f"{place[0]}:{caller.f_lineno} {caller.f_code.co_name} → {callee}\n")
            raise next(self._kinds)

    def _may_fail(self, caller: FrameType, callee: str) -> bool:
        frame: FrameType | None = caller
        above = {callee}
        while frame is not None and frame.f_code.co_name != "_loop":
            if frame.f_code.co_name in NEVER or callee in NEVER or self._is_spared(frame):
                return False
            above.add(frame.f_code.co_name)
            frame = frame.f_back
        return frame is not None and "_turn" in above and bool(above & CHANGES) == self._changes

    def _is_spared(self, frame: FrameType) -> bool:
        for name in ("child", "parts", "peering", "name", "self"):
            thing = frame.f_locals.get(name)
            thing = getattr(thing, "peering", thing)
            thing = getattr(thing, "name", thing)
            if isinstance(thing, str) and thing.split("/")[0] == self._spared:
                return True
        return False


def main() -> int:
    record, config, spared, where = sys.argv[1:]
    injector = Injector(Path(record), spared, where)
    turn = supervisor.Supervisor._turn

    def profiled(self: supervisor.Supervisor) -> None:
        injector.turn()
        turn(self)

    policy.STORM, policy.BACKOFF_S = 10**9, 0.0  # type: ignore[misc]  # children are begun again at once
    supervisor.RETRY_S = RETRY_S  # type: ignore[attr-defined]
    supervisor.Supervisor._turn = profiled  # type: ignore[method-assign]
    return running.run(Path(config))


if __name__ == "__main__":
    sys.exit(main())

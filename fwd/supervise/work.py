"""Which processes rest, and for which of those work waits: a descriptor of theirs is readable.

A process that rests (datapath.shared) turns as soon as something comes. One that does not, though work waits, hangs or
is starved; so the supervisor, which has every descriptor, looks at those of all that rest with one system call, which
costs by what is readable and not by how many there are. A process that is busy is not watched: its packets wake it
alone. While a heartbeat stays the same time to come, its process has not turned, and nothing else of it is looked at:
of hundreds that rest a look compares one word each.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Mapping
from typing import Final

from fwd.supervise.children import Child

_LATE_S: Final = 0.05  # hundreds whose rest is over in the same moment take their time, one after the other


class Work:
    """Knows whose each descriptor is. Call `changed` when one is closed: its number may be another's next."""

    def __init__(self) -> None:
        self.waits: set[str] = set()  # names of the children that rest, and for which there was some at the last look
        # Those of which nothing was new when they were seen to rest, where their heartbeats are, and what those said.
        self._resting: dict[str, tuple[Child, memoryview, int]] = {}
        self._looked_at = 0.0  # the last time that all of these were compared
        self._watched: dict[str, set[int]] = {}
        self._of: dict[int, str] = {}
        self._epoll = select.epoll()
        self._has_changed = False

    def changed(self) -> None:
        """Ask those that are watched for their descriptors anew at the next look."""
        self._has_changed = True

    def close(self) -> None:
        """Watch nobody any more."""
        self._epoll.close()

    def look(self, children: Mapping[str, Child]) -> None:
        """Find those that rest though work waits for them."""
        self.waits = set()
        if self._has_changed:
            self._watch_anew(children)
        ready = self._epoll.poll(0, max(1, len(self._of)))
        self.waits = {self._of[fd] for fd, events in ready if events & select.EPOLLIN and fd in self._of}
        self._has_changed |= any(fd not in self._of for fd, _ in ready)  # closed here, and open in a child still

    def astir(self, children: Mapping[str, Child], now: float) -> list[Child]:
        """Return all but those that have not turned since `rests`, need not have, and for which no work waits."""
        now_ns = int((now - _LATE_S) * 1e9)
        for child in [
            child
            for child, heartbeat, until_ns in self._resting.values()
            if child.process is None or heartbeat[0] != until_ns or until_ns <= now_ns or child.name in self.waits
        ]:
            self._stir(child)
        self._looked_at = now
        return [child for name, child in children.items() if name not in self._resting]

    def rests(self, child: Child, until_ns: int) -> None:
        """Take note of a process that rests, and of which nothing is new. `until_ns`: its heartbeat.

        Until it stirs, its last turn counts as one to come: nobody takes it for late.
        """
        self._resting[child.name] = child, child.words.heartbeat, until_ns
        child.life.turned_at = until_ns / 1e9

    def _stir(self, child: Child) -> None:
        """Compare it no more. A silence counts from when it was last seen to rest rightly."""
        if self._resting.pop(child.name, None) is not None:
            child.life.turned_at = min(child.life.turned_at, self._looked_at)

    def stirs(self, child: Child, says_it_rests: bool) -> None:
        """Look closely at a process from now on; while it says that it rests, be that so or not, it stays watched."""
        self._stir(child)
        if not says_it_rests:
            self.unwatch(child)

    def watch(self, child: Child) -> None:
        """From the next look on, see work that waits for a process that rests."""
        if child.name in self._watched:
            return
        self._watched[child.name] = fds = set[int]()
        try:
            for fd in child.inputs():
                self._epoll.register(fd, select.EPOLLIN)
                self._of[fd] = child.name
                fds.add(fd)
        except BaseException:
            self.unwatch(child)
            raise

    def unwatch(self, child: Child) -> None:
        """See no more what waits for a process, since it does not rest, or cannot work."""
        for fd in self._watched.pop(child.name, ()):
            del self._of[fd]
            with contextlib.suppress(OSError):  # it has just been closed
                self._epoll.unregister(fd)

    def _watch_anew(self, children: Mapping[str, Child]) -> None:
        """Take another epoll: this one goes on to tell of what is closed here, as long as a child has it open."""
        epoll, watched, of = select.epoll(), dict[str, set[int]](), dict[int, str]()
        for name in self._watched.keys() & children.keys():
            watched[name] = children[name].inputs()
            for fd in watched[name]:
                epoll.register(fd, select.EPOLLIN)
                of[fd] = name
        self._epoll.close()
        self._epoll, self._watched, self._of, self._has_changed = epoll, watched, of, False

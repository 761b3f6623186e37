"""Which processes have work that waits for them: a descriptor of theirs is readable.

A process that rests (datapath.shared) turns as soon as something comes. One that does not, though work waits, hangs or
is starved; so the supervisor, which has every descriptor, looks at all of them with one system call.
"""

from __future__ import annotations

import select
from collections.abc import Iterable

from fwd.supervise.children import Child


class Work:
    """Knows whose each descriptor is. Call `changed` when one is closed: its number may be another's next."""

    def __init__(self) -> None:
        self.waits: set[str] = set()  # names of the children for which there was some at the last look
        self._poll: select.poll | None = None
        self._of: dict[int, str] = {}

    def changed(self) -> None:
        """Ask for everybody's descriptors anew at the next look."""
        self._poll = None

    def look(self, children: Iterable[Child]) -> None:
        """Find those of `children` for which work waits."""
        self.waits = set()
        if self._poll is None:
            self._of = {fd: child.name for child in children for fd in child.inputs()}
            poll = select.poll()
            for fd in self._of:
                poll.register(fd, select.POLLIN)
            self._poll = poll
        self.waits = {self._of[fd] for fd, events in self._poll.poll(0) if events & select.POLLIN}

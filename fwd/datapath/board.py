"""A text in shared memory that one process writes and others read."""

from __future__ import annotations

from typing import Final

from fwd.datapath.memory import anonymous

_PAGE_BYTES: Final = 4096
_TRIES: Final = 16


class Board:
    """A text that one process writes and others read: they get the newest or the one before, and always a whole one.

    Two halves and a commit word, as in CounterBlock.
    """

    SIZE = 256 * 1024
    BYTES = _PAGE_BYTES + 2 * SIZE  # of its memory

    def __init__(self, view: memoryview | None = None) -> None:
        view = anonymous({"": self.BYTES})[""] if view is None else view
        self._words = view[:_PAGE_BYTES].cast("Q")  # commit, length of either half
        self._halves = (view[_PAGE_BYTES : _PAGE_BYTES + self.SIZE], view[_PAGE_BYTES + self.SIZE : self.BYTES])

    @property
    def version(self) -> int:
        """A number that changes with each text; 0: none was put."""
        return self._words[0]

    def put(self, text: bytes) -> None:
        """Write a text of SIZE octets at most. Its writer only."""
        if len(text) <= self.SIZE:
            commit = self._words[0] + 1 & 2**64 - 1  # whatever a predecessor has left there
            self._halves[commit & 1][: len(text)] = text
            self._words[1 + (commit & 1)] = len(text)
            self._words[0] = commit

    def get(self) -> bytes:
        """Read the text that was put last; empty: none was. A writer that never rests gets read as it stands."""
        for _ in range(_TRIES):
            commit = self._words[0]
            text = bytes(self._halves[commit & 1][: self._words[1 + (commit & 1)]])
            if self._words[0] == commit:  # else the half may have been written to meanwhile
                break
        return text


class Mailbox(Board):
    """A board for what came over the net whole: a controller's document, of whose size others see to it."""

    SIZE = (4 << 20) + _PAGE_BYTES
    BYTES = _PAGE_BYTES + 2 * SIZE

"""A reader of counters beside their writer: what it gets is from one moment."""

from __future__ import annotations

from array import array

import pytest

from fwd.datapath.board import Board
from fwd.datapath.counters import CounterBlock

COUNT = 6


class SlowHalf:
    """A half of the block whose copy is interrupted in the middle: there the writer goes on."""

    def __init__(self, words: memoryview, meanwhile: list[object]) -> None:
        self._words = words
        self._meanwhile = meanwhile

    def tolist(self) -> list[int]:
        first = self._words[: COUNT // 2].tolist()
        while self._meanwhile:
            self._meanwhile.pop(0)()  # type: ignore[operator]
        return first + self._words[COUNT // 2 :].tolist()


@pytest.mark.parametrize("published", range(5))
@pytest.mark.parametrize("half_way", [False, True])
def test_a_read_is_never_torn(published: int, half_way: bool) -> None:
    """The writer publishes 0 to 4 times while the reader copies, and may be in the middle of one more."""
    words = memoryview(bytearray(8 * CounterBlock.size(COUNT))).cast("Q")
    writer, reader = CounterBlock(words, COUNT), CounterBlock(words, COUNT)
    value = 0

    def publish() -> None:
        nonlocal value
        value += 1
        writer.values[:] = array("Q", [value] * COUNT)
        writer.publish()

    def begin_another() -> None:
        """All that `publish` does before it stores the commit word."""
        writer._halves[words[0] + 1 & 1][:] = array("Q", [99] * COUNT)

    publish()
    meanwhile: list[object] = [*[publish] * published, *[begin_another] * half_way]
    reader._halves = tuple(SlowHalf(half, meanwhile) for half in reader._halves)  # type: ignore[assignment]
    seen = reader.read()
    assert len(set(seen)) == 1
    assert 1 <= seen[0] <= value


def test_a_successor_counts_on() -> None:
    words = memoryview(bytearray(8 * CounterBlock.size(COUNT))).cast("Q")
    for life in range(1, 8):
        values = CounterBlock(words, COUNT).attach()
        assert list(values) == [life - 1] * COUNT
        block = CounterBlock(words, COUNT)
        values = block.attach()
        for i in range(COUNT):
            values[i] += 1
        block.publish()
        values[0] += 1000  # counted, never published: dies with it
    assert CounterBlock(words, COUNT).read() == [7] * COUNT


def test_a_board_shows_the_last_text_whole() -> None:
    board = Board()
    assert board.get() == b""
    for text in (b"one", b"another, longer", b"", b"x" * Board.SIZE):
        board.put(text)
        assert board.get() == text
    board.put(b"x" * (Board.SIZE + 1))
    assert board.get() == b"x" * Board.SIZE

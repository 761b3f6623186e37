"""What a member's incarnations leave to their successors: the numbers claimed on each SA, and those accepted.

Both lie in the member's own memory (shared.py). No number is claimed twice on one SA, since each incarnation sends on
SAs of its own (rule 1); what was accepted once is refused for good (rule 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fwd.datapath.counters import COUNTS_END

LEDGER_ENTRIES: Final = 256


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """The sequence numbers that one incarnation claimed on one SA."""

    incarnation: int
    spi: int
    first: int
    last: int


class Ledger:
    """The last LEDGER_ENTRIES entries, one for each SA an incarnation sent on."""

    def __init__(self, words: memoryview) -> None:
        self._words = words  # [0]: entries begun; then 4 words an entry
        self._last = 0

    def begin(self, incarnation: int, spi: int) -> None:
        """Begin an entry, with nothing claimed yet. Member only."""
        count = self._words[0] if self._words[0] < COUNTS_END else 0
        at = 1 + count % LEDGER_ENTRIES * 4
        self._words[at] = incarnation
        self._words[at + 1] = spi
        self._words[at + 2] = 1
        self._words[at + 3] = 0
        self._last = at + 3
        self._words[0] = count + 1

    def claim(self, last: int) -> None:
        """Enter that numbers up to `last` are claimed; they may be sent from now on. Member only."""
        self._words[self._last] = last

    @property
    def place(self) -> tuple[memoryview, int]:
        """Where `claim` enters a number: the words, and which of them. Member only."""
        return self._words, self._last

    @property
    def sender(self) -> int:
        """The incarnation that began the newest entry; 0: there is none."""
        count: int = self._words[0]
        return self._words[1 + (count - 1) % LEDGER_ENTRIES * 4] if count else 0

    def entries(self) -> list[LedgerEntry]:
        """Read all entries, the oldest first."""
        count = self._words[0]
        starts = [1 + i % LEDGER_ENTRIES * 4 for i in range(max(0, count - LEDGER_ENTRIES), count)]
        return [LedgerEntry(*self._words[at : at + 4].tolist()) for at in starts]


class ReplaySlots:
    """For each inbound SA its SPI and the highest number accepted, which is published before anything is delivered.

    Also the octets that it has accepted, if there is a limit to them.
    """

    def __init__(self, words: memoryview, octets: memoryview) -> None:
        self.words = words
        self.octets = octets

    def floor(self, slot: int, spi: int) -> int:
        """Return the highest number that any incarnation accepted on `spi`; the slot becomes this SPI's."""
        if self.words[2 * slot] != spi:
            self.words[2 * slot + 1] = self.octets[slot] = 0
            self.words[2 * slot] = spi
        return self.words[2 * slot + 1]

    def heard(self) -> dict[int, int]:
        """Read the highest number of each SPI that has accepted anything."""
        pairs = zip(self.words[::2].tolist(), self.words[1::2].tolist(), strict=True)
        return {spi: highest for spi, highest in pairs if highest}

"""What waits for the next incarnation of one member: an SA to send on in each boot record, which is given out once.

keyd takes records back to write them anew. An SA whose record is missing then was taken: somebody sends on it, or has
died with it, and nobody else ever gets it (rule 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from fwd.keyd.accepted import earlier
from fwd.keyd.mailbox import BOOT_RECORDS, Mailbox
from fwd.keyd.pair import Pair
from fwd.keyd.pair_states import Happening
from fwd.proto.sa import SaKeys


class BootRecords:
    """Of one member. `until_ms`: when what a predecessor of keyd has left in them ends at the latest; 0: as it says."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._recorded: set[int] = set()  # our SPIs of the pairs whose outbound SAs wait in boot records
        self._orphans: list[SaKeys] = []  # outbound SAs of a predecessor's boot records, used by nobody yet
        self.until_ms = 0

    @property
    def has_orphans(self) -> bool:
        """Whether any of a predecessor's waits."""
        return bool(self._orphans)

    def take_back(self, pairs: Iterable[Pair]) -> dict[int, Pair]:
        """Take all back; return the pairs on which nobody sends: those that still waited, or were in none yet."""
        pairs = list(pairs)
        records = [record.outbound for record in self._mailbox.take_back() if record.outbound is not None]
        ours = {pair.keys.outbound.key for pair in pairs}  # the peer chooses SPIs, and may repeat one
        waiting = {keys.key for keys in records}
        self._orphans = [
            replace(keys, deadline_ms=earlier(keys.deadline_ms, self.until_ms))
            for keys in records
            if keys.key not in ours
        ]
        for pair in pairs:
            if pair.spi in self._recorded and pair.keys.outbound.key not in waiting:
                pair.note(Happening.HANDED_OUT)
        self._recorded.clear()
        return {pair.spi: pair for pair in pairs if pair.spare}

    def put(self, spares: dict[int, Pair], inbound: tuple[SaKeys, ...], is_fresh: Callable[[Pair], bool]) -> None:
        """Write records of the oldest spares, fresh ones first; a predecessor's while there are too few."""
        chosen = sorted(spares.values(), key=lambda pair: not is_fresh(pair))[:BOOT_RECORDS]
        outbound = [*(pair.keys.outbound for pair in chosen), *self._orphans]
        self._mailbox.put(inbound, outbound[:BOOT_RECORDS])
        self._recorded = {pair.spi for pair in chosen}

    def clear(self) -> None:
        """Leave nothing to anybody."""
        self._mailbox.take_back()
        self._orphans = []
        self._recorded.clear()

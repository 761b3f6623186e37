"""The SAs of one member where IKEv2 makes them: pairs of an inbound and an outbound SA, one in use, the others spare.

Both gateways install the inbound half of a pair as soon as it is negotiated. **A sender switches without a message**:
a new incarnation takes a spare from a boot record and sends on it. The first packet that comes on a pair shows that the
far side has switched to it, and then this side follows with its own sending. The side that switched first has the old
pair deleted a while later. A pair that replaces another (a rekeying) is switched to by who asked for it.

An outbound SA is handed out once: in a boot record, or in an update after its boot record was taken back. What keyd
must know after its own death it finds in what it has remembered (mailbox.py) and in the shared words.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from fwd.datapath.shared import LinkWord
from fwd.keyd.mailbox import BOOT_RECORDS, KeydMember, Mailbox
from fwd.proto.ike.events import ChildKeys
from fwd.proto.sa import SLOTS, EventKind, SaKeys

SPARES: Final = BOOT_RECORDS
OLD_SA_S: Final = 5.0  # how long the old pair stays after a switch, and its inbound SA after it is deleted
INHERITED_S: Final = 30.0  # how long a predecessor's inbound SAs stay once the far side sends on a new one
log = logging.getLogger(__name__)


class NoSlotError(Exception):
    """A member has as many inbound SAs as it can hold."""


@dataclass
class Pair:
    """One Child SA of this member."""

    keys: ChildKeys
    inbound: SaKeys  # with its replay slot
    since: float
    used: bool = False  # its outbound SA was handed out for good
    heard: bool = False
    retire_at: float | None = None  # we have left it: when it is to be deleted
    gone_at: float | None = None  # the far side has left it: when its inbound SA goes
    successor: int | None = None  # the pair that replaces it

    @property
    def spi(self) -> int:
        return self.keys.inbound.spi

    @property
    def spare(self) -> bool:
        """Whether nobody has sent on it, and it may yet be."""
        return not self.used and self.gone_at is None and self.successor is None


class MemberPairs:
    """See the module."""

    def __init__(self, index: int, parts: KeydMember, now: float) -> None:
        self._index = index
        self._shared = parts.shared
        self._mailbox = Mailbox(parts)
        self._pairs: dict[int, Pair] = {}  # by inbound SPI, oldest first
        self._current: Pair | None = None
        self._incarnation = -1
        self.control = parts.control
        self.renew = False  # the pair in use nears its end by count
        self._recorded: set[int] = set()  # our SPIs of the pairs whose outbound SAs wait in boot records
        # Of a predecessor: what it had installed. Its spares stay in their boot records until there are new ones.
        self._inherited: tuple[SaKeys, ...] = self._mailbox.recall()
        self._inherited_until: float | None = None

    # -- what IKE tells -----------------------------------------------------------------------------------------

    def up(self, keys: ChildKeys, replaces: int | None, now: float) -> None:
        """A Child SA is there."""
        slot = self._free_slot()
        inbound = SaKeys(keys.inbound.spi, keys.inbound.esn, keys.inbound.key, keys.inbound.salt, slot)
        pair = self._pairs[keys.inbound.spi] = Pair(keys, inbound, now)
        old = self._pairs.get(replaces) if replaces is not None else None
        if old is not None:
            old.successor = pair.spi
        self._refresh()
        lives = bool(self._shared.link[LinkWord.SPI_OUT])  # else it waits for its first boot record
        if (self._current is None and lives) or (old is not None and old is self._current and keys.initiated):
            self._switch(pair)
        else:
            self._mailbox.update(self._inbound(), None)

    def down(self, spi: int, now: float) -> None:
        """The far side sends on our inbound `spi` no more, nor does it take what we send on its pair."""
        pair = self._pairs.get(spi)
        if pair is None:
            return
        pair.gone_at = now + OLD_SA_S
        self._refresh()
        if pair is self._current:
            self._leave(pair)

    def _leave(self, pair: Pair) -> None:
        """Send on another pair: what replaces this one, else the newest spare."""
        successor = self._pairs.get(pair.successor) if pair.successor is not None else None
        spares = [other for other in self._pairs.values() if other.spare]
        candidates = ([successor] if successor is not None and successor.spare else []) + spares[::-1]
        if candidates:
            self._switch(candidates[0])

    # -- what the shared words tell -----------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Follow the member: which SA it sends on, which it has heard."""
        incarnation, spi_out = self._shared.process.incarnation, self._shared.link[LinkWord.SPI_OUT]
        self._follow_sending(spi_out, now)
        self._follow_heard(now)
        if incarnation != self._incarnation:
            self._incarnation = incarnation
            self._refresh()
            self._mailbox.update(self._inbound(), None)
        self._forget(now)

    def hear(self) -> None:
        """The member's events."""
        for event in self._mailbox.events():
            if event.kind is EventKind.SOFT_LIMIT and event.spi == self._shared.link[LinkWord.SPI_OUT]:
                self.renew = True

    def _follow_sending(self, spi_out: int, now: float) -> None:
        """A new incarnation sends on the spare that it took: the old pair goes, by us, a while later."""
        pair = next((pair for pair in self._pairs.values() if pair.keys.outbound.spi == spi_out), None)
        if pair is None or pair is self._current:
            return
        if self._current is not None and self._current.gone_at is None:
            self._current.retire_at = now + OLD_SA_S
        pair.used = True
        self._current = pair
        self._refresh()

    def _follow_heard(self, now: float) -> None:
        """The far side sends on a pair that we do not: follow it."""
        for spi in self._shared.slots.heard():
            pair = self._pairs.get(spi)
            if pair is None or pair.heard:
                continue
            pair.heard = True
            if self._inherited_until is None:
                self._inherited_until = now + INHERITED_S
            if pair is not self._current and pair.spare:
                self._switch(pair)

    def _forget(self, now: float) -> None:
        gone = [pair for pair in self._pairs.values() if pair.gone_at is not None and pair.gone_at <= now]
        for pair in gone:
            del self._pairs[pair.spi]
            if pair is self._current:
                self._current = None
        inherited = self._inherited_until is not None and now >= self._inherited_until and bool(self._inherited)
        if inherited:
            self._inherited = ()
        if gone or inherited:
            self._refresh()
            self._mailbox.update(self._inbound(), None)

    # -- what is wanted of IKE ----------------------------------------------------------------------------------

    def missing(self) -> int:
        """How many pairs more there should be."""
        have = sum(pair.spare for pair in self._pairs.values()) + (self._current is not None)
        return max(0, 1 + SPARES - have)

    def due_to_delete(self, now: float) -> list[int]:
        """Pairs that we have left long enough ago, each told once."""
        due = [pair for pair in self._pairs.values() if pair.retire_at is not None and pair.retire_at <= now]
        for pair in due:
            pair.retire_at = None
        return [pair.spi for pair in due]

    def due_to_rekey(self, now: float, rekey_s: float) -> list[int]:
        """Pairs whose time is over, or whose count is (`renew`); each is put off by the same time again."""
        due = []
        for pair in self._pairs.values():
            if pair.gone_at is None and pair.successor is None and pair.retire_at is None:
                over = rekey_s and now - pair.since >= rekey_s
                if over or (self.renew and pair is self._current):
                    pair.since = now
                    due.append(pair.spi)
        self.renew = False
        return due

    def knows(self, spi: int) -> bool:
        """Whether an inbound SPI is one of this member's, a predecessor's included."""
        return spi in self._pairs or any(keys.spi == spi for keys in self._inherited)

    @property
    def connected(self) -> bool:
        return self._current is not None

    # -- handing out --------------------------------------------------------------------------------------------

    def _switch(self, pair: Pair) -> None:
        """Let the living member send on this pair, if its outbound SA is still ours to give."""
        spares = self._take_back()
        given = spares.pop(pair.spi, None)
        if given is not None:
            given.used = True
            self._current = given
        self._put(spares)
        self._mailbox.update(self._inbound(), given.keys.outbound if given else None)

    def _refresh(self) -> None:
        """Boot records as they should be now."""
        self._put(self._take_back())

    def _take_back(self) -> dict[int, Pair]:
        """Pairs on which nobody sends: those of boot records that still wait, and those that were in none yet.

        One that was in a record and is not any more has been taken: somebody sends on it, or has died with it.
        """
        waiting = {record.outbound.spi for record in self._mailbox.take_back() if record.outbound is not None}
        for pair in self._pairs.values():
            if pair.spi in self._recorded and pair.keys.outbound.spi not in waiting:
                pair.used = True
        self._recorded.clear()
        return {pair.spi: pair for pair in self._pairs.values() if pair.spare}

    def _put(self, spares: dict[int, Pair]) -> None:
        """Boot records of the oldest spares, with what is installed now."""
        inbound = self._inbound()
        self._mailbox.remember(inbound)
        chosen = list(spares.values())[:BOOT_RECORDS]
        self._mailbox.put(inbound, [pair.keys.outbound for pair in chosen])
        self._recorded = {pair.spi for pair in chosen}

    def _inbound(self) -> tuple[SaKeys, ...]:
        """All that the member accepts."""
        return (*self._inherited, *(pair.inbound for pair in self._pairs.values()))

    def _free_slot(self) -> int:
        """A replay slot that no installed SA has; without one the oldest of a predecessor's goes."""
        taken = {keys.slot for keys in self._inbound()}
        free = next((slot for slot in range(SLOTS) if slot not in taken), None)
        if free is None:
            if not self._inherited:
                raise NoSlotError(f"member {self._index}: more than {SLOTS} inbound SAs")
            free, self._inherited = self._inherited[0].slot, self._inherited[1:]
        return free

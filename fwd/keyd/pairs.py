"""The SAs of one member where IKEv2 makes them: pairs of an inbound and an outbound SA, one in use, the others spare.

Both gateways install the inbound half of a pair as soon as it is negotiated. **A sender switches without a message**:
a new incarnation takes a spare from a boot record and sends on it, and has the old pair deleted a while later. Then
the far side moves its own sending, too: to what replaces the pair, else to its oldest spare. A pair that replaces
another (a rekeying) is switched to at once by who asked for it. The two directions need not be of one pair.

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
ANSWER_S: Final = 0.05  # before a pair that the far side has asked for is sent on
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
    ready_at: float  # the far side has its half, too
    ready: bool = False
    used: bool = False  # its outbound SA was handed out for good
    left: bool = False  # it was used, and is not any more
    retire_at: float | None = None  # when it is to be deleted, then
    gone_at: float | None = None  # the far side has left it: when its inbound SA goes
    successor: int | None = None  # the pair that replaces it

    @property
    def spi(self) -> int:
        return self.keys.inbound.spi

    @property
    def spare(self) -> bool:
        """Whether nobody has sent on it, and it may yet be."""
        return self.ready and not self.used and self.gone_at is None and self.successor is None


class MemberPairs:
    """See the module."""

    def __init__(self, index: int, parts: KeydMember, now: float) -> None:
        self._index = index
        self._shared = parts.shared
        self._mailbox = Mailbox(parts)
        self._pairs: dict[int, Pair] = {}  # by inbound SPI, oldest first
        self._current: Pair | None = None
        self._incarnation = -1
        self._sends_on = 0  # outbound SPI, as seen last
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
        # Who has answered is ahead of who has asked, by the way of the answer.
        ready_at = now if keys.initiated else now + ANSWER_S
        pair = self._pairs[keys.inbound.spi] = Pair(keys, inbound, now, ready_at, ready=keys.initiated)
        old = self._pairs.get(replaces) if replaces is not None else None
        if old is not None:
            old.successor = pair.spi
        if old is not None and old is self._current and keys.initiated:
            self._switch(pair)
        else:
            self._refresh()
            self._mailbox.update(self._inbound(), None)

    def down(self, spi: int, now: float) -> None:
        """The far side sends on our inbound `spi` no more, nor does it take what we send on its pair."""
        pair = self._pairs.get(spi)
        if pair is None:
            return
        pair.gone_at = now + OLD_SA_S
        self._refresh()

    def settle(self, now: float) -> None:
        """After all that IKE had to tell: do not send on what is gone, if there is anything else."""
        self._follow_sending(self._shared.link[LinkWord.SPI_OUT], now)
        self._note_ready(now)
        current = self._current
        if current is not None and current.gone_at is None:
            return
        if not self._shared.link[LinkWord.SPI_OUT]:
            return  # no member has ever sent: it waits for its first boot record
        spares = [pair for pair in self._pairs.values() if pair.spare]
        successor = self._pairs.get(current.successor) if current and current.successor is not None else None
        if successor is not None and successor.spare:
            self._switch(successor)
        elif spares:
            self._switch(spares[0])

    # -- what the shared words tell -----------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Follow the member: which SA it sends on, which it has heard."""
        incarnation = self._shared.process.incarnation
        self._note_heard(now)
        if incarnation != self._incarnation:
            self._incarnation = incarnation
            self._refresh()
            self._mailbox.update(self._inbound(), None)
        self._forget(now)
        self.settle(now)
        self._retire_left(now)

    def hear(self) -> None:
        """The member's events."""
        for event in self._mailbox.events():
            log.debug("member %d: %s %#010x", self._index, event.kind.name, event.spi)
            if event.kind is EventKind.SOFT_LIMIT and event.spi == self._shared.link[LinkWord.SPI_OUT]:
                self.renew = True

    def _follow_sending(self, spi_out: int, now: float) -> None:
        """A new incarnation sends on the spare that it took: the old pair goes, by us, a while later.

        What it sends on changes also when it does as it was told, and then later than it was told.
        """
        if spi_out == self._sends_on:
            return
        self._sends_on = spi_out
        pair = next((pair for pair in self._pairs.values() if pair.keys.outbound.spi == spi_out), None)
        if pair is None or pair is self._current:
            return
        pair.used = True
        pair.since = now
        pair.left = False
        pair.retire_at = None
        self._current = pair
        self._refresh()

    def _note_ready(self, now: float) -> None:
        waiting = [pair for pair in self._pairs.values() if not pair.ready]
        if waiting:
            heard = self._shared.slots.heard()
            for pair in waiting:
                pair.ready = now >= pair.ready_at or pair.spi in heard
            if any(pair.ready for pair in waiting):
                self._refresh()

    def _note_heard(self, now: float) -> None:
        """Once the far side sends on a pair of ours, what a predecessor had installed is on its way out."""
        if (
            self._inherited
            and self._inherited_until is None
            and not self._pairs.keys().isdisjoint(self._shared.slots.heard())
        ):
            self._inherited_until = now + INHERITED_S

    def _retire_left(self, now: float) -> None:
        """What was sent on, or was taken by an incarnation that died before it could show it."""
        for pair in self._pairs.values():
            if pair.used and pair is not self._current and not pair.left and pair.successor is None:
                pair.left = True
                pair.retire_at = now + OLD_SA_S if pair.gone_at is None else None

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
        have = sum(pair.spare or not pair.ready for pair in self._pairs.values()) + (self._current is not None)
        return max(0, 1 + SPARES - have)

    def due_to_delete(self, now: float) -> list[int]:
        """Pairs that we have left long enough ago, each told once."""
        due = [pair for pair in self._pairs.values() if pair.retire_at is not None and pair.retire_at <= now]
        for pair in due:
            pair.retire_at = None
        return [pair.spi for pair in due]

    def due_to_rekey(self, now: float, rekey_s: float) -> list[int]:
        """The pair that we send on, when its time is over or its count (`renew`); it is put off by as long again.

        A spare has carried nothing, and needs no successor.
        """
        pair, renew = self._current, self.renew
        self.renew = False
        if pair is None or pair.gone_at is not None or pair.successor is not None:
            return []
        if not renew and not (rekey_s and now - pair.since >= rekey_s):
            return []
        pair.since = now
        return [pair.spi]

    def knows(self, spi: int) -> bool:
        """Whether an inbound SPI is one of this member's, a predecessor's included."""
        return spi in self._pairs or any(keys.spi == spi for keys in self._inherited)

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

"""The SAs of one member where IKEv2 makes them: pairs of an inbound and an outbound SA, one in use, the others spare.

Both gateways install the inbound half of a pair as soon as it is negotiated. **A sender switches without a message**:
a new incarnation takes a spare from a boot record and sends on it, and has the old pair deleted a while later. Then
the far side moves its own sending, too: to what replaces the pair, else to its oldest spare. A pair that replaces
another (a rekeying) is switched to at once by who asked for it. The two directions need not be of one pair.

The inbound half of a pair may be another member's (accepted.py). An outbound SA is handed out once: in a boot record,
or in an update after its boot record was taken back. What keyd must know after its own death it finds in what it has
remembered (mailbox.py) and in the shared words.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from typing import Final

from fwd.datapath.shared import LinkWord
from fwd.keyd.accepted import Accepted
from fwd.keyd.mailbox import BOOT_RECORDS, KeydMember, Mailbox
from fwd.proto.ike.events import ChildKeys
from fwd.proto.sa import EventKind, SaKeys

SPARES: Final = BOOT_RECORDS
OLD_SA_S: Final = 5.0  # how long the old pair stays after a switch, and its inbound SA after it is deleted
BEREFT_S: Final = 0.3  # between attempts to replace what a dead incarnation has sent on
ANSWER_S: Final = 0.2  # before a pair that the far side has asked for is sent on, if nothing shows it has our answer
_JITTER = 0.1
log = logging.getLogger(__name__)


@dataclass
class Pair:
    """One Child SA of this member."""

    keys: ChildKeys
    receiver: Accepted  # who has its inbound half
    since: float
    ready_at: float  # the far side has its half, too
    ready: bool = False
    share: float = field(default_factory=lambda: 1 - _JITTER * os.urandom(1)[0] / 255)  # of its time, then rekeyed
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
        self.accepted = Accepted(index, parts, self._mailbox)
        self._told = -1  # the version of `accepted` that boot records and the living member have
        self._pairs: dict[int, Pair] = {}  # by inbound SPI, oldest first
        self._current: Pair | None = None
        self._incarnation = -1
        self._sends_on = 0  # outbound SPI, as seen last
        self.control = parts.control
        self.renew = False  # the pair in use nears its end by count
        self.strayed = False  # it hears the peer at another address
        self._recorded: set[int] = set()  # our SPIs of the pairs whose outbound SAs wait in boot records
        self._orphans: list[SaKeys] = []  # outbound SAs of a predecessor's boot records, used by nobody yet

    # -- what IKE tells -----------------------------------------------------------------------------------------

    def up(self, keys: ChildKeys, replaces: int | None, receiver: Accepted, now: float) -> None:
        """A Child SA is there; `receiver` is to accept its inbound half. Raises NoSlotError."""
        receiver.add(keys.inbound)
        # Who has answered is ahead of who has asked, by the way of the answer.
        ready_at = now if keys.initiated else now + ANSWER_S
        pair = self._pairs[keys.inbound.spi] = Pair(keys, receiver, now, ready_at, ready=keys.initiated)
        old = self._pairs.get(replaces) if replaces is not None else None
        if old is not None:
            old.successor = pair.spi
        if old is not None and old is self._current and keys.initiated and self._sends():
            self._switch(pair)
        else:
            self._refresh()

    def confirm(self, spi: int) -> None:
        """The far side has the answer by which it made this pair."""
        pair = self._pairs.get(spi)
        if pair is not None and not pair.ready:
            pair.ready = True
            self._refresh()

    def spis(self) -> set[int]:
        """Our inbound SPIs of the pairs that the far side uses, as far as we know."""
        return {pair.spi for pair in self._pairs.values() if pair.gone_at is None}

    def down(self, spi: int, now: float) -> None:
        """The far side sends on our inbound `spi` no more, nor does it take what we send on its pair."""
        pair = self._pairs.get(spi)
        if pair is None:
            return
        pair.gone_at = now + OLD_SA_S
        self._refresh()

    def settle(self, now: float) -> None:
        """After all that IKE had to tell: do not send on what is gone, if there is anything else."""
        self._tell_accepted()
        self._follow_sending(self._shared.link[LinkWord.SPI_OUT], now)
        self._note_ready(now)
        current = self._current
        if current is not None and current.gone_at is None:
            return
        if not self._sends():
            return  # it takes a boot record
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
        self.accepted.tick(now)
        if incarnation != self._incarnation:
            self._incarnation = incarnation
            self._told = -1
        self._forget(now)
        self.settle(now)
        self._retire_left(now)

    def hear(self) -> None:
        """The member's events."""
        for event in self._mailbox.events():
            log.debug("member %d: %s %#010x", self._index, event.kind.name, event.spi)
            if event.kind is EventKind.SOFT_LIMIT and event.spi == self._shared.link[LinkWord.SPI_OUT]:
                self.renew = True
            elif event.kind is EventKind.ELSEWHERE:
                self.strayed = True

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
            for pair in waiting:
                pair.ready = now >= pair.ready_at or pair.receiver.heard(pair.spi)
            if any(pair.ready for pair in waiting):
                self._refresh()

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
            pair.receiver.remove(pair.spi)
            if pair is self._current:  # and settle has found nothing in its place
                self._current = None
                self._mailbox.update(self.accepted.all(), None, stop=True)

    # -- what is wanted of IKE ----------------------------------------------------------------------------------

    def missing(self, spares: int) -> int:
        """How many pairs more there should be, when one is in use and so many are spare."""
        have = sum(pair.spare or not pair.ready for pair in self._pairs.values()) + (self._current is not None)
        return max(0, 1 + spares - have)

    def due_to_delete(self, now: float) -> list[int]:
        """Pairs that we have left long enough ago, each told once."""
        due = [pair for pair in self._pairs.values() if pair.retire_at is not None and pair.retire_at <= now]
        for pair in due:
            pair.retire_at = None
        return [pair.spi for pair in due]

    @property
    def bare(self) -> bool:
        """Whether it has no pair to send on."""
        return not any(pair.gone_at is None for pair in self._pairs.values())

    def due_to_rekey(self, now: float, rekey_s: float, *, alone: bool, hold: bool) -> list[int]:
        """The pair that we send on, when its time is over or its count (`renew`); it is put off by as long again.

        A spare has carried nothing, and needs no successor. `alone`: the far side gives us no spares; then what a dead
        incarnation has sent on is replaced for its successor. `hold`: it has just refused, and is not asked again yet.
        """
        pair, renew = self._current, self.renew
        self.renew = renew and hold
        if pair is None or pair.gone_at is not None or pair.successor is not None:
            return []
        bereft = alone and not self._sends() and now >= pair.since + BEREFT_S
        due = renew or bool(rekey_s and now - pair.since >= rekey_s * pair.share)
        if not bereft and (hold or not due):
            return []
        pair.since = now
        return [pair.spi]

    def _sends(self) -> bool:
        """Whether the incarnation that lives has an SA to send on; else it waits for a boot record."""
        return self._shared.ledger.sender == self._shared.process.incarnation

    # -- handing out --------------------------------------------------------------------------------------------

    def _switch(self, pair: Pair) -> None:
        """Let the living member send on this pair, if its outbound SA is still ours to give."""
        spares = self._take_back()
        given = spares.pop(pair.spi, None)
        if given is not None:
            given.used = True
            self._current = given
        self._put(spares)
        self._told = self.accepted.version
        self._mailbox.update(self.accepted.all(), given.keys.outbound if given else None)

    def _tell_accepted(self) -> None:
        """Boot records and the living member are to have all that is accepted now."""
        if self._told != self.accepted.version:
            self._told = self.accepted.version
            self._refresh()
            self._mailbox.update(self.accepted.all(), None)

    def _refresh(self) -> None:
        """Boot records as they should be now."""
        self._put(self._take_back())

    def _take_back(self) -> dict[int, Pair]:
        """Pairs on which nobody sends: those of boot records that still wait, and those that were in none yet.

        One that was in a record and is not any more has been taken: somebody sends on it, or has died with it.
        """
        records = [record.outbound for record in self._mailbox.take_back() if record.outbound is not None]
        ours = {pair.keys.outbound.key for pair in self._pairs.values()}  # the peer chooses SPIs, and may repeat one
        waiting = {keys.key for keys in records}
        self._orphans = [keys for keys in records if keys.key not in ours]
        for pair in self._pairs.values():
            if pair.spi in self._recorded and pair.keys.outbound.key not in waiting:
                pair.used = True
        self._recorded.clear()
        return {pair.spi: pair for pair in self._pairs.values() if pair.spare}

    def _put(self, spares: dict[int, Pair]) -> None:
        """Boot records of the oldest spares, with what is installed now; a predecessor's while there are too few."""
        inbound = self.accepted.all()
        self._mailbox.remember(inbound)
        chosen = list(spares.values())[:BOOT_RECORDS]
        outbound = [*(pair.keys.outbound for pair in chosen), *self._orphans]
        self._mailbox.put(inbound, outbound[:BOOT_RECORDS])
        self._recorded = {pair.spi for pair in chosen}

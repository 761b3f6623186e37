"""The SAs of one member where they are derived by epochs (source.py): what it accepts, what it sends on next.

Everything that keyd must know after its own death it finds in shared memory: epochs handed out, SPIs in use, highest
numbers heard. An epoch is counted as used before anybody gets it, so no death can make it be used twice (rule 1).
"""

from __future__ import annotations

import logging
from typing import Final

from fwd.datapath.shared import REST_S, LinkWord
from fwd.keyd.mailbox import BOOT_RECORDS, KeydMember, Mailbox
from fwd.keyd.source import SaSource
from fwd.model.config import Peering
from fwd.proto.sa import SLOTS, EventKind, SaKeys

SPARES_IN: Final = 3  # epochs accepted beyond the newest heard: what waits in boot records, and one more
AGAIN_S: Final = 1.0  # between two SAs that are given to a member whose own has ended
OLD_SA_S: Final = 5.0  # how long the old inbound SA is kept after the new one was heard
_TENTATIVE_AHEAD: Final = 4096

log = logging.getLogger(__name__)


class MemberKeys:
    """The SAs of one member: what it accepts, what it sends on next."""

    def __init__(self, peering: Peering, index: int, source: SaSource, parts: KeydMember, now: float) -> None:
        self._peering = peering
        self._index = index
        self._source = source
        self._parts = parts
        self._mailbox = Mailbox(parts)
        self._retire_at: dict[int, float] = {}  # inbound epoch → when it goes
        self._newest = -1  # newest inbound epoch heard
        self._tentative: int | None = None
        self._epochs: list[int] = []
        self._inbound: tuple[SaKeys, ...] = ()
        self._life = (-1, -1)  # incarnation and outbound SPI, as last seen
        self._sending_since = now
        self._given_at = float("-inf")  # when it was told to send on another SA
        self._renew = False
        self._seen: tuple[int, ...] = ()  # the shared words, at the last tick
        self._due_at = now
        self.control = parts.control
        self._learn(now)
        self.refresh()

    def change(self, peering: Peering) -> None:
        """Renew by other times from now on."""
        self._peering, self._due_at = peering, 0.0

    def glance(self, now: float) -> None:
        """Tick if the shared words say anything new, or it is time."""
        if now >= self._due_at or self._seen != self._words():
            self.tick(now)

    def _words(self) -> tuple[int, ...]:
        link = self._parts.shared.link
        return self._parts.shared.process.incarnation, link[LinkWord.SPI_OUT], link[LinkWord.RX_TAKEN]

    def tick(self, now: float) -> None:
        """Follow what the shared words say, and renew what is due."""
        self._seen = self._words()
        self._follow(now)
        if self._retire_at or self._renew or self._has_ended():
            self._due_at = now
        elif self._peering.rekey_time:
            self._due_at = min(now + REST_S, self._sending_since + self._peering.rekey_time)
        else:
            self._due_at = now + REST_S

    def _follow(self, now: float) -> None:
        changed = self._learn(now)
        spi_out = self._parts.shared.link[LinkWord.SPI_OUT]
        life = (self._parts.shared.process.incarnation, spi_out)  # one that dies early takes a record, but shows no SPI
        if changed or life != self._life:
            self._life = life
            self._sending_since = now
            self.refresh()
            self._update(None)
        rekey_s = self._peering.rekey_time
        due = self._renew or (rekey_s and now - self._sending_since >= rekey_s)
        if (spi_out and due) or (self._has_ended() and now >= self._given_at + AGAIN_S):
            self._given_at = now
            self._renew = False
            self._sending_since = now
            self._update(self._take_spare())

    def _has_ended(self) -> bool:
        """Whether the living member has had an SA to send on, and ended it: by count (rule 7)."""
        shared = self._parts.shared
        return not shared.link[LinkWord.SPI_OUT] and shared.ledger.sender == shared.process.incarnation > 0

    def hear(self, now: float) -> None:
        """Take the member's events; they only make the next tick come sooner, but for these two."""
        for event in self._mailbox.events():
            if event.kind is EventKind.SOFT_LIMIT and event.spi == self._parts.shared.link[LinkWord.SPI_OUT]:
                self._renew = True
            elif event.kind is EventKind.UNKNOWN:
                self._consider(event.spi)
        self.tick(now)

    def _consider(self, spi: int) -> None:
        """An unknown SPI may be of a later epoch than is installed: the far member restarted several times unheard."""
        epoch = self._source.inbound_epoch(self._index, spi)
        if epoch is None or epoch == self._tentative:
            return
        ahead = epoch - self._newest
        if 0 < ahead <= SPARES_IN:
            self._tentative = None  # it had the replay slot of a regular one
        elif SPARES_IN < ahead <= _TENTATIVE_AHEAD and ahead % SLOTS:  # anybody can name one: not at the newest's cost
            self._tentative = epoch
            log.debug("member %d: accepting SPI %#010x, %d epochs ahead", self._index, spi, ahead)

    def _learn(self, now: float) -> bool:
        """Which inbound epochs have been heard, and so which are to be accepted; True when that changed."""
        for spi in self._parts.shared.slots.heard():
            epoch = self._source.inbound_epoch(self._index, spi)
            if epoch is not None and epoch > self._newest:
                for old in range(max(0, self._newest), epoch):
                    self._retire_at.setdefault(old, now + OLD_SA_S)
                self._newest = epoch
                if self._tentative is not None and self._tentative <= epoch + SPARES_IN:
                    self._tentative = None

        # Epochs before it are accepted for a while, and some ahead of it.
        first = max(0, self._newest)
        epochs = [e for e, at in self._retire_at.items() if at > now and first - e < 8]
        self._retire_at = {e: self._retire_at[e] for e in epochs}
        epochs += range(first, self._newest + SPARES_IN + 1)
        ahead = self._tentative
        if ahead is not None:  # two SAs of one replay slot would forget each other's numbers
            epochs = [e for e in epochs if (e - ahead) % SLOTS] + [ahead]

        if epochs == self._epochs:
            return False
        self._epochs = epochs
        self._inbound = tuple(self._source.inbound(self._index, e) for e in epochs)
        return True

    def refresh(self) -> None:
        """Two boot records with the inbound SAs of now; those taken back keep their unused SAs."""
        self._put_boot_records(self._take_back())

    def _take_spare(self) -> SaKeys:
        """The spare that waits longest, else a new one: the far side forgets epochs older than the newest it heard."""
        unused = self._take_back()
        spare = unused.pop(0) if unused else self._source.outbound(self._index, self._next_epoch())
        self._put_boot_records(unused)
        return spare

    def _take_back(self) -> list[SaKeys]:
        """The unused SAs of the boot records that wait, oldest first."""
        return [record.outbound for record in self._mailbox.take_back() if record.outbound is not None]

    def _put_boot_records(self, unused: list[SaKeys]) -> None:
        while len(unused) < BOOT_RECORDS:
            unused.append(self._source.outbound(self._index, self._next_epoch()))
        self._mailbox.put(self._inbound, unused)

    def _next_epoch(self) -> int:
        """An epoch that nobody has had. Stored as used first."""
        word = self._parts.shared.next_epoch
        epoch: int = word[0]
        word[0] = epoch + 1
        return epoch

    def _update(self, outbound: SaKeys | None) -> None:
        self._mailbox.update(self._inbound, outbound)

"""The SAs of one member where IKEv2 makes them: pairs of an inbound and an outbound SA, one in use, the others spare.

Both gateways install the inbound half of a pair as soon as it is negotiated. **A sender switches without a message**:
a new incarnation takes a spare from a boot record and sends on it, and has the old pair deleted a while later. Then
the far side moves its own sending, too: to what replaces the pair, else to its oldest spare. A pair that replaces
another (a rekeying) is switched to at once by who asked for it. The two directions need not be of one pair. When both
sides have authenticated anew, or the subnets are others, all pairs of before are superseded by others that are made
beside them.

What becomes of a pair is a table (pair_states.py). Its inbound half may be another member's (accepted.py); its outbound
SA is handed out once, in a boot record (boot.py) or an update. Every pair ends (pair.py), spares too, and is replaced
before that. What keyd must know after its own death it finds in what it has remembered (mailbox.py) and in the shared
words.
"""

from __future__ import annotations

import logging
from typing import Final

from fwd.datapath.shared import LinkWord
from fwd.keyd.accepted import Accepted
from fwd.keyd.boot import BootRecords
from fwd.keyd.due import missing, needs_more, to_hurry, to_rekey, to_retire, to_switch_to
from fwd.keyd.mailbox import BOOT_RECORDS, KeydMember, Mailbox
from fwd.keyd.pair import Pair, Times, next_end, next_renewal
from fwd.keyd.pair_states import Happening, Life
from fwd.keyd.proof import CHANGED, Doubt, Note, Proof
from fwd.proto.ike.causes import By
from fwd.proto.ike.events import ChildKeys, Standing
from fwd.proto.sa import EventKind, SaKeys

SPARES: Final = BOOT_RECORDS
OLD_SA_S: Final = 5.0  # how long the old pair stays after a switch, and its inbound SA after it is deleted
ANSWER_S: Final = 0.2  # before a pair that the far side has asked for is sent on, if nothing shows it has our answer
log = logging.getLogger(__name__)


class MemberPairs:
    """See the module."""

    def __init__(self, index: int, parts: KeydMember, times: Times, proof: Proof) -> None:
        self._index = index
        self._times = times
        self._proof = proof
        self._shared = parts.shared

        # What the member has been given, and what it makes of that.
        self._mailbox = Mailbox(parts)
        self._boot = BootRecords(self._mailbox)
        self.accepted = Accepted(index, parts, self._mailbox)
        self._told = -1  # the version of `accepted` that boot records and the living member have
        self._pairs: dict[int, Pair] = {}  # by inbound SPI, oldest first
        self._current: Pair | None = None
        self._incarnation = -1
        self._sends_on = 0  # outbound SPI, as seen last
        self.control = parts.control
        self.renew: By | None = None  # by what the pair in use is to be replaced before its time
        self._anew_at = float("-inf")  # when a user wanted new keys: what is older is not sent on for long
        self.strayed = False  # it hears the peer at another address

        # What of a predecessor's may still be used, and what the living member has yet to hear.
        self._until_ms = 0  # when what a predecessor has handed out ends at the latest
        self._until_of: int | None = None  # the incarnation that may send on it; later ones take records that say so
        self._over: list[tuple[int, By]] = []  # pairs whose life is over, to be deleted
        self._left_by = By.DEATH  # why it sends on another pair than before
        self._authentication = 0  # what is older is to be replaced
        self._before = Note.decode(self._mailbox.note)  # of the predecessor
        self.lack = By.START if self._before is None else By.RELOAD  # why it may have too few pairs
        self._untold = False  # that its SAs end by then
        self._stops = False  # that it is to send on nothing

    # -- what a predecessor has left -----------------------------------------------------------------------------

    def judge_inherited(self, grace_s: float, now: float) -> str:
        """End what a predecessor of keyd had made, if what authenticated it does so no more; tells why."""
        if self._before is None:
            reason = ""
        elif reason := self._proof.why_revoked(self._before):
            grace_s = 0.0
        elif not self._proof.is_that_of(self._before):
            reason = CHANGED
        if reason:
            until_ms = self._boot.until_ms = max(1, int((now + grace_s) * 1000))
            self.accepted.end_by(until_ms)
            if self._current is None:
                self._end_outbound_by(until_ms)
        self._tell_accepted()
        self._remember()
        return reason

    def change(self, times: Times, doubt: Doubt, *, anew: bool = False) -> None:
        """Go by other times and another proof; what rests on one of before, and holds no more, ends early.

        `anew`: subnets are others by now, and every pair is to be superseded soon.
        """
        self._times, self._proof = times, doubt.proof
        self.lack = By.RELOAD if anew else self.lack
        for pair in self._pairs.values():
            pair.outdated = pair.outdated or anew
            at = doubt.ends(pair.standing)
            if at < pair.ends_at:
                pair.end_by(at)
                if pair is self._current:
                    self._end_outbound_by(pair.keys.outbound.deadline_ms)
        self.judge_inherited(doubt.grace_s, doubt.now)

    def _end_outbound_by(self, until_ms: int) -> None:
        """Let what the incarnation that lives sends on end by then; later ones take records that say so."""
        self._until_ms, self._until_of, self._untold = until_ms, self._shared.process.incarnation, True

    # -- what IKE tells -----------------------------------------------------------------------------------------

    def up(self, keys: ChildKeys, replaces: int | None, receiver: Accepted, standing: Standing, now: float) -> None:
        """A Child SA is there; `receiver` is to accept its inbound half. Raises NoSlotError."""
        if keys.outbound.narrowed is None and not keys.outdated:  # what the peer would not carry before, it does now
            self._outdate_narrowed()
        pair = Pair.made(keys, receiver, standing, self._times, now, ANSWER_S)
        receiver.add(pair.keys.inbound)
        self._pairs[pair.spi] = pair
        old = self._pairs.get(replaces) if replaces is not None else None
        if old is not None:
            old.note(Happening.REPLACED)
            old.successor = pair.spi
        if old is not None and old is self._current and keys.initiated and self._sends():
            self._switch(pair)
        else:
            self._refresh()

    def confirm(self, spi: int) -> None:
        """The far side has the answer by which it made this pair."""
        pair = self._pairs.get(spi)
        if pair is not None and pair.life is Life.WAITING:
            pair.note(Happening.CONFIRMED)
            self._refresh()

    def spis(self) -> set[int]:
        """Our inbound SPIs of the pairs that the far side uses, as far as we know."""
        return {pair.spi for pair in self._pairs.values() if not pair.gone}

    def down(self, spi: int, now: float, by: By = By.PEER, *, deaf: bool = False) -> None:
        """The far side sends on our inbound `spi` no more; what we send on its pair it takes a while, or is `deaf`."""
        pair = self._pairs.get(spi)
        if pair is None:
            return
        pair.note(Happening.DELETED)
        pair.gone_at, pair.deaf = now + OLD_SA_S, deaf
        if by is By.PEER and pair.successor is None:
            self.lack = by
        self._refresh()

    def leave(self) -> set[int]:
        """Give up all pairs of a member that goes; returns the SPIs that the far side is to be told to delete."""
        for pair in self._pairs.values():
            if pair.receiver is not self.accepted:  # its own process goes, too
                pair.receiver.remove(pair.spi)
        return self.spis()

    def stop(self) -> None:
        """Leave nothing to send on, nor to accept, to the member that lives or to those that come."""
        self._boot.clear()
        self._before = None
        for pair in list(self._pairs.values()):
            self._drop(pair)
        self._over.clear()
        self._current = None
        self.accepted.clear()

        # What is left to do is to tell the member, as often as it takes.
        self._until_ms, self._untold = 0, False
        self.lack, self.renew = By.START, None
        self._stops = True
        self._tell_accepted()

    def end_sending(self) -> bool:
        """Let the member send no more on what the far side has left; False: it has no room to be told."""
        if self._current is None or not self._current.gone:
            return True
        if told := self._mailbox.update(self.accepted.all(), None, stop=True):
            self._current = None
        return told

    def settle(self, now: float) -> None:
        """After all that IKE had to tell: do not send on what is gone, if there is anything else."""
        self._tell_accepted()
        self._follow_sending(self._shared.link[LinkWord.SPI_OUT], now)
        self._note_ready(now)
        if not self._sends():
            return  # it takes a boot record
        current, held = self._current, self._pairs.values()
        if (pair := to_hurry(held, current, silent=not self._sends_on)) is not None:
            self.confirm(pair.spi)
        if (pair := to_switch_to(held, current, self._authentication, self._times, now)) is not None:
            self._switch(pair)
        elif current is not None and current.deaf:
            self.end_sending()

    def wake(self) -> None:
        """Have the living member told once more what it accepts: it may rest, and there is something new for it."""
        self._told = -1

    # -- what the shared words tell -----------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Follow the member: which SA it sends on, which it has heard."""
        incarnation = self._shared.process.incarnation
        self.accepted.tick(now)
        if incarnation != self._incarnation:
            if self._incarnation > 0:
                self.lack = self._left_by = By.DEATH
            self._incarnation = incarnation
            self._told = -1
        for pair in [pair for pair in self._pairs.values() if pair.ends_at <= now]:
            self._end(pair, By.TIMER)  # members have ended their SAs themselves
        self._forget(now)
        self.settle(now)
        self._retire_left(now)
        self._retire(to_retire(self._pairs.values(), self._current, self._authentication), now)

    def hear(self) -> None:
        """The member's events."""
        for event in self._mailbox.events():
            log.debug("member %d: %s %#010x", self._index, event.kind.name, event.spi)
            if event.kind is EventKind.SOFT_LIMIT and event.spi == self._shared.link[LinkWord.SPI_OUT]:
                self.renew = By.COUNT
            elif event.kind is EventKind.ELSEWHERE:
                self.strayed = True

    def _follow_sending(self, spi_out: int, now: float) -> None:
        """A new incarnation sends on the spare that it took: the old pair goes, by us, a while later.

        What it sends on changes also when it does as it was told, and then later than it was told.
        """
        if spi_out == self._sends_on:
            return
        self._sends_on = spi_out
        if not spi_out and self._current is not None and self._sends():  # by count: the member has ended it
            self._end(self._current, By.COUNT)
            return
        pair = next((pair for pair in self._pairs.values() if pair.keys.outbound.spi == spi_out), None)
        if pair is None and spi_out:
            self._current = None  # it has taken what a predecessor of keyd had left
        if pair is None or pair is self._current:
            return
        self._until_ms = 0
        if pair.ends_early:  # it was taken before its record could say so
            self._end_outbound_by(pair.keys.outbound.deadline_ms)
            self._told = -1
        pair.take(now)
        self._current = pair
        self._refresh()

    def _note_ready(self, now: float) -> None:
        ready = [pair for pair in self._pairs.values() if pair.is_ready_by(now)]
        for pair in ready:
            pair.note(Happening.CONFIRMED)
        if ready:
            self._refresh()

    def _retire_left(self, now: float) -> None:
        """What was sent on, or was taken by an incarnation that died before it could show it."""
        for pair in self._pairs.values():
            if pair.life is Life.USED and pair is not self._current:
                pair.note(Happening.ABANDONED)
                pair.left_by, pair.retire_at = self._left_by, now + OLD_SA_S

    def _retire(self, spares: list[Pair], now: float) -> None:
        """Have spares deleted that others have taken the place of."""
        for pair in spares:
            pair.note(Happening.REPLACED)
            pair.retire_at = now
        if spares:
            self._refresh()

    def _end(self, pair: Pair, by: By) -> None:
        """Delete a pair whose life is over, by time or by count."""
        self.lack = by
        self._drop(pair)
        self._over.append((pair.spi, by))
        if pair is self._current:
            self._current = None
        self._refresh()

    def _forget(self, now: float) -> None:
        gone = [pair for pair in self._pairs.values() if pair.gone_at is not None and pair.gone_at <= now]
        for pair in gone:
            pair.receiver.remove(pair.spi)
            if pair is self._current and not self.end_sending():  # settle has found nothing in its place
                continue  # once more at the next tick
            self._drop(pair)

    def _drop(self, pair: Pair) -> None:
        """Forget a pair, and let nobody accept anything on it."""
        pair.note(Happening.ENDED)
        pair.receiver.remove(pair.spi)
        del self._pairs[pair.spi]

    # -- what is wanted of IKE ----------------------------------------------------------------------------------

    def missing(self, spares: int) -> int:
        """How many pairs more there should be, when one is in use and so many are spare."""
        return missing(self._pairs.values(), self._current, self._authentication, spares)

    def supersede(self, authentication: int) -> None:
        """Replace all pairs that rest on an earlier authentication than this."""
        self._authentication = authentication
        self.lack = By.TIMER

    @property
    def superseded(self) -> bool:
        """Whether it still sends on what rests on an earlier one."""
        current = self._current
        return current is not None and not current.gone and not self._is_fresh(current)

    def renew_all(self, by: By, now: float) -> None:
        """Replace what is sent on, and all that carries less than is configured: the peer may agree to more by now."""
        self.renew, self._anew_at = by, now
        self._outdate_narrowed()

    def _outdate_narrowed(self) -> None:
        for pair in self._pairs.values():
            pair.outdated = pair.outdated or pair.keys.outbound.narrowed is not None

    def _is_fresh(self, pair: Pair) -> bool:
        return pair.is_fresh(self._authentication)

    def due_to_delete(self, now: float) -> list[tuple[int, By]]:
        """Pairs that we have left long enough ago, and why, each told once."""
        due = [pair for pair in self._pairs.values() if pair.retire_at is not None and pair.retire_at <= now]
        for pair in due:
            pair.retire_at = None
        over, self._over = self._over, []
        return [*over, *((pair.spi, pair.left_by) for pair in due)]

    @property
    def bare(self) -> bool:
        """Whether it has no pair to send on."""
        return all(pair.gone for pair in self._pairs.values())

    def due_to_rekey(self, now: float, *, alone: bool, hold: bool) -> list[tuple[int, By]]:
        """Pairs whose time is over, spares too, and the one that we send on when its count is (`renew`); and why.

        They are asked for again and again until they end. `alone`: the far side gives us no spares; then what a dead
        incarnation has sent on is replaced for its successor. `hold`: it has just refused, and is not asked again yet.
        """
        renew, bereft = self.renew, alone and not self._sends()
        self.renew = renew if hold else None
        anew_at, held = self._anew_at, self._pairs.values()
        found = to_rekey(held, self._current, renew, self._times, now, anew_at=anew_at, bereft=bereft, hold=hold)
        for pair, _ in found:
            pair.asked_at = now
        return [(pair.spi, by) for pair, by in found]

    def needs_more(self, now: float) -> bool:
        """Whether what it sends on will end, or has, and nothing is there to take its place."""
        current = self._current if self._sends() else None
        return needs_more(self._pairs.values(), current, self._times, now, renews=self.renew is not None)

    def ends_in(self, now: float) -> float | None:
        """Seconds until what it sends on ends; None: there is nothing, or no end."""
        pair = self._current
        at = next_end([pair]) if pair is not None and not pair.gone else None
        return max(0.0, at - now) if at is not None else None

    def inherited_ends_in(self, now: float) -> float | None:
        """Seconds until what a predecessor of keyd had made ends early; None: it does not, or is gone."""
        return max(0.0, self._until_ms / 1000 - now) if self._until_ms else None

    def next_end(self) -> float | None:
        """When the life of a pair is over next."""
        return next_end(self._pairs.values())

    def next_renewal(self) -> float | None:
        """When a pair is to be replaced next."""
        return next_renewal(self._pairs.values(), self._times)

    def is_at_rest(self, now: float) -> bool:
        """Whether no pair comes or goes, and the member sends on what it is thought to."""
        shared, current = self._shared, self._current
        if self._told != self.accepted.version or self._over or self.renew is not None or self._until_ms:
            return False
        if self._boot.has_orphans or self.accepted.has_inherited or shared.process.incarnation != self._incarnation:
            return False
        if shared.link[LinkWord.SPI_OUT] != self._sends_on or (current is not None and not self._sends()):
            return False
        held = self._pairs.values()
        return all((pair.spare or pair is current) and pair.is_settled(self._times, now) for pair in held)

    def pair(self, spi: int) -> Pair | None:
        """That of our inbound SPI."""
        return self._pairs.get(spi)

    def _sends(self) -> bool:
        """Whether the incarnation that lives has an SA to send on; else it waits for a boot record."""
        return self._shared.ledger.sender == self._shared.process.incarnation

    # -- handing out --------------------------------------------------------------------------------------------

    def _switch(self, pair: Pair) -> None:
        """Let the living member send on this pair, if its outbound SA is ours to give, and it has room to hear."""
        spares = self._boot.take_back(self._pairs.values())
        given = spares.pop(pair.spi, None)
        if given is not None:
            given.note(Happening.HANDED_OUT)
        self._put(spares)
        told = self._tell(given.keys.outbound if given else None)
        if given is not None and told:
            self._current, self._left_by = given, By.REPLACED
        elif given is not None:
            given.note(Happening.NOT_HANDED_OUT)
            self._refresh()

    def _tell_accepted(self) -> None:
        """Boot records and the living member are to have all that is accepted now."""
        if self._told != self.accepted.version:
            self._refresh()
            self._tell(None)

    def _tell(self, outbound: SaKeys | None) -> bool:
        """Tell the living member; False: it has no room, and is told what it accepts once more at the next tick."""
        incarnation = self._shared.process.incarnation
        until_ms = self._until_ms if outbound is None and incarnation == self._until_of else 0
        stop = self._stops and outbound is None
        if not self._mailbox.update(self.accepted.all(), outbound, stop=stop, until_ms=until_ms):
            self._told = -1
            return False
        self._told, self._stops = self.accepted.version, False
        if outbound is not None:
            self._until_ms = 0
        if self._untold:
            self._untold = False
            self._remember()
        return True

    def _remember(self) -> None:
        """For the next keyd: what is installed, and what that rests on; a predecessor's note until all is told."""
        if not self._untold:
            chains = [pair.standing.chain for pair in self._pairs.values()]
            inherits = self.accepted.has_inherited or self._boot.has_orphans or self._current is None
            self._mailbox.note = self._proof.note(chains, self._before if inherits else None).encode()
        self._mailbox.remember(self.accepted.all())

    def _refresh(self) -> None:
        """Boot records as they should be now."""
        self._put(self._boot.take_back(self._pairs.values()))

    def _put(self, spares: dict[int, Pair]) -> None:
        """Boot records of these, with what is installed now."""
        self._remember()
        self._boot.put(spares, self.accepted.all(), self._is_fresh)

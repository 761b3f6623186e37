"""What the log says of one peering's IKE: the record of its SAs, and who was refused.

With `audit` in the configuration each IKE SA and each Child SA that is made, rekeyed, over or deleted is one record at
info: whose, by what certificate, of what algorithms, under what SPIs, and by whom or by what. No key and no secret is
ever in it. A peer with all keys can make SAs as fast as it likes, so records are bounded: what was left out is counted
in the next one (`suppressed`); so are refusals and selectors, which share their bound. Whatever else anybody can cause
is told once a second or less. keyd has one share of the log for all peerings: no peer may use it up.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from fwd.keyd.checkup import audit
from fwd.keyd.refusals import Refusals
from fwd.model.config import Peering
from fwd.model.pairing import Far
from fwd.proto.ike.causes import By
from fwd.proto.ike.events import (
    Address,
    ChildDown,
    ChildRefused,
    ChildUp,
    Event,
    ExchangeRefused,
    Fault,
    IkeDown,
    IkeUp,
    Moved,
    Rejected,
    Standing,
    Strayed,
)
from fwd.proto.ike.numbers import notify_name
from fwd.proto.ike.rate import Rate
from fwd.proto.ike.sa import IkeSa
from fwd.proto.logged import event

SECOND_S: Final = 1.0
STRAYED_EVERY_S: Final = 60.0
UNANSWERED_EVERY_S: Final = 60.0
RECORDS_PER_S: Final = 5.0
RECORDS_FIRST: Final = 64  # at once; and MEMBER_RECORDS for each member, which a start takes
MEMBER_RECORDS: Final = 8
_REASON_MAX: Final = 200  # characters
Fields = dict[str, object]
log = logging.getLogger(__name__)


class Record:
    """See the module. `peer`: the far gateway's identity; `far`: which of several it is."""

    def __init__(self, peering: Peering, peer: str, far: Far) -> None:
        self._name = peering.name
        self._label = label(peering.name, far)
        self._far = far
        self._peer = peer
        self._wanted = peering.audit
        self._rate = Rate(RECORDS_PER_S, RECORDS_FIRST + MEMBER_RECORDS * peering.members)
        self._suppressed = 0
        self._told_at: dict[str, float] = {}
        self._refusals = Refusals(peering.name, self._label, self._may_tell)
        self._children: dict[int, tuple[int, int]] = {}  # by our SPI: the member, and the peer's SPI

    def change(self, peering: Peering, peer: str) -> None:
        """Tell of it as it is now."""
        self._peer, self._wanted = peer, peering.audit

    def note(self, what: Event, now: float) -> None:
        """Tell of an event what the log is to have; nothing of others, of which their consequences tell."""
        match what:
            case IkeUp():
                self.ike_up(what, now)
            case IkeDown():
                self.ike_down(what, now)
            case ChildUp():
                self.child_up(what, now)
            case ChildDown():
                self.child_down(what, now)

            # What either side has refused, which it may again and again.
            case ExchangeRefused():
                self._refusals.note(what, now)
            case ChildRefused():
                reason, member = notify_name(what.notify), self._far.member(what.member)
                self._refusals.note(ExchangeRefused(self._name, by_peer=True, reason=reason, member=member), now)

            # What anybody can cause.
            case Moved():
                self.moved(what, now)
            case Strayed():
                self.strayed(what, now)
            case Rejected():
                self.rejected(what, now)
            case Fault():
                self.fault(what, now)

    # -- SAs ------------------------------------------------------------------------------------------------------

    def ike_up(self, what: IkeUp, now: float) -> None:
        """An IKE SA is made, or has replaced another."""
        fields: Fields = {
            "peer": self._peer, **_place(what.remote), **_spis(what.spis), "proposal": what.proposal,
            "initiator": what.initiated, "by": what.by.value, **audit(what.standing.chain),
        }  # fmt: skip
        if what.replaces is None:
            self._tell(event("audit.ike_made", peering=self._name, **fields), "IKE SA made", now)
        else:
            fields |= {"replaces_spi_i": what.replaces[0].hex(), "replaces_spi_r": what.replaces[1].hex()}
            self._tell(event("audit.ike_rekeyed", peering=self._name, **fields), "IKE SA rekeyed", now)

    def ike_down(self, what: IkeDown, now: float) -> None:
        """An IKE SA is no more."""
        reason = what.reason[:_REASON_MAX]
        fields: Fields = {"peer": self._peer, **_spis(what.spis), "by": what.by.value, "reason": reason}
        if what.by in (By.TIMER, By.COUNT):
            self._tell(event("audit.ike_expired", peering=self._name, **fields), "IKE SA is over", now)
        else:
            self._tell(event("audit.ike_deleted", peering=self._name, **fields), "IKE SA deleted", now)

    def child_up(self, what: ChildUp, now: float) -> None:
        """A Child SA is made, or has replaced another."""
        child = what.child
        self._children[child.inbound.spi] = self._far.member(child.member), child.outbound.spi
        fields: Fields = {
            "peer": self._peer, **self._child(child.inbound.spi), "proposal": child.proposal,
            "initiator": child.initiated, "by": what.by.value, **audit(what.standing.chain),
        }  # fmt: skip
        if what.replaces is None:
            self._tell(event("audit.child_made", peering=self._name, **fields), "Child SA made", now)
        else:
            fields["replaces_spi_in"] = f"{what.replaces:#010x}"
            self._tell(event("audit.child_rekeyed", peering=self._name, **fields), "Child SA rekeyed", now)

    def child_expired(self, spi: int, by: By, now: float) -> None:
        """The life of a Child SA is over; that it is deleted follows."""
        fields: Fields = {"peer": self._peer, **self._child(spi), "by": by.value}
        self._tell(event("audit.child_expired", peering=self._name, **fields), "Child SA is over", now)

    def child_down(self, what: ChildDown, now: float) -> None:
        """A Child SA is no more."""
        fields: Fields = {"peer": self._peer, **self._child(what.spi), "by": what.by.value}
        self._children.pop(what.spi, None)
        self._tell(event("audit.child_deleted", peering=self._name, **fields), "Child SA deleted", now)

    def stopped(self, sas: Iterable[IkeSa], now: float) -> None:
        """Tell the end of SAs when fwd ends, which waits for no answer to its Deletes."""
        for sa in sas:
            for child in sa.children.values():
                self.child_down(ChildDown(self._name, child.keys.member, child.spi_in, By.STOP), now)
            if sa.established_at:
                self.ike_down(IkeDown(self._name, (sa.spi_i, sa.spi_r), By.STOP, ""), now)

    def tick(self, now: float) -> None:
        """Tell how many records were left out, if no other does."""
        if self._suppressed and self._rate.allows(now, RECORDS_PER_S):
            count, self._suppressed = self._suppressed, 0
            told = event("audit.suppressed", peering=self._name, suppressed=count)
            log.info("%s: %d records of its SAs are left out", self._label, count, extra=told)

    def _child(self, spi: int) -> Fields:
        member, spi_out = self._children.get(spi, (None, 0))
        return {"member": member, "spi_in": f"{spi:#010x}", "spi_out": f"{spi_out:#010x}"}

    def _tell(self, told: dict[str, object], text: str, now: float) -> None:
        if not self._wanted:
            return
        if not self._may_tell(now):
            return
        fields = told["fields"]
        assert isinstance(fields, dict)
        if self._suppressed:
            fields["suppressed"], self._suppressed = self._suppressed, 0
        said = " ".join(f"{key}={value}" for key, value in fields.items() if key != "peering")
        log.info("%s: %s: %s", self._label, text, said, extra=told)

    def _may_tell(self, now: float) -> bool:
        """Whether there is room for one record more; what is left out is counted."""
        allowed = self._rate.allows(now)
        self._suppressed += not allowed
        return allowed

    # -- what SAs carry ---------------------------------------------------------------------------------------------

    def narrower(self, member: int, local: str, remote: str, carried: Fields, now: float) -> None:
        """A member's SA carries less than is configured, and other selectors than before."""
        if self._may_tell(now):
            text = "%s: the far side carries less than is configured: member %d from %s to %s"
            told = event("ike.narrower", peering=self._name, member=member, **carried)
            log.warning(text, self._label, member, local, remote, extra=told)

    def no_room(self, member: int, error: Exception, now: float) -> None:
        """A Child SA was refused, since its member has no room for it."""
        if self._may_tell(now):
            told = event("ike.child_refused", peering=self._name, member=member)
            log.warning("%s: %s", self._label, error, extra=told)

    # -- the connection -------------------------------------------------------------------------------------------

    def established(self, standing: Standing, now: float) -> None:
        """The peer has proved who it is."""
        if self._is_due("established", now, SECOND_S):
            told = event("ike.established", peering=self._name, peer=self._peer, **audit(standing.chain))
            log.info("%s: IKE SA with %s established", self._label, self._peer, extra=told)

    def closed(self, error: str, now: float) -> None:
        """The connection's last IKE SA is gone. `error`: why, unless it was wanted."""
        if not self._is_due(f"closed {bool(error)}", now, SECOND_S):
            return
        if error:
            told = event("ike.gone", peering=self._name, reason=error)
            log.warning("%s: IKE SA is gone: %s", self._label, error, extra=told)
        else:
            log.info("%s: IKE SA is closed", self._label, extra=event("ike.closed", peering=self._name))

    def unanswered(self, silent_s: float, now: float) -> None:
        """The peer has left a request unanswered for so long; while its traffic is heard, the IKE SA stays."""
        if self._is_due("unanswered", now, UNANSWERED_EVERY_S):
            told = event("ike.unanswered", peering=self._name)
            log.warning("%s: the peer does not answer, for %.0f s now", self._label, silent_s, extra=told)

    def terms_refused(self, error: str, now: float) -> None:
        """What the peer says of the peering makes no sense."""
        if self._is_due("terms", now, SECOND_S):
            told = event("ike.terms_refused", peering=self._name)
            log.warning("%s: malformed FWD_PEERING notify: %s", self._label, error, extra=told)

    def reauthenticates(self, reason: str, now: float) -> None:
        """Both sides are to authenticate anew."""
        if self._is_due("reauthenticates", now, SECOND_S):
            told = event("ike.reauthenticates", peering=self._name, reason=reason)
            log.info("%s: authenticates anew beside the IKE SA that there is: %s", self._label, reason, extra=told)

    def inherited_end(self, reason: str, grace_s: float) -> None:
        """SAs end early, since what they were authenticated by is no more what is configured."""
        told = event("ike.inherited_end", peering=self._name, reason=reason)
        log.warning("%s: SAs of before end within %d s: %s", self._label, grace_s, reason, extra=told)

    def moved(self, what: Moved, now: float) -> None:
        """The peer is somewhere else now."""
        if self._is_due("moved", now, SECOND_S):
            told = event("ike.moved", peering=self._name, **_place(what.remote))
            log.info("%s: the peer is at %s port %d now", self._label, *what.remote, extra=told)

    def strayed(self, what: Strayed, now: float) -> None:
        """The peer is heard where it is not followed, and may go on being so."""
        if self._is_due("strayed", now, STRAYED_EVERY_S):
            told = event("ike.strayed", peering=self._name, **_place(what.remote))
            text = "%s: messages of the peer's come from %s port %d, where it is not followed: %s"
            log.warning(text, self._label, *what.remote, what.reason, extra=told)

    def rejected(self, what: Rejected, now: float) -> None:
        """Somebody was refused, which anybody can be again and again."""
        if self._is_due("rejected", now, SECOND_S):
            told = event("ike.refused", peering=self._name, **_place(what.remote))
            log.warning("%s: IKE with %s port %d refused: %s", self._label, *what.remote, what.error, extra=told)

    def fault(self, what: Fault, now: float) -> None:
        """A fault of fwd's own has ended an IKE SA."""
        if self._is_due("fault", now, SECOND_S):
            told = event("ike.fault", peering=self._name, error=type(what.error).__name__)
            log.error("%s: a fault of fwd's has ended an IKE SA", self._label, exc_info=what.error, extra=told)

    def _is_due(self, kind: str, now: float, every_s: float) -> bool:
        if now < self._told_at.get(kind, float("-inf")) + every_s:
            return False
        self._told_at[kind] = now
        return True


def label(name: str, far: Far) -> str:
    """How the log calls a peering: with the far gateway that is meant, if it has several."""
    return name if far.count == 1 else f"{name} ({far.address})"


def _place(remote: Address) -> Fields:
    return {"address": remote[0], "port": remote[1]}


def _spis(spis: tuple[bytes, bytes]) -> Fields:
    return {"spi_i": spis[0].hex(), "spi_r": spis[1].hex()}

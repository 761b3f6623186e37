"""One peering's IKEv2: an endpoint without sockets (fwd.proto.ike), and the pairs of each member.

Agrees with the far side on what both must know (agreement.py). Asks for what is missing, has rekeyed what is old and
deleted what was left, and begins anew when the connection is gone. Traffic that members hear keeps the connection
alive, so that a peer whose keyd is away for a while is not given up (RFC 7296 §2.4).
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from fwd.datapath.counters import MemberCounter
from fwd.datapath.shared import LinkWord
from fwd.keyd import aside
from fwd.keyd.agreement import Terms, disagreement, terms_told
from fwd.keyd.beginning import Beginning
from fwd.keyd.care import Care
from fwd.keyd.checkup import Checkup
from fwd.keyd.connection import connection_of
from fwd.keyd.handing import Handing
from fwd.keyd.mailbox import KeydMember, KeydPeering
from fwd.keyd.narrower import Narrower
from fwd.keyd.offers import Offers
from fwd.keyd.pair import Times
from fwd.keyd.pairs import MemberPairs
from fwd.keyd.partners import Partners
from fwd.keyd.patience import TICK_S, Glance, patience_s
from fwd.keyd.placing import Keepalive, look_elsewhere, place_peer
from fwd.keyd.proof import Doubt, Proof
from fwd.keyd.record import Record
from fwd.keyd.renewal import Renewal
from fwd.keyd.shown import concern, shown, unanswered_s
from fwd.keyd.wants import Wants
from fwd.model.config import Peering
from fwd.model.pairing import Far
from fwd.proto.ike import auth
from fwd.proto.ike.auth import Credentials
from fwd.proto.ike.causes import By
from fwd.proto.ike.endpoint import Endpoint
from fwd.proto.ike.events import (
    Address,
    ChildConfirmed,
    ChildDown,
    ChildRefused,
    ChildUp,
    Closed,
    Datagram,
    Established,
    Event,
    Fault,
    Informed,
    Moved,
    Rejected,
)
from fwd.proto.ike.leaving import Leaving
from fwd.proto.ike.message import Header
from fwd.proto.ike.payloads import Notification
from fwd.proto.ike.table import Commons

STOPPED: Final = "terminated by a user: `fwd initiate {}` begins again"


class IkePeering:
    """See the module. `reveal` is told the keys of IKE SAs, and is nobody unless the user has asked for it."""

    _handing: Handing

    def __init__(
        self,
        parts: KeydPeering,
        credentials: Credentials,
        now: float,
        reveal: Callable[[Any], None] | None = None,
        commons: Commons | None = None,
    ) -> None:
        """`commons`: what all endpoints of the process share."""
        peering = self.peering = parts.peering
        assert peering.ike is not None
        self.name = peering.name
        self._far = parts.far or peering.fars[0]
        self._partners = Partners(peering, parts.offloads, self._far, parts.shared)
        self.connection = connection_of(peering, credentials, self._partners.ours)
        self._checkup = Checkup(peering, credentials)
        self._record = Record(peering, auth.name_of(self.connection.remote_id), self._far)

        # Members, and what a keyd before this one has left them. What that rests on may have changed since.
        self._shared = [one.shared for one in parts.members]
        self._times, self._proof = Times(float(peering.rekey_time), peering.life_s), Proof.of(self.connection)
        of_all = self._times, self._proof
        self.members = [MemberPairs(self._far.member(i), one, *of_all) for i, one in enumerate(parts.members)]
        reasons = {member.judge_inherited(float(peering.ike.grace), now) for member in self.members}
        self._note_end(", ".join(sorted(reasons - {""})))
        self._initial_contact = not any(shared.link[LinkWord.SPI_OUT] for shared in self._shared)

        # IKE, what is wanted of it, and when this side begins.
        is_free, octet = lambda spi: self._handing.is_free(spi), self._far.member
        self._endpoint = Endpoint([self.connection], os.urandom, time.time, is_free, reveal, commons, octet)
        self._wants = Wants(self.members, self._partners.lacks)
        self._renewal = Renewal(self._times, float(peering.ike.reauth_time))
        self._narrower = Narrower(peering, self._record)
        wants = self._wants, self._renewal
        self._asks = Care(self.name, self._endpoint, self.members, self._record, self._partners, *wants)
        told = *wants, self._narrower, self._record, reveal
        self._handing = Handing(self.name, self._far, self._times, self._endpoint, self.members, *told)
        by, starts = By.START if self._initial_contact else By.RELOAD, peering.ike.start_action == "start"
        self._beginning = Beginning(starts=starts, by=by, now=now)
        self._keepalive = Keepalive(now)
        self._heard_esp = 0

        # What is told of it.
        self._offers = parts.offers or Offers(parts.shared, [self._far.address])
        self._error = self._disagreement = ""  # why there is no connection; why this peer cannot be joined
        self.faults = 0
        self.glance = Glance(self._shared)
        self.news = self.stirred = True  # `told` says something new; `tick` may find something to do
        if parts.stopped:
            self.terminate(now)

    def _note_end(self, reason: str) -> None:
        """Tell why SAs of before end early, if they do."""
        assert self.peering.ike is not None
        self._inherited_end = reason
        if reason:
            self._record.inherited_end(reason, float(self.peering.ike.grace))

    def change(self, peering: Peering, credentials: Credentials, now: float, far: Far | None = None) -> None:
        """Take other times, words and secrets for what comes next; what rests on secrets of before ends after `grace`.

        Its address and ports are the same (supervise/plan.py). Child SAs of other subnets are made anew.
        """
        before, self.peering = self.peering, peering
        assert before.ike is not None
        assert peering.ike is not None
        self._far = self._partners.change(peering, far or self._far)
        self.connection = connection_of(peering, credentials, self._partners.ours)
        self._times = self._handing.times = Times(float(peering.rekey_time), peering.life_s)
        self._know_members()
        self._checkup.change(peering, credentials)
        self._narrower.change(peering)
        self._record.change(peering, auth.name_of(self.connection.remote_id))

        # What both sides have proved may hold no more: then they are to do so anew, while that still serves.
        before_that, self._proof = self._proof, Proof.of(self.connection)
        doubt = Doubt(self._proof, before_that, float(peering.ike.grace), now)
        for member in self.members:
            member.change(self._times, doubt, anew=before.subnets != peering.subnets)
        if reason := doubt.reason([sa.standing.chain for sa in self._endpoint.sas(self.name)]):
            self._note_end(reason)
            self._endpoint.distrust(self.name, doubt.ends, reason, now)
        self._renewal.change(self._times, float(peering.ike.reauth_time), reason)
        begun = bool(self._endpoint.begun(self.name))
        self._beginning.change(before.ike.start_action, peering.ike.start_action, begun=begun, now=now)
        self.news = True

    def add_member(self, parts: KeydMember) -> None:
        """Negotiate for one member more."""
        self.members.append(MemberPairs(self._far.member(len(self.members)), parts, self._times, self._proof))
        self._shared.append(parts.shared)
        self._know_members()
        self._place_peer()

    def drop_member(self, now: float) -> MemberPairs:
        """Forget the last member, which carries nothing any more, and delete its SAs; returns what it still has."""
        member, _ = self.members.pop(), self._shared.pop()
        self._know_members()
        self._narrower.note(self._far.member(len(self.members)), None, now)
        for spi in member.leave():
            self._endpoint.delete_child(self.name, spi, now)
        return member

    def _know_members(self) -> None:
        """What the peer may ask for is for the members that there are; those that leave are among them."""
        self._wants.resize()
        self.glance.forget()
        self._connect(members=len(self.members))

    def _connect(self, **changes: Any) -> None:
        """Let the connection be other than it was."""
        self.connection = replace(self.connection, stopped=self._beginning.stopped, **changes)
        self._endpoint.change(self.connection)
        self.news = True

    # -- datagrams and time ---------------------------------------------------------------------------------------

    def receive(self, data: bytes, local: Address, remote: Address, now: float, header: Header | None = None) -> None:
        """A message that may be its own. `header`: that of the message, if it is known."""
        self._endpoint.receive(data, local, remote, now, header)
        self.follow(now)

    @property
    def endpoint(self) -> Endpoint:
        """Where its IKE SAs are."""
        return self._endpoint

    def paths(self) -> set[tuple[str, int, str]]:
        """Our address and port, and the peer's address, between which it may be begun."""
        local, remote = self.connection.local, self.connection.remote
        return {(local[0], port, remote[0]) for port in (local[1], self.connection.float_port) if port}

    def close(self) -> None:
        """It ends here, without a word to the peer: another one takes its place."""
        self._endpoint.close()

    def datagrams(self) -> list[Datagram]:
        return self._endpoint.datagrams_to_send()

    def keepalive(self, now: float) -> tuple[Address, Address] | None:
        """From where to where a NAT keepalive is due, on the port that IKE and ESP share (RFC 3948 §4)."""
        return self._keepalive.path(self._endpoint.established(self.name), now) if self.peering.shared_port else None

    def handle_timeout(self, now: float) -> None:
        """Do what IKE's own timers want; `stirred`: more is to be done."""
        self._note_traffic(now)  # first: it may be what a liveness check would ask about
        self._endpoint.handle_timeout(now)
        self.follow(now)
        sa = self._endpoint.established(self.name)
        self.stirred |= sa is not None and unanswered_s(sa, self.members, now) > 0  # which is told

    def next_end(self) -> float:
        """When `tick` is due at the latest: IKE is to begin, or a Child SA ends. Infinite: never."""
        times = [self._beginning.at, *(member.next_end() for member in self.members)]
        return min((at for at in times if at is not None), default=float("inf"))

    def patience_s(self, now: float) -> float:
        """For how long `tick` need not be called while nothing comes and nothing ends (`next_end`)."""
        sas, sa = self._endpoint.begun(self.name), self._endpoint.established(self.name)
        waits = bool(sas) or self._beginning.at is not None or not self._beginning.starts
        if self.news or not waits or len(sas) > 1:
            return TICK_S
        spares = [self._wants.spares(index, sa) for index in range(len(self.members))] if sa else None
        return patience_s(self.peering, sa, self.members, spares, self._wants.not_before, now)

    def hear(self, index: int, now: float) -> None:
        """A member has something to tell."""
        member = self.members[index]
        member.hear()
        if member.strayed:
            member.strayed = False
            sa = self._endpoint.established(self.name)
            look_elsewhere(self._shared[index], sa, now, shared_port=self.peering.shared_port)
        self.tick(now)

    def tick(self, now: float) -> None:
        """Everything that is due."""
        self.stirred = False
        self.glance.take()
        self._note_traffic(now)  # first: it may be what a liveness check would ask about
        self._checkup.tick(now)
        self._record.tick(now)
        self._endpoint.handle_timeout(now)
        for member in self.members:
            member.tick(now)
        begun, peer_begins = bool(self._endpoint.begun(self.name)), self._endpoint.begins(self.name, now)
        if self._beginning.is_due(now, begun=begun, peer_begins=peer_begins):
            contact = self._initial_contact
            self._endpoint.initiate(self.name, now, initial_contact=contact, by=self._beginning.by)
        self._care(now)
        self.follow(now)

    def _note_traffic(self, now: float) -> None:
        """What members have authenticated shows that the peer is there."""
        heard = sum(shared.counters.read()[MemberCounter.IN_ESP_OK] for shared in self._shared)
        if heard != self._heard_esp:
            self._heard_esp = heard
            self._endpoint.heard(self.name, now)

    def _care(self, now: float) -> None:
        """Ask for what there is to do; nothing new of a peer that is not to be joined."""
        self._asks.delete(now)
        sa = self._endpoint.established(self.name)
        if sa is not None and not self._refuses:
            self._asks.renew_and_make(sa, now)

    # -- what IKE tells -------------------------------------------------------------------------------------------

    def follow(self, now: float) -> None:
        """Do what follows from what IKE tells; nothing is looked at for a datagram that changes nothing."""
        changed = False
        while (what := self._endpoint.next_event()) is not None:
            self.news = True
            changed |= not isinstance(what, Rejected)  # strangers cause as many of these as they like
            self._record.note(what, now)
            self._act_on(what, now)

        # Members are told once, of all that has come of it.
        self.stirred |= changed
        for member in self.members if changed else ():
            member.settle(now)

    def _act_on(self, what: Event, now: float) -> None:
        """Do what follows from one event. What only the log tells of (record.py) is not here."""
        match what:
            # The connection, and the peer at its other end.
            case Established():
                self._established(what, now)
            case Informed():
                self._informed(what, now)
            case Moved():
                self._place_peer()
            case Closed():
                self._closed(what, now)
            case Fault():
                self._faulty(now)

            # Child SAs. Of a peer that is not to be joined none is used.
            case ChildUp() if not self._refuses:
                self._handing.up(what, now)
            case ChildConfirmed():
                self._handing.confirmed(what)
            case ChildDown():
                self._handing.down(what, now)
            case ChildRefused():
                self._handing.refused(what, now)

    def _established(self, what: Established, now: float) -> None:
        """Both sides have proved who they are: they are joined, unless they disagree."""
        theirs = self._terms_in(what.notifies, now)
        self._disagreement = disagreement(self._partners.ours, theirs)
        if self._disagreement:
            self._endpoint.terminate(self.name, now, self._disagreement, By.REFUSED)
            return

        # What earlier attempts have left counts no more.
        self._checkup.proved(what.certificate)
        self._record.established(what.standing, now)
        self._error = ""
        self._beginning.established()
        self._initial_contact = False
        self._wants.begin_anew()

        # Another fwd tells where its members are, and what its TUN device takes.
        self._partners.hear(theirs)
        sa = self._endpoint.established(self.name)
        if sa is not None and theirs is not None:
            sa.peer.behind_nat = theirs.behind_nat(sa.remote[0])
        if self._partners.ours.payload == "superpacket" and theirs is not None:
            self._offers.put(self._far.address, theirs.offloads)
        self._place_peer()

        # If this is not the first time, all pairs of before are to be replaced.
        if self._renewal.established(what.standing, now):
            for member in self.members:
                member.supersede(what.standing.authentication)

    def _informed(self, what: Informed, now: float) -> None:
        """The far side has another number of members now, or is about to close the peering."""
        theirs = None if aside.hear(self._shared, what.notify) else self._terms_in([what.notify], now)
        if theirs is not None and self._partners.theirs is not None and not disagreement(self._partners.ours, theirs):
            if self._partners.hear(theirs):
                self._wants.begin_anew()
            self._place_peer()

    def _terms_in(self, notifies: Sequence[Notification], now: float) -> Terms | None:
        """Return what another fwd says of the peering; None: the peer is none, or is not understood."""
        try:
            return terms_told(notifies)
        except ValueError as error:
            self._record.terms_refused(str(error), now)
            return None

    def _place_peer(self) -> None:
        """Tell members where theirs are, and whether a NAT stands before us."""
        sa = self._endpoint.established(self.name)
        if sa is not None:
            for index in place_peer(self._shared, sa, self._partners.theirs, shared_port=self.peering.shared_port):
                self.members[index].wake()

    def _faulty(self, now: float) -> None:
        """A fault of fwd's has ended an IKE SA; what its members have of Child SAs that are gone goes, too."""
        self.faults += 1
        held = {spi for sa in self._endpoint.sas(self.name) for spi in sa.children}
        for member in self.members:
            for spi in member.spis() - held:
                member.down(spi, now)
        self._initial_contact = not self._endpoint.established(self.name)

    def _closed(self, what: Closed, now: float) -> None:
        self._narrower.clear()
        self._error = what.error or self._disagreement
        for member in self.members if what.has_ended else ():
            member.end_sending()
        self._record.closed(self._error, now)
        self._beginning.closed(now)

    def failures(self) -> Counter[str]:
        """Count what has failed, by reason."""
        return Counter({one.value: count for one, count in self._endpoint.failures.items()})

    def told(self, now: float) -> dict[str, Any]:
        """What there is to see of it (shown.py)."""
        sa = self._endpoint.established(self.name)
        without = self._partners.why_refused(len(self.members))
        refused = self._wants.shown() | {i: why for i, why in without.items() if self.members[i].bare}
        return {
            "sas": [shown(sa, self.members, self._far, now) for sa in self._endpoint.begun(self.name)],
            "half_open": len(self._endpoint.sas(self.name)) - len(self._endpoint.begun(self.name)),
            "error": STOPPED.format(self.name) if self._beginning.stopped else self._error,
            "stopped": self._beginning.stopped,
            "certificates": self._checkup.told(),
            "faults": self.faults,
            "failures": dict(self.failures()),
            "narrower": self._narrower.told(),
            "concern": concern(self.members, self._wants.refused, self._inherited_end, sa, now),
            "refused": {str(self._far.member(index)): why for index, why in refused.items()},
        }

    # -- what the user wants --------------------------------------------------------------------------------------

    def rekey(self, now: float) -> None:
        """Every Child SA in use, and the IKE SA, have a successor soon."""
        for member in self.members:
            member.renew_all(By.USER, now)
        self._care(now)
        self._endpoint.rekey_ike(self.name, now, By.USER)

    def terminate(self, now: float) -> None:
        """End the connection, and all traffic with it, until `initiate`: whoever else begins is refused."""
        self._beginning.stop()
        self._connect()
        self._initial_contact = True
        self._endpoint.terminate(self.name, now)
        for member in self.members:
            member.stop()

    def initiate(self, now: float) -> None:
        """Begin, after `terminate` or with start_action none."""
        self._beginning.start(now, begun=bool(self._endpoint.begun(self.name)))
        self._connect()

    @property
    def _refuses(self) -> bool:
        """Whether nothing is made with the peer: the sides disagree, or a user has ended the connection."""
        return bool(self._disagreement) or self._beginning.stopped

    def stopping(self, now: float) -> None:
        """Tell the peer, once, that fwd goes."""
        self._record.stopped(self._endpoint.sas(self.name), now)
        self._endpoint.change(replace(self.connection, stopped=True))
        self._endpoint.say_farewell(self.name)

    def leave(self, to: Leaving, now: float) -> None:
        """Let the peer be told that this peering goes, until it has answered."""
        self._record.stopped(self._endpoint.sas(self.name), now)
        self._endpoint.change(replace(self.connection, stopped=True))
        to.take(self._endpoint, now)

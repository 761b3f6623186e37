"""Exchanges of an established IKE SA: about Child SAs, and INFORMATIONAL, both roles (RFC 7296 §1.3, 1.4, 2.8, 2.25).

Two sides may begin at once. A Child SA that both rekey has two successors for a moment: the exchange in which the
lowest of the four nonces was sent has lost, and who began it deletes what it made (§2.8.1); the other deletes the old
one. What the peer asks for while it cannot be is answered with TEMPORARY_FAILURE, and who asked tries again later
(§2.25).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from fwd.proto.ike.causes import HAS_ENDED, By, Failure, by_notify
from fwd.proto.ike.child import Child, Offer, answer
from fwd.proto.ike.events import FIRST_MEMBER, ChildRefused, ExchangeRefused, Informed
from fwd.proto.ike.limits import CHILDREN_MAX, MEMBER_CHILDREN_MAX
from fwd.proto.ike.mobility import cookie2_of
from fwd.proto.ike.numbers import (
    ESP_SPI_BYTES,
    Exchange,
    Notify,
    Protocol,
    ProtocolError,
    Status,
    notify_name,
    syntax,
)
from fwd.proto.ike.payloads import (
    AnyPayload,
    Delete,
    Nonce,
    Notification,
    error_of,
    notified,
    only,
)
from fwd.proto.ike.sa import IkeSa
from fwd.proto.ike.states import State, Use

RETRY_S: Final = 1.0
_RETRIES_MAX: Final = 30
_REGROUPS_MAX: Final = 3


class CreateChild:
    """A Child SA more, or the successor of `old`. `notifies` tell the peer what it is for."""

    exchange = Exchange.CREATE_CHILD_SA
    about_children = True

    def __init__(
        self, member: int, notifies: tuple[Notification, ...] = (), old: Child | None = None, by: By = By.START
    ) -> None:
        self.member = member
        self._by = by
        self._notifies = notifies
        self._old = old
        self._offer: Offer | None = None
        self._group: int | None = None
        self._regroups = 0
        self._retries = 0

    @property
    def is_more(self) -> bool:
        """Whether it replaces none."""
        return self._old is None

    def replaces(self, child: Child) -> bool:
        """Whether it is to replace this one."""
        return self._old is child

    def start(self, sa: IkeSa, now: float) -> list[AnyPayload] | None:
        old = self._old
        if sa.state is not State.ESTABLISHED:
            return None
        if old is not None:
            if old.use is not Use.INSTALLED:
                return None
            old.move(Use.REKEYING)
        receiver = sa.peer.receiver_of(self.member)
        self._offer = Offer.make(sa.connection, sa.world, self.member, receiver, self._group, first=False)
        rekey = [_rekey_notify(old)] if old else []
        return [*rekey, *sa.peer.understood(self._notifies), *self._offer.payloads()]

    def finish(self, sa: IkeSa, reply: list[AnyPayload], now: float) -> None:
        self._finish(sa, reply, now)
        sa.gone_early.clear()

    def _finish(self, sa: IkeSa, reply: list[AnyPayload], now: float) -> None:
        assert self._offer is not None
        assert sa.keys is not None
        wrong_group = notified(reply, Notify.INVALID_KE_PAYLOAD)
        if wrong_group and self._regroups < _REGROUPS_MAX:
            self._regroups += 1
            self._group = int.from_bytes(wrong_group.data[:2], "big")
            self._again(sa, now, now)
            return

        error = error_of(reply)
        if error is not None:
            self._failed(sa, error.kind, now)
            return

        # It may be gone already: the peer's Delete has overtaken its answer.
        child = Child(self._offer.accept(reply, sa.connection, sa.keys), self._notifies)
        old = self._old
        if child.spi_out in sa.gone_early:
            self._keep_old()
            return
        sa.add_child(child, old.spi_in if old else None, self._by)
        if old is not None:
            self._replace(sa, old, child, min(self._offer.nonce, only(reply, Nonce).data), now)

    def _replace(self, sa: IkeSa, old: Child, child: Child, lowest: bytes, now: float) -> None:
        """Delete what is not needed any more: ours, when the peer's own exchange has won, else the old one."""
        rival = old.rival
        if old.use is Use.REKEYING:  # else the peer has deleted it meanwhile
            old.move(Use.REKEYED)
        lost = rival is not None and lowest < rival[1] and rival[0] in sa.children
        sa.submit_first(DeleteChildren([child if lost else old]), now)

    def _again(self, sa: IkeSa, now: float, due: float) -> None:
        if self._old is not None and self._old.use is Use.REKEYING:
            self._old.move(Use.INSTALLED)
        if due <= now:
            sa.submit_first(self, now)
        else:
            sa.submit_later(self, due)

    def _failed(self, sa: IkeSa, error: int, now: float) -> None:
        old = self._old
        reason = notify_name(error)
        sa.world.fail(by_notify(error))
        sa.world.tell(ExchangeRefused(sa.connection.name, by_peer=True, reason=reason, member=self.member))
        if error == Notify.TEMPORARY_FAILURE and self._retries < _RETRIES_MAX:
            self._retries += 1
            if old is None or old.rival is None:
                self._again(sa, now, now + RETRY_S * (0.5 + sa.world.random(1)[0] / 256))
                return
        if old is None:
            sa.world.tell(ChildRefused(sa.connection.name, self.member, error))
            return
        self._keep_old()
        if error == Notify.CHILD_SA_NOT_FOUND:
            sa.remove_child(old)
        elif old.rival is None and error != Notify.TEMPORARY_FAILURE:
            sa.world.tell(ChildRefused(sa.connection.name, self.member, error))

    def _keep_old(self) -> None:
        """No successor comes of this exchange; perhaps the peer has made one itself."""
        old = self._old
        if old is not None and old.use is Use.REKEYING:
            old.move(Use.REKEYED if old.rival else Use.INSTALLED)

    def refused(self, sa: IkeSa, error: ProtocolError, now: float) -> None:
        """What the peer answers cannot be used; what it may have installed is told to go by ending the SA."""
        sa.submit_first(DeleteIke(str(error), By.REFUSED), now)


class DeleteChildren:
    """Tell the peer that these Child SAs go; they are gone when it has answered."""

    exchange = Exchange.INFORMATIONAL
    about_children = True

    def __init__(self, children: Iterable[Child], by: By = By.REPLACED) -> None:
        self._children = list(children)
        self._by = by

    def start(self, sa: IkeSa, now: float) -> list[AnyPayload] | None:
        self._children = [
            child
            for child in self._children
            if sa.children.get(child.spi_in) is child and child.use not in (Use.DELETING, Use.REKEYING)
        ]
        if not self._children or sa.state in (State.REKEYED, State.DELETING):
            return None
        for child in self._children:
            child.move(Use.DELETING)
        return [Delete(Protocol.ESP, tuple(child.spi_in for child in self._children))]

    def finish(self, sa: IkeSa, reply: list[AnyPayload], now: float) -> None:
        for child in self._children:
            sa.remove_child(child, self._by)

    def refused(self, sa: IkeSa, error: ProtocolError, now: float) -> None:
        self.finish(sa, [], now)


class Liveness:
    """Whether the peer is still there (RFC 7296 §2.4): an empty message, or one that says what a fwd is to know."""

    exchange = Exchange.INFORMATIONAL
    about_children = False

    def __init__(self) -> None:
        self._status: Status | None = None  # as it says

    def start(self, sa: IkeSa, now: float) -> list[AnyPayload] | None:
        if not sa.owes_status:
            return []
        self._status = sa.connection.status
        return [Notification(Notify.FWD_STATUS, bytes([self._status]))]

    def finish(self, sa: IkeSa, reply: list[AnyPayload], now: float) -> None:
        """Note what the peer knows by now: a request that ends with its IKE SA may not have come to it."""
        if self._status is not None:
            sa.peer.told = self._status

    def refused(self, sa: IkeSa, error: ProtocolError, now: float) -> None:
        self.finish(sa, [], now)


class Inform:
    """Tell another fwd something anew."""

    exchange = Exchange.INFORMATIONAL
    about_children = False

    def __init__(self, notifies: Iterable[Notification]) -> None:
        self._notifies = list(notifies)

    def start(self, sa: IkeSa, now: float) -> list[AnyPayload] | None:
        return [*self._notifies]

    def finish(self, sa: IkeSa, reply: list[AnyPayload], now: float) -> None:
        pass

    def refused(self, sa: IkeSa, error: ProtocolError, now: float) -> None:
        pass


class DeleteIke:
    """End the IKE SA. `error`: why, unless it is wanted or has a successor."""

    exchange = Exchange.INFORMATIONAL
    about_children = False

    def __init__(self, error: str = "", by: By = By.REPLACED) -> None:
        self._error = error
        self._by = by

    def start(self, sa: IkeSa, now: float) -> list[AnyPayload] | None:
        if sa.state is State.CONNECTING:  # there is nothing yet that the peer could be told to delete
            sa.die(self._error, self._by)
        if sa.state in (State.DELETING, State.DEAD):
            return None
        sa.move(State.DELETING)
        return [Delete(Protocol.IKE), *sa.ending()]

    def finish(self, sa: IkeSa, reply: list[AnyPayload], now: float) -> None:
        sa.die(self._error, self._by)

    def refused(self, sa: IkeSa, error: ProtocolError, now: float) -> None:
        sa.die(self._error, self._by)


def _rekey_notify(old: Child) -> Notification:
    """RFC 7296 §1.3.3: the SPI is the one that its sender receives on."""
    return Notification(Notify.REKEY_SA, b"", Protocol.ESP, old.spi_in.to_bytes(ESP_SPI_BYTES, "big"))


# -- responder ----------------------------------------------------------------------------------------------------


def respond_child(sa: IkeSa, request: list[AnyPayload], now: float) -> list[AnyPayload]:
    """Answer a request for a Child SA, new or in place of another. Raises ProtocolError."""
    assert sa.keys is not None
    old = _asked_to_rekey(sa, request)
    if len(sa.children) >= CHILDREN_MAX:
        raise ProtocolError(Notify.NO_ADDITIONAL_SAS, f"more than {CHILDREN_MAX} Child SAs")

    # One member has so many Child SAs, whatever a peer asks for.
    member = old.keys.member if old else member_of(sa, request)
    try:
        if sum(child.keys.member == member for child in sa.children.values()) >= 2 * MEMBER_CHILDREN_MAX:
            reason = f"{2 * MEMBER_CHILDREN_MAX} Child SAs of member {member}"
            raise ProtocolError(Notify.NO_ADDITIONAL_SAS, reason)
        keys, reply, nonce = answer(request, sa.connection, sa.world, sa.keys, member, sa.peer.receiver_of(member))
    except ProtocolError as error:
        error.member = member
        raise

    # It is installed with the answer that tells of it; the old one goes by the peer's Delete.
    if notified(request, Notify.SA_RESOURCE_INFO):
        reply.append(resource(member))
    child = Child(keys, old.notifies if old else ())
    sa.answer_with(child, old.spi_in if old else None)
    if old is not None:
        old.rival = child.spi_in, min(only(request, Nonce).data, nonce)
        if old.use is Use.INSTALLED:
            old.move(Use.REKEYED)
    return reply


def _asked_to_rekey(sa: IkeSa, request: Sequence[AnyPayload]) -> Child | None:
    """Which Child SA the request would replace; None: none. Raises ProtocolError when it cannot be."""
    notify = notified(request, Notify.REKEY_SA)
    if notify is None:
        return None
    if notify.protocol != Protocol.ESP or len(notify.spi) != ESP_SPI_BYTES:
        raise syntax("REKEY_SA: not the SPI of an ESP SA")
    old = sa.child_by_peer(int.from_bytes(notify.spi, "big"))
    if old is None and sa.busy_with_children:  # it may be the one that we are about to hear of
        raise ProtocolError(Notify.TEMPORARY_FAILURE, "an exchange about a Child SA is under way")
    if old is None:
        raise ProtocolError(Notify.CHILD_SA_NOT_FOUND, "no such Child SA to rekey", spi=notify.spi)
    if old.use is Use.DELETING or (old.use is Use.REKEYED and old.rival is None):
        raise ProtocolError(Notify.TEMPORARY_FAILURE, "the Child SA is being deleted")
    if old.rival is not None and old.rival[0] in sa.children:
        raise ProtocolError(Notify.TEMPORARY_FAILURE, "the Child SA has a successor")
    return old


def member_of(sa: IkeSa, request: Sequence[AnyPayload]) -> int:
    """The member that a request is for. Raises ProtocolError when there is none, or it has enough (RFC 9611 §4).

    Another fwd names it; of a peer that spreads its traffic over resources it is the one that has the fewest; any other
    asks for the first one's.
    """
    members, named = sa.connection.members, notified(request, Notify.FWD_MEMBER)
    counts = Counter(child.keys.member for child in sa.children.values())
    if named is not None:
        member = named.data[0] if named.data else FIRST_MEMBER
    elif notified(request, Notify.SA_RESOURCE_INFO):
        member = min(range(members), key=lambda one: counts[one])
    elif counts[FIRST_MEMBER] < MEMBER_CHILDREN_MAX:
        return FIRST_MEMBER
    else:
        raise ProtocolError(Notify.NO_ADDITIONAL_SAS, f"{MEMBER_CHILDREN_MAX} Child SAs of the first member")
    if member >= members or counts[member] >= MEMBER_CHILDREN_MAX:
        raise ProtocolError(Notify.TS_MAX_QUEUE, f"no Child SA more for member {member} of {members}")
    return member


def resource(member: int) -> Notification:
    """SA_RESOURCE_INFO (RFC 9611 §5.1): what its sender calls the resource, for people."""
    return Notification(Notify.SA_RESOURCE_INFO, b"member %d" % member)


def respond_informational(sa: IkeSa, request: list[AnyPayload], now: float) -> list[AnyPayload]:
    """Answer INFORMATIONAL: Deletes, notifies, or nothing at all, which asks whether we live, and where."""
    status = notified(request, Notify.FWD_STATUS)
    if status is not None and status.data and sa.peer.is_fwd:
        sa.peer.drains = bool(status.data[0] & Status.DRAINS)
        sa.peer.has_ended = bool(status.data[0] & Status.ENDED)
        sa.world.tell(Informed(sa.connection.name, status))

    deletes = [one for one in request if isinstance(one, Delete)]
    if (told := notified(request, Notify.FWD_PEERING)) is not None:
        sa.world.tell(Informed(sa.connection.name, told))
    if notified(request, Notify.AUTHENTICATION_FAILED):
        sa.error = "the peer does not trust us"
        sa.peer.has_ended = True
        sa.world.fail(Failure.REFUSED_BY_PEER)
        sa.ends = True
        return []
    if any(one.protocol == Protocol.IKE for one in deletes):
        sa.ends = True
        sa.error = HAS_ENDED if sa.peer.has_ended else sa.error
        return []

    # Child SAs: each is answered by the SPI of its other half (RFC 7296 §1.4.1).
    gone: list[int] = []
    by_peer = {child.spi_out: child for child in sa.children.values()}  # once: a message may have thousands of SPIs
    for one in deletes:
        if one.protocol != Protocol.ESP:
            continue
        for spi in one.spis:
            child = by_peer.pop(spi, None)
            if child is None:
                if sa.busy_with_children and len(sa.gone_early) < CHILDREN_MAX:
                    sa.gone_early.add(spi)
                continue
            if child.use is not Use.DELETING:  # else it is in our own Delete (RFC 7296 §1.4.1)
                gone.append(child.spi_in)
            sa.remove_child(child)
    return [*cookie2_of(request), *([Delete(Protocol.ESP, tuple(gone))] if gone else [])]

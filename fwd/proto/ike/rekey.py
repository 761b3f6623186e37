"""A new IKE SA in place of an old one, which gives it its Child SAs (RFC 7296 §1.3.2, §2.8, §2.8.2, §2.18, §2.25.2).

Who began the exchange deletes the old one. When both began, the exchange with the lowest of the four nonces has lost:
who began it deletes what it made, the other the old one; the Child SAs go to what is left.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from fwd.proto.ike.causes import By, by_notify
from fwd.proto.ike.child import NONCE_BYTES
from fwd.proto.ike.crypto import DiffieHellman, IkeKeys, Suite
from fwd.proto.ike.events import ExchangeRefused
from fwd.proto.ike.exchanges import RETRY_S, DeleteIke, respond_child
from fwd.proto.ike.numbers import (
    SPI_BYTES,
    Exchange,
    Notify,
    Protocol,
    ProtocolError,
    TransformType,
    notify_name,
    syntax,
)
from fwd.proto.ike.payloads import (
    AnyPayload,
    KeyExchange,
    Nonce,
    SecurityAssociation,
    error_of,
    maybe,
    notified,
    only,
    public_value,
)
from fwd.proto.ike.proposals import Proposal, choose, is_choice_of
from fwd.proto.ike.sa import NO_SPI, IkeSa
from fwd.proto.ike.states import State

_REGROUPS_MAX: Final = 3


class RekeyIke:
    """Our request for a successor."""

    exchange = Exchange.CREATE_CHILD_SA
    about_children = False

    def __init__(self, by: By = By.TIMER) -> None:
        self._by = by
        self._proposals: tuple[Proposal, ...] = ()
        self._spi = self._nonce = b""
        self._secret: DiffieHellman | None = None
        self._group: int | None = None
        self._regroups = 0

    def start(self, sa: IkeSa, now: float) -> list[AnyPayload] | None:
        if sa.state is not State.ESTABLISHED:
            return None
        sa.move(State.REKEYING)
        random = sa.world.random
        self._spi, self._nonce = sa.world.unused_ike_spi(), random(NONCE_BYTES)
        self._proposals = tuple(
            Proposal(p.protocol, p.transforms, n, self._spi) for n, p in enumerate(sa.connection.ike_proposals, 1)
        )
        groups = [one.id for p in self._proposals for one in p.of(TransformType.KE)]
        self._secret = DiffieHellman(self._group if self._group in groups else groups[0], random)
        return [
            SecurityAssociation(self._proposals),
            Nonce(self._nonce),
            KeyExchange(self._secret.group, self._secret.public),
        ]

    def finish(self, sa: IkeSa, reply: list[AnyPayload], now: float) -> None:
        assert self._secret is not None
        assert sa.keys is not None
        wrong_group = notified(reply, Notify.INVALID_KE_PAYLOAD)
        if wrong_group and self._regroups < _REGROUPS_MAX:
            self._regroups += 1
            self._group = int.from_bytes(wrong_group.data[:2], "big")
            if sa.state is State.REKEYING:
                sa.move(State.ESTABLISHED)
            sa.submit_first(self, now)
            return

        # A refusal is told, and tried again later.
        error = error_of(reply)
        if error is not None:
            reason = notify_name(error.kind)
            sa.world.fail(by_notify(error.kind))
            sa.world.tell(ExchangeRefused(sa.connection.name, by_peer=True, reason=reason, about_ike=True))
            self._failed(sa, error.kind, now)
            return

        # The peer must have chosen one of what was offered.
        chosen = only(reply, SecurityAssociation).proposals
        if len(chosen) != 1 or not is_choice_of(chosen[0], self._proposals):
            raise syntax("the peer chose what was not offered")
        _check_spi(chosen[0])
        suite, nr = Suite.of(chosen[0]), only(reply, Nonce).data

        # The new IKE SA, and what becomes of a rival.
        spis = self._spi, chosen[0].spi
        secret = self._secret.shared(public_value(reply, suite.group))
        new = IkeSa(sa.world, sa.connection, spis, sa.remote, sa.respond, initiator=True)
        new.by = self._by
        new.use_keys(IkeKeys.rekeyed(sa.keys, suite, secret, self._nonce, nr, spis[0] + spis[1]), suite)
        _settle(sa, new, min(self._nonce, nr), now)

    def _failed(self, sa: IkeSa, error: int, now: float) -> None:
        """Not now: later, unless the peer's own request has made a successor meanwhile."""
        yield_to_rival(sa, now)
        if sa.state is State.REKEYING:
            sa.rekey_refused = error != Notify.TEMPORARY_FAILURE
            sa.rival = None  # if there was one, the peer has ended it
            sa.move(State.ESTABLISHED)
            sa.submit_later(self, now + RETRY_S * (1 + sa.world.random(1)[0] / 256))

    def refused(self, sa: IkeSa, error: ProtocolError, now: float) -> None:
        sa.submit_first(DeleteIke(str(error), By.REFUSED), now)


def _settle(sa: IkeSa, new: IkeSa, lowest: bytes, now: float) -> None:
    """Our exchange has made `new`: it takes over, unless the peer's own exchange has won."""
    inherit(sa, new, now)
    sa.world.adopt(new)
    rival = sa.rival
    if sa.state is State.REKEYED or (rival is not None and lowest < rival[1] and rival[0].state is not State.DEAD):
        yield_to_rival(sa, now)
        new.submit_first(DeleteIke(), now)
        return
    if rival is not None and rival[0].state in (State.ESTABLISHED, State.REKEYING):
        retire(rival[0], now)  # its maker deletes it, if it ever hears of it
    hand_over(sa, new, now)
    sa.submit_first(DeleteIke(), now)


def yield_to_rival(sa: IkeSa, now: float) -> None:
    """The peer's own exchange has won; it may have shown so before ours was answered."""
    if sa.state is State.REKEYING and sa.rival is not None and sa.rival[0].state is not State.DEAD:
        hand_over(sa, sa.rival[0], now)


def retire(sa: IkeSa, now: float) -> None:
    """It waits for the peer's Delete, and not for ever."""
    sa.move(State.REKEYED)
    sa.rekeyed_at = now


def inherit(old: IkeSa, new: IkeSa, now: float) -> None:
    """What a new IKE SA takes over of the one it comes from."""
    new.local, new.remote = old.local, old.remote
    new.peer = replace(old.peer)  # what comes late on the old one changes nothing here
    new.probe_not_before = old.probe_not_before
    new.standing = old.standing
    new.establish(now, old)


def hand_over(old: IkeSa, new: IkeSa, now: float) -> None:
    """Child SAs and what waits to be done go to `new`, or to what has replaced that; `old` waits for its Delete."""
    retire(old, now)
    old.successor = new
    while new.successor is not None:
        new = new.successor
    new.children, old.children = {**new.children, **old.children}, {}
    new.unconfirmed, old.unconfirmed = [*new.unconfirmed, *old.unconfirmed], []
    for task in old.take_queue():
        if not isinstance(task, RekeyIke):
            new.submit(task, now)


def _check_spi(chosen: Proposal) -> None:
    if len(chosen.spi) != SPI_BYTES or chosen.spi == NO_SPI:
        raise syntax("rekeying needs an SPI")


def respond_rekey(sa: IkeSa, request: list[AnyPayload], now: float) -> list[AnyPayload]:
    """Answer the peer's request for a successor. Raises ProtocolError."""
    try:
        return _answer_rekey(sa, request, now)
    except ProtocolError as error:
        error.about_ike = True
        raise


def _answer_rekey(sa: IkeSa, request: list[AnyPayload], now: float) -> list[AnyPayload]:
    assert sa.keys is not None
    if sa.busy_with_children:
        raise ProtocolError(Notify.TEMPORARY_FAILURE, "an exchange about a Child SA is under way")
    if sa.rival is not None or sa.state not in (State.ESTABLISHED, State.REKEYING):
        raise ProtocolError(Notify.TEMPORARY_FAILURE, "the IKE SA has a successor, or goes")

    # What is chosen, and keys from both nonces and a new key exchange.
    random = sa.world.random
    chosen = choose(sa.connection.ike_proposals, only(request, SecurityAssociation).proposals)
    if chosen is None:
        raise ProtocolError(Notify.NO_PROPOSAL_CHOSEN, "no common IKE proposal")
    _check_spi(chosen)
    suite, ni, nr = Suite.of(chosen), only(request, Nonce).data, random(NONCE_BYTES)
    theirs = public_value(request, suite.group)
    secret = DiffieHellman(suite.group, random)
    shared = secret.shared(theirs)
    spis = chosen.spi, sa.world.unused_ike_spi()

    # The new IKE SA knows what the old one knew.
    new = IkeSa(sa.world, sa.connection, spis, sa.remote, sa.respond, initiator=False)
    new.use_keys(IkeKeys.rekeyed(sa.keys, suite, shared, ni, nr, spis[0] + spis[1]), suite)
    inherit(sa, new, now)
    sa.world.adopt(new)

    # Our own request may be under way: the two are rivals, and nonces decide (RFC 7296 §2.8.1).
    if sa.state is State.REKEYING:
        sa.rival = new, min(ni, nr)
        new.origin = sa
    else:
        hand_over(sa, new, now)
    return [
        SecurityAssociation((Proposal(Protocol.IKE, chosen.transforms, chosen.number, spis[1]),)),
        Nonce(nr),
        KeyExchange(suite.group, secret.public),
    ]


def respond_create(sa: IkeSa, request: list[AnyPayload], now: float) -> list[AnyPayload]:
    """Answer CREATE_CHILD_SA: the IKE SA is to be rekeyed, or a Child SA made or rekeyed. Raises ProtocolError."""
    offered = maybe(request, SecurityAssociation)
    if offered and offered.proposals[0].protocol == Protocol.IKE:
        return respond_rekey(sa, request, now)
    if sa.state is not State.ESTABLISHED:
        raise ProtocolError(Notify.TEMPORARY_FAILURE, "the IKE SA is being replaced, or goes")
    return respond_child(sa, request, now)

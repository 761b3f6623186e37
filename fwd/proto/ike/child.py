"""Child SAs: what one is, and the payloads that make one (RFC 7296 §1.3.1, §1.3.3, §2.9, §2.17).

An `Offer` is this side's half of an exchange, until the other half has come. What is answered or accepted is checked
here: a proposal that was offered, a group that belongs to it, selectors within those offered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from fwd.proto.ike.agreed import Agreed, AgreedSets
from fwd.proto.ike.crypto import SALT_BYTES, DiffieHellman, IkeKeys
from fwd.proto.ike.events import ChildKeys, Connection, World
from fwd.proto.ike.numbers import ESP_SPI_BYTES, Notify, Payload, Protocol, ProtocolError, TransformType, syntax
from fwd.proto.ike.payloads import (
    AnyPayload,
    KeyExchange,
    Nonce,
    Notification,
    SecurityAssociation,
    TrafficSelectors,
    kept,
    only,
    public_value,
    selectors_of,
)
from fwd.proto.ike.proposals import ESN, Proposal, Transform, choose, is_choice_of
from fwd.proto.ike.selectors import Selector, covers, narrow, narrowed
from fwd.proto.ike.states import CHILD_MOVES, Use, check_move
from fwd.proto.sa import SaKeys

SPI_MIN: Final = 256  # RFC 4303 §2.1
NONCE_BYTES: Final = 32


@dataclass
class Child:
    """One Child SA of an IKE SA. `rival`: its successor by the peer's request, and that exchange's lowest nonce.

    `notifies`: what we say of it, and of its successors; what the peer says is in `keys`.
    """

    keys: ChildKeys
    notifies: tuple[Notification, ...] = ()
    rival: tuple[int, bytes] | None = None
    _use: Use = field(default=Use.INSTALLED, init=False)

    @property
    def use(self) -> Use:
        return self._use

    def move(self, to: Use) -> None:
        """Every change of use. Raises IllegalMoveError, and changes nothing, if it cannot follow (states.py)."""
        check_move(CHILD_MOVES, self._use, to)
        self._use = to

    @property
    def spi_in(self) -> int:
        return self.keys.inbound.spi

    @property
    def spi_out(self) -> int:
        return self.keys.outbound.spi


@dataclass
class Offer:
    """An initiator's half: its inbound SPI, nonce, perhaps a private key. `keyed`: with a key exchange of its own."""

    member: int
    spi: int
    nonce: bytes
    proposals: tuple[Proposal, ...]
    secret: DiffieHellman | None
    local_ts: tuple[Selector, ...]
    remote_ts: tuple[Selector, ...]
    sets: AgreedSets

    @classmethod
    def make(
        cls, connection: Connection, world: World, member: int, receiver: int, group: int | None, *, first: bool
    ) -> Offer:
        """`receiver`: the member that has its inbound half. `group`: for the key exchange, if not that of our first
        proposal. `first`: in IKE_AUTH, which has no key exchange.
        """
        spi = world.unused_spi(receiver)
        octets = spi.to_bytes(ESP_SPI_BYTES, "big")
        offered = dict.fromkeys(
            _without_group(p.transforms) if first else p.transforms for p in connection.esp_proposals
        )
        proposals = tuple(Proposal(Protocol.ESP, one, number, octets) for number, one in enumerate(offered, 1))
        groups = [group for p in proposals for group in p.groups]
        secret = None
        if groups:
            secret = DiffieHellman(group if group in groups else groups[0], world.random)
        return cls(
            member, spi, world.random(NONCE_BYTES), proposals, secret,
            *_configured(connection), world.agreed,
        )  # fmt: skip

    def payloads(self, *, first: bool = False) -> list[AnyPayload]:
        """SA, Ni, KEi, TSi, TSr; the nonce is IKE_SA_INIT's if it is the first Child SA."""
        found: list[AnyPayload] = [SecurityAssociation(self.proposals)]
        found += [] if first else [Nonce(self.nonce)]
        found += [KeyExchange(self.secret.group, self.secret.public)] if self.secret else []
        found.append(TrafficSelectors(Payload.TSI, self.local_ts))
        found.append(TrafficSelectors(Payload.TSR, self.remote_ts))
        return found

    def accept(
        self,
        reply: Sequence[AnyPayload],
        connection: Connection,
        keys: IkeKeys,
        nonces: tuple[bytes, bytes] | None = None,
    ) -> ChildKeys:
        """The Child SA that the responder's answer makes. Raises ProtocolError, also for its error notify.

        `connection`: as it is by now. `nonces`: those of IKE_SA_INIT, for the first Child SA.
        """
        chosen = only(reply, SecurityAssociation).proposals
        if len(chosen) != 1 or not is_choice_of(chosen[0], self.proposals):
            raise ProtocolError(Notify.NO_PROPOSAL_CHOSEN, "the peer chose what was not offered")
        local, remote = selectors_of(reply, Payload.TSI), selectors_of(reply, Payload.TSR)
        if not covers(self.local_ts, local) or not covers(self.remote_ts, remote):
            raise ProtocolError(
                Notify.TS_UNACCEPTABLE, "the peer's traffic selectors are not some of those offered, of all ports"
            )
        shared = b""
        for group in chosen[0].groups:  # one or none
            assert self.secret is not None
            shared = self.secret.shared(public_value(reply, group))
        ni, nr = nonces or (self.nonce, only(reply, Nonce).data)
        agreed = Agreed(local, remote, narrowed((self.local_ts, self.remote_ts), (local, remote)))
        child = _keys(
            keys, chosen[0], self.member, self.spi, _spi(chosen[0]), (ni, nr, shared), self.sets.share(agreed),
            initiated=True, notifies=kept(reply),
        )  # fmt: skip
        return replace(child, outdated=(self.local_ts, self.remote_ts) != _configured(connection))


def answer(
    request: Sequence[AnyPayload],
    connection: Connection,
    world: World,
    keys: IkeKeys,
    member: int,
    receiver: int,
    nonces: tuple[bytes, bytes] | None = None,
) -> tuple[ChildKeys, list[AnyPayload], bytes]:
    """A responder's half: the Child SA, the payloads that answer, and our nonce. Raises ProtocolError.

    `receiver`: the member that has its inbound half.
    """
    offered = only(request, SecurityAssociation).proposals
    ours = connection.esp_proposals
    if nonces:
        ours = tuple(Proposal(p.protocol, _without_group(p.transforms)) for p in ours)
    chosen = choose(ours, offered)
    if chosen is None:
        raise ProtocolError(Notify.NO_PROPOSAL_CHOSEN, f"no common ESP proposal: offered {' '.join(map(str, offered))}")

    # Selectors: what both sides have in common (RFC 7296 §2.9).
    local = narrow(selectors_of(request, Payload.TSR), connection.local_ts)
    remote = narrow(selectors_of(request, Payload.TSI), connection.remote_ts)
    if not local or not remote:
        raise ProtocolError(Notify.TS_UNACCEPTABLE, "no common traffic selectors")

    # A key exchange of its own, if the proposal has a group (perfect forward secrecy).
    shared, extra = b"", []
    for group in chosen.groups:  # one or none
        theirs = public_value(request, group)
        secret = DiffieHellman(group, world.random)
        shared, extra = secret.shared(theirs), [KeyExchange(group, secret.public)]
    ni, nr = nonces or (only(request, Nonce).data, world.random(NONCE_BYTES))

    # The Child SA, and what tells the peer of it.
    spi = world.unused_spi(receiver)
    agreed = world.agreed.share(Agreed(local, remote, narrowed(_configured(connection), (local, remote))))
    child = _keys(keys, chosen, member, spi, _spi(chosen), (ni, nr, shared), agreed, initiated=False,
                  notifies=kept(request))  # fmt: skip
    mine = Proposal(chosen.protocol, chosen.transforms, chosen.number, spi.to_bytes(ESP_SPI_BYTES, "big"))
    reply: list[AnyPayload] = [SecurityAssociation((mine,))]
    reply += [] if nonces else [Nonce(nr)]
    reply += [*extra, TrafficSelectors(Payload.TSI, remote), TrafficSelectors(Payload.TSR, local)]
    return child, reply, nr


def _keys(
    keys: IkeKeys,
    chosen: Proposal,
    member: int,
    spi_in: int,
    spi_out: int,
    material: tuple[bytes, bytes, bytes],
    agreed: Agreed,
    *,
    initiated: bool,
    notifies: tuple[Notification, ...],
) -> ChildKeys:
    cipher, numbers = chosen.one(TransformType.ENCR), chosen.one(TransformType.ESN)
    assert cipher is not None
    assert numbers is not None
    octets, esn = cipher.key_bits // 8, numbers.id == ESN
    ni, nr, shared = material
    from_initiator, from_responder = keys.child(ni, nr, octets + SALT_BYTES, shared)
    out, back = (from_initiator, from_responder) if initiated else (from_responder, from_initiator)
    return ChildKeys(
        member=member,
        inbound=SaKeys(spi_in, esn, back[:octets], back[octets:], narrowed=agreed.narrowed),
        outbound=SaKeys(spi_out, esn, out[:octets], out[octets:], narrowed=agreed.narrowed),
        agreed=agreed,
        proposal=str(chosen),
        initiated=initiated,
        notifies=notifies,
    )


def _configured(connection: Connection) -> tuple[tuple[Selector, ...], tuple[Selector, ...]]:
    return tuple(map(Selector.of, connection.local_ts)), tuple(map(Selector.of, connection.remote_ts))


def _spi(proposal: Proposal) -> int:
    spi = int.from_bytes(proposal.spi, "big")
    if proposal.protocol != Protocol.ESP or spi < SPI_MIN:
        raise syntax(f"SPI {spi:#x} is reserved")
    return spi


def _without_group(transforms: Sequence[Transform]) -> tuple[Transform, ...]:
    return tuple(one for one in transforms if one.type != TransformType.KE)

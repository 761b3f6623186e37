"""IKE_SA_INIT and IKE_AUTH, both roles (RFC 7296 §1.2, §2.6, §2.7, §2.15, §2.23; RFC 7383 §2.3; RFC 7427 §4).

The first Child SA is that of member 0. A responder keeps nothing before it has answered IKE_SA_INIT; cookies are the
endpoint's. The hash of our own address is never right, so that every peer takes us to be behind a NAT and wraps ESP in
UDP, which is all that fwd speaks; with `float_port` IKE goes on there (RFC 7296 §2.23).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from hashlib import sha1
from ipaddress import ip_address
from typing import Final

from fwd.proto.ike import auth
from fwd.proto.ike.causes import HAS_ENDED, Failure, by_notify, failure_of
from fwd.proto.ike.child import NONCE_BYTES, Child, Offer, answer
from fwd.proto.ike.crypto import DiffieHellman, IkeKeys, Prf, Suite
from fwd.proto.ike.events import FIRST_MEMBER, Address, ChildRefused, Connection, Established, Standing, World
from fwd.proto.ike.limits import AUTHORITIES_NAMED_MAX, COOKIE_BYTES
from fwd.proto.ike.message import Header
from fwd.proto.ike.numbers import VENDOR_ID, Exchange, Notify, Payload, ProtocolError, Status, TransformType, syntax
from fwd.proto.ike.payloads import (
    AnyPayload,
    Authentication,
    Certificate,
    CertificateRequest,
    Identity,
    KeyExchange,
    Nonce,
    Notification,
    SecurityAssociation,
    Vendor,
    error_of,
    kept,
    maybe,
    notified,
    of_type,
    only,
    public_value,
)
from fwd.proto.ike.proposals import Proposal, choose, is_choice_of
from fwd.proto.ike.sa import NO_SPI, IkeSa
from fwd.proto.ike.states import State
from fwd.proto.ike.task import Respond

_RESTARTS_MAX: Final = 5
_SOURCE: Final = Notify.NAT_DETECTION_SOURCE_IP
_SHA1_BYTES: Final = 20


@dataclass
class Initial:
    """What IKE_SA_INIT leaves for IKE_AUTH: nonces, and both messages as they were sent."""

    ni: bytes = b""
    nr: bytes = b""
    request: bytes = field(default=b"", repr=False)
    reply: bytes = field(default=b"", repr=False)
    header: Header | None = None

    def take(self, header: Header, data: bytes) -> None:
        """The answer that is about to be read."""
        self.header, self.reply = header, data


def extras(sa_random: bytes, spis: tuple[bytes, bytes], remote: Address) -> list[AnyPayload]:
    """What goes along with both IKE_SA_INIT messages."""
    return [
        Notification(Notify.NAT_DETECTION_SOURCE_IP, sha1(sa_random, usedforsecurity=False).digest()),
        Notification(Notify.NAT_DETECTION_DESTINATION_IP, nat_hash(spis, remote)),
        Notification(Notify.FRAGMENTATION_SUPPORTED),
        Notification(Notify.SIGNATURE_HASH_ALGORITHMS, auth.HASH_ALGORITHMS),
        Vendor(VENDOR_ID),
    ]


def nat_hash(spis: tuple[bytes, bytes], address: Address) -> bytes:
    """RFC 7296 §2.23: SHA-1 of both SPIs, address and port."""
    octets = spis[0] + spis[1] + ip_address(address[0]).packed + address[1].to_bytes(2, "big")
    return sha1(octets, usedforsecurity=False).digest()


def _take_extras(
    sa: IkeSa, payloads: Sequence[AnyPayload], spis: tuple[bytes, bytes], path: tuple[Address, Address]
) -> None:
    """`spis` as they stand in the peer's message; `path`: our address and the peer's, as it came."""
    local, remote = path
    seen = notified(payloads, Notify.NAT_DETECTION_DESTINATION_IP)
    sa.peer.sees_nat = seen is not None and seen.data != nat_hash(spis, local)
    sa.peer.is_fwd = Vendor(VENDOR_ID) in payloads
    sources = [one.data for one in payloads if isinstance(one, Notification) and one.kind == _SOURCE]
    # What another fwd says here is never right; its FWD_PEERING says where it is (keyd.agreement).
    sa.peer.behind_nat = bool(sources) and nat_hash(spis, remote) not in sources and not sa.peer.is_fwd
    sa.peer.fragments = notified(payloads, Notify.FRAGMENTATION_SUPPORTED) is not None
    hashes = notified(payloads, Notify.SIGNATURE_HASH_ALGORITHMS)
    sa.peer.hashes = hashes.data if hashes else b""


# -- initiator ----------------------------------------------------------------------------------------------------


class Initiate:
    """The IKE_SA_INIT exchange; then IKE_AUTH."""

    exchange = Exchange.IKE_SA_INIT
    about_children = False

    def __init__(self, *, initial_contact: Callable[[], bool]) -> None:
        """`initial_contact`: whether, when IKE_AUTH is sent, there is no other IKE SA with this peer."""
        self._initial_contact = initial_contact
        self._proposals: tuple[Proposal, ...] = ()
        self._secret: DiffieHellman | None = None
        self._nonce = b""
        self._extras: list[AnyPayload] = []
        self._cookie: bytes | None = None
        self._restarts = 0

    def start(self, sa: IkeSa, now: float) -> list[AnyPayload]:
        offered = sa.connection.ike_proposals
        self._proposals = tuple(Proposal(p.protocol, p.transforms, n) for n, p in enumerate(offered, 1))
        self._nonce = sa.world.random(NONCE_BYTES)
        self._draw(sa, self._groups()[0])
        sa.initial = Initial()
        return self._payloads()

    def _draw(self, sa: IkeSa, group: int) -> None:
        """What is the same again when all that the responder wants is a cookie (RFC 7296 §2.6)."""
        self._secret = DiffieHellman(group, sa.world.random)
        self._extras = extras(sa.world.random(NONCE_BYTES), (sa.spi_i, NO_SPI), sa.remote)

    def _groups(self) -> list[int]:
        return [one.id for proposal in self._proposals for one in proposal.of(TransformType.KE)]

    def _payloads(self) -> list[AnyPayload]:
        assert self._secret is not None
        cookie = [Notification(Notify.COOKIE, self._cookie)] if self._cookie is not None else []
        return [
            *cookie,
            SecurityAssociation(self._proposals),
            KeyExchange(self._secret.group, self._secret.public),
            Nonce(self._nonce),
            *self._extras,
        ]

    def finish(self, sa: IkeSa, reply: list[AnyPayload], now: float) -> None:
        cookie, wrong_group = notified(reply, Notify.COOKIE), notified(reply, Notify.INVALID_KE_PAYLOAD)
        if cookie or wrong_group:
            self._again(sa, cookie, wrong_group, now)
            return

        # What was chosen must be one of what was offered.
        _raise_error(reply)
        assert self._secret is not None
        initial = sa.initial
        chosen = only(reply, SecurityAssociation).proposals
        if len(chosen) != 1 or not is_choice_of(chosen[0], self._proposals):
            raise ProtocolError(Notify.NO_PROPOSAL_CHOSEN, "the peer chose what was not offered")
        if initial.header.spi_r == NO_SPI:
            raise syntax("the responder's SPI is zero")

        # Keys from both public values and nonces.
        suite = Suite.of(chosen[0])
        secret = self._secret.shared(public_value(reply, suite.group))
        initial.ni, initial.nr = self._nonce, only(reply, Nonce).data
        initial.request = sa.first_message()
        sa.spi_r = initial.header.spi_r
        sa.use_keys(IkeKeys.initial(suite, secret, initial.ni, initial.nr, sa.spi_i + sa.spi_r), suite)

        # Behind a NAT, and towards a peer that knows of NATs, IKE goes on at the port of ESP (§2.23).
        _take_extras(sa, reply, (sa.spi_i, sa.spi_r), (sa.local, sa.remote))
        if sa.connection.float_port and notified(reply, Notify.NAT_DETECTION_SOURCE_IP):
            sa.local = sa.local[0], sa.connection.float_port
            sa.remote = sa.remote[0], sa.connection.float_port
        sa.pass_init()
        sa.submit_first(Authenticate(initial_contact=self._initial_contact()), now)

    def _again(self, sa: IkeSa, cookie: Notification | None, group: Notification | None, now: float) -> None:
        """The responder wants proof of our address, or another group (RFC 7296 §2.6 and §1.2)."""
        self._restarts += 1
        if self._restarts > _RESTARTS_MAX:
            raise ProtocolError(Notify.INVALID_SYNTAX, "the peer asks for cookies or groups without end")
        if cookie and len(cookie.data) not in COOKIE_BYTES:
            raise syntax(f"COOKIE of {len(cookie.data)} octets")
        if cookie:
            self._cookie = cookie.data
        if group:
            wanted = int.from_bytes(group.data[:2], "big")
            if wanted not in self._groups():
                raise ProtocolError(Notify.NO_PROPOSAL_CHOSEN, f"the peer asks for group {wanted}")
            self._draw(sa, wanted)
        sa.send_request(self, self._payloads(), now)

    def refused(self, sa: IkeSa, error: ProtocolError, now: float) -> None:
        sa.refuse_init(str(error), now)


class Authenticate:
    """The IKE_AUTH exchange of an initiator."""

    exchange = Exchange.IKE_AUTH
    about_children = True

    def __init__(self, *, initial_contact: bool) -> None:
        self._initial_contact = initial_contact
        self._offer: Offer | None = None

    def start(self, sa: IkeSa, now: float) -> list[AnyPayload]:
        connection, initial, keys = sa.connection, sa.initial, sa.keys
        assert keys is not None
        octets = auth.signed_octets(initial.request, initial.nr, keys.prf, keys.pi, connection.local_id)
        self._offer = Offer.make(connection, sa.world, FIRST_MEMBER, FIRST_MEMBER, None, first=True)
        return [
            connection.local_id,
            *auth.certificate_payloads(connection.credentials),
            *auth.certificate_request(connection.credentials),
            connection.remote_id,
            auth.authenticate(connection.credentials, keys.prf, octets, sa.peer.hashes),
            *([Notification(Notify.INITIAL_CONTACT)] if self._initial_contact else []),
            *sa.peer.understood(connection.notifies),
            *self._offer.payloads(first=True),
        ]

    def finish(self, sa: IkeSa, reply: list[AnyPayload], now: float) -> None:
        keys, initial = sa.keys, sa.initial
        assert keys is not None
        assert self._offer is not None
        if maybe(reply, Authentication) is None:
            _raise_error(reply)

        # Who the responder is comes first; then the IKE SA stands.
        peer = of_type(reply, Payload.IDR, Identity)
        certificate = check_peer(sa, reply, peer, initial.reply + initial.ni, keys.pr, Payload.IDR, now)
        sa.establish(now)
        sa.initial = None
        sa.peer.spreads = notified(reply, Notify.SA_RESOURCE_INFO) is not None
        assert peer is not None
        sa.world.tell(Established(sa.connection.name, peer, kept(reply), certificate, sa.standing))

        error = error_of(reply)
        if error is not None:  # there is an IKE SA, but no Child SA (RFC 7296 §1.3)
            sa.world.fail(by_notify(error.kind))
            sa.world.tell(ChildRefused(sa.connection.name, FIRST_MEMBER, error.kind))
            return

        # What is good of the Child SA is told apart from the IKE SA.
        try:
            child = self._offer.accept(reply, sa.connection, keys, (initial.ni, initial.nr))
        except ProtocolError as refusal:
            sa.world.fail(failure_of(refusal))
            sa.world.tell(ChildRefused(sa.connection.name, FIRST_MEMBER, refusal.notify))
            return
        sa.add_child(Child(child, _about_children(sa)), by=sa.by)

    def refused(self, sa: IkeSa, error: ProtocolError, now: float) -> None:
        ours = error.notify is Notify.AUTHENTICATION_FAILED and not isinstance(error, _PeerError)
        if ours and sa.state is State.CONNECTING:
            sa.submit_first(Farewell(error), now)
        else:
            sa.die(str(error))


class Farewell:
    """We do not trust the peer: tell it so, and be gone (RFC 7296 §2.21.2)."""

    exchange = Exchange.INFORMATIONAL
    about_children = False

    def __init__(self, error: ProtocolError) -> None:
        self._error = error

    def start(self, sa: IkeSa, now: float) -> list[AnyPayload]:
        return [Notification(self._error.notify)]

    def finish(self, sa: IkeSa, reply: list[AnyPayload], now: float) -> None:
        sa.die(str(self._error))

    def refused(self, sa: IkeSa, error: ProtocolError, now: float) -> None:
        sa.die(str(self._error))


class _PeerError(ProtocolError):
    """The peer itself has answered with an error."""


def _raise_error(reply: Sequence[AnyPayload]) -> None:
    error = error_of(reply)
    if error is not None:
        status = notified(reply, Notify.FWD_STATUS)
        ended = status is not None and bool(status.data) and bool(status.data[0] & Status.ENDED)
        known = error.kind in Notify._value2member_map_
        name = Notify(error.kind).name if known else str(error.kind)
        why = HAS_ENDED if ended else f"the peer answers {name}"
        refusal = _PeerError(Notify(error.kind) if known else Notify.INVALID_SYNTAX, why)
        trusts = error.kind != Notify.AUTHENTICATION_FAILED
        refusal.failure = by_notify(error.kind) if trusts else Failure.REFUSED_BY_PEER
        raise refusal


# -- responder ----------------------------------------------------------------------------------------------------


def respond_init(
    world: World,
    connection: Connection,
    header: Header,
    data: bytes,
    payloads: list[AnyPayload],
    path: tuple[Address, Address],
    respond: Respond,
    now: float,
) -> tuple[IkeSa, list[AnyPayload]]:
    """A new IKE SA, and what answers its IKE_SA_INIT. Raises ProtocolError: then nothing is kept.

    `path`: our address and the peer's.
    """
    chosen = choose(connection.ike_proposals, only(payloads, SecurityAssociation).proposals)
    if chosen is None:
        raise ProtocolError(Notify.NO_PROPOSAL_CHOSEN, "no common IKE proposal")

    # The key exchange.
    suite = Suite.of(chosen)
    theirs, ni = public_value(payloads, suite.group), only(payloads, Nonce).data
    secret = DiffieHellman(suite.group, world.random)
    shared = secret.shared(theirs)

    # Nothing is kept before all that the request has is known to be good.
    spis = header.spi_i, world.unused_ike_spi()
    sa = IkeSa(world, connection, spis, path[1], respond, initiator=False)
    sa.local = path[0]
    sa.initial = Initial(ni, world.random(NONCE_BYTES), data)
    sa.use_keys(IkeKeys.initial(suite, shared, ni, sa.initial.nr, spis[0] + spis[1]), suite)
    _take_extras(sa, payloads, (spis[0], NO_SPI), path)
    sa.answered_init()
    sa.heard_at = now

    # The answer names the one proposal that was chosen.
    return sa, [
        SecurityAssociation((Proposal(chosen.protocol, chosen.transforms, chosen.number),)),
        KeyExchange(suite.group, secret.public),
        Nonce(sa.initial.nr),
        *_brief(auth.certificate_request(connection.credentials)),
        *extras(world.random(NONCE_BYTES), spis, path[1]),
    ]


def _brief(requests: Sequence[CertificateRequest]) -> list[CertificateRequest]:
    """Some of the CAs that we trust, which is enough to be sent a certificate: a short message gets no long answer."""
    return [replace(one, authorities=one.authorities[: AUTHORITIES_NAMED_MAX * _SHA1_BYTES]) for one in requests]


def respond_auth(sa: IkeSa, request: list[AnyPayload], now: float) -> list[AnyPayload]:
    """Answer IKE_AUTH. Raises ProtocolError; then the SA dies."""
    keys, initial, connection = sa.keys, sa.initial, sa.connection
    if sa.initiator or initial is None or keys is None:
        raise syntax("IKE_AUTH out of place")
    peer = of_type(request, Payload.IDI, Identity)
    certificate = check_peer(sa, request, peer, initial.request + initial.nr, keys.pi, Payload.IDI, now)
    assert peer is not None

    # The peer is who it says. It may say whom it wants to talk to.
    wanted = of_type(request, Payload.IDR, Identity)
    if wanted is not None and not auth.same(wanted, connection.local_id):
        raise auth.failed(f"the peer wants to talk to {auth.name_of(wanted)}", Failure.UNKNOWN_IDENTITY)

    # Not now: the peer's next attempt may find it otherwise (RFC 7296 §2.21.2).
    if connection.stopped:
        sa.ends, sa.error = True, "a user has terminated the peering"
        raise ProtocolError(Notify.TEMPORARY_FAILURE, sa.error)

    # Our own proof signs our first message (RFC 7296 §2.15).
    mine = Identity(Payload.IDR, connection.local_id.kind, connection.local_id.data)
    octets = auth.signed_octets(initial.reply, initial.ni, keys.prf, keys.pr, mine)
    reply: list[AnyPayload] = [
        mine,
        *auth.certificate_payloads(connection.credentials),
        auth.authenticate(connection.credentials, keys.prf, octets, sa.peer.hashes),
        *sa.peer.understood(connection.notifies),
    ]

    # The IKE SA stands, whatever becomes of its first Child SA (§1.2).
    sa.establish(now)
    sa.initial = None
    sa.peer.spreads = notified(request, Notify.SA_RESOURCE_INFO) is not None
    sa.world.tell(Established(connection.name, peer, kept(request), certificate, sa.standing))
    if maybe(request, SecurityAssociation) is None:
        return reply
    try:
        nonces = initial.ni, initial.nr
        child, payloads, _ = answer(request, connection, sa.world, keys, FIRST_MEMBER, FIRST_MEMBER, nonces)
    except ProtocolError as error:
        if error.notify is Notify.INVALID_SYNTAX:
            raise
        sa.world.fail(failure_of(error))
        return [*reply, Notification(error.notify, error.data)]
    sa.answer_with(Child(child, _about_children(sa)))
    return [*reply, *payloads]


def _about_children(sa: IkeSa) -> tuple[Notification, ...]:
    """What we have said in IKE_AUTH of the first Child SA, and say again of its successors."""
    return tuple(one for one in sa.connection.notifies if one.kind == Notify.SA_RESOURCE_INFO)


def check_peer(
    sa: IkeSa,
    payloads: Sequence[AnyPayload],
    peer: Identity | None,
    message: bytes,
    key: bytes,
    kind: Payload,
    now: float,
) -> auth.Trusted | None:
    """Raises ProtocolError unless the peer is the one we are configured for; returns its certificate, if it has one.

    `message`: its first, and our nonce. What its proof is good for is noted with the IKE SA.
    """
    if peer is None:
        raise syntax(f"payload {kind.name} is missing")
    if not auth.same(peer, sa.connection.remote_id):
        reason = f"the peer is {auth.name_of(peer)}, not {auth.name_of(sa.connection.remote_id)}"
        raise auth.failed(reason, Failure.UNKNOWN_IDENTITY)
    assert sa.keys is not None
    prf: Prf = sa.keys.prf
    octets = auth.signed_octets(message, b"", prf, key, peer)
    certificates = [one for one in payloads if isinstance(one, Certificate)]
    proof = maybe(payloads, Authentication)
    if proof is None:
        raise auth.failed("the peer sends no AUTH payload, as for EAP", Failure.AUTH_METHOD)
    time_s = sa.world.wall_clock()
    time, grace = auth.time_of(time_s), timedelta(seconds=sa.connection.cert_grace_s)
    trusted = auth.check(sa.connection.credentials, prf, octets, proof, peer, certificates, time, grace)

    # From here on the wall clock counts no more.
    sa.standing = Standing(sa.world.next_authentication(), sa.begun_at, now, sa.initiator)
    if trusted is not None:
        grace_s = sa.connection.cert_grace_s
        ends_at = now + trusted.valid_until.timestamp() + grace_s - time_s
        sa.standing = replace(sa.standing, ends_at=ends_at, grace_s=grace_s, chain=trusted.chain)
    return trusted

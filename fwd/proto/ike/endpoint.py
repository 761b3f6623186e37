"""One side of IKEv2: all its IKE SAs, without a socket or a clock.

    receive(data, local, remote, now)   a datagram has come (without the non-ESP marker)
    datagrams_to_send()                 what is to be sent
    next_timeout(), handle_timeout(now) when it wants to be called, whatever comes
    next_event()                        what there is to tell

A message finds its IKE SA by our SPI. IKE_SA_INIT of a stranger costs no memory while many connections are half open:
then its sender must first give back a cookie (RFC 7296 §2.6). Refused and forgotten: whatever is for no SA of ours.
Only IKE_SA_INIT may be refused in clear text. Half-open IKE SAs are bounded, and so are answers to strangers: anybody
can write a known peer's address.
"""

from __future__ import annotations

import hmac
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

from fwd.proto.ike.child import SPI_MIN, Child
from fwd.proto.ike.crypto import Random
from fwd.proto.ike.events import Address, Closed, Connection, Datagram, Event, Rejected, World
from fwd.proto.ike.exchanges import CreateChild, DeleteChildren, DeleteIke, Liveness, respond_child, respond_delete
from fwd.proto.ike.initial import Initiate, respond_auth, respond_init
from fwd.proto.ike.message import Header, decode_clear, encode_clear
from fwd.proto.ike.numbers import Exchange, Flag, Notify, Payload, Protocol, ProtocolError, syntax
from fwd.proto.ike.payloads import (
    AnyPayload,
    Delete,
    Nonce,
    Notification,
    SecurityAssociation,
    maybe,
    notified,
    notify_for,
)
from fwd.proto.ike.rate import Rate
from fwd.proto.ike.rekey import RekeyIke, respond_rekey, yield_to_rival
from fwd.proto.ike.sa import NO_SPI, IkeSa
from fwd.proto.ike.states import State

HALF_OPEN_COOKIES: Final = 16  # from so many half-open IKE SAs on, strangers must show a cookie
HALF_OPEN_MAX: Final = 256
HALF_OPEN_S: Final = 30.0
INIT_PER_S: Final = 500  # IKE_SA_INIT without a cookie that are looked at, of one peer's address
ANSWERS_PER_S: Final = 50  # those that are answered with a key exchange
IKE_SAS_MAX: Final = 16  # with one peer, however often it begins or rekeys
REKEYED_S: Final = 60.0  # how long an IKE SA waits for its Delete once it has a successor
OVER_TIME: Final = 0.1  # share of its rekeying time for which an IKE SA may go on after it
COOKIE_SECRET_S: Final = 60.0
FIRST_S: Final = 1.0  # how long an attempt of ours may keep the peer's from being answered
DOUBLE_S: Final = 2.0  # how long a second IKE SA with the same peer is let be
_UNUSED_TRIES = 1000


@dataclass
class _HalfOpen:
    """A responder's IKE SA before IKE_AUTH, and the answer for a request that comes again."""

    sa: IkeSa
    request: bytes
    answer: bytes
    since: float


class Endpoint:
    """See the module. `spi_free` says whether nobody else uses an inbound SPI."""

    def __init__(
        self,
        connections: Sequence[Connection],
        random: Random,
        wall_clock: Callable[[], float],
        spi_free: Callable[[int], bool] = lambda spi: True,
        reveal: Callable[[Any], None] | None = None,
    ) -> None:
        self.connections = {connection.name: connection for connection in connections}
        self._random = random
        self._spi_free = spi_free
        self._events: deque[Event] = deque()
        self._outbox: list[Datagram] = []
        self._world = World(
            random, self._unused_spi, self._unused_ike_spi, wall_clock, self._outbox.append, self._events.append, reveal
        )
        self._sas: dict[bytes, IkeSa] = {}  # by our SPI
        self._half_open: dict[tuple[bytes, Address], _HalfOpen] = {}  # by the initiator's SPI and address
        self._cookie_secrets = (random(32), random(32))
        self._cookie_secret_at = 0.0
        self._looked_at = {name: Rate(INIT_PER_S, INIT_PER_S) for name in self.connections}
        self._answered = {name: Rate(ANSWERS_PER_S, ANSWERS_PER_S) for name in self.connections}

    # -- commands -----------------------------------------------------------------------------------------------

    def initiate(self, name: str, now: float, *, initial_contact: bool = False) -> None:
        """Begin a connection that has no IKE SA."""
        connection = self.connections[name]
        spis = self._unused_ike_spi(), NO_SPI
        sa = IkeSa(self._world, connection, spis, connection.remote, self._respond, initiator=True)
        sa.begun_at = sa.heard_at = now
        self._adopt(sa)
        sa.submit(Initiate(initial_contact=lambda: initial_contact and self.established(name) is None), now)

    def create_child(self, name: str, member: int, notifies: tuple[Notification, ...], now: float) -> bool:
        """One Child SA more for a member; False: there is no IKE SA to ask on."""
        sa = self.established(name)
        if sa is not None:
            sa.submit(CreateChild(member, notifies), now)
        return sa is not None

    def asked(self, name: str, member: int) -> int:
        """How many Child SAs of a member are under way on the IKE SA that speaks for a connection."""
        sa = self.established(name)
        tasks = sa.tasks() if sa is not None else []
        return sum(isinstance(task, CreateChild) and task.member == member and task.is_more for task in tasks)

    def rekey_child(self, name: str, spi: int, now: float) -> bool:
        """Replace the Child SA that we receive on `spi`, once, however often it is asked for; False: there is none."""
        found = self._find_child(name, spi)
        if found is None:
            return False
        sa, child = found
        if not any(isinstance(task, CreateChild) and task.replaces(child) for task in sa.tasks()):
            sa.submit(CreateChild(child.keys.member, child.keys.notifies if child.keys.initiated else (), child), now)
        return True

    def delete_child(self, name: str, spi: int, now: float) -> bool:
        """End the Child SA that we receive on `spi`."""
        found = self._find_child(name, spi)
        if found is not None:
            found[0].submit(DeleteChildren([found[1]]), now)
        return found is not None

    def rekey_ike(self, name: str, now: float) -> bool:
        """Replace a connection's IKE SA."""
        sa = self.established(name)
        if sa is not None:
            sa.submit(RekeyIke(self._adopt), now)
        return sa is not None

    def terminate(self, name: str, now: float, error: str = "") -> None:
        """End all IKE SAs of a connection. `error`: why, unless it is wanted."""
        for sa in list(self._sas.values()):
            if sa.connection.name != name:
                continue
            if sa.state is State.CONNECTING:
                sa.die(error)
            else:
                sa.submit_first(DeleteIke(error), now)
        self._sweep(now)

    def heard(self, name: str, now: float) -> None:
        """Traffic has come on the Child SAs of the IKE SA that speaks for a connection: the peer is there."""
        sa = self.established(name)
        if sa is not None:
            sa.traffic_at = sa.heard_at = now

    def established(self, name: str) -> IkeSa | None:
        """The IKE SA that speaks for a connection now."""
        found = [
            sa
            for sa in self._sas.values()
            if sa.connection.name == name and sa.state in (State.ESTABLISHED, State.REKEYING)
        ]
        return max(found, key=lambda sa: sa.established_at, default=None)

    def sas(self, name: str) -> list[IkeSa]:
        """All IKE SAs of a connection."""
        return [sa for sa in self._sas.values() if sa.connection.name == name]

    def begun(self, name: str) -> list[IkeSa]:
        """Those that we have begun, or a peer that has proved who it is: a stranger's first message is nothing."""
        return [sa for sa in self.sas(name) if _counts(sa)]

    def _find_child(self, name: str, spi: int) -> tuple[IkeSa, Child] | None:
        return next(((sa, sa.children[spi]) for sa in self.sas(name) if spi in sa.children), None)

    # -- datagrams, time, events --------------------------------------------------------------------------------

    def expects(self, data: bytes, local: Address, remote: Address) -> bool:
        """Whether a datagram may be for one of its IKE SAs, wherever it comes from, or begins one of a known peer's."""
        try:
            header = Header.decode(data)
        except ProtocolError:
            return False
        if header.exchange == Exchange.IKE_SA_INIT and not header.is_response:
            return self._connection_for(local, remote) is not None
        return (header.spi_r if header.by_initiator else header.spi_i) in self._sas

    def receive(self, data: bytes, local: Address, remote: Address, now: float) -> None:
        """Any bytes: never an exception, and nothing kept of what is not for us."""
        try:
            header = Header.decode(data)
            if header.exchange == Exchange.IKE_SA_INIT:
                self._receive_init(header, data, local, remote, now)
            else:
                self._receive_sealed(header, data, (local, remote), now)
        except ProtocolError:
            pass
        self._sweep(now)

    def datagrams_to_send(self) -> list[Datagram]:
        """All there is."""
        found = list(self._outbox)
        self._outbox.clear()
        return found

    def next_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def next_timeout(self) -> float | None:
        """When handle_timeout is due; None: never, unless something happens."""
        times = [half.since + HALF_OPEN_S for half in self._half_open.values()]
        for sa in self._sas.values():
            times.append(self._own_timeout(sa))
            if (due := sa.next_timeout()) is not None:
                times.append(due)
        return min(times, default=None)

    def handle_timeout(self, now: float) -> None:
        """What is due at `now`."""
        for sa in list(self._sas.values()):
            sa.tick(now)
            if now < self._own_timeout(sa):
                continue
            if sa.state is State.REKEYED:
                sa.die("")
            elif sa.state is State.ESTABLISHED and not sa.busy:
                self._care(sa, now)
        for key, half in list(self._half_open.items()):
            if now >= half.since + HALF_OPEN_S:
                half.sa.die("")
                del self._half_open[key]
        self._sweep(now)

    def _own_timeout(self, sa: IkeSa) -> float:
        """When an IKE SA wants something by itself."""
        connection = sa.connection
        if sa.state is State.REKEYED:
            return sa.rekeyed_at + REKEYED_S
        if sa.state is not State.ESTABLISHED or sa.busy:
            return float("inf")
        times = [sa.established_at + DOUBLE_S] if self._is_double(sa) else []
        times += [sa.heard_at + connection.liveness_s] if connection.liveness_s else []
        times += [self._renewal(sa)] if connection.rekey_s else []
        return min(times, default=float("inf"))

    def _renewal(self, sa: IkeSa) -> float:
        """When it is to be rekeyed; while the peer refuses that, when its life is over (RFC 7296 §2.8)."""
        life_s = sa.connection.rekey_s * (1 + OVER_TIME if sa.is_planned(RekeyIke) else 1)
        return sa.established_at + life_s

    def _is_double(self, sa: IkeSa) -> bool:
        """Both sides have begun at once: of two IKE SAs the one with the lower SPIs goes, by who began it."""
        if not sa.initiator or not _speaks(sa):
            return False
        others = [other for other in self.sas(sa.connection.name) if _speaks(other)]
        return any(other.spi_i + other.spi_r > sa.spi_i + sa.spi_r for other in others)

    def _care(self, sa: IkeSa, now: float) -> None:
        connection = sa.connection
        if self._is_double(sa) and now >= sa.established_at + DOUBLE_S:
            sa.submit(DeleteIke(), now)
        elif connection.rekey_s and now >= self._renewal(sa):
            late = sa.is_planned(RekeyIke)
            sa.submit(DeleteIke("it could not be rekeyed in time") if late else RekeyIke(self._adopt), now)
        else:
            sa.submit(Liveness(), now)

    # -- messages -----------------------------------------------------------------------------------------------

    def _receive_sealed(self, header: Header, data: bytes, path: tuple[Address, Address], now: float) -> None:
        sa = self._sas.get(header.spi_r if header.by_initiator else header.spi_i)
        if sa is None or (sa.spi_i, sa.spi_r) != (header.spi_i, header.spi_r):
            return
        sa.receive(header, data, path, now)

    def _receive_init(self, header: Header, data: bytes, local: Address, remote: Address, now: float) -> None:
        if header.is_response:
            payloads = decode_clear(header, data)
            sa = self._sas.get(header.spi_i)
            if sa is not None and sa.initiator and not header.by_initiator and remote[0] == sa.remote[0]:
                sa.take_init_answer(header, data, payloads, now)
            return
        if header.message_id or header.spi_r != NO_SPI or not header.by_initiator:
            raise syntax("IKE_SA_INIT out of place")
        half = self._half_open.get((header.spi_i, remote))
        if half is not None:
            if half.request == data:
                self._send(half.answer, local, remote)
            return
        if any(sa.spi_i == header.spi_i and sa.established_at and not sa.initiator for sa in self._sas.values()):
            return  # a late copy: what it began is there (RFC 7296 §2.1)
        self._answer_init(header, data, local, remote, now)

    def _answer_init(self, header: Header, data: bytes, local: Address, remote: Address, now: float) -> None:
        connection = self._connection_for(local, remote)
        if connection is None:
            return
        # A cookie comes first of all (RFC 7296 §2.6): who brings one need not compete with those that do not.
        if header.first_payload != Payload.NOTIFY and not self._looked_at[connection.name].allows(now):
            return
        try:
            payloads = decode_clear(header, data)
        except ProtocolError as error:
            if error.notify is Notify.UNSUPPORTED_CRITICAL_PAYLOAD:
                self._reply(header, NO_SPI, [notify_for(error)], local, remote)
            return
        if self._goes_first(connection, now):
            return
        nonce = maybe(payloads, Nonce)
        if len(self._half_open) >= HALF_OPEN_COOKIES and not self._cookie_is_good(header, payloads, nonce, remote, now):
            cookie = self._cookie(0, header, nonce.data if nonce else b"", remote)
            self._reply(header, NO_SPI, [Notification(Notify.COOKIE, cookie)], local, remote)
            return
        if len(self._half_open) >= HALF_OPEN_MAX or not self._answered[connection.name].allows(now):
            return
        try:
            path = local, remote
            sa, reply = respond_init(self._world, connection, header, data, payloads, path, self._respond, now)
        except ProtocolError as error:
            self._reply(header, NO_SPI, [notify_for(error)], local, remote)
            if error.notify is not Notify.INVALID_KE_PAYLOAD:  # that is no refusal: the peer begins anew
                self._events.append(Rejected(connection.name, remote, str(error)))
            return
        sa.begun_at = now
        sa.initial.reply = answer = self._reply(header, sa.spi_r, reply, local, remote)
        self._half_open[header.spi_i, remote] = _HalfOpen(sa, data, answer, now)
        self._sas[sa.spi] = sa

    def _goes_first(self, connection: Connection, now: float) -> bool:
        """Both sides begin at once: whoever has come as far as IKE_AUTH goes first for a while, else the lower address.

        The other answers, too, and gives way once the peer has proved who it is: anybody can send a first message.
        """
        return any(
            sa.initiator
            and sa.state is State.CONNECTING
            and now < sa.begun_at + FIRST_S
            and (sa.keys is not None or _order(connection.local) < _order(connection.remote))
            for sa in self.sas(connection.name)
        )

    def begins(self, name: str, now: float) -> bool:
        """Whether the peer has begun lately, so that we need not."""
        return any(
            sa.state is State.CONNECTING and not sa.initiator and now < sa.begun_at + FIRST_S for sa in self.sas(name)
        )

    def _connection_for(self, local: Address, remote: Address) -> Connection | None:
        for connection in self.connections.values():
            if connection.remote[0] == remote[0] and connection.local[0] == local[0]:
                return connection
        return None

    def _reply(
        self, header: Header, spi_r: bytes, payloads: Sequence[AnyPayload], local: Address, remote: Address
    ) -> bytes:
        """Answer IKE_SA_INIT in clear text."""
        flags = Flag.RESPONSE
        data = encode_clear(Header(header.spi_i, spi_r, Exchange.IKE_SA_INIT, flags, 0), payloads)
        self._send(data, local, remote)
        return data

    def _send(self, data: bytes, local: Address, remote: Address) -> None:
        self._outbox.append(Datagram(data, local, remote))

    # -- cookies ------------------------------------------------------------------------------------------------

    def _cookie(self, which: int, header: Header, nonce: bytes, remote: Address) -> bytes:
        octets = nonce + ip_address(remote[0]).packed + remote[1].to_bytes(2, "big") + header.spi_i
        return hmac.digest(self._cookie_secrets[which], octets, "sha256")[:16]

    def _cookie_is_good(
        self, header: Header, payloads: Sequence[AnyPayload], nonce: Nonce | None, remote: Address, now: float
    ) -> bool:
        if now >= self._cookie_secret_at + COOKIE_SECRET_S:
            self._cookie_secrets = (self._random(32), self._cookie_secrets[0])
            self._cookie_secret_at = now
        given = notified(payloads, Notify.COOKIE)
        if given is None or nonce is None:
            return False
        return any(hmac.compare_digest(given.data, self._cookie(which, header, nonce.data, remote)) for which in (0, 1))

    # -- what an IKE SA asks for --------------------------------------------------------------------------------

    def _respond(self, sa: IkeSa, exchange: int, request: list[AnyPayload], now: float) -> list[AnyPayload]:
        """Answer an encrypted request. Raises ProtocolError."""
        if sa.state is State.CONNECTING:
            if exchange != Exchange.IKE_AUTH:
                raise syntax("not authenticated yet")
            reply = respond_auth(sa, request, now)
            self._promote(sa)
            self._give_way(sa)
            if notified(request, Notify.INITIAL_CONTACT):
                self._forget_others(sa)
            return reply
        if sa.origin is not None and any(_is_about_children(one) for one in request):
            yield_to_rival(sa.origin, now)  # the peer works on what it has made
        if exchange == Exchange.INFORMATIONAL:
            reply = respond_delete(sa, request, now)
            if sa.ends:
                yield_to_rival(sa, now)  # ours will not be answered
            return reply
        if exchange == Exchange.CREATE_CHILD_SA:
            return self._respond_create(sa, request, now)
        raise syntax(f"exchange {exchange}")

    def _respond_create(self, sa: IkeSa, request: list[AnyPayload], now: float) -> list[AnyPayload]:
        offered = maybe(request, SecurityAssociation)
        if offered and offered.proposals[0].protocol == Protocol.IKE:
            return respond_rekey(sa, request, self._adopt, now)
        if sa.state is not State.ESTABLISHED:
            raise ProtocolError(Notify.TEMPORARY_FAILURE, "the IKE SA is being replaced, or goes")
        return respond_child(sa, request, now)

    def _give_way(self, sa: IkeSa) -> None:
        """The peer has begun, too, and come further: our attempt, of which it has kept nothing that counts, ends."""
        for other in self.sas(sa.connection.name):
            if other.initiator and other.state is State.CONNECTING and other.keys is None:
                del self._sas[other.spi]

    def _forget_others(self, sa: IkeSa) -> None:
        """The peer has begun anew and knows of no IKE SA but this one (RFC 7296 §2.4).

        One that was established while this one was under way is not meant: both have begun at once.
        """
        for other in self.sas(sa.connection.name):
            if other is not sa and 0 < other.established_at < sa.begun_at:
                other.die("")

    def _promote(self, sa: IkeSa) -> None:
        """It is no longer half open."""
        for key, half in list(self._half_open.items()):
            if half.sa is sa:
                del self._half_open[key]

    def _adopt(self, sa: IkeSa) -> None:
        self._sas[sa.spi] = sa

    def _unused_spi(self, member: int) -> int:
        """An inbound SPI with the member in its low byte, that nobody uses."""
        used = {spi for sa in self._sas.values() for spi in sa.children}
        for _ in range(_UNUSED_TRIES):
            spi = int.from_bytes(self._random(3), "big") << 8 | member
            if spi >= SPI_MIN and spi not in used and self._spi_free(spi):
                return spi
        raise ProtocolError(Notify.NO_ADDITIONAL_SAS, "no unused SPI is left")

    def _unused_ike_spi(self) -> bytes:
        """One that no IKE SA of ours has (RFC 7296 §2.6)."""
        while (spi := self._random(len(NO_SPI))) == NO_SPI or spi in self._sas:
            pass
        return spi

    # -- the end ------------------------------------------------------------------------------------------------

    def _sweep(self, now: float) -> None:
        """Forget what is dead; a connection whose last IKE SA that was is closed."""
        if len(self._sas) > IKE_SAS_MAX:
            self._shed()
        for sa in [sa for sa in self._sas.values() if sa.state is State.DEAD]:
            del self._sas[sa.spi]
            self._promote(sa)
            name = sa.connection.name
            if not _counts(sa) and sa.error:
                self._events.append(Rejected(name, sa.remote, sa.error))
            if _counts(sa) and not any(_counts(other) and other.state is not State.REKEYED for other in self.sas(name)):
                self._events.append(Closed(name, sa.error))

    def _shed(self) -> None:
        """A peer may begin or rekey as often as it likes; its oldest IKE SAs go without a word."""
        for name in self.connections:
            held = sorted((sa for sa in self.sas(name) if sa.established_at), key=lambda sa: sa.established_at)
            for sa in held[:-IKE_SAS_MAX]:
                sa.die("")


def _counts(sa: IkeSa) -> bool:
    """Whether it is more than somebody's half-open IKE SA."""
    return sa.initiator or sa.established_at > 0


def _order(address: Address) -> bytes:
    return ip_address(address[0]).packed


def _speaks(sa: IkeSa) -> bool:
    """Whether it is an IKE SA of its own: neither on its way, nor going, nor a rival that may yet lose."""
    return sa.state is State.ESTABLISHED and (sa.origin is None or sa.origin.state is not State.REKEYING)


def _is_about_children(payload: AnyPayload) -> bool:
    return isinstance(payload, SecurityAssociation) or (
        isinstance(payload, Delete) and payload.protocol == Protocol.ESP
    )

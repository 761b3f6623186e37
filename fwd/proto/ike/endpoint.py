"""One side of IKEv2: all its IKE SAs, without a socket or a clock.

    receive(data, local, remote, now)   a datagram has come (without the non-ESP marker)
    datagrams_to_send()                 what is to be sent
    next_timeout(), handle_timeout(now) when it wants to be called, whatever comes
    next_event()                        what there is to tell

A message finds its IKE SA by our SPI. What strangers' first messages cost is in strangers.py, and may not be much:
anybody can write a known peer's address. Refused and forgotten: whatever is for no SA of ours. Only IKE_SA_INIT may be
refused in clear text. A fault of fwd's own ends the IKE SA that it was met with, and nothing else.
"""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from fwd.proto.ike.both import goes_first, peer_begins
from fwd.proto.ike.causes import By, Failure, failure_of
from fwd.proto.ike.crypto import Random
from fwd.proto.ike.events import Address, Closed, Connection, Datagram, Event, Fault, Rejected, Standing, World
from fwd.proto.ike.exchanges import CreateChild, DeleteChildren, DeleteIke, respond_informational
from fwd.proto.ike.initial import Initiate, respond_auth, respond_init
from fwd.proto.ike.limits import FRAGMENTS_BYTES_STRANGERS, HALF_OPEN_S
from fwd.proto.ike.message import Header, decode_clear, encode_clear
from fwd.proto.ike.numbers import Exchange, Flag, Notify, Payload, ProtocolError, syntax
from fwd.proto.ike.payloads import (
    AnyPayload,
    Identity,
    Notification,
    is_about_children,
    notified,
    notify_for,
    of_type,
)
from fwd.proto.ike.rate import NewestFirst
from fwd.proto.ike.rekey import RekeyIke, respond_create, yield_to_rival
from fwd.proto.ike.sa import NO_SPI, IkeSa
from fwd.proto.ike.states import State
from fwd.proto.ike.strangers import HalfOpen, Strangers, Verdict, read_first
from fwd.proto.ike.table import Commons, IkeSas, fits
from fwd.proto.ike.upkeep import do_what_is_due, when_due


class Endpoint:
    """See the module. `spi_free` says whether nobody else uses an inbound SPI."""

    def __init__(
        self,
        connections: Sequence[Connection],
        random: Random,
        wall_clock: Callable[[], float],
        spi_free: Callable[[int], bool] = lambda spi: True,
        reveal: Callable[[Any], None] | None = None,
        commons: Commons | None = None,
        octet: Callable[[int], int] = lambda member: member,
    ) -> None:
        """`octet`: the low octet of a member's inbound SPIs, by which a socket that several share is split."""
        commons = commons or Commons()
        self.neighbours: Sequence[Endpoint] = (self,)  # those with connections between the same addresses and ports
        self.connections = {connection.name: connection for connection in connections}
        self._events: deque[Event] = deque()
        self._outbox: list[Datagram] = []
        self._sas = IkeSas(self, commons)
        known_port = next((connection.remote[1] for connection in connections), 0)
        self._strangers = Strangers(random, commons.half_open, known_port)
        fragments = commons.fragments
        self._world = World(
            random, lambda member: self._sas.unused_spi(octet(member), random, spi_free),
            lambda: self._sas.unused_ike_spi(random), wall_clock, self._outbox.append, self._events.append,
            self._sas.adopt, self._strangers.admits, fragments, NewestFirst(FRAGMENTS_BYTES_STRANGERS, fragments),
            reveal,
        )  # fmt: skip

    # -- commands -----------------------------------------------------------------------------------------------

    def initiate(self, name: str, now: float, *, initial_contact: bool = False, by: By = By.START) -> None:
        """Begin a connection that has no IKE SA."""
        connection = self.connections[name]
        spis = self._world.unused_ike_spi(), NO_SPI
        sa = IkeSa(self._world, connection, spis, connection.remote, self._respond, initiator=True)
        sa.by = by
        sa.begun_at = sa.heard_at = now
        self._sas.adopt(sa)
        with self._barrier(sa):
            sa.submit(Initiate(initial_contact=lambda: initial_contact and self.established(name) is None), now)

    def create_child(
        self, name: str, member: int, notifies: tuple[Notification, ...], now: float, by: By = By.START
    ) -> bool:
        """One Child SA more for a member; False: there is no IKE SA to ask on."""
        sa = self.established(name)
        if sa is not None:
            with self._barrier(sa):
                sa.submit(CreateChild(member, notifies, by=by), now)
        return sa is not None

    def asked(self, name: str, member: int) -> int:
        """How many Child SAs of a member are under way on the IKE SA that speaks for a connection."""
        sa = self.established(name)
        tasks = sa.tasks() if sa is not None else []
        return sum(isinstance(task, CreateChild) and task.member == member and task.is_more for task in tasks)

    def rekey_child(self, name: str, spi: int, now: float, by: By = By.USER) -> bool:
        """Replace the Child SA that we receive on `spi`, once, however often it is asked for; False: there is none."""
        found = self._sas.find_child(name, spi)
        if found is None:
            return False
        sa, child = found
        if not any(isinstance(task, CreateChild) and task.replaces(child) for task in sa.tasks()):
            with self._barrier(sa):
                sa.submit(CreateChild(child.keys.member, child.notifies, child, by), now)
        return True

    def delete_child(self, name: str, spi: int, now: float, by: By = By.USER) -> bool:
        """End the Child SA that we receive on `spi`."""
        found = self._sas.find_child(name, spi)
        if found is not None:
            with self._barrier(found[0]):
                found[0].submit(DeleteChildren([found[1]], by), now)
        return found is not None

    def rekey_ike(self, name: str, now: float, by: By = By.USER) -> bool:
        """Replace a connection's IKE SA."""
        sa = self.established(name)
        if sa is not None:
            with self._barrier(sa):
                sa.submit(RekeyIke(by), now)
        return sa is not None

    def terminate(self, name: str, now: float, error: str = "", by: By = By.USER) -> None:
        """End all IKE SAs of a connection. `error`: why, unless it is wanted."""
        for sa in self.sas(name):
            with self._barrier(sa):
                if sa.state is State.CONNECTING:
                    sa.die(error)
                else:
                    sa.submit_first(DeleteIke(error, by), now)
        self._sweep(now)

    def say_farewell(self, name: str) -> None:
        """Tell the peer that all IKE SAs of a connection are over, once, whatever is under way on them."""
        for sa in self.sas(name):
            with self._barrier(sa):
                sa.say_farewell()

    def reauthenticate(self, name: str, now: float, by: By = By.TIMER) -> None:
        """Begin an IKE SA beside the one that there is, unless that is under way."""
        if not any(sa.initiator and sa.state is State.CONNECTING for sa in self.sas(name)):
            self.initiate(name, now, by=by)

    def delete_older(self, name: str, authentication: int, now: float) -> None:
        """End the IKE SAs that rest on an earlier authentication than this one."""
        for sa in self.sas(name):
            older = sa.standing.authentication < authentication
            if older and sa.state in (State.ESTABLISHED, State.REKEYING) and not sa.is_planned(DeleteIke):
                with self._barrier(sa):
                    sa.submit_first(DeleteIke(), now)

    def change(self, connection: Connection) -> None:
        """Give a connection other parameters, for what comes next: no SA that there is ends by it."""
        self.connections[connection.name] = connection
        for sa in self.sas(connection.name):
            sa.connection = connection

    def distrust(self, name: str, ends: Callable[[Standing], float], why: str, now: float) -> None:
        """End IKE SAs when `ends` says so for what they rest on, and attempts of ours that have proved nothing yet."""
        for sa in self.sas(name):
            at = ends(sa.standing)
            if sa.established_at and at < sa.standing.ends_at:
                sa.standing = replace(sa.standing, ends_at=at, grace_s=0.0, ends_why=why)
            elif sa.initiator and sa.state is State.CONNECTING:
                sa.die("")
        self._sweep(now)

    def heard(self, name: str, now: float) -> None:
        """Traffic has come on the Child SAs of the IKE SA that speaks for a connection: the peer is there."""
        sa = self.established(name)
        if sa is not None:
            sa.traffic_at = sa.heard_at = now

    def established(self, name: str) -> IkeSa | None:
        """The IKE SA that speaks for a connection now."""
        return self._sas.established(name)

    def sas(self, name: str) -> list[IkeSa]:
        """All IKE SAs of a connection."""
        return self._sas.of(name)

    @property
    def failures(self) -> Counter[Failure]:
        """How often what has failed."""
        return self._world.failures

    def begun(self, name: str) -> list[IkeSa]:
        """Those that we have begun, or a peer that has proved who it is: a stranger's first message is nothing."""
        return [sa for sa in self.sas(name) if sa.counts]

    # -- datagrams, time, events --------------------------------------------------------------------------------

    def is_peers(self, header: Header) -> bool:
        """Whether a message is for an IKE SA whose peer has proved who it is."""
        sa = self._sas.find(header)
        return sa is not None and sa.established_at > 0

    def receive(self, data: bytes, local: Address, remote: Address, now: float, header: Header | None = None) -> None:
        """Any bytes: never an exception, and nothing kept of what is not for us. `header`: theirs, if it is known."""
        with self._barrier(None), contextlib.suppress(ProtocolError):
            header = header or Header.decode(data)
            if header.exchange == Exchange.IKE_SA_INIT and not header.is_response:
                self._receive_first(header, data, (local, remote), now)
                return
            sa = self._sas.find(header)
            with self._barrier(sa), contextlib.suppress(ProtocolError):
                self._receive_for(sa, header, data, (local, remote), now)

    def _receive_for(
        self, sa: IkeSa | None, header: Header, data: bytes, path: tuple[Address, Address], now: float
    ) -> None:
        if sa is None:
            if (last := self._sas.last_words(header, now)) is not None:
                last.repeat(header, data, path, now)
        elif header.exchange == Exchange.IKE_SA_INIT:
            if sa.initiator and not header.by_initiator and path[1][0] == sa.remote[0]:
                sa.take_init_answer(header, data, decode_clear(header, data), now)
                self._sweep(now)
        elif (sa.spi_i, sa.spi_r) == (header.spi_i, header.spi_r):
            sa.receive(header, data, path, now)
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
        begun_at = self._strangers.oldest_at()
        times = [] if begun_at is None else [begun_at + HALF_OPEN_S]
        for sa in self._sas:
            if not self._strangers.holds(sa):  # of those the oldest has told
                times += when_due(sa, self._beside(sa)).values()
            if (due := sa.next_timeout()) is not None:
                times.append(due)
        return min(times, default=None)

    def handle_timeout(self, now: float) -> None:
        """What is due at `now`."""
        for sa in self._sas:
            with self._barrier(sa):
                sa.tick(now)
                do_what_is_due(sa, self._beside(sa), now)
        with self._barrier(None):
            self._sas.expire(now)
            self._sweep(now)

    def _beside(self, sa: IkeSa) -> Sequence[IkeSa]:
        """Those on which depends what is due for it: none while it is half open, and of such there may be very many."""
        return self.sas(sa.connection.name) if sa.established_at else ()

    # -- messages -----------------------------------------------------------------------------------------------

    def _receive_first(self, header: Header, data: bytes, path: tuple[Address, Address], now: float) -> None:
        """IKE_SA_INIT of whoever writes a known peer's address. Raises ProtocolError for what cannot be answered."""
        if header.message_id or header.spi_r != NO_SPI or not header.by_initiator:
            raise syntax("IKE_SA_INIT out of place")
        half = self._strangers.find(header.spi_i, path[1])
        if half is not None:
            if half.request == data and half.copies.allows(now):
                self._send(half.answer, *path)
            return
        first = read_first(header, data)
        match self._strangers.judge(first, header.spi_i, path[1], now):
            case Verdict.ANSWER:
                self._answer_first(header, data, path, now)
            case Verdict.DROP:
                self._world.fail(Failure.RATE_LIMITED)
            case Verdict.ASK:
                self._world.fail(Failure.COOKIE_ASKED)
                cookie = self._strangers.cookie(first, header.spi_i, path[1])
                self._reply(header, NO_SPI, [Notification(Notify.COOKIE, cookie)], *path)

    def _answer_first(self, header: Header, data: bytes, path: tuple[Address, Address], now: float) -> None:
        """By a key exchange, or a refusal in clear text."""
        local, remote = path
        connection = next((one for one in self.connections.values() if fits(one, local, remote)), None)
        if connection is None or goes_first(self.sas(connection.name), connection, now):
            return
        if any(sa.spi_i == header.spi_i and sa.established_at and not sa.initiator for sa in self._sas):
            return  # a late copy: what it began is there (RFC 7296 §2.1)

        # What cannot be read is answered only if it must be (RFC 7296 §2.5).
        try:
            payloads = decode_clear(header, data)
        except ProtocolError as error:
            self._world.fail(failure_of(error))
            if error.notify is Notify.UNSUPPORTED_CRITICAL_PAYLOAD:
                self._reply(header, NO_SPI, [notify_for(error)], local, remote)
            return
        try:
            sa, reply = respond_init(self._world, connection, header, data, payloads, path, self._respond, now)
        except ProtocolError as error:
            self._world.fail(failure_of(error))
            self._reply(header, NO_SPI, [notify_for(error)], local, remote)
            if error.notify is not Notify.INVALID_KE_PAYLOAD:  # that is no refusal: the peer begins anew
                self._events.append(Rejected(connection.name, remote, str(error)))
            return

        # It is half open: remembered, with the answer for a request that comes again.
        sa.begun_at = now
        sa.initial.reply = answer = self._reply(header, sa.spi_r, reply, local, remote)
        self._sas.adopt(sa)
        self._strangers.add(HalfOpen(sa, data, answer), remote, self._drop_half_open)
        self._sweep(now)

    def _drop_half_open(self, sa: IkeSa) -> None:
        """It goes for a newer one."""
        self._world.fail(Failure.HALF_OPEN_DROPPED)
        sa.die("")

    def begins(self, name: str, now: float) -> bool:
        """Whether the peer has begun lately, so that we need not."""
        return peer_begins(self.sas(name), now)

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

    # -- what an IKE SA asks for --------------------------------------------------------------------------------

    def _respond(self, sa: IkeSa, exchange: int, request: list[AnyPayload], now: float) -> list[AnyPayload]:
        """Answer an encrypted request. Raises ProtocolError."""
        if sa.state is State.CONNECTING:
            if exchange != Exchange.IKE_AUTH:
                raise syntax("not authenticated yet")
            home = self._choose_connection(sa, request)
            if home is not self:
                return home._respond(sa, exchange, request, now)
            reply = respond_auth(sa, request, now)
            self._strangers.remove(sa)
            for other in self._sas.that_give_way_to(sa):
                self._forget(other)
            if notified(request, Notify.INITIAL_CONTACT):
                for other in self._sas.that_were_before(sa):
                    other.die("")
            return reply

        # An authenticated peer. What it says of Child SAs tells which IKE SA of two rivals it means.
        if sa.origin is not None and any(is_about_children(one) for one in request):
            yield_to_rival(sa.origin, now)  # the peer works on what it has made
        if exchange == Exchange.INFORMATIONAL:
            reply = respond_informational(sa, request, now)
            if sa.ends:
                yield_to_rival(sa, now)  # ours will not be answered
            return reply

        if exchange == Exchange.CREATE_CHILD_SA:
            return respond_create(sa, request, now)
        raise syntax(f"exchange {exchange}")

    def _choose_connection(self, sa: IkeSa, request: list[AnyPayload]) -> Endpoint:
        """Of several connections between the same addresses and ports the identities tell which one is meant.

        That of IKE_SA_INIT may have been another; an IKE SA moves to whose it is. If it is nobody's, it stays, and is
        refused there.
        """
        peer, wanted = (of_type(request, kind, Identity) for kind in (Payload.IDI, Payload.IDR))
        near = [(home, one) for home in self.neighbours for one in home.connections.values()]
        meant = [
            (home, one) for home, one in near
            if peer and one.is_between(wanted, peer) and fits(one, sa.local, sa.remote)
        ]  # fmt: skip
        if not meant:
            return self
        home, sa.connection = meant[0]
        if home is not self:
            self._forget(sa)
            sa.world, sa.respond = home._world, home._respond
            home._sas.adopt(sa)
        return home

    # -- the end ------------------------------------------------------------------------------------------------

    def _sweep(self, now: float) -> None:
        """Forget what is dead; a connection whose last IKE SA that was is closed."""
        for sa in self._sas.too_many(self.connections):
            sa.die("")
        for sa in [sa for sa in self._sas if sa.state is State.DEAD]:
            if sa.has_last_words:
                self._sas.keep_last_words(sa, now)
            self._forget(sa)
            name = sa.connection.name
            in_vain = not sa.counts or (not sa.established_at and self.established(name) is not None)
            if in_vain and sa.error:
                self._events.append(Rejected(name, sa.remote, sa.error))
            if sa.counts and not any(other.counts and other.state is not State.REKEYED for other in self.sas(name)):
                self._events.append(Closed(name, sa.error, sa.peer.has_ended))

    def _forget(self, sa: IkeSa) -> None:
        """Messages for it find nothing any more."""
        self._strangers.remove(sa)
        self._sas.forget(sa)

    def close(self) -> None:
        """End it without a word: messages find none of its IKE SAs any more, nor does any neighbour its connections."""
        self.connections = {}
        for sa in self._sas:
            self._forget(sa)
        self._sas.expire(float("inf"))

    # -- faults -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _barrier(self, sa: IkeSa | None) -> Iterator[None]:
        """An exception here is a fault of fwd's: it ends this IKE SA, and is told; others live on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  whatever it is, other IKE SAs are not to pay for it
            name = sa.connection.name if sa is not None else next(iter(self.connections), "")
            self._events.append(Fault(name, error))
            if sa is not None:
                self._end_faulty(sa)

    def _end_faulty(self, sa: IkeSa) -> None:
        """Tell the peer, if that much still works, and be done with it in any case."""
        with contextlib.suppress(Exception):
            sa.say_farewell()
        try:
            sa.die("an internal error", By.FAULT)
        except Exception as error:  # noqa: BLE001  its state cannot be trusted
            self._events.append(Fault(sa.connection.name, error))
            for home in self.neighbours:
                home._forget(sa)

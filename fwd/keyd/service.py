"""keyd: the unprivileged process that makes, renews and retires the SAs of all members.

Its loop joins the members' socket pairs with IKE's sockets. Where keys come from is each peering's own affair: derived
in the lab (epochs.py), negotiated by IKEv2 elsewhere (ike.py). The data plane goes on without it (rule 7).
Its clock is CLOCK_BOOTTIME: the lives of SAs go on while the host is suspended.
Datagrams go to the peering that has an IKE SA of their SPI, or expects their source to begin one; others are dropped.
What a turn of the loop does is bounded in time, and what goes wrong in one peering stays there (barrier.py).
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from fwd.datapath.clock import boot_s
from fwd.datapath.shared import REST_S, GatewayShared
from fwd.keyd import aside
from fwd.keyd.barrier import TOLD_EVERY_S, Barrier, Guarded
from fwd.keyd.changes import Changes
from fwd.keyd.epochs import MemberKeys
from fwd.keyd.ike import IkePeering
from fwd.keyd.inbox import Inbox, Message
from fwd.keyd.legs import Legs
from fwd.keyd.mailbox import KeydMember, KeydPeering
from fwd.keyd.offers import Offers
from fwd.keyd.patience import GLANCE_S
from fwd.keyd.report import Reports
from fwd.keyd.reveal import KeyLog
from fwd.keyd.secrets import SecretError, credentials
from fwd.keyd.source import LabSource
from fwd.model import words as model
from fwd.model.config import Peering
from fwd.model.pairing import Far
from fwd.proto.ike.endpoint import Endpoint
from fwd.proto.ike.events import Address, Datagram
from fwd.proto.ike.leaving import Leaving
from fwd.proto.ike.numbers import Exchange
from fwd.proto.ike.table import Commons, our_spi
from fwd.proto.logged import event

NEWS_EVERY_S: Final = 0.1  # strangers can make as much news as they like
_TELL_SHARE: Final = 0.1  # of keyd's time, at most, goes into telling what is new
COMMANDS: Final = {
    "rekey": IkePeering.rekey,
    "terminate": IkePeering.terminate,
    "initiate": IkePeering.initiate,
}
STOPS: Final = {"terminate": True, "initiate": False}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeydParts:
    """What keyd inherits."""

    gateway: GatewayShared
    peerings: Sequence[KeydPeering]
    sockets: Sequence[socket.socket]  # IKE's, bound and non-blocking
    key_log: int | None = None  # where keys are revealed, if the user has asked for it
    channel: socket.socket | None = None  # by which the supervisor tells of changes


def run(parts: KeydParts) -> None:
    """keyd's loop, until the process is ended."""
    Service(parts, boot_s()).run()


class Service:
    """All peerings, and the sockets that they share."""

    def __init__(self, parts: KeydParts, now: float) -> None:
        self._parts = parts
        self._key_log = KeyLog(parts.key_log) if parts.key_log is not None else None
        self._commons = Commons()
        self._leaving = Leaving(os.urandom, self._commons)
        self._lab, self._own = Barrier("lab keys"), Barrier("keyd")
        self._peerings: dict[str, KeydPeering] = {}
        self._derived: dict[str, list[MemberKeys]] = {}
        self._guards: list[Guarded] = []
        self._legs: dict[str, Legs] = {}  # of each peering that has IKE
        self._of_endpoint: dict[Endpoint, Guarded] = {}
        self._of_path: dict[tuple[str, int, str], list[Guarded]] = defaultdict(list)

        # When what is due next, and whom to call when something comes.
        self._stopping = False
        self._tick_at = self._told_at = self._news_at = now  # `_news_at`: when news may be told
        self._reports = Reports()
        self._inbox = Inbox(parts.sockets, ())
        self._epoll = select.epoll()  # poll would look at each of hundreds whenever keyd wakes up
        self._handlers: dict[int, Callable[[float], None]] = {}  # what to call when one is readable
        for fd in self._inbox.fds():
            self._epoll.register(fd, select.EPOLLIN)
        if parts.channel is not None:
            self._listen(parts.channel, Changes(parts.channel, self).hear)
        for peering in parts.peerings:
            self.add(peering, now)

    # -- peerings that come, change and go --------------------------------------------------------------------------

    def add(self, parts: KeydPeering, now: float) -> None:
        """Begin a peering."""
        name = parts.peering.name
        assert name not in self._peerings
        self._peerings[name] = parts
        if parts.peering.ike is None:
            self._derived[name] = []
            self._lab.call(partial(self._derive, parts, now), now)
        else:
            offers = Offers(parts.shared, parts.peering.reached)
            make = partial(self._negotiate, name, offers=offers)
            self._legs[name] = Legs(name, make, offers, self._guards, self._listen, self._forget)
            self._legs[name].match(parts, now)
        self._know_places()
        self._beat()  # private keys take their time to load

    def remove(self, name: str, now: float) -> None:
        """End a peering, and tell its peer: again until that answers, while its socket is there for other peerings."""
        parts = self._peerings.pop(name, None)
        if parts is None:
            return
        if (legs := self._legs.pop(name, None)) is not None:
            legs.end(list(legs.of), self._leaving, now)
        self._send_farewells()
        self._derived.pop(name, None)
        for member in parts.members:
            self._forget(member.control.fileno())
            member.close()
        if parts.peering.ike is not None:  # the lab's secret may be another peering's, too
            _close(parts.fds)
        self._know_places()
        self._told_at = float("-inf")
        del parts, member
        gc.collect()  # what was mapped goes with the last that refers to it

    def add_member(self, name: str, index: int, member: KeydMember, now: float) -> None:
        """Negotiate for one member more. Raises ValueError if it is not the next one."""
        parts = self._peerings.get(name)
        if parts is None or index != len(parts.members):
            member.close()
            raise ValueError(f"member {index} of {name} is out of turn")
        parts.members.append(member)
        self._match(parts, now)

    def drop_member(self, name: str, index: int, now: float) -> None:
        """Delete the SAs of a peering's last member, and forget it. Raises ValueError if it is not the last one."""
        parts = self._peerings.get(name)
        if parts is None or index != len(parts.members) - 1:
            raise ValueError(f"member {index} of {name} is out of turn")
        member = parts.members.pop()
        self._match(parts, now)
        self._forget(member.control.fileno())
        member.close()
        gc.collect()  # what was mapped goes with the last that refers to it

    def _match(self, parts: KeydPeering, now: float) -> None:
        """Let the IKE with each far gateway have the members that are paired with it by now, and end what has none."""
        legs = self._legs.get(parts.peering.name)
        if legs is not None and legs.match(parts, now):
            legs.end(legs.without_members(parts), self._leaving, now)
            self._send_farewells()
            self._know_places()
            self._told_at = float("-inf")

    def change(self, peering: Peering, fds: dict[str, int], now: float) -> None:
        """Take a peering's other parameters, and secrets if there are descriptors; what cannot be used changes none."""
        try:
            before = self._peerings[peering.name]
            parts = replace(before, peering=peering, fds=fds or before.fds)
            known = credentials(peering.keys, parts.fds) if peering.ike is not None else None
        except BaseException:
            _close(fds)
            raise
        if fds:
            _close(before.fds)
        self._peerings[peering.name] = parts
        for member in self._derived.get(peering.name, ()):
            member.change(peering)
        self._match(parts, now)
        for guard in self._guards:
            if guard.name == peering.name and known is not None:
                leg, far = peering.towards(guard.far), guard.far
                guard.use(lambda of, leg=leg, far=far: of.change(leg, known, now, far), now, None)  # type: ignore[misc]
                guard.retry(now)
        self._know_places()

    def change_sockets(self, close: Iterable[Address], opened: Iterable[socket.socket]) -> None:
        """Listen on other sockets for IKE."""
        opened = list(opened)
        for address in (*close, *(sock.getsockname()[:2] for sock in opened)):
            # Before it is closed: the supervisor has it open, too, so that it would be told of ever after.
            if (fd := self._inbox.fd(address)) is not None:
                self._epoll.unregister(fd)
                self._inbox.remove(address)
        for sock in opened:
            self._epoll.register(self._inbox.add(sock), select.EPOLLIN)

    def obey(self, name: str, command: str, now: float) -> None:
        """Do what a user wants of a peering. What is to last is known to the IKE that comes after a fault, too."""
        if name in self._peerings and command in STOPS:
            self._peerings[name] = replace(self._peerings[name], stopped=STOPS[command])
        for guard in self._guards:
            if guard.name == name:
                told = event("ike.command", command=command, peering=name)
                log.info("%s: a user asks to %s", name, command, extra=told)

                # After a fault it would begin a while later: members are told now.
                guard.retry(now)
                guard.begin(now)
                guard.use(partial(COMMANDS[command], now=now), now, None)

    def _listen(self, sock: socket.socket, act: Callable[[float], None]) -> None:
        self._handlers[sock.fileno()] = act
        self._epoll.register(sock, select.EPOLLIN)

    def _forget(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def _derive(self, parts: KeydPeering, now: float) -> None:
        source = LabSource(parts.fds["secret"], parts.peering)
        for index, member in enumerate(parts.members):
            one = MemberKeys(parts.peering, index, source, member, now)
            self._derived[parts.peering.name].append(one)
            self._listen(member.control, partial(self._hear_lab, one))

    def _hear_lab(self, member: MemberKeys, now: float) -> None:
        self._lab.call(lambda: member.hear(now), now)

    def _negotiate(self, name: str, address: model.Address, now: float, offers: Offers) -> IkePeering | None:
        """A peering's IKE with one far gateway, or None if its files say nothing that could be used."""
        parts = self._peerings[name]
        far = next(far for far in parts.peering.fars if far.address == address)
        try:
            known = credentials(parts.peering.keys, parts.fds)
        except SecretError as error:
            told = event("ike.no_keys", peering=name)
            log.error("peering %s has no keys: %s", name, error, extra=told)
            return None
        return IkePeering(parts.towards(far, offers), known, now, self._key_log, self._commons)

    def _know_places(self) -> None:
        """Look up anew which endpoint is whose, and which have connections between the same addresses."""
        of = [parts.peering for parts in self._peerings.values()]
        self._inbox.marked = {(str(one.local_addrs), one.port) for one in of if one.shared_port}
        self._of_endpoint.clear()
        self._of_path.clear()
        for guard in self._guards:
            if guard.peering is not None:
                self._of_endpoint[guard.peering.endpoint] = guard
                for path in guard.peering.paths():
                    self._of_path[path].append(guard)
        for endpoint, guard in self._of_endpoint.items():
            assert guard.peering is not None
            near = [other for path in guard.peering.paths() for other in self._of_path[path]]
            endpoint.neighbours = list(dict.fromkeys(other.peering.endpoint for other in near if other.peering))

    def run(self) -> None:
        """Until the process is told to end, and then tells the peers."""
        signal.signal(signal.SIGTERM, self._on_stop)
        while not self._stopping:
            leaving = self._leaving.next_timeout()
            due = min([self._tick_at, *(guard.wakes_at for guard in self._guards), *([leaving] if leaving else [])])
            self.turn(max(0.0, due - boot_s()))
        now = self._beat()
        for guard in self._guards:
            self._say_goodbye(guard, now)

    def turn(self, wait_s: float) -> None:
        """Once around: what has come, after `wait_s` at the latest, and what is due."""
        if wait_s > 0.0:
            self._parts.gateway.keyd.heartbeat[0] = time.monotonic_ns() + int(wait_s * 1e9)
        ready = [fd for fd, _ in self._epoll.poll(wait_s)]
        now = self._beat()
        for fd in ready:
            if fd in self._handlers:  # and still is, whatever those before have done
                self._handlers[fd](now)
                now = self._beat()
        # Each of these has barriers for each peering; what is left is for no peering.
        self._own.call(lambda: self._receive(ready, now), now)
        now = self._beat()
        self._own.call(lambda: self._tick(now), now)
        self._own.call(lambda: self._tell(now), now)

    def _say_goodbye(self, guard: Guarded, now: float) -> None:
        guard.use(lambda peering: peering.stopping(now), now, None)
        self._send(guard, now, regular=False)

    def _on_stop(self, *_: object) -> None:
        self._stopping = True

    def _beat(self) -> float:
        """Show that the loop turns; returns the time."""
        self._parts.gateway.keyd.heartbeat[0] = time.monotonic_ns()
        return boot_s()

    # -- what comes -----------------------------------------------------------------------------------------------

    def _receive(self, ready: Sequence[int], now: float) -> None:
        for message in self._inbox.messages(ready):
            if self._commons.homes.get(our_spi(message.header)) is self._leaving:
                self._leaving.receive(message.data, message.local, message.remote, now, message.header)
            guard = self._addressee(message)
            if guard is not None:
                guard.hear(message, now)
                for other in self._of_path.get((*message.local, message.remote[0]), ()):
                    if other is not guard:  # an IKE SA may have turned out to be that one's
                        other.use(partial(IkePeering.follow, now=now), now, None, light=True)
                now = self._beat()

    def _addressee(self, message: Message) -> Guarded | None:
        """The peering whose IKE SA a message is for, or that one like it may begin."""
        header = message.header
        if header.exchange != Exchange.IKE_SA_INIT or header.is_response:
            home = self._commons.homes.get(our_spi(header))
            return self._of_endpoint.get(home) if home else None
        fitting = self._of_path.get((*message.local, message.remote[0]), ())
        alive = [guard for guard in fitting if guard.peering is not None]
        exact = [guard for guard in alive if guard.peering and guard.peering.connection.remote == message.remote]
        return next(iter([*exact, *alive]), None)

    # -- what is due ----------------------------------------------------------------------------------------------

    def _tick(self, now: float) -> None:
        glances = now >= self._tick_at
        if glances:
            self._tick_at = now + GLANCE_S
            self._parts.gateway.follow_log_level()
            for member in [one for members in self._derived.values() for one in members]:
                self._lab.call(partial(member.glance, now), now)
            for legs in self._legs.values():
                legs.tick(now)
        self._leaving.handle_timeout(now)
        self._send_farewells()
        if glances:
            self._follow_status(now)

        # Of hundreds of peerings most rest: nothing but this is done for them.
        for guard in [one for one in self._guards if one.touched or one.due <= now or (glances and one.has_news())]:
            if guard.due <= now and guard.begin(now):
                self._know_places()
            regular = guard.calm_until <= now or (glances and guard.has_news())
            if regular or guard.touched or guard.due <= now:  # not for every datagram that a stranger sends
                is_due = not regular and guard.due <= now
                guard.tick(partial(_tick_if_due, now, regular=regular, is_due=is_due), now, light=not regular)
                self._send(guard, now, regular=regular)
                guard.settle(now)
                self._beat()

    def _follow_status(self, now: float) -> None:
        drains = bool(self._parts.gateway.drains[0])
        for guard in self._guards:
            if guard.peering is None:
                continue
            known, leaves = guard.peering.connection, guard.leaves is not None and bool(guard.leaves[0])
            if known.drains != drains or known.leaves != leaves:
                guard.use(partial(aside.tell, drains=drains, leaves=leaves), now, None)

    def _send(self, guard: Guarded, now: float, *, regular: bool) -> None:
        path = guard.use(lambda peering: peering.keepalive(now), now, None, light=True) if regular else None
        if path is not None:
            self._inbox.keep_alive(*path)
        for datagram in guard.use(IkePeering.datagrams, now, list[Datagram](), light=True):
            self._inbox.send(datagram)

    def _send_farewells(self) -> None:
        for datagram in self._leaving.datagrams_to_send():
            self._inbox.send(datagram)

    def _tell(self, now: float) -> None:
        """Show the state of all peerings, soon after it has changed: how soon, goes by what that costs."""
        if now < self._news_at:
            return
        every_s = TOLD_EVERY_S if any(guard.restless for guard in self._guards) else REST_S
        if now < self._told_at + every_s and not any(one.peering and one.peering.news for one in self._guards):
            return
        began_s = time.thread_time()
        each: dict[str, dict[Far, dict[str, Any]]] = defaultdict(dict)
        for guard in self._guards:
            each[guard.name][guard.far] = guard.tell(now)
        self._parts.gateway.ike.put(self._reports.encode(each))
        self._told_at = now
        self._news_at = now + max(NEWS_EVERY_S, (time.thread_time() - began_s) / _TELL_SHARE)


def _close(fds: dict[str, int]) -> None:
    for fd in fds.values():
        os.close(fd)


def _tick_if_due(now: float, peering: IkePeering, *, regular: bool, is_due: bool) -> None:
    """Tick, if there is a reason to; what has come due by what was done just now is so in the next turn.

    `is_due`: a timer of IKE's own is, such as that for a request sent again. Nothing else is done for it, unless
    something comes of it.
    """
    if is_due:
        peering.handle_timeout(now)
    if regular or peering.stirred:
        peering.tick(now)

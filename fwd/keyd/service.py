"""keyd: the unprivileged process that makes, renews and retires the SAs of all members.

Its loop joins the members' socket pairs with IKE's sockets. Where keys come from is each peering's own affair: derived
in the lab (epochs.py), negotiated by IKEv2 elsewhere (ike.py). The data plane goes on without it (design rule 7).
Its clock is CLOCK_BOOTTIME: the lives of SAs go on while the host is suspended.
Datagrams go to the peering that has an IKE SA of their SPI, or expects their source to begin one; others are dropped.
"""

from __future__ import annotations

import contextlib
import json
import logging
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from fwd.datapath.clock import boot_s
from fwd.datapath.shared import Board, GatewayShared
from fwd.datapath.udp import KEEPALIVE
from fwd.keyd.epochs import MemberKeys
from fwd.keyd.ike import IkePeering
from fwd.keyd.mailbox import KeydPeering
from fwd.keyd.report import report
from fwd.keyd.reveal import KeyLog
from fwd.keyd.secrets import SecretError, credentials
from fwd.keyd.source import LabSource
from fwd.proto.logged import event

TICK_S: Final = 0.1
TOLD_EVERY_S: Final = 0.5
_DATAGRAMS_MAX = 64  # read before anything else gets its turn
_DATAGRAM_BYTES = 65536
_MARKER = bytes(4)
_COMMAND_BYTES = 4096
COMMANDS: Final = {
    "rekey": IkePeering.rekey,
    "terminate": IkePeering.terminate,
    "initiate": IkePeering.initiate,
}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeydParts:
    """What keyd inherits."""

    gateway: GatewayShared
    peerings: Sequence[KeydPeering]
    sockets: Sequence[socket.socket]  # IKE's, bound and non-blocking
    commands: socket.socket  # of users, by way of the agent
    key_log: int | None = None  # where keys are revealed, if the user has asked for it


def run(parts: KeydParts) -> None:
    """keyd's loop, until the process is ended."""
    Service(parts, boot_s()).run()


class Service:
    """All peerings, and the sockets that they share."""

    def __init__(self, parts: KeydParts, now: float) -> None:
        peerings, sockets = parts.peerings, parts.sockets
        self._parts = parts
        self._key_log = KeyLog(parts.key_log) if parts.key_log is not None else None
        self._derived: list[MemberKeys] = []
        self._negotiated: list[IkePeering] = []
        self._stopping = False
        self._sockets = {sock.getsockname()[:2]: sock for sock in sockets}
        # Where ESP comes, too, IKE is told by four zeros (RFC 3948 §2.2).
        self._marked = {(str(p.peering.local_addrs), p.peering.port) for p in peerings if p.peering.shared_port}
        for peering in peerings:
            self._add(peering, now)
            parts.gateway.keyd.heartbeat[0] = time.monotonic_ns()  # private keys take their time to load

    def _add(self, parts: KeydPeering, now: float) -> None:
        peering = parts.peering
        if peering.ike is None:
            source = LabSource(parts.fds["secret"], peering)
            self._derived += [MemberKeys(peering, i, source, member, now) for i, member in enumerate(parts.members)]
            return
        try:
            known = credentials(peering.keys, parts.fds)
        except SecretError as error:
            log.error(
                "peering %s has no keys: %s", peering.name, error, extra=event("ike.no_keys", peering=peering.name)
            )
            return
        self._negotiated.append(IkePeering(parts, known, now, self._key_log))

    def run(self) -> None:
        """Until the process is told to end, and then tells the peers."""
        signal.signal(signal.SIGTERM, self._on_stop)
        poll, by_fd, gateway = select.poll(), self._waiting(), self._parts.gateway
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        now = boot_s()
        tick_at = told_at = now
        while not self._stopping:
            times = [at for peering in self._negotiated if (at := peering.next_timeout()) is not None]
            ready = poll.poll(max(0.0, min([tick_at, *times]) - now) * 1000)
            now = boot_s()
            gateway.keyd.heartbeat[0] = time.monotonic_ns()
            for fd, _ in ready:
                by_fd[fd](now)
            regular = now >= tick_at
            if regular:
                tick_at = now + TICK_S
                for member in self._derived:
                    member.tick(now)
            for peering in self._negotiated:
                if regular or peering.is_due(now):  # not for every datagram that a stranger sends
                    peering.tick(now)
            self._send(now)
            if now >= told_at or any(peering.news for peering in self._negotiated):
                told_at = now + TOLD_EVERY_S
                for peering in self._negotiated:
                    peering.news = False
                gateway.ike.put(report({p.name: p.told(now) for p in self._negotiated}, Board.SIZE))

        for peering in self._negotiated:
            peering.stopping(now)
        self._send(now)

    def _on_stop(self, *_: object) -> None:
        self._stopping = True

    def _waiting(self) -> dict[int, Callable[[float], None]]:
        """What to call when a descriptor is readable."""
        found: dict[int, Callable[[float], None]] = {m.control.fileno(): m.hear for m in self._derived}
        for peering in self._negotiated:
            for index, pairs in enumerate(peering.members):
                found[pairs.control.fileno()] = partial(peering.hear, index)
        for sock in self._sockets.values():
            found[sock.fileno()] = partial(self._receive, sock)
        found[self._parts.commands.fileno()] = self._obey
        return found

    def _obey(self, now: float) -> None:
        """What a user wants of a peering (agent.service has checked the words)."""
        with contextlib.suppress(BlockingIOError):
            while data := self._parts.commands.recv(_COMMAND_BYTES):
                wanted = json.loads(data)
                for peering in self._negotiated:
                    if peering.name == wanted["peering"]:
                        told = event("ike.command", **wanted)
                        log.info("%s: a user asks to %s", peering.name, wanted["command"], extra=told)
                        COMMANDS[wanted["command"]](peering, now)

    def _receive(self, sock: socket.socket, now: float) -> None:
        local = sock.getsockname()[:2]
        for _ in range(_DATAGRAMS_MAX):
            try:
                data, remote = sock.recvfrom(_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except ConnectionError:
                continue  # ICMP about something that we have sent
            if local in self._marked:
                if data[: len(_MARKER)] != _MARKER:
                    continue
                data = data[len(_MARKER) :]
            for peering in self._negotiated:
                if peering.expects(data, local, remote[:2]):
                    peering.receive(data, local, remote[:2], now)
                    break

    def _send(self, now: float) -> None:
        for peering in self._negotiated:
            path = peering.keepalive(now)
            if path is not None and path[0] in self._marked:
                with contextlib.suppress(OSError):  # as good as lost
                    self._sockets[path[0]].sendto(KEEPALIVE, path[1])
            for datagram in peering.datagrams():
                sock = self._sockets.get(datagram.local)
                marker = _MARKER if datagram.local in self._marked else b""
                if sock is not None:
                    with contextlib.suppress(OSError):  # as good as lost: it is sent again
                        sock.sendto(marker + datagram.data, datagram.remote)

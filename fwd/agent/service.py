"""The agent's process: answers on the control socket and, if there is one, on the metrics port.

One selector loop, one request a connection. Control: a JSON line {"command": "status"}, or "ping", "flow" (flow.py) or
"checks" (checks.py), gives a JSON line back. It only shows: what changes anything goes to the supervisor
(supervise/admin.py). HTTP: see http.py. Limits stand on everything: size of a request, time to send it, time to take
the answer, connections at a time (others wait in the kernel's queue). Any bytes get an answer or a closed connection,
and no client is waited for: the loop writes its heartbeat before each thing it does.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from fwd.agent import checks, flow, http
from fwd.agent.changes import Changes
from fwd.agent.controller import identities_of, is_joined, rekeys_of, routers_of, summary
from fwd.agent.readiness import Watch
from fwd.agent.status import status_of
from fwd.agent.view import GatewayView
from fwd.datapath.shared import REST_S
from fwd.model.shown import as_json
from fwd.model.status import Status

REQUEST_BYTES_MAX: Final = 4096
REQUEST_S: Final = 1.0
ANSWER_S: Final = 2.0
CONNECTIONS_MAX: Final = 16  # at each of the two sockets
SUMMARY_S: Final = 1.0  # between two of those that link passes on
_TICK_S: Final = 0.1  # while somebody is served

Json = dict[str, Any]


def run(
    view: GatewayView,
    control: socket.socket,
    metrics: socket.socket | None,
    channel: socket.socket | None = None,
) -> NoReturn:
    """Be the agent until the process is ended. Both sockets are bound and listen already; by `channel` the supervisor
    tells of changes.
    """
    agent = Agent(view, control, metrics, channel)
    while True:
        agent.turn()


@dataclass
class _Door:
    """A listening socket: what ends a request there, and how it is answered."""

    sock: socket.socket
    ends: tuple[bytes, ...]
    answer: Callable[[bytes], bytes]
    guests: int = 0


@dataclass(eq=False)
class _Guest:
    """A connection: first its request comes in, then `unsent` goes out."""

    sock: socket.socket
    door: _Door
    deadline_s: float
    request: bytearray = field(default_factory=bytearray)
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))


class Agent:
    """The loop's state: the doors and the guests that came through them."""

    def __init__(
        self,
        view: GatewayView,
        control: socket.socket,
        metrics: socket.socket | None,
        channel: socket.socket | None = None,
    ) -> None:
        self._view = view
        self._heartbeat = view.shared.agent.heartbeat
        self._beat()
        self._watch = Watch(view, time.monotonic())
        self._sum_up_at = 0.0
        self._selector = selectors.DefaultSelector()
        self._guests: set[_Guest] = set()
        self._open(_Door(control, (b"\n",), self._answer_control))
        if channel is not None:
            self._selector.register(channel, selectors.EVENT_READ, Changes(channel, view))
        if metrics is not None:
            self._open(_Door(metrics, (b"\r\n\r\n", b"\n\n"), self._answer_http))

    def turn(self) -> None:
        """Wait for something to do, and do it; rest while nobody is served."""
        wait_s = _TICK_S if self._guests else SUMMARY_S if is_joined(self._view) else REST_S
        self._heartbeat[0] = time.monotonic_ns() + int(wait_s * 1e9)
        self._view.shared.follow_log_level()

        # Whoever asks is served, a little each, and shows that the loop turns.
        for key, _ in self._selector.select(wait_s):
            self._beat()
            if isinstance(key.data, Changes):
                key.data.hear()
            elif isinstance(key.data, _Door):
                self._admit(key.data)
            elif key.events & selectors.EVENT_READ:
                self._read(key.data)
            else:
                self._write(key.data)

        # What is due by the clock: the log of readiness, the summary for link, guests who take too long.
        now_s = time.monotonic()
        self._watch.turn(now_s)
        if now_s >= self._sum_up_at and is_joined(self._view):
            self._sum_up_at = now_s + SUMMARY_S
            view = self._view
            told = summary(self._status(), identities_of(view), routers_of(view), rekeys_of(view))
            view.shared.summary.put(told)
        for guest in [guest for guest in self._guests if now_s > guest.deadline_s]:
            self._dismiss(guest)

    def _beat(self) -> None:
        self._heartbeat[0] = time.monotonic_ns()

    # -- connections ------------------------------------------------------------------------------------------

    def _open(self, door: _Door) -> None:
        door.sock.setblocking(False)
        self._selector.register(door.sock, selectors.EVENT_READ, door)

    def _admit(self, door: _Door) -> None:
        try:
            sock, _ = door.sock.accept()
        except OSError:  # gone again, or no descriptor left: the next turn tries anew
            return
        sock.setblocking(False)
        guest = _Guest(sock, door, time.monotonic() + REQUEST_S)
        self._guests.add(guest)
        self._selector.register(sock, selectors.EVENT_READ, guest)
        door.guests += 1
        if door.guests == CONNECTIONS_MAX:
            self._selector.unregister(door.sock)

    def _dismiss(self, guest: _Guest) -> None:
        self._selector.unregister(guest.sock)
        guest.sock.close()
        self._guests.remove(guest)
        if guest.door.guests == CONNECTIONS_MAX:
            self._selector.register(guest.door.sock, selectors.EVENT_READ, guest.door)
        guest.door.guests -= 1

    def _read(self, guest: _Guest) -> None:
        try:
            piece = guest.sock.recv(REQUEST_BYTES_MAX - len(guest.request))
        except BlockingIOError:
            return
        except OSError:
            self._dismiss(guest)
            return
        guest.request += piece
        if piece and len(guest.request) < REQUEST_BYTES_MAX and not any(e in guest.request for e in guest.door.ends):
            return
        if not guest.request:
            self._dismiss(guest)
            return
        guest.unsent = memoryview(guest.door.answer(bytes(guest.request)))
        guest.deadline_s = time.monotonic() + ANSWER_S
        self._selector.modify(guest.sock, selectors.EVENT_WRITE, guest)

    def _write(self, guest: _Guest) -> None:
        try:
            guest.unsent = guest.unsent[guest.sock.send(guest.unsent) :]
        except BlockingIOError:
            return
        except OSError:
            guest.unsent = memoryview(b"")
        if not guest.unsent:
            self._dismiss(guest)

    # -- answers ----------------------------------------------------------------------------------------------

    def _answer_control(self, request: bytes) -> bytes:
        if len(request) >= REQUEST_BYTES_MAX:
            return _line({"error": f"request longer than {REQUEST_BYTES_MAX} bytes"})
        try:
            message = json.loads(request)
        except (ValueError, RecursionError):
            return _line({"error": "request is not JSON"})
        command = message.get("command") if isinstance(message, dict) else None
        if command == "status":
            return _line(as_json(self._status()))
        if command == "flow":
            return _line(flow.answer(self._view, message))
        if command == "checks":
            return _line(checks.answer(self._view))
        if command == "ping":
            return _line({"pong": True, "pid": os.getpid()})
        return _line({"error": "unknown command; known: status, flow, checks, ping"})

    def _answer_http(self, request: bytes) -> bytes:
        return http.answer(request, self._status)

    def _status(self) -> Status:
        return status_of(self._view, time.monotonic_ns())


def _line(answer: Json) -> bytes:
    return json.dumps(answer).encode() + b"\n"

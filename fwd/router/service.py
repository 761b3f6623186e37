"""`fwd router`: probes the gateways of this VPC every 100 ms, and spreads its flows over those that can carry them.

One loop, one process, root (it programs the kernel's routes). Nothing that passes through the router passes through
this process: it may end, and the kernel goes on with the last set. So SIGTERM leaves all of it there; `fwd router
clear` takes it away. SIGHUP reads the configuration anew; one that cannot be used changes nothing. A router that has
joined a controller spreads what that wants, too (linked.py).

A loop that was late by 50 ms has waited for nobody: what is unanswered then counts for nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from fwd.files import read_probe_key
from fwd.model.router import RouterConfig, load_router
from fwd.model.words import Address
from fwd.proto.errors import UserError
from fwd.proto.logged import event
from fwd.proto.probe import NONCE_BYTES, decode_answer, encode_request
from fwd.router.kernel import State, state_of, steps
from fwd.router.linked import Linked
from fwd.router.nexthop import NextHops
from fwd.router.reach import EVERY_S, HITS, LATE_S, MISSES, Reach
from fwd.router.show import shown, summary
from fwd.router.tables import Tables, carry_out
from fwd.supervise.loglines import formatter
from fwd.supervise.netlink import Changes, Kernel
from fwd.supervise.sockets import listen_unix

RECONCILE_S: Final = 1.0
FIRST_S: Final = EVERY_S * (HITS + MISSES + 1)  # until every gateway has been judged
_ANSWERS_MAX: Final = 1024  # taken at once
_DATAGRAM_BYTES: Final = 2048
_CLIENTS: Final = 16
_CLIENT_S: Final = 0.05
_NO_ROOT: Final = "a router programs the kernel's routes: run it as root"
log = logging.getLogger(__name__)


class Service:
    """See the module."""

    def __init__(self, path: Path, config: RouterConfig, key: bytes | None) -> None:
        """`key`: None of one that has joined, to which its controller gives it."""
        self._path, self._local, self._key = path, config, key

        # First what refuses a second router, then what this one is to do.
        self._door = listen_unix(config.router.control, "router.control")
        self._linked: Linked | None = None
        if config.controller is not None:
            directory, control = config.controller.directory, config.router.control
            self._linked = Linked(directory, control, lambda: self._local, self._follow)
        self._config = self._wanted()

        # What it works with.
        self._kernel = Kernel()
        self._tables = Tables(self._config, NextHops(), self._kernel.addresses)
        self._reaches: dict[str, Reach] = {}
        self._probes = {version: _probing(family) for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6))}
        self._changes = Changes()
        self._wake, self._bell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stopping = self._reloading = False
        self._no_key = ""
        self._late = 0
        self._began_at = time.monotonic()
        self._judges_at = self._began_at + FIRST_S
        self._asked_at = self._reconciled_at = float("-inf")

        # Whatever it is woken by.
        self._poll = select.poll()
        links = self._linked.fds if self._linked is not None else ()
        probes = (one.fileno() for one in self._probes.values())
        for fd in (self._wake, self._changes.fd, self._door.fileno(), *links, *probes):
            self._poll.register(fd, select.POLLIN)
        self._key = self._renewed_key()
        self._know_gateways()

    def run(self) -> None:
        """Work until SIGTERM or SIGINT."""
        signal.set_wakeup_fd(self._bell)
        signal.signal(signal.SIGHUP, self._on_hup)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        log.info("router of %d spreads", len(self._config.spread), extra=event("router.started"))
        while not self._stopping:
            self.turn(max(0.0, self._asked_at + EVERY_S - time.monotonic()))
        if self._linked is not None:
            self._linked.close()
        log.info("the router ends; its routes stay", extra=event("router.stopped"))

    def turn(self, wait_s: float) -> None:
        """Once around: what has come after `wait_s` at the latest, and what is due."""
        ready = {fd for fd, _ in self._poll.poll(wait_s * 1000)}
        now = time.monotonic()
        if self._wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 4096)
        if self._reloading:
            self._reloading = False
            self._reload()

        # Answers first: a loop that was late finds those that came in time.
        for sock in self._probes.values():
            if sock.fileno() in ready:
                self._hear(sock, now)
        due = now >= self._asked_at + EVERY_S
        if due:
            self._ask(now)
        changed = self._changes.fd in ready and self._changes.heard().any

        # Before each gateway has had its first probes nothing is decided: what a router before has left goes on.
        judges = now >= self._judges_at
        if judges and (due or ready):
            self._tables.turn(self._reaches, now)

        # The kernel is looked at when something has changed there, and every second.
        if judges and (changed or now >= self._reconciled_at + RECONCILE_S):
            self._reconciled_at = now
            self._tables.reconcile()
            self._tables.ask_anew(self._unanswered())
        if self._door.fileno() in ready:
            self._serve()
        if self._linked is not None:
            self._linked.turn(now, self._summary)

    # -- probes -----------------------------------------------------------------------------------------------------

    def _ask(self, now: float) -> None:
        """Send a probe to each gateway; if this loop was late, what is unanswered counts for nothing."""
        late = now - self._asked_at > EVERY_S + LATE_S and self._asked_at > 0
        self._asked_at = now
        self._late += late
        if self._key is None:
            return
        for name, address in self._addresses.items():
            reach = self._reaches[name]
            if late:
                reach.void()
            nonce = os.urandom(NONCE_BYTES)
            reach.ask(nonce, now)
            try:
                to = (str(address), self._config.router.beacon_port)
                self._probes[address.version].sendto(encode_request(nonce, self._key), to)
            except OSError as error:
                if error.errno not in (11, 105):  # EAGAIN, ENOBUFS: nothing is known by these
                    reach.lose()

    def _hear(self, sock: socket.socket, now: float) -> None:
        names, key = {str(address): name for name, address in self._addresses.items()}, self._key
        for _ in range(_ANSWERS_MAX):
            try:
                data, source = sock.recvfrom(_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except OSError:  # an ICMP error for an earlier probe: silence says the same
                continue
            name = names.get(source[0])
            answer = decode_answer(data, key) if key is not None else None
            if name is None or answer is None or not self._reaches[name].hear(answer, now):
                self._strange += 1

    def _unanswered(self) -> Iterator[Address]:
        """All addresses of gateways that do not answer."""
        for one in self._config.spread:
            for hop in one.gateway:
                if not self._reaches[hop.name].up:
                    yield from hop.addresses

    def _know_gateways(self) -> None:
        """Probe each gateway at one address, whichever spreads it serves."""
        self._strange = 0
        self._addresses = {hop.name: hop.addresses[0] for one in self._config.spread for hop in one.gateway}
        self._reaches = {name: self._reaches.get(name) or Reach() for name in self._addresses}

    # -- the user ---------------------------------------------------------------------------------------------------

    def _reload(self) -> None:
        try:
            config = load_router(self._path)
            if (config.controller is None) != (self._linked is None):
                raise UserError("[controller] cannot come or go while the router runs: restart it")
            key = read_probe_key(config.probe_key) if self._linked is None else None
            wanted = config if self._linked is None else self._linked.beside(config)
        except UserError as error:
            log.error("the configuration is not taken: %s", error, extra=event("router.reload_failed"))
            return
        if config.router.control != self._config.router.control:
            log.error("router.control holds from the next start on", extra=event("router.reload_failed"))
        self._local, self._key = config, key
        if self._linked is not None:
            self._linked.look_again()
        self._take(wanted)
        log.info("the configuration is in force", extra=event("router.reloaded"))

    def _follow(self) -> None:
        """Have in force what the controller wants now."""
        self._take(self._wanted())

    def _take(self, wanted: RouterConfig) -> None:
        self._config, self._key = wanted, self._renewed_key()
        self._know_gateways()
        self._tables.change(wanted)
        self._reconciled_at = float("-inf")

    def _wanted(self) -> RouterConfig:
        """What the local file says, and the controller beside it. Raises UserError."""
        return self._local if self._linked is None else self._linked.beside(self._local)

    def _renewed_key(self) -> bytes | None:
        """The probe key; of one that has joined what is kept, if anything is."""
        if self._linked is None:
            return self._key
        self._no_key = ""
        try:
            return read_probe_key(self._config.probe_key)
        except UserError as error:
            self._no_key = str(error) if self._config.spread else ""
            return None

    def _serve(self) -> None:
        """Tell whoever asks; nobody is waited for."""
        for _ in range(_CLIENTS):
            try:
                client, _ = self._door.accept()
            except BlockingIOError:
                return
            with client, contextlib.suppress(OSError):
                client.settimeout(_CLIENT_S)
                client.sendall(json.dumps(self._shown()).encode() + b"\n")

    def _shown(self) -> dict[str, Any]:
        now, troubles = time.monotonic(), self._tables.troubles
        if self._linked is None:
            return shown(self._tables.places, self._reaches, troubles, self._late, now)
        more = [*self._linked.reasons, *([self._no_key] if self._no_key else [])]
        found = shown(self._tables.places, self._reaches, troubles, self._late, now, more)
        return {**found, "controller": self._linked.shown(now)}

    def _summary(self) -> dict[str, Any]:
        uptime_s = round(time.monotonic() - self._began_at, 3)
        return {**summary(self._shown(), self._tables.near), "uptime_s": uptime_s}

    def _on_hup(self, *_: object) -> None:
        self._reloading = True

    def _on_stop(self, *_: object) -> None:
        self._stopping = True


def run(path: Path) -> None:
    """Be the router until SIGTERM or SIGINT. Raises UserError."""
    config = load_router(path)
    key = read_probe_key(config.probe_key) if config.controller is None else None
    if os.geteuid() != 0:
        raise UserError(_NO_ROOT)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter("text", sys.stderr.fileno()))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    Service(path, config, key).run()


def clear() -> None:
    """Take away all routes, groups and next hops that routers have made. Raises UserError."""
    if os.geteuid() != 0:
        raise UserError(_NO_ROOT)
    hops = NextHops()
    for step in steps(State(), state_of(hops.owned(), hops.ways())):
        carry_out(hops, step)


def _probing(family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    sock.bind(("", 0))
    return sock

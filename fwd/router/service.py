"""`fwd router`: probes the gateways of this VPC every 100 ms, and spreads its flows over those that can carry them.

One loop, one process, root (it programs the kernel's routes). Nothing that passes through the router passes through
this process: it may end, and the kernel goes on with the last set. So SIGTERM leaves all of it there; `fwd router
clear` takes it away. SIGHUP reads the configuration anew; one that cannot be used changes nothing.

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
from pathlib import Path
from typing import Any, Final

from fwd.files import read_probe_key
from fwd.model.router import RouterConfig, load_router
from fwd.proto.errors import UserError
from fwd.proto.logged import event
from fwd.proto.probe import NONCE_BYTES, decode_answer, encode_request
from fwd.router.kernel import State, state_of, steps
from fwd.router.nexthop import NextHops
from fwd.router.reach import EVERY_S, HITS, LATE_S, MISSES, Reach
from fwd.router.show import shown
from fwd.router.tables import Tables, carry_out
from fwd.supervise.loglines import formatter
from fwd.supervise.netlink import Changes, Kernel

RECONCILE_S: Final = 1.0
FIRST_S: Final = EVERY_S * (HITS + MISSES + 1)  # until every gateway has been judged
_ANSWERS_MAX: Final = 1024  # taken at once
_DATAGRAM_BYTES: Final = 2048
_CLIENTS: Final = 16
_CLIENT_S: Final = 0.05
log = logging.getLogger(__name__)


class Service:
    """See the module."""

    def __init__(self, path: Path, config: RouterConfig, key: bytes) -> None:
        self._path, self._config, self._key = path, config, key
        self._kernel = Kernel()
        self._tables = Tables(config, NextHops(), self._kernel.addresses)
        self._reaches: dict[str, Reach] = {}
        self._probes = {version: _probing(family) for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6))}
        self._changes = Changes()
        self._door = _door(config.router.control)
        self._wake, self._bell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stopping = self._reloading = False
        self._late = 0
        self._judges_at = time.monotonic() + FIRST_S
        self._asked_at = self._reconciled_at = float("-inf")
        self._poll = select.poll()
        for fd in (self._wake, self._changes.fd, self._door.fileno(), *(one.fileno() for one in self._probes.values())):
            self._poll.register(fd, select.POLLIN)
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
        if self._door.fileno() in ready:
            self._serve()

    # -- probes -----------------------------------------------------------------------------------------------------

    def _ask(self, now: float) -> None:
        """Send a probe to each gateway; if this loop was late, what is unanswered counts for nothing."""
        late = now - self._asked_at > EVERY_S + LATE_S and self._asked_at > 0
        self._asked_at = now
        self._late += late
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
        names = {str(address): name for name, address in self._addresses.items()}
        for _ in range(_ANSWERS_MAX):
            try:
                data, source = sock.recvfrom(_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except OSError:  # an ICMP error for an earlier probe: silence says the same
                continue
            name = names.get(source[0])
            answer = decode_answer(data, self._key)
            if name is None or answer is None or not self._reaches[name].hear(answer, now):
                self._strange += 1

    def _know_gateways(self) -> None:
        """Probe each gateway at one address, whichever spreads it serves."""
        self._strange = 0
        self._addresses = {hop.name: hop.addresses[0] for one in self._config.spread for hop in one.gateway}
        self._reaches = {name: self._reaches.get(name) or Reach() for name in self._addresses}

    # -- the user ---------------------------------------------------------------------------------------------------

    def _reload(self) -> None:
        try:
            config = load_router(self._path)
            key = read_probe_key(config.router.probe_key)
        except UserError as error:
            log.error("the configuration is not taken: %s", error, extra=event("router.reload_failed"))
            return
        if config.router.control != self._config.router.control:
            log.error("router.control holds from the next start on", extra=event("router.reload_failed"))
        self._config, self._key = config, key
        self._know_gateways()
        self._tables.change(config)
        self._reconciled_at = float("-inf")
        log.info("the configuration is in force", extra=event("router.reloaded"))

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
        return shown(self._tables.places, self._reaches, self._tables.troubles, self._late, time.monotonic())

    def _on_hup(self, *_: object) -> None:
        self._reloading = True

    def _on_stop(self, *_: object) -> None:
        self._stopping = True


def run(path: Path) -> None:
    """Be the router until SIGTERM or SIGINT. Raises UserError."""
    config = load_router(path)
    key = read_probe_key(config.router.probe_key)
    if os.geteuid() != 0:
        raise UserError("a router programs the kernel's routes: run it as root")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter("text", sys.stderr.fileno()))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    Service(path, config, key).run()


def clear() -> None:
    """Take away all routes, groups and next hops that routers have made."""
    hops = NextHops()
    for step in steps(State(), state_of(hops.owned(), hops.ways())):
        carry_out(hops, step)


def _probing(family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    sock.bind(("", 0))
    return sock


def _door(path: Path) -> socket.socket:
    """The socket on which the router tells its state. Raises UserError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    with contextlib.suppress(ConnectionRefusedError, FileNotFoundError), socket.socket(socket.AF_UNIX) as other:
        other.connect(str(path))
        raise UserError(f"{path}: another router runs here: end it, or give this one another router.control")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        sock.bind(str(path))
        path.chmod(0o660)
    except OSError as error:
        raise UserError(f"{path}: cannot listen here: {error.strerror}") from None
    sock.listen(_CLIENTS)
    return sock

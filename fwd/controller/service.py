"""`fwd controller`: one process, one loop: leads, judges its hosts each second, and answers over HTTPS.

It needs no root, and no packet passes through it. SIGTERM and SIGINT end it: it gives up leading at once, so that
another one need not wait, and hosts go on with what they have.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import signal
import socket
import ssl
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import uvicorn

from fwd.controller import audit, keys, spawn, tokens
from fwd.controller import config as configuration
from fwd.controller.acts import Acts, Rules
from fwd.controller.api.app import application
from fwd.controller.control import Control
from fwd.controller.desk import Asked, Desk, LeaderlessError
from fwd.controller.door import Door
from fwd.controller.history import History
from fwd.controller.page.facts import facts_of
from fwd.controller.page.replay import states_in
from fwd.controller.restarts import Restarts
from fwd.controller.store import ConflictError, NotLeaderError, StoreError
from fwd.controller.tls import PeerProtocol, Server
from fwd.controller.upgrades import Upgrades
from fwd.controller.webhook import Receiver, Webhook
from fwd.proto.errors import UserError
from fwd.proto.logged import event
from fwd.supervise.loglines import formatter

TURN_S: Final = 1.0
_SOON_S: Final = 0.25  # between two judgements, whatever hosts say
STOP_S: Final = 2
_CONNECTIONS_MAX: Final = 2048
_DESCRIPTORS: Final = 2 * _CONNECTIONS_MAX
_ADMIN: Final = "admin"
_LISTENS: Final = {
    errno.EADDRINUSE: ": is another controller running?",
    errno.EADDRNOTAVAIL: ": this host has no such address",
    errno.EACCES: ": take a port from 1024 on, or give it CAP_NET_BIND_SERVICE",
}
_TROUBLES: Final = (StoreError, NotLeaderError, LeaderlessError, ConflictError, UserError)
log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """uvicorn's, which leaves signals alone, and has a door of ours."""

    door: Door | None = None

    def open(self, sock: socket.socket, context: ssl.SSLContext) -> Door:
        """Have connections come by a socket, from the start of the server on."""
        self.door = Door(sock, context, self._protocol)
        return self.door

    def _protocol(self) -> asyncio.Protocol:
        return PeerProtocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])
        assert self.door is not None
        self._taking = asyncio.create_task(self.door.run())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._taking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._taking
        await super().shutdown([])

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Service:
    """See the module."""

    def __init__(
        self, config: configuration.ControllerConfig, control: Control, tls: Server, hook: Receiver | None = None
    ) -> None:
        self._config, self._control, self._tls = config, control, tls
        self._who = control.who = f"{socket.gethostname()}:{os.getpid()}"
        self._trouble = ""
        self._first: tokens.Token | None = None  # an admin's, which is in no store yet
        about = config.controller
        rules = Rules(about.restart_command, about.restart_limit, about.restart_wait, about.restart_timeout)
        self._acts = Acts(control, rules)
        self._upgrades = Upgrades(control, self._acts, about.upgrade_command, about.upgrade_timeout)
        self._restarts = Restarts(control, self._acts)
        control.upgrading, control.restarting = self._upgrades, self._restarts
        self._hook = Webhook(hook, self._about) if hook is not None else None
        if self._hook is not None:
            control.happened.listeners.append(self._hook.put)
            control.webhook = self._hook
        self._history = History(control, self._hook)
        self._server = _Server(_uvicorn_config(control))

    async def run(self, door: socket.socket) -> None:
        """Work until `stop`."""
        # Hosts are judged beside what waits for the store: one that hangs would leave the last word of each standing.
        turning = [
            asyncio.create_task(_again_and_again(self.turn, lambda: asyncio.sleep(TURN_S))),
            asyncio.create_task(_again_and_again(self.judge, self._until_due)),
        ]
        telling = asyncio.create_task(self._hook.run()) if self._hook is not None else None
        try:
            self._control.door = self._server.open(door, self._tls.context)
            await self._server.serve()
        finally:
            # First all that begins something.
            await _ended(*turning)
            await self._upgrades.close()
            await self._restarts.close()
            await self._acts.close()

            # Last what tells of it, and the store.
            if self._hook is not None and telling is not None:
                await self._hook.flush()
                await _ended(telling)
            with contextlib.suppress(*_TROUBLES):
                await self._history.turn()
            await self._control.desk.store.close()
        log.info("the controller ends; hosts go on with what they have", extra=event("controller.stopped"))

    def _about(self) -> dict[str, Any]:
        return {"cluster_id": self._control.desk.cluster_id}

    def stop(self) -> None:
        """End streams and the server."""
        self._control.stopping = True
        self._control.desk.wake()
        self._server.should_exit = True

    async def judge(self) -> None:
        """Judge all hosts, and note how everything is."""
        self._control.turn()
        if self._control.desk.term is None:
            return
        if self._control.past.note(states_in(facts_of(self._control)), self._control.wall()):
            self._control.states.tell()

    async def _until_due(self) -> None:
        """Wait until hosts are to be judged anew: a second, or less if one has told what others go by."""
        known = self._control.hurry.number
        await asyncio.sleep(_SOON_S)
        await self._control.hurry.wait(TURN_S - _SOON_S, known)

    async def turn(self) -> None:
        """Lead, or try to, and go on with what is under way; what fails is tried again the next time."""
        try:
            await self._lead()
            self._tls.renew(self._control.wall())
            trouble = ""
        except _TROUBLES as error:
            trouble = str(error) or "another controller leads"
        others = self._control.end_rekeys, self._history.turn
        for act in (self._acts.turn, self._restarts.turn, self._upgrades.turn, *others):
            try:
                await act()
            except _TROUBLES as error:
                trouble = trouble or str(error) or "another controller leads"
        self._tell(trouble)

    async def _lead(self) -> None:
        desk = self._control.desk
        if desk.term is not None:
            if not await desk.renew():
                log.warning("leads no more", extra=event("controller.follows"))
            else:
                await self._know_an_admin()  # if that has failed before
                await desk.refresh()
        elif await desk.lead(self._who):
            # What was heard under another term is no evidence any more.
            self._control.begin()
            self._control.happened.term = desk.term or 0
            log.info("leads, in term %d", desk.term, extra=event("controller.leads", term=desk.term))
            await self._history.begin()
            await self._know_an_admin()
        else:
            await desk.follow()
        self._control.leader = self._who if desk.term is not None else await desk.store.leader()

    async def _know_an_admin(self) -> None:
        """Have an admin's bearer token if there is none yet: its text is in the state directory."""
        desk, path = self._control.desk, self._config.controller.state / keys.ADMIN_TOKEN
        if any(one.role == "admin" for one in desk.records.tokens.values()):
            return

        # Of a store that is empty by mistake, the token is wanted again once it is put back; what could not be kept in
        # this store is tried again with the same token, which takes no other one's place.
        if self._first is None:
            text, made = tokens.new_bearer_token("admin", self._control.wall(), _ADMIN)
            if path.exists():
                path.replace(path.with_name(f"{path.name}.before"))
            keys.write(path, f"{text}\n".encode())
            self._first = made
        await desk.put_token(Asked("controller", "create", "token", _ADMIN, self._control.wall()), self._first)
        self._first = None

    def _tell(self, trouble: str) -> None:
        """Log what is wrong when it begins, or is another."""
        if trouble and trouble != self._trouble:
            log.error("%s: it is tried again", trouble, extra=event("controller.trouble", reason=trouble))
        self._trouble = trouble


async def _again_and_again(act: Callable[[], Awaitable[None]], pause: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await act()
        except Exception:  # whatever it is, the next turn may do without it
            log.exception("a turn of the controller has failed", extra=event("controller.fault"))
        await pause()


async def _ended(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def run(path: Path, log_format: str) -> None:
    """Be a controller until SIGTERM or SIGINT. Raises UserError."""
    config = configuration.load(path)
    for key in ("restart_command", "upgrade_command"):
        if why := spawn.why_not_executable(getattr(config.controller, key)):
            raise UserError(f"{path}: controller.{key}: {why}")
    keys.open_state(config.controller.state)
    _raise_descriptors()
    asyncio.run(_run(config, log_format))


def _raise_descriptors() -> None:
    """Have a descriptor for each connection, if this process may; else it has fewer connections."""
    some, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if some == resource.RLIM_INFINITY or some >= _DESCRIPTORS:
        return
    enough = _DESCRIPTORS if most == resource.RLIM_INFINITY else min(most, _DESCRIPTORS)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, most))


async def _run(config: configuration.ControllerConfig, log_format: str) -> None:
    state = config.controller.state
    control = Control(
        Desk(configuration.store_of(config), keys.load(state, time.time()), config.controller.certificate_lifetime),
        url=config.controller.url,
    )
    hook = configuration.receiver_of(config)
    tls = Server(state, control.desk.keys, config.controller.server_names, time.time())
    door = _door(config.controller.listen)
    keys.write(state / keys.CLIENT, _client(config).encode())
    keys.note_told(state, control.desk.keys)

    if config.controller.audit_log is not None:
        audit.write_to(config.controller.audit_log)

    # From here on what is wrong is logged, and tried again.
    _log_as(log_format)
    log.info("listens on %s", config.controller.listen, extra=event("controller.started", url=config.controller.url))
    service, loop = Service(config, control, tls, hook), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.stop)
    await service.run(door)


def _log_as(log_format: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter("json" if log_format == "json" else "text", sys.stderr.fileno()))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in ("httpx", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _client(config: configuration.ControllerConfig) -> str:
    """By which the command line on this host finds the controller (fwd/objects/client.py)."""
    state = config.controller.state
    lines = {"url": config.controller.url, "ca": state / keys.CA_PEM, "token_file": state / keys.ADMIN_TOKEN}
    return "".join(f'{name} = "{value}"\n' for name, value in lines.items())


def _uvicorn_config(control: Control) -> uvicorn.Config:
    return uvicorn.Config(
        application(control), http=PeerProtocol, ws="none", lifespan="off", log_config=None, access_log=False,
        server_header=False, proxy_headers=False, log_level="error", timeout_keep_alive=15,
        limit_concurrency=_CONNECTIONS_MAX, timeout_graceful_shutdown=STOP_S,
    )  # fmt: skip


def _door(listen: str) -> socket.socket:
    """The socket on which the controller listens. Raises UserError."""
    host, _, port = listen.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host.strip("[]"), int(port)))
        sock.listen(1024)
    except OSError as error:
        hint = _LISTENS.get(error.errno or 0, "")
        raise UserError(f"{listen}: cannot listen here: {error.strerror}{hint}") from None
    return sock

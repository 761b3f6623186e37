"""A router's link to its controller, and what comes of that: the shell around joined.py.

Link is a child process with a user of its own and a system call filter, as a gateway's is (fwd/link): it speaks HTTPS,
and has neither the kernel's routes nor a socket of the router's. What it hands over a second child looks at, without
rights either, which lives no longer than that. Neither is waited for while the router routes.
"""

from __future__ import annotations

import json
import logging
import selectors
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from fwd import __version__
from fwd.agent.controller import controller_of
from fwd.datapath.memory import Memory
from fwd.datapath.shared import GatewayShared, ProcessState
from fwd.model.config import admin_path
from fwd.model.router import RouterConfig
from fwd.proto.logged import event
from fwd.router.joined import JoinedRouter
from fwd.supervise import logs, policy
from fwd.supervise.admin import Admin, RefusedError, Request
from fwd.supervise.children import Child, Main, try_users
from fwd.supervise.sockets import listen_admin
from fwd.supervise.users import find_users

ACCEPT: Final = "accept-shrink"
_MEMORIES: Final = ("supervisor", "agent", "link")  # of a gateway's, those that a router needs
_SUMMARY_S: Final = 0.2
TROUBLE_S: Final = 10.0  # between two lines that tell of one
log = logging.getLogger(__name__)


class Linked:
    """See the module. `local`: the local file's configuration, `follow`: is called when what is wanted is another."""

    def __init__(
        self, directory: Path, control: Path, local: Callable[[], RouterConfig], follow: Callable[[], None]
    ) -> None:
        """Read what is kept, and take it. Raises UserError."""
        users = find_users(None, joined=True)
        self._user = users["link"]
        try_users({kind: users[kind] for kind in ("keyd", "link")})
        self._follow = follow
        self._memory = Memory({name: GatewayShared.SIZES[name] for name in _MEMORIES})
        self._shared = GatewayShared(self._memory.map("supervisor"))
        self._summary = GatewayShared({"agent": self._memory.regions["agent"].map("write")}).summary
        self._joined = JoinedRouter(directory, local, self._changed, self._memory, users["keyd"], users["agent"])

        # Who asks for something, and the child.
        self._selector = selectors.DefaultSelector()
        self._admin = Admin(listen_admin(admin_path(control)), self._selector, self._obey)
        self._logs = logs.Inbox()
        self._link = Child("link", self._shared.link, set, self._main)
        self._link.life.state = ProcessState.BACKOFF
        self._logs.add(self._link.log)
        self._told: Mapping[str, Any] | None = None
        self._turned_at = self._forgiven_at = self._summed_at = 0.0
        self._troubled_at = float("-inf")
        self._joined.begin()

    @property
    def fds(self) -> tuple[int, ...]:
        """What is readable when there is something to do."""
        return self._selector.fileno(), self._logs.fileno()

    def beside(self, local: RouterConfig) -> RouterConfig:
        """Return a local configuration with what the controller wants beside it. Raises UserError."""
        return self._joined.beside(local)

    def look_again(self) -> None:
        """Examine what was refused once more: the local file is another."""
        self._joined.look_again()

    @property
    def reasons(self) -> list[str]:
        """Why the router is not ready, if what is kept is not in force."""
        return self._joined.reasons

    def shown(self, now: float) -> dict[str, Any]:
        """How it stands with the controller."""
        found = controller_of(self._shared, {"controller": self._joined.told}, now)
        assert found is not None
        return asdict(found)

    def turn(self, now: float, summary: Callable[[], dict[str, Any]]) -> None:
        """Look after the child, and go on with what has come of it; `summary`: what the controller is told.

        Whatever goes wrong with that, such as a want of memory for a fork, keeps no router from routing.
        """
        try:
            self._turn(now, summary)
        except Exception:
            if now >= self._troubled_at + TROUBLE_S:
                self._troubled_at = now
                log.exception("the controller's part fails, and goes on", extra=event("router.trouble"))

    def _turn(self, now: float, summary: Callable[[], dict[str, Any]]) -> None:
        if now - self._turned_at > policy.OVERSLEPT_S:
            self._forgiven_at = now
        self._turned_at = now
        self._shared.beat()
        for key, _ in self._selector.select(0):
            self._wakened(key, now)
        if self._link.tend(self._forgiven_at, now):
            self._link.start(self._user, now, self._watch)
        self._logs.read(now)
        self._admin.turn(now)
        self._joined.turn(now)

        # What link is told: where the controller is, what became of its documents, how the router is.
        if self._joined.told != self._told:
            self._told = self._joined.told
            self._shared.troubles.put(json.dumps({"controller": self._told}).encode())
        if now >= self._summed_at + _SUMMARY_S:
            self._summed_at = now
            self._summary.put(json.dumps(summary()).encode())

    def close(self) -> None:
        """End the children."""
        self._joined.close()
        self._admin.close()
        if self._link.process is not None:
            self._link.process.kill()
            self._link.process.join()

    def _wakened(self, key: selectors.SelectorKey, now: float) -> None:
        if key.data is not self._link:
            key.data.wake()
            return
        self._selector.unregister(key.fd)
        self._link.log.finish(now)
        self._link.reap(now)
        self._link.forget()

    def _watch(self, pidfd: int) -> None:
        self._selector.register(pidfd, selectors.EVENT_READ, self._link)

    def _main(self, child: Child) -> Main:
        # What TLS and HTTP need is loaded here alone.
        from fwd.link import service

        shared = GatewayShared(self._memory.map("link"))
        parts = service.parts_of(self._joined.directory, shared, __version__)
        return lambda: service.run(parts)

    def _changed(self, certified: bool) -> None:
        """Follow what is wanted now; link begins anew with another certificate."""
        if certified:
            self._link.replace(time.monotonic())
        self._follow()

    def _obey(self, request: Request) -> Iterator[dict[str, Any] | None]:
        if request.command != ACCEPT:
            raise RefusedError(f"unknown command; known: {ACCEPT}")
        return self._joined.accept()

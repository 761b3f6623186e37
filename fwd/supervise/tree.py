"""The process tree: which processes there are to be, what each inherits, and how they end.

The supervisor's loop decides when each is started, and watches it (policy.py).
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from fwd import __version__
from fwd.agent import beacon
from fwd.agent import service as agent
from fwd.agent.view import GatewayView
from fwd.datapath.shared import GatewayShared, ProcessState
from fwd.keyd import service as keyd
from fwd.link.directory import Directory
from fwd.supervise import logs
from fwd.supervise.children import Child, Main
from fwd.supervise.members import Members
from fwd.supervise.peering import PeeringParts
from fwd.supervise.standing import Standing
from fwd.supervise.telling import Tellers
from fwd.supervise.users import Users
from fwd.supervise.work import Work

_STOP_WAIT_S: Final = 2.0


class Tree:
    """A slot for every process of what `standing` has open; `joined`: link's directory, if it has a controller."""

    def __init__(
        self,
        standing: Standing,
        tellers: Tellers,
        selector: selectors.BaseSelector,
        inbox: logs.Inbox,
        users: Users,
        joined: Directory | None = None,
    ) -> None:
        self.children: dict[str, Child] = {}
        self.work = Work()
        self.members = Members(self.children, self.end, standing.has_changed, lambda: tellers.done)
        self._standing = standing
        self._tellers = tellers
        self._selector = selector
        self._logs = inbox
        self._users = users
        self._joined = joined
        self._started_ns = time.monotonic_ns()

    # -- who there is to be -------------------------------------------------------------------------------------------

    def grow(self) -> None:
        """Add a slot for every process there is to be; those that are there already are left alone."""
        shared = self._standing.shared
        for parts in self._standing.peerings.values():
            name = parts.peering.name
            self.add(f"{name}/demux", partial(self._demux, parts))
            for i in range(parts.count):
                self.add(f"{name}/member-{i}", partial(self._member, parts, i))
        self.add("keyd", lambda: Child("keyd", shared.keyd, self._keyd_fds, self._keyd_main))
        self.add("agent", lambda: Child("agent", shared.agent, self._agent_fds, self._agent_main, self._agent_inputs))
        if self._standing.beacon is not None:
            fds, inputs = self._beacon_fds, self._beacon_inputs
            self.add("beacon", lambda: Child("beacon", shared.beacon, fds, self._beacon_main, inputs))
        if self._joined is not None:
            self.add("link", lambda: Child("link", shared.link, set, self._link_main))

    def add(self, name: str, make: Callable[[], Child]) -> None:
        """Add a slot, unless there is one of that name."""
        if name in self.children:
            return
        child = make()
        child.life.state = ProcessState.BACKOFF
        self._logs.add(child.log)
        self.children[name] = child
        self.work.changed()

    def of(self, peering: str) -> list[Child]:
        """Return the processes of a peering."""
        return [child for child in self.children.values() if child.peering == peering]

    def start(self, child: Child, now: float) -> None:
        """Fork a process; the predecessor has been reaped. Raises whatever it was refused with."""
        self.unwatch(child)
        self._tellers.renew(child.name)
        if child.kind == "demux":
            self.members.renew(self._standing.peerings[child.peering])
        user = self._users[child.kind]
        child.start(user, now, lambda fd: self._selector.register(fd, selectors.EVENT_READ, child))

    # -- what each inherits -------------------------------------------------------------------------------------------

    def _demux(self, parts: PeeringParts) -> Child:
        name, words, rings = f"{parts.peering.name}/demux", parts.shared.demux, self.members.of(parts).rings
        fds = lambda: {*parts.demux_fds(), rings.channel().fileno()}  # noqa: E731
        return Child(name, words, fds, lambda child: parts.demux(rings.channel()), parts.demux_inputs)

    def _member(self, parts: PeeringParts, index: int) -> Child:
        shared = parts.shared.members[index]
        return Child(
            f"{parts.peering.name}/member-{index}",
            shared.process,
            lambda: parts.member_fds(index),
            lambda child: parts.member(index, skip=child.life.failed),
            partial(parts.member_inputs, index),
            lambda: shared.has_begun,  # until it has keys, what comes for it has to wait
            lambda: set() if parts.queues.steered else {parts.tun.fd},  # what hosts send comes there for all members
        )

    def _keyd_fds(self) -> set[int]:
        standing = self._standing
        fds = {sock.fileno() for sock in standing.ike_served().values()}
        fds |= {standing.key_log} if standing.key_log is not None else set()
        for parts in standing.served().values():
            fds |= set(parts.material.fds.values())
            for pair in parts.served_pairs():
                fds |= set(pair.for_keyd().values())
        return fds | {self._tellers.channel("keyd").fileno()}

    def _keyd_main(self, child: Child) -> Main:
        standing = self._standing
        shared = GatewayShared(standing.memory.map("keyd"))
        peerings = [parts.keyd() for parts in standing.served().values()]
        ike_sockets = list(standing.ike_served().values())
        parts = keyd.KeydParts(shared, peerings, ike_sockets, standing.key_log, self._tellers.channel("keyd"))
        return lambda: keyd.run(parts)

    def _agent_fds(self) -> set[int]:
        standing = self._standing
        socks = (standing.control, standing.metrics, self._tellers.channel("agent"))
        return {sock.fileno() for sock in socks if sock}

    def _agent_inputs(self) -> set[int]:
        return {sock.fileno() for sock in (self._standing.control, self._standing.metrics) if sock}

    def _agent_main(self, child: Child) -> Main:
        control, metrics = self._standing.control, self._standing.metrics
        assert control is not None
        view, channel = self._view("agent"), self._tellers.channel("agent")
        return lambda: agent.run(view, control, metrics, channel)

    def _view(self, process: str) -> GatewayView:
        standing = self._standing
        shared = GatewayShared(standing.memory.map(process))
        peerings = [parts.view(process) for parts in standing.served().values()]
        users = {kind: uid for kind, (uid, _) in self._users.items()}
        return GatewayView(standing.gateway, shared, peerings, os.getppid(), self._started_ns, users)

    def _beacon_fds(self) -> set[int]:
        return {*self._beacon_inputs(), self._tellers.channel("beacon").fileno()}

    def _beacon_inputs(self) -> set[int]:
        front = self._standing.beacon
        return {front.sock.fileno()} if front is not None else set()

    def _beacon_main(self, child: Child) -> Main:
        front = self._standing.beacon
        assert front is not None
        sock, key = front.sock, front.key()
        view, channel = self._view("beacon"), self._tellers.channel("beacon")
        return lambda: beacon.run(view, sock, key, channel)

    def _link_main(self, child: Child) -> Main:
        # What TLS and HTTP need is loaded here alone.
        from fwd.link import service as link

        assert self._joined is not None
        parts = link.parts_of(self._joined, GatewayShared(self._standing.memory.map("link")), __version__)
        return lambda: link.run(parts)

    # -- how they end -------------------------------------------------------------------------------------------------

    def unwatch(self, child: Child) -> None:
        """Forget the descriptors of a process that is gone."""
        with contextlib.suppress(KeyError, ValueError):  # not registered, or not yet
            self._selector.unregister(child.pidfd)
        child.forget()

    def end(self, children: list[Child]) -> None:
        """SIGTERM, wait, SIGKILL, reap; their slots go. What went wrong half-way can be done again."""
        running = [c for c in children if c.process is not None]
        for child in running:
            child.signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_WAIT_S
        for child in running:
            poll = select.poll()
            poll.register(child.pidfd, select.POLLIN)
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                child.signal(signal.SIGKILL)
        for child in children:
            self._drop(child)

    def follow_front(self, agents: object, beacons: object, now: float) -> None:
        """Replace the agent and the beacon if what they inherit is another than these, which they were given."""
        standing = self._standing
        if standing.metrics is not agents:
            self.children["agent"].replace(now)
        if standing.beacon is not beacons and (child := self.children.get("beacon")) is not None:
            if standing.beacon is None:
                self.end([child])
                standing.shared.beacon.put(ProcessState.STOPPED, 0, 0, 0, 0)
            else:
                child.replace(now)

    def renew_link(self, now: float) -> None:
        """Have link begin anew, with what is in its directory now."""
        if (child := self.children.get("link")) is not None:
            child.replace(now)

    def end_peering(self, name: str) -> None:
        """End all processes of a peering."""
        self.end(self.of(name))

    def _drop(self, child: Child) -> None:
        if child.process is not None:
            child.process.join()
            child.process = None
        self.unwatch(child)
        if child.log.near.fileno() >= 0:
            child.log.finish(time.monotonic())
            self._logs.remove(child.log)
        child.close()
        del self.children[child.name]
        self.work.changed()

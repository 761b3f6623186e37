"""What the supervisor tells keyd while it runs (datapath/channel.py): peerings that come, change and go, IKE's sockets,
and what users want of a peering.

A peering comes in several notices: itself, then each of its members. It begins once it is complete.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from fwd.datapath.channel import ChannelError, Notice, hear
from fwd.datapath.shared import MemberShared, PeeringShared
from fwd.keyd.barrier import Barrier
from fwd.keyd.mailbox import KeydMember, KeydPeering
from fwd.model.config import Peering
from fwd.model.told import told_in
from fwd.proto.ike.events import Address

_NOTICES_MAX = 16  # in a turn


class Changing(Protocol):
    """Whoever carries it out."""

    def add(self, parts: KeydPeering, now: float) -> None:
        """Begin a peering."""

    def remove(self, name: str, now: float) -> None:
        """End a peering, and tell its peer."""

    def add_member(self, name: str, index: int, member: KeydMember, now: float) -> None:
        """Negotiate for one member more."""

    def drop_member(self, name: str, index: int, now: float) -> None:
        """Delete the SAs of a peering's last member, and forget it."""

    def change(self, peering: Peering, fds: dict[str, int], now: float) -> None:
        """Take other parameters, and other secrets if there are descriptors, for what comes next."""

    def obey(self, name: str, command: str, now: float) -> None:
        """Do what a user wants of a peering."""

    def change_sockets(self, close: Iterable[Address], opened: Iterable[socket.socket]) -> None:
        """Listen on other sockets for IKE."""


@dataclass
class _Opening:
    """A peering that is not complete yet."""

    notice: Notice
    peering: Peering
    maps: dict[str, memoryview]
    count: int  # of its members
    members: list[dict[str, int]] = field(default_factory=list)

    def close(self) -> None:
        for fd in (*self.notice.kept().values(), *(fd for fds in self.members for fd in fds.values())):
            os.close(fd)


class Changes:
    """Takes notices for `of`."""

    def __init__(self, channel: socket.socket, of: Changing) -> None:
        self.channel = channel
        self._of = of
        self._opening: dict[str, _Opening] = {}
        self._barrier = Barrier("changes")

    def hear(self, now: float) -> None:
        """Do what has been told. What goes wrong ends that attempt alone."""
        for _ in range(_NOTICES_MAX):
            try:
                if not hear(self.channel, lambda one: self._do(one, now)):
                    break
            except Exception as error:  # noqa: BLE001  other peerings are not to pay for it
                self._barrier.fault(error, now)

    def _do(self, notice: Notice, now: float) -> None:
        match notice.act:
            # A peering, and its members.
            case "open":
                self._drop(notice.peering)
                peering = told_in(notice.body)
                count = int(notice.body.get("members", peering.members))  # those that leave are still there
                self._opening[notice.peering] = _Opening(notice, peering, dict(notice.map("keyd")), count)
                self._begin_if_whole(notice.peering, now)
            case "member":
                self._add_member(notice, now)
            case "leave":
                self._of.drop_member(notice.peering, int(notice.body["index"]), now)
            case "close":
                self._drop(notice.peering)
                self._of.remove(notice.peering, now)
            case "change":
                self._of.change(told_in(notice.body), notice.kept(), now)

            # What a user wants, and IKE's sockets.
            case "command":
                self._of.obey(notice.peering, notice.body["command"], now)
            case "sockets":
                close = [(str(host), int(port)) for host, port in notice.body["close"]]
                opened = [_udp(fd, notice.body["open"][int(name)][0]) for name, fd in notice.fds.items()]
                self._of.change_sockets(close, opened)
            case other:
                raise ChannelError(f"keyd does not know how to {other}")

    def _add_member(self, notice: Notice, now: float) -> None:
        opening, index = self._opening.get(notice.peering), int(notice.body["index"])
        if opening is None:
            shared = MemberShared(notice.map("keyd"), index)
            self._of.add_member(notice.peering, index, _member(shared, notice.kept()), now)
            return
        opening.maps |= notice.map("keyd")
        opening.members.append(notice.kept())
        self._begin_if_whole(notice.peering, now)

    def _begin_if_whole(self, name: str, now: float) -> None:
        opening = self._opening[name]
        if len(opening.members) < opening.count:
            return
        del self._opening[name]
        shared = PeeringShared(opening.count, opening.maps)
        members = [_member(one, fds) for one, fds in zip(shared.members, opening.members, strict=True)]
        body, fds = opening.notice.body, opening.notice.kept()
        offloads, stopped = int(body["offloads"]["tun_flags"]), bool(body.get("stopped"))
        self._of.add(KeydPeering(opening.peering, fds, members, shared, offloads, stopped=stopped), now)

    def _drop(self, name: str) -> None:
        with contextlib.suppress(KeyError):
            self._opening.pop(name).close()


def _member(shared: MemberShared, fds: dict[str, int]) -> KeydMember:
    boot, boot_far, control, near, far = (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fds[name])
        for name in ("boot", "boot_far", "control", "memory", "memory_far")
    )
    return KeydMember(shared, boot, boot_far, control, (near, far))


def _udp(fd: int, host: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM, 0, fd)

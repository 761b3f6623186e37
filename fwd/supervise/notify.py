"""What fwd tells the service manager that started it (sd_notify(3)): ready, reloading, stopping, a line of status, and
that the supervisor's loop turns.

Ready is said once TUN devices, routes, leak guards and sockets are there and every process has been forked. It does not
wait for the far gateways: two that wait for each other would never start. How many members carry traffic is in the
status. Without NOTIFY_SOCKET nothing is sent; a manager that does not listen costs nothing but the message.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Final

from fwd.datapath.shared import LinkWord, MemberShared, PeeringShared, ProcessState

EVERY_S: Final = 1.0  # between two looks at the status
_SEND_S = 0.1  # far less than the watchdog's patience with the children


class ServiceManager:
    """The manager that `environ` names. The names are taken out of it: no child has anything to tell."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        watchdog_us = int(environ.pop("WATCHDOG_USEC", "0"))
        mine = environ.pop("WATCHDOG_PID", "") in ("", str(os.getpid()))
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._alive_every_s = watchdog_us / 2e6 if mine and watchdog_us else float("inf")
        self._ready = False
        self._status = ""
        self._look_at = self._alive_at = 0.0
        self._sock: socket.socket | None = None
        if address:
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._sock.settimeout(_SEND_S)

    def turn(self, now: float, status: Callable[[], str]) -> None:
        """The loop turns; the first turn, and the first after a reload, means ready.

        `status` is asked for once a second, and sent when it has changed.
        """
        if self._sock is None:
            return
        lines = [] if self._ready else ["READY=1"]
        if now >= self._look_at:
            self._look_at = now + EVERY_S
            if (text := status()) != self._status:
                self._status = text
                lines.append(f"STATUS={text}")
        if now >= self._alive_at:
            self._alive_at = now + self._alive_every_s
            lines.append("WATCHDOG=1")
        if self._send(*lines):
            self._ready = True
        else:  # it is said again: a manager that never hears it gives up
            self._status = ""

    def reloading(self) -> None:
        """The configuration is being read again; the next turn says that it has been."""
        self._ready = False
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1", "STATUS=")

    def close(self) -> None:
        """Nothing more will be said."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _send(self, *lines: str) -> bool:
        if self._sock is not None and lines:
            try:
                self._sock.sendto("\n".join(lines).encode(), self._address)
            except OSError:
                return False
        return True


def summary(peerings: Mapping[str, PeeringShared], waiting: Iterable[str] = (), behind: Iterable[str] = ()) -> str:
    """One line for `systemctl status`: how many members of each peering can send, and which are not as is wanted."""
    lines = [
        f"{name}: {sum(map(_sends, shared.members))} of {len(shared.members)} members send"
        for name, shared in peerings.items()
    ]
    lines += [f"{name}: not set up" for name in waiting]
    return ", ".join([*lines, *(f"{name}: not as configured, see fwd status" for name in behind)])


def _sends(member: MemberShared) -> bool:
    """It runs, has an SA, and its path is not known to be down."""
    running = member.process.get().state is ProcessState.RUNNING
    return running and bool(member.link[LinkWord.SPI_OUT]) and not member.path_down

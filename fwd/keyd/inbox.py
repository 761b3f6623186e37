"""IKE's sockets: datagrams come in fair turns and for a limited time, so that a flood on one delays nothing else."""

from __future__ import annotations

import contextlib
import socket
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from fwd.datapath.udp import KEEPALIVE
from fwd.proto.ike.events import Address, Datagram
from fwd.proto.ike.message import Header
from fwd.proto.ike.numbers import ProtocolError

READ_S: Final = 0.05  # for all sockets together, before timers and members get their turn
_TURN = 16  # datagrams of one socket before the next one's
_DATAGRAM_BYTES = 65536
_MARKER = bytes(4)


@dataclass(frozen=True)
class Message:
    """A datagram that has an IKE header."""

    header: Header
    data: bytes
    local: Address
    remote: Address


class Inbox:
    """All sockets. `marked`: where ESP comes, too, so that IKE is told by four zeros (RFC 3948 §2.2)."""

    def __init__(self, sockets: Sequence[socket.socket], marked: Collection[Address]) -> None:
        self._sockets: dict[Address, socket.socket] = {}
        self._addresses: dict[int, Address] = {}
        self.marked = marked
        for sock in sockets:
            self.add(sock)

    def fds(self) -> list[int]:
        """To wait for."""
        return list(self._addresses)

    def add(self, sock: socket.socket) -> int:
        """Listen on one more; returns its descriptor."""
        address: Address = sock.getsockname()[:2]
        self._sockets[address], self._addresses[sock.fileno()] = sock, address
        return sock.fileno()

    def fd(self, address: Address) -> int | None:
        """Return the descriptor of the socket of an address, if there is one."""
        sock = self._sockets.get(address)
        return None if sock is None else sock.fileno()

    def remove(self, address: Address) -> None:
        """Close the socket of an address. Whoever waits for it has let go of it."""
        sock = self._sockets.pop(address)
        del self._addresses[sock.fileno()]
        sock.close()

    def messages(self, readable: Iterable[int]) -> Iterator[Message]:
        """What has come on these descriptors, until nothing is left or READ_S is over."""
        until = time.monotonic() + READ_S
        waiting = deque(fd for fd in readable if fd in self._addresses)

        while waiting:
            fd = waiting.popleft()
            local = self._addresses[fd]

            # A socket gives so many, then it is the next one's turn.
            for _ in range(_TURN):
                if time.monotonic() >= until:
                    return
                try:
                    data, remote = self._sockets[local].recvfrom(_DATAGRAM_BYTES)
                except BlockingIOError:
                    break
                except OSError:
                    continue  # ICMP about something that we have sent

                # Where ESP comes, too, four zeros tell IKE from it.
                if local in self.marked:
                    if data[: len(_MARKER)] != _MARKER:
                        continue
                    data = data[len(_MARKER) :]
                with contextlib.suppress(ProtocolError):
                    yield Message(Header.decode(data), data, local, remote[:2])
            else:
                waiting.append(fd)

    def send(self, datagram: Datagram) -> None:
        """As good as lost if it cannot be: it is sent again."""
        marker = _MARKER if datagram.local in self.marked else b""
        self._send(marker + datagram.data, datagram.local, datagram.remote)

    def keep_alive(self, local: Address, remote: Address) -> None:
        """Keep a NAT's mapping of a port where ESP comes, too (RFC 3948 §2.3)."""
        if local in self.marked:
            self._send(KEEPALIVE, local, remote)

    def _send(self, data: bytes, local: Address, remote: Address) -> None:
        sock = self._sockets.get(local)
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.sendto(data, remote)

"""The controller's door: takes connections, and counts those whose TLS handshake is not done yet.

asyncio's own server knows of none before its handshake, and gives it a minute. Here each has HANDSHAKE_S; an address
has a few under way at a time, and of very many the oldest goes, so that a host, whose handshake takes milliseconds,
comes in through a crowd that waits. What has shaken hands is the protocol's (tls.py).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

from fwd.proto.logged import event

HANDSHAKE_S: Final = 5.0
HANDSHAKES_MAX: Final = 512
HANDSHAKES_EACH_MAX: Final = 128  # of an address, behind which a whole VPC may be
_AGAIN_S: Final = 0.1  # after a connection could not be taken: descriptors may be back by then
log = logging.getLogger(__name__)


def whence(address: str) -> str:
    """Return by what an address is counted: one of IPv6 by its subnet, of which everybody has all addresses."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        mapped = found.ipv4_mapped
        return str(mapped) if mapped else str(ip_network((found, 64), strict=False))
    return str(found)


@dataclass
class Door:
    """See the module. `counts`: connections that were refused, or whose handshake has failed."""

    sock: socket.socket
    context: ssl.SSLContext
    make: Callable[[], asyncio.Protocol]
    counts: Counter[str] = field(default_factory=Counter)
    _under_way: dict[asyncio.Task[None], str] = field(default_factory=dict)  # and whence; the oldest first

    @property
    def handshakes(self) -> int:
        """How many are under way."""
        return len(self._under_way)

    async def run(self) -> None:
        """Take connections until this is cancelled."""
        self.sock.setblocking(False)
        loop, trouble = asyncio.get_running_loop(), ""
        try:
            while True:
                try:
                    connection, address = await loop.sock_accept(self.sock)
                except OSError as error:
                    if trouble != (trouble := str(error.strerror)):
                        log.error("no connection can be taken: %s", trouble, extra=event("controller.trouble"))
                    await asyncio.sleep(_AGAIN_S)
                    continue
                trouble = ""
                self._take(connection, whence(address[0]))
                await asyncio.sleep(0)  # so it begins, and others have their turn
        finally:
            for task in self._under_way:
                task.cancel()
            self.sock.close()

    def _take(self, connection: socket.socket, where: str) -> None:
        """Let a connection shake hands, unless its address has too many that do."""
        if sum(one == where for one in self._under_way.values()) >= HANDSHAKES_EACH_MAX:
            self.counts["refused"] += 1
            connection.close()
            return
        if len(self._under_way) >= HANDSHAKES_MAX:
            oldest = next(iter(self._under_way))
            del self._under_way[oldest]
            oldest.cancel()
            self.counts["refused"] += 1
        task = asyncio.create_task(self._shake_hands(connection))
        self._under_way[task] = where
        task.add_done_callback(lambda task: self._under_way.pop(task, None))

    async def _shake_hands(self, connection: socket.socket) -> None:
        """Hand a connection to a protocol of its own, once its handshake is done; else it is closed."""
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self.make, connection, ssl=self.context, ssl_handshake_timeout=HANDSHAKE_S
            )
        except OSError:  # of TLS, and of time, among them
            self.counts["failed"] += 1

"""How long what a member receives may have lain in its socket, and whether the socket has lost some of it.

Behind what is of flows that go on with other members the far member says so (member.on_echo). Who has read its socket
all the time has delivered it before; who has not looks through all that lies there first. It may have been stopped,
anywhere between two runs of receives or among them; or it is so slow that it never finds its socket empty, and what
waits is more than it reads in UNREAD_S.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from array import array
from typing import Final, Protocol

from fwd.datapath.counters import MemberCounter
from fwd.proto.drops import DropReason

UNREAD_S: Final = 0.25  # a path is given up later (proto/pulse.py)
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("=9I")  # sock_diag(7): the first is the memory of what waits, the last what was dropped
_DATAGRAM_BYTES = 768  # of the kernel's memory, beside its octets: a small one takes no less
_IN_ESP = MemberCounter.IN_ESP.value
_IN_ESP_BYTES = MemberCounter.IN_ESP_BYTES.value


class HasOptions(Protocol):
    """A socket, as far as it is asked here."""

    def getsockopt(self, level: int, option: int, length: int, /) -> bytes:
        """Ask the kernel."""


class Unread:
    """Of the socket of one member, whose `counters` are up to date between runs of receives."""

    def __init__(self, sock: HasOptions, counters: array[int]) -> None:
        self._sock = sock
        self._counters = counters
        self.clock = time.monotonic
        self._read_at = float("-inf")  # what comes next may have lain there since
        self._from = float("-inf"), 0, 0  # since when it was not found empty, and what was received by then
        self._lost = counters[DropReason.SOCKET_OVERFLOW]  # datagrams, by what is received in time

    def is_late(self) -> bool:
        """Whether what was received just now may have lain there for long; ask before any of it is delivered."""
        now = self.clock()
        gap_s, self._read_at = now - self._read_at, now
        if gap_s >= UNREAD_S or (now - self._from[0] >= UNREAD_S and self._falls_behind(now)):
            return True
        self._lost = self._counters[DropReason.SOCKET_OVERFLOW]
        return False

    def found_empty(self) -> None:
        """Note that all was received."""
        self._from = self._read_at, self._counters[_IN_ESP], self._counters[_IN_ESP_BYTES]

    @property
    def times_ns(self) -> tuple[int, int]:
        """When it was read last, and when it was so to its end."""
        return int(max(-1.0, self._read_at) * 1e9), int(max(-1.0, self._from[0]) * 1e9)

    def follow(self, read_ns: int, empty: tuple[int, int, int] | None = None) -> None:
        """Note what others have read, none of it late, and that all was: when, and what had been received by then."""
        self._read_at = read_ns / 1e9
        self._lost = self._counters[DropReason.SOCKET_OVERFLOW]
        if empty is not None:
            self._from = empty[0] / 1e9, *empty[1:]

    def lost_some(self) -> bool:
        """Whether the socket has dropped datagrams since what was received was not late."""
        lost = self._meminfo()[8]
        grown = 0 < (lost - self._lost) & 0xFFFFFFFF < 2**31
        self._lost = lost
        return grown

    def _falls_behind(self, now: float) -> bool:
        """Whether more waits than is read in UNREAD_S; else what waits is younger, and the time counts from now."""
        counters = self._counters
        since, packets, octets = self._from
        self._from = now, counters[_IN_ESP], counters[_IN_ESP_BYTES]
        read = counters[_IN_ESP_BYTES] - octets + _DATAGRAM_BYTES * (counters[_IN_ESP] - packets)
        return self._meminfo()[0] * (now - since) > read * UNREAD_S

    def _meminfo(self) -> tuple[int, ...]:
        with contextlib.suppress(OSError):
            return _MEMINFO.unpack(self._sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))
        return (0,) * 8 + (self._lost,)

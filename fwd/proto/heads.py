"""Headers of the TCP super-packets of a burst, told a second time in a packet before it.

The first packet of a super-packet has the headers of all its segments: lost, it would cost all of them. So a member
whose far member misses packets repeats them. Both words are answers to an echo that nobody sent (echo.py), which a
receiver that does not know them passes over:

    misses    number 0, nothing behind it: packets of yours are missing here
    heads     number 0, and for each super-packet: how many packets on it begins (2), at which octet of that packet's
              data (2), how many octets follow (1), and its first octets, virtio header and headers

A receiver keeps few, whatever a peer sends; what it makes of them is judged as any record is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fwd.proto.ip import VNET_BYTES, ip_length
from fwd.proto.segments import rest_of, tcp_layout

TOLD: Final = 0  # the number of both words; an echo's own numbers begin with 1
HEAD_MAX: Final = 160  # octets of a super-packet in which its headers are, if they are to be repeated
_ENTRY_BYTES: Final = 5
_KEPT_MAX: Final = 16


def entry(packets_on: int, offset: int, start: bytes) -> bytes:
    """Return what tells of a super-packet that begins with `start`; nothing if it is none, or its headers are long."""
    header, _ = tcp_layout(start)
    if not header:
        return b""
    return packets_on.to_bytes(2, "big") + offset.to_bytes(2, "big") + bytes([header]) + start[:header]


def entries(octets: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Read what was told: how many packets on, at which octet, and the headers. It ends where it makes no sense."""
    at = 0
    while len(octets) - at > _ENTRY_BYTES:
        end = at + _ENTRY_BYTES + octets[at + 4]
        head = octets[at + _ENTRY_BYTES : end]
        if end > len(octets) or tcp_layout(head)[0] != len(head):
            return
        yield int.from_bytes(octets[at : at + 2], "big"), int.from_bytes(octets[at + 2 : at + 4], "big"), head
        at = end


class Heads:
    """What was told last of an SA's super-packets, by the packet in which each begins."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[int, bytes]] = {}

    def take(self, number: int, octets: bytes) -> None:
        """Keep what packet `number` tells, in place of what was told before."""
        self._kept.clear()
        for packets_on, offset, head in entries(octets):
            if packets_on and len(self._kept) < _KEPT_MAX:
                self._kept[number + packets_on] = offset, head

    def rest(self, top: int, missed: int, chunk: int, block_offset: int, room: int) -> tuple[int, bytes]:
        """Return what `rest_of` does for the super-packet that begins in one of the `missed` packets behind `top`.

        It goes on in the packet behind those, which has `block_offset` octets of it. Before that there is `room` for
        headers; where it does not suffice, a segment more is passed over. All packets have `chunk` octets of data.
        """
        behind = top + missed + 1
        for number, (offset, head) in self._kept.items():
            at = (behind - number) * chunk - offset
            if top < number < behind and at == VNET_BYTES + ip_length(head, VNET_BYTES) - block_offset:
                short = max(0, len(head) - room)
                skip, found = rest_of(head, at + short)
                return skip + short, found
        return 0, b""

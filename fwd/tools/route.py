"""What the kernel does with a flow, by its own word: RTM_GETROUTE with protocol and ports gives the hop it chooses.

A flow that comes in by a device is looked up as forwarded: a reverse path filter, or forwarding that is off, then shows
as an error. The kernel answers for TCP, UDP and ICMP alone.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from fwd.model.trace import ICMP
from fwd.proto.flow import TCP, UDP
from fwd.proto.sample import Address, Flow

PROTOCOLS: Final = frozenset({TCP, UDP, *ICMP.values()})

_GET_ROUTE, _ERROR, _REQUEST = 26, 2, 1
_DST, _SRC, _IIF, _OIF, _GATEWAY, _VIA, _IP_PROTO, _SPORT, _DPORT = 1, 2, 3, 4, 5, 18, 27, 28, 29
_LOCAL, _BLACKHOLE, _UNREACHABLE, _PROHIBIT = 2, 6, 7, 8
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_HEADER = struct.Struct("=IHHII")
_ROUTE = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK: Final = 0x3FFF
_ANSWER_S: Final = 5.0
_CODES: Final = {
    errno.EINVAL: "a blackhole route, or a source that no packet may have",
    errno.EHOSTUNREACH: "an unreachable route, or forwarding is off for that device",
    errno.EACCES: "a route that prohibits it",
    errno.ENETUNREACH: "no route",
    errno.EXDEV: "the reverse path filter: the source is not routed to that device (rp_filter)",
}
_KINDS: Final = {_BLACKHOLE: errno.EINVAL, _UNREACHABLE: errno.EHOSTUNREACH, _PROHIBIT: errno.EACCES}


@dataclass(frozen=True)
class Route:
    """Where the kernel sends a packet: by which device, to which neighbour (None: to the destination itself).

    `stopped`: why nowhere.
    """

    device: str = ""
    gateway: Address | None = None
    is_local: bool = False
    stopped: str = ""


def look_up(flow: Flow, device: str = "") -> Route:
    """Ask for the route of a flow that comes in by `device`; empty: it begins on this host. Raises OSError."""
    version = flow.source.version
    body = _ROUTE.pack(_FAMILIES[version], *(8 * len(flow.source.packed),) * 2, 0, 0, 0, 0, 0, 0)
    body += _packed(_DST, flow.destination.packed) + _packed(_SRC, flow.source.packed)
    body += _packed(_IP_PROTO, bytes([flow.protocol]))
    if flow.protocol in (TCP, UDP):
        body += _packed(_SPORT, struct.pack("!H", flow.source_port))
        body += _packed(_DPORT, struct.pack("!H", flow.destination_port))
    if device:
        body += _packed(_IIF, struct.pack("=I", socket.if_nametoindex(device)))
    return _asked(body)


def device_towards(address: Address) -> Route:
    """Ask by which device an address is reached: its packets come in by that. Raises OSError."""
    body = _ROUTE.pack(_FAMILIES[address.version], 8 * len(address.packed), 0, 0, 0, 0, 0, 0, 0)
    return _asked(body + _packed(_DST, address.packed))


def _asked(body: bytes) -> Route:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(_ANSWER_S)
        sock.bind((0, 0))
        sock.send(_HEADER.pack(_HEADER.size + len(body), _GET_ROUTE, _REQUEST, 1, 0) + body)
        data = sock.recv(1 << 16)
    return _read(data)


def _read(data: bytes) -> Route:
    """Read the kernel's answer."""
    length, kind, _, _, _ = _HEADER.unpack_from(data)
    if kind == _ERROR:
        (code,) = struct.unpack_from("=i", data, _HEADER.size)
        return Route(stopped=_CODES.get(-code, os.strerror(-code)))
    *_, of_type, _ = _ROUTE.unpack_from(data, _HEADER.size)
    if of_type in _KINDS:
        return Route(stopped=_CODES[_KINDS[of_type]])

    found = dict(_attributes(data[_HEADER.size + _ROUTE.size : length]))
    device = ""
    if _OIF in found:
        device = socket.if_indextoname(struct.unpack("=I", found[_OIF])[0])
    gateway = found.get(_GATEWAY) or found.get(_VIA, b"")[2:]
    return Route(device, ip_address(gateway) if gateway else None, is_local=of_type == _LOCAL)


def _packed(kind: int, data: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(data), kind) + data + bytes(-len(data) % 4)


def _attributes(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            break
        found.append((kind & _TYPE_MASK, data[_ATTRIBUTE.size : length]))
        data = data[length + -length % 4 :]
    return found

"""The kernel's next-hop objects, one a slot, the resilient groups of them, the routes that lead there, and the link
addresses that it has learned of gateways.

Makes and reads netlink messages (linux/nexthop.h, linux/rtnetlink.h): pyroute2 has no next hops. A group is made once;
then a slot's gateway is replaced in place, which leaves the table of the others as it is. What a router makes carries
its own route protocol: nothing of anybody else's is touched.

Refuses: gateways that are not on the link of the given device; that is the kernel's word, which the error carries.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

OWNER: Final = 0x66  # route protocol of a router of fwd's
FAMILY: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
LAST_METRIC: Final = 2**32 - 1
_FIRST_METRIC: Final = 1  # of IPv6; of IPv4 it is 0, and the first of these

_NEW_ROUTE, _DEL_ROUTE, _GET_ROUTE = 24, 25, 26
_DEL_NEIGHBOUR, _GET_NEIGHBOUR = 29, 30
_NEW_HOP, _DEL_HOP, _GET_HOP, _GET_BUCKET = 104, 105, 106, 118
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _REPLACE, _CREATE, _DUMP = 0x1, 0x4, 0x100, 0x400, 0x300
_SOL_NETLINK, _EXT_ACK, _STRICT = 270, 11, 12
_ID, _GROUP, _GROUP_TYPE, _OIF, _GATEWAY, _RES_GROUP, _RES_BUCKET = 1, 2, 3, 5, 6, 12, 13
_BUCKETS, _IDLE_TIMER, _UNBALANCED = 1, 2, 3
_INDEX, _IDLE_TIME, _HOP_ID = 1, 2, 3
_RESILIENT, _NESTED, _TYPE_MASK = 1, 0x8000, 0x3FFF
_ERROR_TEXT, _CAPPED = 1, 0x100
_TICK_S = 0.01
_ANSWER_S = 5.0
_READ_BYTES = 1 << 18

_DST, _PRIORITY, _NH_ID = 1, 6, 30
_MAIN_TABLE, _UNIVERSE, _UNICAST, _BLACKHOLE = 254, 0, 1, 6
_LEARNED = 0x02 | 0x04 | 0x08 | 0x10  # states of a neighbour: reachable, stale, delay, probe; not what a person has set

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")
_HOP = struct.Struct("=BBBBI")  # family, scope, protocol, reserved, flags
_MEMBER = struct.Struct("=IBBH")  # id, weight less 1, its high octet, reserved
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, lengths of both prefixes, TOS, table, protocol, scope, type, flags
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # family, device, state, flags, type


@dataclass(frozen=True)
class Target:
    """Where a slot's packets go: the index of a device and a neighbour on it."""

    device: int
    gateway: Address


Members = tuple[int, ...]  # of a group: ids of next hops


@dataclass(frozen=True)
class Bucket:
    """A row of a group's table: for how long it has carried nothing, and whose it is."""

    idle_s: float
    hop_id: int


@dataclass(frozen=True)
class Way:
    """A route of a router's: to a group, or nowhere (None), which comes last of all that lead there."""

    network: Network
    group: int | None


# -- messages ---------------------------------------------------------------------------------------------------------


def set_hop(number: int, identity: int, target: Target) -> bytes:
    """Make a next hop, or point the one that is there elsewhere."""
    version = target.gateway.version
    return _message(
        _NEW_HOP, _REPLACE | _CREATE | _ACK, number, FAMILY[version], OWNER,
        _packed(_ID, _u32(identity)), _packed(_OIF, _u32(target.device)), _packed(_GATEWAY, target.gateway.packed),
    )  # fmt: skip


def set_group(number: int, identity: int, members: Members) -> bytes:
    """Make a resilient group with a bucket for each member. The kernel moves nothing by itself: its timers are off."""
    timers = _packed(_BUCKETS, struct.pack("=H", len(members)))
    timers += _packed(_IDLE_TIMER, _u32(0)) + _packed(_UNBALANCED, _u32(0))
    return _message(
        _NEW_HOP, _REPLACE | _CREATE | _ACK, number, socket.AF_UNSPEC, OWNER,
        _packed(_ID, _u32(identity)), _packed(_GROUP, b"".join(_MEMBER.pack(one, 0, 0, 0) for one in members)),
        _packed(_GROUP_TYPE, struct.pack("=H", _RESILIENT)), _packed(_RES_GROUP | _NESTED, timers),
    )  # fmt: skip


def delete(number: int, identity: int) -> bytes:
    """Take a next hop or a group away; the kernel wants no protocol in the header here."""
    return _message(_DEL_HOP, _ACK, number, socket.AF_UNSPEC, 0, _packed(_ID, _u32(identity)))


def get_hops(number: int) -> bytes:
    """Ask for all next hops and groups."""
    return _message(_GET_HOP, _DUMP, number, socket.AF_UNSPEC, 0)


def get_buckets(number: int, group: int) -> bytes:
    """Ask for the table of a group."""
    return _message(_GET_BUCKET, _DUMP, number, socket.AF_UNSPEC, 0, _packed(_ID, _u32(group)))


def set_way(number: int, way: Way, *, gone: bool = False) -> bytes:
    """Make a route, before others' to the same network, which hold again without it; `gone`: take it away."""
    kind = _BLACKHOLE if way.group is None else _UNICAST
    family, length = FAMILY[way.network.version], way.network.prefixlen
    body = _ROUTE.pack(family, length, 0, 0, _MAIN_TABLE, OWNER, _UNIVERSE, kind, 0)
    body += _packed(_DST, way.network.network_address.packed)
    if way.group is None:
        body += _packed(_PRIORITY, _u32(LAST_METRIC))
    else:
        body += _packed(_NH_ID, _u32(way.group))
        body += _packed(_PRIORITY, _u32(_FIRST_METRIC)) if way.network.version == 6 and not gone else b""
    flags = _ACK if gone else _CREATE | _ACK | (_REPLACE if way.group is None else 0)
    return _framed(_DEL_ROUTE if gone else _NEW_ROUTE, flags, number, body)


def get_ways(number: int, version: int) -> bytes:
    """Ask for the routes that a router has made."""
    body = _ROUTE.pack(FAMILY[version], 0, 0, 0, _MAIN_TABLE, OWNER, 0, 0, 0)
    return _framed(_GET_ROUTE, _DUMP, number, body)


def way_in(body: bytes) -> Way | None:
    """Read one answer to `get_ways`; None: it is no route of a router's."""
    family, length, _, _, _, owner, _, kind, _ = _ROUTE.unpack_from(body)
    found = dict(_attributes(body[_ROUTE.size :]))
    if owner != OWNER or (kind != _BLACKHOLE and _NH_ID not in found):
        return None
    anywhere = bytes(4 if family == socket.AF_INET else 16)
    network = ip_network((found.get(_DST, anywhere), length))
    return Way(network, None if kind == _BLACKHOLE else _u32_in(found[_NH_ID]))


def get_neighbours(number: int, version: int) -> bytes:
    """Ask for all neighbours of an IP version."""
    return _framed(_GET_NEIGHBOUR, _DUMP, number, _NEIGHBOUR.pack(FAMILY[version], 0, 0, 0, 0))


def forget_neighbour(number: int, target: Target) -> bytes:
    """Forget the link address of a neighbour: the next packet to it asks for it anew."""
    body = _NEIGHBOUR.pack(FAMILY[target.gateway.version], target.device, 0, 0, 0)
    return _framed(_DEL_NEIGHBOUR, _ACK, number, body + _packed(_DST, target.gateway.packed))


def learned_in(body: bytes) -> Target | None:
    """Read one answer to `get_neighbours`; None: its link address is not known, or is somebody's word."""
    _, device, state, _, _ = _NEIGHBOUR.unpack_from(body)
    found = dict(_attributes(body[_NEIGHBOUR.size :]))
    return Target(device, ip_address(found[_DST])) if state & _LEARNED and _DST in found else None


def hop_in(body: bytes) -> tuple[int, Target | Members | None, int]:
    """Read one answer to `get_hops`: its id, where it points or who its members are, and its owner."""
    _, _, owner, _, _ = _HOP.unpack_from(body)
    found = dict(_attributes(body[_HOP.size :]))
    what: Target | Members | None = None
    if _GATEWAY in found and _OIF in found:
        what = Target(_u32_in(found[_OIF]), ip_address(found[_GATEWAY]))
    elif _GROUP in found:
        what = tuple(identity for identity, _, _, _ in _MEMBER.iter_unpack(found[_GROUP]))
    return _u32_in(found[_ID]), what, owner


def bucket_in(body: bytes) -> tuple[int, Bucket]:
    """Read one answer to `get_buckets`: the number of the bucket, and its row."""
    found = dict(_attributes(dict(_attributes(body[_HOP.size :]))[_RES_BUCKET]))
    (index,) = struct.unpack("=H", found[_INDEX][:2])
    (idle,) = struct.unpack("=Q", found[_IDLE_TIME][:8])
    return index, Bucket(idle * _TICK_S, _u32_in(found[_HOP_ID]))


def error_in(body: bytes, flags: int) -> OSError | None:
    """Read an acknowledgement: None, or the error with the kernel's own words."""
    (code,) = struct.unpack_from("=i", body)
    if code == 0:
        return None
    text = os.strerror(-code)
    if len(body) < 4 + _HEADER.size:  # the end of a dump, which quotes no question
        return OSError(-code, text)
    (length,) = struct.unpack_from("=I", body, 4)
    at = 4 + (_HEADER.size if flags & _CAPPED else length)
    said = dict(_attributes(body[at:])).get(_ERROR_TEXT, b"").rstrip(b"\0").decode("utf-8", "replace")
    return OSError(-code, f"{text}: {said}" if said else text)


def _message(kind: int, flags: int, number: int, family: int, owner: int, *attributes: bytes) -> bytes:
    return _framed(kind, flags, number, _HOP.pack(family, 0, owner, 0, 0) + b"".join(attributes))


def _framed(kind: int, flags: int, number: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, number, 0) + body


def _packed(kind: int, data: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(data), kind) + data + bytes(-len(data) % 4)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _TYPE_MASK, data[_ATTRIBUTE.size : length]
        data = data[length + -length % 4 :]


def _u32(value: int) -> bytes:
    return struct.pack("=I", value)


def _u32_in(data: bytes) -> int:
    (value,) = struct.unpack("=I", data[:4])
    return int(value)


# -- the kernel -------------------------------------------------------------------------------------------------------


class NextHops:
    """Asks and tells the kernel. Raises OSError with the kernel's own words."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._sock.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        self._sock.setsockopt(_SOL_NETLINK, _STRICT, 1)
        self._sock.settimeout(_ANSWER_S)
        self._sock.bind((0, 0))
        self._number = self._asked = 0

        # For its first answer a socket has little room, and a route over 256 next hops, which is larger, would be left
        # out without a word. From the first read on there is the room that was read with.
        self.owned()

    def close(self) -> None:
        """Close its socket; what the kernel has stays."""
        self._sock.close()

    def point(self, targets: Mapping[int, Target]) -> None:
        """Point next hops at gateways, many by one send: the kernel takes 3 microseconds for each."""
        self._tell([set_hop(self._next(), identity, target) for identity, target in targets.items()])

    def make_group(self, identity: int, members: Members) -> None:
        """Make a group, once all of its members point somewhere."""
        self._tell([set_group(self._next(), identity, members)])

    def remove(self, ids: Iterable[int]) -> None:
        """Take away next hops and groups, in this order."""
        self._tell([delete(self._next(), identity) for identity in ids])

    def route(self, ways: Iterable[Way], *, gone: bool = False) -> None:
        """Make routes, or take them away."""
        self._tell([set_way(self._next(), way, gone=gone) for way in ways])

    def forget(self, targets: Collection[Target]) -> None:
        """Have the kernel ask anew for the link addresses of these that it has learned."""
        for version in FAMILY:
            wanted = {one for one in targets if one.gateway.version == version}
            learned = {learned_in(body) for body in self._ask(get_neighbours(self._next(), version))} if wanted else ()
            self._tell([forget_neighbour(self._next(), one) for one in wanted.intersection(learned)])

    def owned(self) -> dict[int, Target | Members | None]:
        """All next hops and groups of a router of fwd's, by id."""
        found = (hop_in(body) for body in self._ask(get_hops(self._next())))
        return {identity: what for identity, what, owner in found if owner == OWNER}

    def ways(self) -> frozenset[Way]:
        """All routes of a router of fwd's."""
        answers = [body for version in FAMILY for body in self._ask(get_ways(self._next(), version))]
        return frozenset(way for body in answers if (way := way_in(body)) is not None)

    def table(self, group: int) -> dict[int, Bucket]:
        """The group's rows by bucket. Raises OSError if there is no group."""
        return dict(bucket_in(body) for body in self._ask(get_buckets(self._next(), group)))

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _tell(self, messages: Sequence[bytes]) -> None:
        """Send all, then take as many acknowledgements; the first error is raised when all are in."""
        errors: list[OSError] = []
        for at in range(0, len(messages), 64):  # as many as the socket's buffer takes answers to
            some = messages[at : at + 64]
            self._send(some)
            acknowledged = 0
            while acknowledged < len(some):
                for kind, flags, body in self._read():
                    if kind == _ERROR:
                        acknowledged += 1
                        if (error := error_in(body, flags)) is not None:
                            errors.append(error)
        if errors:
            raise errors[0]

    def _ask(self, message: bytes) -> list[bytes]:
        """All that answers a question. Raises the error that has ended it."""
        self._send([message])
        found: list[bytes] = []
        while True:
            for kind, flags, body in self._read():
                if kind in (_DONE, _ERROR) and (error := error_in(body, flags)) is not None:
                    raise error
                if kind == _DONE:
                    return found
                if kind != _ERROR:
                    found.append(body)

    def _send(self, messages: Sequence[bytes]) -> None:
        """Send them; from now on their answers alone are read."""
        self._asked = _HEADER.unpack_from(messages[0])[3]
        self._sock.send(b"".join(messages))

    def _read(self) -> Iterator[tuple[int, int, bytes]]:
        """The messages of one read that answer the last questions: kind, flags, body."""
        data = self._sock.recv(_READ_BYTES)
        while len(data) >= _HEADER.size:
            length, kind, flags, number, _ = _HEADER.unpack_from(data)
            if number >= self._asked:  # else of a question whose answer was not waited for
                yield kind, flags, data[_HEADER.size : length]
            data = data[length + -length % 4 :]

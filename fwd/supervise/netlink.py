"""Reads of the kernel: links, addresses, routes and the generation of nftables' rules; and hears of changes to them.

Reads and nothing else: what is changed goes through pyroute2 and nft (network.py). Messages are taken apart here, since
this is done every second for every peering, and pyroute2 takes a hundred times as long for each.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final, TypeVar

from fwd.model.words import Address, Network
from fwd.supervise.kernel import Link, Own, Route

A = TypeVar("A")
T = TypeVar("T")
FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
MAIN_TABLE: Final = 254

_NETLINK_NETFILTER = 12
_SOL_NETLINK, _STRICT_CHECK = 270, 12
_NEWLINK, _GETLINK, _GETADDR, _NEWROUTE, _GETROUTE = 16, 18, 22, 24, 26
_NFPROTO_INET, _GETTABLE = 1, 10 << 8 | 1
_NEWGEN, _GETGEN = 10 << 8 | 15, 10 << 8 | 16  # subsystem nftables
_OURS = b"fwd_"
_NEWS_MAX = 10_000  # taken at once
_REQUEST, _DUMP, _INTERRUPTED = 1, 0x300, 0x10
_ERROR, _DONE = 2, 3
_UNREACHABLE = 7  # type of a route
_REFUSING = (6, 7, 8)  # types of routes: blackhole, unreachable, prohibit
_UP, _LOWER_UP = 0x1, 0x10000  # flags of a link
_CLONED = 0x200  # flag of a route that the kernel has made of another
_UNUSABLE = 0x40 | 0x08  # flags of an address: tentative, or a duplicate
_MULTIPATH = -1  # of a route: more than one device
_ROUTE_GROUPS = (1, 5, 7, 8, 9, 11, 19, 24, 25)  # links; addresses, routes, rules and sysctls of both versions
_NFT_GROUP = 7
_BUFFER: Final = memoryview(bytearray(1 << 18))  # for what one read gives
_BUFFER_BYTES = 1 << 20
_SOME, _ALL = 20_000, 1 << 62
_MANY = 8  # devices: from here on all that there are are asked for at once
_ATTEMPTS = 5  # of a dump during which what is dumped changes
_ANSWER_S = 2.0

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")
_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, lengths of both prefixes, TOS, table, protocol, scope, type, flags
_PATH = struct.Struct("=HxxI")  # length, device

# Attributes, each in the numbers of its own kind of message.
_IFNAME, _MTU, _TXQLEN, _STATS, _AF_SPEC, _GSO_SEGMENTS = 3, 4, 13, 23, 26, 40
_GEN_MODE, _TX_DROPPED = 8, 56
_PREFIX, _LOCAL, _ADDRESS_FLAGS = 1, 2, 8
_DST, _SRC, _IIF, _OIF, _GATEWAY, _PRIORITY, _PREFSRC, _PATHS, _TABLE = 1, 2, 3, 4, 5, 6, 7, 9, 15


class Kernel:
    """Asks one question after the other. Raises OSError."""

    def __init__(self) -> None:
        self._route = _open(socket.NETLINK_ROUTE)
        self._route.setsockopt(_SOL_NETLINK, _STRICT_CHECK, 1)
        self._nft = _open(_NETLINK_NETFILTER)
        self._number = 0  # of the last question
        self._same: dict[str, tuple[Any, Any]] = {}  # answers, and what they said

    def link(self, name: str) -> Link | None:
        """What is known of the device of this name; None: there is none."""
        body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + _packed(_IFNAME, name.encode() + b"\0")
        try:
            (answer,) = self._ask(_GETLINK, body)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        return self._read(f"link {name}", answer, link_in)

    def links(self, names: Collection[str]) -> dict[str, Link | None]:
        """What is known of the devices of these names: of many with one question."""
        if len(names) < _MANY:
            return {name: self.link(name) for name in names}
        answers = self._ask(_GETLINK, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0), _DUMP)
        return self._read("links", (list(names), answers), self._links_in)

    def _links_in(self, asked: tuple[list[str], list[bytes]]) -> dict[str, Link | None]:
        names, answers = asked
        found: dict[str, Link | None] = dict.fromkeys(names)
        for answer in answers:
            own = next((value for kind, value in _attributes(answer, _LINK.size) if kind == _IFNAME), b"")
            name = own.rstrip(b"\0").decode(errors="replace")
            if name in found:
                found[name] = self._read(f"link {name}", answer, link_in)
        return found

    def addresses(self) -> tuple[Own, ...]:
        """This host's own, as the kernel lists them; without those that may not be used yet."""
        answers = self._ask(_GETADDR, _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0), _DUMP)
        return self._read("addresses", answers, _addresses_in)

    def routes(self, owner: int = 0, *, unreachable: bool = False) -> tuple[Route, ...]:
        """Routes of the main table; of `owner` alone if it is not 0, or those alone that refuse."""
        answers: list[bytes] = []
        for family in FAMILIES.values():
            body = _ROUTE.pack(family, 0, 0, 0, MAIN_TABLE, owner, 0, _UNREACHABLE * unreachable, 0)
            try:
                answers += [one for one in self._ask(_GETROUTE, body, _DUMP) if one[0] == family]
            except OSError as error:
                if error.errno not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.ENOENT):
                    raise
        return self._read(f"routes {owner} {unreachable}", answers, _routes_in)

    def some_routes(self) -> tuple[Route, ...]:
        """Routes of the main table, _SOME of each IP version at most: there may be a million."""
        found: list[Route] = []
        for family in FAMILIES.values():
            with contextlib.suppress(OSError), contextlib.closing(_open(socket.NETLINK_ROUTE)) as once:
                once.setsockopt(_SOL_NETLINK, _STRICT_CHECK, 1)
                body = _ROUTE.pack(family, 0, 0, 0, MAIN_TABLE, 0, 0, 0, 0)
                answers = self._ask(_GETROUTE, body, _DUMP, once, _SOME)
                found += [route for one in answers if one[0] == family and (route := route_in(one))]
        return tuple(found)

    def way_to(self, address: Address, source: Address | None = None, arrives: int = 0) -> Route | None:
        """The route that a packet to `address` would take; None: it would be refused.

        The host's own packet; or one that it is to forward, of `source`, by the device of which it `arrives`.
        """
        family, bits = FAMILIES[address.version], address.max_prefixlen
        flags = 0x2000  # RTM_F_FIB_MATCH: the route as it stands in the table
        attributes = _packed(_DST, address.packed)
        if source:
            attributes += _packed(_SRC, source.packed) + _packed(_IIF, struct.pack("=I", arrives))
        body = _ROUTE.pack(family, bits, bits if source else 0, 0, 0, 0, 0, 0, flags) + attributes
        try:
            (answer,) = self._ask(_GETROUTE, body)
        except OSError:
            return None
        route = route_in(answer, any_table=True)
        return route if route and not route.refuses else None

    def generation(self) -> int:
        """Counts the changes of all of nftables' rules."""
        (answer,) = self._ask(_GETGEN, struct.pack("=BBH", 0, 0, 0), sock=self._nft)
        return int.from_bytes(dict(_attributes(answer, 4))[1], "big")

    def tables(self) -> list[str]:
        """Names of fwd's tables in nftables."""
        body = struct.pack("=BBH", _NFPROTO_INET, 0, 0)
        answers = self._ask(_GETTABLE, body, _DUMP, self._nft)
        names = [dict(_attributes(one, 4)).get(1, b"").rstrip(b"\0").decode() for one in answers]
        return [name for name in names if name.startswith(_OURS.decode())]

    def close(self) -> None:
        """Ask no more."""
        self._route.close()
        self._nft.close()

    def _read(self, what: str, answer: A, read: Callable[[A], T]) -> T:
        """Take an answer apart, unless it is the one of last time."""
        if what not in self._same or self._same[what][0] != answer:
            self._same[what] = answer, read(answer)
        found: T = self._same[what][1]
        return found

    def _ask(
        self, kind: int, body: bytes, flags: int = 0, sock: socket.socket | None = None, most: int = 0
    ) -> list[bytes]:
        """Bodies of the messages that answer. Raises OSError, as the kernel has it."""
        sock = sock or self._route
        for _ in range(_ATTEMPTS):
            self._number = self._number % 0xFFFFFFFF + 1
            sock.sendall(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, self._number, 0) + body)
            answers, whole = _answers(sock, self._number, most or (_ALL if flags & _DUMP else 1))
            if whole or most:
                return answers
        return answers


@dataclass(frozen=True)
class News:
    """What has changed. `rules`: some of nftables' rules; `ours`: perhaps those of a table called fwd_…."""

    any: bool = False
    rules: bool = False
    ours: bool = False
    generation: int = 0  # the last one that was heard of
    routes: tuple[Route, ...] = ()  # that were set


class Changes:
    """Hears of changes. `fd` becomes readable when there are some."""

    def __init__(self) -> None:
        self._route = _open(socket.NETLINK_ROUTE, sum(1 << (group - 1) for group in _ROUTE_GROUPS))
        self._nft = _open(_NETLINK_NETFILTER, 1 << (_NFT_GROUP - 1))
        self._poll = select.epoll()
        for sock in (self._route, self._nft):
            sock.setblocking(False)
            self._poll.register(sock, select.EPOLLIN)
        self.fd = self._poll.fileno()

    def listen(self, *, wanted: bool) -> None:
        """Whether what comes makes `fd` readable."""
        for sock in (self._route, self._nft):
            self._poll.modify(sock, select.EPOLLIN if wanted else 0)

    def heard(self) -> News:
        """Take what has come."""
        of_routes, missed_routes = _taken(self._route)
        of_rules, missed_rules = _taken(self._nft)
        routes = [route for kind, body in of_routes if kind == _NEWROUTE and (route := route_in(body))]
        generations = [int.from_bytes(dict(_attributes(b, 4)).get(1, b""), "big") for k, b in of_rules if k == _NEWGEN]
        return News(
            any=bool(of_routes or of_rules or missed_routes or missed_rules),
            rules=bool(of_rules) or missed_rules,
            ours=missed_rules or any(_OURS in body for _, body in of_rules),
            generation=generations[-1] if generations else 0,
            routes=tuple(routes),
        )

    def close(self) -> None:
        """Hear no more."""
        self._poll.close()
        self._route.close()
        self._nft.close()


def _taken(sock: socket.socket) -> tuple[list[tuple[int, bytes]], bool]:
    """Types and bodies of what has come, and whether some was missed: then it is to be looked up."""
    found: list[tuple[int, bytes]] = []
    missed = False
    while len(found) < _NEWS_MAX:
        try:
            data = _BUFFER[: sock.recv_into(_BUFFER)]
        except BlockingIOError:
            break
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            missed = True
            continue
        found += [(kind, body) for kind, _, _, body in _messages(data)]
    return found, missed


def _open(protocol: int, groups: int = 0) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    sock.settimeout(_ANSWER_S)
    sock.bind((0, groups))
    return sock


def _answers(sock: socket.socket, number: int, most: int) -> tuple[list[bytes], bool]:
    """Bodies of an answer's messages, `most` at most, and whether they are of one moment."""
    found: list[bytes] = []
    whole = True
    while True:
        for kind, flags, answered, body in _messages(_BUFFER[: sock.recv_into(_BUFFER)]):
            if answered != number:
                continue  # of an earlier question that was given up
            whole = whole and not flags & _INTERRUPTED
            code = struct.unpack_from("=i", body)[0] if kind in (_ERROR, _DONE) and len(body) >= 4 else 0
            if code < 0:
                raise OSError(-code, os.strerror(-code))
            if kind in (_ERROR, _DONE):
                return found, whole
            found.append(body)
            if len(found) >= most:
                return found, whole


def _messages(data: memoryview) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, sequence number and body of each message."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, number, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, flags, number, data[at + _HEADER.size : at + length].tobytes()
        at += (length + 3) & ~3


def _attributes(data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def _packed(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length & 3)


def link_in(body: bytes) -> Link:
    """A link, by the body of its message."""
    _, _, index, flags, _ = _LINK.unpack_from(body)
    has = dict(_attributes(body, _LINK.size))

    def number(kind: int) -> int:
        return int.from_bytes(has.get(kind, b""), "little")

    of_ipv6 = dict(_attributes(has.get(_AF_SPEC, b""), 0)).get(socket.AF_INET6)
    mode = dict(_attributes(of_ipv6, 0)).get(_GEN_MODE, b"") if of_ipv6 is not None else b""
    drops = int.from_bytes(has.get(_STATS, b"")[_TX_DROPPED : _TX_DROPPED + 8], "little")
    return Link(
        index=index, up=bool(flags & _UP), mtu_bytes=number(_MTU), queue_records=number(_TXQLEN),
        segments_max=number(_GSO_SEGMENTS), addr_gen_mode=mode[0] if mode else None, queue_drops=drops,
        carrier=bool(flags & _LOWER_UP),
    )  # fmt: skip


def route_in(body: bytes, *, any_table: bool = False) -> Route | None:
    """A route of the main table, by the body of its message; None: of another table, or none that anybody has set."""
    family, bits, _, _, table, owner, _, kind, flags = _ROUTE.unpack_from(body)
    has = dict(_attributes(body, _ROUTE.size))
    if _TABLE in has:
        table = int.from_bytes(has[_TABLE], "little")
    if (table != MAIN_TABLE and not any_table) or flags & _CLONED or family not in (socket.AF_INET, socket.AF_INET6):
        return None

    # Where it leads: a default route has no destination, and of several next hops the first stands for all.
    subnet: Network
    if family == socket.AF_INET:
        subnet = IPv4Network((has.get(_DST, bytes(4)), bits))
    else:
        subnet = IPv6Network((has.get(_DST, bytes(16)), bits))
    device = int.from_bytes(has.get(_OIF, b""), "little")
    via = has.get(_GATEWAY) or dict(_attributes(has.get(_PATHS, b"")[: _first_path(has)], _PATH.size)).get(_GATEWAY)

    return Route(
        subnet=subnet,
        device=0 if kind in _REFUSING else _MULTIPATH if _PATHS in has else device,
        priority=int.from_bytes(has.get(_PRIORITY, b""), "little"),
        owner=owner,
        source=ip_address(has[_PREFSRC]) if _PREFSRC in has else None,
        refuses=kind in _REFUSING,
        several=_devices_in(has.get(_PATHS, b"")),
        via=ip_address(via) if via else None,
    )


def _first_path(has: dict[int, bytes]) -> int:
    """The length of a route's first path."""
    paths = has.get(_PATHS, b"")
    return int(_PATH.unpack_from(paths)[0]) if len(paths) >= _PATH.size else 0


def _devices_in(paths: bytes) -> tuple[int, ...]:
    """The devices of a route's paths: of each its length, flags, weight and device, and attributes."""
    found, at = [], 0
    while at + _PATH.size <= len(paths):
        length, device = _PATH.unpack_from(paths, at)
        if length < _PATH.size:
            break
        found.append(device)
        at += (length + 3) & ~3
    return tuple(found)


def _routes_in(answers: list[bytes]) -> tuple[Route, ...]:
    return tuple(route for one in answers if (route := route_in(one)))


def _addresses_in(answers: list[bytes]) -> tuple[Own, ...]:
    return tuple(own for one in answers if (own := _address_in(one)))


def _address_in(body: bytes) -> Own | None:
    family, bits, flags, _, device = _ADDRESS.unpack_from(body)
    has = dict(_attributes(body, _ADDRESS.size))
    packed = has.get(_LOCAL) or has.get(_PREFIX)
    if packed is None or family not in (socket.AF_INET, socket.AF_INET6):
        return None
    if int.from_bytes(has.get(_ADDRESS_FLAGS, bytes([flags])), "little") & _UNUSABLE:
        return None
    at_device = has.get(_PREFIX, packed)
    if family == socket.AF_INET:
        return Own(IPv4Address(packed), IPv4Network((at_device, bits), strict=False), device)
    return Own(IPv6Address(packed), IPv6Network((at_device, bits), strict=False), device)

"""Looks at what is not fwd's and decides whether packets pass: routes and rules of others, forwarding, filters.

The shell around obstacles.py: it asks the kernel and nft, changes nothing, and waits for nobody but nft. News of the
kernel say what may have changed; a look besides costs 0.1 % of a core at most, or comes once a minute.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from fwd.model.words import Address, Network
from fwd.supervise import filters, network, obstacles
from fwd.supervise.kernel import Has, Route, Wanted
from fwd.supervise.netlink import Kernel, News
from fwd.supervise.obstacles import Around

Outside = dict[str, tuple[Network, ...]]  # devices that lead outside, and the local subnets that are not there

EVERY_S: Final = 5.0  # without news; or as it may use _SHARE of a core
_LONGEST_S: Final = 60.0
_SHARE: Final = 0.001
_CHAINS_EVERY_S: Final = 1.0  # even if they change all the time
_SUSPECTS_MAX: Final = 256
_FORWARD: Final = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}  # for all devices
_DOTTED: Final = str.maketrans("/.", "./")  # a path as sysctl writes it, of devices such as eth0.7 too


class Surroundings:
    """What the host has around fwd `number`. Raises OSError, and UserError where nft fails."""

    def __init__(self, number: int, asks: Kernel) -> None:
        self._number = number
        self._kernel = asks
        self._suspects: set[Route] = set()  # what others have set, perhaps within a peering's subnets
        self._all_suspected = False  # what was set before we listened is among them
        self._chains_due, self._chains_at = True, 0.0
        self._tables = ""  # listings of other programs' tables
        self._began = 0.0
        self._ways: dict[Address, Route | None] = {}  # asked for since the look began
        self._taking: set[Route] = set()
        self.look_at = 0.0  # when it is time, without news

    def note(self, news: News) -> None:
        """Take note of what is to be looked at."""
        self._chains_due = self._chains_due or news.rules
        others = [route for route in news.routes if route.owner != self._number]
        self._suspects.update(others[: max(0, _SUSPECTS_MAX - len(self._suspects))])

    def look_anew(self) -> None:
        """Let the next look be soon, and at every route: there is a peering that was not looked at."""
        self.look_at, self._all_suspected = 0.0, False

    def begin(self, now: float) -> None:
        """Begin a look: list what has changed for all peerings."""
        self.look_at, self._began = now + EVERY_S, time.monotonic()
        if self._chains_due and now >= self._chains_at:
            self._chains_due, self._chains_at = False, now + _CHAINS_EVERY_S
            self._tables = network.other_tables()
        elif self._chains_due:
            self.look_at = self._chains_at

        if not self._all_suspected:
            self._suspects |= {route for route in self._kernel.some_routes() if route.owner != self._number}
            self._all_suspected = True
        self._ways, self._taking = {}, set()

    def of(self, wanted: Wanted, has: Has, outside: Outside) -> tuple[Around, Outside]:
        """What is around one peering, and what is outside of it; `outside`: what was."""
        away = frozenset(index for name in outside if (index := _index(name)))
        asked = obstacles.asked(wanted, has, self._suspects, away)
        self._ways |= {address: self._kernel.way_to(address) for address in asked - self._ways.keys()}
        ways = {address: self._ways[address] for address in asked}
        self._taking |= obstacles.taking(wanted, self._suspects, ways, away)

        # As packets of others see it: by their devices and their sources.
        packets = obstacles.forwarded(wanted, has, ways)
        through = {one: self._kernel.way_to(one.to, one.source, one.arrives) for one in packets}
        lans = obstacles.lan_devices(wanted, has, ways)
        names = {index: name for index in set().union(*lans.values()) if (name := _name(index))}
        tun = {wanted.device.index: wanted.device.name} if wanted.device else {}
        off, drops = frozenset[tuple[int, str]](), tuple[str, ...]()
        for device in tun.values():
            off = _not_forwarding(device, names.values())
            pairs = obstacles.pairs(wanted.local_ts, wanted.remote_ts)
            named = {subnet: {names[index] for index in at if index in names} for subnet, at in lans.items()}
            drops = filters.dropping(self._tables, filters.ways(device, named, pairs))
        links = self._kernel.links(names.values())
        dead = frozenset(index for index, name in names.items() if (link := links[name]) and not link.carrier)
        beside = obstacles.beside(wanted, self._suspects)
        return Around(ways, through, names | tun, dead, off, drops, beside), _outside(wanted, has, ways, outside)

    def end(self, now: float) -> None:
        """End a look: what takes nothing is suspected no more, and the next look has its time."""
        self._suspects = self._taking
        if not self._chains_due:
            took_s = time.monotonic() - self._began
            self.look_at = now + min(max(EVERY_S, took_s / _SHARE), _LONGEST_S)

    def first(self, wanted: Wanted, outside: Outside) -> Outside:
        """What is outside of a peering that has no device yet."""
        has = Has(addresses=self._kernel.addresses())
        ways = {address: self._kernel.way_to(address) for address in obstacles.asked(wanted, has)}
        return _outside(wanted, has, ways, outside)


def _outside(wanted: Wanted, has: Has, ways: Mapping[Address, Route | None], before: Outside) -> Outside:
    """Which devices lead outside, and which local subnets are not there; one that has gone may come back."""
    there = {name: index for name in before if (index := _index(name))}
    found = {name: subnets for name, subnets in before.items() if name not in there}
    for device, subnets in obstacles.outside(wanted, has, ways, there.values()).items():
        found[_name(device)] = subnets
    kept = {name: tuple(s for s in subnets if s in wanted.local_ts) for name, subnets in found.items()}
    return {name: subnets for name, subnets in sorted(kept.items()) if name and subnets}


def _not_forwarding(tun: str, lans: Iterable[str]) -> frozenset[tuple[int, str]]:
    """The sysctls that are 0, with their IP version. Of IPv4 each device's own decides, which the common one sets."""
    found = [(4, path) for device in (tun, *lans) if _is_zero(path := f"net/ipv4/conf/{device}/forwarding")]
    if found and _is_zero(_FORWARD[4]):
        found = [(4, _FORWARD[4])]
    found += [(6, _FORWARD[6])] * _is_zero(_FORWARD[6])
    return frozenset((version, path.translate(_DOTTED)) for version, path in found)


def _is_zero(sysctl: str) -> bool:
    with contextlib.suppress(OSError):  # a kernel without IPv6
        return Path("/proc/sys", sysctl).read_text(encoding="ascii").strip() == "0"
    return False


def _name(device: int) -> str:
    with contextlib.suppress(OSError):  # it has just gone
        return socket.if_indextoname(device)
    return ""


def _index(device: str) -> int:
    with contextlib.suppress(OSError):  # it has gone
        return socket.if_nametoindex(device)
    return 0

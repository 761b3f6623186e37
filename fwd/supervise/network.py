"""What fwd changes in the host's network: the leak guards, and routes to the TUN devices.

What guards there are to be is decided in guards.py; here they are looked at, set and removed. Refuses: a host where
they cannot be set.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import socket
import subprocess
from collections.abc import Collection, Iterable
from ipaddress import ip_address, ip_interface, ip_network
from typing import Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from fwd.model.config import Peering
from fwd.model.words import Address, Network
from fwd.proto.errors import UserError
from fwd.supervise import guards
from fwd.supervise.guards import Found

_ADDR_GEN_MODE_NONE = 1
_QUEUE_RECORDS = 1000  # of the TUN device: small packets that come while the demux waits for a core
_PACKETS_OF_A_SUPER_PACKET = 64
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_MAIN_TABLE = 254
_FIB_MATCH = 0x2000  # RTM_F_FIB_MATCH: the route as it was set, without what was learned since
_MTU_MAX = 65535
NFT_PATH: Final = "/usr/sbin:/sbin:/usr/bin:/bin"
_NFT_S: Final = 10.0  # what waits for ever would hold up the supervisor


class Guards:
    """The leak guards of this fwd, which are marked with its number (owner.py).

    They go by `remove`, `tidy` and `undo` alone, never because an object is closed or the process ends.
    """

    def __init__(self, number: int, mark: str) -> None:
        self._number = number
        self._mark = mark
        self._set: dict[str, str] = {}  # peering → the rules of its table
        self._before: Found | None = None

    def refusals(self, peerings: Iterable[Peering], living: Collection[int]) -> dict[str, str]:
        """Peering → why it cannot have its guards: another fwd that lives has them."""
        standing = look()
        self._before = self._before or standing
        found = {peering.name: guards.refusal(peering, standing, living) for peering in peerings}
        return {name: why for name, why in found.items() if why}

    def set(self, peering: Peering, *, closed: bool) -> None:
        """Set both guards, in the place of what stands there; `closed`: not even the TUN device may be used.

        Raises UserError.
        """
        rules = guards.ruleset(peering, self._number, self._mark, closed=closed)
        if self._set.get(peering.name) == rules:
            return
        _nft(rules)
        with IPRoute() as ip:
            for subnet in peering.remote_ts:
                try:
                    ip.route("replace", **_guard(subnet, self._number))
                except NetlinkError as error:
                    raise UserError(f"route unreachable {subnet} (leak guard): {error.args[-1]}") from None
        self._set[peering.name] = rules

    def tidy(self, wanted: Collection[Peering], living: Collection[int]) -> None:
        """Remove those that none of `wanted` needs, and a dead one's in their way; not before all of them stand."""
        if all(peering.name in self._set for peering in wanted):
            self._remove(*guards.leftovers(look(), wanted, self._number, living))
            names = {peering.name for peering in wanted}
            self._set = {name: rules for name, rules in self._set.items() if name in names}

    def undo(self) -> None:
        """After a start that failed: remove what did not stand before it."""
        if self._before is not None:
            tables, subnets = guards.leftovers(look(), (), self._number)
            self._remove(set(tables) - set(self._before.tables), set(subnets) - set(self._before.routes))

    def remove(self) -> None:
        """Remove all of ours: the clean stop's part."""
        self._remove(*guards.leftovers(look(), (), self._number))

    def _remove(self, tables: Iterable[str], subnets: Iterable[Network]) -> None:
        """What is gone already is not missed."""
        for table in tables:
            with contextlib.suppress(UserError):
                _nft(f"table inet {table}\ndelete table inet {table}\n")
        with IPRoute() as ip:
            for subnet in subnets:
                with contextlib.suppress(NetlinkError):
                    ip.route("del", **_guard(subnet))


def look() -> Found:
    """The guards that stand, whoever has set them."""
    tables = {}
    for table in guards.tables_in(_nft("list tables inet\n")):
        with contextlib.suppress(UserError):  # gone meanwhile
            tables[table] = guards.table_in(_nft(f"list table inet {table}\n"))
    routes: dict[Network, int] = {}
    with IPRoute(strict_check=True) as ip:
        for version, family in _FAMILIES.items():
            with contextlib.suppress(NetlinkError):  # a kernel without IPv6
                for route in ip.route("dump", family=family, type="unreachable", table=_MAIN_TABLE):
                    if route.get_attr("RTA_PRIORITY") == guards.METRIC:
                        any_address = "::" if version == 6 else "0.0.0.0"
                        address = route.get_attr("RTA_DST") or any_address
                        routes[ip_network(f"{address}/{route['dst_len']}")] = route["proto"]
    return Found(tables, routes)


def prepare_link(peering: Peering) -> None:
    """Before the device is up: its queue, and no link-local address, whose chatter no selector would allow.

    Payload esp splits super-packets into bursts, which must not be longer than the rows of one.
    """
    quiet = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_MODE_NONE)]})]}
    with IPRoute() as ip:
        index = ip.link_lookup(ifname=peering.tun)[0]
        ip.link("set", index=index, txqlen=_QUEUE_RECORDS)
        if peering.payload == "esp":
            ip.link("set", index=index, gso_max_segs=_PACKETS_OF_A_SUPER_PACKET)
        with contextlib.suppress(NetlinkError):  # a kernel without IPv6
            ip.link("set", index=index, IFLA_AF_SPEC=quiet)


def add_routes(peering: Peering, number: int) -> None:
    """Route the remote subnets to the TUN device, from a source address that the selectors allow; marked as ours.

    Without `src` the kernel would give the gateway's own packets its outer address, which no selector allows.
    """
    with IPRoute() as ip:
        index = ip.link_lookup(ifname=peering.tun)[0]
        sources = inner_addresses(ip, peering.local_ts)
        for subnet in peering.remote_ts:
            route = {"dst": str(subnet), "oif": index, "family": _FAMILIES[subnet.version], "proto": number}
            if subnet.version in sources:
                route["prefsrc"] = str(sources[subnet.version])
            try:
                ip.route("replace", **route)
            except NetlinkError as error:
                hint = ""
                if subnet.version == 6 and error.code == errno.EACCES:
                    hint = "; new devices have no IPv6 here: set the sysctl net.ipv6.conf.default.disable_ipv6 to 0"
                raise UserError(f"route {subnet} dev {peering.tun}: {error.args[-1]}{hint}") from None


def inner_addresses(ip: IPRoute, local_ts: Iterable[Network]) -> dict[int, Address]:
    """This host's own address within the local subnets, by IP version."""
    found: dict[int, Address] = {}
    subnets = list(local_ts)
    for message in ip.get_addr():
        text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        if text:
            address = ip_address(text)
            if any(address.version == s.version and address in s for s in subnets):
                found.setdefault(address.version, address)
    return found


def has_address(address: Address) -> bool:
    """Whether this host has `address`."""
    with IPRoute() as ip:
        return any(
            ip_interface(text).ip == address
            for message in ip.get_addr()
            if (text := message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"))
        )


def route_mtu(local: Address, remote: Address) -> int:
    """What the route to `remote` takes by itself: its own metric, or else what its device takes; 0: no route.

    What ICMP has told of the path is not in it: the kernel forgets that after minutes (RFC 1191 §6.3).
    """
    wanted = {"dst": str(remote), "src": str(local), "family": _FAMILIES[local.version]}
    with IPRoute() as ip:
        try:
            (used,) = ip.route("get", **wanted)
            (kept,) = ip.route("get", **wanted, flags=_FIB_MATCH)
            (device,) = ip.get_links(used.get_attr("RTA_OIF"))
        except (NetlinkError, ValueError):
            return 0
    metrics = kept.get_attr("RTA_METRICS")
    own: int | None = metrics.get_attr("RTAX_MTU") if metrics else None
    return own or min(device.get_attr("IFLA_MTU"), _MTU_MAX)


def _guard(subnet: Network, number: int | None = None) -> dict[str, object]:
    mark = {} if number is None else {"proto": number}
    return {
        "dst": str(subnet),
        "type": "unreachable",
        "priority": guards.METRIC,
        "family": _FAMILIES[subnet.version],
        **mark,
    }


def _nft(commands: str) -> str:
    """Let nft carry out `commands`, as one transaction; what it prints."""
    binary = shutil.which("nft", path=NFT_PATH)
    if binary is None:
        raise UserError("nft is missing: the leak guards need it; install the package nftables")
    # In a session of its own: ^C at the terminal is for fwd, and is no reason to leave a table where it is.
    try:
        done = subprocess.run(
            [binary, "-f", "-"], input=commands, capture_output=True, text=True, check=False,
            start_new_session=True, timeout=_NFT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UserError(f"nft does not answer within {_NFT_S:.0f} s: the leak guards need it") from None
    if done.returncode:
        reason = done.stderr.strip().splitlines()[0] if done.stderr.strip() else f"exit status {done.returncode}"
        raise UserError(f"nft refuses the leak guards: {reason}")
    return done.stdout

"""Changes the host's network where fwd is concerned: nftables' tables, routes, TUN devices; and lists the tables.

What is to be changed is decided in guards.py and kernel.py, and when in keeper.py. Raises UserError of one line.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Final, NoReturn

from pyroute2 import IPRoute
from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTM_NEWROUTE

from fwd.model.words import Address, Network
from fwd.proto.errors import UserError
from fwd.supervise import filters, guards
from fwd.supervise.guards import Found
from fwd.supervise.kernel import GEN_MODE_NONE, Device, Do, Route, Step
from fwd.supervise.netlink import FAMILIES, MAIN_TABLE, Kernel

_FIB_MATCH = 0x2000  # RTM_F_FIB_MATCH: the route as it was set, without what was learned since
_BEFORE_OTHERS: Final = (RTM_NEWROUTE, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE)  # `ip route prepend`
_FIRST: Final = 1  # metric of an IPv6 route before others; of IPv4 it is 0, and the first of these
_MTU_MAX = 65535
NFT_PATH: Final = "/usr/sbin:/sbin:/usr/bin:/bin"
_LINES = re.MULTILINE | re.DOTALL
_NFT_S: Final = 10.0  # what waits for ever would hold up the supervisor


# -- nftables -------------------------------------------------------------------------------------------------


def look(asks: Kernel) -> Found:
    """The guards that stand, whoever has set them."""
    routes = {r.subnet: r.owner for r in asks.routes(unreachable=True) if r.refuses and r.priority == guards.METRIC}
    return Found({name: guards.table_in(listing) for name, listing in tables(asks).items()}, routes)


def tables(asks: Kernel, names: Collection[str] | None = None) -> dict[str, str]:
    """How nft lists fwd's tables, without counters; of these names alone, if some are given."""
    there = [name for name in asks.tables() if names is None or name in names]
    if not there:
        return {}
    try:
        text = _nft("".join(f"list table inet {name}\n" for name in there), "-s")
    except UserError:
        there = [name for name in asks.tables() if name in there]  # one has gone meanwhile
        text = "".join(_nft(f"list table inet {name}\n", "-s") for name in there)
    return {name: listing for listing, name in re.findall(r"^(table inet (\w+) \{\n.*?^\}\n)", text, _LINES)}


def counted_tables(names: Iterable[str]) -> dict[str, str]:
    """How nft lists these tables with their counters; those that are not there are left out."""
    found = {}
    for name in dict.fromkeys(names):
        with contextlib.suppress(UserError):
            found[name] = _nft(f"list table inet {name}\n")
    return found


def set_tables(rules: Iterable[str]) -> None:
    """Make tables anew, as one transaction."""
    begin_tables(rules)()


def begin_tables(rules: Iterable[str]) -> Callable[[], object]:
    """Begin to make tables anew, as one transaction; calling what is returned waits for its end.

    What cannot even begin raises there, too: who sets another guard meanwhile must not leave that out.
    """
    try:
        return _begin_nft("".join(rules))
    except (UserError, OSError) as error:
        return partial(_raise, error)


def remove_tables(names: Iterable[str]) -> None:
    """Remove them; what is gone already is not missed."""
    for name in names:
        with contextlib.suppress(UserError):
            _nft(f"table inet {name}\ndelete table inet {name}\n")


def other_tables() -> str:
    """Listings of other programs' tables that may drop what is forwarded, without counters and named sets."""
    return "".join(_nft(f"list table {name}\n", "-s", "-t") for name in filters.judged_tables(_nft("list chains\n")))


# -- routes and devices ---------------------------------------------------------------------------------------


def set_guard_routes(subnets: Iterable[Network], number: int) -> None:
    """Set the `unreachable` route of each, marked as this fwd's."""
    with IPRoute() as ip:
        for subnet in subnets:
            try:
                ip.route("replace", **_guard(subnet), proto=number)
            except NetlinkError as error:
                raise UserError(f"route unreachable {subnet} (leak guard): {error.args[-1]}") from None


def remove_guard_routes(subnets: Iterable[Network]) -> None:
    """Remove them; what is gone already is not missed."""
    with IPRoute() as ip:
        for subnet in subnets:
            with contextlib.suppress(NetlinkError):
                ip.route("del", **_guard(subnet))


def drop_routes(device: str, subnets: Iterable[Network]) -> None:
    """Route these to the device no more; what is gone already, or goes elsewhere by now, is not missed."""
    with IPRoute() as ip:
        for index in ip.link_lookup(ifname=device):
            for subnet in subnets:
                with contextlib.suppress(NetlinkError):
                    ip.route("del", dst=str(subnet), oif=index, family=FAMILIES[subnet.version])


def drop_outer_routes(routes: Iterable[Route]) -> None:
    """Remove these; what is gone already is not missed."""
    with IPRoute() as ip:
        for one in routes:
            with contextlib.suppress(NetlinkError):
                ip.route(
                    "del", dst=str(one.subnet), oif=one.device, family=FAMILIES[one.subnet.version], proto=one.owner
                )


def carry_out(steps: Collection[tuple[Step, Device]], number: int) -> None:
    """Do what is to be done of devices that are there, one after the other."""
    if not steps:
        return
    with IPRoute() as ip:
        for step, device in steps:
            try:
                _carry_out(ip, step, device, number)
            except NetlinkError as error:
                raise UserError(f"{step}: {error.args[-1]}{_hint(step, error.code)}") from None


def _carry_out(ip: IPRoute, step: Step, device: Device, number: int) -> None:
    if step.do is Do.OUTER:
        assert step.subnet is not None
        assert step.hop is not None
        via = {} if step.hop.via is None else {"gateway": str(step.hop.via), "flags": ["onlink"]}
        family = FAMILIES[step.subnet.version]
        ip.route("replace", dst=str(step.subnet), family=family, oif=step.hop.device, proto=number, **via)
        return
    if step.do is Do.ROUTE:
        assert step.subnet is not None
        _set_route(ip, step.subnet, device, number, step.source)
        return
    for change in _changes(step.do, device):
        ip.link("set", index=device.index, **change)


def _hint(step: Step, code: int) -> str:
    """What an operator can make of the kernel's refusal."""
    if step.subnet and step.subnet.version == 6 and code == errno.EACCES:
        return "; it has no IPv6: set the sysctls net.ipv6.conf.default.disable_ipv6, and of the device, to 0"
    if step.do is Do.ROUTE and code == errno.EEXIST:
        return f": another's of metric {_FIRST} is there"
    return ""


def _set_route(ip: IPRoute, subnet: Network, device: Device, number: int, source: Address | None) -> None:
    """Route a subnet to the device, before whatever route of others there is: that stays, and holds again without fwd.

    In place of ours, or of one that goes with the device anyway. Raises NetlinkError.
    """
    family = FAMILIES[subnet.version]
    own: dict[str, object] = {"dst": str(subnet), "oif": device.index, "family": family, "proto": number}
    wanted = {**own, "type": "unicast", **({} if source is None else {"prefsrc": str(source)})}
    if subnet.version == 6:
        wanted["priority"] = _FIRST
    if _first_is_ours(ip, subnet, device):
        ip.route("replace", **wanted)
        return
    with contextlib.suppress(NetlinkError):  # behind another's
        ip.route("del", **own)
    ip.route(_BEFORE_OTHERS if subnet.version == 4 else "add", **wanted)


def _first_is_ours(ip: IPRoute, subnet: Network, device: Device) -> bool:
    """Whether the kernel uses, for exactly this subnet, a route that we may replace."""
    asked = {"dst": str(subnet.network_address), "family": FAMILIES[subnet.version], "flags": _FIB_MATCH}
    try:
        (first,) = ip.route("get", **asked)
    except (NetlinkError, ValueError):
        return False
    by_device: bool = first.get_attr("RTA_OIF") == device.index
    return first["dst_len"] == subnet.prefixlen and by_device and first.get_attr("RTA_TABLE") == MAIN_TABLE


def _changes(do: Do, device: Device) -> list[dict[str, object]]:
    """What of the link is set by a step, one after the other."""
    down: dict[str, object] = {"state": "down"}
    up: dict[str, object] = {"state": "up"}
    no_link_local: dict[str, object] = {
        "IFLA_AF_SPEC": {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", GEN_MODE_NONE)]})]}
    }
    of: dict[Do, list[dict[str, object]]] = {
        Do.MTU: [{"mtu": device.mtu_bytes}],
        Do.QUEUE: [{"txqlen": device.queue_records}],
        Do.SEGMENTS: [{"gso_max_segs": device.segments_max}],
        Do.GEN_MODE: [no_link_local],
        Do.UP: [up],
        # The first start brings IPv6 back, with an address; the second one leaves that out.
        Do.IPV6: [down, up, no_link_local, down, up],
    }
    return of[do]


def has_address(asks: Kernel, address: Address) -> bool:
    """Whether this host has `address`."""
    return any(own.address == address for own in asks.addresses())


def route_mtu(local: Address, remote: Address) -> int:
    """What the route to `remote` takes by itself: its own metric, or else what its device takes; 0: no route.

    What ICMP has told of the path is not in it: the kernel forgets that after minutes (RFC 1191 §6.3).
    """
    wanted = {"dst": str(remote), "src": str(local), "family": FAMILIES[local.version]}
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


def _guard(subnet: Network) -> dict[str, object]:
    family = FAMILIES[subnet.version]
    return {"dst": str(subnet), "type": "unreachable", "priority": guards.METRIC, "family": family}


def _nft(commands: str, *options: str) -> str:
    """Let nft carry out `commands`, as one transaction; what it prints."""
    return _begin_nft(commands, *options)()


def _begin_nft(commands: str, *options: str) -> Callable[[], str]:
    """Begin to; calling what is returned waits for the end."""
    binary = shutil.which("nft", path=NFT_PATH)
    if binary is None:
        raise UserError("nft is missing: the leak guards need it; install the package nftables")
    with os.fdopen(os.memfd_create("nft"), "w+b", buffering=0) as script:
        script.write(commands.encode())
        script.seek(0)
        # In a session of its own: ^C at the terminal is for fwd, and is no reason to leave a table where it is.
        process = subprocess.Popen(
            [binary, *options, "-f", "-"], stdin=script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
    return partial(_end_nft, process)


def _end_nft(process: subprocess.Popen[str]) -> str:
    with process:
        try:
            printed, said = process.communicate(timeout=_NFT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise UserError(f"nft does not answer within {_NFT_S:.0f} s: the leak guards need it") from None
    if process.returncode:
        reason = said.strip().splitlines()[0] if said.strip() else f"exit status {process.returncode}"
        raise UserError(f"nft refuses the leak guards: {reason}")
    return printed


def _raise(error: Exception) -> NoReturn:
    raise error

"""What fwd changes in the host's network: routes to the TUN devices and the leak guards; and how it is undone.

Guards (design rule 4) hold while fwd is dead, too: an `unreachable` route of high metric for each remote subnet, and an
nftables table that drops packets from a remote subnet that did not come out of the TUN device, and packets to one that
would leave by anything else. Both survive a crash; a clean stop removes them. Refuses: a host where they cannot be set.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import socket
import subprocess
from collections.abc import Iterable
from ipaddress import ip_address, ip_interface

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from fwd.config import Address, Network, Peering
from fwd.proto.errors import UserError

GUARD_METRIC = 1_000_000
_ADDR_GEN_MODE_NONE = 1
_QUEUE_RECORDS = 1000  # of the TUN device: small packets that come while the demux waits for a core
_PACKETS_OF_A_SUPER_PACKET = 64
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def table_name(peering: Peering) -> str:
    """The peering's nftables table."""
    return "fwd_" + peering.name.replace("-", "_")


def ruleset(peering: Peering) -> str:
    """The table as nft reads it: made anew in one transaction, whatever was there."""
    name, tun = table_name(peering), peering.tun
    inward, outward = [], []
    for version, family in ((4, "ip"), (6, "ip6")):
        subnets = ", ".join(str(n) for n in peering.remote_ts if n.version == version)
        if subnets:
            inward.append(f'iifname != {{ "{tun}", "lo" }} {family} saddr {{ {subnets} }} counter drop')
            outward.append(f'oifname != {{ "{tun}", "lo" }} {family} daddr {{ {subnets} }} counter drop')
    clamp = []
    if peering.payload == "esp" and peering.mss_clamp:
        # Both ways: `rt mtu` is the smaller of the route to the destination and the one back to the source.
        clamp = [
            f'{way} "{tun}" tcp flags syn / syn,rst tcp option maxseg size set rt mtu' for way in ("oifname", "iifname")
        ]
    chains = (
        ("from_wire", "type filter hook prerouting priority raw; policy accept;", inward),
        ("to_wire", "type filter hook postrouting priority filter; policy accept;", outward),
        ("clamp", "type filter hook forward priority mangle; policy accept;", clamp),
    )
    body = "\n".join(f"chain {c} {{ {hook}\n" + "\n".join(rules) + "\n}" for c, hook, rules in chains)
    return f"table inet {name}\ndelete table inet {name}\ntable inet {name} {{\n{body}\n}}\n"


def set_guards(peering: Peering) -> None:
    """Set both guards; they replace what an earlier run left."""
    _nft(ruleset(peering))
    with IPRoute() as ip:
        for subnet in peering.remote_ts:
            try:
                ip.route("replace", **_guard(subnet))
            except NetlinkError as error:
                raise UserError(f"route unreachable {subnet} (leak guard): {error.args[-1]}") from None


def remove_guards(peering: Peering) -> None:
    """The clean stop's part; what is gone already is not missed."""
    with contextlib.suppress(UserError):
        _nft(f"table inet {table_name(peering)}\ndelete table inet {table_name(peering)}\n")
    remove_guard_routes(peering.remote_ts)


def remove_guard_routes(subnets: Iterable[Network]) -> None:
    """Of subnets that are nobody's any more."""
    with IPRoute() as ip:
        for subnet in subnets:
            with contextlib.suppress(NetlinkError):
                ip.route("del", **_guard(subnet))


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


def add_routes(peering: Peering) -> None:
    """Route the remote subnets to the TUN device, from a source address that the selectors allow.

    Without `src` the kernel would give the gateway's own packets its outer address, which no selector allows.
    """
    with IPRoute() as ip:
        index = ip.link_lookup(ifname=peering.tun)[0]
        sources = inner_addresses(ip, peering.local_ts)
        for subnet in peering.remote_ts:
            route = {"dst": str(subnet), "oif": index, "family": _FAMILIES[subnet.version]}
            if subnet.version in sources:
                route["prefsrc"] = str(sources[subnet.version])
            try:
                ip.route("replace", **route)
            except NetlinkError as error:
                hint = ""
                if subnet.version == 6 and error.code == errno.EACCES:
                    hint = "; new devices have no IPv6 here: set the sysctl net.ipv6.conf.default.disable_ipv6 to 0"
                raise UserError(f"route {subnet} dev {peering.tun}: {error.args[-1]}{hint}") from None


def set_mtu(tun: str, mtu_bytes: int) -> None:
    """Change the MTU of a TUN device (payload esp, when the path turns out smaller)."""
    with IPRoute() as ip:
        for index in ip.link_lookup(ifname=tun):
            ip.link("set", index=index, mtu=mtu_bytes)


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


def _guard(subnet: Network) -> dict[str, object]:
    return {
        "dst": str(subnet),
        "type": "unreachable",
        "priority": GUARD_METRIC,
        "family": _FAMILIES[subnet.version],
    }


def _nft(rules: str) -> None:
    binary = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if binary is None:
        raise UserError("nft is missing: the leak guards need it; install the package nftables")
    done = subprocess.run([binary, "-f", "-"], input=rules, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[0] if done.stderr.strip() else f"exit status {done.returncode}"
        raise UserError(f"nft refuses the leak guards: {reason}")

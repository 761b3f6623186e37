"""Which slot of a router's table a flow hashes to: asked of the kernel itself.

The kernel says which gateway it chose, and many slots have the same one. So the same table is made in a network
namespace of its own, where each slot has a neighbour of its own, with the same settings of the hash; the seed that a
kernel draws at boot is the same in all of its namespaces. Nothing of the host's is touched, and the namespace is gone
with its thread. Needs root.
"""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from typing import Final

import pytun
from pyroute2 import IPRoute

from fwd.proto.sample import Address, Flow
from fwd.router.kernel import group_id, members_of
from fwd.router.nexthop import NextHops, Target, Way
from fwd.router.slots import SLOTS
from fwd.tools.route import look_up

_CLONE_NEWNET: Final = 0x40000000
_NET: Final = Path("/proc/sys/net")  # of the namespace of the thread that looks
_DEVICE: Final = "slots"
# Link-local addresses, which no flow has that a router spreads.
_NEAR: Final[dict[int, Address]] = {4: IPv4Address("169.254.64.0"), 6: IPv6Address("fe80:66::")}
_LENGTHS: Final = {4: 18, 6: 64}
_HASH: Final = ("fib_multipath_hash_policy", "fib_multipath_hash_fields")
_SEED: Final = "ipv4/fib_multipath_hash_seed"


def slot_of(flow: Flow) -> int:
    """Return the slot. Raises OSError if the kernel gives no namespace or device."""
    names = [f"ipv{flow.source.version}/{one}" for one in _HASH] + [_SEED]
    settings = {name: (_NET / name).read_text() for name in names if (_NET / name).exists()}
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_within, flow, settings).result()


def _within(flow: Flow, settings: dict[str, str]) -> int:
    """Make the table in a namespace of this thread's own, and look the flow up as a packet that is forwarded."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    version = flow.source.version
    own, length = _NEAR[version] + 1, _LENGTHS[version]
    neighbours = [own + 1 + slot for slot in range(SLOTS)]
    tun = pytun.TunTapDevice(name=_DEVICE, flags=pytun.IFF_TUN | pytun.IFF_NO_PI)
    try:
        with IPRoute() as ip:
            (index,) = ip.link_lookup(ifname=_DEVICE)
            ip.link("set", index=index, state="up")
            ip.addr("add", index=index, address=str(own), prefixlen=length)
        for name, value in settings.items():
            _write(name, value)
        for name in ("ipv4/ip_forward", f"ipv{version}/conf/all/forwarding"):
            _write(name, "1")
        for name in ("all", _DEVICE):
            _write(f"ipv4/conf/{name}/rp_filter", "0")
        return _chosen(flow, index, neighbours)
    finally:
        tun.close()


def _chosen(flow: Flow, device: int, neighbours: list[Address]) -> int:
    version, hops = flow.source.version, NextHops()
    try:
        group = group_id(0, version)
        members = members_of(group)
        hops.point({member: Target(device, one) for member, one in zip(members, neighbours, strict=True)})
        hops.make_group(group, members)
        hops.route([Way(ip_network(flow.destination), group)])
        route = look_up(flow, _DEVICE)
    finally:
        hops.close()
    if route.gateway not in neighbours:
        raise OSError(0, f"the kernel chose {route.gateway or route.stopped}")
    return neighbours.index(route.gateway)


def _write(name: str, value: str) -> None:
    (_NET / name).write_text(value)

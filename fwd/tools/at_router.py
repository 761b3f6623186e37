"""A flow at a router: slot and gateway, by the kernel's table, and what the router says of that gateway."""

from __future__ import annotations

import array
import contextlib
import fcntl
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fwd.model.trace import Trace
from fwd.proto.errors import UserError
from fwd.proto.sample import Flow
from fwd.router.client import ask
from fwd.router.nexthop import NextHops, Target
from fwd.tools.route import Route
from fwd.tools.slot import slot_of

_SIOCETHTOOL: Final = 0x8946
_GET_FLAGS, _RX_HASH = 0x25, 1 << 28


@dataclass(frozen=True)
class Hop:
    """A slot of the table that the flow's destination is routed to, and where it points."""

    slot: int
    target: Target


def is_router() -> bool:
    """Whether the kernel has what a router of fwd's has programmed. Raises OSError."""
    kernel = NextHops()
    try:
        return bool(kernel.owned())
    finally:
        kernel.close()


def hop_of(flow: Flow, route: Route) -> Hop | None:
    """Return the flow's slot in the router's table; None if the route that the kernel chose is none of a router's."""
    kernel = NextHops()
    try:
        owned = kernel.owned()  # first: a socket's first dump is too small for a route over 256 next hops
        ways = [one for one in kernel.ways() if one.group is not None and flow.destination in one.network]
        best = max(ways, key=lambda one: one.network.prefixlen, default=None)
        if best is None or best.group is None or route.gateway is None:
            return None
    finally:
        kernel.close()
    members = owned.get(best.group)
    if not isinstance(members, tuple) or not any(_points_at(owned.get(one), route) for one in members):
        return None
    slot = slot_of(flow)
    target = owned.get(members[slot])
    return Hop(slot, target) if isinstance(target, Target) else None


def _points_at(target: object, route: Route) -> bool:
    return isinstance(target, Target) and target.gateway == route.gateway


def follow(found: Trace, flow: Flow, device: str, route: Route, hop: Hop, control: Path) -> None:
    """Add the way through the router's table. `device`: by which the flow comes in."""
    found.here = "router"
    if hop.target.gateway != route.gateway:
        found.notes.append("the table has changed between two looks: ask again for the slot")
    spread, gateway = _named(control, route, found)
    name = gateway["name"] if gateway else str(route.gateway)
    found.facts |= {"slot": hop.slot, "gateway": name, "address": str(route.gateway), "spread": spread}
    of_spread = f" of spread {spread}" if spread else ""
    found.there.append(f"slot {hop.slot}{of_spread}: gateway {name}, {route.gateway} on {route.device}")
    if gateway is not None and gateway["use"] == "down":
        found.breaks.append(f"gateway {name} is down: {gateway['why']}; of a set that is all down the last one stays")
    if device and hashes_itself(device):
        found.notes.append(
            f"{device} gives packets a hash of its own (rxhash), by which Linux then chooses the slot instead: "
            f"`ethtool -K {device} rxhash off` makes it the one above"
        )
    found.back.append(f"by whichever gateway the far side sends it to, in by {route.device}")
    found.notes.append(f"member and SA are told on {name}, the way back on the far side: `fwd path` there")


def _named(control: Path, route: Route, found: Trace) -> tuple[str, dict[str, Any] | None]:
    """The spread and the gateway that have this next hop, by the router that runs."""
    try:
        told = ask(control)
    except UserError as error:
        found.notes.append(f"the router's own view is missing: {error}")
        return "", None
    for spread in told["spreads"]:
        for gateway in spread["gateways"]:
            if str(route.gateway) in gateway.get("addresses", ()):
                return spread["name"], gateway
    return "", None


def hashes_itself(device: str) -> bool:
    """Whether a device's received packets carry a hash of its own (`ethtool -k`: receive-hashing)."""
    value = array.array("B", struct.pack("II", _GET_FLAGS, 0))
    request = struct.pack("16sP", device.encode(), value.buffer_info()[0])
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCETHTOOL, request)
        return bool(struct.unpack("II", value.tobytes())[1] & _RX_HASH)
    return False

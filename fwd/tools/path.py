"""`fwd path`: which way a flow goes through this host, a router or a gateway, and back; and where that breaks.

Nothing is guessed: next hop and slot are the kernel's word (route.py, slot.py), bucket and member the running gateway's
(agent/flow.py). What other hosts choose is theirs to say: the same command there. On a host that is neither, the
controller tells by what the flow can go. Changes nothing. Needs root on a router or gateway.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from fwd.agent.client import ask as ask_gateway
from fwd.controller import way
from fwd.model.trace import Trace
from fwd.proto.errors import UserError
from fwd.proto.flow import TCP, UDP
from fwd.proto.sample import Flow
from fwd.tools import at_gateway, at_router
from fwd.tools.fleet import fetch
from fwd.tools.route import Route, device_towards, look_up

_NOBODY: Final = "neither a gateway nor a router of fwd's takes it on this host"


def run(flow: Flow, control: Path, router_control: Path, *, as_json: bool) -> tuple[str, int]:
    """Return what to print, and the exit status: 0 if the flow passes here, 1 if not. Raises UserError."""
    is_here = control.exists() or router_control.exists() or at_router.is_router()
    if is_here and os.geteuid() != 0:
        raise UserError("fwd path needs root here: it asks the kernel in a namespace of its own, and fwd's sockets")
    try:
        found = trace(flow, control, router_control) if is_here else in_fleet(flow)
    except OSError as error:
        raise UserError(f"the kernel does not tell the way: {error.strerror or error}") from None
    text = json.dumps(asdict(found), indent=2) if as_json else "\n".join(_lines(found))
    return text, 1 if found.breaks else 0


def trace(flow: Flow, control: Path, router_control: Path) -> Trace:
    """Follow a flow through this host. Raises OSError, UserError."""
    found = Trace(flow.as_json())
    entry = device_towards(flow.source)
    device = "" if entry.is_local else entry.device
    if entry.stopped:
        found.breaks.append(f"the kernel has no way back to {flow.source}: {entry.stopped}")
        return found
    found.there.append(f"comes in by {device}" if device else "begins on this host")
    route = look_up(flow, device)
    if route.stopped:
        found.breaks.append(f"the kernel drops it: {route.stopped}")
        return found

    # Who has the device or the next hop that the kernel chose.
    if control.exists() and (peering := _peering_of(control, flow, route)) is not None:
        at_gateway.follow(found, flow, peering, ask_gateway(control))
    elif (hop := at_router.hop_of(flow, route)) is not None:
        at_router.follow(found, flow, device, route, hop, router_control)
    else:
        found.breaks.append(f"{_NOBODY}: it {_leaves(flow, route)}, round the tunnels")
        return found

    # The replies come in where the flow goes out.
    found.facts["device"] = route.device
    reply = look_up(flow.back, route.device)
    if reply.stopped:
        found.breaks.append(f"the kernel drops what comes back by {route.device}: {reply.stopped}")
    else:
        found.back.append("ends on this host" if reply.is_local else f"{_leaves(flow.back, reply)}")
    return found


def in_fleet(flow: Flow) -> Trace:
    """Ask the controller, on a host that no flow passes. Raises UserError."""
    found = Trace(flow.as_json())
    try:
        fleet = fetch()
    except UserError as error:
        raise UserError(f"no router or gateway runs here, and the controller does not tell either: {error}") from None
    way.follow(found, flow, fleet)
    return found


def _peering_of(control: Path, flow: Flow, route: Route) -> dict[str, Any] | None:
    """What the running gateway says of the peering whose TUN device it is."""
    told = ask_gateway(control, "flow", flow.as_json())
    return next((one for one in told["peerings"] if one["tun"] == route.device), None)


def _leaves(flow: Flow, route: Route) -> str:
    if route.is_local:
        return "ends on this host"
    return f"leaves by {route.device} to {route.gateway or flow.destination}"


def _lines(found: Trace) -> list[str]:
    flow = found.flow
    names = {TCP: "tcp", UDP: "udp"}
    ports = f", ports {flow['source_port']} to {flow['destination_port']}" if flow["protocol"] in names else ""
    where = {"": "", "fleet": ", as the controller sees it"}.get(found.here, f", on this {found.here}")
    lines = [f"{flow['source']} to {flow['destination']}, {names.get(flow['protocol'], 'icmp')}{ports}{where}"]
    for title, told in (("there", found.there), ("back", found.back)):
        lines += [f"  {title + ':' if not number else '':7}{line}" for number, line in enumerate(told)]
    lines += [f"  note:  {one}" for one in found.notes]
    known = "known there" if found.here == "fleet" else "on this host"
    lines += [f"breaks here: {one}" for one in found.breaks] or [f"nothing {known} breaks it"]
    return lines

"""How the gateway stands with its controller, of what the supervisor and link tell; and what link passes on of the
status, for the controller.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from heapq import nlargest
from typing import Any

from fwd.agent.view import GatewayView
from fwd.datapath.shared import GatewayShared, ProcessState
from fwd.model import linked, status
from fwd.model.linked import NOTHING, Validity, news_in, told_in
from fwd.model.reasons import Code, folded

Identities = Mapping[str, Sequence[str]]
_LINES_MAX = 16
_LINE_CHARACTERS_MAX = 300
_MEMBERS_TOLD_MAX = 64  # of all peerings together: some 250 octets each
_DROPS_TOLD_MAX = 256  # reasons, of all peerings together: some 50 octets each
_SPIS_MAX = 4


def is_joined(view: GatewayView) -> bool:
    """Whether there is a link."""
    return view.shared.link.state is not ProcessState.STOPPED


def controller_of(shared: GatewayShared, news: Mapping[str, Any], now_s: float) -> status.Controller | None:
    """Return how it stands; `news`: what the supervisor tells, or the router."""
    told = news_in(news.get("controller"))
    if told is None:
        return None

    # What link tells is of its last life: a connection is one only while it runs.
    of_link = told_in(shared.link_told.get())
    runs = shared.link.state is ProcessState.RUNNING
    connected_at = of_link.connected_at if runs else None

    return status.Controller(
        url=told.url,
        name=told.name,
        connected=connected_at is not None,
        connected_s=_age(connected_at, now_s),
        heard_s=_age(of_link.heard_at, now_s),
        error=of_link.error if runs else "link does not run",
        clock_s=of_link.clock_s,
        applied=_order(told.applied),
        newest=_order(max(of_link.newest, told.seen)),
        held=_order(told.held or NOTHING),
        held_why=told.held_why,
        refused=told.refused,
        link_until=_until(told.link),
        ike_until=_until(told.ike),
    )


def identities_of(view: GatewayView) -> Identities:
    """Return what IKE calls each peering's far gateways, in their order; with lab keys there is nothing."""
    configs = [one.config for one in view.peerings if one.config.ike]
    return {one.name: [one.towards(far).remote_id for far in one.fars] for one in configs}


def routers_of(view: GatewayView) -> dict[str, float] | None:
    """Return from which addresses routers have probed, and how long ago; None: there is no beacon."""
    if view.shared.beacon.state is ProcessState.STOPPED:
        return None
    return {one: round(age_s, 1) for one, age_s in view.shared.beacon_heard.ages_s(time.monotonic_ns()).items()}


def rekeys_of(view: GatewayView) -> dict[str, float]:
    """Return after how many seconds each peering's SAs are rekeyed at the latest; those without a time are left out."""
    configs = [one.config for one in view.peerings if one.config.ike]
    return {one.name: float(one.rekey_time) for one in configs if one.rekey_time}


def summary(
    whole: status.Status,
    identities: Identities,
    routers: Mapping[str, float] | None = None,
    rekeys_s: Mapping[str, float] | None = None,
) -> bytes:
    """Return what the controller is told of a status, as JSON; it always fits."""
    lines = [one.line[:_LINE_CHARACTERS_MAX] for one in folded(whole.reasons, 2)][:_LINES_MAX]
    waiting = {one.peering for one in whole.reasons if one.peering}
    general = any(not one.peering for one in whole.reasons)
    peerings = [
        _peering(one, identities.get(one.name, ()), ready=not general and one.name not in waiting)
        for one in whole.peerings
    ]

    # Of each member what a page shows, as far as there is room.
    room = _MEMBERS_TOLD_MAX
    for table, one in zip(peerings, whole.peerings, strict=True):
        told_members = one.members[:room]
        room -= len(told_members)
        rekey_s = (rekeys_s or {}).get(one.name)
        table["each"] = [_member(member, one, identities.get(one.name, ()), rekey_s) for member in told_members]
        table["drops"] = {}

    # And the most of what was dropped: a peer can have each peering drop for every reason that there is.
    dropped = (
        (count, number, reason)
        for number, one in enumerate(whole.peerings)
        for reason, count in one.drops.items()
        if count
    )
    for count, number, reason in nlargest(_DROPS_TOLD_MAX, dropped):
        peerings[number]["drops"][reason] = count

    draining = any(one.code == Code.DRAINING for one in whole.reasons)
    told = {
        "ready": whole.ready, "draining": draining, "waiting": lines, "peerings": peerings,
        "uptime_s": whole.gateway.uptime_s, "rekeys": True,  # it takes documents that want it
    }  # fmt: skip
    return json.dumps(told if routers is None else {**told, "routers": routers}).encode()


def _peering(one: status.Peering, identities: Sequence[str], *, ready: bool) -> dict[str, Any]:
    up = [member for member in one.members if member.path == "up" and member.spi_out is not None]
    far = [
        {"identity": identity, "up": far.state == "up", **_path([m for m in up if m.index in far.members])}
        for identity, far in zip(identities, one.far, strict=False)
    ]
    carried = sum(member.out.bytes + member.in_.bytes for member in one.members)
    return {
        "name": one.name, "ready": ready, "members": len(up), "loss": _loss(up), "bytes": carried, "far": far,
        "keys_s": _oldest_s(one),
    }  # fmt: skip


def _oldest_s(one: status.Peering) -> int | None:
    """Return the age of the oldest SA on which a member sends; None: one sends on none, or it is not known.

    Members whose far gateway has gone are on their way out, and have no SA any more.
    """
    paired = {index for far in one.far for index in far.members}
    ages = {(child.member, child.spi_out): child.age_s for sa in one.ike_sas for child in sa.children}
    found = [ages.get((member.index, member.spi_out or "")) for member in one.members if member.index in paired]
    known = [age_s for age_s in found if age_s is not None]
    return max(known, default=None) if len(known) == len(found) else None


def _member(
    one: status.Member, peering: status.Peering, identities: Sequence[str], rekey_s: float | None
) -> dict[str, Any]:
    """Say how a member is; ages are those of the SA that it sends on."""
    sas = (child for sa in peering.ike_sas for child in sa.children)
    sa = next((child for child in sas if child.member == one.index and child.spi_out == one.spi_out), None)
    age_s = sa.age_s if sa is not None else None
    far = next((name for name, far in zip(identities, peering.far, strict=False) if one.index in far.members), "")
    return {
        "index": one.index, "state": one.state, "path": one.path, "far": far, "mtu": one.path_mtu,
        "restarts": one.restarts, "out": one.out.bytes, "in": one.in_.bytes, "buckets": one.buckets,
        "spi_out": one.spi_out, "spis_in": list(one.spis_in)[-_SPIS_MAX:], "age_s": age_s,
        "rekey_s": max(0, round(rekey_s - age_s)) if rekey_s is not None and age_s is not None else None,
        "ends_s": sa.ends_s if sa is not None else None,
    }  # fmt: skip


def _path(members: Sequence[status.Member]) -> dict[str, float | None]:
    """Say how the paths to one far gateway are."""
    return {"loss": _loss(members), "rtt_ms": max((m.rtt_ms for m in members if m.rtt_ms is not None), default=None)}


def _loss(members: Sequence[status.Member]) -> float:
    return round(sum(member.loss for member in members) / len(members), 4) if members else 0.0


def _age(at: float | None, now_s: float) -> float | None:
    return None if at is None else round(max(0.0, now_s - at), 1)


def _order(order: linked.Order) -> status.Order | None:
    return None if order == NOTHING else status.Order(term=order[0], generation=order[1])


def _until(life: Validity | None) -> int | None:
    return None if life is None else life.ends

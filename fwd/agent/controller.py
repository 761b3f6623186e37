"""How the gateway stands with its controller, of what the supervisor and link tell; and what link passes on of the
status, for the controller.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fwd.agent.view import GatewayView
from fwd.datapath.shared import ProcessState
from fwd.model import linked, status
from fwd.model.linked import NOTHING, Validity, news_in, told_in
from fwd.model.reasons import folded

_LINES_MAX = 16
_LINE_CHARACTERS_MAX = 300


def is_joined(view: GatewayView) -> bool:
    """Whether there is a link."""
    return view.shared.link.state is not ProcessState.STOPPED


def controller_of(view: GatewayView, news: Mapping[str, Any], now_s: float) -> status.Controller | None:
    """Return how it stands; `news`: what the supervisor tells."""
    told = news_in(news.get("controller"))
    if told is None:
        return None
    of_link = told_in(view.shared.link_told.get())
    runs = view.shared.link.state is ProcessState.RUNNING
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


def summary(whole: status.Status) -> bytes:
    """Return what the controller is told of a status, as JSON; it always fits."""
    lines = [one.line[:_LINE_CHARACTERS_MAX] for one in folded(whole.reasons, 2)][:_LINES_MAX]
    waiting = {one.peering for one in whole.reasons if one.peering}
    general = any(not one.peering for one in whole.reasons)
    peerings = [_peering(one, ready=not general and one.name not in waiting) for one in whole.peerings]
    return json.dumps({"ready": whole.ready, "waiting": lines, "peerings": peerings}).encode()


def _peering(one: status.Peering, *, ready: bool) -> dict[str, Any]:
    up = [member for member in one.members if member.path == "up" and member.spi_out is not None]
    loss = sum(member.loss for member in up) / len(up) if up else 0.0
    far = [{"address": far.address, "up": far.state == "up"} for far in one.far]
    return {"name": one.name, "ready": ready, "members": len(up), "rtt_ms": None, "loss": round(loss, 4), "far": far}


def _age(at: float | None, now_s: float) -> float | None:
    return None if at is None else round(max(0.0, now_s - at), 1)


def _order(order: linked.Order) -> status.Order | None:
    return None if order == NOTHING else status.Order(term=order[0], generation=order[1])


def _until(life: Validity | None) -> int | None:
    return None if life is None else life.ends

"""What of a host's status is worth a heartbeat of its own: whether it can carry, and whom it reaches; pure.

A person who looks at a dashboard wants to know that at once, and the rest once a second. A path that comes and goes
makes no storm: such heartbeats are BEAT_S apart, too.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

_ROWS_MAX = 64  # of each list, as the controller looks at no more


def standing_in(status: object) -> Hashable:
    """Pick it out of a router's or a gateway's summary, of whatever form that is."""
    told = status if isinstance(status, dict) else {}
    hops = tuple((str(one.get("name")), one.get("up") is True, str(one.get("use"))) for one in _rows(told, "gateways"))
    pairs = tuple(
        (str(one.get("name")), one.get("ready") is True, tuple(far.get("up") is True for far in _rows(one, "far")))
        for one in _rows(told, "peerings")
    )
    return told.get("ready") is True, told.get("draining") is True, hops, pairs


def _rows(table: dict[str, Any], key: str) -> Iterable[dict[str, Any]]:
    found = table.get(key)
    return (one for one in found[:_ROWS_MAX] if isinstance(one, dict)) if isinstance(found, list) else ()

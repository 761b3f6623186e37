"""A fleet as the API tells it: two VPCs, a router and two gateways in the first, one in the second."""

from __future__ import annotations

import copy
from typing import Any

NOW = 1_000_000.0


def host(name: str, vpc: str, state: str, reason: str = "", since: float | None = NOW - 90) -> dict[str, Any]:
    health: dict[str, Any] = {"state": state, "reason": reason, "since": since, "evidence": []}
    return {"name": name, "vpc": vpc, "inner": ["10.1.0.11"], "state": "active", "health": health, "held": None}


_FLEET: dict[str, list[dict[str, Any]]] = {
    "vpcs": [{"name": "vpc1", "cidrs": ["10.1.0.0/16", "fd00:1::/64"]}, {"name": "vpc2", "cidrs": ["10.2.0.0/16"]}],
    "clusters": [
        {"name": "c1", "vpc": "vpc1", "gateways": ["a1", "a-2"]},
        {"name": "c2", "vpc": "vpc2", "gateways": ["b1"]},
        {"name": "spare", "vpc": "vpc1", "gateways": ["a3"]},
    ],
    "gateways": [
        host("a-2", "vpc1", "down", "not reached by r1"), host("a1", "vpc1", "up"),
        host("a3", "vpc1", "joining", "it has not joined yet", None), host("b1", "vpc2", "degraded", "loses 3.0%"),
    ],
    "routers": [host("r1", "vpc1", "up")],
    "peerings": [
        {"name": "one-two", "clusters": ["c1", "c2"], "path": "internet", "payload": "superpacket",
         "state": "degraded", "pairs": 2, "pairs_up": 1},
    ],
    "pairs": [
        {"peering": "one-two", "a": "a1", "b": "b1", "state": "up", "rtt_ms": 1.25, "loss": 0.001},
        {"peering": "one-two", "a": "a-2", "b": "b1", "state": "down", "rtt_ms": None, "loss": 0.0},
    ],
}  # fmt: skip


def fleet() -> dict[str, list[dict[str, Any]]]:
    """One that a test may change."""
    return copy.deepcopy(_FLEET)

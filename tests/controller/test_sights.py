"""What of hosts' words counts for others: a router's for gateways, gateways' for a router that is silent."""

from __future__ import annotations

from typing import Any

import pytest

from fwd.controller.health import FRESH_S, Evidence, Health, Report, Sight, judge
from fwd.controller.sights import sights_in
from fwd.model.fleet import Fleet

NOW = 1000.0
OLD = NOW - FRESH_S - 1
FLEET = Fleet.model_validate(
    {
        "vpcs": [{"name": "a", "cidrs": ["10.1.0.0/16"]}, {"name": "b", "cidrs": ["10.2.0.0/16"]}],
        "gateways": [
            {"name": name, "vpc": name[0], "outer": f"192.0.2.{n}", "inner": [f"10.{net}.0.{n}"]}
            for name, net, n in (("a1", 1, 11), ("a2", 1, 12), ("b1", 2, 21))
        ],
        "clusters": [{"name": "a", "vpc": "a", "gateways": ["a1"]}, {"name": "b", "vpc": "b", "gateways": ["b1"]}],
        "routers": [{"name": "ra", "vpc": "a", "inner": ["10.1.0.2"]}],
        "peerings": [{"name": "a-b", "clusters": ["a", "b"], "number": 0}],
    }
)


def of_router(gateway: dict[str, Any], router: tuple[float, dict[str, Any]] | None = (OLD, {})) -> list[Sight]:
    said = {"a1": (NOW, gateway), "b1": (NOW, {"routers": {"10.1.0.2": 0.0}}), "a2": (NOW, {"routers": {}})}
    found = sights_in(FLEET, (), said | ({"ra": router} if router else {}), NOW)
    return list(found.partners.get("ra", ()))


@pytest.mark.parametrize(
    ("gateway", "router", "up"),
    [
        ({"routers": {"10.1.0.2": 0.1}}, (OLD, {}), [True]),
        ({"routers": {"10.1.0.2": 3.0}}, (OLD, {}), [False]),
        ({"routers": {"10.1.0.3": 0.1}}, (OLD, {}), [False]),
        ({"routers": {"10.1.0.3": 0.1}}, (OLD, {"addresses": ["10.1.0.3"]}), [True]),
        ({"routers": {}}, (OLD, {}), [False]),
        ({"routers": {"10.1.0.2": "soon"}}, (OLD, {"addresses": 7}), [False]),
        ({}, (OLD, {}), []),
        ({"routers": ["10.1.0.2"]}, (OLD, {}), []),
        ({"routers": {}}, (NOW, {"ready": True}), []),
        ({"routers": {}}, (NOW, {"stalled": True}), [False]),
        ({"routers": {}}, None, [False]),
    ],
    ids=[
        "was probed", "not for a while", "by another", "from an address that it had", "by nobody", "nonsense",
        "has no beacon", "another nonsense", "it speaks itself", "it speaks, and does not go on", "it never spoke",
    ],
)  # fmt: skip
def test_gateways_tell_of_a_router_that_is_silent(
    gateway: dict[str, Any], router: tuple[float, dict[str, Any]] | None, up: list[bool]
) -> None:
    """Those alone that it probes: a1, which is in a cluster that is peered, in its VPC."""
    found = of_router(gateway, router)
    assert [(one.by, one.up) for one in found] == [("a1", one) for one in up]


def test_a_router_that_no_gateway_hears_is_down_and_one_that_is_heard_unreachable() -> None:
    for age_s, health in ((0.1, Health.UNREACHABLE), (9.0, Health.DOWN)):
        sights = tuple(of_router({"routers": {"10.1.0.2": age_s}}))
        assert judge(Evidence(Report(OLD), (), sights), NOW).health is health


def test_a_gateway_that_a_router_does_not_use_is_degraded_and_not_down() -> None:
    """It answers probes; that its far side is away is nothing that starting it anew would mend."""
    row = {"name": "a1", "up": True, "use": "down", "why": "cannot reach the\nfar side", "loss": 0.0}
    strange = {"name": "b1", "up": False, "use": "down", "why": "not its VPC"}
    found = sights_in(FLEET, (), {"ra": (NOW, {"gateways": [row, strange]})}, NOW)
    verdict = judge(Evidence(Report(NOW), tuple(found.routers["a1"])), NOW)
    assert (verdict.health, verdict.reason) == (Health.DEGRADED, "router ra does not use it: cannot reach the far side")
    assert "b1" not in found.routers

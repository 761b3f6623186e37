"""Which gateways no router could use, by what routers have told of their links."""

from __future__ import annotations

from typing import Any

import pytest
from apikit import Api

from fwd.controller.changes import change
from fwd.controller.reaching import links_in, why_unreached
from fwd.model.fleet import Fleet

FLEET = Fleet.model_validate(
    {
        "vpcs": [{"name": "a", "cidrs": ["10.1.0.0/16"]}, {"name": "b", "cidrs": ["10.2.0.0/16"]}],
        "gateways": [
            {"name": name, "vpc": name[0], "outer": f"192.0.2.{n}", "inner": [inner]}
            for n, (name, inner) in enumerate((("a1", "10.1.0.11"), ("a2", "10.1.7.12"), ("b1", "10.2.0.11")), 1)
        ],
        "clusters": [{"name": "a", "vpc": "a", "gateways": ["a1"]}, {"name": "b", "vpc": "b", "gateways": ["b1"]}],
        "routers": [{"name": f"r{n}", "vpc": "a", "inner": [f"10.1.0.{n}"]} for n in (2, 3)],
        "peerings": [{"name": "a-b", "clusters": ["a", "b"], "number": 0}],
    }
)
GROWN = change(FLEET, "cluster", "a", {"gateways": ["a1", "a2"]})
NEAR, FAR = {"links": ["10.1.0.0/24"]}, {"links": ["10.1.0.0/24", "10.1.7.0/24"]}

CASES: dict[str, tuple[dict[str, Any], Fleet, Fleet, str]] = {
    "nobody reaches it": (
        {"r2": NEAR, "r3": NEAR}, FLEET, GROWN,
        "gateway a2 (10.1.7.12) is on no link of a router of VPC a: r2 has 10.1.0.0/24, r3 has 10.1.0.0/24",
    ),
    "one reaches it": ({"r2": NEAR, "r3": FAR}, FLEET, GROWN, ""),
    "one has not told anything": ({"r2": NEAR}, FLEET, GROWN, ""),
    "one is older and does not tell": ({"r2": NEAR, "r3": {"ready": True}}, FLEET, GROWN, ""),
    "nonsense": ({"r2": NEAR, "r3": {"links": [7, "x", None]}}, FLEET, GROWN, ""),
    "it carries already": ({"r2": NEAR, "r3": NEAR}, GROWN, GROWN, ""),
    "it is drained meanwhile": (
        {"r2": NEAR, "r3": NEAR}, GROWN, change(GROWN, "gateway", "a2", {"state": "draining"}), ""
    ),
    "it moves there": (
        {"r2": NEAR, "r3": NEAR}, FLEET, change(FLEET, "gateway", "a1", {"inner": ["10.1.8.1"]}),
        "gateway a1 (10.1.8.1) is on no link of a router of VPC a: r2 has 10.1.0.0/24, r3 has 10.1.0.0/24",
    ),
    "a VPC without routers": ({"r2": NEAR, "r3": NEAR}, FLEET, change(FLEET, "vpc", "b", {"probe_number": 1}), ""),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_gateway_that_no_router_reaches_is_refused(case: str) -> None:
    statuses, before, after, why = CASES[case]
    assert why_unreached(before, after, links_in(statuses)) == why


def test_who_changes_the_fleet_is_told(api: Api) -> None:
    api.peered()
    told = api.join("a", "ra", "10.1.0.2", "192.0.2.9", kind="router", ike_csr=None)
    api.beat(told, status={"ready": True, "links": ["10.1.0.0/24"]})
    api.good("POST", "/v1/gateways", {"name": "a2", "vpc": "a", "outer": "192.0.2.7", "inner": ["10.1.7.12"]})

    answer = api.ask("PATCH", "/v1/clusters/a", {"gateways": ["a1", "a2"]})
    assert answer.status_code == 409
    assert "gateway a2 (10.1.7.12) is on no link of a router of VPC a" in answer.json()["detail"]
    api.beat(told, status={"ready": True, "links": ["10.1.0.0/24", "10.1.7.0/24"]})
    api.good("PATCH", "/v1/clusters/a", {"gateways": ["a1", "a2"]})

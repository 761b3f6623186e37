"""What a plan says of flows: which share moves, by the word of routers, and when."""

from __future__ import annotations

from typing import Any

import pytest
from apikit import Api
from pagekit import Browser
from test_page_changes import do

from fwd.controller.shares import Share, shares_in

DRAINED = "go by the others as they fall idle; those that are busy do so after 60 s"
GONE = "go by the others at once, busy ones too: one that is drained first has none"
R1 = "router r1: 33.3% of its flows, which are gateway a1's, "
R2 = "router r2: 40.0% of its flows, which are gateway a1's, "


@pytest.fixture
def fleet(api: Api) -> dict[str, dict[str, Any]]:
    """A cluster of two gateways, and two routers that say what they give them, one of them nonsense beside."""
    told = api.peered()
    told["a2"] = api.join("a", "a2", "10.1.0.12", "192.0.2.3")
    api.good("PATCH", "/v1/clusters/a", {"gateways": ["a1", "a2"]})
    for n, share in ((1, 1 / 3), (2, 0.4)):
        told[f"r{n}"] = api.join("a", f"r{n}", f"10.1.1.{n}", "192.0.2.9", kind="router", ike_csr=None)
        rows: list[Any] = [{"name": "a1", "share": share}, {"name": "a2", "share": 0}, {"name": "b1", "share": 1}, 7]
        api.beat(told[f"r{n}"], status={"ready": True, "gateways": rows})
    return told


def plan(api: Api, method: str, path: str, body: Any = None) -> list[str]:
    """The lines of a plan that are about flows."""
    lines = api.good(method, f"/v1/{path}", body, params={"dry_run": "1"})["plan"]
    return [line for line in lines if "flows" in line]


def test_a_drain_says_which_share_moves_and_when(api: Api, fleet: Any) -> None:
    assert plan(api, "POST", "gateways/a1/drain") == [R1 + DRAINED, R2 + DRAINED]
    assert plan(api, "POST", "gateways/a2/drain") == [], "it has none"
    api.good("POST", "/v1/gateways/a1/drain")
    assert plan(api, "POST", "gateways/a1/drain") == plan(api, "POST", "gateways/a1/undrain") == []


def test_of_the_last_one_that_carries_it_says_that_nobody_takes_its_flows(api: Api, fleet: Any) -> None:
    """It said that they go by the others, of which there was none."""
    keeps = ["gateway a1 keeps its flows while it drains: cluster a has no other that carries"]
    api.good("POST", "/v1/gateways/a2/drain")
    assert plan(api, "POST", "gateways/a1/drain") == keeps
    api.good("POST", "/v1/gateways/a2/undrain")

    # One that is down takes none either.
    api.beat(fleet["a2"])
    for n in (1, 2):
        hops = [{"name": "a1", "up": True, "share": 1.0}, {"name": "a2", "up": False, "share": 0.0}]
        api.beat(fleet[f"r{n}"], status={"ready": True, "gateways": hops})
    api.control.turn()
    assert plan(api, "POST", "gateways/a1/drain") == keeps
    dropped = "cluster a has no other gateway that carries: flows of gateway a1 are dropped"
    assert plan(api, "PATCH", "clusters/a", {"gateways": ["a2"]}) == [dropped]
    api.good("DELETE", "/v1/peerings/a-b")
    assert not any("dropped" in line for line in plan(api, "PATCH", "clusters/a", {"gateways": ["a2"]}))


def test_so_does_what_takes_a_gateway_away(api: Api, fleet: Any) -> None:
    assert plan(api, "PATCH", "clusters/a", {"gateways": ["a2"]}) == [R1 + GONE, R2 + GONE]
    assert plan(api, "DELETE", "gateways/a1") == [R1 + GONE, R2 + GONE]
    assert api.good("DELETE", "/v1/gateways/a1")["plan"][-2:] == [R1 + GONE, R2 + GONE]


def test_one_that_stays_in_another_cluster_goes_on(api: Api, fleet: Any) -> None:
    api.good("POST", "/v1/clusters", {"name": "other", "vpc": "a", "gateways": ["a1"]})
    assert plan(api, "PATCH", "clusters/a", {"gateways": ["a2"]}) == []


def test_a_routers_word_counts_for_its_own_vpc_and_no_share_is_more_than_all(api: Api, fleet: Any) -> None:
    rows = [{"name": "a1", "share": 7}, {"name": "b1", "share": 0.5}, {"name": "a2", "share": "x"}]
    api.beat(fleet["r1"], status={"ready": True, "gateways": rows})
    api.beat(fleet["r2"], status={"ready": True, "gateways": "x"})
    found = shares_in(api.control.desk.kept.fleet, api.control.watch.beats, api.control.clock())
    assert found == {"a1": [Share("r1", 1.0)]}


def test_what_was_said_a_while_ago_is_not_told(api: Api, fleet: Any) -> None:
    api.now += 10.0
    assert plan(api, "POST", "gateways/a1/drain") == []


def test_in_the_browser_such_a_plan_is_carried_out_though_flows_move_meanwhile(api: Api, fleet: Any) -> None:
    browser = Browser(api)
    browser.sign_in(api.admin)
    assert do(browser, act="drain", kind="gateway", name="a1").startswith("/operations/")
    assert do(browser, act="undrain", kind="gateway", name="a1").startswith("/operations/")
    assert do(browser, act="set", kind="cluster", name="a", gateways="a2").startswith("/operations/")
    assert do(browser, confirm="a1", act="delete", kind="gateway", name="a1").startswith("/operations/")

"""`fwd path` where no router or gateway runs: what the controller knows of a flow."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from fleetkit import fleet

from fwd.cli import _exit_status
from fwd.controller.way import follow
from fwd.model.trace import Trace
from fwd.proto.sample import Flow
from fwd.tools.path import _lines


def followed(told: dict[str, list[dict[str, Any]]], source: str = "10.1.0.10", destination: str = "10.2.0.10") -> Trace:
    flow = Flow(ip_address(source), ip_address(destination), 6, 5000, 80)
    found = Trace(flow.as_json())
    follow(found, flow, told)
    return found


def test_a_flow_is_followed_by_what_it_can_go() -> None:
    found = followed(fleet())
    assert _lines(found) == [
        "10.1.0.10 to 10.2.0.10, tcp, ports 5000 to 80, as the controller sees it",
        "  there: routers of VPC vpc1: r1 (up)",
        "         gateways of VPC vpc1: a-2 (down), a1 (up)",
        "         peering one-two, by one of its pairs: a1 - b1 (up), a-2 - b1 (down)",
        "  back:  gateways of VPC vpc2: b1 (degraded)",
        "  note:  VPC vpc2 has no router: its hosts send to a gateway themselves",
        "  note:  slot and gateway are a router's choice, by its kernel's hash and a seed that is not told here: one "
        "of these, by its share. `fwd path` on a router says which; member and SA: `fwd path` on that gateway",
        "nothing known there breaks it",
    ]


def test_the_other_direction_is_the_same_peering() -> None:
    found = followed(fleet(), "10.2.0.10", "10.1.0.10")
    assert found.facts["clusters"] == ["c2", "c1"]
    assert found.there[0] == "gateways of VPC vpc2: b1 (degraded)"
    assert found.back[0] == "routers of VPC vpc1: r1 (up)"


def without_carrying_pairs(told: dict[str, list[dict[str, Any]]]) -> None:
    for one in told["pairs"]:
        one["state"] = "down"


def with_routers_down(told: dict[str, list[dict[str, Any]]]) -> None:
    told["routers"][0]["health"] = {"state": "down", "reason": "its gateways miss it"}


@pytest.mark.parametrize(
    ("change", "ends", "why"),
    [
        (None, ("10.9.0.1", "10.2.0.10"), "10.9.0.1 is in no VPC"),
        (None, ("10.1.0.1", "10.9.0.10"), "10.9.0.10 is in no VPC"),
        (None, ("10.1.0.1", "10.1.0.2"), "both are in VPC vpc1"),
        (None, ("fd00:1::1", "fd00:2::2"), "fd00:2::2 is in no VPC"),
        (lambda told: told["peerings"].clear(), (), "no peering joins VPCs vpc1 and vpc2"),
        (lambda told: told["clusters"][1]["gateways"].clear(), (), "cluster c2 has no gateway"),
        (without_carrying_pairs, (), "no pair of peering one-two carries"),
        (with_routers_down, (), "no router of VPC vpc1 carries: r1: its gateways miss it"),
    ],
)
def test_what_breaks_it_is_told(change: Any, ends: tuple[str, ...], why: str) -> None:
    told = fleet()
    if change is not None:
        change(told)
    assert any(why in one for one in followed(told, *ends).breaks)


def test_without_a_controller_either_it_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FWD_CLIENT", "/nonexistent")
    flow = ["path", "--from", "10.1.0.1", "--to", "10.2.0.1", "--sport", "1", "--dport", "2"]
    assert _exit_status([*flow, "--control", "/nonexistent/a", "--router-control", "/nonexistent/b"]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "no router or gateway runs here" in said.err

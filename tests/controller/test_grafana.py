"""Grafana's dashboard of a fleet: whatever it asks for, a controller's own /metrics has."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from apikit import Api
from hostkit import member, peering
from prometheus_client.parser import text_string_to_metric_families

from fwd.lab.testbed.observe import expressions

DASHBOARD = Path(__file__).parents[2] / "docker" / "grafana" / "fleet.json"
WANTED = {
    "fwd_controller_hosts", "fwd_controller_pairs", "fwd_controller_peering_bits_per_second",
    "fwd_controller_heartbeat_age_seconds", "fwd_controller_drops_total", "fwd_controller_flow_share",
}  # fmt: skip


def lively(api: Api) -> dict[str, set[str]]:
    """Metrics and their labels, of a fleet in which there is something of everything."""
    told = api.peered()
    told["ra"] = api.join("a", "ra", "10.1.0.2", "192.0.2.8", kind="router", ike_csr=None)
    members = {one: [member(0, far)] for one, far in (("a1", "b1"), ("b1", "a1"))}
    for _ in range(2):
        api.now += 1
        for one, far in (("a1", "b1"), ("b1", "a1")):
            members[one][0]["out"] += 125_000
            said: dict[str, Any] = {"ready": True, "peerings": [peering(far, members[one])]}
            said["peerings"][0]["drops"] = {"replayed": 5, "<b>": 2, "x": 1}
            api.beat(told[one], status=said)
        hop = {"name": "a1", "up": True, "use": "up", "why": "", "share": 0.25}
        api.beat(told["ra"], status={"ready": True, "gateways": [hop]})
    api.control.restarts["a1", True] += 1
    api.control.turn()

    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(api.ask("GET", "/metrics", token=api.viewer).text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_every_query_of_the_fleets_dashboard_names_metrics_and_labels_that_a_controller_has(api: Api) -> None:
    there, asked = lively(api), set()
    for expression in expressions(json.loads(DASHBOARD.read_text(encoding="utf-8"))):
        metrics = set(re.findall(r"\bfwd_\w+", expression))
        asked |= metrics
        assert metrics, expression
        assert metrics <= there.keys(), expression
        used = {label.strip() for group in re.findall(r"\bby\s*\(([^)]*)\)", expression) for label in group.split(",")}
        used |= set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression))
        assert used <= set.union(*(there[name] for name in metrics)), expression
    assert asked >= WANTED


def test_what_is_carried_and_dropped_is_told_by_names_that_no_host_can_add_to(api: Api) -> None:
    lively(api)
    text = api.ask("GET", "/metrics").text
    for line in (
        'fwd_controller_peering_bits_per_second{peering="a-b"} 1e+06',
        'fwd_controller_gateway_bits_per_second{host="a1"} 1e+06',
        'fwd_controller_flow_share{host="a1",router="ra"} 0.25',
        'fwd_controller_drops_total{host="a1",reason="replayed"} 5.0',
        'fwd_controller_drops_total{host="a1",reason="other"} 3.0',
    ):
        assert line in text, text
    assert "<b>" not in text


@pytest.mark.parametrize("state", ["up", "degraded", "down", "unknown"])
def test_a_peering_has_a_number_for_each_state_of_its_pairs(api: Api, state: str) -> None:
    """With none that carries "pairs up of all" had no data, in the place of 0 %."""
    api.peered()
    text = api.ask("GET", "/metrics").text
    assert f'fwd_controller_pairs{{peering="a-b",state="{state}"}} {float(state == "unknown")}' in text

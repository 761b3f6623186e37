"""One peering with two far gateways: one that is gone leaves its members' flows to the other, and takes them again."""

from __future__ import annotations

import pytest
from farkit import FORK, ITS_MEMBERS, MEMBERS, Fan
from gwkit import MakePair, assert_books_balance, until

pytestmark = pytest.mark.alone
GAP_MS_MAX = 2000.0  # on a busy machine; tests/long/test_far_again.py holds it to one second


@pytest.mark.parametrize(
    ("how", "payload"), [("killed", "superpacket"), ("cut off", "esp")], ids=["killed", "cut off, payload esp"]
)
def test_a_far_gateway_that_is_gone_leaves_its_flows_to_the_other(pairs: MakePair, how: str, payload: str) -> None:
    fan = pairs([{"payload": payload}], kind=Fan, **FORK)
    assert isinstance(fan, Fan)
    with fan.probes(fan.flow_ports(MEMBERS), 600.0) as arrived:
        before = fan.peering("gw3")["books"]["in_records_out"]
        until(lambda: fan.peering("gw3")["books"]["in_records_out"] > before + 300, 60.0, "flows by way of gw3")

        with fan.gw3_gone(how):
            until(lambda: fan.buckets() == [0, 0], 30.0, "its members' buckets go to the others")
            until(lambda: fan.far()["state"] == "down", 30.0, "it is told")
            assert fan.ready("gw1"), "the other one carries everything"
            into = fan.peering("gw2")["books"]["in_records_out"]
            until(lambda: fan.peering("gw2")["books"]["in_records_out"] > into + 1000, 60.0, "flows by way of gw2")

        until(lambda: fan.far()["state"] == "up", 120.0, "it is back")
        until(lambda: all(fan.buckets()), 60.0, "idle buckets move back")
        into = fan.peering("gw2")["books"]["in_records_out"]
        until(lambda: fan.peering("gw2")["books"]["in_records_out"] > into + 1000, 60.0, "busy ones stay")

    assert [flow.inversions for flow in arrived.values()] == [0] * MEMBERS, arrived
    assert [flow.duplicates for flow in arrived.values()] == [0] * MEMBERS
    assert all(flow.longest_gap_ms < GAP_MS_MAX for flow in arrived.values()), arrived
    flows = list(arrived.values())
    assert all(flows[i].lost for i in ITS_MEMBERS), "these flows have gone through gw3"
    stayed = [flow for i, flow in enumerate(flows) if i not in ITS_MEMBERS]
    assert [flow.lost for flow in stayed] == [0] * len(stayed), "nobody else notices"
    (books,) = fan.wait_quiet("gw1")
    assert_books_balance(books)

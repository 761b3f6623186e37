"""Which way a flow can go, as the page tells it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from apikit import Api
from pagekit import Browser
from test_page_views import TWO, facts

from fwd.controller.members import Member
from fwd.controller.page.render import rendered
from fwd.controller.page.views import Facts, fleet_view
from fwd.controller.page.way import Way, way_of
from fwd.proto.flow import owners, rendezvous_scores

ASKED = {"from": "10.1.0.5", "to": "10.2.0.5", "proto": "tcp", "sport": "5000", "dport": "80"}


def way(known: Facts = TWO, more: dict[str, str] | None = None) -> Way:
    members = {
        "a1": [Member("a-b", 0, "running", "up", "b1.gateway.fwd", spi_out="0x11")],
        "b1": [Member("a-b", 2, "running", "up", "a1.gateway.fwd", spi_out="0x22")],
    }
    return way_of(known, fleet_view(known), {**ASKED, **(more or {})}, lambda host: members.get(host, []))


def test_a_way_has_its_gateways_members_and_sas_there_and_back() -> None:
    found = way()
    (pair,) = found.pairs
    assert (pair.near.name, pair.far.name) == ("a1", "b1")
    assert [(one.index, one.spi_out) for one in (*pair.there, *pair.back)] == [(0, "0x11"), (2, "0x22")]
    assert found.hosts == {"a1", "b1", "ar", "br"}
    assert found.ask == "fwd path --from 10.1.0.5 --to 10.2.0.5 --proto tcp --sport 5000 --dport 80"


def test_the_other_direction_begins_at_the_other_side() -> None:
    (pair,) = way(more={"from": "10.2.0.5", "to": "10.1.0.5"}).pairs
    assert (pair.near.name, [one.spi_out for one in pair.there]) == ("b1", ["0x22"])


def test_a_pair_that_does_not_carry_is_not_on_the_way() -> None:
    known = facts({"a1": "up", "a2": "up", "b1": "up"}, {("a1", "b1"): "down", ("a2", "b1"): "up"})
    assert [one.near.name for one in way(known).pairs] == ["a2"]
    assert way(replace(TWO, pairs=[{**TWO.pairs[0], "state": "down"}])).trace is not None


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"from": "x"}, "from: 'x' is no IP address"),
        ({"to": "fd00::1"}, "from and to are of two IP versions"),
        ({"sport": ""}, "sport is missing"),
        ({"dport": "1e3"}, "dport: '1e3' is no port"),
        ({"proto": "sctp"}, "proto: 'sctp'"),
        ({"proto": "icmp"}, "has no ports"),
    ],
)
def test_what_cannot_be_asked_is_one_line(more: dict[str, str], said: str) -> None:
    found = way(more=more)
    assert said in found.error
    assert found.trace is None


def test_pairs_that_carry_are_no_way_if_nothing_comes_to_them(api: Api) -> None:
    """a1 is reached and its pair is down, and of a2 it is the other way round."""
    told = api.peered() | {"a2": api.join("a", "a2", "10.1.0.12", "192.0.2.9")}
    told["ra"] = api.join("a", "ra", "10.1.0.2", "192.0.2.8", kind="router", ike_csr=None)
    api.good("PATCH", "/v1/clusters/a", {"gateways": ["a1", "a2"]})
    ups = {"a1": False, "a2": True}
    for one in ups:
        sides = [{"identity": "b1.gateway.fwd", "up": ups[one]}]
        peerings = [{"name": "a-b", "ready": ups[one], "far": sides}]
        api.beat(told[one], status={"ready": True, "peerings": peerings})
    sides = [{"identity": f"{one}.gateway.fwd", "up": up} for one, up in ups.items()]
    api.beat(told["b1"], status={"ready": True, "peerings": [{"name": "a-b", "ready": True, "far": sides}]})
    api.beat(told["ra"], status={"ready": True, "gateways": [{"name": one, "up": not up} for one, up in ups.items()]})
    api.control.turn()

    asked = "from=10.1.0.5&to=10.2.0.5&sport=1&dport=2"
    found = api.good("GET", f"/path.json?{asked}")
    assert found["trace"]["breaks"] == ["no pair of peering a-b carries"]
    assert found["pairs"] == []


def test_the_flows_member_is_the_one_that_its_demux_takes_and_may_be_of_another_pair() -> None:
    """a1 has members towards b1 and b2, and its demux hashes over all of them."""
    known = facts({"a1": "up", "b1": "up", "b2": "up"}, {("a1", "b1"): "up", ("a1", "b2"): "up"})
    members = {
        "a1": [Member("a-b", one, "running", "up", f"b{1 + one // 2}.gateway.fwd", buckets=9) for one in range(4)],
        "b1": [Member("a-b", 0, "running", "up", "a1.gateway.fwd")],  # it tells of no buckets
    }
    alive = range(4)
    for sport in range(5000, 5050):
        found = way_of(known, fleet_view(known), ASKED | {"sport": str(sport)}, lambda host: members.get(host, []))
        assert found.trace is not None
        table = owners(rendezvous_scores(4), sum(1 << one for one in alive))
        assert {one.takes for one in found.pairs} == {int(table[found.trace.facts["bucket"]])}
        assert {one.takes_back for one in found.pairs} == {None}


def test_each_direction_has_the_member_of_its_own_bucket_and_peering() -> None:
    members = {
        "a1": [Member("a-b", one, "running", "up", "b1.gateway.fwd", buckets=9) for one in range(4)],
        "b1": [Member("a-b", one, "running", "up", "a1.gateway.fwd", buckets=9) for one in range(4)],
    }
    others = [Member("b-c", one, "running", "up", "c1.gateway.fwd", buckets=9) for one in range(4, 9)]
    table = owners(rendezvous_scores(4), 0b1111)
    for sport in range(5000, 5050):
        asked = ASKED | {"sport": str(sport)}
        found = way_of(TWO, fleet_view(TWO), asked, lambda host: [*members.get(host, []), *others])
        assert found.trace is not None
        buckets = [found.trace.facts[key] for key in ("bucket", "bucket_back")]
        assert [(one.takes, one.takes_back) for one in found.pairs] == [tuple(int(table[one]) for one in buckets)]


def test_the_page_marks_the_member_and_tells_both_buckets() -> None:
    known = facts({"a1": "up", "b1": "up", "b2": "up"}, {("a1", "b1"): "up"})
    members = [Member("a-b", one, "running", "up", f"b{1 + one // 2}.gateway.fwd", buckets=9) for one in range(4)]
    texts = {}
    for sport in range(5000, 5050):
        asked = ASKED | {"sport": str(sport)}
        found = way_of(known, fleet_view(known), asked, lambda host: members if host == "a1" else [])
        assert found.trace is not None
        text = rendered("part_way.html", way=found)
        (pair,) = found.pairs
        assert f"bucket is {found.trace.facts['bucket']} there and {found.trace.facts['bucket_back']} back" in text
        texts[pair.takes] = text
    for takes in (0, 1):
        assert f"<strong>member {takes}</strong>, by its hash" in texts[takes]
        assert texts[takes].count("<strong>") == 1
    for takes in (2, 3):
        assert f"its hash gives member {takes}, of another pair" in texts[takes]
        assert "<strong>" not in texts[takes]


def test_gateways_that_answer_and_that_no_router_uses_are_no_way(api: Api) -> None:
    """They are degraded, by their router's word, and it was said that nothing known breaks it."""
    told = api.peered()
    told["ra"] = api.join("a", "ra", "10.1.0.2", "192.0.2.8", kind="router", ike_csr=None)
    for use, breaks in (("down", 1), ("up", 0)):
        for one, far in (("a1", "b1"), ("b1", "a1")):
            sides = [{"identity": f"{far}.gateway.fwd", "up": True}]
            api.beat(told[one], status={"ready": True, "peerings": [{"name": "a-b", "ready": True, "far": sides}]})
        why = "it does not carry a-b" if use == "down" else ""
        hops = [{"name": "a1", "up": True, "use": use, "why": why}]
        api.beat(told["ra"], status={"ready": True, "gateways": hops})
        api.control.turn()

        found = api.good("GET", "/path.json?from=10.1.0.5&to=10.2.0.5&sport=1&dport=2")
        assert len(found["trace"]["breaks"]) == breaks, found["trace"]
        assert len(found["pairs"]) == 1 - breaks
        if breaks:
            said = (
                "no router of VPC a uses a gateway of cluster a: a1: router ra does not use it: it does not carry a-b"
            )
            assert found["trace"]["breaks"] == [said]
            assert api.good("GET", "/v1/gateways/a1")["unused_by"] == ["ra"]


def test_the_page_shows_the_way_on_the_map_and_what_was_asked_is_text(api: Api) -> None:
    told = api.peered()
    for one, far in (("a1", "b1"), ("b1", "a1")):
        sides = [{"identity": f"{far}.gateway.fwd", "up": True}]
        api.beat(told[one], status={"ready": True, "peerings": [{"name": "a-b", "ready": True, "far": sides}]})
    api.control.turn()
    browser = Browser(api)
    browser.sign_in(api.viewer)

    text = browser.get("/path?from=10.1.0.5&to=10.2.0.5&sport=1&dport=2").text
    assert "Nothing known here breaks it" in text
    assert "gateway a1, up, on the way" in text
    assert "is in no VPC" in browser.get("/path?from=10.9.0.5&to=10.2.0.5&sport=1&dport=2").text
    assert browser.get("/path.json?from=10.1.0.5&to=10.2.0.5&sport=1&dport=2").json()["pairs"][0]["near"] == "a1"
    assert "<b>" not in browser.get("/path?from=<b>&to=<b>&sport=<b>&proto=<b>").text
    assert "Show the way" in browser.get("/path").text

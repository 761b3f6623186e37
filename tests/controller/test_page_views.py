"""What a page shows of a fleet, where it stands on the map, and why something is not up: tables, no controller."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any

import pytest

from fwd.controller.page.layout import WIDTH, Map, layout
from fwd.controller.page.looks import LOOKS, look_of, summed
from fwd.controller.page.views import SHOWN_MAX, Facts, FleetView, fleet_view
from fwd.controller.page.why import why_host, why_peering

NOW = 1_800_000_000.0


def gateway(name: str, state: str = "up", **fields: Any) -> dict[str, Any]:
    health = {"state": state, "reason": "" if state == "up" else f"it is {state}", "since": NOW - 60, "evidence": ["x"]}
    return {"name": name, "vpc": name[0], "inner": ["10.0.0.1"], "outer": "192.0.2.1", "health": health} | fields


def facts(gateways: dict[str, str], pairs: dict[tuple[str, str], str], state: str = "up", **more: Any) -> Facts:
    """Two VPCs, a and b, with a cluster each that has all of its gateways, and a peering."""
    return Facts(
        NOW,
        vpcs=[{"name": name, "cidrs": [f"10.{n}.0.0/16"]} for n, name in enumerate("ab", 1)],
        gateways=[gateway(name, state) for name, state in gateways.items()],
        clusters=[{"name": f"c{v}", "vpc": v, "gateways": [one for one in gateways if one[0] == v]} for v in "ab"],
        routers=[gateway(f"{v}r") for v in "ab"],
        peerings=[{"name": "a-b", "clusters": ["ca", "cb"], "state": state}],
        pairs=[
            {"peering": "a-b", "a": a, "b": b, "state": one, "rtt_ms": 1.5, "loss": 0.0}
            for (a, b), one in pairs.items()
        ],
        heard=more.pop("heard", dict.fromkeys([*gateways, "ar", "br"], NOW - 1)),
        **more,
    )


TWO = facts({"a1": "up", "b1": "up"}, {("a1", "b1"): "up"})


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ([], "none"),
        (["up"], "1 up"),
        (["up"] * 12 + ["degraded"], "12 up, 1 degraded"),
        (["down", "up", "degraded", "up"], "2 up, 1 down, 1 degraded"),
        (["nonsense"], "1 unknown"),
    ],
)
def test_states_are_summed_in_words(states: list[str], said: str) -> None:
    assert summed(map(look_of, states)) == said


def test_no_two_states_are_told_apart_by_colour_alone() -> None:
    for one, other in combinations(LOOKS.values(), 2):
        assert one.word != other.word
        assert one.tone == other.tone or one.shape != other.shape


@pytest.mark.parametrize(
    ("pairs", "state", "said"),
    [
        ({("a1", "b1"): "up", ("a2", "b1"): "up"}, "up", "2 of 2 pairs"),
        ({("a1", "b1"): "up", ("a2", "b1"): "degraded"}, "degraded", "2 of 2 pairs"),
        ({("a1", "b1"): "up", ("a2", "b1"): "down"}, "degraded", "1 of 2 pairs"),
        ({("a1", "b1"): "unknown"}, "unknown", "0 of 1 pairs"),
        ({}, "empty", "no pairs"),
    ],
)
def test_a_peering_says_how_many_pairs_carry(pairs: dict[tuple[str, str], str], state: str, said: str) -> None:
    fleet = fleet_view(facts({"a1": "up", "a2": "up", "b1": "up"}, pairs, state))
    assert fleet.peerings[0].counted == said
    assert (why_peering(fleet.peerings[0]) is None) == (state == "up")


def test_what_others_say_of_a_host_that_is_silent_is_not_old() -> None:
    """What was down for more than 5 s was grey, as was the line of a peering of which nothing was left."""
    silent = {"a1": NOW - 60, "b1": NOW - 60}
    known = facts({"a1": "down", "b1": "down"}, {("a1", "b1"): "down"}, "down", heard=silent)
    seen = [{**one, "health": {**one["health"], "evidence": ["its own", "a router's"]}} for one in known.gateways]
    fleet = fleet_view(replace(known, gateways=seen))
    assert [(one.silent, one.old) for one in fleet.hosts if one.kind == "gateway"] == [(True, False)] * 2
    assert not fleet.peerings[0].pairs[0].old
    assert not fleet.peerings[0].old


def test_whoever_was_not_heard_by_this_controller_and_is_seen_by_nobody_is_old() -> None:
    fleet = fleet_view(facts({"a1": "unreachable", "b1": "joining"}, {}, heard={}))
    assert [(one.silent, one.old) for one in fleet.hosts if one.kind == "gateway"] == [(True, True), (False, False)]


def test_of_a_gateway_that_nobody_sees_it_is_not_said_that_it_keeps_its_traffic() -> None:
    fleet = fleet_view(facts({"a1": "unreachable", "b1": "up"}, {}, heard={"a1": NOW - 60}))
    why = why_host(next(one for one in fleet.hosts if one.name == "a1"))
    assert why is not None
    assert why.did == "It goes on with what it was told last; whether it carries, nobody says."


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ({"a1": "down", "a2": "up", "b1": "up"}, "Routers have moved its flows"),
        ({"a1": "down", "a2": "down", "b1": "up"}, "No other gateway of its cluster carries"),
        ({"a1": "down", "b1": "up"}, "No other gateway of its cluster carries"),
        ({"a1": "draining", "b1": "up"}, "It keeps its flows"),
        ({"a1": "degraded", "b1": "up"}, "It stays in use"),
    ],
)
def test_that_others_have_taken_over_is_said_only_if_there_are_any(states: dict[str, str], said: str) -> None:
    fleet = fleet_view(facts(states, {}))
    why = why_host(next(one for one in fleet.hosts if one.name == "a1"))
    assert why is not None
    assert why.did.startswith(said)


@pytest.mark.parametrize(
    ("heard", "host_is_old", "peering_is_old"),
    [
        ({"a1": NOW - 4, "b1": NOW - 4}, False, False),
        ({"a1": NOW - 6, "b1": NOW - 1}, True, False),
        ({"a1": NOW - 6, "b1": NOW - 60}, True, True),
        ({}, False, True),
    ],
)
def test_what_was_heard_long_ago_is_old(heard: dict[str, float], host_is_old: bool, peering_is_old: bool) -> None:
    fleet = fleet_view(replace(TWO, heard=heard))
    assert {one.name: one.old for one in fleet.hosts}["a1"] == host_is_old
    assert fleet.peerings[0].old == peering_is_old


def test_a_large_cluster_is_summed_and_only_what_is_not_up_is_drawn() -> None:
    states = {f"a{n:02}": "up" for n in range(50)} | {"a07": "degraded", "a31": "down"}
    fleet = fleet_view(facts(states, {}))
    cluster = fleet.vpcs[0].clusters[0]
    assert cluster.collapsed
    assert cluster.summary == "48 up, 1 down, 1 degraded"
    assert [one.name for one in cluster.shown] == ["a31", "a07"]

    all_down = fleet_view(facts(dict.fromkeys(states, "down"), {})).vpcs[0].clusters[0]
    assert (len(all_down.shown), all_down.collapsed) == (SHOWN_MAX, True)


def test_of_a_gateway_that_routers_do_not_use_it_is_not_said_that_it_stays_in_use() -> None:
    fleet = facts({"a1": "degraded", "b1": "up"}, {("a1", "b1"): "down"})
    gateways = [{**one, "unused_by": ["ar"] if one["name"] == "a1" else []} for one in fleet.gateways]
    host = next(one for one in fleet_view(replace(fleet, gateways=gateways)).hosts if one.name == "a1")
    why = why_host(host)
    assert why is not None
    assert why.did == "It carries less than it should, or nothing: router ar sends by others."


def test_of_a_pair_that_is_down_no_time_and_no_loss_of_before_is_told() -> None:
    fleet = facts({"a1": "up", "a2": "up", "b1": "up"}, {("a1", "b1"): "down", ("a2", "b1"): "degraded"}, "degraded")
    pairs = [{**one, "rtt_ms": 5.0, "loss": 0.03} for one in fleet.pairs]
    why = why_peering(fleet_view(replace(fleet, pairs=pairs)).peerings[0])
    assert why is not None
    assert why.evidence == (
        "a1 - b1: down; a1 was heard 1.0 s ago, b1 1.0 s ago",
        "a2 - b1: degraded, 5.0 ms, 3.0% lost; a2 was heard 1.0 s ago, b1 1.0 s ago",
    )
    assert why.reason == "1 of 2 pairs carry, 1 of them with losses"


def test_a_peering_that_is_not_up_says_since_when_or_before_which_time() -> None:
    fleet = facts({"a1": "up", "b1": "down"}, {("a1", "b1"): "down"}, "down", heard={"a1": NOW}, listens_since=NOW - 9)
    known = why_peering(fleet_view(replace(fleet, since={"a-b": NOW - 5})).peerings[0])
    assert known is not None
    assert (known.since, known.before) == (NOW - 5, None)
    assert known.evidence == ("a1 - b1: down; a1 was heard 0.0 s ago, b1 never",)
    unknown = why_peering(fleet_view(fleet).peerings[0])
    assert unknown is not None
    assert (unknown.since, unknown.before) == (None, NOW - 9)


def test_troubles_come_the_worst_first() -> None:
    fleet = fleet_view(facts({"a1": "degraded", "a2": "down", "a3": "up", "b1": "draining"}, {}, "degraded"))
    assert [one.name for one in fleet.troubles] == ["a2", "a-b", "a1", "b1"]


@pytest.mark.parametrize("state", [one for one in LOOKS if one not in ("up", "empty")])
def test_every_state_of_a_host_that_is_not_up_says_why_and_what_to_do(state: str) -> None:
    for kind in ("a1", "ar"):
        if kind == "ar" and state == "draining":
            continue
        fleet = fleet_view(replace(TWO, gateways=[gateway("a1", state)], routers=[gateway("ar", state)]))
        why = why_host(next(one for one in fleet.hosts if one.name == kind))
        assert why is not None
        assert why.did
        assert why.do
        assert (why.reason, why.since, why.evidence) == (f"it is {state}", NOW - 60, ("x",))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"outdated": True, "version": "0.0.9"}, "which is older than the controller"),
        ({"held": [1, 2]}, "--accept-shrink"),
        ({"clock_skew_s": -45.0}, "clock is -45 s off"),
    ],
)
def test_a_host_that_is_up_still_says_what_needs_a_person(fields: dict[str, Any], said: str) -> None:
    fleet = fleet_view(replace(TWO, gateways=[gateway("a1", **fields)]))
    why = why_host(fleet.hosts[0])
    assert why is not None
    assert said in " ".join(why.hints)


# -- the map ----------------------------------------------------------------------------------------------------------


def mixed(count: int = 3) -> FleetView:
    """VPCs in a ring of peerings, and one that has none."""
    names = [f"v{n}" for n in range(count)]
    return fleet_view(
        Facts(
            NOW,
            vpcs=[{"name": name, "cidrs": ["10.1.0.0/16"]} for name in [*names, "z"]],
            gateways=[gateway(f"{n}-{k}", vpc=n) for n in names for k in range(3)],
            clusters=[{"name": f"c-{n}", "vpc": n, "gateways": [f"{n}-{k}" for k in range(3)]} for n in names],
            routers=[gateway(f"r-{n}", vpc=n) for n in names],
            peerings=[
                {"name": f"p{n}", "clusters": [f"c-{names[n]}", f"c-{names[(n + 1) % count]}"], "state": "up"}
                for n in range(count)
            ],
        )
    )


def boxes(drawn: Map) -> list[tuple[float, float, float, float]]:
    return [(one.x, one.y, one.x + one.w, one.y + one.h) for one in drawn.boxes]


@pytest.mark.parametrize("fleet", [fleet_view(TWO), mixed(3), mixed(4), mixed(9), fleet_view(Facts(NOW))])
def test_nothing_covers_anything_and_all_is_on_the_map(fleet: FleetView) -> None:
    drawn = layout(fleet)
    for one, other in combinations(boxes(drawn), 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    for box in drawn.boxes:
        inner = [(one.x, one.y, one.x + one.w, one.y + one.h) for one in box.clusters]
        for left, top, right, bottom in [*inner, *((n.left, n.y, n.right, n.y) for n in (*box.loose, *box.routers))]:
            assert box.x <= left < right <= box.x + box.w
            assert box.y <= top <= bottom <= box.y + box.h
    assert all(left >= 0 and right <= drawn.width and bottom <= drawn.height for left, _, right, bottom in boxes(drawn))
    labels = sorted(line.y for line in drawn.lines)
    assert all(below - above >= 54 for above, below in pairwise(labels))


def test_the_same_fleet_looks_the_same_whatever_its_states_and_order() -> None:
    one, other = facts({"a1": "up", "b1": "up"}, {}), facts({"b1": "down", "a1": "draining"}, {}, "down")
    other = replace(other, vpcs=other.vpcs[::-1], clusters=other.clusters[::-1], routers=other.routers[::-1])
    places = []
    for fleet in (fleet_view(one), fleet_view(other)):
        drawn = layout(fleet)
        nodes = [(n.host.name, n.x, n.y) for box in drawn.boxes for c in box.clusters for n in (*c.nodes, *box.routers)]
        places.append((boxes(drawn), nodes, [(line.path, line.x, line.y) for line in drawn.lines]))
    assert places[0] == places[1]


def test_peered_vpcs_stand_on_opposite_sides_and_routers_at_the_outer_edge() -> None:
    drawn = layout(fleet_view(TWO))
    assert [box.side for box in drawn.boxes] == [0, 1]
    assert [node.x for box in drawn.boxes for node in box.routers] == [drawn.boxes[0].x, WIDTH - drawn.boxes[0].x]
    even = layout(mixed(4))
    side = {box.vpc.name: box.side for box in even.boxes}
    assert all(side[line.peering.vpcs[0]] != side[line.peering.vpcs[1]] for line in even.lines)


@pytest.mark.parametrize(
    ("bits_s", "width"), [(None, 4.0), (0.0, 4.0), (1e6, 4.0), (31622776.6, 10.0), (1e9, 16.0), (1e12, 16.0)]
)
def test_a_line_is_as_thick_as_what_goes_through_it(bits_s: float | None, width: float) -> None:
    known = {} if bits_s is None else {("peering", "a-b"): bits_s}
    assert layout(fleet_view(replace(TWO, bits_s=known))).lines[0].width == width


def test_a_label_covers_no_more_of_its_line_than_its_texts_need() -> None:
    """Of a line that is straight next to nothing was seen."""
    drawn = layout(fleet_view(TWO))
    left, right = drawn.boxes
    assert [line.label_w < 0.6 * (right.x - left.x - left.w) for line in drawn.lines] == [True]


def test_pairs_are_drawn_of_the_peering_that_is_opened() -> None:
    fleet = fleet_view(TWO)
    assert [line.pair for line in layout(fleet).lines] == [None]
    opened = [line.pair for line in layout(fleet, "a-b").lines if line.pair is not None]
    assert [(one.a, one.b) for one in opened] == [("a1", "b1")]

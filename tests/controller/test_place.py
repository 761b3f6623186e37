"""Who is paired with whom, and what each host is told."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwd.controller.place import Pair, paired, place
from fwd.model.fleet import Fleet
from fwd.model.router import RouterConfig

A = [f"a{number}" for number in range(1, 7)]
B = [f"b{number}" for number in range(1, 7)]

PAIRED: list[tuple[int, int, list[tuple[str, str]], list[tuple[str, str]]]] = [
    # how many on both sides, the pairs before, the pairs after
    (3, 3, [], [("a1", "b1"), ("a2", "b2"), ("a3", "b3")]),
    (3, 2, [], [("a1", "b1"), ("a2", "b2"), ("a3", "b1")]),
    (1, 3, [], [("a1", "b1"), ("a1", "b2"), ("a1", "b3")]),
    (0, 3, [], []),
    (3, 2, [("a1", "b1"), ("a2", "b2")], [("a1", "b1"), ("a2", "b2"), ("a3", "b1")]),  # a gateway is added
    (2, 2, [("a1", "b1"), ("a2", "b2"), ("a3", "b1")], [("a1", "b1"), ("a2", "b2")]),  # and deleted
    (3, 3, [("a1", "b1"), ("a2", "b2"), ("a3", "b1")], [("a1", "b1"), ("a2", "b2"), ("a3", "b1"), ("a1", "b3")]),
    (1, 2, [("a2", "b2"), ("a1", "b1")], [("a1", "b1"), ("a1", "b2")]),  # its partner is gone
]


@pytest.mark.parametrize(("count_a", "count_b", "before", "after"), PAIRED)
def test_pairs(count_a: int, count_b: int, before: list[tuple[str, str]], after: list[tuple[str, str]]) -> None:
    assert paired(A[:count_a], B[:count_b], before) == after


sides = st.lists(st.sampled_from(A), unique=True), st.lists(st.sampled_from(B), unique=True)


@given(st.lists(st.tuples(*sides), min_size=1, max_size=6))
def test_everybody_has_a_partner_and_nobody_many_whatever_came_and_went(
    history: list[tuple[list[str], list[str]]],
) -> None:
    pairs: list[tuple[str, str]] = []
    for a, b in history:
        before, pairs = pairs, paired(a, b, pairs)
        if not a or not b:
            assert not pairs
            continue
        assert {x for x, _ in pairs} == set(a)
        assert {y for _, y in pairs} == set(b)
        assert len(set(pairs)) == len(pairs) <= len(a) + len(b)
        assert {pair for pair in before if pair[0] in a and pair[1] in b} <= set(pairs)


@given(st.integers(1, 6), st.integers(1, 6))
def test_unequal_numbers_are_spread_evenly(count_a: int, count_b: int) -> None:
    pairs = paired(A[:count_a], B[:count_b])
    for side in (0, 1):
        loads = Counter(pair[side] for pair in pairs).values()
        assert max(loads) - min(loads) <= 1
    assert len(pairs) == max(count_a, count_b)


def fleet(**changes: Any) -> Fleet:
    gateways = [
        {"name": f"{vpc}{n}", "vpc": f"vpc-{vpc}", "outer": f"192.0.2.{offset + n}", "inner": [f"10.{x}.0.1{n}"]}
        for vpc, offset, x, count in (("a", 0, 1, 3), ("b", 10, 2, 2))
        for n in range(1, count + 1)
    ]
    return Fleet.model_validate(
        {
            "vpcs": [{"name": "vpc-a", "cidrs": ["10.1.0.0/16"]}, {"name": "vpc-b", "cidrs": ["10.2.0.0/16"]}],
            "gateways": gateways,
            "clusters": [
                {"name": "a", "vpc": "vpc-a", "gateways": ["a1", "a2", "a3"]},
                {"name": "b", "vpc": "vpc-b", "gateways": ["b1", "b2"]},
            ],
            "routers": [{"name": "ra", "vpc": "vpc-a", "inner": ["10.1.0.2"]}],
            "peerings": [{"name": "a-b", "clusters": ["a", "b"], "number": 0}],
            **changes,
        }
    )


def test_both_sides_of_a_pair_agree() -> None:
    placed = place(fleet())
    (b1,) = placed.gateways["b1"]["peering"]
    (a1,), (a3,) = (placed.gateways[name]["peering"] for name in ("a1", "a3"))

    assert placed.pairs == (Pair("a-b", "a1", "b1"), Pair("a-b", "a2", "b2"), Pair("a-b", "a3", "b1"))
    assert b1["remote_addrs"] == ["192.0.2.1", "192.0.2.3"]
    assert a1["remote_addrs"] == a3["remote_addrs"] == ["192.0.2.11"]
    assert (a1["local_ts"], a1["remote_ts"]) == (b1["remote_ts"], b1["local_ts"])
    assert (a1["members"], b1["members"]) == (4, 8)
    assert b1["remote_id"] == [a1["local_id"], a3["local_id"]]


def test_over_a_native_path_tunnels_run_between_inner_addresses() -> None:
    placed = place(fleet(peerings=[{"name": "a-b", "clusters": ["a", "b"], "number": 0, "path": "native"}]))
    (a1,) = placed.gateways["a1"]["peering"]

    assert (a1["local_addrs"], a1["remote_addrs"]) == ("10.1.0.11", ["10.2.0.11"])


def test_a_router_spreads_over_the_gateways_of_its_own_vpc() -> None:
    (spread,) = place(fleet()).routers["ra"]["spread"]

    assert spread["remote_ts"] == ["10.2.0.0/16"]
    assert [one["name"] for one in spread["gateway"]] == ["a1", "a2", "a3"]
    RouterConfig.model_validate({"router": {"probe_key": "/x"}, "spread": [spread]})


def test_a_gateway_in_no_cluster_carries_nothing() -> None:
    clusters = [{"name": "a", "vpc": "vpc-a", "gateways": ["a1"]}, {"name": "b", "vpc": "vpc-b", "gateways": ["b1"]}]

    assert place(fleet(clusters=clusters)).gateways["a2"]["peering"] == []


def test_one_more_gateway_changes_nothing_of_the_others() -> None:
    before = place(fleet())
    more = fleet().model_dump(mode="json")
    more["gateways"].append({"name": "a0", "vpc": "vpc-a", "outer": "192.0.2.9", "inner": ["10.1.0.19"]})
    more["clusters"][0]["gateways"].append("a0")
    after = place(Fleet.model_validate(more), before.pairs)

    changed = {name for name in before.gateways if before.gateways[name] != after.gateways[name]}
    assert changed == {"b2"}, "the one that it is paired with"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"routers": [{"name": "ra", "vpc": "nowhere", "inner": ["10.1.0.2"]}]}, "router ra: there is no VPC nowhere"),
    ({"routers": [{"name": "ra", "vpc": "vpc-a", "inner": ["10.9.0.2"]}]}, "10.9.0.2 is not in VPC vpc-a"),
    ({"routers": [{"name": "ra", "vpc": "vpc-a", "inner": ["10.1.0.11"]}]}, "same inner address, 10.1.0.11"),
    ({"clusters": [{"name": "a", "vpc": "vpc-a", "gateways": ["b1"]}]}, "gateway b1 in vpc-b"),
    ({"clusters": [{"name": "a", "vpc": "vpc-a", "gateways": ["a1", "a1"]}]}, "two gateways of cluster a are a1"),
    ({"peerings": [{"name": "p", "clusters": ["a", "c"], "number": 0}]}, "peering p: there is no cluster c"),
    ({"peerings": [{"name": "p", "clusters": ["a", "a"], "number": 0}]}, "joins VPC vpc-a with itself"),
    ({"peerings": [
        {"name": "p", "clusters": ["a", "b"], "number": 0}, {"name": "q", "clusters": ["b", "a"], "number": 1},
    ]}, "peerings p and q both join VPCs"),
    ({"vpcs": [{"name": "vpc-a", "cidrs": ["10.1.0.0/16"]}, {"name": "vpc-b", "cidrs": ["10.0.0.0/8"]}]},
     "overlap: they cannot be peered"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "why"), WRONG, ids=[why for _, why in WRONG])
def test_what_cannot_be_is_refused_with_the_reason(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        fleet(**changes)

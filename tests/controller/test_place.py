"""Who is paired with whom, and what each host is told."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fwd.controller.admitted import why_refused
from fwd.controller.changes import RefusedError, change, plan
from fwd.controller.domain import content, hash_seed, probe_key
from fwd.controller.place import Pair, paired, place
from fwd.model.fleet import Fleet
from fwd.model.router import RouterConfig
from fwd.proto.probe import key_in

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

    assert (a1["local_addrs"], a1["remote_addrs"], a1["native"]) == ("10.1.0.11", ["10.2.0.11"], True)


def test_over_a_native_path_all_use_the_ip_version_that_all_have() -> None:
    changed = fleet(peerings=[{"name": "a-b", "clusters": ["a", "b"], "number": 0, "path": "native"}]).model_dump()
    changed["vpcs"][0]["cidrs"].append("fd00:1::/64")
    changed["vpcs"][1]["cidrs"].append("fd00:2::/64")
    for number, one in enumerate(changed["gateways"]):
        net = 1 if one["vpc"] == "vpc-a" else 2
        one["inner"] = [*one["inner"], f"fd00:{net}::{number + 16}"] if number else [f"fd00:{net}::16"]
    gateways = place(Fleet.model_validate(changed)).gateways

    ends = [address for one in gateways.values() for address in (one["peering"][0]["local_addrs"],)]
    assert len(ends) == 5
    assert all(end.startswith("fd00:") for end in ends)


def test_a_gateway_with_many_partners_has_no_more_members_than_a_peering_may_have() -> None:
    many = fleet().model_dump()
    many["gateways"] = [one for one in many["gateways"] if one["name"] == "a1"] + [
        {"name": f"b{n}", "vpc": "vpc-b", "outer": f"192.0.2.{50 + n}", "inner": [f"10.2.0.{50 + n}"]}
        for n in range(40)
    ]
    many["clusters"][0]["gateways"] = ["a1"]
    many["clusters"][1]["gateways"] = [f"b{n}" for n in range(40)]
    placed = place(Fleet.model_validate(many)).gateways

    assert placed["a1"]["peering"][0]["members"] == 40
    assert placed["b0"]["peering"][0]["members"] == 4
    assert not why_refused({}, placed)


@given(
    st.integers(1, 5), st.integers(1, 5), st.integers(1, 64), st.integers(1, 64),
    st.sampled_from(("internet", "native")), st.sampled_from(("superpacket", "esp")), st.integers(0, 31), st.booleans(),
)  # fmt: skip
def test_every_gateway_takes_what_it_is_to_do(
    count_a: int, count_b: int, members_a: int, members_b: int, path: str, payload: str, number: int, six: bool
) -> None:
    nets = {"a": "fd00:1::" if six else "10.1.0.", "b": "fd00:2::" if six else "10.2.0."}
    sides = (("a", count_a, members_a), ("b", count_b, members_b))
    whole = {
        "vpcs": [{"name": name, "cidrs": [f"{net}/64" if six else f"{net}0/24"]} for name, net in nets.items()],
        "gateways": [
            {"name": f"{side}{n}", "vpc": side, "outer": f"{'2001:db8' if six else '192.0.2'}{':' if six else '.'}"
             f"{':' if six else ''}{n + (100 if side == 'a' else 200)}", "inner": [f"{nets[side]}{n + 10}"],
             "members": members}
            for side, count, members in sides for n in range(count)
        ],
        "clusters": [
            {"name": side, "vpc": side, "gateways": [f"{side}{n}" for n in range(count)]} for side, count, _ in sides
        ],
        "peerings": [{"name": "p", "clusters": ["a", "b"], "number": number, "path": path, "payload": payload}],
    }  # fmt: skip
    placed = place(Fleet.model_validate(whole)).gateways

    assert len(placed) == count_a + count_b
    assert all(one["peering"] for one in placed.values())
    assert not why_refused({}, placed)


UNFIT: list[tuple[str, dict[str, Any], str]] = [
    ("IP versions", {"outer": "2001:db8::1"}, "gateway a1 would refuse it: peering 'a-b': .*different IP versions"),
    ("inside", {"outer": "10.2.0.99"}, "contains a gateway's own outer address, 10.2.0.99"),
]


@pytest.mark.parametrize(("name", "fields", "why"), UNFIT, ids=[name for name, *_ in UNFIT])
def test_what_a_gateway_would_refuse_is_not_asked_of_it(name: str, fields: dict[str, Any], why: str) -> None:
    before = fleet()
    with pytest.raises(RefusedError, match=why):
        plan(before, change(before, "gateway", "a1", fields), place(before).pairs)


def test_what_is_refused_already_can_be_mended_piece_by_piece() -> None:
    wrong = change(fleet(), "gateway", "a1", {"outer": "2001:db8::1"})
    lines = plan(wrong, change(wrong, "gateway", "a2", {"members": 2}), place(wrong).pairs)[1]

    assert "gateway a2: peering a-b: members" in lines


def test_a_router_spreads_over_the_gateways_of_its_own_vpc() -> None:
    (spread,) = place(fleet()).routers["ra"]["spread"]

    assert spread["remote_ts"] == ["10.2.0.0/16"]
    assert [one["name"] for one in spread["gateway"]] == ["a1", "a2", "a3"]
    RouterConfig.model_validate({"router": {"probe_key": "/x"}, "spread": [spread]})


def test_a_routers_drain_deadline_is_that_of_all_its_spreads() -> None:
    before = fleet()
    after = change(before, "router", "ra", {"drain_deadline": 5})
    assert [one["drain_deadline"] for one in place(before).routers["ra"]["spread"]] == [60]
    assert [one["drain_deadline"] for one in place(after).routers["ra"]["spread"]] == [5]
    assert plan(before, after, place(before).pairs)[1] == ["router ra: spread a-b: drain_deadline"]
    for wrong in (-1, 3601, "soon"):
        with pytest.raises(RefusedError, match="router ra: drain_deadline: "):
            change(before, "router", "ra", {"drain_deadline": wrong})


def test_a_peering_whose_cluster_has_no_gateway_stays_with_the_router() -> None:
    """What is for its subnets is to take no other way."""
    clusters = [{"name": "a", "vpc": "vpc-a", "gateways": []}, {"name": "b", "vpc": "vpc-b", "gateways": ["b1"]}]
    (spread,) = place(fleet(clusters=clusters)).routers["ra"]["spread"]

    assert (spread["name"], spread["remote_ts"], spread["gateway"]) == ("a-b", ["10.2.0.0/16"], [])


def test_another_probe_number_concerns_the_hosts_of_its_vpc_alone() -> None:
    before = fleet()
    after = change(before, "vpc", "vpc-a", {"probe_number": 1})
    lines = plan(before, after, place(before).pairs)[1]

    assert lines == [*(f"gateway a{n}: probe_number 1" for n in (1, 2, 3)), "router ra: probe_number 1"]


def test_the_probe_key_is_a_vpcs_own_and_the_seed_everybodys() -> None:
    one, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    keys = [(one, "a", 0), (one, "a", 1), (one, "b", 0), (other, "a", 0)]

    assert len({probe_key(*words) for words in keys}) == len(keys)
    assert probe_key(one, "a", 0) == probe_key(one, "a", 0)
    assert len(key_in(probe_key(one, "a", 0).encode())) == 32
    assert hash_seed(one) != hash_seed(other)
    told = content(place(fleet()), fleet(), "ra", one, "CAs", "lists")
    assert told.keys() == {"spread", "probe_number", "probe_key", "hash_seed", "ca_bundle"}
    assert "hash_seed" not in content(place(fleet()), fleet(), "a1", one, "CAs", "lists")


def test_a_router_that_would_refuse_it_is_told_of_first() -> None:
    before = fleet()
    after = change(before, "vpc", "vpc-b", {"cidrs": ["10.2.0.0/16", "fd00:2::/64"]})
    with pytest.raises(RefusedError, match=r"router ra would refuse it: .*a1 has no IPv6 address"):
        plan(before, after, place(before).pairs)


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

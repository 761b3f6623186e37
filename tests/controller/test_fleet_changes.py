"""The reference's workflow in its order, as changes of a value; and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fwd.controller.changes import RefusedError, change, create, delete, objects_of, plan
from fwd.controller.place import place
from fwd.model.fleet import Fleet


def vpc(fleet: Fleet, name: str, cidr: str, hosts: int, first: int) -> Fleet:
    """A VPC with gateways and a cluster of them."""
    fleet = create(fleet, "vpc", {"name": f"vpc-{name}", "cidrs": [f"{cidr}.0.0/16"]})
    for number in range(1, hosts + 1):
        gateway = {"name": f"{name}{number}", "vpc": f"vpc-{name}"}
        addresses = {"outer": f"192.0.2.{first + number}", "inner": [f"{cidr}.0.{10 + number}"]}
        fleet = create(fleet, "gateway", {**gateway, **addresses})
    gateways = [f"{name}{number}" for number in range(1, hosts + 1)]
    return create(fleet, "cluster", {"name": name, "vpc": f"vpc-{name}", "gateways": gateways})


@pytest.fixture
def peered() -> Fleet:
    fleet = vpc(vpc(Fleet(), "a", "10.1", 3, 0), "b", "10.2", 3, 100)
    return create(fleet, "peering", {"name": "a-b", "clusters": ["a", "b"]})


def test_three_gateways_a_cluster_the_same_in_another_vpc_and_a_peering(peered: Fleet) -> None:
    assert [(pair.a, pair.b) for pair in place(peered).pairs] == [("a1", "b1"), ("a2", "b2"), ("a3", "b3")]


def test_a_gateway_is_added_without_unpeering(peered: Fleet) -> None:
    before = place(peered)
    four = {"name": "a4", "vpc": "vpc-a", "outer": "192.0.2.50", "inner": ["10.1.0.50"]}
    fleet = create(peered, "gateway", four)
    placed, lines = plan(peered, fleet, before.pairs)
    assert lines == ["gateway a4: comes"], "and carries nothing until somebody puts it into a cluster"

    grown = change(fleet, "cluster", "a", {"gateways": ["a1", "a2", "a3", "a4"]})
    _, lines = plan(fleet, grown, placed.pairs)
    assert lines == [
        "peering a-b: a4 and b1 are joined",
        "gateway a4: peering a-b opens",
        "gateway b1: peering a-b: members, remote_addrs, remote_id",
    ]


def test_a_gateway_is_deleted_and_leaves_its_clusters(peered: Fleet) -> None:
    before = place(peered)
    fleet = delete(peered, "gateway", "a3")
    _, lines = plan(peered, fleet, before.pairs)

    assert objects_of(fleet, "cluster")["a"]["gateways"] == ["a1", "a2"]
    assert lines == [
        "peering a-b: a3 and b3 are joined no more",
        "peering a-b: a1 and b3 are joined",
        "gateway a1: peering a-b: members, remote_addrs, remote_id",
        "gateway a3: leaves",
        "gateway b3: peering a-b: remote_addrs, remote_id",
    ]


def test_draining_is_a_state_that_routers_are_told(peered: Fleet) -> None:
    fleet = create(peered, "router", {"name": "ra", "vpc": "vpc-a", "inner": ["10.1.0.2"]})
    drained = change(fleet, "gateway", "a1", {"state": "draining"})
    _, lines = plan(fleet, drained, place(fleet).pairs)

    assert lines == ["gateway a1: draining True", "router ra: spread a-b: gateway"]


def test_two_clusters_of_one_vpc_share_a_gateway_and_are_peered_with_two_vpcs(peered: Fleet) -> None:
    fleet = create(peered, "cluster", {"name": "a-too", "vpc": "vpc-a", "gateways": ["a3"]})
    fleet = vpc(fleet, "c", "10.3", 1, 200)
    fleet = create(fleet, "peering", {"name": "a-c", "clusters": ["a-too", "c"]})
    peerings = place(fleet).gateways["a3"]["peering"]

    assert [one["name"] for one in peerings] == ["a-b", "a-c"]
    assert len({one["port"] for one in peerings}) == len({one["tun"] for one in peerings}) == 2


REFUSED: list[tuple[Callable[[Fleet], Fleet], str]] = [
    (lambda fleet: create(fleet, "vpc", {"name": "vpc-a", "cidrs": ["10.9.0.0/16"]}), "is there already"),
    (lambda fleet: create(fleet, "vpc", {"name": "UPPER", "cidrs": ["10.9.0.0/16"]}), "name"),
    (lambda fleet: create(fleet, "vpc", {"name": "x", "cidrs": ["10.9.0.1/16"]}), "10.9.0.0/16"),
    (lambda fleet: create(fleet, "vpc", {"name": "x"}), "cidrs: missing"),
    (lambda fleet: create(fleet, "gateway", {"name": "x", "vpc": "y", "colour": 1}), "gateway"),
    (lambda fleet: change(fleet, "vpc", "nowhere", {}), "there is no vpc nowhere"),
    (lambda fleet: change(fleet, "gateway", "a1", {"name": "z"}), "name cannot be changed"),
    (lambda fleet: change(fleet, "gateway", "a1", {"weight": 0}), "weight"),
    (lambda fleet: change(fleet, "gateway", "a1", {"outer": "127.0.0.1"}), "127.0.0.1 is loopback"),
    (lambda fleet: change(fleet, "gateway", "a1", {"outer": "169.254.169.254"}), "169.254.169.254 is link-local"),
    (lambda fleet: change(fleet, "gateway", "a1", {"outer": "fe80::1"}), "fe80::1 is link-local"),
    (lambda fleet: change(fleet, "vpc", "vpc-b", {"cidrs": ["10.0.0.0/8"]}), "overlap"),
    (lambda fleet: delete(fleet, "vpc", "vpc-a"), "used by cluster a, gateway a1, gateway a2, gateway a3"),
    (lambda fleet: delete(fleet, "cluster", "a"), "used by peering a-b"),
    (lambda fleet: delete(fleet, "peering", "b-a"), "there is no peering b-a"),
]


@pytest.mark.parametrize(
    ("kind", "body", "why"),
    [
        ("vpc", {"name": "v", "cidrs": ["10.4.0.1/16"]}, "vpc v: cidrs.0: 10.4.0.1/16 has host bits set"),
        ("vpc", {"name": "v"}, "vpc v: cidrs: missing"),
        ("vpc", {"cidrs": ["10.4.0.0/16"]}, "vpc '': name: missing"),
        ("vpc", {"name": "V", "cidrs": ["10.4.0.0/16"]}, "vpc V: name: expected 1 to 32"),
        ("vpc", {"name": "5", "cidrs": 5}, "vpc 5: cidrs: expected a list"),
        ("vpc", {"name": "a" * 33, "cidrs": ["10.4.0.0/16"]}, "name: expected 1 to 32"),
        ("gateway", {"name": "g", "vpc": "z", "inner": ["10.1.0.9"], "outer": "192.0.2.9"}, "gateway g: there is no"),
        ("peering", {"name": "p", "clusters": ["a"]}, "peering p: clusters.1: missing"),
    ],
)
def test_what_is_wrong_is_told_by_the_objects_name_and_key(
    peered: Fleet, kind: str, body: dict[str, object], why: str
) -> None:
    with pytest.raises(RefusedError) as refused:
        create(peered, kind, body)
    assert why in str(refused.value)
    assert "file" not in str(refused.value)


@pytest.mark.parametrize(
    ("cidr", "why"),
    [
        ("0.0.0.0/0", "all addresses there are"), ("::/0", "all addresses there are"),
        ("0.0.0.0/1", "0.0.0.0/8 in it"), ("128.0.0.0/1", "169.254.0.0/16 in it"),
        ("2000::/3", "a prefix shorter than /8"),
        ("127.0.0.0/8", "loopback"), ("127.1.0.0/16", "loopback"), ("::1/128", "loopback"),
        ("169.254.3.0/24", "link-local"), ("fe80::/64", "link-local"), ("224.0.0.0/4", "multicast"),
        ("239.1.0.0/16", "multicast"), ("ff02::/16", "multicast"), ("::ffff:a01:0/112", "IPv4-mapped"),
        ("0.0.0.0/32", "unspecified"), ("::/128", "unspecified"), ("255.255.255.255/32", "broadcast"),
        ("64.0.0.0/2", "127.0.0.0/8 in it"), ("12.0.0.0/7", "a prefix shorter than /8"),
    ],
)  # fmt: skip
def test_a_vpcs_subnets_are_its_hosts_own(cidr: str, why: str) -> None:
    fleet = create(Fleet(), "vpc", {"name": "a", "cidrs": ["10.1.0.0/16"]})
    for act in (
        lambda: create(fleet, "vpc", {"name": "v", "cidrs": ["10.4.0.0/16", cidr]}),
        lambda: change(fleet, "vpc", "a", {"cidrs": ["10.1.0.0/16", cidr]}),
    ):
        with pytest.raises(RefusedError) as refused:
            act()
        assert f"cidrs: {cidr} is no VPC's own" in str(refused.value)
        assert why in str(refused.value)


def test_subnets_that_vpcs_have_are_taken() -> None:
    fleet = Fleet()
    for n, cidr in enumerate(
        ("10.0.0.0/8", "172.16.0.0/12", "100.64.0.0/10", "203.0.113.7/32", "fd00::/8", "2001:db8::/32")
    ):
        fleet = create(fleet, "vpc", {"name": f"v{n}", "cidrs": [cidr]})


def test_a_subnet_that_a_store_has_from_before_keeps_nobody_from_changing_something_else() -> None:
    fleet = Fleet.model_validate({"vpcs": [{"name": "v", "cidrs": ["0.0.0.0/0"]}]})
    assert change(fleet, "vpc", "v", {"probe_number": 1}).vpc["v"].probe_number == 1
    create(fleet, "vpc", {"name": "w", "cidrs": ["10.4.0.0/16"]})


@pytest.mark.parametrize(("act", "why"), REFUSED, ids=[why for _, why in REFUSED])
def test_refused_in_one_line(peered: Fleet, act: Callable[[Fleet], Fleet], why: str) -> None:
    with pytest.raises(RefusedError, match=why) as refused:
        act(peered)
    assert "\n" not in str(refused.value)

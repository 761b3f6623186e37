"""A peering steps aside before it is closed, for as long as routers need to look elsewhere, and only if any asks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fwd.datapath.counters import BeaconCounter
from fwd.datapath.shared import GatewayShared, PeeringShared
from fwd.supervise.aside import STEP_ASIDE_S, Aside

NOW = 100.0


class Gateway:
    """What is open of one, with peerings `a` and `b`, of which a router has asked."""

    def __init__(self) -> None:
        self.shared = GatewayShared()
        self.beacon: object | None = object()
        self.peerings: dict[str, Any] = {name: self.opened() for name in "ab"}
        self.shared.beacon_counters.attach()[BeaconCounter.ANSWERED] = 1
        self.shared.beacon_counters.publish()
        standing: Any = self
        self.aside = Aside(standing)

    def opened(self) -> SimpleNamespace:
        return SimpleNamespace(shared=PeeringShared(2))

    def said(self, name: str) -> set[int]:
        """What the members of a peering say."""
        return {member.leaves[0] for member in self.peerings[name].shared.members}


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


def test_one_that_is_to_be_closed_says_so_and_carries_for_a_while(gateway: Gateway) -> None:
    assert gateway.aside.waits({"a": None}, NOW)
    assert (gateway.said("a"), gateway.said("b")) == ({1}, {0})
    assert gateway.aside.waits({"a": None}, NOW + STEP_ASIDE_S - 0.01)
    assert not gateway.aside.waits({"a": None}, NOW + STEP_ASIDE_S)


def test_one_that_is_wanted_after_all_says_so(gateway: Gateway) -> None:
    gateway.aside.waits({"a": None}, NOW)
    assert not gateway.aside.waits({}, NOW + 0.1)
    assert gateway.said("a") == {0}


def test_one_that_was_opened_again_steps_aside_again(gateway: Gateway) -> None:
    gateway.aside.waits({"a": None}, NOW)
    gateway.peerings["a"] = gateway.opened()
    assert gateway.aside.waits({"a": None}, NOW + STEP_ASIDE_S)
    assert gateway.said("a") == {1}


def test_nobody_waits_where_no_router_asks(gateway: Gateway) -> None:
    gateway.beacon = None
    assert not gateway.aside.waits({"a": None}, NOW)
    assert gateway.said("a") == {0}


def test_members_that_are_to_go_as_well_have_their_own_time(gateway: Gateway) -> None:
    gateway.aside.waits({"a": [1]}, NOW)
    assert gateway.aside.waits({"a": None}, NOW + STEP_ASIDE_S)
    assert gateway.said("a") == {1}
    assert not gateway.aside.waits({"a": None}, NOW + 2 * STEP_ASIDE_S)


def test_members_whose_far_gateway_goes_step_aside_and_no_others_until_it_has_gone(gateway: Gateway) -> None:
    first, second = gateway.peerings["a"].shared.members
    assert gateway.aside.waits({"a": [1]}, NOW)
    assert (first.leaves[0], second.leaves[0]) == (0, 1)
    assert not gateway.aside.waits({"a": [1]}, NOW + STEP_ASIDE_S)
    gateway.aside.waits({}, NOW + STEP_ASIDE_S)
    assert gateway.said("a") == {0}

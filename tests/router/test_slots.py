"""Who serves which slot of a router, and when one changes hands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwd.router.slots import NOBODY, SLOTS, Hop, Use, moves, shares, wish

NAMES = ("a-1", "a-2", "a-3", "a-4", "a-5")
BUSY, IDLE = (0.0,) * SLOTS, (60.0,) * SLOTS
QUIET_S = 1.0


def hops(**uses: Use) -> list[Hop]:
    return [Hop(name.replace("_", "-"), use) for name, use in uses.items()]


def test_every_gateway_has_its_share_within_a_fifth() -> None:
    for share in shares(wish([Hop(name) for name in NAMES])).values():
        assert 0.8 / 5 < share < 1.25 / 5


def test_shares_follow_the_weights() -> None:
    got = shares(wish([Hop("light", weight=1.0), Hop("heavy", weight=2.0)]))

    assert abs(got["heavy"] - 2 / 3) < 0.05


def test_a_weight_must_be_above_zero() -> None:
    with pytest.raises(ValueError, match="above zero"):
        Hop("a-1", weight=0.0)


def test_two_gateways_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="one name"):
        wish([Hop("a-1"), Hop("a-1")])


def test_without_a_gateway_nobody_serves() -> None:
    assert set(wish([])) == {NOBODY}


@given(st.sets(st.sampled_from(NAMES), min_size=2), st.data())
def test_one_that_leaves_takes_its_own_slots_alone_along(names: set[str], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(sorted(names)))
    before, after = wish([Hop(name) for name in names]), wish([Hop(name) for name in names - {gone}])

    assert all(old == new for old, new in zip(before, after, strict=True) if old != gone)


def test_the_order_in_which_gateways_are_listed_does_not_matter() -> None:
    assert wish([Hop(name) for name in NAMES]) == wish([Hop(name) for name in reversed(NAMES)])


USES = [
    # who is how, and who then serves anything
    ({"a": Use.UP, "b": Use.UP}, {"a", "b"}),
    ({"a": Use.UP, "b": Use.DOWN}, {"a"}),
    ({"a": Use.UP, "b": Use.DRAINING}, {"a"}),
    ({"a": Use.UP, "b": Use.LEAVING}, {"a"}),
    ({"a": Use.DOWN, "b": Use.DRAINING}, {"b"}),
    ({"a": Use.DOWN, "b": Use.LEAVING}, {"b"}),
    ({"a": Use.DOWN, "b": Use.DOWN}, {"a", "b"}),  # the last set stays
]


@pytest.mark.parametrize(("uses", "serve"), USES)
def test_who_serves(uses: dict[str, Use], serve: set[str]) -> None:
    assert set(wish(hops(**uses))) == serve


MOVES = [
    # what has become of the gateway that serves all slots, whether they are busy, and whether they go to the other
    (Use.UP, BUSY, False),
    (Use.UP, IDLE, True),
    (Use.DRAINING, BUSY, False),
    (Use.DRAINING, IDLE, True),
    (Use.LEAVING, BUSY, True),
    (Use.LEAVING, IDLE, True),
    (Use.DOWN, BUSY, True),
    (Use.DOWN, IDLE, True),
]


@pytest.mark.parametrize(("use", "idle_s", "goes"), MOVES)
def test_when_a_slot_changes_hands(use: Use, idle_s: tuple[float, ...], goes: bool) -> None:
    found = moves(("old",) * SLOTS, hops(old=use, new=Use.UP), idle_s, ("new",) * SLOTS, QUIET_S)

    assert found.to == (dict.fromkeys(range(SLOTS), "new") if goes else {})
    assert found.waiting == (0 if goes else SLOTS)


def test_the_slots_of_a_gateway_that_is_no_more_move_at_once() -> None:
    assert len(moves(("gone",) * SLOTS, hops(new=Use.UP), BUSY, ("new",) * SLOTS, QUIET_S).to) == SLOTS


def test_a_gateway_that_comes_back_gets_idle_slots_only() -> None:
    all_of_a = ("a",) * SLOTS
    wished = wish(hops(a=Use.UP, b=Use.UP))
    half_idle = tuple(60.0 if slot % 2 else 0.0 for slot in range(SLOTS))
    found = moves(all_of_a, hops(a=Use.UP, b=Use.UP), half_idle, wished, QUIET_S)

    assert found.to
    assert all(slot % 2 and wished[slot] == "b" for slot in found.to)


@pytest.mark.parametrize("serving", [wish(hops(a=Use.UP, b=Use.UP)), ("a",) * SLOTS])
def test_while_all_are_down_the_last_set_stays(serving: tuple[str, ...]) -> None:
    down = hops(a=Use.DOWN, b=Use.DOWN)

    assert moves(serving, down, IDLE, wish(down), QUIET_S).to == {}

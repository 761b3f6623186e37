"""What a router does so that the kernel has what it wants."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from fwd.router.kernel import Make, Point, Remove, Route, State, Step, group_id, members_of, state_of, steps
from fwd.router.nexthop import Target, Way

NET = ip_network("10.2.0.0/16")
GROUP = group_id(0, 4)
SLOTS = members_of(GROUP)
A, B = Target(2, ip_address("10.1.0.11")), Target(2, ip_address("10.1.0.12"))
OPEN, CLOSED = Way(NET, GROUP), Way(NET, None)
WANTED = State(dict.fromkeys(SLOTS, A), {GROUP: SLOTS}, frozenset({OPEN, CLOSED}))
NOTHING = State()

CASES: list[tuple[str, State, State, list[Step]]] = [
    ("nothing is there", WANTED, NOTHING, [
        Route(frozenset({CLOSED})), Point(dict.fromkeys(SLOTS, A)), Make(GROUP, SLOTS), Route(frozenset({OPEN})),
    ]),
    ("all is there", WANTED, WANTED, []),
    ("the device was down", WANTED, State(ways=frozenset({CLOSED})), [
        Point(dict.fromkeys(SLOTS, A)), Make(GROUP, SLOTS), Route(frozenset({OPEN})),
    ]),
    ("somebody has taken the route", WANTED, State(WANTED.hops, WANTED.groups, frozenset({CLOSED})), [
        Route(frozenset({OPEN})),
    ]),
    ("somebody has taken the blackhole", WANTED, State(WANTED.hops, WANTED.groups, frozenset({OPEN})), [
        Route(frozenset({CLOSED})),
    ]),
    ("a slot goes to another gateway", WANTED, State({**WANTED.hops, SLOTS[7]: B}, WANTED.groups, WANTED.ways), [
        Point({SLOTS[7]: A}),
    ]),
    ("a group has lost a member", WANTED, State(WANTED.hops, {GROUP: SLOTS[:-1]}, WANTED.ways), [
        Make(GROUP, SLOTS),
    ]),
    ("the route leads to another group", WANTED, State(WANTED.hops, WANTED.groups, frozenset({Way(NET, 5), CLOSED})), [
        Route(frozenset({OPEN})), Route(frozenset({Way(NET, 5)}), gone=True),
    ]),
    ("it is no more wanted", NOTHING, WANTED, [
        Route(frozenset({OPEN, CLOSED}), gone=True), Remove((GROUP, *SLOTS)),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("wanted", "has", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_steps(wanted: State, has: State, expected: list[Step]) -> None:
    assert list(steps(wanted, has)) == expected


def test_ids_of_groups_and_slots_are_apart() -> None:
    groups = [group_id(spread, version) for spread in range(64) for version in (4, 6)]
    ids = [*groups, *(identity for group in groups for identity in members_of(group))]

    assert len(set(ids)) == len(ids)


def test_what_the_kernel_has_is_sorted() -> None:
    assert state_of({GROUP: SLOTS, SLOTS[0]: A, 9: None}, frozenset()) == State({SLOTS[0]: A}, {GROUP: SLOTS})

"""Which member is paired with whom, as a table; and whose buckets move when a far gateway goes."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import numpy as np
import pytest

from fwd.datapath.shared import ProcessState
from fwd.model.pairing import Far, far_gateways, far_of, from_json, numbered, reseated, shares, to_json
from fwd.proto.flow import owners, rendezvous_scores
from fwd.supervise import policy

A, B, C, D = (ip_address(f"192.0.2.{n}") for n in (2, 3, 4, 5))


@pytest.mark.parametrize(
    ("addresses", "members", "paired"),
    [
        ([A], 3, [(A, 0), (A, 1), (A, 2)]),
        ([A, B], 4, [(A, 0), (B, 0), (A, 1), (B, 1)]),
        ([A, B], 5, [(A, 0), (B, 0), (A, 1), (B, 1), (A, 2)]),
        ([A, B, C], 4, [(A, 0), (B, 0), (C, 0), (A, 1)]),
        ([A, B, C], 3, [(A, 0), (B, 0), (C, 0)]),
    ],
)
def test_members_are_spread_over_the_far_gateways(
    addresses: list[object], members: int, paired: list[tuple[object, int]]
) -> None:
    fars = far_gateways(addresses)  # type: ignore[arg-type]
    found = [(far, i) for i in range(members) if (far := far_of(i, fars))]
    assert [(far.address, far.partner(i)) for far, i in found] == paired
    assert shares(members, addresses) == Counter(address for address, _ in paired)  # type: ignore[arg-type]
    for far, i in found:
        assert far.member(far.partner(i)) == i
    for far in fars:  # each is an ordinary one, whose members are numbered from 0
        ours = list(far.members(members))
        assert [far.partner(i) for i in ours] == list(range(len(ours)))
        assert ours


@pytest.mark.parametrize("count", [2, 3, 4])
def test_members_that_come_or_go_move_no_other(count: int) -> None:
    addresses = [ip_address(f"192.0.2.{n + 2}") for n in range(count)]
    fars = far_gateways(addresses)
    for members in range(count, 16):
        for more in range(members, 16):
            for far in fars:
                assert list(far.members(more))[: len(far.members(members))] == list(far.members(members))


def seats(fars: tuple[Far, ...]) -> dict[object, list[int]]:
    return {far.address: list(far.seats) for far in fars}


def gone(fars: tuple[Far, ...]) -> tuple[Far, ...]:
    """Who is paired with whom once all that are to leave have left."""
    return numbered([replace(far, seats=far.seats[: far.keeps]) for far in fars if far.keeps])


def test_a_far_gateway_that_comes_or_goes_moves_nobody_and_what_is_free_is_used_again() -> None:
    fars = reseated(far_gateways([A, B]), 4, {A: 2, B: 2, C: 2})
    assert seats(fars) == {A: [0, 2], B: [1, 3], C: [4, 5]}
    fars = reseated(fars, 6, {B: 2, C: 2})
    assert seats(fars) == {B: [1, 3], C: [4, 5], A: [0, 2]}
    assert [list(far.staying(6)) for far in fars] == [[1, 3], [4, 5], []]
    assert seats(reseated(fars, 6, {A: 2, B: 2, C: 2})) == {A: [0, 2], B: [1, 3], C: [4, 5]}, "it is wanted after all"

    fars = gone(fars)
    assert far_of(0, fars) is None
    fars = reseated(fars, 6, {B: 2, C: 2, D: 2})
    assert seats(fars) == {B: [1, 3], C: [4, 5], D: [0, 2]}
    assert [(far.partner(2), far.member(1)) for far in fars[2:]] == [(1, 2)]


@pytest.mark.parametrize(
    ("before", "there", "wanted", "most", "after"),
    [
        ([A], 2, {A: 2, B: 2}, 64, {A: [0, 1], B: [2, 3]}),
        ([A], 4, {A: 2, B: 2}, 64, {A: [0, 1, 2, 3], B: [4, 5]}),
        ([A], 2, {B: 2}, 64, {B: [2, 3], A: [0, 1]}),
        ([A, B], 4, {A: 3, B: 3}, 64, {A: [0, 2, 4], B: [1, 3, 5]}),
        ([A, B], 4, {A: 2, B: 2, C: 3}, 64, {A: [0, 2], B: [1, 3], C: [4, 5, 6]}),
        ([A], 2, {A: 2, B: 2}, 3, {}),
        ([A], 60, {A: 60, B: 5}, 64, {}),
    ],
)
def test_who_is_paired_with_whom_then(
    before: list[Any], there: int, wanted: dict[Any, int], most: int, after: dict[Any, list[int]]
) -> None:
    assert seats(reseated(far_gateways(before), there, wanted, most)) == after


def test_members_that_could_not_keep_their_numbers_are_not_added() -> None:
    fars = gone(reseated(far_gateways([A]), 2, {A: 2, B: 2}))
    assert reseated(fars, 4, {A: 3, B: 3}) == ()


def test_any_changes_in_a_row_leave_everybody_evenly_apart_and_nobody_twice() -> None:
    drawn, addresses = random.Random(5), [A, B, C, D]
    fars, there = far_gateways([A]), 2
    for _ in range(500):
        wanted = {one: drawn.randint(1, 4) for one in drawn.sample(addresses, drawn.randint(1, 4))}
        after = reseated(fars, there, wanted)
        if not after:
            continue
        stay = {far.address: list(far.members(there)) for far in fars}
        for far in after:
            assert far.seats
            assert list(far.seats[: len(stay.get(far.address, []))]) == stay.get(far.address, [])
        everybody = [seat for far in after for seat in far.seats]
        assert len(everybody) == len(set(everybody))
        assert from_json(to_json(after)) == after
        fars = gone(after) if drawn.random() < 0.5 else after
        there = max(far.seats[-1] for far in fars) + 1


@pytest.mark.parametrize(("gone", "live"), [([], 0b1111), ([0], 0b1010), ([1], 0b0101), ([0, 1], 0b1111)])
def test_a_far_gateway_that_is_gone_leaves_its_members_buckets_to_the_others(gone: list[int], live: int) -> None:
    """With all of them gone nobody is better, and each keeps its own."""
    members = 4
    lives = [policy.Life(ProcessState.RUNNING, turned_at=100.0) for _ in range(members)]
    able = [i % 2 not in gone for i in range(members)]
    mask = policy.live_mask(lives, [True] * members, able, 0.0, 100.0)
    assert mask == live

    scores = rendezvous_scores(members)
    before, after = owners(scores, 0b1111), owners(scores, mask)
    kept = np.isin(before, [i for i in range(members) if live >> i & 1])
    assert (before[kept] == after[kept]).all(), "who is there keeps what is its own"
    assert set(after.tolist()) == {i for i in range(members) if live >> i & 1}

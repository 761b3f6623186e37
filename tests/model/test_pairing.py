"""Which member is paired with whom, as a table; and whose buckets move when a far gateway goes."""

from __future__ import annotations

from ipaddress import ip_address

import numpy as np
import pytest

from fwd.datapath.shared import ProcessState
from fwd.model.pairing import far_gateways, far_of
from fwd.proto.flow import owners, rendezvous_scores
from fwd.supervise import policy

A, B, C = (ip_address(f"192.0.2.{n}") for n in (2, 3, 4))


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
    found = [(far_of(i, fars), i) for i in range(members)]
    assert [(far.address, far.partner(i)) for far, i in found] == paired
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


@pytest.mark.parametrize(("gone", "live"), [([], 0b1111), ([0], 0b1010), ([1], 0b0101), ([0, 1], 0b1111)])
def test_a_far_gateway_that_is_gone_leaves_its_members_buckets_to_the_others(gone: list[int], live: int) -> None:
    """With all of them gone nobody is better, and each keeps its own."""
    fars, members = far_gateways([A, B]), 4
    lives = [policy.Life(ProcessState.RUNNING, turned_at=100.0) for _ in range(members)]
    able = [far_of(i, fars).number not in gone for i in range(members)]
    mask = policy.live_mask(lives, [True] * members, able, 0.0, 100.0)
    assert mask == live

    scores = rendezvous_scores(members)
    before, after = owners(scores, 0b1111), owners(scores, mask)
    kept = np.isin(before, [i for i in range(members) if live >> i & 1])
    assert (before[kept] == after[kept]).all(), "who is there keeps what is its own"
    assert set(after.tolist()) == {i for i in range(members) if live >> i & 1}

"""What the agent answers for `fwd path` and `fwd verify`, whatever other processes have written."""

from __future__ import annotations

from typing import Any

import pytest
from statuskit import ready_view

from fwd.agent import checks, flow
from fwd.proto.check import ECHOES
from fwd.proto.flow import NOBODY, PARKED

FLOW = {"source": "10.1.0.10", "destination": "10.2.0.10", "protocol": 17, "source_port": 5000, "destination_port": 53}


def asked(owner: int) -> dict[str, Any]:
    """The first peering of an answer, all of whose buckets have this owner."""
    with ready_view() as view:
        view.peerings[0].shared.owners[:] = owner
        told: dict[str, Any] = flow.answer(view, {"command": "flow", **FLOW})["peerings"][0]
        return told


@pytest.mark.parametrize(
    ("owner", "member", "parked"),
    [(0, 0, False), (1, 1, False), (NOBODY, None, False), (PARKED, None, True), (63, None, False)],
)
def test_a_buckets_owner_is_a_member_or_nobody(owner: int, member: int | None, parked: bool) -> None:
    told = asked(owner)
    assert (told["member"], told["parked"]) == (member, parked)


def test_what_is_no_flow_is_an_error() -> None:
    with ready_view() as view:
        assert "no flow" in flow.answer(view, {**FLOW, "protocol": "x" * 1000})["error"]


def test_no_more_comes_back_than_was_sent_whatever_a_member_tells() -> None:
    with ready_view() as view:
        member = view.peerings[0].shared.members[0]
        values = member.check.attach()
        for index in range(len(values)):
            values[index] = 2**64 - 1
        member.check.publish()
        told = checks.answer(view)["peerings"][0]["members"][0]
    assert told["back"] <= told["sent"] <= ECHOES
    assert len(told["spi"]) == len("0x00000000")
    assert told["rtt_ms"] <= 10**6

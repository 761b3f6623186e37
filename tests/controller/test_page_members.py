"""What a gateway says of its members and drops, as the controller reads it and its page shows it."""

from __future__ import annotations

from typing import Any

import pytest

from fwd.controller import members
from fwd.controller.flows import Flows
from fwd.controller.members import drops_in, members_in
from fwd.controller.page.inside import Seen, inside_of

ROW = {
    "index": 0, "state": "running", "path": "up", "far": "b1.gateway.fwd", "mtu": 1500, "restarts": 2, "out": 700,
    "in": 300, "buckets": 16384, "spi_out": "0x11", "spis_in": ["0x21", "0x22"], "age_s": 60, "rekey_s": 3540,
    "ends_s": 3900,
}  # fmt: skip


def told(*rows: Any, **more: Any) -> dict[str, Any]:
    return {"peerings": [{"name": "a-b", "each": list(rows), **more}]}


def test_a_member_is_read_as_it_was_told() -> None:
    (one,) = members_in(told(ROW))
    assert (one.key, one.bytes, one.restarts, one.spis_in) == (("a-b", 0), 1000, 2, ("0x21", "0x22"))
    assert (one.age_s, one.rekey_s, one.ends_s, one.mtu, one.far) == (60, 3540, 3900, 1500, "b1.gateway.fwd")


@pytest.mark.parametrize(
    "status",
    [
        {}, {"peerings": 3}, {"peerings": [3, {"name": "a-b"}]}, {"peerings": [{"name": "a-b", "bytes": 5}]},
        told(None, 3, {}, {"index": -1}, {"index": True}, {"index": 2**70}), told(drops=[1]), told(drops={"x": "y"}),
    ],
)  # fmt: skip
def test_what_is_of_another_form_is_nothing(status: dict[str, Any]) -> None:
    assert members_in(status) == ()
    assert drops_in(status) == ()


def test_no_word_of_a_member_is_long_or_more_than_a_line_and_no_number_absurd() -> None:
    row = {**ROW, "far": "x\n" * 500, "spi_out": ["y"], "mtu": 1e400, "age_s": -1, "out": 2**80, "spis_in": ["z"] * 99}
    (one,) = members_in(told(row))
    assert len(one.far) <= 40
    assert "\n" not in one.far
    assert (one.spi_out, one.mtu, one.age_s, one.bytes, len(one.spis_in)) == ("", None, None, None, 4)


def test_there_are_no_more_members_than_a_gateway_has() -> None:
    many = [{"name": f"p{n}", "each": [{**ROW, "index": i} for i in range(200)]} for n in range(200)]
    assert len(members_in({"peerings": many})) == 64


def test_no_more_rows_are_looked_at_than_a_gateway_has_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """A heartbeat of 4,096 rows of one member cost as much as 15 others."""
    looked_at: list[Any] = []
    monkeypatch.setattr(members, "_member", lambda peering, row: looked_at.append(row))
    members_in({"peerings": [{"name": f"p{n}", "each": [ROW] * 64} for n in range(64)]})
    assert len(looked_at) == 64


def test_drops_come_the_most_first_with_what_they_mean() -> None:
    found = drops_in(told(drops={"replayed": 3, "no_live_member": 0, "unheard_of": 9, "ring_full": 5}))
    assert [(one.reason, one.count) for one in found] == [("unheard_of", 9), ("ring_full", 5), ("replayed", 3)]
    assert [one.sentence for one in found][1:] == [
        "The member's ring was full, and so was what may wait for it: it could not keep up.",
        "Its sequence number was seen before.",
    ]  # fmt: skip
    assert found[0].sentence == ""


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({}, ""),
        ({"state": "backoff"}, "its process is backoff"),
        ({"spi_out": None}, "it has no SA to send on"),
        ({"path": "down"}, "the far member does not answer its echoes"),
    ],
)
def test_a_member_that_does_not_carry_says_why(more: dict[str, Any], why: str) -> None:
    (one,) = inside_of(Seen(members_in(told({**ROW, **more}))), 0.0).members
    assert (one.why, one.look.state) == (why, "down" if why else "up")
    assert one.share == 0.25


def test_each_members_last_hour_is_drawn_and_all_to_one_measure() -> None:
    flows = Flows()
    for n in range(100):
        rows = [{**ROW, "index": i, "out": 1000 * (i + 1) * n, "in": 0} for i in range(2)]
        flows.hear("a1", told(*rows, bytes=3000 * n), float(n), 10_000.0 + n)
    assert flows.of_members("a1", 99.0) == {("a-b", 0): 8000.0, ("a-b", 1): 16000.0}

    seen = Seen(members_in(told(ROW, {**ROW, "index": 1})), pasts=flows.past_of_members("a1", 10_099.0))
    assert {len(points) for points in seen.pasts.values()} == {20}
    found = inside_of(seen, 10_099.0)
    assert found.most == 20_000.0
    heights = [{part.split(" ")[1] for part in one.plot.path[1:].split("L")} for one in found.members if one.plot]
    assert heights == [{"72.0"}, {"24.0"}]

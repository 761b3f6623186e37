"""`fwd verify`: what is made of what members tell."""

from __future__ import annotations

from typing import Any

import pytest

from fwd.cli import _exit_status
from fwd.tools.verify import WAIT_S, _answers, lines, pairs_of


def told(index: int, **fields: Any) -> dict[str, Any]:
    return {
        "index": index, "asked": 3, "run": 3, "spi": "0x00000001", "wanted": 10, "sent": 10, "back": 10, "rtt_ms": 0.5,
    } | fields  # fmt: skip


def peering(*members: dict[str, Any]) -> dict[str, Any]:
    base = {"state": "running", "spi_out": "0x00000001"}
    return {
        "name": "vpc2", "remote_addrs": "192.0.2.8, 192.0.2.9",
        "members": [{"index": i, **base, **one} for i, one in enumerate(members)],
        "far": [{"address": "192.0.2.8", "members": [0, 2]}, {"address": "192.0.2.9", "members": [1, 3]}],
    }  # fmt: skip


def test_a_pair_passes_if_all_came_back_on_each_member() -> None:
    pairs = list(pairs_of(peering({}, {}, {}, {}), [told(i, rtt_ms=i + 0.5) for i in range(4)]))
    assert [(pair.far, pair.faults) for pair in pairs] == [("192.0.2.8", []), ("192.0.2.9", [])]
    assert list(lines(pairs, ())) == [
        "PAIR       PEERING  MEMBERS  SENT  BACK  RTT MS  VERDICT",
        "192.0.2.8  vpc2     2        20    20    2.5     passes",
        "192.0.2.9  vpc2     2        20    20    3.5     passes",
        "2 of 2 pairs pass",
    ]


@pytest.mark.parametrize(
    ("status", "said", "why"),
    [
        ({}, told(0, back=9), "member 0: 9 of 10 came back"),
        ({}, told(0, sent=4, back=4), "member 0: 4 of 4 came back"),
        ({}, told(0, back=0, rtt_ms=None), "member 0: nothing came back"),
        ({}, told(0, run=2), "member 0: sent nothing"),
        ({}, told(0, sent=0, back=0), "member 0: sent nothing"),
        ({}, None, "member 0: sent nothing"),
        ({"state": "failed"}, told(0), "member 0: is in failed"),
        ({"spi_out": None}, told(0), "member 0: has no SA"),
    ],
)
def test_what_does_not_pass_is_told(status: dict[str, Any], said: dict[str, Any] | None, why: str) -> None:
    first, second = pairs_of(peering(status, {}), [one for one in (said, told(1)) if one is not None])
    assert len(first.faults) == 1
    assert first.faults[0].startswith(why)
    assert second.faults == []
    assert list(lines([first, second], ["keyd is failed"]))[-2:] == [
        "not ready: keyd is failed",
        "1 of 2 pairs pass, and the gateway is not ready",
    ]


def test_a_far_gateway_without_members_does_not_pass() -> None:
    _, second = pairs_of(peering({}), [told(0)])
    assert second.faults == ["no member is paired with it"]


def test_members_that_fail_alike_are_told_at_once() -> None:
    first, _ = pairs_of(peering({}, {}, {}), [told(0, back=0), told(1), told(2, back=0)])
    assert first.faults == ["members 0, 2: nothing came back"]


def test_answers_are_waited_for_and_not_for_ever() -> None:
    now = 0.0
    looks = 0

    def look() -> dict[str, Any]:
        nonlocal looks
        looks += 1
        return {"peerings": [{"name": "vpc2", "members": [told(0, back=min(looks, 10) if now < 1e9 else 0)]}]}

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    assert _answers(look, ["vpc2"], lambda: now, sleep)["vpc2"][0]["back"] == 10
    assert looks == 10
    lost = {"peerings": [{"name": "vpc2", "members": [told(0, back=3)]}]}
    assert _answers(lambda: lost, ["vpc2"], lambda: now, sleep)["vpc2"][0]["back"] == 3
    assert now < 2 * WAIT_S


@pytest.mark.parametrize("line", ["verify --control /nonexistent/fwd.sock", "verify a b", "verify --count 3"])
def test_what_cannot_be_is_one_line_and_status_2(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_status(line.split()) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)

"""`fwd show`: what is drawn of a fleet."""

from __future__ import annotations

import io
import re
from typing import Any, Literal

import pytest
from fleetkit import NOW, fleet
from rich.console import Console

from fwd.proto.errors import UserError
from fwd.tools.fleet import read
from fwd.tools.show import drawn


def shown(told: dict[str, list[dict[str, Any]]], columns: int = 120, *, terminal: bool = False) -> str:
    out = io.StringIO()
    colours: Literal["standard", "auto"] = "standard" if terminal else "auto"
    console = Console(file=out, width=columns, force_terminal=terminal, highlight=False, color_system=colours)
    for part in drawn(told, NOW):
        console.print(part)
    return out.getvalue()


def row(text: str, first: str) -> str:
    """The line that begins so, with single spaces."""
    return next(" ".join(line.split()) for line in text.splitlines() if line.split()[:1] == [first])


def test_hosts_are_shown_with_their_state_since_when_and_why() -> None:
    text = shown(fleet())
    assert row(text, "a-2") == "a-2 gateway c1 down 1 min 0 of 1"
    assert row(text, "a-2:") == "a-2: not reached by r1"
    assert row(text, "a1") == "a1 gateway c1 up 1 min 1 of 1"
    assert row(text, "a3") == "a3 gateway spare joining - -"
    assert row(text, "r1") == "r1 router - up 1 min -"
    assert "a1:" not in text


def test_peerings_are_shown_with_how_many_of_their_pairs_carry() -> None:
    text = shown(fleet())
    assert "peering one-two  c1 - c2, internet, superpacket: degraded, 1 of 2 pairs" in text.splitlines()
    assert "a1 - b1   up     1.2 ms  0.1%" in text
    assert "a-2 - b1  down   -       0.0%" in text
    assert "degraded 1 min 1 of 2" in row(text, "b1")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"held": [1, 2]}, "fwd apply --accept-shrink"),
        ({"outdated": True, "version": "0.0.9"}, "runs fwd 0.0.9, which is older"),
        ({"clock_skew_s": -90.0}, "its clock is -90 s off"),
    ],
)
def test_what_a_person_is_to_see_to_is_said(fields: dict[str, Any], words: str) -> None:
    told = fleet()
    told["gateways"][1] |= fields
    assert words in row(shown(told), "a1:")


def test_nothing_is_lost_in_a_narrow_terminal() -> None:
    told = fleet()
    told["gateways"][0]["health"]["reason"] = "a-very-long-word-that-must-be-folded-somewhere"
    text = shown(told, 50)
    assert max(map(len, text.splitlines())) <= 50
    said = re.sub(r"\s", "", text)
    assert all(part in said for part in ("a-very", "-long", "-word", "folded", "somewhere"))
    assert row(text, "a1") == "a1 gateway c1 up 1 min 1 of 1"
    assert all(f" {word} " in text for word in ("router", "gateway", "joining", "degraded"))


def test_a_pipe_has_no_colours_and_a_terminal_has() -> None:
    assert "\x1b" not in shown(fleet())
    assert "\x1b[32mup" in shown(fleet(), terminal=True)


def test_what_a_host_says_cannot_steer_the_terminal() -> None:
    told = fleet()
    told["gateways"][0]["health"]["reason"] = "\x1b]0;title\x07 [red]not markup"
    text = shown(told)
    assert not {"\x1b", "\x07"} & set(text)
    assert "[red]not markup" in text


def test_an_empty_fleet_says_how_to_begin() -> None:
    empty: dict[str, list[dict[str, Any]]] = {kind: [] for kind in fleet()}
    assert "fwd vpc create" in shown(empty)


@pytest.mark.parametrize("answer", [{}, {"items": {}}, {"items": ["x"]}])
def test_an_answer_of_another_shape_is_one_line(answer: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="no list of objects"):
        read(lambda path: answer)

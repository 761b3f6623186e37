"""No notify is forgotten: each number is used, and what two fwds tell each other is said, heard and documented."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import TypeVar

import pytest
from codekit import nodes

from fwd.proto.ike import numbers
from fwd.proto.ike.numbers import PRIVATE_STATUS_FIRST, STATUS_FIRST, Notify

NUMBERS = Path(numbers.__file__)
FWD = NUMBERS.parents[2]
IKE_MD = FWD.parent / "docs" / "ike.md"
STATUSES = [one for one in Notify if one >= STATUS_FIRST]
OWN = [one for one in Notify if one >= PRIVATE_STATUS_FIRST]

Node = TypeVar("Node", bound=ast.AST)


@cache
def code(kind: type[Node]) -> list[Node]:
    """All nodes of a kind of fwd's code but the numbers themselves."""
    files = [file for file in FWD.rglob("*.py") if file != NUMBERS and "Notif" in file.read_text(encoding="utf-8")]
    return [node for file in files for node in nodes(file) if isinstance(node, kind)]


def named(node: ast.AST) -> set[str]:
    """The notifies that stand somewhere in it."""
    return {
        one.attr
        for one in ast.walk(node)
        if isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name) and one.value.id == "Notify"
    }


@cache
def used() -> set[str]:
    return {name for node in code(ast.Attribute) for name in named(node)}


@cache
def compared() -> set[str]:
    return {name for node in code(ast.Compare) for name in named(node)}


@cache
def in_calls_of(function: str) -> set[str]:
    calls = [node for node in code(ast.Call) if isinstance(node.func, ast.Name)]
    return {name for one in calls if getattr(one.func, "id", "") == function for name in named(one)}


@pytest.mark.parametrize("notify", STATUSES, ids=lambda one: one.name)
def test_a_status_notify_that_fwd_knows_is_used(notify: Notify) -> None:
    assert notify.name in used()


@pytest.mark.parametrize("notify", OWN, ids=lambda one: one.name)
def test_a_notify_of_our_own_is_said_heard_and_written_of(notify: Notify) -> None:
    assert notify.name in in_calls_of("Notification"), "nobody says it"
    assert notify.name in in_calls_of("notified") | compared(), "nobody hears it"
    assert f"`{notify.name}` ({notify.value})" in IKE_MD.read_text(encoding="utf-8")

"""docs/ledger.md: every demand has a status, and the tests that are said to keep it are there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEDGER = ROOT / "docs" / "ledger.md"
STATUSES = ("kept", "not applicable: ", "not implemented: ")
HEAD = ["§", "demand", "status", "kept by"]


def rows() -> list[list[str]]:
    """The cells of every row of every table."""
    lines = [line for line in LEDGER.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


DEMANDS = [cells for cells in rows() if cells != HEAD and not set(cells) <= {"---"}]


@cache
def names_in(path: str) -> frozenset[str]:
    file = ROOT / path
    if not file.is_file():
        return frozenset()
    nodes = ast.parse(file.read_text(encoding="utf-8")).body
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef))


def test_every_rfc_has_its_table() -> None:
    text = LEDGER.read_text(encoding="utf-8")
    assert rows().count(HEAD) == text.count("\n## RFC ") >= 3
    assert {"7296", "4303", "3948"} <= set(re.findall(r"\n## RFC (\d+)", text))


@pytest.mark.parametrize("cells", DEMANDS, ids=lambda cells: f"{cells[0]} {cells[1][:40]}")
def test_a_demand_is_kept_by_tests_that_exist_or_says_why_not(cells: list[str]) -> None:
    section, demand, status, kept_by = cells
    assert section
    assert demand
    assert status.startswith(STATUSES)
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", kept_by)
    assert " ".join(f"`{path}::{name}`" for path, name in named) == kept_by.replace("—", "")
    assert named or not status.startswith("kept"), "nothing keeps it"
    for path, name in named:
        assert name in names_in(path), f"{path} has no {name}"

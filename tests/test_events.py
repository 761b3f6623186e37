"""docs/status.md lists every event that the code logs, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from codekit import nodes

from fwd.datapath.audit import Event

ROOT = Path(__file__).parents[1]


def events_in_code() -> Iterator[str]:
    """First arguments of `event(…)` (fwd/proto/logged.py) that are written out; the audit log has an enum."""
    for file in (ROOT / "fwd").rglob("*.py"):
        for node in nodes(file):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "event":
                (name, *_) = node.args
                assert isinstance(name, ast.Constant), f"{file}: an event's name is not written out"
                yield str(name.value)


def test_every_event_is_documented() -> None:
    _, _, text = (ROOT / "docs" / "status.md").read_text(encoding="utf-8").partition("# Logs\n")
    documented = re.findall(r"^\| `([a-z_.]+)` \|", text, re.MULTILINE)
    assert sorted(documented) == sorted({*events_in_code(), *(event.value for event in Event)})

"""Why a gateway is not ready: each code has a sentence and a remedy, and goes over JSON unchanged."""

from __future__ import annotations

import ast
import json
from collections import defaultdict
from itertools import chain
from pathlib import Path
from string import Formatter

import pytest
from codekit import nodes

from fwd.model import reasons
from fwd.model.reasons import KINDS, Code, Reason, from_json

REASONS = Path(reasons.__file__)


def names(template: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(template) if name}


@pytest.mark.parametrize("code", list(Code))
def test_every_code_has_a_meaning_a_sentence_and_a_remedy(code: Code) -> None:
    kind = KINDS[code]
    assert all(kind)
    assert names(kind.remedy) <= names(kind.text) | {"sysctl", "device", "ports", "where"}


def test_every_code_is_raised_somewhere() -> None:
    files = [file for file in REASONS.parents[1].rglob("*.py") if file != REASONS]
    raised = {
        node.attr
        for node in chain.from_iterable(map(nodes, files))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Code"
    }
    assert {code.name for code in Code} - raised == set()


@pytest.mark.parametrize("code", list(Code))
def test_a_reason_goes_over_json_unchanged(code: Code) -> None:
    facts: dict[str, str] = defaultdict(lambda: "x")
    for name in names(KINDS[code].text) | names(KINDS[code].remedy):
        facts[name] = f"<{name}>"
    made = Reason.of(code, "vpc2", ["10.2.0.0/16"], **facts)
    assert from_json(json.loads(json.dumps(made.as_json()))) == made
    assert all(f"<{name}>" in made.text + made.remedy for name in facts)


def test_a_line_names_the_peering() -> None:
    what = {"what": "demux", "state": "failed"}
    assert Reason.of(Code.PROCESS, "vpc2", **what).line == "vpc2: demux is failed"
    assert Reason.of(Code.PROCESS, **what).line == "demux is failed"


def test_a_sentence_needs_its_facts() -> None:
    with pytest.raises(KeyError):
        Reason.of(Code.PROCESS, "vpc2", what="demux")


def test_a_reason_is_a_value() -> None:
    assert Reason("x", "", "a", "b") == Reason("x", "", "a", "b")
    what = {"what": "demux", "state": "failed"}
    assert hash(Reason.of(Code.PROCESS, **what)) == hash(Reason.of(Code.PROCESS, **what))

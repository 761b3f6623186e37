"""Whatever stands in a body: an object is made or changed, or one line says why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fwd.controller.changes import KINDS, RefusedError, change, create
from fwd.model.fleet import Fleet

FLEET = Fleet.model_validate(
    {
        "vpcs": [{"name": "a", "cidrs": ["10.1.0.0/16"]}, {"name": "b", "cidrs": ["10.2.0.0/16"]}],
        "gateways": [{"name": "a1", "vpc": "a", "outer": "192.0.2.1", "inner": ["10.1.0.11"]}],
        "clusters": [{"name": "ca", "vpc": "a", "gateways": ["a1"]}, {"name": "cb", "vpc": "b"}],
        "routers": [{"name": "ra", "vpc": "a", "inner": ["10.1.0.2"]}],
        "peerings": [{"name": "p", "clusters": ["ca", "cb"], "number": 0}],
    }
)
NAMES = {"vpc": "a", "gateway": "a1", "cluster": "ca", "router": "ra", "peering": "p"}
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["a", "b", "a1", "ca", "cb", "10.1.0.12", "10.3.0.0/16", "draining", "esp", "\ud800", "A B"]),
)  # fmt: skip
VALUES = st.one_of(PLAIN, st.lists(PLAIN, max_size=3), st.dictionaries(st.text(max_size=3), PLAIN, max_size=2))


GOOD = {
    "vpc": {"name": "c", "cidrs": ["10.3.0.0/16"]},
    "gateway": {"name": "a2", "vpc": "a", "outer": "192.0.2.2", "inner": ["10.1.0.12"]},
    "cluster": {"name": "cc", "vpc": "a", "gateways": ["a1"]},
    "router": {"name": "rb", "vpc": "b", "inner": ["10.2.0.2"]},
    "peering": {"name": "q", "clusters": ["ca", "cb"]},
}


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A good body, with one field or two that hold something else."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    keys = st.sampled_from([*KINDS[kind][1].model_fields, "other"])
    return kind, {**GOOD[kind], **draw(st.dictionaries(keys, VALUES, min_size=1, max_size=2))}


@given(bodies())
def test_any_body_makes_an_object_or_says_in_one_line_why_not(asked: tuple[str, dict[str, Any]]) -> None:
    kind, body = asked
    for act in (lambda: create(FLEET, kind, body), lambda: change(FLEET, kind, NAMES[kind], body)):
        assert said_by(act)


def said_by(act: Callable[[], Fleet]) -> str:
    """Why it is refused; a word if it is not."""
    try:
        act()
    except RefusedError as refused:
        return str(refused)
    return "made"

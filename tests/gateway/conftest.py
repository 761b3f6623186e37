"""A lab with two gateways for a whole module, or for one test; nothing may be left behind when they end."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from gwkit import Pair

from fwd.lab.topology import Topology, why_not

MakePair = Callable[..., Pair]
_serial = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.netns)


@contextmanager
def _pairs(config: pytest.Config) -> Iterator[MakePair]:
    if reason := why_not():
        pytest.skip(reason)
    outer = config.pluginmanager.get_plugin(str(Path(__file__).parents[1] / "conftest.py"))
    before = outer.Belongings.now()
    with ExitStack() as stack:

        def make(peerings: Any = None, *, lab: dict[str, Any] | None = None, start: bool = True, **other: Any) -> Pair:
            topology = Topology(f"t{os.getpid()}-g{next(_serial)}", **(lab or {}))
            stack.callback(topology.down)
            topology.up()
            pair = Pair(topology, peerings or ({},), **other)
            stack.callback(pair.close)
            return pair.start() if start else pair

        yield make
    left = outer.Belongings.now().left_since(before)
    assert not left, "left behind: " + "; ".join(left)


@pytest.fixture(scope="module")
def module_pairs(request: pytest.FixtureRequest, _mark_descendants: None) -> Iterator[MakePair]:
    """Makes pairs of gateways that the module's tests share."""
    with _pairs(request.config) as make:
        yield make


@pytest.fixture
def pairs(request: pytest.FixtureRequest, _mark_descendants: None) -> Iterator[MakePair]:
    """Makes pairs of gateways for one test."""
    with _pairs(request.config) as make:
        yield make

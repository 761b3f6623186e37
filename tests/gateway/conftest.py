"""A lab with two gateways for a whole module, or for one test; nothing may be left behind when they end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gwkit import MakePair, pairs_without_trace
from nursery import Nursery


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.netns)


@pytest.fixture(scope="module")
def module_pairs(request: pytest.FixtureRequest, nursery: Nursery) -> Iterator[MakePair]:
    """Makes pairs of gateways that the module's tests share."""
    with pairs_without_trace(request.config, nursery) as make:
        yield make


@pytest.fixture
def pairs(request: pytest.FixtureRequest, nursery: Nursery) -> Iterator[MakePair]:
    """Makes pairs of gateways for one test."""
    with pairs_without_trace(request.config, nursery) as make:
        yield make

"""Fleets with a controller for a whole module, or for one test; nothing may be left behind when they end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from clusterkit import MakeFleet, fleets_without_trace
from nursery import Nursery


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.netns)


@pytest.fixture(scope="module")
def module_fleets(request: pytest.FixtureRequest, nursery: Nursery) -> Iterator[MakeFleet]:
    """Makes fleets that the module's tests share."""
    with fleets_without_trace(request.config, nursery) as make:
        yield make


@pytest.fixture
def fleets(request: pytest.FixtureRequest, nursery: Nursery) -> Iterator[MakeFleet]:
    """Makes fleets for one test."""
    with fleets_without_trace(request.config, nursery) as make:
        yield make

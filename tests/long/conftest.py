"""The long runs use the gateway tests' helpers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "gateway"))

from gwkit import MakePair, pairs_without_trace


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = f"{Path(__file__).parent}{os.sep}"
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.long)
            item.add_marker(pytest.mark.netns)


@pytest.fixture
def pairs(request: pytest.FixtureRequest, _mark_descendants: None) -> Iterator[MakePair]:
    """Makes pairs of gateways for one test."""
    with pairs_without_trace(request.config) as make:
        yield make

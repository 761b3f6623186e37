"""A router whose kernel does not take the domain's hash seed, as in a container, where /proc/sys is read-only."""

from __future__ import annotations

import logging
from pathlib import Path
from unittest.mock import Mock

import pytest

from fwd.model.router import RouterConfig
from fwd.router import tables
from fwd.router.tables import Tables

CONFIG = RouterConfig.model_validate({"router": {"hash_seed": 7}, "controller": {"subnets": ["10.0.0.0/8"]}})


@pytest.fixture
def router() -> Tables:
    kernel = Mock()
    kernel.owned.return_value, kernel.ways.return_value = {}, frozenset()
    return Tables(CONFIG, kernel, list)


def test_one_that_cannot_have_the_seed_is_ready_and_says_so_once(
    router: Tables, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tables, "_SEED", Path("/proc/version"))  # can be read, and not be written

    with caplog.at_level(logging.WARNING):
        router.reconcile()
        router.reconcile()

    assert router.troubles == {}
    assert [record.message for record in caplog.records if "hashed in another way" in record.message] == [
        caplog.records[0].message
    ]


def test_one_that_can_have_it_has_it(router: Tables, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seed = tmp_path / "seed"
    seed.write_text("0\n")
    monkeypatch.setattr(tables, "_SEED", seed)
    router.reconcile()
    assert seed.read_text() == "7"

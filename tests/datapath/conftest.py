"""An exception that the data path survives is a failure of a test all the same, unless it was the test's own."""

from __future__ import annotations

import pytest

from fwd.datapath import barrier


@pytest.fixture(autouse=True)
def _no_exception_is_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(barrier, "reraise", True)

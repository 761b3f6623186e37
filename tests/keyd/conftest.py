"""What the tests of keyd share; the fault hook stands beside the data path's, certificates beside those of IKE."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fwd.keyd import barrier, beginning

for _place in ("datapath", "proto/ike"):
    sys.path.insert(0, str(Path(__file__).parents[1] / _place))


@pytest.fixture
def soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever failed is tried again at once."""
    for module in (barrier, beginning):
        monkeypatch.setattr(module, "AGAIN_S", 0.01)
        monkeypatch.setattr(module, "AGAIN_MAX_S", 0.01)

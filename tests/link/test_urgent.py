"""What of a summary has a host tell it at once."""

from __future__ import annotations

from typing import Any

import pytest

from fwd.link.urgent import standing_in

HOP = {"name": "g", "up": True, "use": "up", "rtt_ms": 1.0, "share": 0.5}
PAIR = {"name": "p", "ready": True, "bytes": 1, "far": [{"up": True, "loss": 0.0}]}
WELL = {"ready": True, "draining": False, "gateways": [HOP], "peerings": [PAIR]}


@pytest.mark.parametrize(
    "other",
    [
        {"ready": False}, {"draining": True}, {"gateways": []}, {"peerings": []},
        {"gateways": [{**HOP, "up": False}]}, {"gateways": [{**HOP, "use": "down"}]},
        {"gateways": [{**HOP, "name": "h"}]},
        {"peerings": [{**PAIR, "ready": False}]}, {"peerings": [{**PAIR, "far": [{"up": False}]}]},
        {"peerings": [{**PAIR, "name": "q"}]},
    ],
)  # fmt: skip
def test_what_others_go_by_is_urgent(other: dict[str, Any]) -> None:
    assert standing_in({**WELL, **other}) != standing_in(WELL)


@pytest.mark.parametrize(
    "other",
    [
        {"gateways": [{**HOP, "rtt_ms": 9.0, "share": 0.1}]}, {"peerings": [{**PAIR, "bytes": 7}]}, {"waiting": ["x"]},
        {"peerings": [{**PAIR, "far": [{"up": True, "loss": 0.5}]}]},
    ],
)  # fmt: skip
def test_times_and_counts_are_not(other: dict[str, Any]) -> None:
    assert standing_in({**WELL, **other}) == standing_in(WELL)


@pytest.mark.parametrize("status", [None, [], "x", {"gateways": 7, "peerings": [1, {"far": "x"}]}])
def test_whatever_a_summary_is_it_is_read(status: object) -> None:
    assert hash(standing_in(status)) is not None

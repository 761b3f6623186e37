"""When both sides authenticate anew for the sake of the peer's certificate (keyd/renewal.py)."""

from __future__ import annotations

import pytest

from fwd.keyd.renewal import BEFORE_END_S, anew_at
from fwd.proto.ike.events import Standing

DAY_S = 86400.0


@pytest.mark.parametrize(
    ("since", "end", "grace", "anew"),
    [
        pytest.param(0, 30 * DAY_S, 0, 30 * DAY_S - BEFORE_END_S, id="before its end"),
        pytest.param(0, 30 * DAY_S, 7 * DAY_S, 30 * DAY_S - BEFORE_END_S, id="whatever its grace"),
        pytest.param(0, 100, 7 * DAY_S, 90, id="of a short life"),
        pytest.param(31 * DAY_S, 30 * DAY_S, 7 * DAY_S, 31 * DAY_S + BEFORE_END_S, id="every hour in its grace"),
        pytest.param(95, 90, 15, 96, id="more often in a short grace"),
        pytest.param(0, float("inf"), 0, float("inf"), id="never, with a secret"),
    ],
)
def test_sides_authenticate_anew_in_time_for_the_certificate(
    since: float, end: float, grace: float, anew: float
) -> None:
    assert anew_at(Standing(authenticated_at=since, ends_at=end + grace, grace_s=grace)) == anew

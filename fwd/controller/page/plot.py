"""The last hour as a line, drawn on the server: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fwd.controller.flows import HOUR_S, STEP_S

WIDTH: Final = 720
HEIGHT: Final = 120
_GAP_S: Final = 3 * STEP_S  # without a point: nothing was heard, and nothing is drawn
_SMALL_S: Final = 30.0  # between two points of a small plot


@dataclass(frozen=True)
class Plot:
    """`path`: as SVG has it, the newest at the right. `most`: what the upper edge means."""

    path: str
    most: float
    last: float


def plot_of(
    points: Sequence[tuple[float, float]], now: float, most: float | None = None, gap_s: float = _GAP_S
) -> Plot | None:
    """Draw points in time; None: there are too few. `most`: what the upper edge is to mean, if others have it too."""
    if len(points) < 2:
        return None
    now = STEP_S * (now // STEP_S)  # as often as there is a point
    most = most or round_up(max(value for _, value in points))
    parts, before = [], float("-inf")
    for at, value in points:
        x, y = WIDTH * (1 - (now - at) / HOUR_S), HEIGHT * (1 - value / most)
        parts.append(f"{'L' if at - before <= gap_s else 'M'}{min(max(x, 0), WIDTH):.1f} {y:.1f}")
        before = at
    return Plot("".join(parts), most, points[-1][1])


def small_plot_of(points: Sequence[tuple[float, float]], now: float, most: float) -> Plot | None:
    """Draw the same with the mean of each half minute, for a row of a table."""
    means: dict[float, list[float]] = {}
    for at, value in points:
        means.setdefault(_SMALL_S * (at // _SMALL_S + 0.5), []).append(value)
    return plot_of([(at, sum(found) / len(found)) for at, found in means.items()], now, most, 2 * _SMALL_S)


def round_up(value: float) -> float:
    """Return 1, 2 or 5 and zeros, no less than a value."""
    size = 1.0
    while size < value:
        size *= 10
    return next((size * part for part in (0.1, 0.2, 0.5) if size * part >= value), size)

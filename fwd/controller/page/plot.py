"""The last hour as a line, drawn on the server: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fwd.controller.flows import HOUR_S, STEP_S

WIDTH: Final = 720
HEIGHT: Final = 120
_GAP_S: Final = 3 * STEP_S  # without a point: nothing was heard, and nothing is drawn


@dataclass(frozen=True)
class Plot:
    """`path`: as SVG has it, the newest at the right. `most`: what the upper edge means."""

    path: str
    most: float
    last: float


def plot_of(points: Sequence[tuple[float, float]], now: float) -> Plot | None:
    """Draw points in time; None: there are too few."""
    if len(points) < 2:
        return None
    most = _round(max(value for _, value in points))
    parts, before = [], float("-inf")
    for at, value in points:
        x, y = WIDTH * (1 - (now - at) / HOUR_S), HEIGHT * (1 - value / most)
        parts.append(f"{'L' if at - before <= _GAP_S else 'M'}{max(x, 0):.1f} {y:.1f}")
        before = at
    return Plot("".join(parts), most, points[-1][1])


def _round(value: float) -> float:
    """Return 1, 2 or 5 and zeros, no less than a value."""
    size = 1.0
    while size < value:
        size *= 10
    return next((size * part for part in (0.1, 0.2, 0.5) if size * part >= value), size)

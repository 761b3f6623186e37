"""How states look: each has a tone, a shape and a word, so that none is told by its colour alone: pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Look:
    """A state as it is shown. `tone`: a class of the style sheet; `shape`: around (0, 0), as an SVG path has it."""

    state: str
    tone: str
    shape: str
    word: str
    order: int = 0  # the worst first


_CIRCLE: Final = "M-7 0a7 7 0 1 0 14 0a7 7 0 1 0 -14 0z"
_RING: Final = "M-7 0a7 7 0 1 0 14 0a7 7 0 1 0 -14 0zM-4 0a4 4 0 1 1 8 0a4 4 0 1 1 -8 0z"
_TRIANGLE: Final = "M0 -8L8 6H-8z"
_DIAMOND: Final = "M0 -8L8 0L0 8L-8 0z"
_CROSS: Final = "M-7 -4L-4 -7L0 -3L4 -7L7 -4L3 0L7 4L4 7L0 3L-4 7L-7 4L-3 0z"
_BAR: Final = "M-7 -3H7V3H-7z"
_ARROW: Final = "M-7 -7H7L0 7z"

# Of hosts, pairs and peerings: what is called the same looks the same.
LOOKS: Final = {
    one.state: one
    for one in (
        Look("down", "bad", _CROSS, "down", 0),
        Look("degraded", "warn", _TRIANGLE, "degraded", 1),
        Look("unreachable", "warn", _DIAMOND, "unreachable", 2),
        Look("draining", "hold", _ARROW, "draining", 3),
        Look("joining", "idle", _RING, "joining", 4),
        Look("unknown", "idle", _RING, "unknown", 5),
        Look("empty", "idle", _BAR, "no pairs", 6),
        Look("left", "idle", _BAR, "left", 7),
        Look("up", "good", _CIRCLE, "up", 8),
    )
}


def look_of(state: object) -> Look:
    """Return how a state looks; one that this page does not know is unknown."""
    return LOOKS.get(str(state), LOOKS["unknown"])


def counted(looks: Iterable[Look]) -> tuple[tuple[Look, int], ...]:
    """Count states, that of most hosts first; of as many the worse one first."""
    found = Counter(one.state for one in looks)
    ordered = sorted(found.items(), key=lambda one: (-one[1], LOOKS[one[0]].order))
    return tuple((LOOKS[state], number) for state, number in ordered)


def summed(looks: Iterable[Look]) -> str:
    """Say how many are in which state: `12 up, 1 degraded`."""
    return ", ".join(f"{number} {look.word}" for look, number in counted(looks)) or "none"

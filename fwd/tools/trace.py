"""What is found of a flow's way through one host."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Trace:
    """What is known. `there`, `back`: lines in the order of the way. `breaks`: why it ends here; empty: it does not."""

    flow: dict[str, Any]
    here: str = ""  # gateway, router, or fleet: as the controller sees it; empty: none of fwd's takes it
    facts: dict[str, Any] = field(default_factory=dict)  # for programs
    there: list[str] = field(default_factory=list)
    back: list[str] = field(default_factory=list)
    breaks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

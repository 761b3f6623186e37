"""What the keeper knows of one peering (keeper.py)."""

from __future__ import annotations

from dataclasses import dataclass, field

from fwd.model.config import Peering
from fwd.model.reasons import Reason
from fwd.model.words import Network
from fwd.supervise import guards
from fwd.supervise.kernel import Step
from fwd.supervise.patience import Allowance, Patience
from fwd.supervise.peering import PeeringParts


def _patience() -> dict[bool, Patience[Step]]:
    """Of guards none: whoever removes them, they are set again as often as looks are allowed."""
    return {True: Patience(longest_s=0.0), False: Patience()}


@dataclass
class Kept:
    """One peering: its guards, and its device once it is set up."""

    peering: Peering
    rules: str
    listing: str = ""  # as nft shows the rules; empty: not seen yet
    outside: dict[str, tuple[Network, ...]] = field(default_factory=dict)  # devices that lead there (guards.py)
    parts: PeeringParts | None = None
    well: tuple[object, ...] = ()  # all that decided that nothing was missing
    patience: dict[bool, Patience[Step]] = field(default_factory=_patience)  # of guards, and of the rest
    lines: Allowance = field(default_factory=Allowance)  # of what was restored, or could not be
    obstacle_lines: Allowance = field(default_factory=Allowance)
    failed: dict[Step, str] = field(default_factory=dict)
    restored: dict[Step, float] = field(default_factory=dict)  # lately, and when
    obstacles: list[Reason] = field(default_factory=list)
    beside: frozenset[Network] = frozenset()  # remote subnets of which it was told that others have a route, too

    def __post_init__(self) -> None:
        self.table = guards.table_name(self.peering)

    @property
    def tun(self) -> str:
        """The name of its TUN device."""
        return self.peering.tun

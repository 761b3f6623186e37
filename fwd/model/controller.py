"""The table `[controller]`: what a host that has joined a controller lets it set, a gateway or a router, and where it
keeps what it was given (`fwd join`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import Field

from fwd.model.words import FilePath, HostAddress, Live, Restart, Strict, Subnet

DIRECTORY: Final = Path("/etc/fwd/controller")


class RouterController(Strict):
    """What a controller may set on this router: spreads, and of those no more than stands here."""

    directory: Restart[FilePath] = Field(
        default=DIRECTORY, description="where `fwd join` has put keys and certificates; for root alone"
    )
    subnets: Live[list[Subnet]] = Field(
        min_length=1, max_length=64, description="in which all far subnets, and all gateways, of its spreads must be"
    )


class Controller(RouterController):
    """What a controller may set on this gateway: peerings, and of those no more than stands here."""

    subnets: Live[list[Subnet]] = Field(
        min_length=1, max_length=64, description="in which all subnets of its peerings must be, on both sides"
    )
    members_max: Live[int] = Field(default=64, ge=1, le=4096, description="members that all its peerings may have")
    local_addrs: Live[HostAddress | None] = Field(
        default=None,
        description="its own outer address, where a 1:1 NAT gives it the one by which the controller knows it",
    )
    port_min: Live[int] = Field(default=4500, ge=1024, le=65535, description="the lowest UDP port that it may use")

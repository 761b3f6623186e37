"""The configuration of `fwd router`: which far subnets go to which gateways of this VPC.

A *spread* is what a peering is to a gateway: the far side's subnets, and the gateways of this side that carry what goes
there. Its name is that of the peering on the gateways, whose state their beacons tell.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, Field, model_validator

from fwd.model.controller import RouterController
from fwd.model.subnets import SUBNETS_MAX, first_shared
from fwd.model.toml import parse_as, read_text
from fwd.model.words import Address, FilePath, HostAddress, Live, Restart, Seconds, SocketPath, Strict, Subnet

BEACON_PORT: Final = 4790
PROBE_KEY: Final = "probe.key"  # in the directory of a host that has joined a controller
SPREADS_MAX: Final = 32
GATEWAYS_MAX: Final = 64
NAME: Final = r"^[a-z0-9][a-z0-9-]{0,31}$"


class Hop(Strict):
    """A gateway of this VPC, as a router sees it."""

    name: Live[str] = Field(pattern=NAME, description="its name")
    addresses: Live[list[HostAddress]] = Field(
        min_length=1, max_length=2, description="its inner addresses, one of each IP version that it carries"
    )
    weight: Live[float] = Field(default=1.0, gt=0, le=1000, description="its share is this over the sum of all")
    state: Live[Literal["active", "draining"]] = Field(
        default="active", description="draining: it keeps busy slots until they are idle, or drain_deadline"
    )

    @model_validator(mode="after")
    def _one_of_each(self) -> Hop:
        if len({one.version for one in self.addresses}) != len(self.addresses):
            raise ValueError("addresses has two of one IP version")
        return self

    def address(self, version: int) -> Address | None:
        """Its address of an IP version."""
        return next((one for one in self.addresses if one.version == version), None)


class Spread(Strict):
    """Subnets on the far side, and the gateways of this VPC over which what goes there is spread; without any, nothing
    goes there."""

    name: Live[str] = Field(pattern=NAME, description="the peering's name on the gateways")
    remote_ts: Live[list[Subnet]] = Field(min_length=1, max_length=SUBNETS_MAX, description="subnets on the far side")
    gateway: Live[list[Hop]] = Field(default=[], max_length=GATEWAYS_MAX)
    drain_deadline: Live[Seconds] = Field(
        default=60, ge=0, le=86400, description="when busy slots of a gateway that drains move, too"
    )
    idle_ms: Live[int] = Field(
        default=1000, ge=100, le=60_000, description="a slot without a packet for so long is idle"
    )

    @model_validator(mode="after")
    def _coherent(self) -> Spread:
        for a, b in itertools.combinations(self.gateway, 2):
            if a.name == b.name:
                raise ValueError(f"two gateways are named {a.name}")
            if shared := set(a.addresses) & set(b.addresses):
                raise ValueError(f"gateways {a.name} and {b.name} share the address {shared.pop()}")
        for subnet in self.remote_ts:
            for hop in self.gateway:
                if hop.address(subnet.version) is None:
                    raise ValueError(f"gateway {hop.name} has no IPv{subnet.version} address, and {subnet} needs one")
                if any(one in subnet for one in hop.addresses):
                    raise ValueError(f"remote_ts {subnet} contains gateway {hop.name}'s own address")
        return self


class Router(Strict):
    """What holds for the whole router."""

    control: Restart[SocketPath] = Field(
        default=Path("/run/fwd/router.sock"), description="Unix socket of `fwd router status` and `fwd router ready`"
    )
    probe_key: Live[FilePath | None] = Field(
        default=None,
        description="file of 32 random octets in hexadecimal, the domain's; mode 0600; required without [controller]",
    )
    beacon_port: Live[int] = Field(default=BEACON_PORT, ge=1, le=65535, description="UDP port of the gateways' beacons")
    local_ts: Live[list[Subnet]] = Field(
        default=[],
        max_length=SUBNETS_MAX,
        description="the VPC's own subnets, unless a default route leads to its hosts: what is for them takes none",
    )
    hash_seed: Live[int | None] = Field(
        default=None, ge=1, le=2**32 - 1, description="the same on all routers of both VPCs (Linux 6.11): same slots"
    )


class Wish(Strict):
    """What a controller wants of a router."""

    spread: list[Spread] = Field(default=[], max_length=SPREADS_MAX)
    hash_seed: int | None = Field(default=None, ge=1, le=2**32 - 1)


class RouterConfig(Strict):
    router: Router = Router()
    controller: RouterController | None = None
    spread: list[Spread] = Field(default=[], max_length=SPREADS_MAX)

    @property
    def probe_key(self) -> Path:
        """The file of the probe key: its own, or the controller's."""
        if self.controller is not None:
            return self.controller.directory / PROBE_KEY
        assert self.router.probe_key is not None
        return self.router.probe_key

    @model_validator(mode="after")
    def _whole(self) -> RouterConfig:
        if (self.controller is None) == (self.router.probe_key is None):
            raise ValueError("either router.probe_key, or a [controller] that gives the key: one of them is needed")
        if self.controller is None and not self.spread:
            raise ValueError("spread: at least one is needed, unless there is a [controller] from which they come")
        return self

    @model_validator(mode="after")
    def _apart(self) -> RouterConfig:
        for a, b in itertools.combinations(self.spread, 2):
            if a.name == b.name:
                raise ValueError(f"two spreads are named {a.name}")
        if overlap := first_shared(
            {
                "router.local_ts": self.router.local_ts,
                **{f"remote_ts of {one.name}": one.remote_ts for one in self.spread},
            }
        ):
            (a_name, x), (b_name, y) = overlap
            raise ValueError(f"{a_name} {x} and {b_name} {y} overlap")
        names = {hop.name: hop.addresses for one in self.spread for hop in one.gateway}
        for one in self.spread:
            for hop in one.gateway:
                if names[hop.name] != hop.addresses:
                    raise ValueError(f"gateway {hop.name} has other addresses in {one.name} than elsewhere")
        return self


_TABLES: Final[dict[str, type[BaseModel]]] = {
    "router": Router, "controller": RouterController, "spread": Spread, "spread.gateway": Hop,
}  # fmt: skip


def load_router(path: Path) -> RouterConfig:
    """Read and check the file at `path`. Raises ConfigError, one line."""
    return parse_as(RouterConfig, read_text(path), str(path), _TABLES)

"""What the agent and the beacon look at: the shared memory of every process, and facts that do not change meanwhile.

Built in the process itself over what it may see (datapath.memory). It only reads, its own heartbeat excepted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fwd.datapath.ring import RingWords
from fwd.datapath.shared import GatewayShared, PeeringShared
from fwd.datapath.tun import Offloads
from fwd.model.config import Peering
from fwd.model.gateway import Gateway


@dataclass(frozen=True)
class PeeringView:
    """One peering: its configuration, what its processes share, and what was found out when it was set up."""

    config: Peering
    shared: PeeringShared
    rings: list[RingWords]
    offloads: Offloads
    inner_mtu_bytes: int
    warnings: Sequence[str] = ()  # what was found when it was set up


@dataclass(frozen=True)
class TunLink:
    """What the kernel says of a TUN device."""

    mtu_bytes: int  # the supervisor lowers it when a path turns out to be smaller (payload esp)
    queue_drops: int  # packets that found the device's queue full


@dataclass(frozen=True)
class GatewayView:
    """The whole gateway; `pid` is the supervisor's, `started_ns` is monotonic."""

    gateway: Gateway
    shared: GatewayShared
    peerings: list[PeeringView]
    pid: int
    started_ns: int
    users: Mapping[str, int] = field(default_factory=dict)  # uids, by kind of process

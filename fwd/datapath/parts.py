"""What a member inherits from the supervisor, which outlives it."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from fwd.datapath.geometry import Geometry
from fwd.datapath.ring import Ring
from fwd.datapath.shared import MemberShared
from fwd.datapath.tun import Offloads
from fwd.model.config import Peering


@dataclass(frozen=True)
class MemberParts:
    """What a member inherits."""

    index: int
    peering: Peering
    geometry: Geometry
    offloads: Offloads
    tun_fd: int
    sock: socket.socket
    boot: socket.socket  # boot records, from keyd
    control: socket.socket  # SaSet from keyd, SaEvent to it
    ring: Ring
    shared: MemberShared
    steered: bool = False  # `tun_fd` is a queue of its own, which it reads (queue.py)

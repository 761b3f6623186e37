"""No tunnel: both gateways forward in the clear, which is as fast as the lab can be."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator

from fwd.bench.tunnels.peer import Peer, wait_reachable
from fwd.lab.topology import Topology


def peer() -> Peer:
    return Peer("plain", f"Linux {platform.release()}", "forwarding in the clear, no tunnel: the ceiling", tunnel)


@contextlib.contextmanager
def tunnel(topology: Topology) -> Iterator[None]:
    wait_reachable(topology, [], "plain forwarding", in_clear=True)
    yield

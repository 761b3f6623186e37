"""fwd itself, with payload `superpacket` and with payload `esp`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Final

import fwd
from fwd.bench.tunnels.peer import Peer, wait_reachable
from fwd.lab import gateways
from fwd.lab.topology import Topology

MEMBERS: Final = 2


def superpacket() -> Peer:
    return _peer("fwd", "superpacket")


def esp() -> Peer:
    return _peer("fwd-esp", "esp")


def _peer(name: str, payload: str) -> Peer:
    settings = f"payload {payload}, {MEMBERS} members, AES-256-GCM, ESN"
    return Peer(name, fwd.__version__, settings, partial(tunnel, payload=payload))


@contextlib.contextmanager
def tunnel(topology: Topology, payload: str) -> Iterator[None]:
    try:
        gateways.start(topology, members=MEMBERS, payload=payload)
        wait_reachable(topology, [], f"fwd, payload {payload}")
        yield
    finally:
        gateways.stop(topology)

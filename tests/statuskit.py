"""A gateway's shared memory, as the agent sees it, filled by a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fwd.agent.view import GatewayView, PeeringView
from fwd.datapath.ring import Ring, RingWords
from fwd.datapath.shared import GatewayShared, LinkWord, PeeringShared, ProcessState
from fwd.datapath.tun import Offloads
from fwd.model import config
from fwd.model.example import EXAMPLE
from fwd.model.gateway import Gateway
from fwd.proto.ip import CSUM, TSO4

NOW_NS = 100_000_000_000
NEVER_OLD_NS = 10**18


@contextmanager
def ready_view() -> Iterator[GatewayView]:
    """Give a gateway that is ready, with one peering of two members; nothing has been counted."""
    peering = config.parse(EXAMPLE.replace("members = 4", "members = 2"), "example").peering[0]
    shared, gateway = PeeringShared(2), GatewayShared()
    for i, words in enumerate((gateway.keyd, gateway.agent, shared.demux, *(m.process for m in shared.members))):
        words.put(ProcessState.RUNNING, 1000 + i, 0, NOW_NS, 1)
        words.heartbeat[0] = NOW_NS - 50_000_000
    gateway.turned[0] = NOW_NS - 50_000_000
    for i, member in enumerate(shared.members):
        member.link[LinkWord.SPI_OUT] = 0x1000 + i
    shared.owners[:] = 0
    shared.owners[:1000] = 1
    shared.owners[-1] = 0xFFFF

    rings = [Ring(64, 4) for _ in range(2)]
    offloads = Offloads(CSUM | TSO4, gso=True, refused={"uso": "[Errno 22] Invalid argument"})
    control = Gateway(control=Path("/run/x.sock"))
    peerings = [PeeringView(peering, shared, list[RingWords](rings), offloads, 1500, ["odd [b]"])]
    try:
        yield GatewayView(control, gateway, peerings, 999, NOW_NS - 5 * 10**9)
    finally:
        for ring in rings:
            ring.close()


def turn_for_ever(view: GatewayView) -> None:
    """Let no process's words grow old, however long the test takes."""
    view.shared.turned[0] = NEVER_OLD_NS
    peering = view.peerings[0].shared
    for words in (view.shared.keyd, peering.demux, *(member.process for member in peering.members)):
        row = words.get()
        words.put(row.state, row.pid, row.restarts, NEVER_OLD_NS, row.incarnation)

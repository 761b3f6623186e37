"""What is measured beside fwd: each peer as a tunnel between the lab's gateways, tuned as its own users would."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fwd.bench.tunnels import openvpn, ours, plain, strongswan, wireguard_go
from fwd.bench.tunnels.peer import Peer

__all__ = ["Peer", "every"]


def every(newer: Sequence[Peer] = (), more_wireguard_go: Sequence[Path] = ()) -> list[Peer]:
    """All peers, fwd first, `newer` versions before installed ones, with further wireguard-go binaries last.

    Of two with one name the newer is taken. Raises LabError if a program is missing.
    """
    found: dict[str, Peer] = {}
    for peer in (*newer, wireguard_go.peer(), openvpn.peer()):
        found.setdefault(peer.name, peer)
    return [
        *ours.every(),
        *found.values(),
        strongswan.peer(),
        plain.peer(),
        *wireguard_go.others(more_wireguard_go),
    ]

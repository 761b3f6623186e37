"""What is measured beside fwd: each peer as a tunnel between the lab's gateways, tuned as its own users would."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fwd.bench.tunnels import openvpn, ours, plain, strongswan, wireguard_go
from fwd.bench.tunnels.peer import Peer

__all__ = ["Peer", "every"]


def every(more_wireguard_go: Sequence[Path] = ()) -> list[Peer]:
    """All peers, fwd first, with further wireguard-go binaries last. Raises LabError if a program is missing."""
    return [
        ours.superpacket(),
        ours.esp(),
        strongswan.peer(),
        openvpn.peer(),
        wireguard_go.peer(),
        plain.peer(),
        *wireguard_go.others(more_wireguard_go),
    ]

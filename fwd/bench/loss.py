"""A lossy line: the receiving gateway drops a share of the packets that reach its WAN device.

Dropped are single packets, not super-packets: both WAN devices send without segmentation offloads meanwhile, as a real
line does. Only gw2 drops, so data from client1 is lost and its acknowledgements are not.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

from fwd.lab.topology import GATEWAYS, Topology
from fwd.lab.world import LabError

_OFFLOADS = ("tx-udp-segmentation", "tcp-segmentation-offload")
_TABLE = "netdev fwd_bench_loss"
_OF = 10_000


@contextlib.contextmanager
def segmented(topology: Topology) -> Iterator[None]:
    """What crosses the WAN meanwhile is cut into packets before it does."""
    try:
        _switch(topology, on=False)
        yield
    finally:
        _switch(topology, on=True)


@contextlib.contextmanager
def dropping(topology: Topology, share: float) -> Iterator[None]:
    """gw2 drops this share of what arrives from gw1, at random."""
    if share == 0:
        yield
        return
    _nft(topology, ruleset(share))
    try:
        yield
    finally:
        _nft(topology, f"delete table {_TABLE}\n")


def ruleset(share: float) -> str:
    """The table for `nft -f`; shares from 0.01 % to 99.99 %."""
    return (
        f"table {_TABLE} {{\n chain arriving {{\n  type filter hook ingress device wan priority -300\n"
        f"  numgen random mod {_OF} < {round(share * _OF)} drop\n }}\n}}\n"
    )


def _switch(topology: Topology, *, on: bool) -> None:
    for host in GATEWAYS:
        for offload in _OFFLOADS:
            topology.ethtool(host, "wan", offload, on)


def _nft(topology: Topology, text: str) -> None:
    done = topology.run("gw2", ["nft", "-f", "-"], check=False, input=text, stdout=subprocess.DEVNULL,
                        stderr=subprocess.PIPE)  # fmt: skip
    if done.returncode:
        raise LabError(f"gw2: nft: {done.stderr.strip().splitlines()[0]}")

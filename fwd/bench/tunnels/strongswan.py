"""strongSwan with kernel-libipsec: IKEv2 and ESP in userspace over a TUN device, the closest relative of fwd.

One charon (fwd.lab.charon) on each gateway. The plugin knows UDP encapsulation only. It makes ipsec0 with an MTU of
1,400 bytes: an IP packet of a 1,400-byte datagram is longer, and so travels as two fragments.
"""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from fwd.bench.tunnels.peer import FAR, SUBNET, Peer, first_line, wait_reachable
from fwd.lab import charon
from fwd.lab.charon import Charon
from fwd.lab.topology import GATEWAYS, Topology


def peer() -> Peer:
    charon.require()
    version = " ".join(first_line([charon.CHARON, "--version"]).split()[1:])
    settings = "kernel-libipsec, IKEv2, AES-256-GCM, UDP encapsulation, MTU 1400"
    return Peer("strongswan", version, settings, tunnel)


@contextlib.contextmanager
def tunnel(topology: Topology) -> Iterator[None]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fwd-bench-")))
        secret = secrets.token_hex(32)
        ends = {host: Charon(stack, topology, host, directory) for host in GATEWAYS}
        for host, end in ends.items():
            far = FAR[host]
            end.load(charon.connection(
                near=topology.outer(host), far=topology.outer(far), id=host, peer_id=far,
                local_ts=SUBNET[host], remote_ts=SUBNET[far], secret=secret,
                ike="aes256gcm16-prfsha256-x25519", esp="aes256gcm16-x25519",
            ))  # fmt: skip
        ends["gw1"].swanctl("--initiate", "--child", "net", "--timeout", "10")
        wait_reachable(topology, [end.daemon for end in ends.values()], "strongswan")
        yield

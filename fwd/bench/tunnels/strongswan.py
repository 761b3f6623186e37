"""strongSwan with kernel-libipsec: IKEv2 and ESP in userspace over a TUN device, the closest relative of fwd.

One charon on each gateway, started by hand with a configuration of its own (STRONGSWAN_CONF), so that nothing of the
machine's own installation is read or touched. The plugin knows UDP encapsulation only. It makes ipsec0 with an MTU of
1,400 bytes: an IP packet of a 1,400-byte datagram is longer, and so travels as two fragments.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from fwd.bench.tunnels.peer import FAR, SUBNET, Daemon, Peer, alone, first_line, require, start, until, wait_reachable
from fwd.lab.topology import GATEWAYS, LabError, Topology

_CHARON = "/usr/lib/ipsec/charon"
_PLUGINS = (
    "random nonce openssl pem pkcs1 pkcs8 x509 curve25519 gcm aes sha2 sha1 hmac kdf kernel-libipsec kernel-netlink "
    "socket-default vici updown"
)
_DAEMON = """charon {{
  load = {plugins}
  port = 500
  port_nat_t = 4500
  plugins {{
    vici {{
      socket = unix://{vici}
    }}
    kernel-libipsec {{
      allow_peer_ts = yes
    }}
  }}
  filelog {{
    stderr {{
      default = 1
    }}
  }}
}}
"""
_CONNECTION = """connections {{
  peer {{
    version = 2
    encap = yes
    proposals = aes256gcm16-prfsha256-x25519
    local_addrs = {near}
    remote_addrs = {far}
    local {{
      auth = psk
      id = {host}
    }}
    remote {{
      auth = psk
      id = {far_host}
    }}
    children {{
      net {{
        esp_proposals = aes256gcm16-x25519
        local_ts = {near_subnet}
        remote_ts = {far_subnet}
      }}
    }}
  }}
}}
secrets {{
  ike-peer {{
    id-near = {host}
    id-far = {far_host}
    secret = {secret}
  }}
}}
"""


def peer() -> Peer:
    require("swanctl", "strongswan-swanctl")
    require(_CHARON, "strongswan libcharon-extra-plugins libstrongswan-extra-plugins")
    version = " ".join(first_line([_CHARON, "--version"]).split()[1:])
    settings = "kernel-libipsec, IKEv2, AES-256-GCM, UDP encapsulation, MTU 1400"
    return Peer("strongswan", version, settings, tunnel)


@contextlib.contextmanager
def tunnel(topology: Topology) -> Iterator[None]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fwd-bench-")))
        secret = secrets.token_hex(32)
        daemons: list[Daemon] = []
        for host in GATEWAYS:
            argv, environment = _prepare(topology, directory, host, secret)
            daemons.append(start(stack, topology, host, argv, directory / f"{host}.log", env=environment))
        until(lambda: all(_vici(directory, host).is_socket() for host in GATEWAYS), daemons, "strongswan")
        for host in GATEWAYS:
            _swanctl(topology, directory, host, "--load-all", "--file", str(directory / f"{host}.connection"))
        _swanctl(topology, directory, "gw1", "--initiate", "--child", "net", "--timeout", "10")
        wait_reachable(topology, daemons, "strongswan")
        yield


def _prepare(topology: Topology, directory: Path, host: str, secret: str) -> tuple[list[str], dict[str, str]]:
    """Write both files of one end; returns how to start its charon."""
    far = FAR[host]
    conf = directory / f"{host}.conf"
    conf.write_text(_DAEMON.format(plugins=_PLUGINS, vici=_vici(directory, host)))
    connection = _CONNECTION.format(
        near=topology.outer(host), far=topology.outer(far), host=host, far_host=far,
        near_subnet=SUBNET[host], far_subnet=SUBNET[far], secret=secret,
    )  # fmt: skip
    (directory / f"{host}.connection").write_text(connection)
    return alone([_CHARON]), {**os.environ, "STRONGSWAN_CONF": str(conf)}


def _vici(directory: Path, host: str) -> Path:
    return directory / f"{host}.vici"


def _swanctl(topology: Topology, directory: Path, host: str, *words: str) -> None:
    argv = ["swanctl", *words, "--uri", f"unix://{_vici(directory, host)}"]
    # It reads a strongswan.conf, too: not the machine's.
    environment = {**os.environ, "STRONGSWAN_CONF": str(directory / f"{host}.conf")}
    done = topology.run(host, argv, check=False, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        reason = done.stdout.strip().rpartition("\n")[2] or f"exit status {done.returncode}"
        raise LabError(f"strongswan: swanctl {words[0]} on {host}: {reason}")

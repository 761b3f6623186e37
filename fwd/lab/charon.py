"""strongSwan's daemon with kernel-libipsec on a lab's gateway: IKEv2 and ESP in userspace, by others.

Started by hand with a configuration of its own (STRONGSWAN_CONF, SWANCTL_DIR) and a /run of its own, so that nothing of
the machine's own installation is read or touched. Refuses: programs that are missing, a daemon that does not start, and
swanctl commands that fail (`LabError`, one line with strongSwan's own words).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from fwd.lab import tools
from fwd.lab.topology import Topology
from fwd.lab.waiting import Daemon, until
from fwd.lab.world import LabError

CHARON: Final = "/usr/lib/ipsec/charon"
_PLUGINS = (
    "random nonce openssl pem pkcs1 pkcs8 x509 pubkey constraints revocation curve25519 gcm aes sha2 sha1 hmac kdf "
    "kernel-libipsec kernel-netlink socket-default vici updown"
)
_DAEMON = """charon {{
  load = {plugins}
  port = 500
  port_nat_t = 4500
{options}
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
      {levels}
    }}
  }}
}}
"""
_CONNECTION: Final = """connections {{
  peer {{
    version = 2
    proposals = {ike}
    local_addrs = {near}
    remote_addrs = {far}
    fragmentation = yes
    {more}
    local {{
      auth = {auth}
      id = {id}
      {certs}
    }}
    remote {{
      auth = {auth}
      id = {peer_id}
    }}
    children {{
      net {{
        esp_proposals = {esp}
        local_ts = {local_ts}
        remote_ts = {remote_ts}
      }}
    }}
  }}
}}
secrets {{
  ike-peer {{
    id-near = {id}
    id-far = {peer_id}
    secret = {secret}
  }}
}}
"""
_START_TIMEOUT_S = 10.0
_SWANCTL_TIMEOUT_S = 15.0


def connection(
    *,
    near: str,
    far: str,
    id: str,
    peer_id: str,
    local_ts: str,
    remote_ts: str,
    secret: str,
    ike: str,
    esp: str,
    auth: str = "psk",
    certs: str = "",
    more: str = "",
) -> str:
    """A swanctl.conf with one connection, `peer`, and its Child SA, `net`. `more`: a line of the connection's."""
    return _CONNECTION.format(
        near=near, far=far, id=id, peer_id=peer_id, local_ts=local_ts, remote_ts=remote_ts, secret=secret,
        ike=ike, esp=esp, auth=auth, certs=certs, more=more,
    )  # fmt: skip


def require() -> None:
    """Raises LabError if strongSwan is not there."""
    for command, package in (
        ("swanctl", "strongswan-swanctl"),
        (CHARON, "strongswan-charon libcharon-extra-plugins libstrongswan-extra-plugins"),
    ):
        if shutil.which(command) is None:
            raise LabError(f"the command {command} is missing: install {package}")


class Charon:
    """One daemon, ended with `stack`. `directory` is for its files.

    `options`: lines of its `charon` section; `levels`: what it logs, by group.
    """

    def __init__(
        self,
        stack: ExitStack,
        topology: Topology,
        host: str,
        directory: Path,
        options: Mapping[str, str] | None = None,
        levels: str = "default = 1",
    ) -> None:
        self._topology, self._host, self._directory = topology, host, directory
        self._vici, self.log_path = directory / f"{host}.vici", directory / f"{host}.log"
        conf = directory / f"{host}.conf"
        lines = "\n".join(f"  {key} = {value}" for key, value in (options or {}).items())
        conf.write_text(_DAEMON.format(plugins=_PLUGINS, vici=self._vici, options=lines, levels=levels))
        # swanctl reads a strongswan.conf, too, and keys and certificates below SWANCTL_DIR: not the machine's.
        self._environment = {**os.environ, "STRONGSWAN_CONF": str(conf), "SWANCTL_DIR": str(directory)}
        argv = tools.alone([CHARON])
        with self.log_path.open("wb") as output:
            self.process: subprocess.Popen[Any] = topology.popen(
                host, argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self._environment
            )
        stack.enter_context(tools.ended(self.process))
        self.daemon = Daemon.of(f"{host}'s strongSwan", self.process, self.log_path)
        until(self._vici.is_socket, "its socket", _START_TIMEOUT_S, [self.daemon])

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def load(self, connections: str) -> None:
        """Replace what it is configured with by this swanctl.conf."""
        path = self._directory / f"{self._host}.connections"
        path.write_text(connections)
        self.swanctl("--load-all", "--file", str(path))

    def swanctl(self, *words: str, check: bool = True) -> str:
        """A command; what it prints. Raises LabError when it fails and `check`."""
        argv = ["swanctl", *words, "--uri", f"unix://{self._vici}"]
        done = self._topology.run(
            self._host, argv, check=False, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=_SWANCTL_TIMEOUT_S,
        )  # fmt: skip
        if done.returncode and check:
            reason = done.stdout.strip().rpartition("\n")[2] or f"exit status {done.returncode}"
            raise LabError(f"strongSwan: swanctl {words[0]} on {self._host}: {reason}")
        return done.stdout

"""A gateway as it lies in a directory: its configuration and secret, which are written here, its socket, its log."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fwd.lab.topology import Topology, kernel_has_ipv6
from fwd.lab.world import Pairing
from fwd.model import render

Table = Mapping[str, Any]
PROGRAM = ("-P", "-m", "fwd")


@dataclass(frozen=True)
class Gateway:
    """A gateway's files: gwN.toml, gwN.secret, gwN.sock, gwN.log."""

    directory: Path
    host: str

    @property
    def config(self) -> Path:
        return self.directory / f"{self.host}.toml"

    @property
    def secret(self) -> Path:
        return self.directory / f"{self.host}.secret"

    @property
    def control(self) -> Path:
        """The control socket, for `fwd status` and `fwd.agent.client.query`."""
        return self.directory / f"{self.host}.sock"

    @property
    def log(self) -> Path:
        return self.directory / f"{self.host}.log"

    def logged(self) -> str:
        """Return all that it has logged."""
        return self.log.read_text(errors="replace")

    def text(self, peerings: Sequence[Table], settings: Table) -> str:
        """Return a configuration; `settings` are those of the table `gateway`."""
        return render.write({"gateway": {"control": str(self.control), **settings}, "peering": list(peerings)})

    def configure(self, peerings: Sequence[Table], settings: Table) -> Path:
        """Write a configuration; returns where it lies."""
        self.config.write_text(self.text(peerings, settings))
        return self.config

    def write_secret(self, secret: bytes) -> None:
        """Write the secret, readable for its owner alone."""
        fd = os.open(self.secret, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(secret)

    def command(self, *arguments: str, program: Sequence[str] = PROGRAM) -> list[str]:
        """Return the command line that starts it."""
        return [sys.executable, *program, "demux", "--config", str(self.config), *arguments]


def peering(topology: Topology, host: str, pairing: Pairing, keys: Table, members: int, **settings: Any) -> Table:
    """Return the table of a gateway's peering with another site, so many `members` for each far gateway.

    `settings` come before what follows from the lab; a key of `keys` that is None is left out.
    """
    far = [topology.outer(gateway) for gateway in pairing.far]
    families = slice(2 if kernel_has_ipv6() else 1)
    return {
        "name": f"to-{pairing.far[0]}",
        "local_addrs": topology.outer(host),
        "remote_addrs": far if far[1:] else far[0],
        "local_ts": list(pairing.local_ts[families]),
        "remote_ts": list(pairing.remote_ts[families]),
        "members": members * len(far),
        **settings,
        "keys": {key: value for key, value in keys.items() if value is not None},
    }

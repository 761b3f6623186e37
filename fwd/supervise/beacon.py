"""What the beacon (agent/beacon.py) inherits: the UDP socket at which routers probe, and a copy of the probe key.

The key is in the local file's `probe_key`, or in the directory of a gateway that has joined a controller: that is there
once a document has brought it, and until then there is no beacon.

Refuses, as UserError of one line: an address or port that cannot be had, and a file that is no probe key.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from fwd.files import open_probe_key, probe_key_in, stamp_of
from fwd.model.gateway import Gateway
from fwd.proto.errors import UserError
from fwd.supervise.examine import refusal
from fwd.supervise.users import User


@dataclass(frozen=True)
class Front:
    """What is open. `stamp`: tells whether the file was written or replaced since."""

    address: str
    sock: socket.socket
    path: Path
    fd: int
    stamp: object

    @property
    def is_renewed(self) -> bool:
        """Whether the key's file is another by now."""
        return stamp_of(self.path) != self.stamp

    def key(self) -> bytes:
        """Read the key; for the beacon itself."""
        return probe_key_in(self.fd, self.path)

    def close(self) -> None:
        """Close both."""
        self.sock.close()
        os.close(self.fd)


def key_path(wanted: Gateway, given: Path | None) -> Path | None:
    """Return where the probe key is; None: there is to be no beacon, or not yet. `given`: where a controller's is."""
    if wanted.beacon is None:
        return None
    return wanted.probe_key or (given if given is not None and given.exists() else None)


def renewed(before: Front | None, wanted: Gateway, user: User, given: Path | None = None) -> Front | None:
    """Open what is wanted, and close what was open before; a process of `user` examines the key. Raises UserError."""
    path = key_path(wanted, given)
    if wanted.beacon is None or path is None:
        if before is not None:
            before.close()
        return None
    stamp = stamp_of(path)
    fd = open_probe_key(path)
    try:
        if why := refusal(lambda: probe_key_in(fd, path), {fd}, user, "the probe key"):
            raise UserError(why)
        same = before is not None and before.address == wanted.beacon
        sock = before.sock.dup() if before is not None and same else _listen(wanted.beacon)
    except BaseException:
        os.close(fd)
        raise
    if before is not None:
        before.close()
    return Front(wanted.beacon, sock, path, fd, stamp)


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.bind((host.strip("[]"), int(port)))
    except OSError as error:
        sock.close()
        raise UserError(f"gateway.beacon {address}: {error.strerror}") from None
    sock.setblocking(False)
    return sock

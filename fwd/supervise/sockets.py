"""The sockets of the supervisor that belong to no peering alone: the agent's, IKE's, and the file for keys.

Each is opened as root and handed to the child that uses it. Refuses, as UserError of one line: an address, port or path
that cannot be had.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from fwd.datapath import udp
from fwd.model.config import Peering
from fwd.proto.errors import UserError
from fwd.supervise import ike_filter

# A burst of 64 peers' messages; and what waits behind a flood waits for a tenth of a second at most.
IKE_BUFFER_BYTES: Final = 1 << 20
Endpoint = tuple[str, int]  # address and port
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
log = logging.getLogger(__name__)


class IkeSockets:
    """IKE's sockets, by address and port; peerings with one outer address share them."""

    def __init__(self) -> None:
        self._by_endpoint: dict[Endpoint, socket.socket] = {}

    def open(self, peering: Peering) -> None:
        """Open those that a peering needs and that are not open yet. Raises UserError."""
        for address, port in _endpoints(peering):
            shared = port == peering.port
            if (address, port) not in self._by_endpoint:
                self._by_endpoint[address, port] = _bind_udp(address, port, shared=shared)
            if shared:
                udp.split(self._by_endpoint[address, port], peering.members)

    def needed(self, peerings: Iterable[Peering]) -> dict[Endpoint, socket.socket]:
        """Return those that `peerings` need, of those that are open."""
        wanted = {endpoint for peering in peerings for endpoint in _endpoints(peering)}
        return {endpoint: sock for endpoint, sock in self._by_endpoint.items() if endpoint in wanted}

    def close_unused(self, peerings: Iterable[Peering]) -> None:
        """Close those that none of `peerings` needs: others may want their ports, or bind them in another way."""
        self.close_but(self.needed(peerings).keys())

    def endpoints(self) -> frozenset[Endpoint]:
        """Addresses and ports of those that are open."""
        return frozenset(self._by_endpoint)

    def close_but(self, kept: Collection[Endpoint]) -> None:
        """Close all others."""
        for opened in self._by_endpoint.keys() - kept:
            self._by_endpoint.pop(opened).close()

    def all(self) -> list[socket.socket]:
        """Every socket that is open."""
        return list(self._by_endpoint.values())


def _endpoints(peering: Peering) -> list[Endpoint]:
    """Addresses and ports at which a peering's IKE listens."""
    ports = [peering.ike.ike_port, *([peering.port] if peering.shared_port else [])] if peering.ike else []
    return [(str(peering.local_addrs), port) for port in ports]


def seqpacket_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends that keep messages whole and never wait."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for sock in pair:
        sock.setblocking(False)
    return pair


def open_key_log(path: Path) -> int:
    """Open the file for keys. What is there already is added to, if nobody else can read it. Raises UserError."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UserError(f"{path}: file for keys (--save-keys): {error.strerror or error}") from None
    about, reason = os.fstat(fd), ""
    if not stat.S_ISREG(about.st_mode):
        reason = "is not a regular file: name another"
    elif about.st_uid != os.geteuid():
        reason = f"belongs to user {about.st_uid}, who could read it: name another"
    elif about.st_mode & 0o077:
        reason = "others could read it: chmod 600 it, or name another"
    if reason:
        os.close(fd)
        raise UserError(f"{path}: file for keys (--save-keys): {reason}")
    log.warning("ALL KEYS ARE WRITTEN TO %s: who reads it can read the traffic. For debugging only", path)
    return fd


def listen_unix(path: Path, key: str = "gateway.control") -> socket.socket:
    """Listen on the control socket, in the place of one that nobody answers at; `key` names it. Raises UserError."""
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
                other.setblocking(False)
                # Of one that is frozen the queue may be full: it is there all the same.
                if other.connect_ex(str(path)) in (0, errno.EAGAIN):
                    raise UserError(f"{path}: another fwd answers there; stop it, or choose another {key}")
            path.unlink()
        elif path.exists():
            raise UserError(f"{path}: {key} is no socket: choose a path where there is nothing else")
    except OSError as error:
        raise UserError(f"{path}: control socket ({key}): {error.strerror or error}") from None
    return _listen_at(path, socket.SOCK_STREAM, 0o660, f"control socket ({key})")


def listen_admin(path: Path) -> socket.socket:
    """Listen on the admin socket, beside a control socket that is ours already, in the place of what is there. Raises
    UserError.
    """
    what = "admin socket (beside gateway.control)"
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: {what}: {error.strerror or error}") from None
    return _listen_at(path, socket.SOCK_SEQPACKET, 0o600, what)


def _listen_at(path: Path, kind: int, mode: int, what: str) -> socket.socket:
    """Listen at `path`, where nothing is any more. Raises UserError."""
    sock = socket.socket(socket.AF_UNIX, kind)
    made = path.with_name(f".{os.getpid():x}")
    try:
        # Who sees the name may ask at once: it comes when the socket listens, and for whom it is meant alone.
        made.unlink(missing_ok=True)
        sock.bind(str(made))
        made.chmod(mode)
        sock.listen(32)

        # A link, not a rename: of two that start at once the later one finds the name taken.
        path.hardlink_to(made)
    except OSError as error:
        sock.close()
        raise UserError(f"{path}: {what}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            made.unlink(missing_ok=True)
    sock.setblocking(False)
    return sock


def listen_tcp(address: str) -> socket.socket:
    """Listen for HTTP at ADDR:PORT. Raises UserError."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host.strip("[]"), int(port)))
    except (OSError, OverflowError) as error:
        sock.close()
        raise UserError(f"gateway.metrics {address}: {getattr(error, 'strerror', None) or error}") from None
    sock.listen(32)
    sock.setblocking(False)
    return sock


def _bind_udp(address: str, port: int, *, shared: bool) -> socket.socket:
    """A socket for IKE; `shared`: members will be bound to the same port, and have its ESP."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((address, port))
    except OSError as error:
        sock.close()
        hint = "; is another IKE daemon running?" if error.errno == errno.EADDRINUSE else ""
        raise UserError(f"UDP {address} port {port} (IKE): {error.strerror}{hint}") from None
    for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
        with contextlib.suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, option, IKE_BUFFER_BYTES)
    ike_filter.attach(sock, marked=shared)
    sock.setblocking(False)
    return sock

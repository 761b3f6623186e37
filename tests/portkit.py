"""Ports of the loopback address for tests that start something there."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack


def free_ports(kind: socket.SocketKind, count: int) -> list[int]:
    """Return ports that nobody has now."""
    socks = [socket.socket(socket.AF_INET, kind) for _ in range(count)]
    for sock in socks:
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in socks]
    for sock in socks:
        sock.close()
    return ports


def free_port(addresses: Sequence[str]) -> int:
    """Return a port for UDP that nobody has now at any of these addresses."""
    with ExitStack() as stack:
        port = 0
        for address in addresses:
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind((address, port))
            port = sock.getsockname()[1]
        return port

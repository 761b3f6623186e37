"""Ports of the loopback address for tests that start something there."""

from __future__ import annotations

import socket


def free_ports(kind: socket.SocketKind, count: int) -> list[int]:
    """Return ports that nobody has now."""
    socks = [socket.socket(socket.AF_INET, kind) for _ in range(count)]
    for sock in socks:
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in socks]
    for sock in socks:
        sock.close()
    return ports

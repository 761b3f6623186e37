"""wireguard-go: Debian's as it is installed, or any other that keeps its command line and its configuration protocol.

Each version has a name of its own, by the year that it says it is of, such as `wireguard-go-2022`.
A device of one name on each gateway; each daemon has a /run of its own, and is configured through its socket there
(the cross-platform userspace protocol of wireguard.com/xplatform), so that `wg` is not needed. MTU 1,420 as its users
have it: an IP packet of a 1,400-byte datagram is longer, and so travels as two fragments.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fwd.bench.tunnels.peer import (
    FAR,
    SUBNET,
    UP_TIMEOUT_S,
    Peer,
    Program,
    first_line,
    named,
    require,
    start,
    wait_reachable,
)
from fwd.lab import tools
from fwd.lab.topology import GATEWAYS, Topology
from fwd.lab.waiting import Daemon, until
from fwd.lab.world import LabError

VERSION: Final = r"v0\.0\.(20\d\d)"  # what the name says of it
_NAME = "wireguard-go"
_INSTALLED = Program((_NAME,))
_DEVICE = "wgbench"
_PORT = 51820
_MTU_BYTES = 1420
_ANSWER_BYTES = 4096


def peer(program: Program = _INSTALLED) -> Peer:
    if program == _INSTALLED:
        require(_NAME, "wireguard-go")
    [binary] = program.argv
    found = _peer(_NAME, binary, program.source)
    return dataclasses.replace(found, name=named(_NAME, found.version, VERSION))


def others(binaries: Sequence[Path]) -> list[Peer]:
    """`wireguard-go:NAME` for each binary, with as much of its path as tells it from the rest."""
    names = [path.name for path in binaries]
    return [
        _peer(f"{_NAME}:{path.name if names.count(path.name) == 1 else path}", str(path.resolve()), str(path))
        for path in binaries
    ]


def _peer(name: str, binary: str, source: str) -> Peer:
    version = first_line([binary, "--version"]) or "unknown"
    return Peer(name, version, f"MTU {_MTU_BYTES}", partial(tunnel, binary=binary), source)


@contextlib.contextmanager
def tunnel(topology: Topology, binary: str) -> Iterator[None]:
    keys = {host: X25519PrivateKey.generate() for host in GATEWAYS}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fwd-bench-")))
        daemons: dict[str, Daemon] = {}
        for host in GATEWAYS:
            argv = tools.alone([binary, "-f", _DEVICE])
            environment = {**os.environ, "LOG_LEVEL": "error"}
            daemons[host] = start(stack, topology, host, argv, directory, env=environment)

        # Each makes its socket once its device is there; then it is configured, and led to.
        running = daemons.values()
        until(lambda: all(_socket(one).is_socket() for one in running), f"{binary}: sockets", UP_TIMEOUT_S, running)
        for host, one in daemons.items():
            far = FAR[host]
            _configure(one, keys[host], keys[far], topology.outer(far), SUBNET[far])
            for words in (
                ["link", "set", _DEVICE, "mtu", str(_MTU_BYTES), "up"],
                ["route", "add", SUBNET[far], "dev", _DEVICE],
            ):
                topology.run(host, ["ip", *words])
        wait_reachable(topology, running, binary)
        yield


def _socket(one: Daemon) -> Path:
    """The daemon's socket, seen through its own mounts."""
    return Path(f"/proc/{one.process.pid}/root/run/wireguard/{_DEVICE}.sock")


def _configure(one: Daemon, own: X25519PrivateKey, far: X25519PrivateKey, endpoint: str, subnet: str) -> None:
    settings = {
        "private_key": own.private_bytes_raw().hex(),
        "listen_port": str(_PORT),
        "public_key": far.public_key().public_bytes_raw().hex(),
        "endpoint": f"{endpoint}:{_PORT}",
        "allowed_ip": subnet,
    }
    request = "".join(f"{key}={value}\n" for key, value in {"set": "1", **settings}.items()) + "\n"
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(5)
        control.connect(str(_socket(one)))
        control.sendall(request.encode())
        answer = control.recv(_ANSWER_BYTES).decode(errors="replace").strip()
    if answer != "errno=0":
        raise LabError(f"{_NAME} on {one.name} refuses its configuration: {answer or 'no answer'}")

"""The project's containers as hosts of a lab, and the wire between its gateways.

Commands run with this machine's tools in a container's network namespace, found by the pid of its first process: so
the engine must be on this machine, and the user root. Control sockets are reached the same way, through /proc/PID/root.
Refuses, as Failed: a service that has not one container, or does not run, and what may not be on the wire.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from fwd.lab import wire
from fwd.lab.hosts import Hosts
from fwd.lab.scenario import Failed
from fwd.lab.testbed.engine import PROJECT, Engine
from fwd.lab.told import Told

HERE: Final = "here"  # this machine, beside the containers
PEERING: Final = f"{PROJECT}_peering"
_PORT: Final = 4500


class Containers(Hosts, Told):
    """See the module. `addresses`: of hosts, by service."""

    def __init__(self, engine: Engine, directory: Path, addresses: Mapping[str, str]) -> None:
        self.engine = engine
        self._directory, self._addresses = directory, addresses

    def container(self, service: str) -> str:
        """The identifier of a service's only container."""
        found = self.engine.containers(service)
        if len(found) != 1:
            raise Failed(f"{service} has {len(found)} containers")
        return found[0]

    def state(self, service: str) -> dict[str, Any]:
        """What the engine knows of a container."""
        return self.engine.inspect(self.container(service))

    def pid(self, service: str) -> int:
        """Of the container's first process, as this machine numbers it."""
        pid: int = self.state(service)["State"]["Pid"]
        if pid == 0:
            raise Failed(f"{service} does not run")
        return pid

    def execute(self, service: str, *words: str) -> str:
        """What a command inside a container prints."""
        return self.engine.docker("exec", self.container(service), *words)

    def address(self, host: str) -> str:
        return self._addresses[host]

    def command(self, host: str, argv: Sequence[str]) -> list[str]:
        if host == HERE:
            return list(argv)
        return ["nsenter", f"--net=/proc/{self.pid(host)}/ns/net", *argv]

    def control(self, host: str) -> Path:
        return Path(f"/proc/{self.pid(host)}/root/run/fwd/fwd.sock")

    def watched(self, outer: Sequence[str], ports: int, *options: str) -> AbstractContextManager[dict[str, Any]]:
        """Every frame on `peering` while the block runs, of gateways with so many ports; what is seen is there then."""
        bridge = f"br-{self.engine.inspect(PEERING)['Id'][:12]}"
        options = ("--bridge", "--ports", f"{_PORT}-{_PORT + ports - 1}", *options)
        return wire.watched(self, HERE, self._directory, outer, *options, iface=bridge)


@contextlib.contextmanager
def esp_alone(watched: AbstractContextManager[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What a capture has seen is ESP, none in the clear, no nonce twice; fills in the figures."""
    figures: dict[str, Any] = {}
    with watched as seen:
        yield figures
    figures |= {name: seen[name] for name in ("esp_packets", "plaintext_packets", "repeated_nonces")}
    if seen["plaintext_packets"] or seen["repeated_nonces"]:
        raise Failed(f"on the wire: {figures}; {' '.join(seen['plaintext_examples'])}")
    if reason := wire.missed(seen):
        raise Failed(reason)
    if not seen["esp_packets"]:
        raise Failed("no ESP packet on the wire")

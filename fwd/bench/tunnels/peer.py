"""What all tunnels have in common: what is known of a peer, its processes, and waiting until it carries traffic.

A tunnel is a context manager over a lab that is up and empty. It yields once client2 answers client1 through it, and
leaves no process behind, however the block ends. Refuses: a program that is missing, and a tunnel that does not come
up (`LabError`, one line with the peer's own last words).
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fwd.lab import tools
from fwd.lab.topology import GATEWAYS, SUBNETS, Topology
from fwd.lab.world import LabError

FAR = {"gw1": "gw2", "gw2": "gw1"}
SUBNET = {host: subnets[0] for host, subnets in SUBNETS.items()}  # IPv4
_UP_TIMEOUT_S = 20.0
_POLL_S = 0.05


@dataclass(frozen=True)
class Peer:
    """One way to join the two subnets."""

    name: str
    version: str
    settings: str
    tunnel: Callable[[Topology], AbstractContextManager[None]]


@dataclass(frozen=True)
class Daemon:
    """A peer's process on one host, a child of this one, and where its output goes."""

    host: str
    process: subprocess.Popen[Any]
    log: Path

    def last_words(self) -> str:
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else "it logged nothing"


def require(command: str, package: str) -> None:
    """Raises LabError if the command is missing; `package` is Debian's name of what brings it."""
    if shutil.which(command) is None:
        raise LabError(f"the command {command} is missing: install {package}")


def first_line(argv: Sequence[str]) -> str:
    """The first line of what a program says of itself."""
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    except OSError as error:
        raise LabError(f"{argv[0]} cannot be run: {error.strerror}") from None
    return done.stdout.partition("\n")[0].strip()


def start(stack: ExitStack, topology: Topology, host: str, argv: Sequence[str], log: Path, **kw: Any) -> Daemon:
    """Start a peer's process on a host; it is ended when the stack is."""
    with log.open("wb") as output:
        process = topology.popen(host, argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **kw)
    stack.enter_context(tools.ended(process))
    return Daemon(host, process, log)


def alone(argv: Sequence[str]) -> list[str]:
    """`argv` with a /run of its own, so that a daemon finds no pid file or socket of another of its kind.

    `ip netns exec` has given it mounts of its own already; the pid remains the daemon's.
    """
    return ["sh", "-c", 'mount -t tmpfs tmpfs /run && exec "$@"', "sh", *argv]


def until(condition: Callable[[], bool], daemons: Iterable[Daemon], what: str) -> None:
    """Wait for a condition while all daemons live."""
    deadline_s = time.monotonic() + _UP_TIMEOUT_S
    while not condition():
        for one in daemons:
            if one.process.poll() is not None:
                raise LabError(f"{what}: ended on {one.host} before the tunnel was up: {one.last_words()}")
        if time.monotonic() > deadline_s:
            words = "; ".join(["", *(f"{one.host}: {one.last_words()}" for one in daemons)])
            raise LabError(f"{what}: the tunnel is not up within {_UP_TIMEOUT_S:.0f} s{words}")
        time.sleep(_POLL_S)


def wait_reachable(topology: Topology, daemons: Iterable[Daemon], what: str, *, in_clear: bool = False) -> None:
    """Until client2 answers client1, with both gateways' routes through a tunnel, or none of them if `in_clear`."""
    daemons = list(daemons)
    until(lambda: all(_in_clear(topology, host) == in_clear for host in GATEWAYS), daemons, what)
    until(lambda: _answers(topology), daemons, what)


def _in_clear(topology: Topology, host: str) -> bool:
    near, far = (topology.address("client1" if gateway == "gw1" else "client2") for gateway in (host, FAR[host]))
    route = topology.run(host, ["ip", "route", "get", far, "from", near, "iif", "lan"], check=False)
    return " dev wan " in route.stdout


def _answers(topology: Topology) -> bool:
    argv = ["ping", "-n", "-c1", "-W1", topology.address("client2")]
    return topology.run("client1", argv, check=False).returncode == 0

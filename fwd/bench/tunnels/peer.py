"""What all tunnels have in common: what is known of a peer, its processes, and waiting until it carries traffic.

A tunnel is a context manager over a lab that is up and empty. It yields once client2 answers client1 through it, and
leaves no process behind, however the block ends. Refuses: a program that is missing, and a tunnel that does not come
up (`LabError`, one line with the peer's own last words).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fwd.lab import tools
from fwd.lab.topology import GATEWAYS, SUBNETS, Topology
from fwd.lab.waiting import Daemon, until
from fwd.lab.world import LabError

FAR = {"gw1": "gw2", "gw2": "gw1"}
SUBNET = {host: subnets[0] for host, subnets in SUBNETS.items()}  # IPv4
UP_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Program:
    """A peer's program: the words that it is run by, and where it comes from."""

    argv: tuple[str, ...]
    source: str = "installed"


@dataclass(frozen=True)
class Peer:
    """One way to join the two subnets."""

    name: str
    version: str
    settings: str
    tunnel: Callable[[Topology], AbstractContextManager[None]]
    source: str = "installed"


def named(program: str, version: str, pattern: str) -> str:
    """A name that says which version: the program's, and what `pattern` finds in the version, if it does."""
    found = re.search(pattern, version)
    return f"{program}-{found[1]}" if found else program


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


def start(stack: ExitStack, topology: Topology, host: str, argv: Sequence[str], directory: Path, **kw: Any) -> Daemon:
    """Start a peer's process on a host; it is ended when the stack is. Its log is in `directory`."""
    log = directory / f"{host}.log"
    with log.open("wb") as output:
        process = topology.popen(host, argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **kw)
    stack.enter_context(tools.ended(process))
    return Daemon.of(host, process, log)


def wait_reachable(topology: Topology, daemons: Iterable[Daemon], what: str, *, in_clear: bool = False) -> None:
    """Until client2 answers client1, with both gateways' routes through a tunnel, or none of them if `in_clear`."""
    daemons, where = list(daemons), "in the clear" if in_clear else "through the tunnel"
    routed = f"{what}: both gateways route {where}"
    until(lambda: all(_in_clear(topology, host) == in_clear for host in GATEWAYS), routed, UP_TIMEOUT_S, daemons)
    until(topology.ping, f"{what}: client2 answers client1", UP_TIMEOUT_S, daemons)


def _in_clear(topology: Topology, host: str) -> bool:
    near, far = (topology.address("client1" if gateway == "gw1" else "client2") for gateway in (host, FAR[host]))
    route = topology.run(host, ["ip", "route", "get", far, "from", near, "iif", "lan"], check=False)
    return " dev wan " in route.stdout

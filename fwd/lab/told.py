"""What gateways and routers say of themselves, asked at their control sockets, and who runs in them."""

from __future__ import annotations

import json
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fwd.agent.client import query
from fwd.lab.waiting import until

Json = dict[str, Any]
_ROUTER_ANSWERS_S: Final = 5.0
_ANSWERS_S: Final = 30.0  # while its agent is being replaced, on a busy machine


def asked(control: Path) -> Json | None:
    """Return a gateway's status; None if nobody answers."""
    try:
        return query(control)
    except OSError:
        return None


def router_asked(control: Path) -> Json:
    """Return what a router shows; nothing while it does not answer."""
    try:
        with socket.socket(socket.AF_UNIX) as sock, sock.makefile("rb") as said:
            sock.settimeout(_ROUTER_ANSWERS_S)
            sock.connect(str(control))
            found: Json = json.loads(said.read())
    except (OSError, ValueError):
        return {}
    return found


def processes(status: Mapping[str, Any]) -> dict[str, Json]:
    """Return each child of a gateway by name: keyd, agent, …, and demux, member-0, … of its first peering.

    Those of other peerings have the peering's name before theirs, and a slash.
    """
    found = {row["name"]: row for row in status["processes"]}
    for number, peering in enumerate(status["peerings"]):
        before = f"{peering['name']}/" if number else ""
        found[f"{before}demux"] = peering["demux"]
        found |= {f"{before}member-{row['index']}": row for row in peering["members"]}
    return found


class Told(ABC):
    """Gateways by name, each asked when something is read; a kind of them says where their control sockets are."""

    @abstractmethod
    def control(self, host: str) -> Path:
        """Return a gateway's control socket."""

    def status(self, host: str = "gw1") -> Json:
        """Return a gateway's status; waits while its agent is being replaced."""
        return until(lambda: asked(self.control(host)) or {}, f"status of {host}", _ANSWERS_S)

    def ready(self, host: str) -> bool:
        """Whether a gateway says so now."""
        status = asked(self.control(host))
        return status is not None and bool(status["ready"])

    def peering(self, host: str = "gw1", index: int = 0) -> Json:
        found: Json = self.status(host)["peerings"][index]
        return found

    def member(self, host: str = "gw1", index: int = 0) -> Json:
        """Return a member of a gateway's first peering."""
        found: Json = self.peering(host)["members"][index]
        return found

    def drops(self, host: str = "gw1") -> dict[str, int]:
        """Return how much a gateway's first peering has dropped, by reason."""
        found: dict[str, int] = self.peering(host)["drops"]
        return found

    def pids(self, host: str) -> dict[str, int]:
        """Return the pid of each child (`processes`)."""
        return {name: pid for name, (pid, _) in self.lives(host).items()}

    def lives(self, host: str) -> dict[str, tuple[int, int]]:
        """Return the pid of each child, and how often it was replaced."""
        return {name: (row["pid"], row["restarts"]) for name, row in processes(self.status(host)).items()}

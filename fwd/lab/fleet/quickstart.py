"""`fwd lab quickstart`: a controller, two clusters, peered through its API, and traffic over all pairs.

What was measured goes to a file, with the controller's address and a viewer's token, by which whoever looks at the
fleet may go on.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from fwd.lab import tools
from fwd.lab.fleet.lab import Lab
from fwd.lab.fleet.talk import PORT as _PORT
from fwd.lab.waiting import until

FLOWS: Final = 64
_RATE_HZ: Final = 20.0
_READY_S: Final = 60.0


def run(lab: Lab, out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Bring a lab up, peered, and see that all pairs carry; returns what it has written. Raises LabError."""
    clock = Clock(say)
    lab.fleet.up()
    clock.mark("network")
    lab.up()
    clock.mark("controller, and gateways that have joined")
    peer(lab)
    clock.mark("clusters and peering")
    wait_ready(lab)
    clock.mark("gateways and routers ready")
    carried = talk_over_all(lab)
    clock.mark("traffic over all pairs")

    viewer = viewer_token(lab)

    # All by which a program goes on from here.
    found = {
        "lab": lab.fleet.name,
        "controller": lab.url,
        "ca": str(lab.state / "ca.pem"),
        "viewer_token_file": str(viewer),
        "client_file": str(lab.directory / "client.toml"),
        "hosts": {host: {"inner": lab.fleet.inner(host)} for host in (*lab.fleet.gateways, *lab.fleet.all_routers)},
        "clients": {client: lab.fleet.address(client) for client in lab.fleet.clients},
        "answers": carried,
        "seconds": clock.marks,
        "cpus": os.cpu_count(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=2) + "\n")
    return found


def viewer_token(lab: Lab) -> Path:
    """Return the file of a viewer's token, for who only looks; a second time it is the same."""
    viewer = lab.directory / "viewer.token"
    if not viewer.exists():
        viewer.touch(0o600)
        viewer.write_text(f"{lab.api.create('tokens', role='viewer')['token']}\n")
    return viewer


def to_look(url: str, viewer: Path) -> tuple[str, ...]:
    """Say where the dashboard is, and by which token anybody may look at it."""
    return (
        f"dashboard    {url}/   (sign in with the token of the next line)",
        f"viewer       {viewer.read_text().strip()}   (from {viewer})",
    )


class Clock:
    """Times since the start, by what was reached."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._start_s = say, time.monotonic()
        self.marks: dict[str, float] = {}

    def mark(self, what: str) -> None:
        """Note that something is reached."""
        self.marks[what] = round(time.monotonic() - self._start_s, 2)
        self._say(f"{self.marks[what]:6.2f} s  {what}")


def peer(lab: Lab, name: str = "one-two", path: str = "internet") -> None:
    """Make a cluster of all gateways of each of the first two VPCs, and peer them."""
    sites = lab.fleet.plan[:2]
    for site in sites:
        lab.api.create("clusters", name=f"{site.name}-all", vpc=site.name, gateways=list(site.gateways))
    lab.api.create("peerings", name=name, clusters=[f"{site.name}-all" for site in sites], path=path)


def wait_ready(lab: Lab) -> None:
    """Wait until all gateways and routers say that they carry, and each router uses all that it is told of.

    A gateway that a router found a moment later than the others gets none of the flows that there are by then.
    """
    for host in lab.fleet.gateways:
        until(lambda host=host: lab.ready(host), f"{host} is ready", _READY_S, [lab.daemon(host)])  # type: ignore[misc]
    for host in lab.fleet.all_routers:
        until(lambda host=host: lab.router_uses_all(host), f"{host} is ready", _READY_S, [lab.daemon(host)])  # type: ignore[misc]


def talk_over_all(lab: Lab) -> int:
    """Send flows between the first two clients until each gateway has carried some both ways; how many answers came."""
    fleet, talk = lab.fleet, "fwd.lab.fleet.talk"
    to = fleet.address("client2")
    with (
        tools.tool(fleet, "client2", [talk, "answer"]),
        tools.tool(fleet, "client1", [talk, "ask", to, str(FLOWS), f"{_RATE_HZ:g}"]) as asking,
    ):
        gateways = [gateway for site in fleet.plan[:2] for gateway in site.gateways]
        until(lambda: all(_carries(lab, one) for one in gateways), f"flows of port {_PORT} by all gateways", _READY_S)
        asking.terminate()
        told: dict[str, Any] = json.loads(tools.output(asking))
    return int(sum(told["sent"]) - told["lost"])


def _carries(lab: Lab, gateway: str) -> bool:
    """Whether a gateway has sent and received records."""
    books = lab.peering(gateway)["books"]
    return bool(books["out_records_out"] and books["in_records_out"])

"""A router that has joined a controller: a real controller, a router and gateways' beacons in namespaces.

The controller runs in the router's namespace, and may be killed there; the gateways are those of routekit.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from routekit import BEACON, GATEWAYS, LIMIT_S, Flows, Site
from runkit import start, written

from fwd.lab.waiting import until

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("needs_netns"), pytest.mark.timeout(300)]
PORT = 8443
URL = f"https://127.0.0.1:{PORT}"
FLEET: list[tuple[str, dict[str, Any]]] = [
    ("vpcs", {"name": "a", "cidrs": ["10.1.0.0/16"]}),
    ("vpcs", {"name": "b", "cidrs": ["10.2.0.0/24"]}),
    *(
        ("gateways", {"name": f"g{n}", "vpc": "a", "outer": f"192.0.2.{n}", "inner": [f"10.1.{n}.11"]})
        for n in (1, 2, 3)
    ),
    ("gateways", {"name": "b1", "vpc": "b", "outer": "192.0.2.9", "inner": ["10.2.0.11"]}),
    ("clusters", {"name": "a", "vpc": "a", "gateways": ["g1", "g2"]}),
    ("clusters", {"name": "b", "vpc": "b", "gateways": ["b1"]}),
    ("peerings", {"name": "to-b", "clusters": ["a", "b"]}),
]
ASK = """
import json, ssl, sys, httpx
state, url = sys.argv[1:]
context = ssl.create_default_context(cafile=f"{state}/ca.pem")
headers = {"Authorization": "Bearer " + open(f"{state}/admin.token").read().strip()}
with httpx.Client(base_url=url, verify=context, headers=headers, trust_env=False, timeout=30) as client:
    for path, body in json.load(sys.stdin):
        answer = client.post(f"/v1/{path}", json=body)
        assert answer.is_success, answer.text
        print(answer.text)
"""


class Joined(Site):
    """The same, with a controller."""

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def kept(self) -> Path:
        return self.directory / "joined"

    def control_fleet(self) -> None:
        """Start the controller, in the router's namespace."""
        process = start(written(self.directory, PORT), ("ip", "netns", "exec", self.ns("router")))
        self.running["controller"] = process
        until(lambda: (self.state / "admin.token").exists() and self.leads(), "the controller leads", LIMIT_S)

    def leads(self) -> bool:
        return self.fwd("vpc", "list", check=False).returncode == 0

    def fwd(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        argv = ["ip", "netns", "exec", self.ns("router"), sys.executable, "-P", "-m", "fwd", *arguments]
        environment = {
            **os.environ, "FWD_CONTROLLER": URL, "FWD_CONTROLLER_CA": str(self.state / "ca.pem"),
            "FWD_CONTROLLER_TOKEN_FILE": str(self.state / "admin.token"),
        }  # fmt: skip
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done

    def ask(self, *bodies: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
        argv = ["ip", "netns", "exec", self.ns("router"), sys.executable, "-c", ASK, str(self.state), URL]
        done = subprocess.run(argv, input=json.dumps(bodies), capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def join(self) -> None:
        """Have the router join, and begin."""
        self.ask(*FLEET)
        (made,) = self.ask(("tokens", {"vpc": "a", "kind": "router"}))
        token = self.directory / "token"
        token.touch(0o600)
        token.write_text(made["token"])
        words = ("--token-file", str(token), "--kind", "router", "--name", "ra", "--inner", "10.1.9.1")
        self.fwd("join", URL, *words, "--directory", str(self.kept))
        self.config.write_text(
            f'[router]\ncontrol = "{self.control}"\n[controller]\ndirectory = "{self.kept}"\nsubnets = ["10.0.0.0/8"]\n'
        )
        self.route()
        until(lambda: (self.kept / "probe.key").exists(), "the probe key", LIMIT_S)
        for host in GATEWAYS:
            before = self.running.pop(host)
            before.kill()
            before.wait()  # it has the port
            self.start(host, BEACON, (self.kept / "probe.key").read_text(), str(self.directory / f"{host}.json"))

    def shown(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.fwd(kind, "show", name, "--json").stdout)
        return found

    def health(self, kind: str, name: str) -> str:
        return str(self.shown(kind, name)["health"]["state"])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Joined]:
    made = Joined(f"fwd-lab-j{os.getpid()}", tmp_path)
    try:
        made.up()
        made.control_fleet()
        made.join()
        made.uses(g1="up", g2="up")
        yield made
    finally:
        made.down()


def test_a_router_that_joins_spreads_what_its_controller_says_and_goes_on_without_it(site: Joined) -> None:
    """One running site for all of it: starting one is what costs."""
    until(lambda: site.status()["ready"], "the router is ready", LIMIT_S)
    until(lambda: site.health("router", "ra") == "up", "the router's state", LIMIT_S)
    evidence = site.shown("gateway", "g1")["health"]["evidence"]
    assert any("router ra" in line and "up" in line for line in evidence), evidence

    # A gateway comes, and one is drained: idle slots alone move.
    flows = Flows(site)
    site.fwd("cluster", "set", "a", "gateways+=g3")
    site.uses(g1="up", g2="up", g3="up")
    until(lambda: site.shares()["g3"] > 0, "idle slots of the new gateway", LIMIT_S)
    assert site.status()["spreads"][0]["waiting"] > 0, "busy slots wait"
    site.fwd("gateway", "drain", "g1")
    site.uses(g1="draining", g2="up", g3="up")
    assert site.shares()["g1"] > 0, "busy slots stay"

    # One that would be on no link of the router is refused.
    site.fwd("gateway", "create", "g4", "vpc=a", "outer=192.0.2.4", "inner=10.1.77.11")
    refused = site.fwd("cluster", "set", "a", "gateways+=g4", check=False)
    assert (refused.returncode, "g4 (10.1.77.11) is on no link of a router" in refused.stderr) == (2, True)

    # The controller is killed: the router goes on, and a new one begins with what is kept.
    site.running.pop("controller").kill()
    until(lambda: not site.status()["controller"]["connected"], "the controller is missed", LIMIT_S)
    assert site.status()["ready"], site.status()["reasons"]
    site.running["router"].kill()
    site.running["router"].wait()
    site.route()
    site.uses(g1="draining", g2="up", g3="up")
    flows.go_on(1)
    flows.assert_none_lost()

    # It is back, and what it wants then is taken.
    site.control_fleet()
    site.fwd("gateway", "undrain", "g1")
    site.uses(g1="up", g2="up", g3="up")

"""The controller restarts hosts that are down and upgrades gateways, by commands that a test carries out as a host's
power and packages would.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from clusterkit import LIMIT_S, Cluster, MakeFleet, until

NEWER = "99.0.0"
_PATCHED = "import sys, fwd; fwd.__version__ = sys.argv.pop(1); from fwd.cli import main; main()"


class Host:
    """Whoever carries out what the commands order: `restart NAME`, `upgrade NAME`."""

    def __init__(self, lab: Cluster, orders: Path) -> None:
        self.lab, self._orders, self.done = lab, orders, 0

    def orders(self) -> list[str]:
        return self._orders.read_text().splitlines() if self._orders.exists() else []

    def ordered(self) -> bool:
        """Carry out the next order, if there is one."""
        waiting = self.orders()[self.done :]
        if not waiting:
            return False
        self.done += 1
        act, name = waiting[0].split()
        if act == "restart":
            self.end(name, signal.SIGKILL)
            self.lab.start(name)
        else:
            self.end(name, signal.SIGTERM)
            command = self.lab.files(name).command(program=("-P", "-c", _PATCHED, NEWER))
            self.lab._start(name, command, self.lab.files(name).log)
        return True

    def end(self, name: str, number: signal.Signals) -> None:
        process = self.lab.running[name]
        if number is signal.SIGKILL:
            self.lab.signal(name, number)
        else:
            os.kill(process.pid, number)
        until(lambda: not self.lab.everything_of(name), f"{name} is off")
        self.lab.reap(process)


@pytest.fixture(scope="module")
def host(module_fleets: MakeFleet, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """Two clusters of two, whose hosts are restarted once at most."""
    directory = tmp_path_factory.mktemp("orders")
    keys: dict[str, Any] = {"restart_limit": 1, "restart_wait": "5m", "upgrade_timeout": "5m"}
    for act in ("restart", "upgrade"):
        command = directory / act
        command.write_text(f'#!/bin/sh\necho "{act} $1" >>{directory}/orders\necho ordered\n')
        command.chmod(0o755)
        keys[f"{act}_command"] = [str(command), "{name}"]
    return Host(module_fleets(2, 2, peered=True, keys=keys), directory / "orders")


@pytest.fixture(autouse=True)
def _whole(host: Host) -> None:
    until(lambda: host.lab.is_whole(), "all hosts are up")


def operation(lab: Cluster, act: str) -> dict[str, Any]:
    """The last operation of a kind."""
    return next(one for one in lab.api.items("operations") if one["act"] == act)


@pytest.mark.timeout(300)
def test_a_router_that_freezes_is_restarted_and_routes_again(host: Host) -> None:
    lab = host.lab
    lab.signal("router2", signal.SIGSTOP)
    until(host.ordered, "it is restarted")
    until(lambda: lab.router_ready("router2"), "it routes")
    until(lab.passes, "flows over all slots")
    assert operation(lab, "restart")["name"] == "router2"


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_gateway_is_upgraded_under_load_and_nothing_is_lost(host: Host) -> None:
    lab = host.lab
    until(lab.passes, "flows over all slots")
    with lab.load() as load:
        id = lab.api.ask("POST", "upgrade", {"gateways": ["gw1"]})["operation"]
        until(host.ordered, "it is drained, and its command runs", 2 * LIMIT_S)
        until(lambda: lab.api.get(f"operations/{id}")["result"] != "in progress", "it ends", 4 * LIMIT_S)
        load.end()
    one = lab.api.get(f"operations/{id}")
    assert (one["result"], one["steps"]) == ("done", [f"gw1: done: 0.1.0 → {NEWER}"])
    assert lab.api.get("gateways/gw1")["version"] == NEWER
    lab.until_uses("router1", gw1="up", gw2="up")
    assert (load.lost, load.reordered, load.resets) == (0, 0, 0), max(load.silence_s)

"""The controller restarts hosts that are down, frozen or gone, and upgrades gateways, by commands that a test carries
out as a host's power and packages would.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
from clusterkit import LIMIT_S, Cluster, MakeFleet, until

from fwd.lab.world import LabError

NEWER = "99.0.0"
GAP_S, SHOWN_S, USED_S = 1.0, 3.0, 30.0  # of a flow at p99; until a host is shown as down; until it is in use again
DEADLINE_S = 5  # of a drain
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
            self.rebuild(name)
            self.lab.start(name)
        else:
            self.end(name, signal.SIGTERM)
            command = self.lab.files(name).command(program=("-P", "-c", _PATCHED, NEWER))
            self.lab._start(name, command, self.lab.files(name).log)
        return True

    def rebuild(self, name: str) -> None:
        """Make a gateway's host anew, with the disk that it had; restart a router's."""
        if name not in self.lab.fleet.gateways:
            self.end(name, signal.SIGKILL)
            return
        if self.lab.fleet.is_there(name):
            self.lab.fleet.lose(name)
        self.lab.reap(self.lab.running[name])
        self.lab.fleet.make_again(name)

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
    """Two clusters of two, whose hosts are restarted and upgraded."""
    directory = tmp_path_factory.mktemp("orders")
    keys: dict[str, Any] = {"restart_limit": 100, "restart_wait": "5m", "upgrade_timeout": "5m"}
    for act in ("restart", "upgrade"):
        command = directory / act
        command.write_text(f'#!/bin/sh\necho "{act} $1" >>{directory}/orders\necho ordered\n')
        command.chmod(0o755)
        keys[f"{act}_command"] = [str(command), "{name}"]
    lab = module_fleets(2, 2, peered=True, keys=keys, drain_s=DEADLINE_S)
    return Host(lab, directory / "orders")


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
@pytest.mark.timeout(300)
def test_a_gateway_that_a_person_has_restarted_is_back_when_its_operation_ends(host: Host) -> None:
    lab = host.lab
    with pytest.raises(LabError, match="nobody else of the routers of vpc2 carries"):
        lab.api.ask("POST", "routers/router2/restart")
    ordered = len(host.orders())
    with lab.load() as load:
        until(lambda: min(lab.records(one) for one in lab.fleet.gateways) > 200, "traffic over all pairs")
        made = lab.api.ask("POST", "gateways/gw2/restart")
        until(host.ordered, "it is restarted")
        result = until(lambda: ended(lab, made["operation"]), "the operation has ended")
        assert lab.health("gateways", "gw2") in ("up", "degraded")
        load.end()
    assert result.startswith("done: it is back after")
    assert load.resets == 0
    assert host.orders()[ordered:] == ["restart gw2"], "the controller has not restarted it once more"


def ended(lab: Cluster, operation: str) -> str:
    """What came of an operation; empty: it goes on."""
    result = str(lab.api.get(f"operations/{operation}")["result"])
    return "" if result == "in progress" else result


@pytest.mark.alone
@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.long)])
@pytest.mark.timeout(1200)
def test_hosts_that_freeze_or_are_destroyed_lose_no_connection_and_are_soon_in_use_again(
    host: Host, times: int
) -> None:
    lab, silences, seconds = host.lab, [], []
    for number in range(times):
        name = lab.fleet.gateways[number // 2 % len(lab.fleet.gateways)]
        with lab.load() as load:
            before = {one: lab.records(one) for one in lab.fleet.gateways}
            until(lambda before=before: all(lab.records(one) > before[one] + 200 for one in before), "traffic")  # type: ignore[misc]
            seconds.append(harm(host, name, destroyed=bool(number % 2)))
            load.end()
        silences += load.silence_s
        assert load.resets == 0, name
        until(lab.is_whole, "all hosts are up")
    silences.sort()
    p50, p99 = statistics.median(silences), silences[int(len(silences) * 0.99)]
    shown, used = (sorted(column) for column in zip(*seconds, strict=True))
    print(
        f"silence of {len(silences)} flows: p50 {p50:.3f} s, p99 {p99:.3f} s, longest {silences[-1]:.3f} s;"
        f" shown after {statistics.median(shown):.2f} s (longest {shown[-1]:.2f} s),"
        f" in use again after {statistics.median(used):.1f} s (longest {used[-1]:.1f} s)"
    )
    assert p99 < GAP_S
    assert shown[-1] < SHOWN_S
    assert used[-1] < USED_S


def harm(host: Host, name: str, destroyed: bool) -> tuple[float, float]:
    """Freeze or destroy a gateway's host. After how many seconds it was shown as down, and was in use on both sides."""
    lab = host.lab
    begun = time.monotonic()
    if destroyed:
        lab.fleet.lose(name)
    else:
        lab.signal(name, signal.SIGSTOP)
    lab.until_health(name, "down")
    shown_s = time.monotonic() - begun
    until(host.ordered, f"the restart of {name}")
    for router in lab.fleet.all_routers:
        until(lambda router=router: set(lab.uses(router).values()) == {"up"}, f"{name} is in use again")  # type: ignore[misc]
    return shown_s, time.monotonic() - begun


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("count", [1, pytest.param(3, marks=pytest.mark.long)])
@pytest.mark.timeout(900)
def test_gateways_are_upgraded_under_load_and_nothing_is_lost(host: Host, count: int) -> None:
    lab, names = host.lab, list(host.lab.fleet.gateways[:count])
    until(lab.passes, "flows over all slots")
    with lab.load() as load:
        id = lab.api.ask("POST", "upgrade", {"gateways": names})["operation"]
        for name in names:
            until(host.ordered, f"{name} is drained, and its command runs", 3 * LIMIT_S)
        until(lambda: lab.api.get(f"operations/{id}")["result"] != "in progress", "it ends", 4 * LIMIT_S)
        load.end()
    one = lab.api.get(f"operations/{id}")
    assert (one["result"], one["steps"]) == ("done", [f"{name}: done: 0.1.0 → {NEWER}" for name in names])
    assert [lab.api.get(f"gateways/{name}")["version"] for name in names] == [NEWER] * count
    lab.until_uses("router1", gw1="up", gw2="up")
    assert (load.lost, load.reordered, load.resets) == (0, 0, 0), max(load.silence_s)

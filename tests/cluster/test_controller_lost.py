"""Whatever becomes of the controller, no packet is lost and no gateway goes out of use; what it says later holds."""

from __future__ import annotations

import contextlib
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusterkit import NAME, Cluster, Load, MakeFleet, until

from fwd.lab.fleet.plan import CONTROLLER

AWAY_RECORDS = 3000  # for so long that many heartbeats are missed


@pytest.fixture(scope="module")
def lab(module_fleets: MakeFleet) -> Cluster:
    """Two clusters of two."""
    return module_fleets(2, 2, peered=True)


def goes_on(lab: Cluster) -> None:
    """Let traffic go on for a while."""
    before = lab.records("gw1")
    until(lambda: lab.records("gw1") > before + AWAY_RECORDS, "traffic that goes on")


@contextlib.contextmanager
def away(lab: Cluster, how: str) -> Iterator[None]:
    """The controller is away while the block runs."""
    if how == "killed":
        lab.kill(CONTROLLER)
        yield
        lab.start_controller()
    elif how == "frozen":
        lab.signal(CONTROLLER, signal.SIGSTOP)
        yield
        lab.signal(CONTROLLER, signal.SIGCONT)
    else:
        with lab.cut_off(CONTROLLER):
            yield


def assert_unharmed(lab: Cluster, load: Load) -> None:
    load.end()
    assert (load.lost, load.reordered, load.resets) == (0, 0, 0)
    until(lambda: lab.api.get(f"peerings/{NAME}")["state"] == "up", "its pairs are heard, and up")


@pytest.mark.alone
@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", ["killed", "frozen", "cut off"])
def test_nothing_is_lost_while_the_controller_is_away_and_it_is_heard_again(lab: Cluster, how: str) -> None:
    with lab.load() as load:
        with away(lab, how):
            goes_on(lab)
            assert set(lab.uses("router1").values()) == {"up"}
        until(lab.is_whole, "all are heard, and up")
        assert_unharmed(lab, load)


@pytest.mark.timeout(120)
def test_an_older_snapshot_and_an_empty_store_are_held_until_it_recovers(lab: Cluster, tmp_path: Path) -> None:
    """The last of these tests."""
    lab.stop(CONTROLLER)
    database = lab.state / "store.db"
    shutil.copy(database, tmp_path / "whole.db")
    shutil.copy(lab.state / "admin.token", tmp_path)  # an empty store makes another
    with lab.load() as load:
        # Empty: as if the disk had been lost, with the keys still there.
        for path in lab.state.glob("store.db*"):
            path.unlink()
        lab.start_controller()
        until(lambda: lab.events() & {"host.ahead", "host.unknown"}, "it is told")
        goes_on(lab)
        assert all(lab.status(one)["peerings"] for one in lab.fleet.gateways)

        # An older one, and the recovery from it.
        lab.stop(CONTROLLER)
        for path in lab.state.glob("store.db*"):
            path.unlink()
        shutil.copy(tmp_path / "whole.db", database)
        shutil.copy(tmp_path / "admin.token", lab.state)
        lab.start_controller()
        lab.fwd("controller", "recover")
        until(lambda: all(lab.status(one)["controller"]["connected"] for one in lab.fleet.gateways), "all connected")
        goes_on(lab)
        assert_unharmed(lab, load)

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
SOON_S = 20.0  # 5 s, and a busy machine's delay


@pytest.fixture(scope="module")
def lab(module_fleets: MakeFleet) -> Cluster:
    """Two clusters of two."""
    return module_fleets(2, 2, peered=True)


def goes_on(lab: Cluster) -> None:
    """Let traffic go on for a while."""
    before = lab.records("gw1")
    until(lambda: lab.records("gw1") > before + AWAY_RECORDS, "traffic that goes on")


def applied(lab: Cluster, host: str) -> tuple[int, int]:
    """Term and generation of the document that a gateway has in force."""
    order = lab.status(host)["controller"]["applied"]
    return int(order["term"]), int(order["generation"])


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


@pytest.mark.timeout(240)
def test_an_older_snapshot_and_an_empty_store_are_held_until_it_recovers(lab: Cluster, tmp_path: Path) -> None:
    """The last of these tests."""
    lab.stop(CONTROLLER)
    for path in lab.state.glob("store.db*"):  # and what is not in the file itself yet
        shutil.copy(path, tmp_path)
    shutil.copy(lab.state / "admin.token", tmp_path)  # an empty store makes another

    # What hosts take in a later term is not in the copy.
    lab.start_controller()
    old = max(applied(lab, one) for one in lab.fleet.gateways)
    lab.api.change("gateways", "gw1", weight=2)
    until(lambda: all(applied(lab, one)[1] > old[1] for one in lab.fleet.gateways), "all have it in force")
    before = {one: applied(lab, one) for one in lab.fleet.gateways}
    lab.stop(CONTROLLER)
    with lab.load() as load:
        # Empty: as if the disk had been lost, with the keys still there.
        for path in lab.state.glob("store.db*"):
            path.unlink()
        lab.start_controller()
        until(lambda: lab.events() & {"host.ahead", "host.unknown"}, "it is told", SOON_S)
        goes_on(lab)
        assert {one: applied(lab, one) for one in lab.fleet.gateways} == before, "all hold what they had"
        assert all(lab.ready(one) for one in lab.fleet.gateways)

        # An older one, and the recovery from it.
        lab.stop(CONTROLLER)
        for path in lab.state.glob("store.db*"):
            path.unlink()
        for path in tmp_path.glob("store.db*"):
            shutil.copy(path, lab.state)
        shutil.copy(tmp_path / "admin.token", lab.state)
        lab.start_controller()
        until(lambda: "host.ahead" in lab.events(), "it is told", SOON_S)
        goes_on(lab)
        assert {one: applied(lab, one) for one in lab.fleet.gateways} == before, "all hold what they had"
        lab.fwd("controller", "recover")
        until(lambda: all(applied(lab, one) > before[one] for one in lab.fleet.gateways), "it is in force", SOON_S)
        goes_on(lab)
        assert_unharmed(lab, load)

"""A controller on three members of etcd, whatever becomes of it and of them: no packet is lost, no gateway goes out of
use, and all is well again seconds after. A leader that was frozen while another one took its place changes nothing.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusterkit import NAME, Cluster, MakeFleet, until
from etcdkit import Etcd

from fwd.controller import keys
from fwd.controller.etcd import TTL_S
from fwd.lab.fleet.plan import CONTROLLER, PORT
from fwd.lab.gateway import PROGRAM
from fwd.lab.spawn import spawn
from fwd.lab.world import LabError

CONVERGE_S = 20.0  # 5 s, and a busy machine's delay
AWAY_S = TTL_S + 2  # longer than whoever leads has leave to, and than a host that is silent is up
_ASK = (
    "import sys, urllib.request as u; sys.stdout.buffer.write(u.urlopen(sys.argv[1], sys.argv[2].encode(), 9).read())"
)
Made = tuple[Cluster, Etcd]


@pytest.fixture(scope="module")
def made(module_fleets: MakeFleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Two clusters of two, and on the controller's host its etcd."""
    started: list[Etcd] = []

    def begin(lab: Cluster) -> None:
        started.append(Etcd(tmp_path_factory.mktemp("etcd"), 3, lab.fleet.command(CONTROLLER, [])))
        lab.tables["store"] = {"kind": "etcd", "endpoints": started[0].endpoints}

    try:
        yield module_fleets(2, 2, peered=True, before=begin), started[0]
    finally:
        for etcd in started:
            etcd.stop()


def ask(lab: Cluster, etcd: Etcd, path: str, body: dict[str, object]) -> dict[str, object]:
    """Ask the etcd, where it is."""
    argv = [sys.executable, "-c", _ASK, f"{etcd.endpoints[0]}/v3/{path}", json.dumps(body)]
    return dict(json.loads(lab.fleet.run(CONTROLLER, argv).stdout))


def whole(lab: Cluster) -> bool:
    """Whether all are heard and up, and the controller leads."""
    try:
        return lab.is_whole() and bool(lab.api.get("controller")["leading"])
    except LabError:
        return False


@contextlib.contextmanager
def harmed(lab: Cluster, etcd: Etcd, how: str) -> Iterator[None]:
    """One kind of harm while the block runs."""
    if how == "etcd frozen":
        for process in etcd.processes:
            process.send_signal(signal.SIGSTOP)
        yield
        for process in etcd.processes:
            process.send_signal(signal.SIGCONT)
    elif how == "quorum lost":
        etcd.kill(1, 2)
        yield
        etcd.start_again(1, 2)
    elif how == "compacted":
        answer = ask(lab, etcd, "kv/range", {"key": base64.b64encode(b"none").decode()})
        revision = dict(answer["header"])["revision"]  # type: ignore[call-overload]
        ask(lab, etcd, "kv/compaction", {"revision": revision, "physical": True})
        yield
    else:
        with lab.cut_off(CONTROLLER):
            yield


@pytest.mark.alone
@pytest.mark.parametrize("seconds", [AWAY_S, pytest.param(300, marks=pytest.mark.long)], ids=["short", "long"])
@pytest.mark.parametrize("how", ["etcd frozen", "quorum lost", "compacted", "cut off"])
@pytest.mark.timeout(600)
def test_nothing_is_lost_while_controller_or_store_is_away_and_all_is_well_soon_after(
    made: Made, how: str, seconds: int
) -> None:
    lab, etcd = made
    until(lambda: whole(lab), "all is well")
    known = max(int(one["number"]) for one in lab.api.items("events"))
    with lab.load() as load:
        with harmed(lab, etcd, how):
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                assert set(lab.uses("router1").values()) <= {"up"}
                time.sleep(1.0)
        ended_at = time.monotonic()
        until(lambda: whole(lab), "all are heard, and up", CONVERGE_S)
        print(f"{how} for {seconds:g} s: all are heard and up {time.monotonic() - ended_at:.1f} s after its end")
        load.end()
    assert (load.lost, load.reordered, load.resets) == (0, 0, 0), max(load.silence_s)
    news = [one for one in lab.api.items("events") if int(one["number"]) > known]
    assert not {"host.down", "host.left"} & {str(one["what"]) for one in news}, news


@contextlib.contextmanager
def second(lab: Cluster, directory: Path) -> Iterator[None]:
    """Another controller on the same etcd, to which hosts come as soon as the first one is left."""
    state, config, port = directory / "state", directory / "second.toml", PORT + 1
    shutil.copytree(lab.state, state)
    (state / keys.SERVER_PEM).unlink()
    text = lab.controller_config.read_text().replace(str(lab.state), str(state))
    config.write_text(text.replace(f'listen = "{lab.fleet.address(CONTROLLER)}:{PORT}', f'listen = "0.0.0.0:{port}'))
    command = [sys.executable, *PROGRAM, "controller", "--config", str(config)]
    lab._remember("second", spawn(lab.fleet.command(CONTROLLER, command), directory / "second.log"))
    try:
        yield
    finally:
        lab.stop("second")


@contextlib.contextmanager
def redirected(lab: Cluster) -> Iterator[None]:
    """New connections from outside go to the second one: what a balancer or a shared address does."""
    rule = f"chain c {{ type nat hook prerouting priority dstnat; tcp dport {PORT} redirect to :{PORT + 1}\n}}"
    lab.fleet.run(CONTROLLER, ["nft", "-f", "-"], input=f"table inet second {{ {rule}\n}}\n")
    try:
        yield
    finally:
        lab.fleet.run(CONTROLLER, ["nft", "delete", "table", "inet", "second"])


@pytest.mark.alone
@pytest.mark.timeout(240)
def test_a_leader_that_was_frozen_and_wakes_is_refused_while_another_one_leads(made: Made, tmp_path: Path) -> None:
    lab, _ = made
    until(lambda: whole(lab), "all is well")
    before = int(lab.api.get("controller")["term"])
    leader = lab.running[CONTROLLER].pid
    with lab.load() as load, second(lab, tmp_path):
        until(
            lambda: (
                "follows" in (tmp_path / "second.log").read_text() or "listens" in (tmp_path / "second.log").read_text()
            ),
            "the second one is there",
        )
        os.kill(leader, signal.SIGSTOP)
        with redirected(lab):
            frozen_at = time.monotonic()
            hosts = lab.fleet.gateways
            until(
                lambda: all(int(lab.status(one)["controller"]["newest"]["term"]) > before for one in hosts),
                "all hear the second one", TTL_S + CONVERGE_S,
            )  # fmt: skip
            time.sleep(max(0.0, frozen_at + 2 * TTL_S - time.monotonic()))

            # It wakes, and is asked by a way that the redirection does not touch.
            os.kill(leader, signal.SIGCONT)
            with pytest.raises(LabError, match="lead"):
                lab.api.create("vpcs", name="stale", cidrs=["10.99.0.0/16"])
            assert not lab.api.get("controller")["leading"]
        lab.stop("second")
        until(lambda: whole(lab), "the first one leads again, and all are heard", TTL_S + CONVERGE_S)
        load.end()
    assert lab.api.get(f"peerings/{NAME}")["state"] == "up"
    assert "stale" not in {one["name"] for one in lab.api.items("vpcs")}
    assert (load.lost, load.reordered, load.resets) == (0, 0, 0), max(load.silence_s)

"""Two real controllers on a real etcd: one leads, the other follows, one that was frozen and wakes changes nothing."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from etcdkit import Etcd
from forking import forking
from nursery import Nursery
from runkit import Running

from fwd.controller import keys
from fwd.controller.etcd import TTL_S
from fwd.lab.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    made = Etcd(tmp_path)
    try:
        made.wait()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def _forked() -> Iterator[None]:
    """Start this module's controllers without what their imports cost each time."""
    with contextlib.closing(Nursery()) as made, forking(made):
        yield


@pytest.fixture
def pair(tmp_path: Path, etcd: Etcd, _forked: None) -> Iterator[tuple[Running, Running]]:
    """The first leads; both have its keys, and its admin."""
    more = f'[store]\nkind = "etcd"\nendpoints = ["{etcd.endpoints[0]}"]\n'
    started: list[Running] = []
    try:
        for name in ("one", "two"):
            directory = tmp_path / name
            directory.mkdir()
            if started:
                shutil.copytree(started[0].state, directory / "state")
                (directory / "state" / keys.SERVER_PEM).unlink()
            started.append(Running(directory, more))
            one = started[-1]
            until(lambda one=one: standing(one).get("leader"), "it knows who leads", 60)  # type: ignore[misc]
        yield started[0], started[1]
    finally:
        for one in started:
            one.process.send_signal(signal.SIGCONT)
            one.stop()


def standing(one: Running) -> dict[str, Any]:
    try:
        with one.client() as client:
            answer = client.get("/v1/controller", timeout=5)
            return dict(answer.json()) if answer.is_success else {}
    except (OSError, httpx.HTTPError):
        return {}


def make(client: httpx.Client, name: str, net: int) -> httpx.Response:
    return client.post("/v1/vpcs", json={"name": name, "cidrs": [f"10.{net}.0.0/16"]}, timeout=60)


def names(one: Running) -> list[str]:
    with one.client() as client:
        return [vpc["name"] for vpc in client.get("/v1/vpcs").json()["items"]]


def freeze(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGSTOP)
    until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, "it is stopped", 60)


def test_one_leads_the_other_says_so_and_changes_nothing(pair: tuple[Running, Running]) -> None:
    one, two = pair
    first, second = standing(one), standing(two)
    assert (first["leading"], second["leading"]) == (True, False)
    assert second["leader"] == first["who"] == first["leader"]
    assert first["who"].endswith(f":{one.process.pid}")
    assert first["cluster_id"] == second["cluster_id"]

    with one.client() as client:
        assert make(client, "a", 1).status_code == 200
        assert client.get("/healthz").status_code == 200
    with two.client() as client:
        assert make(client, "b", 2).status_code == 503
        assert client.get("/healthz").status_code == 503
    until(lambda: names(two) == ["a"], "the other shows it", 30)


def test_a_leader_that_was_frozen_and_wakes_is_refused_and_follows(pair: tuple[Running, Running]) -> None:
    """What was asked of it before, and lay in its socket meanwhile, is refused with all that comes."""
    one, two = pair
    answers: list[httpx.Response] = []
    with one.client() as asked:
        assert make(asked, "a", 1).status_code == 200  # on a connection that stays
        before = standing(one)["term"]
        freeze(one.process)
        waiting = threading.Thread(target=lambda: answers.append(make(asked, "stale", 9)))
        waiting.start()
        began = time.monotonic()
        until(lambda: standing(two).get("leading"), "the other leads", 60)
        with two.client() as client:
            assert make(client, "b", 2).status_code == 200
        time.sleep(max(0.0, began + 2 * TTL_S - time.monotonic()))

        one.process.send_signal(signal.SIGCONT)
        waiting.join(60)
        later = [make(asked, f"later{n}", 10 + n).status_code for n in range(5)]
    assert [answer.status_code for answer in answers] == [503]
    assert later == [503] * 5
    until(lambda: standing(one).get("leader") == standing(two)["who"], "it knows the other", 30)
    assert standing(two)["term"] > before
    until(lambda: names(one) == names(two) == ["a", "b"], "and shows what that one has made", 30)


def test_one_that_ends_leaves_the_lead_at_once(pair: tuple[Running, Running]) -> None:
    one, two = pair
    began = time.monotonic()
    assert one.stop() == 0
    until(lambda: standing(two).get("leading"), "the other leads", 60)
    assert time.monotonic() - began < TTL_S + 30
    with two.client() as client:
        assert make(client, "a", 1).status_code == 200


def test_a_store_that_freezes_is_told_by_healthz_and_it_goes_on_when_the_store_does(
    pair: tuple[Running, Running], etcd: Etcd
) -> None:
    one, _ = pair
    for process in etcd.processes:
        process.send_signal(signal.SIGSTOP)
    assert healthy(one) == 503
    with one.client() as client:
        assert make(client, "a", 1).status_code == 503
        assert client.get("/v1/vpcs").status_code == 200, "what is known is shown"
    for process in etcd.processes:
        process.send_signal(signal.SIGCONT)
    until(lambda: 200 in map(healthy, pair), "one of them leads again", 60)


def healthy(one: Running) -> int:
    with one.client() as client:
        return client.get("/healthz", timeout=60).status_code

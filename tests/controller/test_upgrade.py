"""Upgrades of gateways: what is done next, and whole ones by the API with real commands."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from apikit import Api
from test_spawn import program

from fwd.controller.acts import LOST, Acts
from fwd.controller.health import Health
from fwd.controller.mend import BUSY, Seen, alone_in
from fwd.controller.spawn import Ran
from fwd.controller.upgrade import DRAIN_S, SETTLE_S, Facts, Phase, Step, advance, is_newer, is_older
from fwd.controller.upgrades import Upgrades

NOW, LIMIT_S = 1000.0, 600.0
DRAINED = Facts(draining=True, health=Health.DRAINING, ready=True, version="0.1.0", heard_at=NOW)
BACK = replace(DRAINED, version="0.2.0")


def at(phase: Phase, for_s: float = 10.0, **more: Any) -> Step:
    return Step("a1", phase, NOW - for_s, "0.1.0", **more)


F, W = Phase.FAILED, Phase.WAITS
CASES: list[tuple[str, Step, Facts, Phase, str | None, str]] = [
    ("begins", Step("a1"), Facts(version="0.1.0"), Phase.DRAINS, "drain", ""),
    ("was drained already", Step("a1"), DRAINED, Phase.DRAINS, None, ""),
    ("is down", Step("a1"), Facts(health=Health.DOWN, why="gone"), F, None, "it is down: gone"),
    ("is silent", Step("a1"), Facts(health=Health.UNREACHABLE, why="no heartbeat"), F, None, "unreachable"),
    ("nobody else carries", Step("a1"), Facts(alone="cluster a"), F, None, "nobody else of cluster a carries"),
    ("nobody else does, and it does not either", Step("a1"), replace(DRAINED, alone="cluster a"),
     Phase.DRAINS, None, ""),
    ("has not heard of it", at(Phase.DRAINS), replace(DRAINED, applied=False), Phase.DRAINS, None, ""),
    ("never hears of it", at(Phase.DRAINS, DRAIN_S), replace(DRAINED, applied=False), Phase.RUNS, "run", ""),
    ("still has flows", at(Phase.DRAINS), replace(DRAINED, shares=(0.0, 0.1)), Phase.DRAINS, None, ""),
    ("has no flows", at(Phase.DRAINS), replace(DRAINED, shares=(0.0, 0.0)), Phase.RUNS, "run", ""),
    ("has none, so soon", at(Phase.DRAINS, SETTLE_S - 1), DRAINED, Phase.DRAINS, None, ""),
    ("keeps its flows", at(Phase.DRAINS, DRAIN_S), replace(DRAINED, shares=(0.1,)), Phase.RUNS, "run", ""),
    ("may keep its flows for longer", at(Phase.DRAINS, DRAIN_S), replace(DRAINED, shares=(0.1,), deadline_s=300.0),
     Phase.DRAINS, None, ""),
    ("keeps them all the same", at(Phase.DRAINS, 330.0), replace(DRAINED, shares=(0.1,), deadline_s=300.0),
     Phase.RUNS, "run", ""),
    ("is undrained by somebody", at(Phase.DRAINS), Facts(), F, None, "taken back into service"),
    ("its command runs", at(Phase.RUNS), DRAINED, Phase.RUNS, None, ""),
    ("its command fails", at(Phase.RUNS), replace(DRAINED, ran=Ran(False, "exit status 1: no")),
     F, None, "exit status 1"),
    ("its command is done", at(Phase.RUNS), replace(DRAINED, ran=Ran(True, "")), Phase.RETURNS, None, ""),
    ("is away", at(Phase.RETURNS), replace(DRAINED, heard_at=0.0), Phase.RETURNS, None, ""),
    ("has not gone yet", at(Phase.RETURNS), DRAINED, Phase.RETURNS, None, ""),
    ("was heard of before its command ended", at(Phase.RETURNS), replace(BACK, heard_at=NOW - 20),
     Phase.RETURNS, None, ""),
    ("is back", at(Phase.RETURNS), BACK, Phase.SETTLES, "undrain", "0.1.0 → 0.2.0"),
    ("is back, and was drained before", at(Phase.RETURNS, stays=True), BACK, Phase.DONE, None, "drained as before"),
    ("is back, and not ready", at(Phase.RETURNS), replace(BACK, ready=False), Phase.RETURNS, None, ""),
    ("never comes back", at(Phase.RETURNS, LIMIT_S), replace(BACK, heard_at=0.0),
     F, None, "not come back within 600 s"),
    ("comes back the same", at(Phase.RETURNS, LIMIT_S), DRAINED,
     F, None, "came back with version 0.1.0, and had 0.1.0"),
    ("comes back older", at(Phase.RETURNS, LIMIT_S), replace(BACK, version="0.0.9"), F, None, "version 0.0.9"),
    ("comes back broken", at(Phase.RETURNS, LIMIT_S), replace(BACK, ready=False, why="no TUN"),
     F, None, "not ready: no TUN"),
    ("is not up yet", at(Phase.SETTLES), Facts(health=Health.DEGRADED), Phase.SETTLES, None, ""),
    ("is up, and has not heard", at(Phase.SETTLES), Facts(applied=False), Phase.SETTLES, None, ""),
    ("is up", at(Phase.SETTLES), Facts(), Phase.DONE, None, ""),
    ("never is", at(Phase.SETTLES, LIMIT_S), Facts(health=Health.DEGRADED, why="loss"),
     F, None, "it is degraded: loss"),
    ("is deleted", at(Phase.RETURNS), Facts(is_there=False), F, None, "deleted meanwhile"),
    ("is done", at(Phase.DONE), Facts(), Phase.DONE, None, ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("step", "facts", "phase", "act", "text"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_what_comes_next(step: Step, facts: Facts, phase: Phase, act: str | None, text: str) -> None:
    after, done = advance(step, facts, NOW, LIMIT_S)

    assert (after.phase, done) == (phase, act)
    assert text in after.text
    assert (after == step) if after.phase is step.phase else after.since == NOW


@pytest.mark.parametrize(
    ("version", "other", "older", "newer"),
    [
        ("0.1.0", "0.2.0", True, False),
        ("0.10.0", "0.9.9", False, True),
        ("1.0", "1.0.0", False, True),
        ("0.1.0", "0.1.0", False, False),
        ("0.1.0.dev2", "0.1.0.dev1", False, True),
        ("", "0.1.0", True, False),
        ("x" * 64, "0.1.0", True, False),
    ],
)
def test_versions(version: str, other: str, older: bool, newer: bool) -> None:
    assert (is_older(version, other), is_newer(version, other)) == (older, newer)


def test_who_is_the_last_that_carries() -> None:
    up, down = Seen(Health.UP), Seen(Health.DOWN)
    groups = {"cluster a": ["a1", "a2"], "cluster b": ["a1", "a3"]}
    assert alone_in("a1", {"a1": up, "a2": up, "a3": up}, groups) == ""
    assert alone_in("a1", {"a1": up, "a2": up, "a3": down}, groups) == "cluster b"
    assert alone_in("a1", {"a1": up, "a2": replace(up, busy="is being upgraded"), "a3": up}, groups) == "cluster a"
    assert alone_in("a4", {"a4": up}, groups) == ""


# -- whole ones -------------------------------------------------------------------------------------------------------


class Bed:
    """Three gateways in a cluster; the command writes down whom it upgrades, who then reports the next version."""

    def __init__(self, directory: Path, text: str = "") -> None:
        self.api, self.log = Api(), directory / "log"
        self.api.make_vpc("a", "10.1")
        self.told = {f"a{n}": self.api.join("a", f"a{n}", f"10.1.0.{n}", f"192.0.2.{n}") for n in (1, 2, 3)}
        self.api.good("POST", "/v1/clusters", {"name": "a", "vpc": "a", "gateways": list(self.told)})
        self.versions = dict.fromkeys(self.told, "0.1.0")
        self.broken: set[str] = set()
        self.acts = Acts(self.api.control)
        command = program(directory / "upgrade", f'echo "$@" >>{self.log}\n{text}')
        self.upgrades = Upgrades(self.api.control, self.acts, (command, "{name}"), 60.0)
        self.api.control.upgrading = self.upgrades
        self.drained: list[tuple[str, ...]] = []  # at each second

    def second(self) -> None:
        self.api.now += 1.0
        for name, told in self.told.items():
            if name in self.upgraded():
                self.versions[name] = "0.2.0"
            state = self.gateway(name)["state"]
            status = {"ready": state == "active" and name not in self.broken, "draining": state == "draining"}
            assert self.api.beat(told, version=self.versions[name], status=status).status_code == 200
        self.api.control.turn()
        self.api.run(self.turn())
        self.drained.append(tuple(name for name in self.told if self.gateway(name)["state"] == "draining"))

    async def turn(self) -> None:
        await self.acts.turn()
        await self.upgrades.turn()
        course = self.upgrades._course
        if course is not None and course.command is not None:
            await asyncio.gather(course.command)

    def gateway(self, name: str) -> Any:
        return self.api.good("GET", f"/v1/gateways/{name}")

    def upgraded(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []

    def ask(self, *names: str, dry_run: bool = False) -> Any:
        how: dict[str, Any] = {"params": {"dry_run": "1"}} if dry_run else {}
        return self.api.ask("POST", "/v1/upgrade", {"gateways": list(names)}, **how)

    def operation(self, id: str) -> Any:
        return self.api.good("GET", f"/v1/operations/{id}")

    def run(self, id: str, seconds: int = 200) -> Any:
        """Let time pass until it ends."""
        for _ in range(seconds):
            self.second()
            if self.operation(id)["result"] != "in progress":
                break
        return self.operation(id)


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    one = Bed(tmp_path)
    try:
        one.second()
        yield one
    finally:
        one.api.close()


def test_gateways_are_upgraded_one_after_another_and_one_alone_is_out_of_service(bed: Bed) -> None:
    assert bed.ask("a1", "a2", "a3", dry_run=True).json()["plan"] == [
        f"gateway {name}: 0.1.0; is drained, and goes back into service" for name in bed.told
    ]
    answer = bed.ask("a1", "a2", "a3")
    assert answer.status_code == 202
    done = bed.run(answer.json()["operation"])

    assert done["result"] == "done"
    assert done["steps"] == [f"{name}: done: 0.1.0 → 0.2.0" for name in bed.told]
    assert bed.upgraded() == ["a1", "a2", "a3"]
    assert max(map(len, bed.drained)) == 1
    assert bed.drained[-1] == ()
    acts = [(one["act"], one["name"]) for one in bed.api.good("GET", "/v1/operations")["items"]][:6]
    assert acts[::-1] == [(act, name) for name in bed.told for act in ("drain", "undrain")]


def test_it_ends_at_the_first_that_fails_which_stays_drained(bed: Bed, tmp_path: Path) -> None:
    program(tmp_path / "upgrade", f'echo "$@" >>{bed.log}; [ $1 != a2 ] || {{ echo no room on the disk; exit 1; }}')
    id = bed.ask("a1", "a2", "a3").json()["operation"]
    done = bed.run(id)

    why = "exit status 1: no room on the disk"
    assert done["steps"] == ["a1: done: 0.1.0 → 0.2.0", f"a2: failed: {why}", "a3: waits"]
    told = f"failed: a2: {why}; `fwd gateway show a2`, and undrain it once it is well; not begun: a3"
    assert done["result"] == told
    assert bed.upgraded() == ["a1", "a2"]
    assert bed.drained[-1] == ("a2",)
    events = bed.api.good("GET", "/v1/events")["items"]
    assert [one["text"] for one in events if one["what"] == "host.upgrade_failed"] == [f"{id}: {told}"]
    assert bed.ask("a3").status_code == 202, "and another one may begin"


def test_one_that_is_not_well_afterwards_ends_it(bed: Bed) -> None:
    id = bed.ask("a1", "a2").json()["operation"]
    bed.broken = {"a1"}  # from when it is back in service
    done = bed.run(id)

    assert done["result"].startswith("failed: a1: 0.1.0 → 0.2.0, and after 60 s it is degraded")
    assert bed.upgraded() == ["a1"]


@pytest.mark.parametrize(
    ("names", "status", "why"),
    [
        (["a9"], 404, "there is no gateway a9"),
        (["a1", "a1"], 422, "twice"),
        ([], 422, "gateways: has 0 entries, needs 1"),
        (["A1"], 422, "gateways.0: expected 1 to 32 small letters"),
    ],
)
def test_what_cannot_be_upgraded_is_refused_before_anything_is_done(
    bed: Bed, names: list[str], status: int, why: str
) -> None:
    answer = bed.ask(*names)
    assert answer.status_code == status
    assert why in answer.json()["detail"]
    assert bed.upgraded() == []


@pytest.mark.parametrize("share", [10**400, -(10**400), "much", True, None, [1]], ids=lambda share: str(share)[:6])
def test_whatever_a_router_says_of_shares_gateways_are_upgraded(bed: Bed, share: Any) -> None:
    router = bed.api.join("a", "ra", "10.1.0.99", "192.0.2.99", kind="router", ike_csr=None)
    bed.second()
    status = {"ready": True, "gateways": [{"name": "a1", "up": True, "share": share}]}
    assert bed.api.beat(router, status=status).status_code == 200
    assert bed.ask("a1", dry_run=True).status_code == 202
    assert bed.upgrades._facts("a1").shares in ([], [0.0], [1.0])


def test_the_last_one_that_carries_is_not_upgraded(bed: Bed) -> None:
    bed.api.good("PATCH", "/v1/clusters/a", {"gateways": ["a1"]})
    bed.second()
    answer = bed.ask("a1")
    assert (answer.status_code, "nobody else of cluster a carries" in answer.json()["detail"]) == (409, True)


def test_one_at_a_time_and_none_without_a_command(bed: Bed) -> None:
    id = bed.ask("a1").json()["operation"]
    answer = bed.ask("a2")
    assert (answer.status_code, f"{id} is under way" in answer.json()["detail"]) == (409, True)
    bed.run(id)
    bed.upgrades.command = ()
    assert "no upgrade_command" in bed.ask("a2").json()["detail"]


def test_of_two_who_ask_at_once_one_is_refused(bed: Bed) -> None:
    """The later one took the earlier one's place, which never ended."""
    headers = {"Authorization": f"Bearer {bed.api.admin}"}

    async def both() -> list[httpx.Response]:
        asked = [bed.api.http.post("/v1/upgrade", headers=headers, json={"gateways": [name]}) for name in ("a1", "a2")]
        return list(await asyncio.gather(*asked))

    first, second = sorted(bed.api.run(both()), key=lambda one: one.status_code)
    assert (first.status_code, second.status_code) == (202, 409)
    id = first.json()["operation"]
    assert f"{id} is under way" in second.json()["detail"]
    assert bed.run(id)["result"] == "done"
    assert not bed.upgrades.acts.working


def test_one_that_is_restarted_is_waited_for_and_none_begins_with_it(bed: Bed) -> None:
    bed.acts.busy["a2"] = BUSY
    answer = bed.ask("a2")
    assert (answer.status_code, answer.json()["detail"]) == (409, "gateway a2: it is being restarted")
    del bed.acts.busy["a2"]
    id = bed.ask("a1", "a2").json()["operation"]
    bed.second()
    bed.acts.busy["a2"] = BUSY
    assert bed.run(id, 60)["steps"] == ["a1: done: 0.1.0 → 0.2.0", "a2: waits"]
    del bed.acts.busy["a2"]
    assert bed.run(id)["result"] == "done"


def test_a_gateway_that_is_upgraded_is_not_restarted_meanwhile(bed: Bed) -> None:
    bed.ask("a1")
    bed.second()
    assert bed.acts.seen("a1").busy == "is being upgraded"
    bed.run(bed.api.good("GET", "/v1/operations")["items"][1]["id"])
    assert bed.acts.seen("a1").busy == ""


def test_who_leads_next_says_that_it_does_not_go_on(bed: Bed) -> None:
    id = bed.ask("a1", "a2").json()["operation"]
    for _ in range(3):
        bed.second()
    bed.api.desk.step_down()
    bed.api.run(bed.upgrades.turn())
    bed.api.run(bed.api.desk.lead("another"))
    bed.api.run(Acts(bed.api.control).turn())

    one = bed.operation(id)
    assert (one["result"], one["steps"]) == (LOST, ["a1: drains", "a2: waits"])
    events = bed.api.good("GET", "/v1/events")["items"]
    failed = [one["host"] for one in events if one["what"] == "host.upgrade_failed"]
    assert failed == ["a1"], "its page tells it, and not that of no host"
    assert bed.acts.seen("a1").busy == ""


def test_a_command_is_not_killed_when_its_controller_leads_no_more(bed: Bed, tmp_path: Path) -> None:
    """Half of an upgrade is worse than one of which nobody tells."""
    go, done = tmp_path / "go", tmp_path / "done"
    os.mkfifo(go)
    program(tmp_path / "upgrade", f"read word <{go}; echo whole >{done}")
    bed.ask("a1")
    for _ in range(12):
        bed.api.now += 1.0
        for name, told in bed.told.items():
            bed.api.beat(told, status={"ready": name != "a1", "draining": name == "a1"})
        bed.api.control.turn()
        bed.api.run(bed.upgrades.turn())
    assert bed.upgrades._course is not None
    bed.api.desk.step_down()
    bed.api.run(bed.upgrades.turn())
    assert bed.upgrades._course is None
    bed.api.run(asyncio.sleep(0.1))
    (command,) = bed.upgrades._left
    with go.open("r+b", buffering=0) as pipe:
        pipe.write(b"go\n")
        bed.api.run(finished(command))
    assert done.read_text() == "whole\n"


async def finished(task: asyncio.Task[Ran]) -> Ran:
    return await task


def test_older_hosts_are_marked_and_heard(bed: Bed) -> None:
    bed.versions["a1"] = "0.0.9"
    bed.versions["a2"] = "99.0.0"
    bed.second()
    assert [bed.gateway(name)["outdated"] for name in bed.told] == [True, False, False]
    assert {bed.gateway(name)["health"]["state"] for name in bed.told} == {"up"}

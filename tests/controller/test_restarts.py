"""Restarts that a person asks for, by the API: with real commands, of hosts that a test speaks for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from apikit import Api
from test_spawn import program

from fwd.controller.acts import LOST, Acts, Rules
from fwd.controller.restarts import Restarts

WAIT_S = 20.0


class Bed:
    """Two gateways and two routers of one VPC. The command writes down whom it restarts, who then begins anew."""

    def __init__(self, directory: Path) -> None:
        self.api, self.directory, self.log = Api(), directory, directory / "log"
        self.api.make_vpc("a", "10.1")
        self.told = {f"a{n}": self.api.join("a", f"a{n}", f"10.1.0.{n}", f"192.0.2.{n}") for n in (1, 2)}
        for n in (1, 2):
            inner = f"10.1.1.{n}"
            self.told[f"r{n}"] = self.api.join("a", f"r{n}", inner, "192.0.2.9", kind="router", ike_csr=None)
        self.api.good("POST", "/v1/clusters", {"name": "a", "vpc": "a", "gateways": ["a1", "a2"]})
        self.uptimes: dict[str, float | None] = dict.fromkeys(self.told, 1000.0)
        self.away: set[str] = set()
        self.counted = 0
        self.order("")
        self.acts = Acts(self.api.control, Rules((str(directory / "restart"), "{kind}", "{name}"), wait_s=WAIT_S))
        self.restarts = Restarts(self.api.control, self.acts)
        self.api.control.restarting = self.restarts

    def order(self, text: str) -> None:
        program(self.directory / "restart", f'echo "$@" >>{self.log}\n{text}')

    def second(self) -> None:
        self.api.now += 1.0
        for name, up_s in self.uptimes.items():
            self.uptimes[name] = None if up_s is None else up_s + 1.0
        for name, told in self.told.items():
            if name not in self.away:
                up_s = self.uptimes[name]
                state = self.api.control.desk.kept.fleet.gateway.get(name)
                draining = state is not None and state.state == "draining"
                status = {"ready": not draining, "draining": draining} | ({} if up_s is None else {"uptime_s": up_s})
                assert self.api.beat(told, status=status).status_code == 200
        self.api.control.turn()
        self.api.run(self.turn())

    async def turn(self) -> None:
        await asyncio.gather(*(one.command for one in self.restarts._going.values()))
        await self.acts.turn()
        await self.restarts.turn()

    def ask(self, path: str, *, dry_run: bool = False, **how: Any) -> Any:
        more: dict[str, Any] = {"params": {"dry_run": "1"}} if dry_run else {}
        return self.api.ask("POST", f"/v1/{path}/restart", **more, **how)

    def begin(self, path: str) -> str:
        answer = self.ask(path)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["operation"])

    def refused(self, path: str) -> str:
        answer = self.ask(path)
        assert answer.status_code == 409, answer.text
        assert self.ask(path, dry_run=True).json() == answer.json(), "a plan says the same"
        return str(answer.json()["detail"])

    def operation(self, id: str) -> Any:
        return self.api.good("GET", f"/v1/operations/{id}")

    def restarted(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def events(self, what: str) -> list[str]:
        return [one["text"] for one in self.api.good("GET", "/v1/events")["items"] if one["what"] == what]


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    one = Bed(tmp_path)
    try:
        for _ in range(2):
            one.second()
        yield one
    finally:
        one.api.run(one.restarts.close())
        one.api.close()


def test_it_is_an_operation_that_ends_when_the_host_is_back(bed: Bed) -> None:
    answer = bed.ask("gateways/a1", dry_run=True)
    assert (answer.status_code, answer.json()["operation"], bed.restarted()) == (202, None, [])
    assert answer.json()["plan"][0] == "gateway a1, which is up, is restarted by the controller's restart_command"

    bed.order("echo booting")
    id = bed.begin("gateways/a1")
    made = bed.operation(id)
    assert (made["who"], made["act"], made["kind"], made["name"]) == ("root", "restart", "gateway", "a1")
    assert (made["reason"], made["steps"], made["result"]) == ("asked for by root", ["its command runs"], "in progress")
    bed.second()
    assert bed.restarted() == ["gateway a1"]
    waits = ["its command is done: booting", "waits for it to come back, 20 s at most"]
    assert (bed.operation(id)["steps"], bed.operation(id)["result"]) == (waits, "in progress")

    bed.uptimes["a1"] = 0.0
    bed.second()
    assert bed.operation(id)["result"] == "done: it is back after 2 s"
    assert bed.events("host.restart") == [f"{id}: asked for by root"]
    assert bed.api.control.restarts == {("a1", True): 1}


def test_of_a_group_one_goes_at_a_time_until_it_is_back(bed: Bed) -> None:
    first = bed.begin("routers/r1")
    assert bed.refused("routers/r1") == "router r1: it is being restarted"
    for _ in range(3):
        bed.second()
        assert bed.refused("routers/r2") == "router r2: r1 is being restarted, and of a group one goes at a time"
    second = bed.begin("gateways/a2")
    bed.uptimes |= {"r1": 0.0, "a2": 0.0}
    bed.second()
    assert {bed.operation(id)["result"][:4] for id in (first, second)} == {"done"}
    bed.begin("routers/r2")
    bed.second()
    assert bed.restarted() == ["router r1", "gateway a2", "router r2"]


def test_the_last_one_that_carries_is_not_restarted_unless_it_was_drained(bed: Bed) -> None:
    bed.api.good("PATCH", "/v1/clusters/a", {"gateways": ["a1"]})
    assert bed.refused("gateways/a1") == ("gateway a1: nobody else of cluster a carries: it may be the last that does")
    bed.api.good("POST", "/v1/gateways/a1/drain")
    bed.begin("gateways/a1")
    bed.second()
    assert bed.restarted() == ["gateway a1"]


def test_those_that_people_ask_for_count_with_those_that_the_controller_makes(bed: Bed) -> None:
    for _ in range(3):
        bed.begin("gateways/a1")
        bed.uptimes["a1"] = 0.0
        bed.second()
    assert bed.refused("gateways/a1") == "gateway a1: it was restarted 3 times in 10 minutes: see to it, or wait"
    assert [one.host for one in bed.api.desk.records.restarts] == ["a1"] * 3


def test_without_a_command_one_line_says_what_to_do(bed: Bed) -> None:
    bed.acts.rules = Rules()
    assert bed.refused("gateways/a1") == (
        "there is no restart_command in controller.toml: on a1 `systemctl restart fwd` does it"
    )
    assert bed.refused("routers/r1").endswith("on r1 `systemctl restart fwd-router` does it")


def test_a_command_that_fails_ends_it(bed: Bed) -> None:
    bed.order("echo no such host; exit 4")
    id = bed.begin("gateways/a1")
    bed.second()
    assert bed.operation(id)["result"] == "failed: exit status 4: no such host"
    assert bed.events("host.restart_failed") == [f"{id}: exit status 4: no such host"]
    assert bed.api.control.restarts == {("a1", False): 1}
    bed.begin("gateways/a2")


def test_one_that_does_not_end_and_one_that_does_not_come_back_have_failed(bed: Bed) -> None:
    stays, leaves = bed.begin("gateways/a1"), bed.begin("routers/r1")
    bed.away = {"r1"}
    for _ in range(round(WAIT_S)):
        bed.second()
        assert bed.operation(stays)["result"] == "in progress"
    bed.second()
    assert bed.operation(stays)["result"] == (
        "failed: not restarted within 20 s: it goes on as before: see what the command does"
    )
    assert bed.operation(leaves)["result"].startswith("failed: not restarted within 20 s: it is unreachable")
    bed.begin("gateways/a2")


def test_one_that_does_not_say_how_long_it_runs_is_back_once_it_was_missed(bed: Bed) -> None:
    bed.uptimes["a1"] = None
    id = bed.begin("gateways/a1")
    for _ in range(4):
        bed.second()
    bed.away = {"a1"}
    for _ in range(5):
        bed.second()
    assert bed.operation(id)["result"] == "in progress"
    bed.away = set()
    bed.second()
    assert bed.operation(id)["result"] == "done: it is back after 10 s"


def test_only_the_revision_that_was_seen_is_restarted_and_none_that_is_not_there(bed: Bed) -> None:
    seen = bed.api.ask("GET", "/v1/gateways/a1").headers["ETag"]
    bed.api.good("PATCH", "/v1/gateways/a1", {"weight": 2})
    assert bed.ask("gateways/a1", headers={"If-Match": seen}).status_code == 412
    answer = bed.ask("gateways/r1")
    assert (answer.status_code, answer.json()["detail"]) == (404, "there is no gateway r1")
    assert bed.ask("gateways/a1", token=bed.api.viewer).status_code == 403
    assert bed.restarted() == []


def test_one_that_was_deleted_meanwhile_has_failed(bed: Bed) -> None:
    id = bed.begin("routers/r1")
    bed.api.good("DELETE", "/v1/routers/r1")
    del bed.told["r1"]
    bed.second()
    bed.second()
    assert bed.operation(id)["result"] == "failed: it was deleted meanwhile"


def test_who_leads_next_says_that_nobody_knows_what_came_of_it(bed: Bed) -> None:
    id = bed.begin("gateways/a1")
    bed.api.desk.step_down()
    bed.api.run(bed.restarts.turn())
    assert (bed.restarts._going, bed.acts.busy) == ({}, {})
    bed.api.run(bed.api.desk.lead("another"))
    bed.api.run(Acts(bed.api.control).turn())
    assert bed.operation(id)["result"] == LOST


def test_of_two_that_are_asked_for_at_once_one_is_refused(bed: Bed) -> None:
    async def both() -> list[int]:
        headers = {"Authorization": f"Bearer {bed.api.admin}"}
        asks = (bed.api.http.post(f"/v1/gateways/{name}/restart", headers=headers) for name in ("a1", "a2"))
        return sorted(answer.status_code for answer in await asyncio.gather(*asks))

    assert bed.api.run(both()) == [202, 409]

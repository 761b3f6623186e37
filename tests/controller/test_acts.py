"""Restarts by the controller itself: what it runs, writes and tells, of hosts whose health is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from apikit import Api
from test_spawn import program

from fwd.controller import mend
from fwd.controller.acts import LOST, Acts, Rules
from fwd.controller.desk import LeaderlessError
from fwd.controller.place import identity_of
from fwd.controller.store import StoreError

Said = dict[str, Any]
LAST = "is being restarted, 3 times in 10 minutes, and not once more: see to it if it does not come back"
AGAIN = "restarted 3 times in 10 minutes, and down again: see to it"


class Bed:
    """Two gateways that are peered, a1 and b1; b1 says how a1 is. The command writes down whom it restarts."""

    def __init__(self, api: Api, directory: Path, text: str = "") -> None:
        self.api, self.told, self.log = api, api.peered(), directory / "log"
        command = program(directory / "restart", f'echo "$@" >>{self.log}\n{text}')
        self.rules = Rules((command, "{name}", "{inner}"), wait_s=60)
        self.acts = Acts(api.control, self.rules)
        for told in self.told.values():
            api.beat(told)

    def add_router(self) -> None:
        """Have a router in a1's VPC, which says the same of a1 as b1 does."""
        self.told["ra"] = self.api.join("a", "ra", "10.1.0.2", "192.0.2.9", kind="router", ike_csr=None)

    def turns(
        self, seconds: int, *, up: bool, silent: bool = True, each_s: float = 1.0, denied: bool | None = None
    ) -> None:
        """Let time pass, in which b1 sees a1 or does not; `denied`: whether the router does not, if not as b1."""
        reached = up if denied is None else not denied
        for _ in range(round(seconds / each_s)):
            self.api.now += each_s
            if not silent:
                self.api.beat(self.told["a1"])
            far = [{"identity": identity_of("a1"), "up": up}]
            status = {"ready": True, "peerings": [{"name": "a-b", "ready": up, "far": far}]}
            assert self.api.beat(self.told["b1"], status=status).status_code == 200
            if "ra" in self.told:
                self.api.beat(self.told["ra"], status={"ready": True, "gateways": [{"name": "a1", "up": reached}]})
            self.api.control.turn()
            self.api.run(self.turn())

    async def turn(self) -> None:
        """A turn, and all that it has begun."""
        await self.acts.turn()
        await asyncio.gather(*self.acts._running.values())

    def restarted(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def events(self, what: str) -> list[str]:
        return [one["text"] for one in self.api.good("GET", "/v1/events")["items"] if one["what"] == what]

    def operations(self) -> list[Said]:
        items = self.api.good("GET", "/v1/operations")["items"]
        return [one for one in items if one["act"] == "restart"]


@pytest.fixture
def bed(api: Api, tmp_path: Path) -> Callable[[str], Bed]:
    return lambda text: Bed(api, tmp_path, text)


def test_one_that_is_down_is_restarted_and_it_is_an_operation_and_an_event(bed: Callable[[str], Bed]) -> None:
    one = bed("echo booting")
    one.turns(9, up=False)

    assert one.restarted() == ["a1 10.1.0.11"]
    (made,) = one.operations()
    assert (made["who"], made["kind"], made["name"], made["result"]) == ("controller", "gateway", "a1", "done: booting")
    assert made["reason"].startswith("down for 3 s: no heartbeat, and b1 does not see it either")
    assert one.events("host.restart") == [f"{made['id']}: {made['reason']}"]
    assert one.api.control.restarts == {("a1", True): 1}


def test_one_that_is_silent_alone_is_not_restarted(bed: Callable[[str], Bed]) -> None:
    one = bed("")
    one.turns(30, up=True)

    assert one.api.control.watch.verdicts["a1"].health.value == "unreachable"
    assert one.restarted() == []


def test_one_that_was_drained_is_let_be(bed: Callable[[str], Bed]) -> None:
    """Whoever has done so may have switched it off."""
    one = bed("")
    one.api.good("POST", "/v1/gateways/a1/drain")
    one.turns(30, up=False)

    assert one.api.control.watch.verdicts["a1"].health.value == "down"
    assert one.restarted() == []


def test_a_restart_of_which_nobody_knows_whether_it_was_written_is_told_as_lost(
    bed: Callable[[str], Bed], api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = bed("")
    begin = api.desk.begin

    async def lose(*arguments: Any, **more: Any) -> None:
        await begin(*arguments, **more)
        monkeypatch.setattr(api.desk, "begin", begin)
        raise StoreError("no answer")

    monkeypatch.setattr(api.desk, "begin", lose)
    with pytest.raises(StoreError):
        one.turns(9, up=False)
    one.turns(1, up=False)
    assert [made["result"] for made in one.operations()] == [LOST]
    assert one.restarted() == []


def test_the_last_one_that_says_it_is_ready_is_not_restarted_and_that_is_told_once(bed: Callable[[str], Bed]) -> None:
    one = bed("")
    one.add_router()
    one.turns(40, up=False, silent=False)

    assert one.restarted() == []
    assert one.events("host.not_restarted") == [
        "says that it is ready, and nobody else of cluster a carries: it may be the last that does"
    ]


def test_a_gateway_of_another_vpc_has_none_restarted_that_says_that_packets_pass(bed: Callable[[str], Bed]) -> None:
    one = bed("")
    one.told["a2"] = one.api.join("a", "a2", "10.1.0.12", "192.0.2.3")
    one.api.good("PATCH", "/v1/clusters/a", {"gateways": ["a1", "a2"]})
    one.api.beat(one.told["a2"])
    for _ in range(60):
        one.api.beat(one.told["a2"])
        one.turns(1, up=False, silent=False)

    assert one.api.control.watch.verdicts["a1"].health.value == "degraded"
    assert one.restarted() == []


def test_routers_alone_have_none_restarted_that_says_that_packets_pass(bed: Callable[[str], Bed]) -> None:
    one = bed("")
    one.add_router()
    one.told["a2"] = one.api.join("a", "a2", "10.1.0.12", "192.0.2.3")
    one.api.good("PATCH", "/v1/clusters/a", {"gateways": ["a1", "a2"]})
    for _ in range(60):
        one.api.beat(one.told["a2"])
        one.turns(1, up=True, silent=False, denied=True)

    assert one.api.control.watch.verdicts["a1"].health.value == "down"
    assert one.restarted() == []
    assert one.events("host.not_restarted") == [
        "says that packets pass, and its partners do not deny it: see why no router reaches it"
    ]
    for _ in range(60):
        one.api.beat(one.told["a2"])
        one.turns(1, up=False, silent=False, denied=True)
    assert one.restarted() == ["a1 10.1.0.11"], "its partner denies it, too"


def test_one_that_came_back_and_went_again_is_not_waited_for(bed: Callable[[str], Bed]) -> None:
    one = bed("")
    for count in (1, 2, 3):
        one.turns(9, up=False)
        assert len(one.restarted()) == count
        one.turns(2, up=True, silent=False)
    assert one.events("host.not_restarted") == [LAST]
    one.turns(70, up=False)  # of one kind and host an event a minute
    assert len(one.restarted()) == 3
    assert one.events("host.not_restarted") == [LAST, AGAIN]


def test_that_the_limit_forbids_another_restart_is_told_when_the_last_begins(bed: Callable[[str], Bed]) -> None:
    one = bed("")
    for count in (1, 2):
        one.turns(9, up=False)
        one.turns(2, up=True, silent=False)
        assert one.events("host.not_restarted") == [], count
    one.turns(9, up=False)
    assert len(one.restarted()) == 3
    assert one.events("host.not_restarted") == [LAST]


def test_a_fourth_restart_is_refused_with_an_event(bed: Callable[[str], Bed]) -> None:
    one = bed("")
    one.turns(400, up=False, each_s=2.5)

    assert one.restarted() == ["a1 10.1.0.11"] * 3
    assert one.events("host.not_restarted") == [LAST, AGAIN]
    one.turns(400, up=False, each_s=2.5)
    assert len(one.restarted()) == 6, "the first three are long ago"


def test_whoever_leads_next_counts_what_was_done_before(bed: Callable[[str], Bed]) -> None:
    one = bed("")
    one.turns(250, up=False, each_s=2.5)
    one.api.run(one.api.desk.lead("another"))
    one.api.control.begin()
    one.acts = Acts(one.api.control, one.rules)
    one.turns(250, up=False, each_s=2.5)

    assert len(one.restarted()) == 3


def test_a_command_that_fails_is_told_and_counts(bed: Callable[[str], Bed]) -> None:
    one = bed("echo no such host; exit 4")
    one.turns(9, up=False)

    (made,) = one.operations()
    assert made["result"] == "failed: exit status 4: no such host"
    assert one.events("host.restart_failed") == [f"{made['id']}: exit status 4: no such host"]
    assert one.api.control.restarts == {("a1", False): 1}


def test_what_a_controller_that_ended_has_begun_is_told_as_lost(bed: Callable[[str], Bed], api: Api) -> None:
    one = bed("sleep 100")

    async def begun() -> None:
        await one.acts.turn()
        task, *_ = one.acts._running.values()
        task.cancel()
        api.desk.step_down()  # so it cannot say so itself
        await asyncio.gather(task, return_exceptions=True)

    one.turn = one.acts.turn  # type: ignore[method-assign]
    for _ in range(9):
        api.now += 1.0
        far = [{"identity": identity_of("a1"), "up": False}]
        api.beat(one.told["b1"], status={"ready": True, "peerings": [{"name": "a-b", "ready": False, "far": far}]})
        api.control.turn()
    api.run(begun())
    api.run(api.desk.lead("another"))
    one.acts = Acts(api.control, one.rules)
    api.run(one.acts.turn())

    (made,) = one.operations()
    assert made["result"] == LOST
    assert one.events("host.restart_failed")[-1] == f"{made['id']}: {LOST}"


def test_one_that_does_not_lead_restarts_nobody(bed: Callable[[str], Bed], api: Api) -> None:
    one = bed("")
    api.desk.step_down()
    api.run(one.acts.turn())
    assert one.restarted() == []


def test_a_restart_that_cannot_be_written_is_not_made(
    bed: Callable[[str], Bed], api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would count it."""
    one = bed("")

    async def refuse(*arguments: Any, **more: Any) -> None:
        raise LeaderlessError

    monkeypatch.setattr(api.desk, "begin", refuse)
    with pytest.raises(LeaderlessError):
        one.turns(9, up=False)
    assert one.restarted() == []
    assert mend.LIMIT == 3

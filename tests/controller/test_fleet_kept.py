"""The fleet in a store: whole, in one transaction, and by who has seen it as it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from fwd.controller.changes import RefusedError, change, create, delete
from fwd.controller.fleet import Kept, StaleError, edit, load
from fwd.controller.store import ConflictError, SqliteStore
from fwd.model.fleet import Fleet

Act = Callable[[Fleet], Fleet]


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 30))


class Desk:
    """A store, who leads it, and what is known of it."""

    def __init__(self) -> None:
        self.store = SqliteStore()
        self.term = 0
        self.kept = Kept()

    async def do(self, *acts: Act, **how: Any) -> tuple[str, ...]:
        self.term = self.term or await self.store.lead("one") or 0
        lines: tuple[str, ...] = ()
        for act in acts:
            outcome = await edit(self.store, self.term, self.kept, act, **how)
            lines = outcome.lines
            if not how.get("dry_run"):
                self.kept = outcome.kept
        return lines


def peered() -> list[Act]:
    def side(name: str, cidr: str, number: int) -> list[Act]:
        gateway = {"name": f"{name}1", "vpc": name, "outer": f"192.0.2.{number}", "inner": [f"{cidr}.0.11"]}
        return [
            lambda fleet: create(fleet, "vpc", {"name": name, "cidrs": [f"{cidr}.0.0/16"]}),
            lambda fleet: create(fleet, "gateway", gateway),
            lambda fleet: create(fleet, "cluster", {"name": name, "vpc": name, "gateways": [f"{name}1"]}),
        ]

    return [
        *side("a", "10.1", 1),
        *side("b", "10.2", 2),
        lambda fleet: create(fleet, "peering", {"name": "a-b", "clusters": ["a", "b"]}),
    ]


def test_what_is_changed_is_there_when_it_is_read_again() -> None:
    async def work() -> None:
        desk = Desk()
        await desk.do(*peered())

        assert await load(desk.store) == desk.kept
        assert [(pair.a, pair.b) for pair in desk.kept.pairs] == [("a1", "b1")]
        assert desk.kept.generation == len(peered())

    run(work())


def test_a_dry_run_says_the_plan_and_changes_nothing() -> None:
    async def work() -> None:
        desk = Desk()
        await desk.do(*peered()[:-1])
        lines = await desk.do(peered()[-1], dry_run=True)

        assert "peering a-b: a1 and b1 are joined" in lines
        assert not (await load(desk.store)).fleet.peerings

    run(work())


def test_what_is_refused_changes_nothing() -> None:
    async def work() -> None:
        desk = Desk()
        await desk.do(*peered())
        with pytest.raises(RefusedError):
            await desk.do(lambda fleet: delete(fleet, "cluster", "a"))

        assert await load(desk.store) == desk.kept

    run(work())


def test_who_has_seen_another_revision_is_told_which_it_is() -> None:
    async def work() -> None:
        desk = Desk()
        await desk.do(*peered())
        seen = desk.kept.revisions["gateway", "a1"]
        await desk.do(lambda fleet: change(fleet, "gateway", "a1", {"weight": 2}), seen=("gateway", "a1", seen))
        with pytest.raises(StaleError) as stale:
            await desk.do(lambda fleet: change(fleet, "gateway", "a1", {"weight": 3}), seen=("gateway", "a1", seen))

        assert stale.value.revision == desk.kept.revisions["gateway", "a1"] > seen

    run(work())


def test_two_who_change_at_once_do_not_both_win() -> None:
    async def work() -> None:
        desk = Desk()
        await desk.do(*peered())
        before = desk.kept
        await desk.do(lambda fleet: change(fleet, "gateway", "a1", {"weight": 2}))
        desk.kept = before
        with pytest.raises(ConflictError):
            await desk.do(lambda fleet: change(fleet, "gateway", "b1", {"weight": 2}))

    run(work())


def test_a_peering_that_is_deleted_is_named_as_removed_on_purpose() -> None:
    async def work() -> None:
        desk = Desk()
        await desk.do(*peered(), lambda fleet: delete(fleet, "peering", "a-b"))

        assert desk.kept.removed == (("a-b", desk.kept.generation),)

    run(work())


def test_a_peering_that_was_once_made_smaller_is_not_so_on_purpose_later() -> None:
    async def work() -> None:
        desk = Desk()
        await desk.do(*peered(), lambda fleet: delete(fleet, "peering", "a-b"))
        before = desk.kept.removed
        await desk.do(lambda fleet: change(fleet, "gateway", "a1", {"weight": 2}))

        assert desk.kept.removed == before
        assert desk.kept.generation > before[0][1]

    run(work())


def test_a_gateway_that_leaves_its_cluster_does_so_on_purpose() -> None:
    async def work() -> None:
        desk = Desk()
        await desk.do(*peered(), lambda fleet: change(fleet, "cluster", "a", {"gateways": []}))

        assert desk.kept.removed == (("a-b", desk.kept.generation),)

    run(work())


def test_a_change_that_changes_nothing_is_no_generation() -> None:
    async def work() -> None:
        desk = Desk()
        await desk.do(*peered())
        generation = desk.kept.generation
        await desk.do(lambda fleet: change(fleet, "gateway", "a1", {"weight": 1}))

        assert desk.kept.generation == generation

    run(work())

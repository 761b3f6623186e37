"""The fleet in a store: whole, in one transaction, and by who has seen it as it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fwd.controller import desk as controller_desk
from fwd.controller.ca import new_authority
from fwd.controller.changes import RefusedError, change, create, delete
from fwd.controller.fleet import Kept, Seen, StaleError, edit, load
from fwd.controller.keys import Keys
from fwd.controller.records import Certificate, Operation
from fwd.controller.records import load as load_records
from fwd.controller.store import ConflictError, SqliteStore, StoreError, Write
from fwd.controller.tokens import new_bearer_token
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
        seen = Seen("gateway", "a1", desk.kept.revisions["gateway", "a1"])
        await desk.do(lambda fleet: change(fleet, "gateway", "a1", {"weight": 2}), seen=seen)
        with pytest.raises(StaleError) as stale:
            await desk.do(lambda fleet: change(fleet, "gateway", "a1", {"weight": 3}), seen=seen)

        assert f"at revision {desk.kept.revisions['gateway', 'a1']} now" in str(stale.value)

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


def test_so_does_one_of_a_peering_without_a_pair_of_which_routers_know_all_the_same() -> None:
    async def work() -> None:
        desk = Desk()
        router = {"name": "ra", "vpc": "a", "inner": ["10.1.0.2"]}
        await desk.do(*peered(), lambda fleet: create(fleet, "router", router))
        await desk.do(lambda fleet: change(fleet, "cluster", "b", {"gateways": []}))
        before = desk.kept
        assert before.pairs == ()
        await desk.do(lambda fleet: change(fleet, "cluster", "a", {"gateways": []}))

        assert desk.kept.removed == (*before.removed, ("a-b", desk.kept.generation))

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


# -- a later fwd ------------------------------------------------------------------------------------------------------


def test_records_that_a_later_fwd_has_written_are_read_as_far_as_they_are_known() -> None:
    async def work() -> None:
        store = SqliteStore()
        term = await store.lead("one") or 0
        _, token = new_bearer_token("admin", 1.0, "root")
        made = Operation("op-1", 1.0, "root", "create", "vpc", "a", ("line",), (1, 2), ("a1",))
        certificate = Certificate(7, "gateway", "a1", "link", 2.0)
        for key, row in (("token/root", token), ("operation/op-1", made)):
            await store.write(term, [Write(key, json.dumps({**asdict(row), "later": [1]}).encode())])
        value = json.dumps([{**asdict(certificate), "later": 1}]).encode()
        await store.write(term, [Write("certificates/gateway/a1", value)])

        found = await load_records(store)
        assert found.tokens == {"root": token}
        assert found.operations == {"op-1": made}
        assert found.certificates == {7: certificate}

    run(work())


def test_a_fleet_that_a_later_fwd_has_written_is_not_led_and_the_lead_is_left_to_others() -> None:
    async def work() -> None:
        store = SqliteStore()
        term = await store.lead("later") or 0
        value = json.dumps({"name": "a", "cidrs": ["10.1.0.0/16"], "colour": "blue"}).encode()
        await store.write(term, [Write("object/vpc/a", value)])
        keys = Keys(new_authority("fwd", 1.0), Ed25519PrivateKey.generate())
        desk = controller_desk.Desk(store, keys)
        with pytest.raises(StoreError, match="what this fwd does not know"):
            await desk.lead("older")
        assert desk.term is None
        assert await store.leader() == ""

    run(work())


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("placed", b"nonsense", "no fwd has written"),
        ("placed", b"[]", "no fwd has written"),
        ("placed", b'{"pairs": [["a-b", "a1", "b1"]], "removed": [1]}', "no fwd has written"),
        ("object/vpc/a", b"\xff", "no fwd has written"),
        ("object/moon/a", b"{}", "a later one here"),
        ("token/a", b"{}", "no fwd has written"),
        ("operation/a", b"[" * 100_000, "no fwd has written"),
    ],
)
def test_a_store_with_nonsense_in_it_is_not_led_and_says_so_in_one_line(key: str, value: bytes, why: str) -> None:
    async def work() -> None:
        store = SqliteStore()
        await store.write(await store.lead("before") or 0, [Write(key, value)])
        desk = controller_desk.Desk(store, Keys(new_authority("fwd", 1.0), Ed25519PrivateKey.generate()))
        with pytest.raises(StoreError, match=why) as refused:
            await desk.lead("after")
        assert "\n" not in str(refused.value)
        assert (desk.term, desk.has_read, await store.leader()) == (None, False, "")

    run(work())

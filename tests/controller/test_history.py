"""Events outlive the controller that has noted them: shown by the next one, and told to the webhook by it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from apikit import KEYS
from cakit import NOW

from fwd.controller.control import Control
from fwd.controller.desk import Desk
from fwd.controller.health import FRESH_S
from fwd.controller.history import KEPT_MAX, NEW_MAX, History
from fwd.controller.store import SqliteStore, StoreError, Write
from fwd.controller.watch import Beat
from fwd.controller.webhook import Receiver, Webhook
from fwd.model.fleet import Fleet


class Life:
    """One life of a controller on a store."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop, *, hook: bool = True, leads: bool = True) -> None:
        self._loop = loop
        self.store = SqliteStore(path)
        self.control = Control(Desk(self.store, KEYS), lambda: NOW, lambda: NOW)
        self.hook = Webhook(Receiver("https://h.example", b"s" * 16), lambda: {"cluster_id": "c"}) if hook else None
        self.history = History(self.control, self.hook)
        if self.hook is not None:
            self.control.happened.listeners.append(self.hook.put)
        if leads:
            self.lead()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(work)

    def lead(self) -> None:
        assert self.run(self.control.desk.lead("test"))
        self.control.begin()
        self.control.happened.term = self.control.desk.term or 0
        self.run(self.history.begin())

    def note(self, *texts: str, host: str = "a1") -> None:
        for text in texts:
            self.control.happened.note("host.down", host, text, NOW)

    def turn(self) -> None:
        self.run(self.history.turn())

    def shown(self) -> list[tuple[int, int, str]]:
        return [(one.term, one.number, one.text) for one in self.control.happened.events]

    def tell(self, count: int) -> None:
        """As if the webhook had told some events."""
        assert self.hook is not None
        for _ in range(count):
            self.hook.told = self.hook._waiting.popleft()[2]

    def untold(self) -> list[int]:
        assert self.hook is not None
        return [number for *_, number in self.hook._waiting]

    def end(self) -> None:
        self.run(self.store.close())


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    one = asyncio.new_event_loop()
    yield one
    one.close()


def test_the_next_controller_shows_them_and_goes_on_counting(tmp_path: Path, loop: asyncio.AbstractEventLoop) -> None:
    first = Life(tmp_path / "store.db", loop)
    first.note("one", "two")
    first.turn()
    first.end()

    second = Life(tmp_path / "store.db", loop)
    second.note("three")
    second.turn()
    second.end()
    shown = [(1, 1, "one"), (1, 2, "two"), (2, 3, "three")]
    assert second.shown() == shown
    third = Life(tmp_path / "store.db", loop)
    assert third.shown() == shown
    third.end()


def test_what_the_webhook_was_not_told_it_is_told_by_the_next_and_no_more(
    tmp_path: Path, loop: asyncio.AbstractEventLoop
) -> None:
    first = Life(tmp_path / "store.db", loop)
    first.note("one", "two", "three")
    first.tell(1)
    first.turn()
    first.end()

    second = Life(tmp_path / "store.db", loop)
    assert second.untold() == [2, 3]
    second.tell(2)
    second.turn()
    second.end()
    third = Life(tmp_path / "store.db", loop)
    assert third.untold() == []
    third.end()


def test_whoever_is_given_a_webhook_is_not_told_of_what_was_before(
    tmp_path: Path, loop: asyncio.AbstractEventLoop
) -> None:
    first = Life(tmp_path / "store.db", loop, hook=False)
    first.note("one")
    first.turn()
    first.end()
    second = Life(tmp_path / "store.db", loop)
    second.note("two")
    assert second.untold() == [2]
    second.end()


def test_of_very_many_the_last_are_kept_and_nobodys_are_gone_for_anothers(
    tmp_path: Path, loop: asyncio.AbstractEventLoop
) -> None:
    one = Life(tmp_path / "store.db", loop)
    one.note("quiet", host="b1")
    for host in ("a1", "a2", "a3", "a4", "a5"):
        one.note(*map(str, range(90)), host=host)
    for _ in range(451 // NEW_MAX + 1):
        one.turn()
    entries, _ = one.run(one.store.read("event/"))
    assert len(entries) == KEPT_MAX
    before = one.run(one.store.read(""))[1]
    one.turn()
    assert one.run(one.store.read(""))[1] == before, "what is not new is not written"
    one.end()
    two = Life(tmp_path / "store.db", loop)
    assert "quiet" in {text for _, _, text in two.shown()}
    assert len({event.host for event in two.control.happened.events}) == 6
    two.end()


def test_what_could_not_be_written_is_written_later_and_once_more_by_who_leads_again(
    tmp_path: Path, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Life(tmp_path / "store.db", loop)
    one.note("one")
    with monkeypatch.context() as broken:

        async def fails(term: int, changes: Any) -> int:
            raise StoreError("no")

        broken.setattr(one.store, "write", fails)
        with pytest.raises(StoreError):
            one.turn()

    # It leads no more, and leads again: another one has noted something meanwhile.
    one.control.desk.step_down()
    one.turn()
    one.end()
    other = Life(tmp_path / "store.db", loop)
    other.note("two")
    other.turn()
    other.end()
    one.store = one.control.desk.store = SqliteStore(tmp_path / "store.db")
    one.lead()
    assert one.shown() == [(2, 1, "two"), (1, 2, "one")]
    one.turn()
    assert len(one.run(one.store.read("event/"))[0]) == 2
    one.end()


def test_who_could_not_read_them_at_first_writes_over_none(
    tmp_path: Path, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It began to count anew, in the place of what was kept, and told the webhook of nothing that had waited."""
    first = Life(tmp_path / "store.db", loop)
    first.note("one", "two")
    first.tell(1)
    first.turn()
    first.end()

    second = Life(tmp_path / "store.db", loop, leads=False)
    read = second.store.read

    async def fails(prefix: str) -> Any:
        if prefix == "event/":
            raise StoreError("no")
        return await read(prefix)

    with monkeypatch.context() as broken:
        broken.setattr(second.store, "read", fails)
        with pytest.raises(StoreError):
            second.lead()
        second.note("three")
        with pytest.raises(StoreError):
            second.turn()

    second.turn()
    assert second.shown() == [(1, 1, "one"), (1, 2, "two"), (2, 3, "three")]
    assert sorted(second.untold())[-1] == 2, "what had waited is told, too"
    second.end()
    third = Life(tmp_path / "store.db", loop)
    assert third.shown() == second.shown()
    third.end()


def test_what_is_no_event_in_the_store_is_left_out(tmp_path: Path, loop: asyncio.AbstractEventLoop) -> None:
    one = Life(tmp_path / "store.db", loop)
    for number, value in enumerate((b"{", b"[]", b'{"number": "x"}', b"null")):
        one.run(one.store.write(1, [Write(f"event/{number}", value)]))
    one.end()
    two = Life(tmp_path / "store.db", loop)
    assert two.shown() == []
    two.end()


@pytest.mark.parametrize(("state", "since"), [("up", NOW - 500), ("degraded", NOW - 300), ("draining", NOW)])
@pytest.mark.parametrize("judged_first", [True, False])
def test_a_host_is_as_it_is_since_it_was_so_whoever_leads(
    tmp_path: Path, loop: asyncio.AbstractEventLoop, state: str, since: float, judged_first: bool
) -> None:
    """With each new leader all hosts were up "since just now"."""
    first = Life(tmp_path / "store.db", loop)
    # Whoever leads tells it anew; told twice in one term it was something else between, which was not told.
    told = [(1, "degraded", NOW - 900), (2, "up", NOW - 600), (2, "up", NOW - 500), (3, "up", NOW - 400)]
    for term, word, at in [*told, *([(3, "degraded", NOW - 300)] if state == "degraded" else [])]:
        first.control.happened.term = term
        first.control.happened.note(f"host.{word}", "a1", word, at)
        first.control.happened.note("host.down", "b1", "down", at)
    first.turn()
    first.end()

    second = Life(tmp_path / "store.db", loop, leads=not judged_first)
    vpc, gateway = {"name": "a", "cidrs": ["10.1.0.0/16"]}, {"name": "a1", "vpc": "a", "inner": ["10.1.0.11"]}
    fleet = Fleet.model_validate({"vpcs": [vpc], "gateways": [{**gateway, "outer": "192.0.2.1"}]})
    status = {"ready": state != "degraded", "draining": state == "draining"}
    watch = second.control.watch
    watch.hear("a1", Beat(NOW, (1, 1), (1, 1), status=status), (1, 1), NOW)
    watch.turn(fleet, [], NOW, NOW)
    if judged_first:
        assert watch.since == {"a1": NOW}
        assert second.run(second.control.desk.lead("test"))
        second.run(second.history.begin())
    assert watch.since == {"a1": since}
    second.end()


@pytest.mark.parametrize(
    ("told", "state"),
    [
        (["up"], "down"),
        (["joining", "up", "down"], "down"),
        (["joining"], "joining"),
        (["up", "left"], "joining"),
        ([], "joining"),
    ],
)
def test_whoever_was_silent_when_another_controller_began_is_not_taken_for_new(
    tmp_path: Path, loop: asyncio.AbstractEventLoop, told: list[str], state: str
) -> None:
    """With each new leader all gateways that were down were joining, for as long as they were."""
    first = Life(tmp_path / "store.db", loop)
    for word in told:
        first.control.happened.note(f"host.{word}", "a1", word, NOW - 100)
    first.turn()
    first.end()

    second = Life(tmp_path / "store.db", loop)
    fleet = Fleet.model_validate(
        {
            "vpcs": [{"name": "a", "cidrs": ["10.1.0.0/16"]}],
            "gateways": [{"name": "a1", "vpc": "a", "inner": ["10.1.0.11"], "outer": "192.0.2.1"}],
            "routers": [{"name": "ra", "vpc": "a", "inner": ["10.1.0.2"]}],
        }
    )
    later, watch = NOW + FRESH_S + 1, second.control.watch
    watch.hear("ra", Beat(later, (1, 1), (1, 1), status={"gateways": [{"name": "a1", "up": False}]}), (1, 1), NOW)
    watch.turn(fleet, [], later, NOW)
    assert watch.verdicts["a1"].health.value == state
    if state == "down":
        assert watch.verdicts["a1"].evidence[0] == "no heartbeat since this controller leads"
    second.end()

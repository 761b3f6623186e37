"""What an open page is told, and that what others made is as they made it."""

from __future__ import annotations

import asyncio
import hashlib
import tomllib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from apikit import Api
from pagekit import Browser

from fwd.controller.news import News
from fwd.controller.page import live
from fwd.controller.page.live import Streams, changed, frame
from fwd.controller.tokens import new_bearer_token

PAGE = Path(str(files("fwd.controller.page")))
AXE = Path(__file__).parent / "axe"


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({}, {"a": "1", "b": "2"}, {"a": "1", "b": "2"}),
        ({"a": "1", "b": "2"}, {"a": "1", "b": "3"}, {"b": "3"}),
        ({"a": "1"}, {"a": "1"}, {}),
    ],
)
def test_only_parts_that_have_changed_are_told(before: dict[str, str], after: dict[str, str], told: object) -> None:
    assert changed(before, after) == told


def test_a_frame_has_a_line_of_data_for_each_line_of_a_part() -> None:
    text = frame({"map": "<b>1</b>\n\n<b>2</b>"}).decode()
    assert text.endswith("\n\n")
    lines = text.strip().splitlines()
    assert all(one.startswith("data: ") for one in lines)
    assert 'hx-target="#part-map"' in lines[0]


def test_who_reads_slowly_gets_the_last_state_and_no_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "TURN_S", 0.0)
    looks = 0

    async def look() -> dict[str, str]:
        nonlocal looks
        looks += 1
        return {"n": str(looks), "same": "x"}

    async def read() -> list[bytes]:
        found = []
        async for one in Streams().frames(look, "a", News()):
            found.append(one)
            await asyncio.sleep(0.01)
            if len(found) == 3:
                return found
        return found

    found = asyncio.run(read())
    assert looks == 3
    assert b"same" in found[0]
    assert b"same" not in found[1]


def test_what_several_pages_show_is_made_once_in_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    streams, made = Streams(), []

    def make() -> dict[str, str]:
        made.append(1)
        return {}

    for now in (10.1, 10.9, 11.1):
        monkeypatch.setattr("time.monotonic", lambda now=now: now)
        for key in ("one", "one", "other"):
            streams.once(key, make)
    assert len(made) == 4


@pytest.mark.parametrize(("changes", "most"), [(True, 0.5), (False, 1.0)])
def test_a_page_is_told_of_another_state_before_its_turn_and_twice_a_turn_at_most(
    monkeypatch: pytest.MonkeyPatch, changes: bool, most: float
) -> None:
    """Of a turn that began a moment ago, of 1,000 s, half is waited for, and not all."""
    streams, states, waited = Streams(), News(), []
    streams._turn_s = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: 10_000.0)

    async def look() -> dict[str, str]:
        if changes:
            states.tell()
        return {}

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    async def for_long(told: object, timeout_s: float) -> None:
        told.close()  # type: ignore[attr-defined]
        waited.append(timeout_s)
        raise TimeoutError

    async def work() -> None:
        frames = streams.frames(look, "a", states)
        monkeypatch.setattr(asyncio, "sleep", sleep)
        monkeypatch.setattr(asyncio, "wait_for", for_long)
        await anext(frames)
        await anext(frames)
        monkeypatch.undo()

    asyncio.run(work())
    assert waited == [1000.0 * most]


def test_the_more_there_is_to_make_the_less_often_pages_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred pages of one viewer took all the time there was, and heartbeats waited."""
    streams, worked, now = Streams(), 0.0, 100.0
    monkeypatch.setattr("time.thread_time", lambda: worked)
    monkeypatch.setattr("time.monotonic", lambda: now)

    def make() -> dict[str, str]:
        nonlocal worked
        worked += 0.02
        return {}

    def made_in(seconds: int, pages: int) -> float:
        nonlocal now
        before = worked
        for _ in range(seconds):
            for key in range(pages):
                streams.once(key, make)
            now += 1.0
        return worked - before

    assert made_in(40, 5) == pytest.approx(40 * 5 * 0.02)
    assert made_in(40, 45) <= 40 * 0.25 + 2 * 45 * 0.02
    made_in(8, 5)
    assert made_in(40, 5) == pytest.approx(40 * 5 * 0.02), "and then as often as before"


def test_a_stream_ends_with_the_session_and_is_refused_to_strangers(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "TURN_S", 0.0)
    api.peered()
    browser = Browser(api)
    assert browser.get("/live?page=/").status_code == 401
    browser.sign_in(api.viewer)
    assert browser.get("/live?page=/gateways/none").status_code == 404

    looks = 0
    find = api.control.sessions.find

    async def ended(secret: str, now: float, clock: float) -> object:
        nonlocal looks
        looks += 1
        if looks == 4:
            await api.control.sessions.end(secret)
        return await find(secret, now, clock)

    monkeypatch.setattr(api.control.sessions, "find", ended)
    answer = browser.get("/live?page=/")
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert "#part-map" in answer.text
    assert "#part-as_of" in answer.text
    assert api.app.state.streams.count == 0


def test_of_too_many_pages_whoever_has_most_has_one_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """One token's pages took all the room there was."""
    monkeypatch.setattr(live, "TURN_S", 0.0)

    async def look() -> dict[str, str]:
        await asyncio.sleep(0)
        return {}

    async def work() -> None:
        streams = Streams()
        told: list[AsyncIterator[bytes]] = []
        for _ in range(live.STREAMS_MAX):
            assert not streams.is_full("viewer")
            told.append(streams.frames(look, "viewer", News()))
            await anext(told[-1])
        assert streams.is_full("viewer")
        assert not streams.is_full("admin")

        admins = streams.frames(look, "admin", News())
        await anext(admins)
        assert streams.count == live.STREAMS_MAX
        with pytest.raises(StopAsyncIteration):
            await anext(told[0])
        await anext(told[1])
        await anext(admins)

    asyncio.run(work())


def test_no_more_pages_are_told_than_there_is_room_for(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = Browser(api)
    browser.sign_in(api.viewer)
    monkeypatch.setattr(live, "STREAMS_MAX", 0)
    monkeypatch.setattr(api.app.state.streams, "_open", {object(): "page"})
    answer = browser.get("/live?page=/")
    assert (answer.status_code, "nobody has more of them than page" in answer.text) == (503, True)


def test_a_stream_ends_with_the_token_whatever_another_one_is_called(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "TURN_S", 0.0)
    looks, leave = 0, api.app.state.streams.once

    def once(key: object, make: Callable[[], Any]) -> Any:
        nonlocal looks
        looks += 1
        if looks == 3:
            _, other = new_bearer_token("viewer", api.now, "page")
            tokens = {**api.desk.records.tokens, "page": other}
            api.desk.records = replace(api.desk.records, tokens=tokens)
        api.control.stopping = looks > 10
        return leave(key, make)

    monkeypatch.setattr(api.app.state.streams, "once", once)
    api.ask("GET", "/live?page=/", token=api.viewer)
    assert looks == 3


@pytest.mark.parametrize("where", [PAGE, AXE], ids=["page", "axe"])
def test_what_others_made_is_as_they_made_it_and_has_its_licence(where: Path) -> None:
    vendored = tomllib.loads(where.joinpath("vendor.toml").read_text(encoding="utf-8"))["file"]
    for one in vendored:
        assert hashlib.sha256(where.joinpath(one["name"]).read_bytes()).hexdigest() == one["sha256"]
        assert one["version"]
        assert one["licence"]
        assert where.joinpath(one["licence_file"]).read_text(encoding="utf-8")
    minified = {one.name for one in where.rglob("*.min.*")}
    assert minified == {one["name"].removeprefix("static/") for one in vendored}

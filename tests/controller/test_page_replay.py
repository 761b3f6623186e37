"""The last hour: what is kept of it, and the map as it was at a moment."""

from __future__ import annotations

from dataclasses import replace

import pytest
from apikit import Api
from pagekit import Browser
from test_page_views import NOW, TWO

from fwd.controller.page.facts import facts_of
from fwd.controller.page.replay import offset_in, replay_of, states_in
from fwd.controller.past import CHANGES_MAX, HOUR_S, Past


def past(*states: dict[str, str]) -> Past:
    """How it was, once a second from 1000 on."""
    found = Past()
    for n, one in enumerate(states):
        found.note(one, 1000.0 + n)
    return found


def test_each_moment_is_as_it_was() -> None:
    found = past({"a": "up"}, {"a": "down", "b": "up"}, {"a": "down", "b": "up"}, {"b": "up"})
    assert [found.at(1000.0 + n) for n in (-1, 0, 1, 2, 3, 99)] == [
        None, {"a": "up"}, {"a": "down", "b": "up"}, {"a": "down", "b": "up"}, {"b": "up"}, {"b": "up"},
    ]  # fmt: skip


def test_no_more_than_an_hour_is_known() -> None:
    found = past({"a": "up"}, {"a": "down"})
    found.note({"a": "up"}, 1000.0 + HOUR_S + 10)
    assert found.at(1009.0) is None
    assert found.at(1011.0) == {"a": "down"}


def test_whoever_flaps_makes_nothing_grow() -> None:
    found = past()
    for n in range(2 * CHANGES_MAX // 100 + 10):
        found.note({f"h{i}": "up" if n % 2 else "down" for i in range(100)}, 1000.0 + n)
    assert sum(len(changed) for _, changed in found._changes) <= CHANGES_MAX
    assert found.at(1001.0) is None
    assert set((found.at(1000.0 + n) or {}).values()) == {"up" if n % 2 else "down"}


def test_a_clock_that_was_set_back_breaks_nothing() -> None:
    found = past({"a": "up"}, {"a": "down"})
    found.note({"a": "up"}, 500.0)
    found.note({"a": "down"}, 501.0)
    assert found.at(502.0) is not None


@pytest.mark.parametrize(
    ("states", "since"),
    [
        (["down", "down"], None),  # so it was before anybody listened
        (["unknown", "down"], None),
        (["unknown", "down", "up", "up"], 2),
        (["up", "down", "up", "up"], 2),
        (["up", "unknown", "down"], 2),
        (["", "unknown", "down"], 2),  # it is new
        (["up", ""], None),
    ],
)
def test_since_when_something_is_as_it_is(states: list[str], since: int | None) -> None:
    found = past(*({"a": one} if one else {} for one in states))
    assert found.since("a") == (1000.0 + since if since is not None else None)


@pytest.mark.parametrize(
    ("text", "offset_s"),
    [("", None), ("x", None), ("nan", None), ("0", 0), ("-12", -10), ("-inf", -3600), ("-1e9", -3600), ("9", 0)],
)
def test_how_long_ago_a_moment_is(text: str, offset_s: int | None) -> None:
    assert offset_in(text) == offset_s


def test_a_fleet_of_then_has_the_states_of_then_and_nothing_that_came_later() -> None:
    known = Past()
    before = dict(states_in(TWO)) | {"gateway a1": "down", "peering a-b": "down", "pair a-b a1 b1": "down"}
    del before["gateway b1"]
    known.note(before, NOW - 60)
    known.note(states_in(TWO), NOW - 30)

    then = replay_of(replace(TWO, heard={}), known, -40).fleet
    assert then is not None
    assert {one.name: one.look.state for one in then.hosts} == {"a1": "down", "ar": "up", "br": "up"}
    assert (then.peerings[0].look.state, then.peerings[0].pairs_up) == ("down", 0)
    later = replay_of(TWO, known, -20).fleet
    assert later is not None
    assert {one.look.state for one in later.hosts} == {"up"}
    assert replay_of(TWO, known, -70).fleet is None


def test_the_page_of_a_moment_shows_the_map_and_events_of_then(api: Api) -> None:
    told = api.peered()
    for state in ({"ready": True}, {"ready": False, "waiting": ["no key"]}):
        for one in told.values():
            api.beat(one, status=state)
        api.control.turn()
        api.control.past.note(states_in(facts_of(api.control)), api.control.wall())
        api.now += 60
    browser = Browser(api)
    browser.sign_in(api.viewer)

    text = browser.get("/events?at=-100").text
    assert "gateway a1, up" in text
    assert "no key" not in text
    assert 'id="stream"' not in text
    text = browser.get("/events?at=-30").text
    assert "gateway a1, degraded" in text
    assert "no key" in text
    assert "Nothing is known of" in browser.get("/events?at=-3600").text
    assert browser.get("/events.json?at=-100").json()["fleet"]["peerings"][0]["name"] == "a-b"
    assert 'id="stream"' in browser.get("/events").text

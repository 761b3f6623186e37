"""Who is restarted, who must not be, and who has to wait."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fwd.controller.health import Health
from fwd.controller.mend import (
    DOWN_S,
    LIMIT_S,
    SPEAKS_S,
    WAIT_S,
    Restarted,
    Seen,
    decide,
    groups_of,
    is_back,
    why_not,
)  # fmt: skip
from fwd.model.fleet import Fleet

NOW = 1000.0
GONE = Seen(Health.DOWN, DOWN_S, "no heartbeat")
SAYS_READY = Seen(Health.DOWN, DOWN_S, "no router reaches it", ready=True)
UP, AWAY = Seen(Health.UP), Seen(Health.UNREACHABLE, 1000.0)
GROUPS = {"cluster a": ["a1", "a2", "a3"], "cluster b": ["a3", "a4"], "the routers of v": ["r1", "r2"]}
TWICE = [Restarted("a1", NOW - 400), Restarted("a1", NOW - 200)]
THRICE = [*TWICE, Restarted("a1", NOW - 150)]

CASES: list[tuple[str, dict[str, Seen], list[Restarted], dict[str, str]]] = [
    ("one is down", {"a1": GONE, "a2": UP}, [], {"a1": "restart"}),
    ("it has only just gone", {"a1": Seen(Health.DOWN, DOWN_S - 1), "a2": UP}, [], {}),
    ("it speaks: it may be starting", {"a1": Seen(Health.DOWN, SPEAKS_S - 1, speaks=True), "a2": UP}, [], {}),
    ("it speaks, and does not come up", {"a1": Seen(Health.DOWN, SPEAKS_S, speaks=True), "a2": UP}, [],
     {"a1": "restart"}),
    ("unreachable is not down", {"a1": AWAY, "a2": UP}, [], {}),
    ("two are down: one at a time", {"a1": GONE, "a2": GONE, "a3": UP}, [], {"a1": "restart", "a2": "waiting"}),
    ("all are down: one at a time", {"a1": GONE, "a2": GONE, "a3": GONE}, [],
     {"a1": "restart", "a2": "waiting", "a3": "waiting"}),
    ("of two clusters one each", {"a1": GONE, "a4": GONE}, [], {"a1": "restart", "a4": "restart"}),
    ("one that is in both holds both", {"a1": GONE, "a3": GONE, "a4": GONE}, [Restarted("a3", NOW - 5)],
     {"a1": "waiting", "a3": "waiting", "a4": "waiting"}),
    ("it is under way", {"a1": GONE, "a2": UP}, [Restarted("a1", NOW - 5)], {"a1": "waiting"}),
    ("another's is under way", {"a1": GONE, "a2": GONE}, [Restarted("a2", NOW - 5)],
     {"a1": "waiting", "a2": "waiting"}),
    ("another has come back", {"a1": GONE, "a2": UP}, [Restarted("a2", NOW - 5)], {"a1": "restart"}),
    ("it came back, and went again", {"a1": replace(GONE, well_at=NOW - 4), "a2": UP}, [Restarted("a1", NOW - 5)],
     {"a1": "restart"}),
    ("it was well before that alone", {"a1": replace(GONE, well_at=NOW - 9), "a2": UP}, [Restarted("a1", NOW - 5)],
     {"a1": "waiting"}),
    ("it did not come back in time", {"a1": GONE, "a2": UP}, [Restarted("a1", NOW - WAIT_S)], {"a1": "restart"}),
    ("another is being upgraded", {"a1": GONE, "a2": Seen(Health.DRAINING, busy="is being upgraded")}, [],
     {"a1": "waiting"}),
    ("it is being upgraded itself", {"a1": Seen(Health.DOWN, 60.0, busy="is being upgraded")}, [], {"a1": "waiting"}),
    ("a person has drained it", {"a1": Seen(Health.DOWN, 60.0, drained=True), "a2": UP}, [], {"a1": "waiting"}),
    ("twice in ten minutes", {"a1": GONE, "a2": UP}, TWICE, {"a1": "restart"}),
    ("three times in ten minutes", {"a1": GONE, "a2": UP}, THRICE, {"a1": "refused"}),
    ("three times, the last one just now", {"a1": GONE, "a2": UP}, [*TWICE, Restarted("a1", NOW - 5)],
     {"a1": "refused"}),
    ("three times, and being upgraded", {"a1": replace(GONE, busy="is being upgraded"), "a2": UP}, THRICE,
     {"a1": "waiting"}),
    ("three times, long ago", {"a1": GONE, "a2": UP}, [Restarted("a1", NOW - LIMIT_S)] * 3, {"a1": "restart"}),
    ("three times, by a clock that was set back", {"a1": GONE, "a2": UP}, [Restarted("a1", NOW + 9999)] * 3,
     {"a1": "restart"}),
    ("three times, and another one's first", {"a1": GONE, "a2": GONE}, THRICE, {"a1": "refused", "a2": "restart"}),
    ("it says it is ready, and others carry", {"a1": SAYS_READY, "a2": UP}, [], {"a1": "restart"}),
    ("it says it is ready, and others are silent alone", {"a1": SAYS_READY, "a2": AWAY}, [], {"a1": "restart"}),
    ("it says it is ready, and nobody else does", {"a1": SAYS_READY, "a2": GONE}, [],
     {"a1": "refused", "a2": "restart"}),
    ("all say they are ready: the one who judges is wrong", {"a1": SAYS_READY, "a2": SAYS_READY, "a3": SAYS_READY}, [],
     {"a1": "refused", "a2": "refused", "a3": "refused"}),
    ("its routers alone miss it", {"a1": replace(SAYS_READY, contested=True), "a2": UP}, [], {"a1": "refused"}),
    ("of several, too", {name: replace(SAYS_READY, contested=True) for name in ("a1", "a2", "a3")} | {"a4": UP}, [],
     {"a1": "refused", "a2": "refused", "a3": "refused"}),
    ("both routers are down", {"r1": GONE, "r2": GONE}, [], {"r1": "restart", "r2": "waiting"}),
    ("one router is down, the other is coming back", {"r1": GONE, "r2": GONE}, [Restarted("r2", NOW - 60)],
     {"r1": "waiting", "r2": "waiting"}),
]  # fmt: skip


@pytest.mark.parametrize(("hosts", "history", "wanted"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_decisions(hosts: dict[str, Seen], history: list[Restarted], wanted: dict[str, str]) -> None:
    made = decide(hosts, GROUPS, history, NOW)

    assert {name: what for what in ("restart", "refused", "waiting") for name in getattr(made, what)} == wanted


def test_every_decision_has_its_reason() -> None:
    made = decide({"a1": GONE, "a2": UP}, GROUPS, [], NOW)
    assert made.restart == {"a1": "down for 3 s: no heartbeat"}
    made = decide({"a1": GONE, "a2": UP}, GROUPS, THRICE, NOW)
    assert made.refused == {"a1": "restarted 3 times in 10 minutes, and down again: see to it"}
    made = decide({"a1": GONE, "a2": UP}, GROUPS, [Restarted("a1", NOW - 5)], NOW, limit=1)
    assert made.refused == {
        "a1": "is being restarted, 1 time in 10 minutes, and not once more: see to it if it does not come back"
    }
    made = decide({"a1": SAYS_READY, "a2": UP, "a3": SAYS_READY}, GROUPS, [], NOW)
    assert made.refused == {
        "a3": "says that it is ready, and nobody else of cluster b carries: it may be the last that does"
    }
    made = decide({"a1": GONE, "a2": GONE}, GROUPS, [], NOW)
    assert made.waiting == {"a2": "a1 is being restarted, and of a group one goes at a time"}


def test_the_limit_and_the_wait_are_the_operators() -> None:
    history = [Restarted("a1", NOW - 20 * n) for n in range(1, 6)]
    assert decide({"a1": GONE, "a2": UP}, GROUPS, history, NOW, limit=6, wait_s=15).restart
    assert decide({"a1": GONE, "a2": UP}, GROUPS, history, NOW, limit=6, wait_s=30).waiting
    assert decide({"a1": GONE, "a2": UP}, GROUPS, history, NOW, limit=5, wait_s=15).refused


def test_groups_are_clusters_gateways_and_vpcs_routers() -> None:
    hosts = [{"name": f"r{n}", "vpc": "a", "inner": [f"10.1.0.{n}"]} for n in (1, 2)]
    fleet = Fleet.model_validate(
        {"vpcs": [{"name": "a", "cidrs": ["10.1.0.0/16"]}], "routers": hosts, "clusters": [{"name": "c", "vpc": "a"}]}
    )
    assert groups_of(fleet) == {"cluster c": [], "the routers of a": ["r1", "r2"]}


# -- what a person asks for -------------------------------------------------------------------------------------------

DRAINED, BUSY = Seen(Health.DRAINING, drained=True), Seen(Health.UP, busy="is being upgraded")
ASKED: list[tuple[str, str, dict[str, Seen], list[Restarted], str]] = [
    ("one of three that carry", "a1", {"a1": UP, "a2": UP, "a3": UP}, [], ""),
    ("in no cluster", "a9", {"a9": UP}, [], ""),
    ("it is down", "a1", {"a1": GONE}, [], ""),
    ("the last that carries", "a1", {"a1": UP, "a2": GONE}, [], "nobody else of cluster a carries"),
    ("the others are silent", "a1", {"a1": UP, "a2": AWAY}, [], "nobody else of cluster a carries"),
    ("the last, which is silent", "a1", {"a1": AWAY, "a2": GONE}, [], "nobody else of cluster a carries"),
    ("the last, missed, says that it is ready", "a1", {"a1": SAYS_READY, "a2": GONE}, [], "nobody else of cluster a"),
    ("the last, which is drained", "a1", {"a1": DRAINED, "a2": GONE}, [], ""),
    ("the last of one of its clusters", "a3", {"a1": UP, "a3": UP}, [], "nobody else of cluster b carries"),
    ("another one is drained", "a1", {"a1": UP, "a2": DRAINED, "a3": GONE}, [], "nobody else of cluster a carries"),
    ("the other router is down", "r1", {"r1": UP, "r2": GONE}, [], "nobody else of the routers of v carries"),
    ("both routers carry", "r1", {"r1": UP, "r2": UP}, [], ""),
    ("another one is coming back", "a1", {"a1": UP, "a2": GONE, "a3": UP}, [Restarted("a2", NOW - 5)],
     "a2 is being restarted, and of a group one goes at a time"),
    ("another one is worked on", "a1", {"a1": UP, "a2": BUSY, "a3": UP}, [], "a2 is being upgraded, and of a group"),
    ("it is worked on", "a1", {"a1": BUSY, "a2": UP}, [], "it is being upgraded"),
    ("it is coming back", "a1", {"a1": GONE, "a2": UP}, [Restarted("a1", NOW - 5)], "it is being restarted"),
    ("by itself three times before", "a1", {"a1": UP, "a2": UP}, THRICE, "it was restarted 3 times in 10 minutes"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "hosts", "history", "why"), [case[1:] for case in ASKED], ids=[case[0] for case in ASKED]
)
def test_what_a_person_may_have_restarted(
    name: str, hosts: dict[str, Seen], history: list[Restarted], why: str
) -> None:
    said = why_not(name, hosts, GROUPS, history, NOW)
    assert (why in said) if why else said == ""


@pytest.mark.parametrize(
    ("seen", "uptime_s", "gone", "back"),
    [
        (replace(UP, speaks=True), 4.0, False, True),
        (replace(UP, speaks=True), 14.0, True, False),  # another one was missed, and this one never ended
        (replace(UP, speaks=True), None, False, False),
        (replace(UP, speaks=True), None, True, True),
        (replace(DRAINED, speaks=True), 4.0, False, True),
        (replace(GONE, speaks=True), 4.0, True, False),
        (AWAY, 4.0, True, False),
    ],
)
def test_who_is_back(seen: Seen, uptime_s: float | None, gone: bool, back: bool) -> None:
    assert is_back(seen, uptime_s, 5.0, gone=gone) is back

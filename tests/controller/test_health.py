"""How a host is, by what is known of it."""

from __future__ import annotations

import pytest

from fwd.controller.health import (
    FRESH_S,
    Evidence,
    Health,
    Report,
    Sight,
    judge,
)

NOW = 1000.0
OLD = NOW - FRESH_S - 1
WELL, SILENT = Report(NOW), Report(OLD)
ILL, MUTE = Report(NOW, ready=False, reasons=("no path",)), Report(NOW, vouches=False)
SEEN, MISSED, STALE = Sight("ra", NOW, True), Sight("ra", NOW, False), Sight("ra", OLD, False)
PAIR, BROKEN = Sight("b1", NOW, True), Sight("b1", NOW, False)

JUDGED = [
    ("has never said anything", Evidence(), Health.JOINING),
    ("another controller has heard it", Evidence(heard_before=True), Health.UNREACHABLE),
    ("another one has, and no router sees it", Evidence(None, (MISSED,), heard_before=True), Health.DOWN),
    ("another one has, and a router sees it", Evidence(None, (SEEN,), heard_before=True), Health.UNREACHABLE),
    ("all is well", Evidence(WELL, (SEEN,), (PAIR,)), Health.UP),
    ("nobody else looks", Evidence(WELL), Health.UP),
    ("no heartbeat, a router sees it", Evidence(SILENT, (SEEN,)), Health.UNREACHABLE),
    (
        "no heartbeat, no router sees it, and a partner takes it to be there",
        Evidence(SILENT, (MISSED,), (PAIR,)),
        Health.DOWN,
    ),
    ("no heartbeat, there is no router, and a partner sees it", Evidence(SILENT, (), (PAIR,)), Health.UNREACHABLE),
    ("no heartbeat, no router, and no partner sees it", Evidence(SILENT, (), (BROKEN,)), Health.DOWN),
    ("no heartbeat, and nobody knows", Evidence(SILENT), Health.UNREACHABLE),
    ("no heartbeat, and what others know is old", Evidence(SILENT, (STALE,)), Health.UNREACHABLE),
    ("no heartbeat, and all miss it", Evidence(SILENT, (MISSED,), (BROKEN,)), Health.DOWN),
    ("it speaks, and no router reaches it", Evidence(WELL, (MISSED,), (PAIR,)), Health.DOWN),
    ("it speaks and is not ready, and no partner reaches it", Evidence(ILL, (SEEN,), (BROKEN,)), Health.DOWN),
    ("it says nothing of itself, and no partner reaches it", Evidence(MUTE, (), (BROKEN,)), Health.DOWN),
    ("it says that packets pass, and a partner alone denies it", Evidence(WELL, (SEEN,), (BROKEN,)), Health.DEGRADED),
    ("it does, and there is no router", Evidence(WELL, (), (BROKEN,)), Health.DEGRADED),
    ("one of two partners misses it", Evidence(WELL, (SEEN,), (PAIR, Sight("b2", NOW, False))), Health.DEGRADED),
    ("it is not ready", Evidence(Report(NOW, ready=False, reasons=("no route",)), (SEEN,)), Health.DEGRADED),
    ("it loses packets", Evidence(WELL, (SEEN,), (Sight("b1", NOW, True, loss=0.05),)), Health.DEGRADED),
    ("it drains", Evidence(Report(NOW, ready=False, draining=True), (SEEN,)), Health.DRAINING),
    ("it is to drain", Evidence(WELL, (SEEN,), draining=True), Health.DRAINING),
    ("it was deleted", Evidence(WELL, (SEEN,), deleted=True), Health.LEFT),
]


@pytest.mark.parametrize(("known", "health"), [case[1:] for case in JUDGED], ids=[case[0] for case in JUDGED])
def test_verdicts(known: Evidence, health: Health) -> None:
    assert judge(known, NOW).health is health


@pytest.mark.parametrize(
    ("known", "contested"),
    [
        pytest.param(Evidence(WELL, (MISSED,), (PAIR,)), True, id="its partner sees it"),
        pytest.param(Evidence(WELL, (MISSED,), (PAIR, Sight("b2", NOW, False))), True, id="one of its partners does"),
        pytest.param(Evidence(WELL, (MISSED, Sight("rb", NOW, False))), True, id="its partners say nothing"),
        pytest.param(Evidence(WELL, (MISSED,), (Sight("b1", OLD, False),)), True, id="they did, and do no more"),
        pytest.param(Evidence(WELL, (MISSED,), (BROKEN,)), False, id="its partner misses it, too"),
        pytest.param(Evidence(ILL, (MISSED,), (PAIR,)), False, id="it is not ready by its own word"),
        pytest.param(Evidence(MUTE, (MISSED,), (PAIR,)), False, id="it does not say that packets pass"),
        pytest.param(Evidence(SILENT, (MISSED,), (PAIR,)), False, id="it says nothing any more"),
        pytest.param(Evidence(WELL, (SEEN,), (PAIR,)), False, id="it is not down"),
    ],
)
def test_who_is_down_by_its_routers_word_alone_is_told_apart(known: Evidence, contested: bool) -> None:
    assert judge(known, NOW).contested is contested


def test_a_verdict_says_since_when_it_holds() -> None:
    first = judge(Evidence(WELL), NOW)
    second = judge(Evidence(Report(NOW + 1)), NOW + 1, first)
    third = judge(Evidence(Report(NOW + 1), (Sight("ra", NOW + 2, False),)), NOW + 2, second)

    assert (first.since, second.since, third.since) == (NOW, NOW, NOW + 2)


def test_evidence_has_its_age() -> None:
    routers = (
        Sight("ra", NOW - 2, True, 0.01, 0.3),
        Sight("rb", NOW, False, why="does not answer probes"),
        Sight("rc", NOW, False, why="is on no link of this router"),
    )
    said = judge(Evidence(Report(NOW - 1), routers, (BROKEN,)), NOW).evidence

    assert said == (
        "its heartbeat 1.0 s ago: ready",
        "router ra 2.0 s ago: up, 0.3 ms, 1.0% lost",
        "router rb 0.0 s ago: no answer to its probes",
        "router rc 0.0 s ago: no answer to its probes: is on no link of this router",
        "partner b1 0.0 s ago: no answer to its echoes",
    )

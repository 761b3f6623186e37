"""When a peering is ready, as a table."""

from __future__ import annotations

import pytest

from fwd.model.readiness import Carried, MemberFacts, PeeringFacts, peering_reasons

GOOD = MemberFacts("running", sends=True)
BARE = MemberFacts("running", sends=False)
DEAD = MemberFacts("failed", sends=True)
CUT = MemberFacts("running", sends=True, path_down=True)
BARE_THERE, CUT_THERE = BARE._replace(far=1), CUT._replace(far=1)
LESS = {"0": Carried(("10.1.0.0/24",), ("10.2.0.0/16",), ("10.1.0.0/16 - 10.2.0.0/16",))}
NO_MEMBERS: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("demux", "members", "refused", "narrower", "codes"),
    [
        ("running", [GOOD, GOOD], NO_MEMBERS, {}, []),
        ("backoff", [GOOD, GOOD], NO_MEMBERS, {}, ["process"]),
        ("running", [GOOD, DEAD], NO_MEMBERS, {}, ["process"]),
        ("running", [GOOD, BARE], NO_MEMBERS, {}, ["no_child_sa"]),
        ("running", [BARE, BARE], NO_MEMBERS, {}, ["no_child_sa", "no_child_sa"]),
        # The far side has fewer members: ready, unless it gives none to any.
        ("running", [GOOD, BARE], frozenset({"1"}), {}, []),
        ("running", [BARE, BARE], frozenset({"0", "1"}), {}, ["no_child_sa", "no_child_sa"]),
        # A path that is down counts when there is no better one.
        ("running", [GOOD, CUT], NO_MEMBERS, {}, []),
        ("running", [CUT, CUT], NO_MEMBERS, {}, ["path_down"]),
        ("running", [CUT, BARE], NO_MEMBERS, {}, ["no_child_sa", "path_down"]),
        ("running", [GOOD, GOOD], NO_MEMBERS, LESS, ["narrower"]),
        # A far gateway that is gone: the others carry everything, as long as one does.
        ("running", [GOOD, BARE_THERE, GOOD, BARE_THERE], NO_MEMBERS, {}, []),
        ("running", [GOOD, CUT_THERE, GOOD, CUT_THERE], NO_MEMBERS, {}, []),
        ("running", [GOOD, CUT_THERE, GOOD, BARE_THERE], NO_MEMBERS, {}, ["no_child_sa"]),
        ("running", [CUT, BARE_THERE], NO_MEMBERS, {}, ["no_child_sa", "path_down"]),
        ("running", [BARE, BARE_THERE], NO_MEMBERS, {}, ["no_child_sa", "no_child_sa"]),
        ("running", [GOOD, BARE, BARE_THERE], NO_MEMBERS, {}, ["no_child_sa"]),
    ],
)
def test_why_a_peering_is_not_ready(
    demux: str,
    members: list[MemberFacts],
    refused: frozenset[str],
    narrower: dict[str, Carried],
    codes: list[str],
) -> None:
    facts = PeeringFacts("vpc2", "192.0.2.2", "4500 to 4501", demux, members, refused, narrower)
    found = list(peering_reasons(facts))
    assert [one.code for one in found] == codes
    assert all(one.peering == "vpc2" and one.remedy for one in found)


def test_a_peering_that_a_user_has_ended_says_that_and_no_more() -> None:
    facts = PeeringFacts("p", "192.0.2.2", "4500 to 4501", "running", [BARE, BARE], why="terminated", stopped=True)
    (found,) = peering_reasons(facts)
    assert (found.code, found.remedy.split("`")[1]) == ("terminated", "fwd initiate p")


def test_reasons_name_what_does_not_pass_and_why() -> None:
    (narrower,) = peering_reasons(PeeringFacts("p", "192.0.2.2", "4500", "running", [GOOD], narrower=LESS))
    assert narrower.subnets == ("10.1.0.0/16 - 10.2.0.0/16",)
    (bare,) = peering_reasons(PeeringFacts("p", "192.0.2.2", "4500", "running", [BARE], why="no answer"))
    assert bare.line == "p: member 0 has no SA to send on: no answer"

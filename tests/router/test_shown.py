"""What a router shows of its spreads while their gateways come and go."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from fwd.model.router import Hop, Spread
from fwd.proto.probe import Answer
from fwd.router import spread
from fwd.router.reach import HITS, NEW, Reach
from fwd.router.show import shown, summary
from fwd.router.tables import Place, Table


def wanted(*gateways: str) -> Spread:
    hops = [Hop.model_validate({"name": name, "addresses": [f"10.1.0.{name[2:]}"]}) for name in gateways]
    return Spread.model_validate({"name": "vpc2", "remote_ts": ["10.2.0.0/16"], "gateway": hops})


def test_a_gateway_that_is_configured_no_more_is_shown_no_more_also_before_it_is_looked_for_again() -> None:
    place = Place(spread.Spread(wanted("gw1", "gw2")))
    place.spread.look({"gw1": Reach(), "gw2": Reach()}, 1.0)
    place.spread.change(wanted("gw2"))
    found = shown({"vpc2": place}, {"gw2": Reach()}, {}, 0, 1.1)
    assert [one["name"] for one in found["spreads"][0]["gateways"]] == ["gw2"]


def told(reach: Reach) -> list[dict[str, object]]:
    """What a controller is told of a gateway that is reached so."""
    place = Place(spread.Spread(wanted("gw1")))
    place.spread.look({"gw1": reach}, 1.0)
    return list(summary(shown({"vpc2": place}, {"gw1": reach}, {}, 0, 1.1), ())["gateways"])


def test_the_shares_that_a_controller_is_told_are_one_over_both_ip_versions() -> None:
    """Of 57 % in one and 50 % in the other the larger one was told, of each gateway: a page showed 106 %."""
    gateways = ("gw1", "gw2")
    place = Place(spread.Spread(wanted(*gateways)))
    reaches = {one: Reach() for one in gateways}
    for number in range(HITS):
        for reach in reaches.values():
            reach.ask(bytes([number]), number / 10)
            reach.hear(Answer(bytes([number]), {}, False), number / 10)
    place.spread.look(reaches, 1.0)
    for version, first in ((4, 146), (6, 128)):
        serving = ("gw1",) * first + ("gw2",) * (256 - first)
        place.tables.append(cast(Table, SimpleNamespace(version=version, serving=serving, waiting=0)))
    found = summary(shown({"vpc2": place}, reaches, {}, 0, 1.1), ())["gateways"]
    assert sum(one["share"] for one in found) == pytest.approx(1.0, abs=1e-3)


def test_a_gateway_that_has_just_been_named_is_not_said_to_be_missed() -> None:
    silent, answers = Reach(), Reach()
    for number in range(NEW - 1):
        silent.ask(bytes([number]), number / 10)
    assert told(Reach()) == told(silent) == []
    silent.ask(bytes([NEW]), NEW / 10)
    assert [one["up"] for one in told(silent)] == [False], "it had its time"

    for number in range(HITS):
        answers.ask(bytes([number]), number / 10)
        answers.hear(Answer(bytes([number]), {}, False), number / 10)
    assert [one["up"] for one in told(answers)] == [True]
    answers.lose()
    assert [one["up"] for one in told(answers)] == [False], "it was up"

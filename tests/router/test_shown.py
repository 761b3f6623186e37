"""What a router shows of its spreads while their gateways come and go."""

from __future__ import annotations

from fwd.model.router import Hop, Spread
from fwd.router import spread
from fwd.router.reach import Reach
from fwd.router.show import shown
from fwd.router.tables import Place


def wanted(*gateways: str) -> Spread:
    hops = [Hop.model_validate({"name": name, "addresses": [f"10.1.0.{name[2:]}"]}) for name in gateways]
    return Spread.model_validate({"name": "vpc2", "remote_ts": ["10.2.0.0/16"], "gateway": hops})


def test_a_gateway_that_is_configured_no_more_is_shown_no_more_also_before_it_is_looked_for_again() -> None:
    place = Place(spread.Spread(wanted("gw1", "gw2")))
    place.spread.look({"gw1": Reach(), "gw2": Reach()}, 1.0)
    place.spread.change(wanted("gw2"))
    found = shown({"vpc2": place}, {"gw2": Reach()}, {}, 0, 1.1)
    assert [one["name"] for one in found["spreads"][0]["gateways"]] == ["gw2"]

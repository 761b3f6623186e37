"""The reference's workflow in its order, as people do it: gateways, clusters, a peering, one more gateway, deletion."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import pytest
from clusterkit import GAP_S_MAX, NAME, Cluster, MakeFleet, until


class Person(Protocol):
    """Somebody who works with the controller."""

    def create(self, kind: str, name: str, **fields: Any) -> None: ...

    def gateways(self, cluster: str, names: list[str]) -> None: ...

    def delete(self, kind: str, name: str) -> None: ...

    def token(self, vpc: str, kind: str) -> str: ...


class ByCommand:
    """By `fwd`."""

    def __init__(self, lab: Cluster) -> None:
        self._lab = lab

    def create(self, kind: str, name: str, **fields: Any) -> None:
        words = [f"{key}={','.join(value) if isinstance(value, list) else value}" for key, value in fields.items()]
        self._lab.fwd(kind, "create", name, *words)

    def gateways(self, cluster: str, names: list[str]) -> None:
        self._lab.fwd("cluster", "set", cluster, f"gateways={','.join(names)}")

    def delete(self, kind: str, name: str) -> None:
        self._lab.fwd(kind, "delete", name)

    def token(self, vpc: str, kind: str) -> str:
        path = self._lab.directory / "person.token"
        path.unlink(missing_ok=True)
        self._lab.fwd("token", "create", f"vpc={vpc}", f"kind={kind}", "--output", str(path))
        return Path(path).read_text()


class ByApi:
    """By HTTPS."""

    def __init__(self, lab: Cluster) -> None:
        self._lab = lab

    def create(self, kind: str, name: str, **fields: Any) -> None:
        self._lab.api.create(f"{kind}s", name=name, **fields)

    def gateways(self, cluster: str, names: list[str]) -> None:
        self._lab.api.change("clusters", cluster, gateways=names)

    def delete(self, kind: str, name: str) -> None:
        self._lab.api.delete(f"{kind}s", name)

    def token(self, vpc: str, kind: str) -> str:
        return str(self._lab.api.create("tokens", vpc=vpc, kind=kind)["token"])


@pytest.mark.parametrize("kind", [ByCommand, ByApi])
@pytest.mark.timeout(240)
def test_two_vpcs_are_peered_a_gateway_is_added_and_all_is_deleted(
    fleets: MakeFleet, kind: type[ByCommand] | type[ByApi]
) -> None:
    lab = fleets(4, 3, up=False)
    person: Person = kind(lab)
    one, two = lab.fleet.plan
    first, more = list(one.gateways[:3]), one.gateways[3]

    # Three gateways and their cluster, in each VPC; then the peering.
    for site, gateways in ((one, first), (two, list(two.gateways))):
        person.create("vpc", site.name, cidrs=list(lab.fleet.cidrs(site)))
        lab.join(*gateways, *lab.fleet.routers_of(site), token_of=person.token)
        person.create("cluster", f"{site.name}-all", vpc=site.name, gateways=gateways)
    person.create("peering", NAME, clusters=["vpc1-all", "vpc2-all"])
    lab.wait_carrying(*first, *two.gateways)
    lab.until_uses("router1", **dict.fromkeys(first, "up"))
    lab.until_uses("router2", **dict.fromkeys(two.gateways, "up"))
    lab.carried_by_all((*first, *two.gateways))
    until(lambda: {pair["state"] for pair in lab.api.items("pairs")} == {"up"}, "all pairs are up")
    assert lab.api.get(f"peerings/{NAME}")["state"] == "up"

    # One more, while traffic goes on.
    with lab.load(tcp=False) as load:
        lab.join(more, token_of=person.token)
        person.gateways("vpc1-all", [*first, more])
        lab.until_uses("router1", **dict.fromkeys([*first, more], "up"))
        assert max(load.end().silence_s) < GAP_S_MAX
    lab.carried_by_all((more,))

    # It goes again, and at last everything.
    with lab.load(tcp=False) as load:
        person.gateways("vpc1-all", first)
        lab.until_uses("router1", **dict.fromkeys(first, "up"))
        until(lambda: not lab.status(more)["peerings"], f"{more} has no peering")
        person.delete("gateway", more)
        assert max(load.end().silence_s) < GAP_S_MAX
    until(lab.passes, "flows over all slots")
    person.delete("peering", NAME)
    until(lambda: not any(lab.status(host)["peerings"] for host in first), "no gateway has a peering")
    until(lambda: not lab.uses("router1"), "its router spreads nothing")
    for site in (one, two):
        person.delete("cluster", f"{site.name}-all")
    assert lab.api.items("pairs") == []

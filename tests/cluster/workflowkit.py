"""The reference's workflow: gateways, clusters, a peering, one more gateway that is drained and taken out, deletion."""

from __future__ import annotations

from typing import Any, Protocol

from clusterkit import GAP_S_MAX, NAME, Cluster, until


class Person(Protocol):
    """Somebody who works with the controller."""

    def create(self, kind: str, name: str, **fields: Any) -> None: ...

    def gateways(self, cluster: str, names: list[str]) -> None: ...

    def drain(self, gateway: str) -> None: ...

    def delete(self, kind: str, name: str) -> None: ...

    def token(self, vpc: str, kind: str) -> str: ...

    def look(self, what: str) -> None:
        """See how all is."""


def workflow(lab: Cluster, person: Person) -> None:
    """Peer two VPCs, add a gateway, and delete everything, in a lab of four gateways and three, none of which is up."""
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
    person.look("up")

    # One more, while traffic goes on.
    with lab.load(tcp=False) as load:
        lab.join(more, token_of=person.token)
        person.gateways("vpc1-all", [*first, more])
        lab.until_uses("router1", **dict.fromkeys([*first, more], "up"))
        assert max(load.end().silence_s) < GAP_S_MAX
    lab.carried_by_all((more,))
    person.look("more")

    # It is drained and goes, and at last everything.
    with lab.load(tcp=False) as load:
        person.drain(more)
        lab.until_uses("router1", **dict.fromkeys(first, "up"), **{more: "draining"})
        until(lambda: lab.api.get(f"gateways/{more}")["health"]["state"] == "draining", f"{more} is draining")
        person.look("drained")
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

"""The net of a lab with a controller: VPCs with gateways and routers, a net between them, and the controller on it.

    client1 ── router1 ──┐                                       ┌── router2 ── client2
                        lan1 ── gw1, gw2, … ══ net ══ gw4, gw5, … ── lan2
                                                │
                                            controller

Host n of the site has the n-th inner address: gateway gwG is 192.0.2.G outside, and 10.S.0.k inside as the k-th of its
site S. Clients are behind the routers, in 10.S.9.0/24. `lanS` is a switch, `net` routes between all outer addresses
and, as a leak would show there, to each VPC by its first gateway. A site with two routers has a second, `routerSb`; the
addresses that clients and gateways route to are then keepalived's. With two `subnets` every second gateway of a site is
in 10.S.1.0/24, whose switch is `lanSb`, and the router has a device in each. With `nat` each gateway has a private
address at its WAN, and `net` translates it one to one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from fwd.lab.topology import Topology
from fwd.lab.world import LabError, Link, Site, Version

CONTROLLER: Final = "controller"
NET: Final = "net"
PORT: Final = 8443  # of the controller
ROUTERS_MAX: Final = 2
SUBNETS_MAX: Final = 2
_MTU_BYTES: Final = 1500
_HOP: Final = ("192.0.2.254", "2001:db8::fe")  # the net, as each host sees it
_LENGTHS: Final = (32, 128)


@dataclass(frozen=True)
class Fleet(Topology):
    """See the module. `routers`, `subnets`: of each site."""

    routers: int = 1
    subnets: int = 1
    nat: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.routers <= ROUTERS_MAX:
            raise LabError(f"{self.routers} routers of each VPC: expected 1 to {ROUTERS_MAX}")
        if not 1 <= self.subnets <= SUBNETS_MAX:
            raise LabError(f"{self.subnets} subnets of each VPC: expected 1 to {SUBNETS_MAX}")
        if self.routers > 1 and self.subnets > 1:
            raise LabError("two routers share an address in one subnet: take one router, or one subnet")

    # -- hosts ------------------------------------------------------------------------------------------------------

    def routers_of(self, site: Site) -> tuple[str, ...]:
        """Return a site's routers."""
        return tuple(f"router{site.number}{suffix}" for suffix in ("", "b")[: self.routers])

    @cached_property
    def all_routers(self) -> tuple[str, ...]:
        """Those of all sites."""
        return tuple(router for site in self.plan for router in self.routers_of(site))

    @property
    def hosts(self) -> tuple[str, ...]:
        """Every host, site by site, and last what is between them."""
        found: list[str] = []
        for site in self.plan:
            found += [site.client, *self.routers_of(site), *self._lans(site), *site.gateways]
        return (*found, NET, CONTROLLER)

    def site(self, host: str) -> Site:
        """Return the site that a host is at."""
        return next(
            site
            for site in self.plan
            if host in (site.client, *self._lans(site), *site.gateways, *self.routers_of(site))
        )

    def subnet_of(self, gateway: str) -> int:
        """Return in which of its site's subnets a gateway is: they take turns."""
        return self.site(gateway).gateways.index(gateway) % self.subnets

    def _lans(self, site: Site) -> tuple[str, ...]:
        """Return the switches of a site, one for each subnet."""
        return tuple(f"lan{site.number}{suffix}" for suffix in ("", "b")[: self.subnets])

    # -- addresses --------------------------------------------------------------------------------------------------

    @staticmethod
    def cidrs(site: Site) -> tuple[str, str]:
        """Return the subnets of a VPC, in which those of its hosts are."""
        return f"10.{site.number}.0.0/16", f"fd00:{site.number}::/48"

    @staticmethod
    def applications(site: Site, place: int) -> tuple[str, str]:
        """Return the addresses of a host among those behind the routers."""
        return f"10.{site.number}.9.{place}/24", f"fd00:{site.number}:0:9::{place}/64"

    @cached_property
    def plan_of_addresses(self) -> dict[str, dict[str, tuple[str, str]]]:
        """Host → device → its addresses with prefix lengths, IPv4 and IPv6."""
        found: dict[str, dict[str, tuple[str, str]]] = {}
        for site in self.plan:
            found[site.client] = {"eth0": self.applications(site, 10)}
            for subnet, switch in enumerate(self._lans(site)):
                found[switch] = {"eth0": _inside(site, subnet, 253)}
            for place, router in enumerate(self.routers_of(site)):
                alone = self.routers == 1
                inside = self.applications(site, 1 if alone else 2 + place)
                lan = site.inside(254 if alone else 250 + place)
                further = {"lan2": _inside(site, 1, 254)} if self.subnets > 1 else {}
                outer = self._outer(128 + self.all_routers.index(router))
                found[router] = {"lan": lan, **further, "inside": inside, "wan": outer}
            for place, gateway in enumerate(site.gateways, 1):
                lan = _inside(site, self.subnet_of(gateway), place)
                found[gateway] = {"lan": lan, "wan": self._outer(self._number(gateway), self.nat)}
        found[CONTROLLER] = {"wan": self._outer(200)}
        found[NET] = dict.fromkeys(self._outside, (f"{_HOP[0]}/32", f"{_HOP[1]}/128"))
        return found

    def outer(self, host: str) -> str:
        """Return the address by which others know a gateway."""
        return _bare(self._outer(self._number(host))[0])

    def inner(self, host: str) -> tuple[str, str]:
        """Return a gateway's or router's addresses in its VPC."""
        four, six = self.plan_of_addresses[host]["lan"]
        return _bare(four), _bare(six)

    def _number(self, gateway: str) -> int:
        return self.gateways.index(gateway) + 1

    @staticmethod
    def _outer(number: int, private: bool = False) -> tuple[str, str]:
        return f"{'100.64.0' if private else '192.0.2'}.{number}/32", f"2001:db8::{number:x}/128"

    # -- links and routes -------------------------------------------------------------------------------------------

    @property
    def _outside(self) -> tuple[str, ...]:
        """Hosts with an outer address."""
        return (*self.gateways, *self.all_routers, CONTROLLER)

    @property
    def bridges(self) -> dict[str, tuple[str, ...]]:
        """Host → the devices that its eth0 joins."""
        found = {}
        for site in self.plan:
            for subnet, switch in enumerate(self._lans(site)):
                mine = [gateway for gateway in site.gateways if self.subnet_of(gateway) == subnet]
                found[switch] = (*mine, *self.routers_of(site))
        if self.routers > 1:
            found |= {site.client: self.routers_of(site) for site in self.plan}
        return found

    @property
    def links(self) -> list[Link]:
        found = [Link(host, "wan", NET, host, _MTU_BYTES) for host in self._outside]
        for site in self.plan:
            for router in self.routers_of(site):
                device = router if self.routers > 1 else "eth0"
                found.append(Link(router, "inside", site.client, device, _MTU_BYTES))
            for subnet, switch in enumerate(self._lans(site)):
                for host in self.bridges[switch]:
                    device = "lan2" if subnet and host not in site.gateways else "lan"
                    found.append(Link(host, device, switch, host, _MTU_BYTES))
        return found

    def routes(self, host: str, version: Version) -> list[str]:
        """Return a host's routes, as `ip route add` reads them."""
        which = 0 if version == 4 else 1
        if host == NET:
            return self._net_routes(which)
        if host == CONTROLLER:
            return self._by_the_net(which)
        site = self.site(host)
        if host == site.client:
            return [f"default via {_bare(self.applications(site, 1)[which])}"]
        if host in self._lans(site):
            return []
        subnet = self.subnet_of(host) if host in site.gateways else 0
        applications = [f"{self.applications(site, 0)[which]} via {_bare(_inside(site, subnet, 254)[which])}"]
        return [*self._by_the_net(which), *(applications if host in site.gateways else [])]

    @staticmethod
    def _by_the_net(which: int) -> list[str]:
        return [f"{_HOP[which]} dev wan", f"default via {_HOP[which]} dev wan"]

    def _net_routes(self, which: int) -> list[str]:
        """Return a way to each outer address and each gateway's inner one, and to each VPC by its first gateway."""
        found = []
        for host in self._outside:
            outer = self.plan_of_addresses[host]["wan"][which]
            found.append(f"{outer} dev {host}")
        for gateway in self.gateways:
            inner = self.plan_of_addresses[gateway]["lan"][which]
            found.append(f"{_bare(inner)} via {_bare(self.plan_of_addresses[gateway]['wan'][which])} dev {gateway}")
        for site in self.plan:
            first = self.plan_of_addresses[site.gateways[0]]["wan"][which]
            found.append(f"{self.cidrs(site)[which]} via {_bare(first)} dev {site.gateways[0]}")
        return found

    @property
    def translation(self) -> str:
        """What nft is to do in the net so that each gateway is behind a 1:1 NAT."""
        private = {gateway: _bare(self._outer(self._number(gateway), True)[0]) for gateway in self.gateways}
        there = ", ".join(f"{self.outer(gateway)} : {address}" for gateway, address in private.items())
        back = ", ".join(f"{address} : {self.outer(gateway)}" for gateway, address in private.items())
        return (
            "table ip translation {\n"
            "chain there { type nat hook prerouting priority dstnat; dnat to ip daddr map { " + there + " }\n}\n"
            "chain back { type nat hook postrouting priority srcnat; snat to ip saddr map { " + back + " }\n}\n}\n"
        )

    def up(self) -> None:
        """Bring the namespaces up. Does nothing if they are; a half-made lab of this name is made anew."""
        fresh = not self.exists()
        super().up()
        if self.nat and fresh:
            self.run(NET, ["nft", "-f", "-"], input=self.translation)


def _inside(site: Site, subnet: int, place: int) -> tuple[str, str]:
    """Return the addresses of the host at this place in one of a site's subnets."""
    if not subnet:
        return site.inside(place)
    return f"10.{site.number}.{subnet}.{place}/24", f"fd00:{site.number}:0:{subnet}::{place}/64"


def _bare(address: str) -> str:
    return address.partition("/")[0]

"""The lab as a value: sites, their gateways and clients, addresses, links, routes and peerings. Pure.

`World(sites={"vpc1": 1, "vpc2": 2})`, the gateways numbered through all sites, and a client at each:

    client1 eth0 ── lan gw1 wan ═══ wan1 router wan2 ═══ wan gw2 lan ──┬── eth0 client2
    10.1.0.10      .1   192.0.2.1          wan3 ═══ wan gw3 lan ──┘        10.2.0.10
    fd00:1::10    ::1   2001:db8::1                                        fd00:2::10

Gateway n is 192.0.2.n outside, and .k inside as the k-th of its site. Two gateways' WANs are joined directly, unless a
router is asked for. Each host has IPv4 and IPv6; `ipv6` says over which of the two the tunnels run.

Without fwd the clients reach one another in the clear, by way of each site's first gateway, so a leak shows on the wire
instead of dying for want of a route. Each gateway is paired with gateways of each other site: where the sites differ in
size, each one of the larger has one far gateway, and those of the smaller have several.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal

Version = Literal[4, 6]

TWO: Final[Mapping[str, int]] = {"vpc1": 1, "vpc2": 1}
SITE_GATEWAYS_MAX = 8
SITES_MAX = 9
_LAN_MTU_BYTES = 1500


class LabError(Exception):
    """The lab cannot do what was asked; its text is one line for the user."""


@dataclass(frozen=True)
class Site:
    """One VPC: its subnets (IPv4, IPv6), its gateways and its client."""

    name: str
    number: int
    gateways: tuple[str, ...]

    @property
    def client(self) -> str:
        return f"client{self.number}"

    @property
    def subnets(self) -> tuple[str, str]:
        return f"10.{self.number}.0.0/24", f"fd00:{self.number}::/64"

    def inside(self, place: int) -> tuple[str, str]:
        """Return the addresses of the host at this place in the subnets."""
        return f"10.{self.number}.0.{place}/24", f"fd00:{self.number}::{place}/64"


@dataclass(frozen=True)
class Link:
    """A veth pair between two hosts."""

    host: str
    device: str
    far_host: str
    far_device: str
    mtu_bytes: int


@dataclass(frozen=True)
class Pairing:
    """What a gateway's peering with another site is: its far gateways there, and the subnets of both sides."""

    far: tuple[str, ...]
    local_ts: tuple[str, str]
    remote_ts: tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class World:
    """Sites by name, each with so many gateways, and the net between them.

    `spread`: a client gives its flows to all gateways of its site, else all to the first.
    """

    sites: Mapping[str, int] = field(default_factory=lambda: dict(TWO), hash=False)
    ipv6: bool = False
    wan_mtu_bytes: int = 1500
    router: bool = False
    router_mtu_bytes: int = 1500
    spread: bool = False

    def __post_init__(self) -> None:
        if not 2 <= len(self.sites) <= SITES_MAX:
            raise LabError(f"{len(self.sites)} sites: expected 2 to {SITES_MAX}")
        for name, count in self.sites.items():
            if not 1 <= count <= SITE_GATEWAYS_MAX:
                raise LabError(f"site {name} with {count} gateways: expected 1 to {SITE_GATEWAYS_MAX}")
        if not 1280 <= self.router_mtu_bytes <= self.wan_mtu_bytes:
            raise LabError(f"MTU of the path, {self.router_mtu_bytes}: expected 1280 to {self.wan_mtu_bytes}")

    # -- hosts ------------------------------------------------------------------------------------------------

    @cached_property
    def plan(self) -> tuple[Site, ...]:
        """The sites, with their gateways' names."""
        names = iter([f"gw{number}" for number in range(1, sum(self.sites.values()) + 1)])
        return tuple(
            Site(name, number, tuple(next(names) for _ in range(count)))
            for number, (name, count) in enumerate(self.sites.items(), 1)
        )

    @property
    def gateways(self) -> tuple[str, ...]:
        return tuple(gateway for site in self.plan for gateway in site.gateways)

    @property
    def clients(self) -> tuple[str, ...]:
        return tuple(site.client for site in self.plan)

    @property
    def routed(self) -> bool:
        """Whether a router stands between the WANs."""
        return self.router or len(self.gateways) > 2

    @property
    def hosts(self) -> tuple[str, ...]:
        """Every host, as it is met on the way from the first client to the last."""
        first, *rest = self.plan
        hosts = [first.client, *first.gateways]
        for site in rest:
            hosts += [*site.gateways, site.client]
        return (*hosts, "router") if self.routed else tuple(hosts)

    def site(self, host: str) -> Site:
        """Return the site that a gateway or client is at."""
        return next(site for site in self.plan if host in (site.client, *site.gateways))

    # -- addresses --------------------------------------------------------------------------------------------

    @cached_property
    def plan_of_addresses(self) -> dict[str, dict[str, tuple[str, str]]]:
        """Host → device → its addresses with prefix lengths, IPv4 and IPv6; the inner device first."""
        found = {site.client: {"eth0": site.inside(10)} for site in self.plan}
        for number, gateway in enumerate(self.gateways, 1):
            site = self.site(gateway)
            # Behind the router the WAN is no common subnet: each end has a route to its neighbour alone.
            lengths = (32, 128) if self.routed else (24, 64)
            outer = f"192.0.2.{number}/{lengths[0]}", f"2001:db8::{number:x}/{lengths[1]}"
            found[gateway] = {"lan": site.inside(site.gateways.index(gateway) + 1), "wan": outer}
        if self.routed:
            found["router"] = {
                f"wan{number}": (f"192.0.2.{128 + number}/32", f"2001:db8::{128 + number:x}/128")
                for number, _ in enumerate(self.gateways, 1)
            }
        return found

    def address(self, host: str, dev: str | None = None, version: Version = 4) -> str:
        """Return an address of a host; without `dev`, a client's only one and a gateway's outer one."""
        devices = self.plan_of_addresses[host]
        return devices[dev or ("wan" if "wan" in devices else next(iter(devices)))][_place(version)].partition("/")[0]

    def outer(self, host: str) -> str:
        """Return the address that a gateway's tunnels use."""
        return self.address(host, "wan", 6 if self.ipv6 else 4)

    # -- links and routes -------------------------------------------------------------------------------------

    @property
    def bridges(self) -> dict[str, tuple[str, ...]]:
        """Client → the devices that its eth0 joins, where its site has several gateways."""
        return {site.client: site.gateways for site in self.plan if len(site.gateways) > 1}

    @property
    def links(self) -> list[Link]:
        found = []
        for site in self.plan:
            for gateway in site.gateways:
                device = gateway if site.client in self.bridges else "eth0"
                found.append(Link(gateway, "lan", site.client, device, _LAN_MTU_BYTES))
        if not self.routed:
            return [*found, Link("gw1", "wan", "gw2", "wan", self.wan_mtu_bytes)]
        for number, gateway in enumerate(self.gateways, 1):
            found.append(Link(gateway, "wan", "router", f"wan{number}", self.wan_mtu_bytes))
        return found

    def routes(self, host: str, version: Version) -> list[str]:
        """Return a host's routes, as `ip route add` reads them."""
        if host == "router":
            return self._router_routes(version)
        site = self.site(host)
        if host == site.client:
            gateways = site.gateways if self.spread else site.gateways[:1]
            if len(gateways) == 1:
                return [f"default via {self.address(gateways[0], 'lan', version)}"]
            return [" ".join(["default", *(f"nexthop via {self.address(one, 'lan', version)}" for one in gateways)])]
        if self.routed:
            hop = self.address("router", f"wan{self.gateways.index(host) + 1}", version)
            return [f"{hop} dev wan", f"default via {hop} dev wan"]
        return [f"default via {self.address('gw2' if host == 'gw1' else 'gw1', 'wan', version)}"]

    def _router_routes(self, version: Version) -> list[str]:
        """Return a way to each gateway, and to each site by its first one.

        The locked metric makes the router refuse what is longer, though its devices would take it: a narrow path
        behind wide interfaces, in both directions.
        """
        mtu, routes = f"mtu lock {self.router_mtu_bytes}", []
        for number, gateway in enumerate(self.gateways, 1):
            outer, site = self.address(gateway, "wan", version), self.site(gateway)
            routes.append(f"{outer} dev wan{number} {mtu}")
            if gateway == site.gateways[0]:
                routes.append(f"{site.subnets[_place(version)]} via {outer} dev wan{number} {mtu}")
        return routes

    # -- peerings ---------------------------------------------------------------------------------------------

    def pairings(self, host: str) -> list[Pairing]:
        """Return a gateway's peerings, one with each other site."""
        here = self.site(host)
        return [Pairing(_far(host, here, there), here.subnets, there.subnets) for there in self.plan if there != here]


def _far(host: str, here: Site, there: Site) -> tuple[str, ...]:
    """Return the gateways of another site that a gateway is paired with."""
    place, own, others = here.gateways.index(host), len(here.gateways), there.gateways
    return others[place::own] if len(others) >= own else (others[place % len(others)],)


def _place(version: Version) -> int:
    return 0 if version == 4 else 1

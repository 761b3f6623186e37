"""The tables of all spreads, and the kernel kept to them: the shell around spread.py and kernel.py.

A router that starts takes over what one before it has left: flows stay where they are. What the kernel refuses is said
(`troubles`), and tried again at the next look.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from fwd.model import router as model
from fwd.model.subnets import no_hosts
from fwd.model.words import Address, Network
from fwd.proto.logged import event
from fwd.router.kernel import Make, Point, Remove, Route, State, Step, group_id, members_of, state_of, steps
from fwd.router.nexthop import NextHops, Target, Way
from fwd.router.reach import Reach
from fwd.router.slots import NOBODY, SLOTS
from fwd.router.spread import Seen, Spread
from fwd.supervise.kernel import Own

_SYSCTLS: Final = Path("/proc/sys/net")
_SEED: Final = _SYSCTLS / "ipv4/fib_multipath_hash_seed"
_FORWARDING: Final = {4: _SYSCTLS / "ipv4/ip_forward", 6: _SYSCTLS / "ipv6/conf/all/forwarding"}
_FLOWS: Final = "1"  # fib_multipath_hash_policy: by addresses, protocol and ports
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Table:
    """One spread's slots of one IP version. `group`: its id in the kernel. `serving`: who serves each slot.

    `waiting`: how many busy slots are to move once they are idle.
    """

    version: int
    group: int
    networks: tuple[Network, ...]
    serving: tuple[str, ...] = (NOBODY,) * SLOTS
    waiting: int = 0


@dataclass
class Place:
    """A spread and its tables."""

    spread: Spread
    tables: list[Table] = field(default_factory=list)

    def addresses(self, version: int) -> dict[str, Address]:
        """Inner addresses of its gateways, by name."""
        found = {one.name: one.address(version) for one in self.spread.wanted.gateway}
        return {name: address for name, address in found.items() if address is not None}


class Tables:
    """See the module. `own`: gives the router's own addresses."""

    def __init__(self, config: model.RouterConfig, kernel: NextHops, own: Callable[[], Sequence[Own]]) -> None:
        self._kernel = kernel
        self._own = own
        self._near: Sequence[Own] = ()
        self._linked: set[Network] = set()  # networks on this host's links, also of links that are down or gone by now
        self._places: dict[str, Place] = {}
        self._seedless = ""  # why the kernel has not the seed
        self.troubles: dict[str, str] = {}  # why the kernel has not all that is wanted, by what was tried
        self.change(config)

    @property
    def places(self) -> Mapping[str, Place]:
        """All spreads by name, with their tables."""
        return self._places

    def change(self, config: model.RouterConfig) -> None:
        """Take another configuration; a spread of the same name keeps who serves its slots."""
        self._seed, self._local_ts = config.router.hash_seed, config.router.local_ts
        before, self._places = self._places, {}
        for number, wanted in enumerate(config.spread):
            place = before.get(wanted.name) or Place(Spread(wanted))
            place.spread.change(wanted)
            old = {table.version: table for table in place.tables}
            place.tables = []
            for version in sorted({subnet.version for subnet in wanted.remote_ts}):
                networks = tuple(subnet for subnet in wanted.remote_ts if subnet.version == version)
                serving = old[version].serving if version in old else (NOBODY,) * SLOTS
                place.tables.append(Table(version, group_id(number, version), networks, serving))
            self._places[wanted.name] = place

    @property
    def near(self) -> Sequence[Own]:
        """This host's addresses, and the networks on its links, on which gateways can be."""
        return self._near

    @property
    def is_waiting(self) -> bool:
        """Whether slots wait until they are idle."""
        return any(table.waiting for place in self._places.values() for table in place.tables)

    # -- who serves what --------------------------------------------------------------------------------------------

    def turn(self, reaches: Mapping[str, Reach], now: float) -> None:
        """Judge all gateways, and move what may move: one send for each table."""
        if not self._near:
            with self._trying("addresses"):
                self._near = self._own()
        for name, place in self._places.items():
            before = {seen.hop.name: seen for seen in place.spread.seen}
            for seen in place.spread.look(reaches, now, self._beyond(place)):
                _tell(name, before.get(seen.hop.name), seen)
            place.tables = [self._settle(place, table) for table in place.tables]

    def _beyond(self, place: Place) -> set[str]:
        """The gateways of a spread that cannot be a next hop here, for want of a device on whose link they are."""
        named = [one for table in place.tables for one in place.addresses(table.version).items()]
        return {name for name, address in named if self._target(address) is None}

    def _settle(self, place: Place, table: Table) -> Table:
        """A table as it is from now on, the kernel told."""
        if not place.spread.seen:  # no gateway at all
            return replace(table, serving=(NOBODY,) * SLOTS, waiting=0)
        if NOBODY in table.serving:
            return replace(table, serving=self._inherited(place, table) or place.spread.begin())
        if table.serving == place.spread.begin():
            return replace(table, waiting=0)
        found = place.spread.moves(table.serving, self._idle_s(table))
        if not found.to:
            return replace(table, waiting=found.waiting)

        serving = tuple(found.to.get(slot, owner) for slot, owner in enumerate(table.serving))
        after = replace(table, serving=serving, waiting=found.waiting)
        targets = self._targets(place, after)
        if targets is not None:
            members = members_of(table.group)
            with self._trying("slots"):
                self._kernel.point({members[slot]: targets[members[slot]] for slot in found.to})
        return after

    def _idle_s(self, table: Table) -> list[float]:
        """For how long each slot has carried nothing; 0 where the kernel does not say."""
        idle_s = [0.0] * SLOTS
        with self._trying("table"):
            for row in self._kernel.table(table.group).values():
                slot = row.hop_id - table.group - 1
                if 0 <= slot < SLOTS:
                    idle_s[slot] = row.idle_s
        return idle_s

    def _inherited(self, place: Place, table: Table) -> tuple[str, ...] | None:
        """Who serves each slot by what a router before this one has left; None if that is not whole."""
        names = {address: name for name, address in place.addresses(table.version).items()}
        with self._trying("inheritance"):
            hops = state_of(self._kernel.owned(), frozenset()).hops
            targets = [hops.get(identity) for identity in members_of(table.group)]
            if None not in targets:
                return tuple(names.get(one.gateway, "a gateway that is gone") for one in targets if one is not None)
        return None

    # -- the kernel -------------------------------------------------------------------------------------------------

    def reconcile(self) -> None:
        """Give the kernel what it lacks, and take away what is no more wanted."""
        self.troubles.clear()
        with self._trying("addresses"):
            self._near = self._own()
            self._linked |= {one.network for one in self._near if is_link(one.network)}
        told: list[str] = []
        with self._trying("next hops"):
            for step in steps(self._wanted(), state_of(self._kernel.owned(), self._kernel.ways())):
                told.append(type(step).__name__.lower())
                with self._trying(told[-1]):
                    carry_out(self._kernel, step)
        if told:
            log.info("the kernel is told: %s", ", ".join(told), extra=event("router.kernel", steps=told))
        for path, value in self._sysctls():
            with self._trying(str(path)):
                if path.read_text().split() != [value]:
                    path.write_text(value)
        self._sow()

    def ask_anew(self, addresses: Iterable[Address]) -> None:
        """Have the kernel ask anew where these are: a host that was built anew has another link address, and the old
        one would be believed in for half a minute. Where that is refused it only takes longer.
        """
        targets = [target for one in addresses if (target := self._target(one)) is not None]
        with suppress(OSError):
            self._kernel.forget(targets)

    def _sow(self) -> None:
        """Give the kernel the seed of flows' hashes. Without it flows go well, so what forbids it is only logged."""
        if self._seed is None or not _SEED.exists():  # before Linux 6.11
            return
        try:
            if _SEED.read_text().split() != [str(self._seed)]:
                _SEED.write_text(str(self._seed))
            why = ""
        except OSError as error:
            why = error.strerror or str(error)
        if why and why != self._seedless:
            log.warning("%s: %s: flows are hashed in another way than on other routers", _SEED, why, extra=event(
                "router.seed", why=why,
            ))  # fmt: skip
        self._seedless = why

    def _wanted(self) -> State:
        """What the kernel is to have. A table of which one gateway is out of reach keeps its blackhole alone.

        What is for this VPC's own hosts has a blackhole, too: when the link to them is down no default route takes it.
        """
        hops: dict[int, Target] = {}
        groups, ways = {}, {Way(network, None) for network in (*self._linked, *self._local_ts)}
        for place in self._places.values():
            for table in place.tables:
                ways |= {Way(network, None) for network in table.networks}
                if (targets := self._targets(place, table)) is not None:
                    hops |= targets
                    groups[table.group] = members_of(table.group)
                    ways |= {Way(network, table.group) for network in table.networks}
        return State(hops, groups, frozenset(ways))

    def _targets(self, place: Place, table: Table) -> dict[int, Target] | None:
        """Where all slots of a table point; None while somebody who serves one is on no link of this host."""
        if NOBODY in table.serving:
            return None
        addresses = place.addresses(table.version)
        found = {name: self._target(addresses.get(name)) for name in set(table.serving)}
        if unknown := sorted(name for name, target in found.items() if target is None):
            self.troubles["links"] = f"no device of this host has {', '.join(unknown)} on its link"
            return None
        return {
            identity: target
            for identity, name in zip(members_of(table.group), table.serving, strict=True)
            if (target := found[name]) is not None
        }

    def _target(self, address: Address | None) -> Target | None:
        """The device on whose link an address is."""
        near = [own for own in self._near if address is not None and address in own.network]
        best = max(near, key=lambda own: own.network.prefixlen, default=None)
        return Target(best.device, address) if best is not None and address is not None else None

    def _sysctls(self) -> Iterator[tuple[Path, str]]:
        for version in {table.version for place in self._places.values() for table in place.tables}:
            yield _SYSCTLS / f"ipv{version}/fib_multipath_hash_policy", _FLOWS
            yield _FORWARDING[version], "1"

    @contextmanager
    def _trying(self, what: str) -> Iterator[None]:
        """What the kernel refuses is remembered, and tried again."""
        try:
            yield
        except OSError as error:
            self.troubles[what] = error.strerror or str(error)


def is_link(network: Network) -> bool:
    """Whether it is of a link with other hosts, which are reached by routes."""
    return network.prefixlen < network.max_prefixlen and not no_hosts(network)


def carry_out(kernel: NextHops, step: Step) -> None:
    """Tell the kernel one thing. Raises OSError."""
    match step:
        case Point(targets):
            kernel.point(targets)
        case Make(group, members):
            kernel.make_group(group, members)
        case Route(ways, gone):
            kernel.route(ways, gone=gone)
        case Remove(ids):
            kernel.remove(ids)


def _tell(spread: str, before: Seen | None, seen: Seen) -> None:
    """Log what has changed of a gateway."""
    if before is not None and (before.hop.use, before.why) == (seen.hop.use, seen.why):
        return
    use, why = seen.hop.use.value, seen.why
    told = event("router.gateway", spread=spread, gateway=seen.hop.name, use=use, why=why)
    log.info("%s: gateway %s is %s%s", spread, seen.hop.name, use, f": {why}" if why else "", extra=told)

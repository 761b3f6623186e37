"""What a router wants of the kernel, and the steps to it: pure.

Of each spread (a peering's far subnets and the gateways that serve it) and each IP version: 256 next hops, a group of
them, a route for each subnet, and a blackhole route of the highest metric beside it. When a device goes down the kernel
takes next hops, groups and routes away without a word; the blackhole stays, so nothing takes another way.

The order of the steps: what closes comes first, what leads somewhere is made from its end, and what is no more wanted
goes last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from fwd.router.nexthop import Members, Target, Way
from fwd.router.slots import SLOTS

_BASE: Final = 0x66000000
_PER_SPREAD: Final = 1 << 10
_VERSION_6: Final = 1 << 9


def group_id(spread: int, version: int) -> int:
    """Id of a spread's group; those of its slots follow it."""
    return _BASE + spread * _PER_SPREAD + (_VERSION_6 if version == 6 else 0)


def members_of(group: int) -> Members:
    """Ids of the next hops of a group, by slot."""
    return tuple(group + 1 + slot for slot in range(SLOTS))


@dataclass(frozen=True)
class State:
    """What the kernel is to have, or has: next hops, groups, routes."""

    hops: Mapping[int, Target] = field(default_factory=dict)
    groups: Mapping[int, Members] = field(default_factory=dict)
    ways: frozenset[Way] = frozenset()


def state_of(owned: Mapping[int, Target | Members | None], ways: frozenset[Way]) -> State:
    """Sort what the kernel has."""
    hops = {identity: what for identity, what in owned.items() if isinstance(what, Target)}
    groups = {identity: what for identity, what in owned.items() if isinstance(what, tuple)}
    return State(hops, groups, ways)


@dataclass(frozen=True)
class Point:
    """Point these next hops at these gateways."""

    targets: Mapping[int, Target]


@dataclass(frozen=True)
class Make:
    """Make this group."""

    group: int
    members: Members


@dataclass(frozen=True)
class Route:
    """Make these routes; `gone`: take them away."""

    ways: frozenset[Way]
    gone: bool = False


@dataclass(frozen=True)
class Remove:
    """Take away these next hops and groups."""

    ids: tuple[int, ...]


Step = Point | Make | Route | Remove


def steps(wanted: State, has: State) -> Iterator[Step]:
    """Say what to do so that the kernel has what is wanted."""
    missing = wanted.ways - has.ways
    if closing := frozenset(way for way in missing if way.group is None):
        yield Route(closing)

    # A group can be made once all of its members are there, and a route once its group is.
    targets = {identity: target for identity, target in wanted.hops.items() if has.hops.get(identity) != target}
    if targets:
        yield Point(targets)
    for group, members in wanted.groups.items():
        if has.groups.get(group) != members:
            yield Make(group, members)
    if opening := frozenset(way for way in missing if way.group is not None):
        yield Route(opening)

    # What leads nowhere any more goes, routes first: the kernel would take them along with their group.
    if surplus := has.ways - wanted.ways:
        yield Route(surplus, gone=True)
    groups = [group for group in has.groups if group not in wanted.groups]
    hops = [identity for identity in has.hops if identity not in wanted.hops]
    if groups or hops:
        yield Remove((*groups, *hops))

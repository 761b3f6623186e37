"""What is to be done to bring what is open to what a configuration wants: a list of steps, decided without touching
anything.

    in force, wanted ──plan──▶ Guard, Secrets, Follow, Grow, Shrink, Spread, Close, Open, LogLevel, LowLatency,
                               Metrics, Beacon, Unguard

Guards of what comes stand first, and those of what has gone go last; a subnet that one peering gives and another takes
is guarded by both meanwhile. What differs in keys that are live (model/words.py) is followed by the processes that run;
what differs in others sets its peering up anew. Nothing is done to a peering that is the same. Steps can be taken
again: a plan made after an interrupted one has what is left of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Final

from fwd.model.config import MEMBERS_MAX, SHARED_MEMBERS_MAX, Config, Peering
from fwd.model.distinct import clash
from fwd.model.gateway import Gateway
from fwd.model.keys import Keys, LabKeys
from fwd.model.pairing import reseated, shares
from fwd.model.words import Network, Strict, change_of
from fwd.proto.errors import UserError

GATEWAY: Final = "gateway"  # whom a step is for that is no peering's


@dataclass(frozen=True)
class Guard:
    """Set a peering's leak guards, in the place of those that stand."""

    peering: Peering

    @property
    def name(self) -> str:
        """The peering's."""
        return self.peering.name

    def __str__(self) -> str:
        return f"{self.name}: guard {_listed(self.peering.remote_ts)}"


@dataclass(frozen=True)
class Secrets:
    """Open a peering's secret files again. If they are not good, those of before stay."""

    peering: Peering

    @property
    def name(self) -> str:
        """The peering's."""
        return self.peering.name

    def __str__(self) -> str:
        return f"{self.name}: read secrets and certificates again"


@dataclass(frozen=True)
class Follow:
    """Let the processes of a peering follow keys that are live; `keys` names those that differ."""

    peering: Peering
    keys: tuple[str, ...]
    routes: tuple[Network, ...] = ()  # to the TUN device that come
    unroutes: tuple[Network, ...] = ()  # that go

    @property
    def name(self) -> str:
        """The peering's."""
        return self.peering.name

    def __str__(self) -> str:
        text = f"{self.name}: follow {', '.join(self.keys)}"
        text += f"; route {_listed(self.routes)}" if self.routes else ""
        return text + (f"; route {_listed(self.unroutes)} no more" if self.unroutes else "")


@dataclass(frozen=True)
class Grow:
    """Open more members; they get buckets that are idle."""

    peering: Peering
    before: int

    @property
    def name(self) -> str:
        """The peering's."""
        return self.peering.name

    def __str__(self) -> str:
        return f"{self.name}: grow from {self.before} to {self.peering.members} members"


@dataclass(frozen=True)
class Shrink:
    """Let the last members leave: busy flows stay until they are idle, or until the deadline."""

    peering: Peering
    before: int

    @property
    def name(self) -> str:
        """The peering's."""
        return self.peering.name

    def __str__(self) -> str:
        one = self.peering
        most = f"busy flows move after {one.drain_deadline} s"
        return f"{one.name}: shrink from {self.before} to {one.members} members; {most}"


@dataclass(frozen=True)
class Spread:
    """Pair members with other far gateways. Those that stay with theirs keep all they have; others come and leave as by
    Grow and Shrink. `peering` has its seats.
    """

    peering: Peering
    before: Peering

    @property
    def name(self) -> str:
        """The peering's."""
        return self.peering.name

    @property
    def leaving(self) -> frozenset[int]:
        """The members of far gateways that go: all that these have now."""
        one = self.peering
        stay = {far.address for far in one.fars if far.staying(one.there)}
        there = self.before.there
        return frozenset(seat for far in self.before.fars if far.address not in stay for seat in far.staying(there))

    def __str__(self) -> str:
        one, before = self.peering, {far.address: far for far in self.before.fars}
        come, leave = list[str](), list[str]()
        for far in one.fars:
            there = before[far.address].staying(self.before.there) if far.address in before else range(0)
            stay = far.staying(one.there)
            if fresh := [seat for seat in stay if seat not in there]:
                come.append(f"{_do(fresh, 'come')} to {far.address}")
            if gone := [seat for seat in there if seat not in stay]:
                leave.append(f"{_do(gone, 'leave')} {far.address}")
        busy = [f"busy flows move after {one.drain_deadline} s"] if leave else []
        return f"{one.name}: " + ("; ".join([*come, *leave, *busy]) or "take far gateways in another order")


@dataclass(frozen=True)
class Close:
    """End a peering's processes and close what it has. Its guards stand."""

    name: str
    keys: tuple[str, ...] = ()  # that differ and cannot be followed; none: it is not wanted any more

    def __str__(self) -> str:
        return f"{self.name}: close" + (f", to set up anew: {', '.join(self.keys)}" if self.keys else "")


@dataclass(frozen=True)
class Open:
    """Set a peering up."""

    peering: Peering

    @property
    def name(self) -> str:
        """The peering's."""
        return self.peering.name

    def __str__(self) -> str:
        one = self.peering
        return f"{one.name}: open, with {one.members} members to {one.where}"


@dataclass(frozen=True)
class LogLevel:
    """Let every process log from this level on."""

    level: str
    name: ClassVar[str] = GATEWAY

    def __str__(self) -> str:
        return f"{self.name}: log from level {self.level} on"


@dataclass(frozen=True)
class LowLatency:
    """Keep the host's CPUs out of deep sleep, or no more."""

    wanted: bool
    name: ClassVar[str] = GATEWAY

    def __str__(self) -> str:
        return f"{self.name}: " + ("keep CPUs out of deep sleep" if self.wanted else "let CPUs sleep")


@dataclass(frozen=True)
class Metrics:
    """Serve metrics at another address."""

    address: str | None
    name: ClassVar[str] = GATEWAY

    def __str__(self) -> str:
        return f"{self.name}: serve metrics at {self.address}" if self.address else f"{self.name}: serve no metrics"


@dataclass(frozen=True)
class Beacon:
    """Answer routers' probes at another address, or with another key."""

    gateway: Gateway
    name: ClassVar[str] = GATEWAY

    def __str__(self) -> str:
        at = self.gateway.beacon
        return f"{self.name}: answer routers' probes at {at}" if at else f"{self.name}: answer no router's probes"


@dataclass(frozen=True)
class Unguard:
    """Remove guards that nobody wants any more."""

    subnets: tuple[Network, ...]
    name: ClassVar[str] = GATEWAY

    def __str__(self) -> str:
        return f"{self.name}: guard {_listed(self.subnets)} no more"


Step = (
    Guard
    | Secrets
    | Follow
    | Grow
    | Shrink
    | Spread
    | Close
    | Open
    | LogLevel
    | LowLatency
    | Metrics
    | Beacon
    | Unguard
)


@dataclass(frozen=True)
class InForce:
    """What holds now: the gateway's own table, and the peerings that are open."""

    gateway: Gateway
    peerings: Mapping[str, Peering]
    renewed: frozenset[str] = field(default_factory=frozenset)  # peerings whose secret files are others by now
    key_renewed: bool = False  # so is the file of the probe key
    idle: frozenset[str] = field(default_factory=frozenset)  # peerings in which nothing can be sent: nothing is to lose


def plan(now: InForce, wanted: Config) -> list[Step]:
    """Return the steps from what is in force to what is wanted, in order. Raises UserError if fwd must be restarted."""
    refused = [key for key in differing(now.gateway, wanted.gateway) if change_of(Gateway, key) != "live"]
    if refused:
        key = refused[0]
        before, after = (getattr(one, key) for one in (now.gateway, wanted.gateway))
        what = f"gateway.{key} is {before or 'not set'} and cannot become {after or 'unset'} while fwd runs"
        raise UserError(f"{what}: leave it as it is, or restart fwd")

    # What is open either stays, follows, or goes; what stays with other secrets has them read.
    spread = {one.name: resize for one in wanted.peering if (resize := _spread(now, one, wanted))}
    anew = {one.name: keys for one in wanted.peering if (keys := _not_followed(now, one, one.name in spread))}
    gone = [name for name in now.peerings if name in anew or name not in {one.name for one in wanted.peering}]
    coming = [one for one in wanted.peering if one.name in anew or one.name not in now.peerings]
    staying = [one for one in wanted.peering if one not in coming]
    follows = [step for one in staying if (step := _follow(now.peerings[one.name], one))]

    steps: list[Step] = [Guard(one) for one in coming]
    steps += [Guard(_both(step)) for step in follows if {"remote_ts", "mss_clamp"} & set(step.keys)]
    steps += [Secrets(one) for one in staying if one.name in now.renewed or one.keys != now.peerings[one.name].keys]
    steps += follows
    resized = [spread.get(one.name) or _resize(now.peerings[one.name], one) for one in staying]
    steps += [step for step in resized if step]
    steps += [Close(name, anew.get(name, ())) for name in gone]
    steps += [Open(one) for one in coming]
    steps += _gateway(now, wanted.gateway)
    steps += [Guard(step.peering) for step in follows if step.unroutes]
    kept = {subnet for one in wanted.peering for subnet in one.remote_ts}
    left = [subnet for one in now.peerings.values() for subnet in one.remote_ts if subnet not in kept]
    return steps + ([Unguard(tuple(left))] if left else [])


def differing(one: Strict, other: Strict) -> tuple[str, ...]:
    """Return the keys in which two tables of one kind differ."""
    return tuple(key for key in type(one).model_fields if getattr(one, key) != getattr(other, key))


def differing_keys(one: Keys, other: Keys) -> tuple[str, ...]:
    """Return the keys of `[peering.keys]` in which two tables differ; of two kinds, that of the kind alone."""
    return tuple(f"keys.{key}" for key in differing(one, other)) if type(one) is type(other) else ("keys.source",)


def _gateway(now: InForce, wanted: Gateway) -> Iterator[Step]:
    if now.gateway.log_level != wanted.log_level:
        yield LogLevel(wanted.log_level)
    if now.gateway.low_latency != wanted.low_latency:
        yield LowLatency(wanted.low_latency)
    if now.gateway.metrics != wanted.metrics:
        yield Metrics(wanted.metrics)
    if {"beacon", "probe_key"} & set(differing(now.gateway, wanted)) or now.key_renewed:
        yield Beacon(wanted)


def _not_followed(now: InForce, wanted: Peering, spreads: bool) -> tuple[str, ...]:
    """Return the keys in which an open peering differs and which its processes cannot follow. `spreads`: they follow
    others of its far gateways and members.
    """
    open_now = now.peerings.get(wanted.name)
    if open_now is None:
        return ()

    # What belongs to the peering itself; nothing tells a far side of members with lab keys, or others would be paired.
    found = [key for key in differing(open_now, wanted) if key != "keys" and change_of(Peering, key) != "live"]
    mine, theirs = open_now.keys, wanted.keys
    if open_now.remote_addrs != wanted.remote_addrs and (found or not spreads):
        found.insert(0, "remote_addrs")
    if (
        open_now.members != wanted.members
        and not spreads
        and (isinstance(mine, LabKeys) or _is_spread(open_now, wanted))
    ):
        found.append("members")

    # Its keys: of another kind they are followed if IKE has the same port.
    if isinstance(mine, LabKeys) or isinstance(theirs, LabKeys):
        if mine != theirs or wanted.name in now.renewed:
            found.append("keys.secret" if type(mine) is type(theirs) else "keys.source")
    elif type(mine) is type(theirs):
        found += [f"keys.{key}" for key in differing(mine, theirs) if change_of(type(mine), key) != "live"]
    elif mine.ike_port != theirs.ike_port:
        found.append("keys.ike_port")
    return tuple(found)


def _follow(open_now: Peering, wanted: Peering) -> Follow | None:
    """Return how a peering that stays differs from what is wanted, if it does."""
    keys = tuple(key for key in differing(open_now, wanted) if key not in ("keys", "members", "remote_addrs"))
    keys += differing_keys(open_now.keys, wanted.keys)
    if not keys:
        return None
    routes = tuple(subnet for subnet in wanted.remote_ts if subnet not in open_now.remote_ts)
    return Follow(wanted, keys, routes, tuple(s for s in open_now.remote_ts if s not in wanted.remote_ts))


def _is_spread(*peerings: Peering) -> bool:
    return any(one.is_seated or len(one.fars) > 1 for one in peerings)


def _spread(now: InForce, wanted: Peering, config: Config) -> Spread | None:
    """Return how members are paired with other far gateways, if they are to be, and those that stay can keep their
    numbers. Where nothing is sent anyhow the peering is set up anew, on the ports that are configured.
    """
    before = now.peerings.get(wanted.name)
    if before is None or before.ike is None or wanted.ike is None or wanted.name in now.idle or not wanted.fars:
        return None
    if before.remote_addrs == wanted.remote_addrs and (before.members == wanted.members or not _is_spread(before)):
        return None
    were = [far if not far.keeps else replace(far, identity=before.identity_at(far)) for far in before.fars]
    most = SHARED_MEMBERS_MAX if wanted.shared_port else min(MEMBERS_MAX, 2**16 - wanted.port)
    fars = reseated(were, before.there, shares(wanted.members, wanted.addresses), most)

    # Who comes may need other ports for a while: they must be nobody else's.
    seated = wanted.seated(fars)
    others = [one for one in config.peering if one.name != wanted.name and one.local_addrs == wanted.local_addrs]
    if not fars or wanted.ike.ike_port in seated.ports or any(clash(seated, one) for one in others):
        return None
    return Spread(seated, before)


def _resize(open_now: Peering, wanted: Peering) -> Grow | Shrink | None:
    """Return how many members more or fewer there are to be, if that differs."""
    before = open_now.members
    if wanted.members == before:
        return None
    return Grow(wanted, before) if wanted.members > before else Shrink(wanted, before)


def _both(step: Follow) -> Peering:
    """Return the peering with the remote subnets of before, too."""
    subnets = {*step.peering.remote_ts, *step.unroutes}
    kept = [one for one in subnets if not any(one != other and _within(one, other) for other in subnets)]
    return step.peering.model_copy(update={"remote_ts": sorted(kept, key=str)}) if step.unroutes else step.peering


def _within(one: Network, other: Network) -> bool:
    return one.version == other.version and one.subnet_of(other)  # type: ignore[arg-type]


def _do(members: Sequence[int], what: str) -> str:
    several, named = len(members) > 1, ", ".join(map(str, members))
    return f"members {named} {what}" if several else f"member {named} {what}s"


def _listed(subnets: Iterable[Network]) -> str:
    return ", ".join(map(str, subnets))

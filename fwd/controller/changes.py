"""Change a fleet, one object at a time, and say what that means for the hosts: pure.

Refuses, as RefusedError of one line: what the model refuses, what is there already or is not there, a VPC's subnet that
is nobody's own, and the deletion of what others stand on. A gateway that is deleted leaves its clusters, as whoever
deletes it sees in the plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from fwd.controller.admitted import why_refused, why_router_refused
from fwd.controller.place import Pair, Placement, place
from fwd.model.fleet import PEERINGS_MAX, Cluster, Fleet, Gateway, Peering, Router, Vpc
from fwd.model.linked import REKEYS_MAX
from fwd.model.mistakes import first_reason
from fwd.model.subnets import no_vpcs

KINDS: Final[Mapping[str, tuple[str, type[BaseModel]]]] = {
    "vpc": ("vpcs", Vpc),
    "gateway": ("gateways", Gateway),
    "cluster": ("clusters", Cluster),
    "router": ("routers", Router),
    "peering": ("peerings", Peering),
}
Object = Mapping[str, Any]
_PLACE_CHARS_MAX: Final = 80


class RefusedError(Exception):
    """A change that cannot be; its text is one line for the user. `missing`: there is no such object. `conflict`: it
    could be, if the fleet were another.
    """

    def __init__(self, text: str, *, missing: bool = False, conflict: bool = False) -> None:
        super().__init__(text)
        self.missing, self.conflict = missing, conflict


def objects_of(fleet: Fleet, kind: str) -> dict[str, dict[str, Any]]:
    """All objects of a kind by name, as JSON has them."""
    field, _ = KINDS[kind]
    return {one.name: one.model_dump(mode="json") for one in getattr(fleet, field)}


def create(fleet: Fleet, kind: str, body: Object) -> Fleet:
    """Add an object."""
    name = body.get("name")
    if isinstance(name, str) and name in objects_of(fleet, kind):
        raise RefusedError(f"{kind} {name} is there already: `set` changes it", conflict=True)
    if kind == "peering":
        body = {**body, "number": _free_number(fleet)}
    return _with_vpcs_own(fleet, _with(fleet, kind, [*objects_of(fleet, kind).values(), body]))


def change(fleet: Fleet, kind: str, name: str, fields: Object) -> Fleet:
    """Change fields of an object; its name, and what it was made of, stay."""
    objects = objects_of(fleet, kind)
    _check_there(kind, name, objects)
    fixed = {"name", "vpc", "number"} if kind != "vpc" else {"name"}
    for field in sorted(fixed & fields.keys()):
        if fields[field] != objects[name].get(field):
            raise RefusedError(f"{kind} {name}: {field} cannot be changed: delete it, and create it anew")
    objects[name] = {**objects[name], **fields}
    return _with_vpcs_own(fleet, _with(fleet, kind, list(objects.values())))


def rekey(fleet: Fleet, name: str) -> Fleet:
    """Want new keys for all tunnels of a peering."""
    peerings = objects_of(fleet, "peering")
    _check_there("peering", name, peerings)
    number = (peerings[name]["rekey_number"] + 1) % (REKEYS_MAX + 1)
    return change(fleet, "peering", name, {"rekey_number": number})


def delete(fleet: Fleet, kind: str, name: str) -> Fleet:
    """Take an object away."""
    objects = objects_of(fleet, kind)
    _check_there(kind, name, objects)
    if users := sorted(_users_of(fleet, kind, name)):
        raise RefusedError(f"{kind} {name} is used by {', '.join(users)}: delete that first", conflict=True)
    if kind == "gateway":
        clusters = objects_of(fleet, "cluster")
        for one in clusters.values():
            one["gateways"] = [gateway for gateway in one["gateways"] if gateway != name]
        fleet = _with(fleet, "cluster", list(clusters.values()))
    del objects[name]
    return _with(fleet, kind, list(objects.values()))


def plan(before: Fleet, after: Fleet, pairs: Sequence[Pair]) -> tuple[Placement, list[str]]:
    """Place the changed fleet, and say in lines what changes on which host. `pairs`: those that there are.

    Raises RefusedError if a gateway or a router would refuse what it is to do.
    """
    old, new = place(before, pairs), place(after, pairs)
    if why := why_refused(old.gateways, new.gateways) or why_router_refused(old.routers, new.routers):
        raise RefusedError(why)
    lines = [*_pair_lines(old, new), *_host_lines("gateway", old.gateways, new.gateways)]
    return new, [*lines, *_host_lines("router", old.routers, new.routers)]


def _pair_lines(old: Placement, new: Placement) -> Iterator[str]:
    for pair in sorted(set(old.pairs) - set(new.pairs)):
        yield f"peering {pair.peering}: {pair.a} and {pair.b} are joined no more"
    for pair in sorted(set(new.pairs) - set(old.pairs)):
        yield f"peering {pair.peering}: {pair.a} and {pair.b} are joined"


def _host_lines(kind: str, old: Mapping[str, Object], new: Mapping[str, Object]) -> Iterator[str]:
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            yield f"{kind} {name}: leaves"
        elif name not in old:
            yield f"{kind} {name}: comes"
        elif old[name] != new[name]:
            yield f"{kind} {name}: {_difference(old[name], new[name])}"


def _difference(old: Object, new: Object) -> str:
    """What of a host's configuration is another."""
    words = []
    for table in sorted(old.keys() | new.keys()):
        if not isinstance(new.get(table), list):
            if old.get(table) != new.get(table):
                words += _rekeyed(old, new) if table == "rekeys" else [f"{table} {new.get(table)}"]
            continue
        was, now = ({one["name"]: one for one in side.get(table, ())} for side in (old, new))
        words += [f"{table} {name} opens" for name in now if name not in was]
        words += [f"{table} {name} closes" for name in was if name not in now]
        for name in (name for name in now if name in was and now[name] != was[name]):
            keys = sorted(key for key in now[name] if now[name].get(key) != was[name].get(key))
            words.append(f"{table} {name}: {', '.join(keys)}")
    return "; ".join(words)


def _rekeyed(old: Object, new: Object) -> list[str]:
    """Say of which peerings a host is to make new keys."""
    was, now = (side.get("rekeys", {}) for side in (old, new))
    names = [one["name"] for one in new["peering"] if was.get(one["name"], 0) != now.get(one["name"], 0)]
    return [f"peering {name} has new keys, and loses no packet" for name in names]


def _with(fleet: Fleet, kind: str, objects: Sequence[Object]) -> Fleet:
    """The fleet with these objects of a kind. Raises RefusedError."""
    field, _ = KINDS[kind]
    data = {**fleet.model_dump(mode="json"), field: list(objects)}
    try:
        return Fleet.model_validate(data)
    except ValidationError as error:
        raise RefusedError(_reason(kind, objects, error)) from None


def _with_vpcs_own(before: Fleet, after: Fleet) -> Fleet:
    """See that no subnet has come that cannot be a VPC's own; those that a store has from before stay. Raises
    RefusedError."""
    for vpc in after.vpcs:
        had = before.vpc[vpc.name].cidrs if vpc.name in before.vpc else []
        for cidr in vpc.cidrs:
            if cidr not in had and (what := no_vpcs(cidr)):
                raise RefusedError(f"vpc {vpc.name}: cidrs: {cidr} is no VPC's own ({what}): name the hosts' subnets")
    return after


def _reason(kind: str, objects: Sequence[Object], error: ValidationError) -> str:
    """Say what cannot be: of one object, which it is and its key; of several, the model's own words."""
    _, model = KINDS[kind]
    where, _, why = first_reason(error, {kind: model}).partition(": ")
    _, *at = error.errors()[0]["loc"] or (None,)
    if not at:
        return why
    name = objects[int(at[0])].get("name", "")
    is_plain = isinstance(name, str) and name.isascii() and name.isprintable() and name
    keys = where.split(".")[2:]
    return ": ".join(
        [f"{kind} {name if is_plain else ascii(name)}"[:_PLACE_CHARS_MAX], *([".".join(keys)] if keys else []), why]
    )


def _check_there(kind: str, name: str, objects: Mapping[str, Object]) -> None:
    if name not in objects:
        raise RefusedError(f"there is no {kind} {name}", missing=True)


def _users_of(fleet: Fleet, kind: str, name: str) -> Iterator[str]:
    if kind == "vpc":
        yield from (f"gateway {one.name}" for one in fleet.gateways if one.vpc == name)
        yield from (f"router {one.name}" for one in fleet.routers if one.vpc == name)
        yield from (f"cluster {one.name}" for one in fleet.clusters if one.vpc == name)
    if kind == "cluster":
        yield from (f"peering {one.name}" for one in fleet.peerings if name in one.clusters)


def _free_number(fleet: Fleet) -> int:
    taken = {one.number for one in fleet.peerings}
    free = next((number for number in range(PEERINGS_MAX) if number not in taken), None)
    if free is None:
        raise RefusedError(f"there are {PEERINGS_MAX} peerings, and no more can be", conflict=True)
    return free

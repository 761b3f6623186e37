"""A fleet as the controller's API shows it to a viewer: read once, as JSON, for those that draw it."""

from __future__ import annotations

from collections.abc import Callable

from fwd.model.seen import KINDS, Fleet, Json
from fwd.proto.errors import UserError


def fetch() -> Fleet:
    """Ask the controller for all that there is. Raises UserError."""
    from fwd.objects.client import Client

    client = Client()
    return read(lambda path: client.ask("GET", path))


def read(get: Callable[[str], Json]) -> Fleet:
    """Read each kind by `get`, in the order of names. Raises UserError if an answer is not a list of objects."""
    fleet: Fleet = {}
    for kind in KINDS:
        items = get(f"/v1/{kind}").get("items")
        if not isinstance(items, list) or not all(isinstance(one, dict) for one in items):
            raise UserError(f"/v1/{kind}: the controller answers no list of objects: is it another release?")
        fleet[kind] = sorted(items, key=_order)
    return fleet


def _order(one: Json) -> tuple[str, ...]:
    return tuple(str(one.get(key, "")) for key in ("name", "peering", "a", "b"))

"""A fleet as the controller's API shows it to a viewer: read once, as JSON, for those that draw it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from fwd.proto.errors import UserError

Json = dict[str, Any]
Fleet = dict[str, list[Json]]

KINDS: Final = ("vpcs", "clusters", "gateways", "routers", "peerings", "pairs")


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


def clusters_of(fleet: Fleet, gateway: str) -> list[str]:
    """Names of the clusters that a gateway is in."""
    return [one["name"] for one in fleet["clusters"] if gateway in one.get("gateways", ())]


def pairs_of(fleet: Fleet, gateway: str) -> list[Json]:
    """The pairs of which a gateway is an end."""
    return [one for one in fleet["pairs"] if gateway in (one.get("a"), one.get("b"))]


def carries(pair: Json) -> bool:
    """Whether a pair's tunnels take packets, as the API counts them."""
    return pair.get("state") in ("up", "degraded")


def health_of(host: Json) -> str:
    """How a host is, by its state."""
    return str((host.get("health") or {}).get("state", "unknown"))


def plain(value: object) -> str:
    """Show a text that hosts have a hand in, without what a terminal or a file format would obey."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in str(value))

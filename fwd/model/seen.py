"""A fleet as the controller's API shows it, as JSON, and what is read of it: pure."""

from __future__ import annotations

from typing import Any, Final

Json = dict[str, Any]
Fleet = dict[str, list[Json]]

KINDS: Final = ("vpcs", "clusters", "gateways", "routers", "peerings", "pairs")


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

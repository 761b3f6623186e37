"""The kinds of objects that the command line knows, by a table: what can be done with each, and what is shown of it.

Nothing else is imported here: `fwd` reads this at each start. A test compares it with the model and with the API.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

READING: Final = ("list", "show")
WRITING: Final = (*READING, "create", "set", "delete")


@dataclass(frozen=True)
class Kind:
    """One kind. `columns`: what a list shows, by heading; `lists` and `numbers`: fields that are not texts."""

    help: str
    plural: str
    verbs: tuple[str, ...]
    columns: Mapping[str, str]
    fields: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()


KINDS: Final[Mapping[str, Kind]] = {
    "vpc": Kind(
        "VPCs: a name, and the subnets in which all of its hosts are.", "vpcs", WRITING,
        {"NAME": "name", "CIDRS": "cidrs"}, ("cidrs", "probe_number"), ("cidrs",), ("probe_number",),
    ),
    "gateway": Kind(
        "Gateways: hosts that run `fwd demux`.", "gateways",
        (*WRITING, "drain", "undrain", "upgrade", "restart"),
        {"NAME": "name", "VPC": "vpc", "INNER": "inner", "OUTER": "outer", "MEMBERS": "members", "WEIGHT": "weight",
         "WANTED": "state", "VERSION": "version", "OUTDATED": "outdated", "HEALTH": "health.state",
         "WHY": "health.reason"},
        ("vpc", "outer", "inner", "members", "weight", "state"), ("inner",), ("members", "weight"),
    ),
    "cluster": Kind(
        "Clusters: gateways of a VPC that share what goes to another.", "clusters", WRITING,
        {"NAME": "name", "VPC": "vpc", "GATEWAYS": "gateways"}, ("vpc", "gateways"), ("gateways",),
    ),
    "router": Kind(
        "Routers: hosts that spread a VPC's flows over its gateways.", "routers", (*WRITING, "restart"),
        {"NAME": "name", "VPC": "vpc", "INNER": "inner", "VERSION": "version", "OUTDATED": "outdated",
         "HEALTH": "health.state", "WHY": "health.reason"},
        ("vpc", "inner", "drain_deadline"), ("inner",), ("drain_deadline",),
    ),
    "peering": Kind(
        "Peerings: two clusters joined.", "peerings", (*WRITING, "rekey"),
        {"NAME": "name", "CLUSTERS": "clusters", "PATH": "path", "PAYLOAD": "payload", "STATE": "state",
         "PAIRS": "pairs", "UP": "pairs_up"},
        ("clusters", "path", "payload"), ("clusters",),
    ),
    "token": Kind(
        "Tokens: of hosts that join, and of people and programs.", "tokens", (*READING, "create", "delete"),
        {"NAME": "name", "ROLE": "role", "VPC": "vpc", "KIND": "kind", "STATE": "state", "USED BY": "used_by"},
        ("name", "role", "vpc", "kind", "replaces"),
    ),
    "pair": Kind(
        "Pairs: two gateways joined by a peering.", "pairs", ("list",),
        {"PEERING": "peering", "A": "a", "B": "b", "STATE": "state", "RTT MS": "rtt_ms", "LOSS": "loss"},
    ),
    "event": Kind(
        "Events: what has happened to hosts.", "events", ("list",),
        {"NUMBER": "number", "AT": "at", "HOST": "host", "WHAT": "what", "TEXT": "text"},
    ),
    "operation": Kind(
        "Operations: the changes that were made, the last one first.", "operations", READING,
        {"ID": "id", "WHO": "who", "ACT": "act", "KIND": "kind", "NAME": "name", "RESULT": "result",
         "WAITING FOR": "progress.waiting"},
    ),
}  # fmt: skip

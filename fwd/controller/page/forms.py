"""Forms of changes: which fields each has, and what they mean as the API takes it: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fwd.controller.page.views import FleetView

ACTS: Final[Mapping[str, tuple[str, ...]]] = {
    "create": ("vpc", "cluster", "peering", "token"),
    "set": ("cluster",),
    "drain": ("gateway",),
    "undrain": ("gateway",),
    "upgrade": ("gateway",),
    "rekey": ("peering",),
    "restart": ("gateway", "router"),
    "delete": ("vpc", "cluster", "peering", "gateway", "router"),
}
_TITLES: Final = {
    "create": "Create a {kind}", "set": "Change {kind} {name}", "drain": "Drain {kind} {name}",
    "undrain": "Put {kind} {name} back into service", "upgrade": "Upgrade {kind} {name}",
    "restart": "Restart {kind} {name}", "rekey": "Give {kind} {name} new keys",
    "delete": "Delete {kind} {name}",
}  # fmt: skip
_WORDS: Final = {"vpc": "VPC", "token": "token to join or to ask with"}


@dataclass(frozen=True)
class Field:
    """A field of a form. `options`: of which one is chosen, or several."""

    name: str
    label: str
    options: tuple[str, ...] = ()
    several: bool = False
    hint: str = ""
    required: bool = True


@dataclass(frozen=True)
class Wanted:
    """A change that somebody wants. `values`: of its form's fields, several values of one joined by commas."""

    act: str
    kind: str
    name: str
    values: Mapping[str, str]

    @property
    def title(self) -> str:
        """Say what it is."""
        return _TITLES[self.act].format(kind=_WORDS.get(self.kind, self.kind), name=self.name)

    @property
    def is_destructive(self) -> bool:
        """Whether its name is asked for."""
        return self.act == "delete"

    @property
    def is_whole(self) -> bool:
        """Whether enough is filled in to plan it."""
        return bool(self.name) and (self.act != "set" or "gateways" in self.values)


def wanted_in(values: Mapping[str, str]) -> Wanted | None:
    """Read a form; None: there is no such change."""
    act, kind = values.get("act", ""), values.get("kind", "")
    if kind not in ACTS.get(act, ()):
        return None
    name = values.get("name", "").strip()
    return Wanted(act, kind, name, values) if name or act == "create" else None


def fields_of(wanted: Wanted, fleet: FleetView) -> tuple[Field, ...]:
    """Say what a form asks for."""
    vpcs, clusters = [one.name for one in fleet.vpcs], [one.name for vpc in fleet.vpcs for one in vpc.clusters]
    gateways = [one for one in fleet.hosts if one.kind == "gateway"]

    # A cluster's gateways change, and of other acts nothing but a name is asked.
    if wanted.act == "set":
        vpc = next((one.vpc for vpc in fleet.vpcs for one in vpc.clusters if one.name == wanted.name), "")
        mine = tuple(one.name for one in gateways if one.vpc == vpc)
        return (Field("gateways", f"Gateways of VPC {vpc} that are in it", mine, several=True, required=False),)
    if wanted.act != "create":
        return ()

    # What is made has a name, and what its kind needs.
    name = Field("name", "Name")
    return {
        "vpc": (name, Field("cidrs", "Subnets", hint="10.1.0.0/16, more of them with commas")),
        "cluster": (
            name, Field("vpc", "VPC", tuple(vpcs)),
            Field("gateways", "Gateways, of this VPC", tuple(one.name for one in gateways), True, required=False),
        ),
        "peering": (
            name, Field("a", "One cluster", tuple(clusters)), Field("b", "The other one", tuple(clusters)),
            Field("path", "Path", ("internet", "native")), Field("payload", "Payload", ("superpacket", "esp")),
        ),
        "token": (
            name, Field("role", "For", ("join", "viewer", "admin")),
            Field("vpc", "VPC of the host that joins", ("", *vpcs), required=False),
            Field("host", "It joins as", ("gateway", "router")),
        ),
    }[wanted.kind]  # fmt: skip


def body_of(wanted: Wanted) -> dict[str, Any]:
    """Return what the API is sent for it."""
    values = wanted.values
    if wanted.act == "set":
        return {"gateways": _list(values.get("gateways", ""))}
    named = {"name": wanted.name}
    if wanted.kind == "vpc":
        return named | {"cidrs": _list(values.get("cidrs", ""))}
    if wanted.kind == "cluster":
        return named | {"vpc": values.get("vpc", ""), "gateways": _list(values.get("gateways", ""))}
    if wanted.kind == "peering":
        chosen = {key: values[key] for key in ("path", "payload") if values.get(key)}
        return named | {"clusters": [values.get("a", ""), values.get("b", "")]} | chosen
    joins = values.get("role") == "join"
    about = {"vpc": values.get("vpc") or None, "kind": values.get("host", "gateway")} if joins else {}
    return named | {"role": values.get("role", "join")} | about


def joined(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Read a form's fields; those that stand there several times are joined."""
    found: dict[str, str] = {}
    for key, value in pairs:
        found[key] = f"{found[key]},{value}" if key in found else value
    return found


def _list(text: str) -> list[str]:
    return [one for one in text.replace(",", " ").split() if one]

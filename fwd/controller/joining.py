"""A host that joins: what it asks for, and what the fleet is with it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fwd.controller import changes, tokens
from fwd.model.fleet import Fleet


@dataclass(frozen=True)
class Joining:
    """What a host asks for when it joins: its keys, and what it knows of itself."""

    kind: tokens.Host
    name: str
    link_csr: str
    ike_csr: str | None
    inner: Sequence[str]
    outer: Sequence[str]
    members: int | None = None


def joined_already(joining: Joining, vpc: str) -> str:
    """Say what to do with one that has other keys than before, as a host has that was built anew."""
    make = f"fwd token create vpc={vpc} kind={joining.kind} replaces={joining.name}"
    return (
        f"there is a {joining.kind} {joining.name} that has joined: if this is that host, built anew, `{make}` makes a"
        " token for it; else take another name"
    )


def with_host(fleet: Fleet, joining: Joining, vpc: str) -> Fleet:
    """The fleet with a host that joins; one that an operator has made already stays as it was made."""
    other = "router" if joining.kind == "gateway" else "gateway"
    if joining.name in changes.objects_of(fleet, other):
        raise changes.RefusedError(f"{joining.name} is a {other} here: take another name", conflict=True)
    there = changes.objects_of(fleet, joining.kind).get(joining.name)
    if there is not None:
        if there["vpc"] != vpc:
            raise changes.RefusedError(
                f"{joining.kind} {joining.name} is in VPC {there['vpc']}, and the token's is {vpc}"
            )
        return fleet
    body: dict[str, Any] = {"name": joining.name, "vpc": vpc, "inner": list(joining.inner)}
    if joining.kind == "gateway":
        if not joining.outer:
            raise changes.RefusedError(f"gateway {joining.name}: an outer address is needed")
        body |= {"outer": joining.outer[0]}
        body |= {"members": joining.members} if joining.members is not None else {}
    return changes.create(fleet, joining.kind, body)

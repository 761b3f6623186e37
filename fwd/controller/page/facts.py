"""What the controller knows of a fleet now, in the API's own forms, for views."""

from __future__ import annotations

from collections.abc import Sequence

from fwd.controller.api import shown
from fwd.controller.control import Control
from fwd.controller.members import Member, drops_in, members_in
from fwd.controller.page.inside import Seen
from fwd.controller.page.replay import key_of
from fwd.controller.page.views import Facts
from fwd.controller.shares import shares_in


def facts_of(control: Control) -> Facts:
    """Collect it."""
    wall, clock, fleet = control.wall(), control.clock(), control.desk.kept.fleet
    standing = shown.standing(control)
    kinds = {kind: list(shown.objects(control, kind).values()) for kind in _KINDS}
    return Facts(
        wall, kinds["vpc"], kinds["gateway"], kinds["cluster"], kinds["router"], kinds["peering"],
        [shown.pair(control, one).model_dump() for one in control.desk.kept.pairs],
        heard={host: wall - (clock - beat.at) for host, beat in control.watch.beats.items()},
        since=_since(control), listens_since=control.past.listens_since,
        bits_s=control.flows.of_all(fleet, clock), shares=shares_in(fleet, control.watch.beats, clock),
        leading=standing.leading, leader=standing.leader,
    )  # fmt: skip


def _since(control: Control) -> dict[str, float]:
    """Say since when each peering is as it is, as far as that is known."""
    found = {one.name: control.past.since(key_of("peering", one.name)) for one in control.desk.kept.fleet.peerings}
    return {name: at for name, at in found.items() if at is not None}


def members_of(control: Control, host: str) -> Sequence[Member]:
    """Read what a gateway has said of its members."""
    beat = control.watch.beats.get(host)
    return members_in(beat.status) if beat is not None else ()


def seen_of(control: Control, host: str) -> Seen:
    """Collect what a gateway has said of what is within it."""
    wall, clock, flows = control.wall(), control.clock(), control.flows
    beat = control.watch.beats.get(host)
    if beat is None:
        return Seen(past=flows.past_of(host, wall))
    return Seen(
        members_in(beat.status), flows.of_members(host, clock), flows.past_of(host, wall),
        flows.past_of_members(host, wall), drops_in(beat.status),
    )  # fmt: skip


_KINDS = ("vpc", "gateway", "cluster", "router", "peering")

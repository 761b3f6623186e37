"""Whether a packet of every pair of a peering's subnets would pass, of what its processes and keyd tell; pure.

What the kernel has (devices, routes, forwarding, filters) is the supervisor's to look at, and comes to the same list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from fwd.model.reasons import Code, Reason

_RUNNING = "running"


class MemberFacts(NamedTuple):
    """What decides whether a member carries anything."""

    state: str
    sends: bool  # it has an SA to send on
    path_down: bool = False  # the far side does not answer it
    far: int = 0  # which far gateway it is paired with
    spared: bool = False  # it is not to carry anything: it leaves, or nobody is paired with it


class Carried(NamedTuple):
    """What a member's SA carries, and the pairs of configured subnets of which not all passes."""

    local: tuple[str, ...]
    remote: tuple[str, ...]
    not_wholly: tuple[str, ...]


class PeeringFacts(NamedTuple):
    """What decides whether a peering is ready. Members are by index, as keyd tells of them."""

    name: str
    remote: str
    ports: str
    demux: str
    members: Sequence[MemberFacts]
    refused: frozenset[str] = frozenset()  # that the far side gives no Child SA
    narrower: Mapping[str, Carried] = {}
    why: str = ""  # there are no keys, if that is known
    stopped: bool = False  # a user has ended its IKE


def process_reasons(what: str, state: str, peering: str = "") -> Iterator[Reason]:
    """Yield why a process keeps the gateway from being ready."""
    if state != _RUNNING:
        yield Reason.of(Code.PROCESS, peering, what=what, state=state)


def peering_reasons(facts: PeeringFacts) -> Iterator[Reason]:
    """Yield why a peering is not ready."""
    # The far side may have fewer members: no fault of theirs, unless it is so with all.
    carrying = [member for member in facts.members if not member.spared]
    refused = facts.refused if any(member.sends for member in carrying) else frozenset()
    wanted = {i: m for i, m in enumerate(facts.members) if not m.spared and str(i) not in refused}
    gone = _gone(carrying)
    yield from process_reasons("demux", facts.demux, facts.name)
    for i, member in wanted.items():
        yield from process_reasons(f"member {i}", member.state, facts.name)

    # Where a user has ended it, that is why no member has keys.
    if facts.stopped:
        yield Reason.of(Code.TERMINATED, facts.name, name=facts.name)
        return
    why = f": {facts.why}" if facts.why else ""
    for i, member in wanted.items():
        if member.state == _RUNNING and not member.sends and member.far not in gone:
            yield Reason.of(Code.NO_CHILD_SA, facts.name, what=f"member {i}", why=why)

    # Buckets of a member whose path is down go to others, while there are others.
    senders = [member for member in carrying if member.state == _RUNNING and member.sends]
    if senders and all(member.path_down for member in senders):
        yield Reason.of(Code.PATH_DOWN, facts.name, remote=facts.remote, ports=facts.ports)
    yield from _narrower(facts)


def _gone(members: Sequence[MemberFacts]) -> set[int]:
    """Return the far gateways to which no member sends, if those to others carry everything meanwhile."""
    carried = any(member.sends and not member.path_down for member in members)
    reached = {member.far for member in members if member.sends}
    return {member.far for member in members if carried} - reached


def _narrower(facts: PeeringFacts) -> Iterator[Reason]:
    """Yield which subnets do not wholly pass, one reason for all members that carry the same."""
    alike: dict[Carried, list[str]] = {}
    for index, held in facts.narrower.items():
        alike.setdefault(held, []).append(index)
    for held, indices in alike.items():
        yield Reason.of(
            Code.NARROWER,
            facts.name,
            held.not_wholly,
            what=f"member {', '.join(indices)}",
            not_wholly=", ".join(held.not_wholly),
            carried=f"{', '.join(held.local)} - {', '.join(held.remote)}",
        )

"""Why something is not up, what fwd has done about it by itself, and what a person can do: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fwd.controller.page.looks import Look
from fwd.controller.page.views import HostView, PairView, PeeringView

_SKEW_S: Final = 30.0

# What is so in each state of a gateway: what fwd does by itself, what a person can do.
_GATEWAY: Final = {
    "down": (
        "Routers have moved its flows to the other gateways of its cluster; its partners send through others.",
        "On the host: `fwd diagnose`. With a restart_command the controller restarts it, by itself or if you ask.",
    ),
    "degraded": (
        "It stays in use, with a smaller share if it loses packets; of a cluster at most half are judged so.",
        "On the host: `fwd diagnose`, and `fwd verify` for each pair.",
    ),
    "unreachable": (
        "It keeps its traffic: only the controller does not hear it, and those that send to it do.",
        "Look for what keeps the host from reaching this controller: `fwd status` there says what.",
    ),
    "draining": (
        "Routers give it no new flows, and move those that it has as they fall idle.",
        "`fwd gateway undrain` puts it back into service.",
    ),
    "joining": (
        "Its configuration waits for it.",
        "If it has not joined: `fwd token create`, and `fwd join` on the host.",
    ),
    "left": ("It was deleted.", "Nothing."),
    "unknown": (
        "It goes on with what it was told last.",
        "Wait: a controller that has begun to lead listens first. If this one does not lead, look at the leader.",
    ),
}
_ALONE: Final = {
    "down": "No other gateway of its cluster carries: packets for the far side are dropped, never sent in the clear.",
    "draining": "It keeps its flows: no other gateway of its cluster carries.",
}
_ROUTER: Final = {
    "down": (
        "Gateways go on with what they have; another router of the VPC, if there is one, routes.",
        "On the host: `fwd diagnose` and `fwd router ready`.",
    ),
    "degraded": ("It goes on with the gateways that it reaches.", "On the host: `fwd router status`."),
    "unreachable": (
        "It goes on routing by what it was told last.",
        "Look for what keeps the host from reaching this controller.",
    ),
    "joining": _GATEWAY["joining"],
    "left": _GATEWAY["left"],
    "unknown": _GATEWAY["unknown"],
}
_PEERING: Final = {
    "down": (
        "Nothing is sent in the clear: packets for the far side are dropped until a pair is up.",
        "Open its pairs: what is wrong with their gateways says why.",
    ),
    "degraded": (
        "Flows take the pairs that are up.",
        "Open its pairs: what is wrong with those that are not up says why.",
    ),
    "unknown": ("Gateways go on with what they have.", "Look why none of its gateways says anything."),
    "empty": ("There is nobody to pair.", "Put a gateway into each of its clusters: `fwd cluster set`."),
}
_NOTHING: Final = ("", "")


@dataclass(frozen=True)
class Why:
    """What a panel says. `did`: by fwd, by itself. `do`: by a person. `before`: its time is not known but for that."""

    what: str
    href: str
    look: Look
    reason: str
    since: float | None
    evidence: tuple[str, ...]
    did: str
    do: str
    hints: tuple[str, ...] = ()
    before: float | None = None


def why_host(host: HostView) -> Why | None:
    """Say why a host is not up; None: it is."""
    hints = tuple(_hints(host))
    if host.look.state == "up" and not hints:
        return None
    did, do = (_GATEWAY if host.kind == "gateway" else _ROUTER).get(host.look.state, _NOTHING)
    if host.look.state == "unreachable" and host.old:
        did = "It goes on with what it was told last; whether it carries, nobody says."
    if host.alone and host.clusters:
        did = _ALONE.get(host.look.state, did)
    if host.look.state == "degraded" and host.unused_by:
        did = f"It carries less than it should, or nothing: router {', '.join(host.unused_by)} sends by others."
    return Why(f"{host.kind} {host.name}", host.href, host.look, host.reason, host.since, host.evidence, did, do, hints)


def _hints(host: HostView) -> Sequence[str]:
    """What a person is to see to, whatever its state."""
    found = []
    if host.held:
        found.append("It holds a document back until `fwd apply --accept-shrink` there.")
    if host.outdated:
        found.append(f"It runs fwd {host.version}, which is older than the controller: `fwd gateway upgrade`.")
    if host.clock_skew_s is not None and abs(host.clock_skew_s) > _SKEW_S:
        found.append(f"Its clock is {host.clock_skew_s:+.0f} s off.")
    return found


def why_peering(peering: PeeringView) -> Why | None:
    """Say why a peering is not up; None: it is."""
    if peering.look.state == "up":
        return None
    did, do = _PEERING.get(peering.look.state, _NOTHING)
    bad = [pair for pair in peering.pairs if pair.look.state != "up"]
    lossy = sum(pair.carries for pair in bad)
    reason = f"{peering.counted} carry" if peering.pairs else "a cluster of it has no gateway"
    reason += f", {lossy} of them with losses" if lossy else ""
    lines = tuple(_pair_line(pair) for pair in bad)
    return Why(
        f"peering {peering.name}", peering.href, peering.look, reason, peering.since, lines, did, do,
        before=peering.listens_since if peering.since is None else None,
    )  # fmt: skip


def _pair_line(pair: PairView) -> str:
    """Say how a pair is, and how old the word of its ends is."""
    rtt = f", {pair.rtt_ms:.1f} ms" if pair.rtt_ms is not None else ""
    how = f"{rtt}, {pair.loss:.1%} lost" if pair.carries else ""
    (a, a_age), (b, b_age) = ((name, _heard(age)) for name, age in zip((pair.a, pair.b), pair.heard_s, strict=True))
    return f"{a} - {b}: {pair.look.word}{how}; {a} was heard {a_age}, {b} {b_age}"


def _heard(age_s: float | None) -> str:
    return f"{age_s:.1f} s ago" if age_s is not None else "never"

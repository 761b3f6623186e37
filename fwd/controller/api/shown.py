"""How things look to who asks: objects with what is known of them, pairs, operations."""

from __future__ import annotations

from collections import Counter
from typing import Any

from fwd import __version__
from fwd.controller import changes, records
from fwd.controller.api import answers
from fwd.controller.ca import pin
from fwd.controller.control import Control
from fwd.controller.health import GRAY_LOSS, Health
from fwd.controller.place import Pair
from fwd.controller.rekeys import is_under_way
from fwd.controller.tokens import Token
from fwd.controller.upgrade import is_older

_HOSTS = ("gateway", "router")


def objects(control: Control, kind: str) -> dict[str, dict[str, Any]]:
    """All objects of a kind by name, each with its revision, and hosts and peerings with how they are."""
    kept = control.desk.kept
    found = changes.objects_of(kept.fleet, kind)
    pairs = [pair(control, one) for one in kept.pairs] if kind == "peering" else []
    for name, one in found.items():
        one["revision"] = kept.revisions.get((kind, name), 0)
        if kind in _HOSTS:
            one |= _host(control, kind, name)
        if kind == "peering":
            one |= _peering([other for other in pairs if other.peering == name])
    return found


def _host(control: Control, kind: str, name: str) -> dict[str, Any]:
    beat = control.watch.beats.get(name) if control.desk.leads else None  # of long ago, if it has led before
    joined = bool(control.desk.records.of_host(kind, name))
    unused = {"unused_by": control.watch.unused_by(name, control.clock()) if control.desk.leads else []}
    return {
        "health": _health(control, name, joined),
        **(unused if kind == "gateway" else {}),
        "applied": list(beat.applied) if beat else None,
        "held": list(beat.held) if beat and beat.held else None,
        "version": beat.version if beat else None,
        "outdated": is_older(beat.version, __version__) if beat else None,
        "clock_skew_s": round(beat.skew_s, 1) if beat else None,
        "certificate_ends_at": max((one.ends_at for one in control.desk.records.of_host(kind, name)), default=None),
    }


def _health(control: Control, name: str, joined: bool) -> dict[str, Any]:
    if not control.desk.leads:
        reason = "this controller does not lead, and hears nothing of hosts"
        return {"state": "unknown", "reason": reason, "since": None, "evidence": []}
    verdict = control.watch.verdicts.get(name)
    if verdict is None:
        state = "unknown" if joined and name in control.inherited else Health.JOINING.value
        reason = "it is listened to for the first seconds" if joined else "it has not joined yet"
        return {"state": state, "reason": reason, "since": None, "evidence": []}
    return {
        "state": verdict.health.value,
        "reason": verdict.reason,
        "since": control.watch.since.get(name),
        "evidence": list(verdict.evidence),
    }


def _peering(pairs: list[answers.Pair]) -> dict[str, Any]:
    """A peering is as its pairs are: up if all are, degraded if some."""
    up = sum(one.state in ("up", "degraded") for one in pairs)
    states = {one.state for one in pairs}
    state = "up" if states == {"up"} else "degraded" if up else "down" if "down" in states else "unknown"
    return {"state": state if pairs else "empty", "pairs": len(pairs), "pairs_up": up}


def pair(control: Control, one: Pair) -> answers.Pair:
    """A pair, as both of its ends see it. One that is down takes its pairs along: a partner that has nothing to send to
    it does not notice, since those of its own VPC look at it by themselves.
    """
    sights = control.watch.sights_of(one, control.clock())
    verdicts = (control.watch.verdicts.get(end) for end in (one.a, one.b))
    is_down = any(verdict is not None and verdict.health is Health.DOWN for verdict in verdicts)
    loss = max((sight.loss for sight in sights), default=0.0)
    round_trips = [sight.rtt_ms for sight in sights if sight.rtt_ms is not None]
    if is_down or not all(sight.up for sight in sights):
        state = "down"
    elif not sights:
        state = "unknown"
    else:
        state = "degraded" if loss >= GRAY_LOSS else "up"
    rtt_ms = max(round_trips) if round_trips else None
    return answers.Pair(peering=one.peering, a=one.a, b=one.b, state=state, rtt_ms=rtt_ms, loss=loss)


def operation(control: Control, one: records.Operation) -> answers.Operation:
    """An operation, and which hosts have yet to apply it, or to have the new keys that it wants."""
    here = {name for _, name in control.desk.hosts}
    waiting = control.watch.waiting_for(one.order, (name for name in one.hosts if name in here))
    is_rekeying = is_under_way(one)
    if is_rekeying:
        waiting = list(control.rekeys.lacking(one, here, control.watch.beats, control.clock(), control.wall()))
    return answers.Operation(
        id=one.id, at=one.at, who=one.who, act=one.act, kind=one.kind, name=one.name, plan=list(one.plan),
        order=one.order, progress=answers.Progress(hosts=len(one.hosts), waiting=waiting),
        reason=one.reason, steps=list(one.steps),
        result=one.result or (records.RUNNING if waiting or is_rekeying else "done"),
    )  # fmt: skip


def standing(control: Control) -> answers.Standing:
    """How this controller stands; one that follows judges no hosts."""
    desk = control.desk
    leading = desk.leads
    judged = [control.watch.verdicts.get(name) for _, name in desk.hosts] if leading else []
    states = Counter(one.health.value if one else Health.JOINING.value for one in judged)
    return answers.Standing(
        who=control.who, version=__version__, leading=leading, leader=control.who if leading else control.leader,
        term=desk.term if leading else None, generation=desk.kept.generation, cluster_id=desk.cluster_id,
        hosts=dict(sorted(states.items())),
    )  # fmt: skip


def authorities(control: Control) -> answers.Authorities:
    """The CAs, and who has not heard of them since this controller began to lead, or renewed since they are so."""
    desk, watch = control.desk, control.watch
    term, _ = desk.newest
    pins = [pin(one) for one in desk.keys.trusted()]
    joined = {(kind, name): desk.records.of_host(kind, name) for kind, name in sorted(desk.hosts)}
    heard = {name for name, beat in watch.beats.items() if beat.applied[0] >= term}
    return answers.Authorities(
        trusted=pins,
        waiting=[name for (_, name), certificates in joined.items() if certificates and name not in heard],
        old=[name for (_, name), certificates in joined.items() if certificates and certificates[-1].issuer != pins[0]],
    )


def token(one: Token, now: float) -> dict[str, Any]:
    """A token, without what it is kept by."""
    state = "used" if one.used_key else "ended" if one.ends_at is not None and now >= one.ends_at else "good"
    shown = {"name": one.name, "role": one.role, "made_at": one.made_at, "state": state}
    if not one.vpc:
        return shown
    joins = {"vpc": one.vpc, "kind": one.kind, "ends_at": one.ends_at, "used_by": one.used_by or None}
    return {**shown, **joins, "replaces": one.replaces or None}

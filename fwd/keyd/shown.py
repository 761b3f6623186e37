"""What keyd shows of its IKE SAs, and of what is to be feared: no keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from fwd.keyd.pairs import MemberPairs
from fwd.model.pairing import Far
from fwd.proto.ike import auth
from fwd.proto.ike.child import Child
from fwd.proto.ike.sa import IkeSa
from fwd.proto.ike.upkeep import ends_at

UNANSWERED_S: Final = 5.0  # a peer that has not answered for so long is spoken of
DRAINS: Final = "the far gateway is being drained: it is to go out of service"
_NEVER = float("inf")


def shown(sa: IkeSa, members: Sequence[MemberPairs], far: Far, now: float) -> dict[str, Any]:
    """What there is to see of an IKE SA, as `swanctl --list-sas` has it; ages and what is left in seconds at `at_s`.

    `members` are those that are paired with `far`.
    """
    host, port = sa.remote
    return {
        "at_s": round(now, 1),
        "state": sa.state.name.lower(),
        "spi_i": sa.spi_i.hex(),
        "spi_r": sa.spi_r.hex(),
        "initiator": sa.initiator,
        "behind_nat": sa.peer.sees_nat,
        "peer_behind_nat": sa.peer.behind_nat,
        "remote": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        "remote_id": auth.name_of(sa.connection.remote_id),
        "established_s": round(now - sa.established_at) if sa.established_at else None,
        "authenticated_s": round(now - sa.standing.authenticated_at) if sa.established_at else None,
        "ends_s": _left(ends_at(sa), now) if sa.established_at else None,
        "children": [_child(child, members, far, now) for child in sa.children.values()],
    }


def _child(child: Child, members: Sequence[MemberPairs], far: Far, now: float) -> dict[str, Any]:
    member = child.keys.member
    pair = members[member].pair(child.spi_in) if member < len(members) else None
    return {
        "member": far.member(member),
        "state": child.use.name.lower(),
        "spi_in": f"{child.spi_in:#010x}",
        "spi_out": f"{child.spi_out:#010x}",
        "proposal": child.keys.proposal,
        "age_s": round(now - pair.made_at) if pair else None,
        "ends_s": _left(pair.ends_at, now) if pair else None,
    }


def outline(sas: Iterable[IkeSa], failures: Mapping[Any, int], now: float) -> tuple[object, ...]:
    """Return what is another where there is another thing to tell without news of it; time alone changes nothing."""
    return sum(failures.values()), [
        (sa.state, len(sa.children), int(sa.unanswered_s(now) / UNANSWERED_S)) for sa in sas
    ]


def _left(at: float, now: float) -> int | None:
    return None if at == _NEVER else round(max(0.0, at - now))


def concern(
    members: Sequence[MemberPairs], refused: Mapping[int, str], inherited_end: str, sa: IkeSa | None, now: float
) -> str:
    """Say why members may soon have nothing to send on, and when, if that is known; empty: they will have.

    `refused`: why the peer gives a member nothing more. `inherited_end`: why the SAs of a keyd before end. `sa`: the
    IKE SA that speaks for the connection.
    """
    left = [seconds for member in members if (seconds := member.ends_in(now)) is not None]
    when = f"SAs end in {min(left):.0f} s" if left else "there is nothing to send on"
    in_need = {refused[i] for i, member in enumerate(members) if i in refused and member.needs_more(now)}
    if in_need and (left or all(member.bare for member in members)):
        return f"the peer refuses every rekeying ({', '.join(sorted(in_need))}): {when}"
    inherited = [seconds for member in members if (seconds := member.inherited_ends_in(now)) is not None]
    if inherited_end and inherited:
        return f"{inherited_end}: what was authenticated before ends in {max(inherited):.0f} s"
    if sa is None:
        return f"there is no IKE SA: {when}" if left else ""
    silent_s = unanswered_s(sa, members, now)
    if silent_s and (left or all(member.bare for member in members)):
        return f"the peer does not answer, for {silent_s:.0f} s now: {when}"
    return DRAINS if sa.peer.drains else ""


def unanswered_s(sa: IkeSa, members: Sequence[MemberPairs], now: float) -> float:
    """For how long the peer has not answered, if that is worth a word: it is long, or there is nothing to send on."""
    silent_s = sa.unanswered_s(now)
    return silent_s if silent_s >= UNANSWERED_S or all(member.bare for member in members) else 0.0


def together(told: Mapping[Far, Mapping[str, Any]]) -> dict[str, Any]:
    """What there is to see of a peering, of what there is to see of each far gateway that has anything."""
    each = {far: one for far, one in told.items() if one}
    if not each:
        return {}
    return {
        "sas": [sa for one in each.values() for sa in one["sas"]],
        **{key: sum(one.get(key, 0) for one in each.values()) for key in ("half_open", "faults")},
        **{key: _of_all(each, key) for key in ("error", "concern")},
        "stopped": any(one.get("stopped") for one in each.values()),
        "failures": dict(sum((Counter(one.get("failures", {})) for one in each.values()), Counter[str]())),
        "certificates": _certificates([one["certificates"] for one in each.values() if one.get("certificates")]),
        **{key: _by_member(one.get(key, {}) for one in each.values()) for key in ("refused", "narrower")},
        "far": [_far(far, one) for far, one in each.items()],
    }


def _by_member(told: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What is told of members, in their order."""
    found = {member: words for one in told for member, words in one.items()}
    return dict(sorted(found.items(), key=lambda item: int(item[0])))


def _far(far: Far, told: Mapping[str, Any]) -> dict[str, Any]:
    """What there is to see of one far gateway alone."""
    established = any(sa["state"] in ("established", "rekeying") for sa in told["sas"])
    return {"number": far.number, "established": established, "error": told.get("error", "")}


def _of_all(each: Mapping[Far, Mapping[str, Any]], key: str) -> str:
    """A sentence about one far gateway or several; with several, each is named."""
    said = {far: one[key] for far, one in each.items() if one.get(key)}
    return "; ".join(text if far.count == 1 else f"{far.address}: {text}" for far, text in said.items())


def _certificates(told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Ours, and of the far ones that which ends first."""
    if not told:
        return {}
    days = [one for one in told if one.get("remote_days") is not None]
    first = min(days, key=lambda one: one["remote_days"], default=told[0])
    findings = list(dict.fromkeys(finding for one in told for finding in one.get("findings", ())))
    return {**first, "findings": findings}

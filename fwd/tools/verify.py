"""`fwd verify`: real packets over the SA in use of every member, and what comes back: each pair of this gateway's.

Each member sends ECHOES echoes (proto/check.py) on its own SA; the far member answers each inside its own. So a pair
passes if every packet came back, in both directions. A far gateway that answers no echoes, as a standard IPsec peer,
cannot be verified so, and does not pass. Not seen by it: the hosts behind the gateways, and routes to the TUN device;
what the gateway knows of these (its reasons for not being ready) is told, too. As root.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from fwd.agent.client import ask
from fwd.control.admin import tell
from fwd.proto.errors import UserError

WAIT_S: Final = 3.0  # for answers; a member that rests or is busy begins within 0.2 s
_POLL_S: Final = 0.05
_HEADINGS: Final = ("PAIR", "PEERING", "MEMBERS", "SENT", "BACK", "RTT MS", "VERDICT")
Json = dict[str, Any]


@dataclass(frozen=True)
class Member:
    """A member's check. `fault`: why it does not pass; empty: it does."""

    index: int
    spi: str | None
    sent: int
    back: int
    rtt_ms: float | None
    fault: str


@dataclass(frozen=True)
class Pair:
    """This gateway and one far gateway of a peering."""

    peering: str
    far: str
    members: tuple[Member, ...]

    @property
    def faults(self) -> list[str]:
        """Why it does not pass: alike ones once."""
        found: dict[str, list[str]] = {}
        for one in self.members:
            if one.fault:
                found.setdefault(one.fault, []).append(str(one.index))
        if not self.members:
            return ["no member is paired with it"]
        return [f"member{'s' if len(who) > 1 else ''} {', '.join(who)}: {fault}" for fault, who in found.items()]


def run(control: Path, peering: str, *, as_json: bool) -> tuple[str, int]:
    """Return what to print, and the exit status: 0 if every pair passes, else 1. Raises UserError."""
    if os.geteuid() != 0:
        raise UserError("fwd verify needs root: it has the gateway send packets")
    asked = tell(control, "verify", peering=peering)["asked"]
    told = _answers(lambda: ask(control, "checks"), asked, time.monotonic, time.sleep)
    status = ask(control)
    pairs = [pair for one in status["peerings"] if one["name"] in asked for pair in pairs_of(one, told[one["name"]])]
    reasons = [one["text"] for one in status.get("reasons", ()) if one["peering"] in ("", *asked)]
    failed = bool(reasons) or not pairs or any(pair.faults for pair in pairs)
    if as_json:
        shown = [{**asdict(pair), "faults": pair.faults} for pair in pairs]
        text = json.dumps({"passed": not failed, "pairs": shown, "reasons": reasons}, indent=2)
    else:
        text = "\n".join(lines(pairs, reasons))
    return text, int(failed)


def _answers(
    look: Callable[[], Json], asked: Sequence[str], clock: Callable[[], float], sleep: Callable[[float], None]
) -> dict[str, list[Json]]:
    """Wait until all that was sent is back, or WAIT_S are over; return what members tell, by peering."""
    until = clock() + WAIT_S
    while True:
        told = {one["name"]: one["members"] for one in look()["peerings"]}
        found = {name: told.get(name, []) for name in asked}
        done = all(_is_done(one) for members in found.values() for one in members)
        if done or clock() >= until:
            return found
        sleep(_POLL_S)


def _is_done(told: Mapping[str, Any]) -> bool:
    return bool(told["run"] == told["asked"] and told["back"] == told["wanted"])


def pairs_of(peering: Mapping[str, Any], told: Sequence[Mapping[str, Any]]) -> Iterator[Pair]:
    """Yield the pairs of a peering. `peering`: its status; `told`: what its members tell of their checks."""
    checks = {one["index"]: one for one in told}
    there = {one["index"]: one for one in peering["members"]}
    far = peering.get("far") or [{"address": peering["remote_addrs"], "members": list(there)}]
    for one in far:
        members = (_member(there[i], checks.get(i)) for i in one["members"] if i in there)
        yield Pair(peering["name"], one["address"], tuple(members))


def _member(status: Mapping[str, Any], told: Mapping[str, Any] | None) -> Member:
    """Judge one member."""
    index, spi = status["index"], status["spi_out"]
    if status["state"] != "running":
        return Member(index, spi, 0, 0, None, f"is in {status['state']}")
    if spi is None:
        return Member(index, None, 0, 0, None, "has no SA to send on")
    if told is None or told["run"] != told["asked"] or not told["sent"]:
        return Member(index, spi, 0, 0, None, "sent nothing: the far side answers no echoes, or it hangs")
    sent, back = told["sent"], told["back"]
    fault = "" if back == told["wanted"] else f"{back} of {sent} came back" if back else "nothing came back"
    return Member(index, told["spi"], sent, back, told["rtt_ms"], fault)


def lines(pairs: Sequence[Pair], reasons: Sequence[str]) -> Iterator[str]:
    """Yield a row for each pair, and what else keeps packets from passing."""
    rows = [_HEADINGS, *map(_row, pairs)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(_HEADINGS))]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
    yield from (f"not ready: {one}" for one in reasons)
    passed = sum(not pair.faults for pair in pairs)
    yield f"{passed} of {len(pairs)} pairs pass{', and the gateway is not ready' if reasons else ''}"


def _row(pair: Pair) -> tuple[str, ...]:
    rtts = [one.rtt_ms for one in pair.members if one.rtt_ms is not None]
    sent, back = (sum(getattr(one, key) for one in pair.members) for key in ("sent", "back"))
    rtt = f"{max(rtts):.1f}" if rtts else "-"
    return pair.far, pair.peering, str(len(pair.members)), str(sent), str(back), rtt, "; ".join(pair.faults) or "passes"

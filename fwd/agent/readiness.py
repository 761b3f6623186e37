"""Why the gateway is not ready, looked up in shared memory; logged in one line when it changes.

The agent judges it every LOOK_S by itself, from words that cost little, so that the log tells of it even when nobody
asks for the status.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, get_args

from fwd.agent import ike
from fwd.agent.view import GatewayView, PeeringView
from fwd.datapath.shared import REST_MAX_S, LinkWord, MemberShared, ProcessRow, ProcessState, ProcessWords
from fwd.model.linked import news_in
from fwd.model.pairing import Far, far_of
from fwd.model.readiness import Carried, MemberFacts, PeeringFacts, peering_reasons, process_reasons
from fwd.model.reasons import Code, Reason, from_json
from fwd.model.status import State
from fwd.proto.flow import NOBODY
from fwd.proto.logged import event

LOOK_S: Final = 3.0
STALE_S: Final = 3.0  # a loop that has not turned for so long carries nothing, whatever its words say
SUPERVISOR_STALE_S: Final = 5.0  # it may be busy with a change; what it told before is old then
HUNG: Final = "hung"
STATES: Final[Mapping[ProcessState, State]] = {ProcessState[state.upper()]: state for state in get_args(State)}
_TOLD_MAX: Final = 8  # reasons in one line of the log
log = logging.getLogger(__name__)


def news_of(view: GatewayView) -> dict[str, Any]:
    """What the supervisor tells."""
    news: dict[str, Any] = json.loads(view.shared.troubles.get() or b"{}")
    return news


def told_of(view: GatewayView) -> dict[str, ike.Told]:
    """What keyd tells of the peerings that have IKE."""
    return ike.read(view.shared.ike.get(), [p.config.name for p in view.peerings if p.config.ike])


def turns(process: ProcessWords, now: float) -> bool:
    """Whether a process runs, and has turned lately or rests; one that has just begun need not have turned yet."""
    row = process.get()
    return row.state is ProcessState.RUNNING and _has_turned(row, now)


def _has_turned(row: ProcessRow, now: float) -> bool:
    beat_at = row.heartbeat_ns / 1e9
    turned_at = max(beat_at if beat_at <= now + REST_MAX_S else 0.0, row.started_ns / 1e9)
    return turned_at >= now - STALE_S


def supervisor_silent_s(view: GatewayView, now: float) -> float:
    """For how long the supervisor has not gone on; 0: it goes on."""
    silent_s: float = now - view.shared.turned[0] / 1e9
    return silent_s if silent_s >= SUPERVISOR_STALE_S else 0.0


def reasons(view: GatewayView, news: Mapping[str, Any], told: Mapping[str, ike.Brief], now: float) -> list[Reason]:
    """Return why the gateway is not ready, of what the supervisor (`news`) and keyd tell, and of shared memory.

    Who does not turn says nothing any more: its last words are not believed.
    """
    return list(_reasons(view, news, told, now))


def _reasons(view: GatewayView, news: Mapping[str, Any], told: Mapping[str, ike.Brief], now: float) -> Iterator[Reason]:
    if silent_s := supervisor_silent_s(view, now):
        yield Reason.of(Code.SUPERVISOR, pid=view.pid, silent_s=round(silent_s))
    yield from process_reasons("keyd", _state(view.shared.keyd, now))
    waiting, of_supervisor = news.get("waiting", {}), [from_json(one) for one in news.get("reasons", ())]
    lacks = not view.peerings and not waiting and all(one.code != Code.NOT_IN_FORCE for one in of_supervisor)
    if lacks and (controller := news_in(news.get("controller"))):
        yield Reason.of(Code.NOTHING_TO_CARRY, where=controller.url)
    for name, why in waiting.items():
        yield Reason.of(Code.NOT_SET_UP, name, why=why or "it has only just come")
    yield from of_supervisor
    for peering in view.peerings:
        yield from peering_reasons(_facts(peering, told.get(peering.config.name, ike.Brief()), now))


def _state(process: ProcessWords, now: float) -> str:
    row = process.get()
    state = STATES[row.state]
    return HUNG if state == "running" and not _has_turned(row, now) else state


def _facts(view: PeeringView, told: ike.Brief, now: float) -> PeeringFacts:
    config = view.config
    each, fars = config.ports, config.fars
    ports = f"{each[0]}" if len(each) == 1 else f"{each[0]} to {each[-1]}"
    held = {i: Carried(tuple(n.local), tuple(n.remote), tuple(n.not_wholly)) for i, n in told.narrower.items()}
    error = told.error if told.error not in (ike.NOTHING, ike.UNREADABLE) else ""
    numbered, staying = enumerate(view.shared.members), config.staying
    members = [_member(member, far_of(i, fars), now, spared=i not in staying) for i, member in numbered]

    # Members may be there for a moment before the demux has learned of them. Almost always the first bucket tells.
    demux, owners = _state(view.shared.demux, now), view.shared.owners
    if demux == "running" and any(one.sends for one in members) and owners[0] == NOBODY and owners.min() == NOBODY:
        demux = "without a member yet"
    return PeeringFacts(
        name=config.name,
        remote=config.where,
        ports=ports,
        demux=demux,
        members=members,
        refused=frozenset(told.refused),
        narrower=held,
        why=told.concern or error,
        stopped=told.stopped,
    )


def _member(member: MemberShared, far: Far | None, now: float, *, spared: bool) -> MemberFacts:
    state, sends = _state(member.process, now), bool(member.link[LinkWord.SPI_OUT])
    return MemberFacts(state, sends, member.path_down, far.number if far else 0, spared)


def carries(member: MemberShared, now: float) -> bool:
    """Whether a member turns, can send, and its path is up."""
    return turns(member.process, now) and bool(member.link[LinkWord.SPI_OUT]) and not member.path_down


class Watch:
    """Looks every LOOK_S, and logs one line when the gateway becomes ready, or is not for other reasons."""

    def __init__(self, view: GatewayView, now: float) -> None:
        """The first look is not at once: a gateway that has just started is not ready yet."""
        self._view = view
        self._look_at = now + LOOK_S
        self._known: frozenset[tuple[str, str]] | None = None

    def turn(self, now: float) -> None:
        """Look, if it is time."""
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            names = [peering.config.name for peering in self._view.peerings if peering.config.ike]
            told = ike.read_briefly(self._view.shared.ike.get(), names)
            self.note(reasons(self._view, news_of(self._view), told, now))

    def note(self, found: Sequence[Reason]) -> None:
        """Log `found` if its kinds are others than before; numbers in texts may change without a line."""
        kinds = frozenset((one.code, one.peering) for one in found)
        if kinds == self._known:
            return
        self._known = kinds
        if not found:
            log.info("the gateway is ready", extra=event("gateway.ready"))
            return
        lines = [f"{one.line} ({one.remedy})" for one in found[:_TOLD_MAX]]
        more = [f"{len(found) - _TOLD_MAX} more, see `fwd status`"] if len(found) > _TOLD_MAX else []
        codes = sorted({one.code for one in found})
        log.warning("not ready: %s", "; ".join([*lines, *more]), extra=event("gateway.not_ready", codes=codes))

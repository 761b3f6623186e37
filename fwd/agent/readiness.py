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
from fwd.datapath.shared import LinkWord, MemberShared, ProcessState
from fwd.model.pairing import Far, far_of
from fwd.model.readiness import Carried, MemberFacts, PeeringFacts, peering_reasons, process_reasons
from fwd.model.reasons import Code, Reason, from_json
from fwd.model.status import State
from fwd.proto.logged import event

LOOK_S: Final = 3.0
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


def reasons(view: GatewayView, news: Mapping[str, Any], told: Mapping[str, ike.Brief]) -> list[Reason]:
    """Return why the gateway is not ready, of what the supervisor (`news`) and keyd tell, and of shared memory."""
    return list(_reasons(view, news, told))


def _reasons(view: GatewayView, news: Mapping[str, Any], told: Mapping[str, ike.Brief]) -> Iterator[Reason]:
    yield from process_reasons("keyd", STATES[view.shared.keyd.state])
    for name, why in news.get("waiting", {}).items():
        yield Reason.of(Code.NOT_SET_UP, name, why=why)
    yield from (from_json(one) for one in news.get("reasons", ()))
    for peering in view.peerings:
        yield from peering_reasons(_facts(peering, told.get(peering.config.name, ike.Brief())))


def _facts(view: PeeringView, told: ike.Brief) -> PeeringFacts:
    config = view.config
    ports = f"{config.ports[0]}" if len(config.ports) == 1 else f"{config.ports[0]} to {config.ports[-1]}"
    held = {i: Carried(tuple(n.local), tuple(n.remote), tuple(n.not_wholly)) for i, n in told.narrower.items()}
    error = told.error if told.error not in (ike.NOTHING, ike.UNREADABLE) else ""
    return PeeringFacts(
        name=config.name,
        remote=config.where,
        ports=ports,
        demux=STATES[view.shared.demux.state],
        members=[
            _member(member, far_of(i, config.fars)) for i, member in enumerate(view.shared.members[: config.members])
        ],
        refused=frozenset(told.refused),
        narrower=held,
        why=told.concern or error,
        stopped=told.stopped,
    )


def _member(member: MemberShared, far: Far) -> MemberFacts:
    state, sends = STATES[member.process.state], bool(member.link[LinkWord.SPI_OUT])
    return MemberFacts(state, sends, member.path_down, far.number)


def carries(member: MemberShared) -> bool:
    """Whether a member runs, can send, and its path is up."""
    running = member.process.state is ProcessState.RUNNING
    return running and bool(member.link[LinkWord.SPI_OUT]) and not member.path_down


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
            self.note(reasons(self._view, news_of(self._view), told))

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

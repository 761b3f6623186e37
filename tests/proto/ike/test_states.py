"""The states of IKE SAs and Child SAs: schedules make every move in the tables and no other; docs/ike.md shows them."""

from __future__ import annotations

import random
import runpy
from pathlib import Path
from typing import Any

import pytest
from ikekit import NAME, Net
from test_schedules import SCHEDULES, command, run, trouble

from fwd.proto.ike.child import Child
from fwd.proto.ike.numbers import Notify, Protocol
from fwd.proto.ike.payloads import AnyPayload, Delete, Notification
from fwd.proto.ike.sa import IkeSa
from fwd.proto.ike.states import CHILD_MOVES, IKE_MOVES, IllegalMoveError, State, Use

DOCS = Path(__file__).parents[3] / "docs"
ENOUGH = 40  # schedules for every move
LIES: list[list[AnyPayload]] = [
    [],
    [Delete(Protocol.IKE)],
    [Notification(Notify.INVALID_KE_PAYLOAD, b"\0\x13")],
    [Notification(Notify.TEMPORARY_FAILURE)],
    [Notification(Notify.CHILD_SA_NOT_FOUND)],
    [Notification(Notify.NO_ADDITIONAL_SAS)],
    [Notification(Notify.INVALID_SYNTAX)],
    [Notification(Notify.INITIAL_CONTACT)],
]


def run_with_liar(seed: int) -> Net:
    """A schedule in which side `b` does what it is asked to, and answers something else now and then."""
    dice = random.Random(seed)
    net = Net(seed).connect()
    for sa in net.b.live():
        respond = sa.respond

        def lie(
            sa: IkeSa, exchange: int, request: list[AnyPayload], now: float, respond: Any = respond
        ) -> list[AnyPayload]:
            answer = respond(sa, exchange, request, now)
            return dice.choice(LIES) if dice.random() < 0.3 else list(answer)

        sa.respond = lie
    trouble(net, dice)
    for _ in range(10):
        command(net, dice)
        net.run(dice.choice([0.0, 0.02, 0.5, 3.0]))
    net.run(60)
    return net


def test_every_move_in_the_tables_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """What no schedule ever does would be a rule without a reason."""
    made: set[tuple[State | Use, State | Use]] = set()

    def watch(kind: type[IkeSa] | type[Child], field: str) -> None:
        move = kind.move

        def watched(self, to):  # type: ignore[no-untyped-def]
            made.add((getattr(self, field), to))
            move(self, to)

        monkeypatch.setattr(kind, "move", watched)

    watch(IkeSa, "state")
    watch(Child, "use")
    for seed in range(ENOUGH):
        run(seed)
        run_with_liar(seed)
    assert made == {(old, new) for table in (IKE_MOVES, CHILD_MOVES) for old, moves in table.items() for new in moves}


def test_whatever_a_peer_answers_no_illegal_move_is_made() -> None:
    """And what is told of Child SAs stays true."""
    for seed in range(SCHEDULES):
        side = run_with_liar(seed).a
        held = {spi for sa in side.endpoint.sas(NAME) for spi in sa.children}
        assert set(side.children()) == held, f"schedule {seed}"


def test_an_illegal_move_changes_nothing() -> None:
    net = Net().connect()
    (sa,) = net.a.live()
    (child,) = sa.children.values()
    with pytest.raises(IllegalMoveError, match="CONNECTING after ESTABLISHED"):
        sa.move(State.CONNECTING)
    with pytest.raises(IllegalMoveError, match="INSTALLED after INSTALLED"):
        child.move(Use.INSTALLED)
    assert (sa.state, child.use) == (State.ESTABLISHED, Use.INSTALLED)


def test_the_page_shows_the_tables() -> None:
    """If it does not: `python docs/states.py`."""
    page = (DOCS / "ike.md").read_text(encoding="utf-8")
    assert runpy.run_path(str(DOCS / "states.py"))["with_tables"](page) == page

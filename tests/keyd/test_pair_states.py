"""The life of a pair of SAs: what may happen to it in which state, and what follows; docs/ike.md shows the table."""

from __future__ import annotations

import contextlib
import itertools
import random

import pytest
from test_pairs import World

from fwd.keyd.pair import Pair
from fwd.keyd.pair_states import FOLLOWS, Happening, Life, after
from fwd.proto.ike.states import IllegalMoveError

EVERY = list(itertools.product(Life, Happening))
# What no state but these may come from: who sends on an SA is decided once (rule 1).
INTO_SPARE = {(Life.WAITING, Happening.CONFIRMED), (Life.USED, Happening.NOT_HANDED_OUT)}
# What every run of a minute has, with deaths, rekeyings and an end.
USUAL = {
    (Life.WAITING, Happening.CONFIRMED), (Life.SPARE, Happening.HANDED_OUT), (Life.SPARE, Happening.REPLACED),
    (Life.SPARE, Happening.ENDED), (Life.USED, Happening.SENT_ON), (Life.USED, Happening.ABANDONED),
    (Life.USED, Happening.REPLACED), (Life.USED, Happening.ENDED), (Life.LEFT, Happening.DELETED),
    (Life.REPLACED, Happening.DELETED), (Life.GONE, Happening.ENDED),
}  # fmt: skip


@pytest.mark.parametrize(("life", "happening"), EVERY, ids=lambda one: one.name)
def test_what_the_table_does_not_have_changes_nothing(life: Life, happening: Happening) -> None:
    if happening in FOLLOWS[life]:
        assert after(life, happening) is FOLLOWS[life][happening]
    else:
        pair = Pair.__new__(Pair)
        pair.life = life
        with pytest.raises(IllegalMoveError, match=f"{happening.name} while {life.name}"):
            pair.note(happening)
        assert pair.life is life


def test_every_state_has_its_row_and_ends() -> None:
    assert list(FOLLOWS) == list(Life)
    assert all(FOLLOWS[life][Happening.ENDED] is Life.OVER for life in Life if life is not Life.OVER)
    assert not FOLLOWS[Life.OVER]


def test_what_was_handed_out_is_never_spare_again_unless_nobody_got_it() -> None:
    moves = {(life, happening) for life, row in FOLLOWS.items() for happening in row}
    assert {(life, happening) for life, happening in moves if FOLLOWS[life][happening] is Life.SPARE} == INTO_SPARE


def test_what_the_peer_has_deleted_stays_gone() -> None:
    assert set(FOLLOWS[Life.GONE].values()) == {Life.GONE, Life.OVER}
    assert all(row[Happening.DELETED] is Life.GONE for life, row in FOLLOWS.items() if life is not Life.OVER)


def test_deaths_rekeyings_and_an_end_make_the_usual_moves(
    undo: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: set[tuple[Life, Happening]] = set()
    note = Pair.note

    def watch(pair: Pair, happening: Happening) -> None:
        made.add((pair.life, happening))
        note(pair, happening)

    monkeypatch.setattr(Pair, "note", watch)
    world, dice = World(undo, rekey_time=5), random.Random(1)
    for _ in range(30):
        world.run(dice.random() * 2)
        for side in world.sides:
            dice.choice(side.members).alive = dice.random() < 0.5
    keyd = world.sides[0].keyd
    assert keyd is not None
    keyd.terminate(world.now)
    world.run(0.5, traffic=False)
    assert made >= USUAL

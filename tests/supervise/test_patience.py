"""What others take away is restored at once, and what they take again and again less and less often."""

from __future__ import annotations

from fwd.supervise.patience import CALM_S, SOON_S, STRIKES, TOLD_AT_ONCE, TOLD_EVERY_S, Allowance, Patience

WHAT = "route"


def restorations(patience: Patience[str], every_s: float, seconds: float) -> list[float]:
    """When something is restored that somebody removes `every_s` after it was; looked at ten times a second."""
    done: list[float] = []
    for tenths in range(int(seconds * 10)):
        now = tenths / 10
        if (not done or now - done[-1] >= every_s) and patience.may_restore(WHAT, now):
            patience.restored(WHAT, now)
            done.append(now)
    return done


def test_what_goes_now_and_then_is_restored_at_once() -> None:
    assert len(restorations(Patience(), SOON_S + 1, 300)) == 300 / (SOON_S + 1)


def test_a_fight_is_not_spun() -> None:
    patience = Patience[str](longest_s=30)
    done = restorations(patience, 0.5, 600)
    assert len(done) < 600 / 30 + 15
    assert done[1] - done[0] == 0.5, "the first times it is restored at once"
    assert done[-1] - done[-2] >= 30
    assert patience.fought_over() == {WHAT: len(done)}


def test_guards_are_restored_at_once_however_long_the_fight() -> None:
    patience = Patience[str](longest_s=0)
    assert len(restorations(patience, 0.5, 100)) == 200
    assert patience.fought_over()


def test_peace_is_made_when_it_has_stood() -> None:
    patience = Patience[str]()
    last = restorations(patience, 0.5, 30)[-1]
    patience.forget([], last + CALM_S - 0.1)
    assert patience.fought_over()
    patience.forget([], last + CALM_S + 0.1)
    assert not patience.fought_over()
    assert patience.may_restore(WHAT, last + CALM_S + 0.2)


def test_what_cannot_be_restored_is_tried_less_often_and_at_once_when_something_has_changed() -> None:
    patience, tries = Patience[str](longest_s=30), 0
    for tenths in range(3000):
        if patience.may_restore(WHAT, tenths / 10):
            patience.refused(WHAT)
            tries += 1
    assert tries < 20
    assert not patience.may_restore(WHAT, 300.0)
    patience.hope()
    assert patience.may_restore(WHAT, 300.0)
    assert not patience.fought_over(), "nobody has removed it"


def test_some_lines_at_once_and_then_one_a_minute() -> None:
    lines = Allowance()
    assert [lines.may_tell(0.0) for _ in range(TOLD_AT_ONCE + STRIKES)] == [True] * TOLD_AT_ONCE + [False] * STRIKES
    assert lines.kept_back == STRIKES
    told = sum(lines.may_tell(now) for now in range(1, 10 * int(TOLD_EVERY_S) + 1))
    assert told == 10

"""What a member's pairs want of IKE, and on which it is to send: tables."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fwd.keyd.due import missing, needs_more, to_hurry, to_rekey, to_retire, to_switch_to
from fwd.keyd.pair import Pair, Times
from fwd.keyd.pair_states import Life
from fwd.keyd.wants import OTHER_SIDE_S, Wants
from fwd.proto.ike.causes import By

TIMES = Times(rekey_s=100.0, life_s=110.0)
NOW = 1000.0


def pair(life: Life = Life.SPARE, *, spi: int = 1, authentication: int = 1, age_s: float = 0.0, **more: Any) -> Pair:
    keys: Any = SimpleNamespace(inbound=SimpleNamespace(spi=spi))
    receiver: Any = SimpleNamespace(heard=lambda spi: False)
    standing: Any = SimpleNamespace(authentication=authentication)
    return Pair(keys, receiver, standing, TIMES, NOW - age_s, NOW - age_s, life, share=1.0, **more)


def used(**more: Any) -> Pair:
    return pair(Life.USED, spi=100, **more)


# -- on which to send ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("current", "others", "chosen"),
    [
        (used(), [pair(spi=2)], None),
        (None, [pair(spi=2), pair(spi=3)], 2),
        (None, [pair(spi=2, outdated=True), pair(spi=3)], 3),
        (None, [pair(Life.WAITING, spi=2)], None),
        (pair(Life.GONE, spi=9), [pair(spi=2), pair(spi=3)], 2),
        (pair(Life.GONE, spi=9, successor=3), [pair(spi=2), pair(spi=3)], 3),
        (pair(Life.GONE, spi=9, successor=4), [pair(spi=2)], 2),
        (used(outdated=True), [pair(spi=2, outdated=True)], None),
        (used(outdated=True), [pair(spi=2, outdated=True), pair(spi=3)], 3),
        (used(authentication=0), [pair(spi=2, authentication=0), pair(spi=3)], 3),
        (used(age_s=105.0, asked_at=NOW - 60), [pair(spi=2)], 2),
        (used(age_s=105.0, asked_at=NOW - 60), [pair(spi=2, age_s=105.0)], None),
        (used(age_s=105.0), [pair(spi=2)], None),
    ],
)
def test_which_pair_is_sent_on_next(current: Pair | None, others: list[Pair], chosen: int | None) -> None:
    held = [*others, *([current] if current else [])]
    found = to_switch_to(held, current, 1, TIMES, NOW)
    assert (found and found.spi) == chosen


@pytest.mark.parametrize(
    ("current", "silent", "others", "chosen"),
    [
        (pair(Life.GONE, deaf=True), False, [pair(Life.WAITING, spi=2), pair(Life.WAITING, spi=3)], 3),
        (pair(Life.GONE, deaf=True), False, [pair(Life.WAITING, spi=2), pair(spi=3)], None),
        (pair(Life.GONE, deaf=True), False, [], None),
        (pair(Life.GONE), False, [pair(Life.WAITING, spi=2)], None),
        (used(), False, [pair(Life.WAITING, spi=2)], None),
        (None, False, [pair(Life.WAITING, spi=2)], None),
        (None, True, [pair(Life.WAITING, spi=2), pair(Life.WAITING, spi=3)], 3),
        (None, True, [pair(Life.WAITING, spi=2), pair(spi=3)], None),
    ],
)
def test_a_pair_is_not_waited_for_when_nothing_is_lost_by_it(
    current: Pair | None, silent: bool, others: list[Pair], chosen: int | None
) -> None:
    found = to_hurry(others, current, silent=silent)
    assert (found and found.spi) == chosen


# -- what goes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("current", "others", "go"),
    [
        (used(), [pair(spi=2, outdated=True), pair(spi=3, outdated=True), pair(spi=4)], [2, 3]),
        (used(), [pair(spi=2, outdated=True)], []),
        (used(), [pair(spi=2, outdated=True), pair(Life.WAITING, spi=3)], []),
        (used(outdated=True), [pair(spi=2, outdated=True), pair(spi=3)], []),
        (None, [pair(spi=2, outdated=True), pair(spi=3)], []),
        (used(), [pair(Life.LEFT, spi=2, outdated=True), pair(spi=3)], []),
    ],
)
def test_spares_of_other_subnets_go_once_others_are_used_and_wait(
    current: Pair | None, others: list[Pair], go: list[int]
) -> None:
    assert [one.spi for one in to_retire(others, current, 1)] == go


# -- what is asked for --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("current", "others", "count"),
    [
        (used(), [pair(), pair(Life.WAITING)], 0),
        (used(), [pair()], 1),
        (None, [], 3),
        (used(outdated=True), [pair(outdated=True), pair(outdated=True)], 3),
        (used(authentication=0), [pair()], 2),
        (used(), [pair(Life.LEFT), pair(Life.REPLACED), pair(Life.GONE)], 2),
        (used(), [pair(), pair(), pair()], 0),
    ],
)
def test_how_many_are_missing(current: Pair | None, others: list[Pair], count: int) -> None:
    assert missing(others, current, 1, spares=2) == count


@pytest.mark.parametrize(
    ("one", "words", "why"),
    [
        ({}, {}, None),
        ({"age_s": 105.0}, {}, By.TIMER),
        ({"age_s": 105.0}, {"hold": True}, None),
        ({"age_s": 105.0, "asked_at": NOW - 0.1}, {}, None),
        ({}, {"renew": By.COUNT}, By.COUNT),
        ({"outdated": True}, {"renew": By.USER}, None),
        ({"outdated": True, "age_s": 105.0}, {}, None),
        ({"successor": 5, "age_s": 105.0}, {}, None),
        ({"age_s": 5.0}, {"anew_at": NOW - 4.0}, By.USER),
        ({"age_s": 5.0}, {"anew_at": NOW - 6.0}, None),
        ({"age_s": 5.0, "asked_at": NOW - 0.1}, {"anew_at": NOW - 4.0}, None),
        ({"age_s": 5.0, "successor": 5}, {"anew_at": NOW - 4.0}, None),
        ({}, {"bereft": True}, By.DEATH),
        ({}, {"bereft": True, "hold": True}, By.DEATH),
        ({"taken_at": NOW - 0.1}, {"bereft": True}, None),
        ({"outdated": True}, {"bereft": True}, None),
    ],
)
def test_when_and_why_the_pair_in_use_is_rekeyed(one: dict[str, Any], words: dict[str, Any], why: By | None) -> None:
    """What is outdated never is: its successor would have its selectors (RFC 7296 §2.9.2)."""
    current = used(**one)
    words = {"renew": None, "bereft": False, "hold": False} | words
    renew = words.pop("renew")
    assert to_rekey([current], current, renew, TIMES, NOW, **words) == ([(current, why)] if why else [])


def test_spares_are_rekeyed_in_time_too_and_for_no_other_reason() -> None:
    old, fresh, current = pair(spi=2, age_s=105.0), pair(spi=3), used()
    assert to_rekey([old, fresh, current], current, By.COUNT, TIMES, NOW, bereft=True, hold=False) == [
        (old, By.TIMER),
        (current, By.DEATH),
    ]


@pytest.mark.parametrize(
    ("current", "others", "needs"),
    [
        (used(), [], False),
        (None, [], True),
        (None, [pair()], False),
        (None, [pair(outdated=True)], True),
        (pair(Life.GONE), [], True),
        (used(age_s=105.0), [], True),
        (used(outdated=True), [], True),
        (used(age_s=105.0, successor=7), [], False),
    ],
)
def test_whether_it_will_soon_have_nothing_to_send_on(current: Pair | None, others: list[Pair], needs: bool) -> None:
    assert needs_more(others, current, TIMES, NOW, renews=False) is needs


def test_what_is_to_be_replaced_before_its_time_is_as_good_as_over() -> None:
    assert needs_more([], used(), TIMES, NOW, renews=True)
    assert not needs_more([pair()], used(), TIMES, NOW, renews=True)


# -- who asks ---------------------------------------------------------------------------------------------------------


def test_who_is_not_the_initiator_asks_once_the_other_side_has_given_nothing_for_a_while() -> None:
    """However long the whole takes, if each takes a round trip."""
    lacking: Any = SimpleNamespace(missing=lambda spares: 2)
    sa: Any = SimpleNamespace(initiator=False, peer=SimpleNamespace(is_fwd=True, spreads=True))
    wants = Wants([lacking], lambda member: False)
    after_s = 0.8 * OTHER_SIDE_S

    def asks(now: float) -> int:
        return wants.missing(sa, lambda member: 0, now)[0]

    assert asks(NOW) == 0
    assert asks(NOW + after_s) == 0
    wants.given(0)
    assert asks(NOW + after_s) == 0
    assert asks(NOW + 2 * after_s) == 0
    assert asks(NOW + after_s + OTHER_SIDE_S) == 2

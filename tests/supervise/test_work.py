"""Which processes are left alone: those that rest, that have not turned since, and for which no work waits."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator

import pytest

from fwd.datapath.shared import ProcessWords
from fwd.supervise.children import Child
from fwd.supervise.work import Work

NOW, LATER = 1.0, 2.0
LATER_NS = int(LATER * 1e9)
MakeChild = Callable[[str], Child]


@pytest.fixture
def work() -> Iterator[Work]:
    with contextlib.closing(Work()) as work:
        yield work


@pytest.fixture
def rested() -> Iterator[MakeChild]:
    """Makes a child that says that it rests until LATER_NS, with a bell by which work comes."""
    with contextlib.ExitStack() as undo:

        def make(name: str) -> Child:
            bell = os.eventfd(0, os.EFD_NONBLOCK)
            undo.callback(os.close, bell)
            words = ProcessWords(memoryview(bytearray(40)).cast("Q"), memoryview(bytearray(8)).cast("Q"))
            words.heartbeat[0] = LATER_NS
            child = Child(name, words, set, lambda child: lambda: None, lambda: {bell})
            undo.callback(child.close)
            child.process = multiprocessing.get_context("fork").Process()  # never started
            return child

        yield make


def bell_of(child: Child) -> int:
    (bell,) = child.inputs()
    return bell


def rests_on(work: Work, child: Child, now: float = NOW) -> bool:
    return child not in work.astir({child.name: child}, now)


def at_rest(work: Work, *children: Child) -> dict[str, Child]:
    for child in children:
        work.watch(child)
        work.rests(child, child.words.heartbeat[0])
    by_name = {child.name: child for child in children}
    work.look(by_name)
    return by_name


def test_one_that_rests_is_left_alone_until_a_little_after_the_time_that_it_says(work: Work, rested: MakeChild) -> None:
    child = rested("p/member-0")
    at_rest(work, child)
    assert rests_on(work, child)
    assert rests_on(work, child, LATER + 0.04)  # many turn in the same moment, one after the other
    assert not rests_on(work, child, LATER + 0.06)


def test_one_that_rests_is_late_for_nobody_and_its_silence_counts_from_when_it_was_last_seen_to_rest_rightly(
    work: Work, rested: MakeChild
) -> None:
    child = rested("p/member-0")
    at_rest(work, child)
    assert child.life.turned_at == LATER
    assert rests_on(work, child, NOW)
    assert rests_on(work, child, NOW + 0.2)
    assert child.life.turned_at == LATER
    os.eventfd_write(bell_of(child), 1)
    work.look({child.name: child})
    assert not rests_on(work, child, NOW + 0.4)
    assert child.life.turned_at == NOW + 0.2


def test_all_but_those_that_rest_are_looked_at_in_their_order(work: Work, rested: MakeChild) -> None:
    first, second, third = (rested(f"p/member-{i}") for i in range(3))
    children = at_rest(work, first, third) | {second.name: second}
    assert work.astir(children, NOW) == [second]
    third.words.heartbeat[0] += 1
    assert work.astir(children, NOW) == [third, second]
    work.rests(second, LATER_NS)
    work.rests(third, LATER_NS + 1)
    assert work.astir(children, NOW) == []


def test_one_that_has_turned_is_looked_at_though_it_rests_again(work: Work, rested: MakeChild) -> None:
    child = rested("p/member-0")
    at_rest(work, child)
    child.words.heartbeat[0] = LATER_NS + 1
    assert not rests_on(work, child)


def test_one_whose_process_has_ended_is_looked_at_whatever_it_said_last(work: Work, rested: MakeChild) -> None:
    child = rested("p/member-0")
    at_rest(work, child)
    child.process = None
    assert not rests_on(work, child)


def test_one_that_was_looked_at_closely_is_so_until_it_is_seen_to_rest(work: Work, rested: MakeChild) -> None:
    child = rested("p/member-0")
    at_rest(work, child)
    work.stirs(child, True)
    assert not rests_on(work, child)
    at_rest(work, child)
    assert rests_on(work, child)


def test_work_that_waits_is_seen_at_every_look_and_of_its_owner_alone(work: Work, rested: MakeChild) -> None:
    hung, good = rested("p/member-0"), rested("p/member-1")
    children = at_rest(work, hung, good)
    os.eventfd_write(bell_of(hung), 1)
    for _ in range(3):
        work.look(children)
        work.stirs(hung, True)
        assert work.waits == {hung.name}
        assert not rests_on(work, hung)
        assert rests_on(work, good)
    os.eventfd_read(bell_of(hung))
    work.look(children)
    assert work.waits == set()


def test_one_that_is_busy_is_not_watched_until_it_rests_again(work: Work, rested: MakeChild) -> None:
    child = rested("p/member-0")
    children = at_rest(work, child)
    work.stirs(child, False)
    os.eventfd_write(bell_of(child), 1)
    work.look(children)
    assert work.waits == set()
    at_rest(work, child)
    assert work.waits == {child.name}


def test_after_a_change_what_waits_is_seen_at_the_next_look_already(work: Work, rested: MakeChild) -> None:
    hung, gone = rested("p/member-0"), rested("p/member-1")
    at_rest(work, hung, gone)
    for child in (hung, gone):
        os.eventfd_write(bell_of(child), 1)
    work.changed()
    work.look({hung.name: hung})
    assert work.waits == {hung.name}
    assert not rests_on(work, hung)


def test_a_number_that_is_another_descriptor_by_now_is_its_new_owners(work: Work, rested: MakeChild) -> None:
    old, new = rested("p/member-0"), rested("q/member-0")
    at_rest(work, old)
    kept = os.dup(bell_of(old))  # as a child would have it still
    try:
        os.eventfd_write(kept, 1)
        os.dup2(bell_of(new), bell_of(old))
        new.inputs, fd = old.inputs, bell_of(old)
        work.changed()
        children = at_rest(work, new)
        assert work.waits == set()
        os.eventfd_write(fd, 1)
        work.look(children)
        assert work.waits == {new.name}
    finally:
        os.close(kept)


def test_a_descriptor_that_cannot_be_watched_is_tried_again(work: Work, rested: MakeChild) -> None:
    child = rested("p/member-0")
    good, child.inputs = child.inputs, lambda: {-1}
    with pytest.raises(ValueError, match="negative"):
        work.watch(child)
    child.inputs = good
    children = at_rest(work, child)
    os.eventfd_write(bell_of(child), 1)
    work.look(children)
    assert work.waits == {child.name}

"""A fault of fwd's own, wherever it is met, ends one IKE SA; nothing raises, and others live on."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import propkit
import pytest
from ikekit import NAME, A, B, Net, for_member

from fwd.proto.ike import endpoint
from fwd.proto.ike.events import ChildDown, ChildUp, Fault
from fwd.proto.ike.sa import IkeSa
from fwd.proto.ike.states import State

WITHIN = str(Path(endpoint.__file__).parent)


class InjectedError(Exception):
    """Raised where nothing should be."""


@contextlib.contextmanager
def raising_at(number: int, within: str = WITHIN) -> Iterator[list[str]]:
    """Raise at the so-many-th call of a function of files whose path begins so; gives where that was."""
    left, where = number, list[str]()

    def trace(frame: FrameType, what: str, arg: object) -> None:
        nonlocal left
        if what == "call" and frame.f_code.co_filename.startswith(within) and not where:
            if frame.f_code.co_name == "<genexpr>":
                return  # it may be called to be thrown away, and nobody is there to see what it raises
            left -= 1
            if left == 0:
                where.append(frame.f_code.co_qualname)
                raise InjectedError(where[0])

    sys.settrace(trace)
    try:
        yield where
    finally:
        sys.settrace(None)


def a_first_message(net: Net) -> None:
    net.a.endpoint.initiate(NAME, net.now)
    net.flush()


def authentication(net: Net) -> None:
    a_first_message(net)
    net.run(0.025)


def a_child_more(net: Net) -> None:
    net.connect()
    net.a.endpoint.create_child(NAME, 1, for_member(1), net.now)
    net.flush()


def a_rekeyed_ike_sa(net: Net) -> None:
    net.connect()
    net.a.endpoint.rekey_ike(NAME, net.now)
    net.flush()


def a_delete(net: Net) -> None:
    net.connect()
    net.a.endpoint.delete_child(NAME, next(iter(net.a.children())), net.now)
    net.flush()


def an_answer(net: Net) -> None:
    net.connect()
    net.b.endpoint.create_child(NAME, 1, for_member(1), net.now)
    net.flush()
    net.run(0.015)


THE_BARRIER_ITSELF = ("Endpoint.receive", "Endpoint._barrier")
MESSAGES: list[Callable[[Net], None]] = [
    a_first_message, authentication, a_child_more, a_rekeyed_ike_sa, a_delete, an_answer,
]  # fmt: skip


@pytest.mark.parametrize("prepare", MESSAGES, ids=lambda one: one.__name__)
def test_whatever_raises_while_a_message_is_worked_on_ends_one_ike_sa(prepare: Callable[[Net], None]) -> None:
    for number in range(1, 2000, propkit.one_place_in):
        net = Net(number)
        prepare(net)
        net.b.may_fail = True
        other = _another_ike_sa(net)
        (datagram,) = [one for _, _, one in net._wire]
        assert datagram.remote == B
        with raising_at(number) as where:
            try:
                net.b.endpoint.receive(datagram.data, B, A, net.now)
            except InjectedError:
                assert where[0] in THE_BARRIER_ITSELF, "nothing else lets it out"
        if not where:
            break
        if where[0] in THE_BARRIER_ITSELF:
            continue
        net.b.collect()
        assert [type(fault.error) for fault in net.b.of(Fault)][:1] == [InjectedError], where
        assert other in net.b.endpoint.sas(NAME), where
        assert other.state is State.ESTABLISHED, where
        held = {spi for sa in net.b.endpoint.sas(NAME) for spi in sa.children}
        told = {one.child.inbound.spi for one in net.b.of(ChildUp)} - {one.spi for one in net.b.of(ChildDown)}
        assert held <= told | set(other.children), where
    assert number > 20
    assert number < 1980


def _another_ike_sa(net: Net) -> IkeSa:
    """One that has nothing to do with it, on the same endpoint."""
    other = Net(9999)
    other.a.endpoint.initiate(NAME, net.now)
    for _ in range(2):
        for datagram in other.a.endpoint.datagrams_to_send():
            net.b.endpoint.receive(datagram.data, B, (A[0], 4711), net.now)
        answers = [one for one in net.b.endpoint.datagrams_to_send() if one.remote[1] == 4711]
        for answer in answers:
            other.a.endpoint.receive(answer.data, A, B, net.now)
    return next(sa for sa in net.b.endpoint.sas(NAME) if sa.remote[1] == 4711)


def test_the_peer_is_told_that_it_is_over() -> None:
    net = Net().connect()
    net.b.may_fail = True
    (sa,) = net.b.endpoint.sas(NAME)

    def fail(*args: object) -> Any:
        raise InjectedError

    sa.respond = fail
    net.a.endpoint.create_child(NAME, 1, for_member(1), net.now)
    net.run(0.1)
    assert not net.b.endpoint.sas(NAME)
    assert not net.a.live(), "it had the Delete"


def test_what_cannot_be_ended_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its state."""
    net = Net().connect()
    net.b.may_fail = True
    (sa,) = net.b.endpoint.sas(NAME)

    def fail(*args: object) -> Any:
        raise InjectedError

    for name in ("respond", "die", "move", "say_farewell"):
        setattr(sa, name, fail)
    net.a.endpoint.create_child(NAME, 1, for_member(1), net.now)
    net.run(0.1)
    assert not net.b.endpoint.sas(NAME)
    assert len(net.b.of(Fault)) == 2


def test_a_command_that_fails_ends_one_ike_sa_too(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net().connect()
    net.a.may_fail = True
    (sa,) = net.a.live()
    monkeypatch.setattr(sa, "submit", lambda *args: 1 / 0)
    assert net.a.endpoint.rekey_ike(NAME, net.now)
    net.run(0.1)
    assert not net.a.live()
    assert [type(fault.error) for fault in net.a.of(Fault)] == [ZeroDivisionError]

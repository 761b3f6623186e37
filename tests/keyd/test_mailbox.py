"""What a member tells keyd: a member that was taken over may write what it likes, and as much of it."""

from __future__ import annotations

import contextlib
import logging

import pytest
from test_pairs import PlayedMember

from fwd.datapath.shared import PeeringShared
from fwd.keyd.mailbox import EVENTS_MAX, Mailbox
from fwd.proto.sa import EventKind, SaEvent

NONSENSE = {"nothing": b"", "an octet": b"x", "too long": bytes(500), "an unknown kind": bytes([99, *bytes(12)])}
SAID = SaEvent(EventKind.SOFT_LIMIT, 1, 4711)


@pytest.fixture
def member(undo: contextlib.ExitStack) -> PlayedMember:
    return PlayedMember(PeeringShared(1), 0, undo)


@pytest.mark.parametrize("data", [SAID.encode(), *NONSENSE.values()], ids=["an event", *NONSENSE])
def test_a_turn_takes_so_many_messages_and_leaves_the_rest_to_the_next(member: PlayedMember, data: bytes) -> None:
    for _ in range(2 * EVENTS_MAX):
        member.control.send(data)
    Mailbox(member.parts).events()
    left = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            member.parts.control.recv(1)
            left += 1
    assert left == EVENTS_MAX


@pytest.mark.parametrize("data", NONSENSE.values(), ids=NONSENSE)
def test_what_makes_no_sense_is_told_once_and_hides_no_event_behind_it(
    member: PlayedMember, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    mailbox = Mailbox(member.parts)
    for _ in range(EVENTS_MAX - 1):
        member.control.send(data)
    member.control.send(SAID.encode())
    with caplog.at_level(logging.WARNING):
        assert mailbox.events() == [SAID]
    assert [record.__dict__["event"] for record in caplog.records] == ["member.event_refused"]

"""Peers that are no fwd: how many Child SAs they are asked for, and what the log says when one is refused."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from test_pairs import STANDARD, World

from fwd.keyd.refusals import CHANGED_S, SAME_S, Refusals
from fwd.proto.ike import initial, rekey
from fwd.proto.ike.events import ExchangeRefused
from fwd.proto.ike.numbers import Notify, ProtocolError
from fwd.proto.ike.payloads import Vendor


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither side tells the other that it is an fwd; both know RFC 9611."""
    real = initial.extras

    def extras(*args: Any, **more: Any) -> list[Any]:
        return [one for one in real(*args, **more) if not isinstance(one, Vendor)]

    monkeypatch.setattr(initial, "extras", extras)


@pytest.mark.usefixtures("strangers")
def test_a_peer_that_spreads_is_asked_for_one_child_sa_a_member(undo: contextlib.ExitStack) -> None:
    """It would send on the spares, too: so each member has one, and hears on that what the peer sends for it."""
    world = World(undo, members=3, payload="esp", rekey_time=5)
    world.run(3.0)
    world.check_sends()
    for side in world.sides:
        # Both sides may ask at once, and rekeying leaves the old one for a while; but there are no spares.
        assert all(1 <= len(member.inbound) <= 3 for member in side.members)
        assert all(spi & 0xFF == index for index, member in enumerate(side.members) for spi in member.inbound)
    for _ in range(3):
        world.sides[0].members[1].alive = False
        world.run(2.0)
        world.check_sends()
    assert world.refused == 0


def test_another_fwd_is_asked_for_spares(undo: contextlib.ExitStack) -> None:
    world = World(undo, members=3, payload="esp")
    world.run(3.0)
    world.check_spares()


# -- refusals -----------------------------------------------------------------------------------------------------


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    def respond(*args: Any) -> Any:
        error = ProtocolError(Notify.NO_ADDITIONAL_SAS, "one is enough")
        error.member = 1
        raise error

    monkeypatch.setattr(rekey, "respond_child", respond)


@pytest.mark.usefixtures("refusing")
def test_a_refused_child_sa_is_logged_by_who_asked_and_by_who_refused(
    undo: contextlib.ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    world = World(undo, members=2, **STANDARD, theirs={"standard": True})
    world.run(5.0)
    texts = [record.getMessage() for record in caplog.records if "CREATE_CHILD_SA" in record.getMessage()]
    assert "p: CREATE_CHILD_SA for a Child SA of member 1 refused by the peer: NO_ADDITIONAL_SAS" in texts
    assert "p: CREATE_CHILD_SA for a Child SA of member 1 refused by us: NO_ADDITIONAL_SAS: one is enough" in texts
    assert (len(texts), len(set(texts))) == (2 * 3, 3), "on each side once; member 0 is refused its spares"
    world.run(SAME_S + 10.0)
    texts = [record.getMessage() for record in caplog.records if "CREATE_CHILD_SA" in record.getMessage()]
    assert len(texts) > 2 * 3, "it is told again while it lasts"


def test_the_refused_rekeying_of_an_ike_sa_is_logged_on_both_sides(
    undo: contextlib.ExitStack, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    world = World(undo, members=1)
    world.run(2.0)
    here, there = world.sides
    assert here.keyd is not None
    assert there.keyd is not None
    sa = there.keyd._endpoint.established("p")
    assert sa is not None
    monkeypatch.setattr(type(sa), "busy_with_children", True)
    here.keyd._endpoint.rekey_ike("p", world.now)
    world.run(0.5)
    texts = [record.getMessage() for record in caplog.records if "CREATE_CHILD_SA" in record.getMessage()]
    assert "p: CREATE_CHILD_SA for a new IKE SA refused by the peer: TEMPORARY_FAILURE" in texts
    assert any("a new IKE SA refused by us: TEMPORARY_FAILURE: an exchange about a Child SA" in text for text in texts)


def test_refusals_are_told_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    refusals = Refusals("p", "p", lambda now: True)

    def note(now: float, reason: str, member: int = 0) -> int:
        caplog.clear()
        refusals.note(ExchangeRefused("p", by_peer=True, reason=reason, member=member), now)
        return len(caplog.records)

    assert note(0.0, "A") == 1
    assert note(0.1, "A") == 0
    assert note(0.1, "A", member=1) == 1
    assert note(CHANGED_S - 0.1, "B") == 0
    assert note(CHANGED_S, "B") == 1
    assert note(CHANGED_S + SAME_S - 0.1, "B") == 0
    assert note(CHANGED_S + SAME_S, "B") == 1
    assert note(1000.0, "x" * 10_000) == 1
    assert len(caplog.text) < 500

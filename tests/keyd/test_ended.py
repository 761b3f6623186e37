"""A far gateway that ends a peering says so: members then send no more, so that nobody takes this side for ready."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

import pytest
from test_pairs import STEP_S, World

from fwd.datapath.shared import LinkWord
from fwd.keyd.ike import IkePeering
from fwd.model.readiness import MemberFacts, PeeringFacts, peering_reasons
from fwd.model.reasons import Code
from fwd.proto.ike.causes import HAS_ENDED
from fwd.proto.ike.leaving import Leaving
from fwd.proto.ike.table import Commons

SOON_S = 4 * STEP_S
End = Callable[[IkePeering, float], None]


def take_away(keyd: IkePeering, now: float) -> None:
    """The peering is in the configuration no more; what leaves sends its Delete itself."""
    leaving = Leaving(random.Random(1).randbytes, Commons())
    keyd.leave(leaving, now)
    keyd._endpoint._outbox += leaving.datagrams_to_send()


def reasons_of(world: World) -> list[str]:
    """Why the second gateway is not ready, as its agent finds it."""
    side = world.sides[1]
    assert side.keyd is not None
    told = side.keyd.told(world.now)
    members = [MemberFacts("running", bool(one.shared.link[LinkWord.SPI_OUT])) for one in side.members]
    facts = PeeringFacts("p", "192.0.2.1", "4500", "running", members, why=told["concern"] or told["error"])
    return [f"{one.code} {one.text}" for one in peering_reasons(facts)]


@pytest.mark.parametrize("end", [IkePeering.terminate, IkePeering.stopping, take_away])
def test_the_other_side_is_not_ready_at_once_and_says_why(end: End, undo: contextlib.ExitStack) -> None:
    world = World(undo)
    world.run(2.0)
    assert reasons_of(world) == []
    keyd = world.sides[0].keyd
    assert keyd is not None
    end(keyd, world.now)
    world.run(SOON_S, traffic=False)
    found = reasons_of(world)
    assert len(found) == len(world.sides[1].members)
    assert all(one.startswith(Code.NO_CHILD_SA.value) and HAS_ENDED in one for one in found)


def test_it_stays_so_while_a_user_wants_it_and_is_over_with_initiate(undo: contextlib.ExitStack) -> None:
    world = World(undo)
    world.run(2.0)
    keyd = world.sides[0].keyd
    assert keyd is not None
    keyd.terminate(world.now)
    for _ in range(6):
        world.run(10.0, traffic=False)
        assert all(HAS_ENDED in one for one in reasons_of(world))
    keyd.initiate(world.now)
    world.run(2.0, traffic=False)
    world.check_sends()
    assert reasons_of(world) == []


def test_a_peer_that_is_no_fwd_is_told_nothing_of_it(undo: contextlib.ExitStack) -> None:
    world = World(undo, payload="esp")
    world.run(2.0)
    keyd = world.sides[0].keyd
    assert keyd is not None
    for sa in keyd._endpoint.sas(keyd.name):
        sa.peer.is_fwd = False
    keyd.terminate(world.now)
    world.run(SOON_S, traffic=False)
    other = world.sides[1].keyd
    assert other is not None
    assert other.told(world.now)["error"] == ""


def test_what_a_fault_has_ended_is_sent_on_until_there_is_another(undo: contextlib.ExitStack) -> None:
    """The far side goes on accepting for a while what its fault has not touched, and begins anew at once."""
    world = World(undo)
    world.run(2.0)
    keyd = world.sides[0].keyd
    assert keyd is not None
    (sa,) = keyd._endpoint.sas(keyd.name)
    sa.say_farewell()
    world.run(STEP_S)
    assert all(member.outbound for member in world.sides[1].members)

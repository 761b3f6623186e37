"""A far gateway that ends a peering says so: members then send no more, so that nobody takes this side for ready."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

import pytest
from test_pairs import STANDARD, STEP_S, World

from fwd.datapath.shared import LinkWord
from fwd.keyd.ike import IkePeering
from fwd.model.readiness import MemberFacts, PeeringFacts, peering_reasons
from fwd.model.reasons import Code
from fwd.proto.ike import auth
from fwd.proto.ike.causes import HAS_ENDED, Failure
from fwd.proto.ike.leaving import Leaving
from fwd.proto.ike.numbers import Payload
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


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_nothing_is_sent_on_what_a_peer_has_ended_since_it_does_not_trust_us(
    busy: bool, undo: contextlib.ExitStack
) -> None:
    """Our certificate may be revoked, and nobody has told us: its members take nothing from then on."""
    world = World(undo)
    world.run(2.0)
    keyd = world.sides[0].keyd
    assert keyd is not None
    if busy:
        keyd.rekey(world.now)
    keyd._endpoint.distrust(keyd.name, lambda _: world.now, "the certificate is revoked", world.now)
    world.run(SOON_S, traffic=False)
    assert not any(sends_on(world))
    found = reasons_of(world)
    assert found
    assert all("the peer does not trust us" in one for one in found)


def test_nothing_is_sent_on_what_a_peer_makes_and_ends_at_once_since_it_does_not_trust_us(
    undo: contextlib.ExitStack,
) -> None:
    """Who begins verifies last: the other side has a Child SA by then, again and again."""
    world = World(undo)
    world.run(2.0)
    keyd = world.sides[0].keyd
    assert keyd is not None
    keyd._connect(remote_id=auth.identity("other.example", Payload.IDR))
    keyd._endpoint.distrust(keyd.name, lambda _: world.now, "it is not who it should be", world.now)
    for _ in range(20):
        world.run(SOON_S, traffic=False)
        assert not any(sends_on(world))
    other = world.sides[1].keyd
    assert other is not None
    assert other.failures()[Failure.REFUSED_BY_PEER.value] > 2, "it has been made and ended"


STANDARD_PEER = STANDARD | {"theirs": {"standard": True}}


def sends_on(world: World) -> list[int]:
    """What the second gateway's members send on; 0: nothing."""
    return [one.shared.link[LinkWord.SPI_OUT] for one in world.sides[1].members]


def test_nothing_is_sent_on_what_a_standard_peer_has_deleted(undo: contextlib.ExitStack) -> None:
    """It takes nothing on it from then on, and who goes on sending says that it is ready."""
    world = World(undo, members=1, **STANDARD_PEER)
    world.run(2.0)
    keyd = world.sides[0].keyd
    assert keyd is not None
    assert all(sends_on(world))
    keyd.terminate(world.now)
    world.run(SOON_S, traffic=False)
    assert sends_on(world) == [0]
    assert [one.split()[0] for one in reasons_of(world)] == [Code.NO_CHILD_SA.value]


def test_a_standard_peer_that_authenticates_anew_and_deletes_at_once_is_followed_at_once(
    undo: contextlib.ExitStack,
) -> None:
    """Its Delete shows that it has our answer: what it has agreed to is sent on, not what it has deleted."""
    world = World(undo, members=1, **STANDARD_PEER)
    world.run(2.0)
    keyd = world.sides[0].keyd
    assert keyd is not None
    (old,) = keyd._endpoint.sas("p")
    deleted = {child.spi_in for child in old.children.values()}
    keyd._endpoint.reauthenticate("p", world.now)
    for _ in range(100):
        world.run(STEP_S)
        if (new := keyd._endpoint.established("p")) is not old:
            break
    assert new is not None
    keyd._endpoint.delete_older("p", new.standing.authentication, world.now)
    world.run(2 * STEP_S)
    assert all(spi and spi not in deleted for spi in sends_on(world))


def test_what_a_standard_peer_makes_after_it_has_deleted_all_is_sent_on_at_once(undo: contextlib.ExitStack) -> None:
    """So it authenticates anew, unless told to make before it breaks; there is nothing else to send on meanwhile."""
    world = World(undo, members=1, **STANDARD_PEER)
    world.run(2.0)
    keyd, ours = world.sides[0].keyd, world.sides[1].keyd
    assert keyd is not None
    assert ours is not None
    keyd.terminate(world.now)
    world.run(SOON_S, traffic=False)
    keyd.initiate(world.now)
    world.run(STEP_S, traffic=False)
    (sa,) = ours._endpoint.sas("p")
    assert sends_on(world) == [child.spi_out for child in sa.children.values()]

"""The number of members changes while both keyds talk: what stays is not touched, and the far side is told."""

from __future__ import annotations

import contextlib

from test_pairs import PlayedMember, Side, World

from fwd.datapath.shared import PeeringShared

MANY = 6


def want(world: World, side: Side, members: int, drain_deadline: int = 60) -> None:
    """The configuration says so: members beyond that are still there."""
    side.peering = side.peering.model_copy(update={"members": members, "drain_deadline": drain_deadline})
    assert side.keyd is not None
    side.keyd.change(side.peering, side.keyd.connection.credentials, world.now)


def grow(world: World, side: Side, members: int, undo: contextlib.ExitStack) -> None:
    want(world, side, members)
    shared = PeeringShared(members)
    for index in range(len(side.members), members):
        side.members.append(PlayedMember(shared, index, undo))
        assert side.keyd is not None
        side.keyd.add_member(side.members[index].parts)


def shrink(world: World, *sides: Side, members: int) -> None:
    """Those beyond are forgotten, as when they have drained; their processes end a little later."""
    for side in sides:
        assert side.keyd is not None
        for _ in range(len(side.members) - members):
            side.keyd.drop_member(world.now)
    world.run(1.0, traffic=False)
    for side in sides:
        del side.members[members:]


def children(side: Side) -> list[int]:
    """Whose Child SAs there are."""
    assert side.keyd is not None
    sas = side.keyd.endpoint.sas(side.keyd.name)
    return sorted({child.keys.member for sa in sas for child in sa.children.values()})


def test_members_that_come_on_both_sides_get_sas_and_the_others_keep_theirs(undo: contextlib.ExitStack) -> None:
    world = World(undo)
    world.run(2.0)
    before = [set(member.inbound) for side in world.sides for member in side.members]
    for side in world.sides:
        grow(world, side, MANY, undo)
    world.run(3.0)
    world.check_sends()
    world.check_spares()
    assert [set(member.inbound) for side in world.sides for member in side.members[:2]] == before


def test_one_side_alone_asks_for_nothing_that_the_other_cannot_have(undo: contextlib.ExitStack) -> None:
    world = World(undo)
    world.run(2.0)
    one, other = world.sides
    grow(world, one, 4, undo)
    world.run(15.0)
    assert [member.alive for member in one.members] == [True, True, False, False]
    assert one.keyd is not None
    assert one.keyd.told(world.now)["refused"] == dict.fromkeys("23", "the far side has 2 members")
    assert one.keyd.told(world.now)["failures"].get("no_additional_sas", 0) == 0
    grow(world, other, 4, undo)
    world.run(3.0)
    world.check_sends()
    assert one.keyd.told(world.now)["refused"] == {}


def test_the_far_side_hears_that_members_leave_and_for_how_long_they_may_be_busy(undo: contextlib.ExitStack) -> None:
    world = World(undo, members=4)
    world.run(2.0)
    one, other = world.sides
    want(world, one, 3, drain_deadline=20)
    world.run(1.0)
    assert other.shared.far_members == (3, 20.0)
    assert children(other) == [0, 1, 2, 3], "what they have they keep until then"
    world.check_sends()
    want(world, one, 4, drain_deadline=20)
    world.run(1.0)
    assert other.shared.far_members == (4, 20.0)


def test_sas_of_a_member_that_has_left_are_deleted_and_no_others(undo: contextlib.ExitStack) -> None:
    world = World(undo, members=3)
    world.run(20.0)  # until what both have asked for at first has gone
    one, other = world.sides
    kept = [set(member.inbound) for member in (*one.members[:2], *other.members[:2])]
    want(world, one, 2)
    world.run(1.0)
    shrink(world, one, members=2)
    world.run(10.0, traffic=False)
    assert children(one) == children(other) == [0, 1]
    assert other.members[2].outbound is None, "it has no partner, and nothing to send on"
    assert not other.members[2].inbound
    assert [set(member.inbound) for member in (*one.members[:2], *other.members[:2])] == kept


def test_members_that_leave_and_come_again_begin_anew(undo: contextlib.ExitStack) -> None:
    world = World(undo, members=3)
    world.run(2.0)
    for side in world.sides:
        want(world, side, 2)
    world.run(1.0)
    shrink(world, *world.sides, members=2)
    world.run(10.0)
    for side in world.sides:
        grow(world, side, 4, undo)
    world.run(3.0)
    world.check_sends()
    world.check_spares()


def test_a_child_sa_that_was_under_way_for_a_member_that_has_left_goes(undo: contextlib.ExitStack) -> None:
    world = World(undo)
    world.run(2.0)
    for side in world.sides:
        grow(world, side, 3, undo)
    world.run(0.1)
    for side in world.sides:
        want(world, side, 2)
    shrink(world, *world.sides, members=2)
    world.run(5.0)
    assert children(world.sides[0]) == children(world.sides[1]) == [0, 1]


def test_a_later_connection_tells_what_holds_then(undo: contextlib.ExitStack) -> None:
    world = World(undo, members=3)
    world.run(2.0)
    one, other = world.sides
    other.keyd = None
    want(world, one, 2)
    other.start_keyd(world.now)
    world.run(5.0)
    assert other.shared.far_members[0] == 2

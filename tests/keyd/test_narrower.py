"""A far side that carries less than is configured: members are told, and log and status say it."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address, ip_network
from typing import Any

import pytest
from callkit import calls_of
from test_pairs import World

from fwd.keyd import accepted
from fwd.keyd.narrower import Narrower
from fwd.keyd.record import Record
from fwd.model.subnets import SUBNETS_MAX
from fwd.proto.ike.selectors import Selector, merged
from fwd.proto.sa import Narrowed


def part_of(world: World) -> tuple[str, str, str]:
    """Our subnet, theirs, and the part of it that they allow."""
    mine, theirs = world.sides[0].peering.local_ts[0], world.sides[0].peering.remote_ts[0]
    return str(mine), str(theirs), str(world.sides[1].peering.local_ts[0])


def narrowed_world(undo: contextlib.ExitStack, **more: Any) -> World:
    subnet = ip_network(next(iter(World(undo).sides[1].peering.local_ts)))
    return World(undo, theirs={"local_ts": [next(subnet.subnets(new_prefix=subnet.prefixlen + 8))]}, **more)


def test_members_get_the_selectors_of_their_sas_through_deaths_and_rekeying(undo: contextlib.ExitStack) -> None:
    world = narrowed_world(undo, members=2, rekey_time=3)
    world.run(2.0)
    mine, _, theirs = part_of(world)
    held = Narrowed(merged([Selector.of(ip_network(mine))]), merged([Selector.of(ip_network(theirs))]))
    for _ in range(4):
        for member in world.sides[0].members:
            assert member.outbound is not None
            assert {keys.narrowed for keys in (member.outbound, *member.inbound.values())} == {held}
        world.sides[0].members[0].alive = False
        world.run(2.0)
    world.sides[0].keyd = None
    world.run(0.5)
    world.sides[0].start_keyd(world.now)
    world.run(1.0)
    assert {keys.narrowed for keys in world.sides[0].members[0].inbound.values()} == {held}
    for member in world.sides[1].members:
        assert member.outbound is not None
        assert member.outbound.narrowed is None, "it is all that that side has configured"
    assert world.refused == 0


def test_log_and_status_say_which_subnets_do_not_wholly_pass(
    undo: contextlib.ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    world = narrowed_world(undo, members=2, rekey_time=3)
    world.run(20.0)
    mine, whole, theirs = part_of(world)
    ours, far = (side.keyd.told(world.now)["narrower"] for side in world.sides if side.keyd)
    assert ours["0"] == ours["1"] == {"local": [mine], "remote": [theirs], "not_wholly": [f"{mine} - {whole}"]}
    assert far == {}
    lines = [line for line in caplog.messages if "carries less than is configured" in line]
    assert lines == [f"p: the far side carries less than is configured: member {n} from {mine} to {theirs}"
                     for n in (0, 1)], "once, whatever is rekeyed"  # fmt: skip
    assert world.sides[0].keyd is not None
    world.sides[0].keyd.terminate(world.now)
    world.run(1.0)
    assert world.sides[0].keyd.told(world.now)["narrower"] == {}


def test_as_many_subnets_as_there_may_be_are_agreed_on_and_a_side_that_lacks_one_carries_the_others(
    undo: contextlib.ExitStack,
) -> None:
    """Of IPv6, so that IKE_AUTH is as long as it gets."""
    near, far = ([ip_network(f"fd00:{side}:{n:x}::/48") for n in range(0, 2 * SUBNETS_MAX, 2)] for side in (1, 2))
    sides: tuple[dict[str, Any], dict[str, Any]] = (
        {"local_ts": near, "remote_ts": far},
        {"local_ts": far[:-1], "remote_ts": near},
    )
    world = World(undo, theirs=sides[1], **sides[0])
    world.run(2.0)
    world.check_sends()
    for member in world.sides[0].members:
        assert member.outbound is not None
        held = member.outbound.narrowed
        assert held is not None
        assert (len(held.local), len(held.remote)) == (SUBNETS_MAX, SUBNETS_MAX - 1)
    assert world.sides[0].keyd is not None
    told = world.sides[0].keyd.told(world.now)["narrower"]["0"]
    assert len(told["not_wholly"]) == 5
    assert told["not_wholly"][-1] == f"{SUBNETS_MAX - 4} more"


def test_members_may_be_narrowed_differently_and_what_is_said_is_bounded(undo: contextlib.ExitStack) -> None:
    peering = World(undo).sides[0].peering
    peering = peering.model_copy(
        update={"local_ts": [ip_network(f"10.9.{n}.0/24") for n in range(64)], "remote_ts": [ip_network("10.2.0.0/16")]}
    )
    narrower = Narrower(peering, Record(peering, "gw2", peering.fars[0]))
    odd = [Selector(IPv4Address(f"10.9.{n}.1"), IPv4Address(f"10.9.{n}.254")) for n in range(64)]
    everything = merged([Selector.of(ip_network("10.2.0.0/16"))])
    for member in range(64):
        narrower.note(member, Narrowed(merged(odd[member:]), everything), 1.0)
    assert len(str(narrower.told())) < 64_000
    assert narrower.told()["0"]["not_wholly"][-1] == "60 more"
    narrower.note(3, None, 2.0)
    assert "3" not in narrower.told()


def test_a_message_of_as_many_odd_ranges_as_there_may_be_costs_keyd_little(
    undo: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An odd range of IPv6 addresses is up to 252 subnets. In function calls: keyd is everybody's."""

    def odd(offered: Any, allowed: list[Any]) -> tuple[Selector, ...]:
        return tuple(Selector(one[1], one[-2]) for one in allowed)

    monkeypatch.setattr("fwd.proto.ike.child.narrow", odd)
    near, far = ([ip_network(f"fd00:{side}:{n:x}::/48") for n in range(0, 2 * SUBNETS_MAX, 2)] for side in (1, 2))
    world = World(undo, members=1, local_ts=near, remote_ts=far, theirs={"local_ts": far, "remote_ts": near})
    costs: list[int] = []
    for side in world.sides:
        assert side.keyd is not None
        receive = side.keyd.receive
        monkeypatch.setattr(side.keyd, "receive", lambda *a, r=receive: costs.append(calls_of(lambda: r(*a))))
    world.run(1.0)
    assert max(costs) < 400 * SUBNETS_MAX
    for side in world.sides:
        assert side.keyd is not None
        told = side.keyd.told(world.now)["narrower"]["0"]
        assert told["local"][-1] == f"{SUBNETS_MAX - 4} more"
        assert told["not_wholly"][-1] == f"{SUBNETS_MAX**2 - 4} more"


def test_more_different_selectors_than_a_member_can_hold_are_refused(
    undo: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(accepted, "NARROWED_MAX", 0)
    world = narrowed_world(undo, members=1)
    world.run(3.0)
    assert not world.sides[0].members[0].inbound
    assert "more than 0 different traffic selectors" in caplog.text

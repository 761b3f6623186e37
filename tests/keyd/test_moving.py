"""Where members send when messages of the peer's come from elsewhere: what keyd tells them, and when."""

from __future__ import annotations

import contextlib
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from test_pairs import Side, World

from fwd.model.keys import PskKeys
from fwd.proto.ike.endpoint import Endpoint
from fwd.proto.ike.exchanges import Liveness
from fwd.proto.ike.sa import IkeSa
from fwd.proto.sa import EventKind, SaEvent

STRANGER = "203.0.113.9", 7777
OWN = {1: "192.0.2.1", 2: "192.0.2.2"}


class Abroad(World):
    """The second side is seen at, and reached by, `outside` and other ports than its own."""

    def __init__(self, undo: contextlib.ExitStack, outside: str, mobility: Any = "port", **more: Any) -> None:
        self.outside = outside
        super().__init__(undo, **more)
        self.sides[0] = Side(1, len(self.sides[0].members), undo, 0, **more)
        keys = PskKeys(source="psk", secret=Path("unused"), mobility=mobility, remote_id=OWN[2])
        self.sides[0].peering = self.sides[0].peering.model_copy(
            update={"remote_addrs": ip_address(outside), "keys": keys}
        )
        self.sides[0].start_keyd(self.now)

    def _exchange(self) -> None:
        here, there = self.sides
        for _ in range(20):
            for one in here.keyd.datagrams() if here.keyd else []:
                if there.keyd and one.remote[0] == self.outside:
                    there.keyd.receive(one.data, (OWN[2], one.remote[1] % 10_000), one.local, self.now)
            for one in there.keyd.datagrams() if there.keyd else []:
                if here.keyd:
                    port = one.local[1] + (0 if self.outside == OWN[2] else 20_000)
                    here.keyd.receive(one.data, one.remote, (self.outside, port), self.now)

    def far(self) -> list[tuple[str, int] | None]:
        return [member.shared.far.get() for member in self.sides[0].members]


def ike_sa(side: Side) -> IkeSa:
    assert side.keyd is not None
    sa = _endpoint(side).established("p")
    assert sa is not None
    return sa


def _endpoint(side: Side) -> Endpoint:
    assert side.keyd is not None
    return side.keyd._endpoint


def told(side: Side, now: float) -> dict[str, Any]:
    assert side.keyd is not None
    found: dict[str, Any] = side.keyd.told(now)["sas"][0]
    return found


def test_one_fresh_message_from_elsewhere_moves_no_member(
    undo: contextlib.ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(undo)
    world.run(2.0)
    here, there = world.sides
    before = [member.shared.far.get() for member in here.members]
    ike_sa(there).submit(Liveness(), world.now)
    assert there.keyd is not None
    assert here.keyd is not None
    (held_back,) = there.keyd.datagrams()
    here.keyd.receive(held_back.data, held_back.remote, STRANGER, world.now)
    world.run(30.0)
    assert [member.shared.far.get() for member in here.members] == before
    assert ike_sa(here).remote == (OWN[2], 500)
    assert "203.0.113.9 port 7777, where it is not followed: mobility is port" in caplog.text
    world.check_sends()


@pytest.mark.parametrize("shared_port", [False, True])
def test_each_tells_the_other_whether_a_nat_is_before_it(undo: contextlib.ExitStack, shared_port: bool) -> None:
    more: dict[str, Any] = {"payload": "esp", "shared_port": shared_port}
    world = Abroad(undo, "198.51.100.7", **more)
    world.run(3.0)
    ours, theirs = (told(side, world.now) for side in world.sides)
    assert (ours["behind_nat"], ours["peer_behind_nat"]) == (False, True)
    assert (theirs["behind_nat"], theirs["peer_behind_nat"]) == (True, False)
    plain = World(undo, **more)
    plain.run(2.0)
    for side in plain.sides:
        assert (told(side, plain.now)["behind_nat"], told(side, plain.now)["peer_behind_nat"]) == (False, False)


def test_members_that_share_ikes_port_send_to_the_port_that_a_nat_gives_it(undo: contextlib.ExitStack) -> None:
    """A flow's answers may go through a member that has heard nothing yet."""
    world = Abroad(undo, "198.51.100.7", payload="esp", shared_port=True)
    world.run(3.0)
    assert ike_sa(world.sides[0]).remote == ("198.51.100.7", 24_500)
    assert world.far() == [("198.51.100.7", 24_500)] * 2


@pytest.mark.parametrize(
    ("outside", "mobility", "follows"),
    [
        ("198.51.100.7", "port", True),  # a NAT is before it
        (OWN[2], "address", True),
        (OWN[2], "port", False),
        ("198.51.100.7", "none", False),
    ],
)
def test_a_peer_that_has_moved_is_followed_by_members_as_the_configuration_says(
    undo: contextlib.ExitStack, outside: str, mobility: str, follows: bool
) -> None:
    """What shows it is a member that hears it; keyd looks, and tells all members."""
    world = Abroad(undo, outside, mobility, payload="esp", shared_port=True)
    world.run(3.0)
    assert [address and address[0] for address in world.far()] == [outside] * 2
    world.outside = "198.51.100.99"
    here = world.sides[0]
    here.members[1].shared.elsewhere.put(("198.51.100.99", 24_500))
    here.members[1].control.send(SaEvent(EventKind.ELSEWHERE, here.members[1].incarnation, 1).encode())
    assert here.keyd is not None
    here.keyd.hear(1, world.now)
    world.run(1.0)
    assert [address and address[0] for address in world.far()] == [world.outside if follows else outside] * 2


def test_a_peer_behind_a_nat_that_is_heard_by_nobody_is_found_by_its_own_liveness(undo: contextlib.ExitStack) -> None:
    """What we send does not reach it any more, so it asks; and is answered, and found."""
    world = Abroad(undo, "198.51.100.7")
    world.run(3.0)
    world.outside = "198.51.100.99"
    world.run(15.0, traffic=False)
    assert [address and address[0] for address in world.far()] == ["198.51.100.99"] * 2

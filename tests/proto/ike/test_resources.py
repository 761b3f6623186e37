"""Several Child SAs with the same selectors, for the members of a gateway (RFC 9611)."""

from __future__ import annotations

import pytest
from ikekit import NAME, Net, connection, for_member

from fwd.proto.ike import initial
from fwd.proto.ike.events import ChildRefused, Established
from fwd.proto.ike.limits import MEMBER_CHILDREN_MAX
from fwd.proto.ike.numbers import Notify
from fwd.proto.ike.payloads import Notification, Vendor

INFO = Notification(Notify.SA_RESOURCE_INFO, b"queue 7")


def members(net: Net) -> list[int]:
    return sorted(up.child.member for up in net.b.children().values())


def infos(net: Net) -> list[bytes]:
    """What `b` calls the resources of the Child SAs that `a` has."""
    found = [notify for up in net.a.children().values() for notify in up.child.notifies]
    return sorted(notify.data for notify in found if notify.kind == Notify.SA_RESOURCE_INFO)


def test_a_child_sa_for_a_resource_is_answered_with_one() -> None:
    """§3, §4: all have the same selectors and algorithms; what the peer calls its resource means nothing here."""
    net = Net(1, b=connection("b", members=3)).connect()
    for _ in range(2):
        net.a.endpoint.create_child(NAME, 0, (INFO,), net.now)
    net.run(1)
    assert members(net) == [0, 1, 2]
    assert infos(net)[-2:] == [b"member 1", b"member 2"]
    children = [up.child for up in net.a.children().values()]
    ciphers = {(child.inbound.esn, len(child.inbound.key)) for child in children}
    assert len({(child.local_ts, child.remote_ts) for child in children}) == len(ciphers) == 1
    assert len({child.inbound.key for child in children}) == 3


def test_who_asks_for_no_resource_gets_the_first_members() -> None:
    net = Net(1, b=connection("b", members=3)).connect()
    for _ in range(2):
        net.a.endpoint.create_child(NAME, 0, (), net.now)
    net.run(1)
    assert members(net) == [0, 0, 0]


def test_a_resource_too_many_is_refused_and_the_others_stay() -> None:
    """§4, §5.2: TS_MAX_QUEUE, for a member that there is not, and for one that has enough."""
    net = Net(1, b=connection("b", members=2)).connect()
    net.a.endpoint.create_child(NAME, 2, for_member(2), net.now)
    for _ in range(MEMBER_CHILDREN_MAX + 1):
        net.a.endpoint.create_child(NAME, 1, for_member(1), net.now)
    net.run(5)
    assert [(event.member, event.notify) for event in net.a.of(ChildRefused)] == [
        (2, Notify.TS_MAX_QUEUE),
        (1, Notify.TS_MAX_QUEUE),
    ]
    assert members(net) == [0] + [1] * MEMBER_CHILDREN_MAX
    net.check_agreement()


def test_a_rekeyed_child_sa_stays_with_its_member() -> None:
    """§4: whether the request says so or not."""
    net = Net(1, b=connection("b", members=3)).connect()
    net.a.endpoint.create_child(NAME, 0, (INFO,), net.now)
    net.run(1)
    for side in (net.a, net.b):
        for spi in side.children():
            side.endpoint.rekey_child(NAME, spi, net.now)
        net.run(3)
    assert members(net) == [0, 1]


@pytest.mark.parametrize("announced", [True, False])
def test_private_notifies_go_only_to_who_has_announced_to_know_them(
    announced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 7296 §3.12. Standard ones go to everybody."""
    real = initial.extras
    if not announced:
        monkeypatch.setattr(initial, "extras", lambda *args: [p for p in real(*args) if not isinstance(p, Vendor)])
    notifies = (Notification(Notify.FWD_PEERING, b"terms"), INFO)
    net = Net(1, connection("a", notifies=notifies), connection("b", members=3, notifies=notifies)).connect()
    for side in (net.a, net.b):
        kinds = {notify.kind for notify in side.of(Established)[0].notifies}
        assert kinds == ({Notify.FWD_PEERING, Notify.SA_RESOURCE_INFO} if announced else {Notify.SA_RESOURCE_INFO})
    net.a.endpoint.rekey_ike(NAME, net.now)
    net.run(1)
    net.a.endpoint.create_child(NAME, 2, for_member(2), net.now)
    net.run(1)
    assert members(net) == ([0, 2] if announced else [0, 0])


@pytest.mark.parametrize("begins", ["a", "b"])
def test_between_two_that_know_resources_each_child_sa_is_received_by_its_member(begins: str) -> None:
    """The SPI's low octet says by whom; a peer that does not would send it all on one Child SA, the first member's."""
    net = Net(1, connection("a", members=3), connection("b", members=3))
    getattr(net, begins).endpoint.initiate(NAME, net.now)
    net.run(0.5)
    net.a.endpoint.create_child(NAME, 2, for_member(2), net.now)
    net.run(1)
    for side in (net.a, net.b):
        assert sorted((up.child.member, spi & 0xFF) for spi, up in side.children().items()) == [(0, 0), (2, 2)]

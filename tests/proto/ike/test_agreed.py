"""Traffic selectors of Child SAs are held once, and of one peer few different ones."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from ikekit import Net, ask, for_member

from fwd.proto.ike import agreed
from fwd.proto.ike.child import Offer
from fwd.proto.ike.numbers import Exchange, Notify
from fwd.proto.ike.payloads import AnyPayload, Delete, Notification
from fwd.proto.ike.selectors import SELECTORS_MAX, Selector


def asked_with(net: Net, member: int, octets: int) -> list[AnyPayload]:
    """What is answered to one that wants 255 ranges a side, of so many addresses each."""
    asker, (sa,) = net.a.live()[0], net.b.live()
    sa.peer.fragments = False
    sides = [
        tuple(Selector(start + 8 * at, start + 8 * at + octets) for at in range(SELECTORS_MAX))
        for start in (ip_address("10.1.0.0"), ip_address("10.2.0.0"))
    ]
    offer = Offer.make(asker.connection, asker.world, member, 0, None, first=False)
    wanted = replace(offer, local_ts=sides[0], remote_ts=sides[1])
    return ask(net, net.b, Exchange.CREATE_CHILD_SA, [*for_member(member), *wanted.payloads()])


def test_child_sas_of_the_same_selectors_have_them_once() -> None:
    net = Net().connect()
    for member in range(8):
        asked_with(net, member, 3)
    (sa,) = net.b.live()
    assert len(sa.children) == 9
    assert len({id(child.keys.agreed) for child in sa.children.values()}) == 2
    assert len({id(child.keys.inbound.narrowed) for child in sa.children.values()}) == 2


def test_a_peer_that_wants_other_selectors_for_each_child_sa_gets_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreed, "AGREED_MAX", 5)
    net = Net().connect()
    refused = [asked_with(net, number, number)[0] for number in range(6)]
    assert [isinstance(one, Notification) for one in refused] == [False] * 4 + [True] * 2
    assert isinstance(refused[-1], Notification)
    assert refused[-1].kind == Notify.NO_ADDITIONAL_SAS

    # What is deleted makes room.
    (sa,) = net.b.live()
    spi = list(sa.children.values())[-1].spi_out
    ask(net, net.b, Exchange.INFORMATIONAL, [Delete(3, (spi,))])
    net.b.events.clear()
    assert not isinstance(asked_with(net, 7, 7)[0], Notification)

"""`fwd drain`, as IKE tells the far gateway of it: by a notify of fwd's own, on every IKE SA that there is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ikekit import NAME, Net, connection

from fwd.proto.ike.events import Datagram, Informed
from fwd.proto.ike.message import Header
from fwd.proto.ike.numbers import Exchange, Notify, Status
from fwd.proto.ike.payloads import Notification
from fwd.proto.ike.sa import IkeSa


@pytest.fixture
def net() -> Net:
    """Two fwds, joined."""
    made = Net()
    made.a.endpoint.initiate(NAME, made.now)
    made.run(1.0)
    return made


def drain(net: Net, *, drains: bool) -> None:
    net.a.endpoint.change(replace(connection("a"), drains=drains))
    net.run(1.0)


def known(net: Net) -> list[bool]:
    """What `b` knows of `a`."""
    return [sa.peer.drains for sa in net.b.live()]


def of_rekeying(datagram: Datagram, old: IkeSa) -> bool:
    """Whether it is of the exchange that replaces the old IKE SA, or on its successor."""
    header = Header.decode(datagram.data)
    return header.exchange == Exchange.CREATE_CHILD_SA or header.spi_i != old.spi_i


def test_the_peer_is_told_once_and_once_more_when_it_is_over(net: Net) -> None:
    sent = len(net.sent)
    drain(net, drains=True)
    assert known(net) == [True]
    drain(net, drains=False)
    assert known(net) == [False]
    assert len(net.sent) == sent + 4  # two requests, two answers


def test_it_is_known_after_a_rekeying_and_so_is_its_end(net: Net) -> None:
    drain(net, drains=True)
    sent = len(net.sent)
    net.a.endpoint.rekey_ike(NAME, net.now)
    net.run(1.0)
    assert known(net) == [True]
    assert len(net.sent) == sent + 4  # the successor and the Delete of the old one: nothing was to be told anew
    drain(net, drains=False)
    assert known(net) == [False]


def test_it_is_known_though_the_ike_sa_on_which_it_was_said_is_replaced_before_that_comes(net: Net) -> None:
    (old,) = net.a.live()
    net.judge = lambda datagram: [0.0 if of_rekeying(datagram, old) else 30.0]
    net.a.endpoint.change(replace(connection("a"), drains=True))
    net.b.endpoint.rekey_ike(NAME, net.now)
    net.run(1.0)
    assert known(net) == [True]


def test_what_was_said_on_an_ike_sa_that_was_replaced_changes_nothing_when_it_comes_late(net: Net) -> None:
    (old,) = net.a.live()
    net.judge = lambda datagram: [0.0 if of_rekeying(datagram, old) else 5.0]
    net.a.endpoint.change(replace(connection("a"), drains=True))
    net.b.endpoint.rekey_ike(NAME, net.now)
    net.run(1.0)
    drain(net, drains=False)
    assert known(net) == [False]
    net.run(10.0)
    assert known(net) == [False]


def test_a_keyd_that_begins_anew_tells_it_anew(net: Net) -> None:
    drain(net, drains=True)
    net.a.endpoint = net.a_again()
    net.a.endpoint.change(replace(connection("a"), drains=True))
    net.a.endpoint.initiate(NAME, net.now, initial_contact=True)
    net.run(1.0)
    assert known(net) == [True]


def test_a_peer_that_is_no_fwd_is_told_nothing(net: Net) -> None:
    for sa in net.a.live():
        sa.peer.is_fwd = False
    sent = len(net.sent)
    drain(net, drains=True)
    assert len(net.sent) == sent


def test_that_a_peering_is_about_to_be_closed_is_told_beside(net: Net) -> None:
    net.a.endpoint.change(replace(connection("a"), drains=True, leaves=True))
    net.run(1.0)
    told = [event.notify.data for event in net.b.events if isinstance(event, Informed)]
    assert told == [bytes([Status.DRAINS | Status.LEAVES])]
    assert known(net) == [True]


@pytest.mark.parametrize("data", [b"", b"\0", b"\1", b"\2", b"\xff", b"\1" * 1000])
def test_whatever_the_peer_says_of_itself_ends_nothing(net: Net, data: bytes) -> None:
    (sa,) = net.a.live()
    (theirs,) = net.b.live()
    theirs.respond(theirs, Exchange.INFORMATIONAL, [Notification(Notify.FWD_STATUS, data)], net.now)
    net.run(1.0)
    assert net.a.live() == [sa]
    assert theirs.peer.drains == bool(data and data[0] & 1)

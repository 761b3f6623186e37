"""NATs between two endpoints: what each is told of its address, and where messages go then (RFC 7296 §2.23)."""

from __future__ import annotations

from hashlib import sha1
from ipaddress import ip_address

from ikekit import NAME, A, B, Net, connection, for_member

from fwd.proto.ike.events import Address, Moved
from fwd.proto.ike.message import Header, decode_clear
from fwd.proto.ike.numbers import Notify
from fwd.proto.ike.payloads import notified

OUTSIDE = "203.0.113.7"  # what a NAT makes of `a`
PORTS = (500, 4500)


class Nat:
    """Stands before `a`: its packets seem to come from OUTSIDE, and what is sent there comes to it."""

    def __init__(self, **changes: object) -> None:
        self.net = Net(1, connection("a", **changes), connection("b", remote=(OUTSIDE, 500), **changes))
        self.shift = 60_000  # of ports
        self.seen: set[tuple[Address, Address]] = set()  # from, to: as `b` saw them

    def run(self) -> None:
        a, b = self.net.a, self.net.b
        for _ in range(50):
            for one in a.endpoint.datagrams_to_send():
                path = (OUTSIDE, one.local[1] + self.shift), one.remote
                self.seen.add(path)
                b.endpoint.receive(one.data, path[1], path[0], self.net.now)
            for one in b.endpoint.datagrams_to_send():
                if one.remote[1] - self.shift in PORTS:
                    inside = A[0], one.remote[1] - self.shift
                    a.endpoint.receive(one.data, inside, one.local, self.net.now)
        a.collect()
        b.collect()


def hashed(header: Header, address: Address) -> bytes:
    octets = header.spi_i + header.spi_r + ip_address(address[0]).packed + address[1].to_bytes(2, "big")
    return sha1(octets, usedforsecurity=False).digest()


def test_both_say_where_they_see_the_other_and_seem_to_be_behind_a_nat() -> None:
    """The hash of the own address is never right: so ESP is wrapped in UDP, which is all that fwd takes."""
    net = Net().connect()
    for datagram in net.sent[:2]:
        header = Header.decode(datagram.data)
        payloads = decode_clear(header, datagram.data)
        destination = notified(payloads, Notify.NAT_DETECTION_DESTINATION_IP)
        source = notified(payloads, Notify.NAT_DETECTION_SOURCE_IP)
        assert destination is not None
        assert source is not None
        assert destination.data == hashed(header, datagram.remote)
        assert len(source.data) == 20
        assert source.data != hashed(header, datagram.local)
    assert not net.a.live()[0].peer.sees_nat
    assert not net.b.live()[0].peer.sees_nat


def test_who_is_behind_a_nat_knows_it_and_the_other_answers_through_it() -> None:
    nat = Nat()
    nat.net.a.endpoint.initiate(NAME, nat.net.now)
    nat.run()
    (near,), (far,) = nat.net.a.live(), nat.net.b.live()
    assert (near.peer.sees_nat, far.peer.sees_nat) == (True, False)
    assert far.remote == (OUTSIDE, 60_500)
    nat.net.a.endpoint.rekey_ike(NAME, nat.net.now)
    nat.run()
    (near,) = nat.net.a.live()
    assert near.peer.sees_nat
    nat.net.check_agreement()


def test_ike_moves_to_the_port_of_esp() -> None:
    """With IKE_AUTH, and stays there: on port 500 nothing is wrapped."""
    for nat in (True, False):
        found = Nat(float_port=4500)
        if not nat:
            found.net = Net(1, connection("a", float_port=4500), connection("b", float_port=4500))
        found.net.a.endpoint.initiate(NAME, found.net.now)
        if nat:
            found.run()
            assert found.seen == {((OUTSIDE, 60_500), B), ((OUTSIDE, 64_500), (B[0], 4500))}
        else:
            found.net.run(1)
            assert [one.remote[1] for one in found.net.sent] == [500, 500, 4500, 4500]
        assert len(found.net.b.children()) == 1


def test_a_mapping_that_changes_is_followed_by_who_is_not_behind_a_nat() -> None:
    """With the first message that authenticates; who is behind one itself stays with what it knows."""
    nat = Nat()
    nat.net.a.endpoint.initiate(NAME, nat.net.now)
    nat.run()
    nat.shift = 50_000
    nat.net.a.endpoint.create_child(NAME, 1, for_member(1), nat.net.now)
    nat.run()
    assert nat.net.b.live()[0].remote == (OUTSIDE, 50_500)
    assert [event.remote for event in nat.net.b.of(Moved)] == [(OUTSIDE, 50_500)]
    nat.net.b.endpoint.create_child(NAME, 2, for_member(2), nat.net.now)
    (request,) = nat.net.b.endpoint.datagrams_to_send()
    nat.net.a.endpoint.receive(request.data, A, ("198.51.100.66", 500), nat.net.now)
    (near,) = nat.net.a.live()
    assert near.remote == B
    assert len(near.children) == 3

"""Two IKEv2 endpoints in memory, a network between them that may do anything to a datagram, and a seeded clock."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

from fwd.proto.ike import auth
from fwd.proto.ike.crypto import Sealer
from fwd.proto.ike.endpoint import Endpoint
from fwd.proto.ike.events import Address, ChildDown, ChildUp, Closed, Connection, Datagram, Event, Fault
from fwd.proto.ike.message import Header, open_message, seal_message
from fwd.proto.ike.numbers import Flag, Notify, Payload, Protocol
from fwd.proto.ike.payloads import AnyPayload, Notification, decode_chain
from fwd.proto.ike.proposals import parse
from fwd.proto.ike.states import State

NAME = "to-peer"
A, B = ("192.0.2.1", 500), ("192.0.2.2", 500)
PSK = auth.Psk(b"a secret that both sides have")
IKE = ("aes256gcm16-prfsha384-x25519",)
ESP = ("aes256gcm16-x25519-esn-noesn",)
WALL = 1_800_000_000.0
Judge = Callable[[Datagram], Iterable[float]]  # delays after which a datagram arrives: none, one, or more


def connection(side: str, **changes: Any) -> Connection:
    """Of endpoint `a` or `b`; proposals as swanctl's words."""
    local, remote = (A, B) if side == "a" else (B, A)
    nets = ip_network("10.1.0.0/16"), ip_network("10.2.0.0/16")
    mine, theirs = nets if side == "a" else nets[::-1]
    ike, esp = changes.pop("ike", IKE), changes.pop("esp", ESP)
    other = "b" if side == "a" else "a"
    made = Connection(
        NAME, local, remote,
        auth.identity(f"{side}.example", Payload.IDI), auth.identity(f"{other}.example", Payload.IDR), PSK,
        tuple(parse(words, Protocol.IKE) for words in ike), tuple(parse(words, Protocol.ESP) for words in esp),
        (mine,), (theirs,), (Notification(Notify.SA_RESOURCE_INFO),), members=8,
    )  # fmt: skip
    return replace(made, **changes)


def for_member(member: int) -> tuple[Notification, ...]:
    """What tells the peer whose Child SA it is."""
    return (Notification(Notify.FWD_MEMBER, bytes([member])),)


class Side:
    """An endpoint, and what it has told."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.events: list[Event] = []
        self.may_fail = False  # faults of fwd's are kept as events, not raised

    def collect(self) -> None:
        while (event := self.endpoint.next_event()) is not None:
            if isinstance(event, Fault) and not self.may_fail:
                raise event.error
            self.events.append(event)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def children(self) -> dict[int, ChildUp]:
        """Those that are up, by inbound SPI, as the events tell it."""
        up: dict[int, ChildUp] = {}
        for event in self.events:
            if isinstance(event, ChildUp):
                up[event.child.inbound.spi] = event
            elif isinstance(event, ChildDown):
                del up[event.spi]
            elif isinstance(event, Closed):
                assert not up, "closed with Child SAs up"
        return up

    def check_told(self) -> None:
        """What it has told of Child SAs is what it has."""
        held = [spi for sa in self.endpoint.sas(NAME) for spi in sa.children]
        assert sorted(self.children()) == sorted(held)

    def live(self) -> list[Any]:
        """IKE SAs that speak."""
        return [sa for sa in self.endpoint.sas(NAME) if sa.state is State.ESTABLISHED]


def ask(net: Net, side: Side, exchange: int, payloads: Sequence[AnyPayload], which: int = 0) -> list[AnyPayload]:
    """Whatever request in the peer's name, sealed with its keys and unknown to the peer: what a side answers.

    `which` of its IKE SAs it is on: the oldest is the first.
    """
    sa = side.endpoint.sas(NAME)[which]
    assert sa.keys is not None
    out, back = (sa.keys.er, sa.keys.ei) if sa.initiator else (sa.keys.ei, sa.keys.er)
    header = Header(sa.spi_i, sa.spi_r, exchange, 0 if sa.initiator else Flag.INITIATOR, sa._window.expected_id)
    (data,) = seal_message(header, payloads, Sealer(out), (1 << 40) + sa._window.expected_id)
    net.flush()
    side.endpoint.receive(data, sa.local, sa.remote, net.now)
    sent = side.endpoint.datagrams_to_send()
    side.collect()
    (answer,) = [one.data for one in sent if Header.decode(one.data).message_id == header.message_id]
    opened = open_message(Header.decode(answer), answer, Sealer(back))
    assert opened is not None
    return decode_chain(opened.first_payload, opened.plain)


class Net:
    """Both sides, and the time. `judge` decides over every datagram."""

    def __init__(self, seed: int = 1, a: Connection | None = None, b: Connection | None = None) -> None:
        self.dice = random.Random(seed)
        self.now = 1000.0
        self.a = Side(self._endpoint(a or connection("a")))
        self.b = Side(self._endpoint(b or connection("b")))
        self.judge: Judge = lambda datagram: [0.01]
        self.sent: list[Datagram] = []
        self._wire: list[tuple[float, int, Datagram]] = []
        self._serial = itertools.count()

    def _endpoint(self, made: Connection) -> Endpoint:
        return Endpoint([made], self.dice.randbytes, lambda: WALL + self.now)

    def a_again(self) -> Endpoint:
        """Side `a` without any memory."""
        return self._endpoint(connection("a"))

    def side(self, address: Address) -> Side:
        return self.a if address[0] == A[0] else self.b

    def flush(self) -> None:
        """What the endpoints want to send goes onto the wire."""
        for side in (self.a, self.b):
            for datagram in side.endpoint.datagrams_to_send():
                self.sent.append(datagram)
                for delay in self.judge(datagram):
                    heapq.heappush(self._wire, (self.now + delay, next(self._serial), datagram))
            side.collect()

    def step(self, until: float) -> bool:
        """The next thing that happens, before `until`; False: nothing does."""
        self.flush()
        times = [side.endpoint.next_timeout() for side in (self.a, self.b)]
        due = min([at for at in times if at is not None], default=float("inf"))
        arrival = self._wire[0][0] if self._wire else float("inf")
        at = min(due, arrival)
        if at > until:
            return False
        self.now = max(self.now, at)
        if arrival <= due:
            _, _, datagram = heapq.heappop(self._wire)
            self.deliver(datagram)
        else:
            for side in (self.a, self.b):
                side.endpoint.handle_timeout(self.now)
        self.flush()
        return True

    def deliver(self, datagram: Datagram) -> None:
        """It has come to where it was sent."""
        self.side(datagram.remote).endpoint.receive(datagram.data, datagram.remote, datagram.local, self.now)

    def run(self, seconds: float = 1.0) -> None:
        """Everything that happens in so long."""
        until = self.now + seconds
        for _ in range(100_000):
            if not self.step(until):
                break
        else:
            raise AssertionError("it does not come to rest")
        self.now = until

    def connect(self) -> Net:
        self.a.endpoint.initiate(NAME, self.now)
        self.run(0.5)
        assert self.a.live()
        assert self.b.live()
        return self

    def check_agreement(self) -> None:
        """Both sides have the same IKE SA and the same Child SAs, with the same keys the other way round."""
        ours, theirs = self.a.live(), self.b.live()
        assert [(sa.spi_i, sa.spi_r) for sa in ours] == [(sa.spi_i, sa.spi_r) for sa in theirs]
        assert len(ours) <= 1
        mine, other = self.a.children(), self.b.children()
        pairs = {(up.child.inbound.spi, up.child.outbound.spi) for up in mine.values()}
        assert pairs == {(up.child.outbound.spi, up.child.inbound.spi) for up in other.values()}
        for up in mine.values():
            peer = other[up.child.outbound.spi].child
            assert (up.child.inbound.key, up.child.inbound.salt) == (peer.outbound.key, peer.outbound.salt)
            assert (up.child.outbound.key, up.child.outbound.salt) == (peer.inbound.key, peer.inbound.salt)
            assert up.child.inbound.esn == peer.outbound.esn
            assert up.child.member == peer.member
            assert (up.child.local_ts, up.child.remote_ts) == (peer.remote_ts, peer.local_ts)
        for side in (self.a, self.b):
            side.check_told()

"""What a gateway's beacon says to routers, and to whom, from shared memory of a gateway that is not there."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from fwd.agent.beacon import Beacon, answer_of, obstructed
from fwd.agent.readiness import STALE_S, SUPERVISOR_STALE_S
from fwd.agent.view import GatewayView, PeeringView
from fwd.datapath import ring
from fwd.datapath.counters import BeaconCounter
from fwd.datapath.memory import anonymous
from fwd.datapath.ring import RingWords
from fwd.datapath.shared import GatewayShared, LinkWord, PeeringShared, ProcessState, peering_sizes
from fwd.datapath.tun import Offloads
from fwd.model import config
from fwd.model.example import EXAMPLE
from fwd.model.gateway import Gateway
from fwd.proto.probe import Said, decode_answer, encode_answer, encode_request, peering_id

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
NONCE = bytes(range(16))
PASSES = Said(passes=True)


class Site:
    """A gateway with one peering of two members, all of which carry; and its beacon, if `listen`."""

    def __init__(self) -> None:
        self.config = config.parse(EXAMPLE.replace("members = 4", "members = 2"), "example").peering[0]
        memories = anonymous({**peering_sizes(2), **{f"demux-{i}": ring.sizes(64, 4)[0] for i in range(2)}})
        self.peering = PeeringShared(2, memories)
        self.rings = [RingWords(memories[f"demux-{i}"], m.ring) for i, m in enumerate(self.peering.members)]
        self.gateway = GatewayShared()
        view = PeeringView(self.config, self.peering, self.rings, Offloads(0, gso=False, gro=False), 1500)
        self.view = GatewayView(Gateway(), self.gateway, [view], 1, 0)
        for words in (self.peering.demux, *(member.process for member in self.peering.members)):
            words.put(ProcessState.RUNNING, 2, 0, time.monotonic_ns(), 1)
            words.heartbeat[0] = time.monotonic_ns()
        self.gateway.beat()
        for member in self.peering.members:
            member.link[LinkWord.SPI_OUT] = 256

    def said(self, later_s: float = 0.0) -> Said:
        """What it would say of the peering."""
        obstacles = obstructed(self.gateway.troubles.get())
        answer = answer_of(self.view, obstacles, time.monotonic() + later_s)
        return answer.peerings[peering_id(self.config.name)]

    def tell(self, code: str) -> None:
        """Let the supervisor tell of a reason."""
        self.gateway.troubles.put(json.dumps({"reasons": [{"code": code, "peering": self.config.name}]}).encode())


@pytest.fixture
def site() -> Site:
    return Site()


# -- whether packets pass ---------------------------------------------------------------------------------------------


def test_a_peering_that_carries_is_said_to(site: Site) -> None:
    assert site.said() == PASSES


def test_one_member_that_carries_is_enough(site: Site) -> None:
    site.peering.members[0].process.put(ProcessState.BACKOFF, 0, 0, 0, 1)
    assert site.said() == PASSES


def no_sa(site: Site) -> None:
    for member in site.peering.members:
        member.link[LinkWord.SPI_OUT] = 0


def path_down(site: Site) -> None:
    for member in site.peering.members:
        member.link[LinkWord.PATH_DOWN] = 1


def no_member(site: Site) -> None:
    for member in site.peering.members:
        member.process.put(ProcessState.BACKOFF, 0, 0, 0, 1)


def no_demux(site: Site) -> None:
    site.peering.demux.put(ProcessState.BACKOFF, 0, 0, 0, 1)


def no_route(site: Site) -> None:
    site.tell("route_missing")


def no_device(site: Site) -> None:
    site.tell("device_down")


@pytest.mark.parametrize("breaks", [no_sa, path_down, no_member, no_demux, no_route, no_device])
def test_what_no_packet_passes_is_said_not_to(site: Site, breaks: Any) -> None:
    breaks(site)
    assert site.said() == Said(passes=False)


def test_what_keeps_no_packet_does_not_keep_the_routers_away(site: Site) -> None:
    site.tell("draining")
    assert site.said() == PASSES


def test_processes_that_hang_carry_nothing_whatever_their_words_say(site: Site) -> None:
    assert site.said(later_s=STALE_S - 0.5) == PASSES
    assert site.said(later_s=STALE_S + 0.5) == Said(passes=False)


def test_a_supervisor_that_does_not_go_on_keeps_the_routers_away(site: Site) -> None:
    """Nobody would see what befalls the others, and what it told last may be old."""
    processes = (site.peering.demux, *(member.process for member in site.peering.members))
    for later_s, passes in ((SUPERVISOR_STALE_S - 0.5, True), (SUPERVISOR_STALE_S + 0.5, False)):
        for words in processes:
            words.heartbeat[0] = time.monotonic_ns() + int(later_s * 1e9)
        assert site.said(later_s) == Said(passes=passes)


def test_the_loss_is_that_of_the_members_that_carry(site: Site) -> None:
    first, second = site.peering.members
    first.link[LinkWord.LOSS], second.link[LinkWord.LOSS] = 40, 20
    assert site.said().loss == pytest.approx(0.03)
    first.link[LinkWord.PATH_DOWN] = 1
    assert site.said().loss == pytest.approx(0.02)


def test_nothing_passes_of_a_peering_that_is_about_to_be_closed(site: Site) -> None:
    for member in site.peering.members:
        member.leaves[0] = 1
    assert not site.said().passes


def test_nothing_passes_when_all_far_gateways_are_about_to_close_until_that_is_over(site: Site) -> None:
    first, second = site.peering.members
    first.far_leaves_until[0] = time.monotonic_ns() + 10**10
    assert site.said().passes, "there is another one"
    second.far_leaves_until[0] = time.monotonic_ns() + 10**10
    assert not site.said().passes
    second.far_leaves_until[0] = 1
    assert site.said().passes


def test_a_drained_gateway_and_a_full_ring_are_told(site: Site) -> None:
    before = answer_of(site.view, frozenset(), time.monotonic())
    assert (before.draining, before.load) == (False, 0.0)
    site.gateway.drains[0] = 1
    site.rings[1].head = ring.SEGMENTS // 2
    after = answer_of(site.view, frozenset(), time.monotonic())
    assert (after.draining, after.load) == (True, 0.5)


# -- who is answered --------------------------------------------------------------------------------------------------


class Asked(Site):
    """Its beacon, and a router's socket."""

    def __init__(self, beacons: socket.socket, router: socket.socket, channel: socket.socket) -> None:
        super().__init__()
        self.router = router
        self.beacon = Beacon(self.view, beacons, KEY, channel)

    def ask(self, *datagrams: bytes) -> list[bytes]:
        """What comes of them, in one turn of the beacon."""
        for data in datagrams:
            self.router.send(data)
        self.beacon.turn()
        heard = []
        while True:
            try:
                heard.append(self.router.recv(2048))
            except BlockingIOError:
                return heard

    def counted(self) -> tuple[int, int]:
        counted = self.gateway.beacon_counters.read()
        return counted[BeaconCounter.ANSWERED], counted[BeaconCounter.REFUSED]


@pytest.fixture
def asked() -> Iterator[Asked]:
    channel, told = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
    with channel, told, socket.socket(type=kind) as beacons, socket.socket(type=kind) as router:
        beacons.bind(("127.0.0.1", 0))
        router.connect(beacons.getsockname())
        yield Asked(beacons, router, channel)


def test_a_router_with_the_key_is_answered_and_its_nonce_comes_back(asked: Asked) -> None:
    (data,) = asked.ask(encode_request(NONCE, KEY))
    answer = decode_answer(data, KEY)
    assert answer is not None
    assert (answer.nonce, dict(answer.peerings)) == (NONCE, {peering_id(asked.config.name): PASSES})
    assert asked.counted() == (1, 0)


def test_others_are_counted_and_get_nothing(asked: Asked) -> None:
    request = encode_request(NONCE, KEY)
    strange = [b"", b"?", bytes(2000), encode_request(NONCE, OTHER_KEY), request[:-1], request + b"x"]
    strange += [request[:20] + b"\xff" + request[21:], asked.ask(request)[0]]  # an answer is no request
    assert asked.ask(*strange) == []
    assert asked.counted() == (1, len(strange))


def test_what_changes_between_two_probes_is_in_the_second_answer(asked: Asked) -> None:
    for breaks, passes in ((lambda _: None, True), (no_route, False)):
        breaks(asked)
        (data,) = asked.ask(encode_request(NONCE, KEY))
        answer = decode_answer(data, KEY)
        assert answer is not None
        assert answer.peerings[peering_id(asked.config.name)].passes is passes


def test_a_successor_counts_on(asked: Asked) -> None:
    asked.ask(encode_request(NONCE, KEY), b"?")
    asked.beacon = Beacon(asked.view, asked.beacon._sock, KEY, asked.beacon._changes.channel)
    asked.ask(encode_request(NONCE, KEY))
    assert asked.counted() == (2, 1)


def test_an_answer_of_all_peerings_that_a_gateway_may_have_can_be_sent(site: Site) -> None:
    one = site.view.peerings[0]
    named = [one.config.model_copy(update={"name": f"p{i}"}) for i in range(64)]
    site.view.peerings[:] = [replace(one, config=config) for config in named]
    answer = answer_of(site.view, frozenset(), time.monotonic())
    assert len(encode_answer(answer, KEY)) < 1200  # one datagram on any path

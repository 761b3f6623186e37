"""The beacon's process: answers the probes of this VPC's routers (proto/probe.py).

It says of each peering whether its packets would pass, as the processes' own shared words and the supervisor tell, and
how many of its echoes are lost; whether a user wants the gateway out of service; and how full its rings are. All of
that it only reads. What is no probe, or was made without the key, is counted and not answered.
"""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Set
from dataclasses import replace
from typing import Final, NoReturn

from fwd.agent.changes import Changes
from fwd.agent.readiness import carries, supervisor_silent_s, turns
from fwd.agent.view import GatewayView, PeeringView
from fwd.datapath.counters import BeaconCounter
from fwd.datapath.ring import SEGMENTS
from fwd.datapath.shared import REST_S
from fwd.model.reasons import Code
from fwd.proto.probe import REQUEST_BYTES, Answer, Said, decode_request, encode_answer, peering_id

_PROBES_MAX: Final = 64  # in a turn
# Of what the supervisor finds in the kernel: that by which no packet of a peering passes.
_NOTHING_PASSES: Final = frozenset(
    {
        Code.DEVICE_DOWN, Code.ROUTE_MISSING, Code.ROUTE_TAKEN, Code.FORWARDING_OFF, Code.NO_OUTER_ADDRESS,
        Code.NO_OUTER_ROUTE,
    }
)  # fmt: skip


def run(view: GatewayView, sock: socket.socket, key: bytes, channel: socket.socket) -> NoReturn:
    """Be the beacon until the process is ended. `sock` is bound; by `channel` the supervisor tells of changes."""
    beacon = Beacon(view, sock, key, channel)
    while True:
        beacon.turn()


class Beacon:
    """The loop's state."""

    def __init__(self, view: GatewayView, sock: socket.socket, key: bytes, channel: socket.socket) -> None:
        self._view = view
        self._sock = sock
        self._key = key
        self._changes = Changes(channel, view, "beacon")
        self._heartbeat = view.shared.beacon.heartbeat
        self._counters = view.shared.beacon_counters
        self._counted = self._counters.attach()
        self._heard = view.shared.beacon_heard
        self._seen = -1  # version of what the supervisor tells
        self._obstructed: frozenset[str] = frozenset()
        self._poll = select.poll()
        for one in (sock, channel):  # neither waits: both were opened so
            self._poll.register(one, select.POLLIN)

    def turn(self) -> None:
        """Wait for something to do, and do it."""
        self._heartbeat[0] = time.monotonic_ns() + int(REST_S * 1e9)
        self._view.shared.follow_log_level()
        ready = {fd for fd, _ in self._poll.poll(REST_S * 1000)}
        self._heartbeat[0] = time.monotonic_ns()
        if self._changes.channel.fileno() in ready:
            self._changes.hear()
        if self._sock.fileno() in ready:
            self._answer_all()

    def _answer_all(self) -> None:
        said: Answer | None = None
        for _ in range(_PROBES_MAX):
            try:
                data, source = self._sock.recvfrom(REQUEST_BYTES + 1)
            except OSError:  # there is none left, or a router is gone that was answered
                break
            nonce = decode_request(data, self._key)
            if nonce is None:
                self._counted[BeaconCounter.REFUSED] += 1
                continue
            self._heard.note(source[0], self._heartbeat[0])
            said = said or self._said()
            try:
                self._sock.sendto(encode_answer(replace(said, nonce=nonce), self._key), source)
            except OSError:  # no room, or no way: silence says it
                continue
            self._counted[BeaconCounter.ANSWERED] += 1
        self._counters.publish()

    def _said(self) -> Answer:
        troubles = self._view.shared.troubles
        if self._seen != troubles.version:
            self._seen = troubles.version
            self._obstructed = obstructed(troubles.get())
        return answer_of(self._view, self._obstructed, time.monotonic())


def obstructed(news: bytes) -> frozenset[str]:
    """Return the peerings of which nothing passes, by what the supervisor tells."""
    reasons = json.loads(news or b"{}").get("reasons", ())
    return frozenset(one["peering"] for one in reasons if one["code"] in _NOTHING_PASSES)


def answer_of(view: GatewayView, obstructed: Set[str], now: float) -> Answer:
    """Return what is to be said, but for the nonce. Of a supervisor that does not go on nothing is believed."""
    if supervisor_silent_s(view, now):
        obstructed = {one.config.name for one in view.peerings}
    said = {peering_id(one.config.name): _said_of(one, obstructed, now) for one in view.peerings}
    load = max((_load(one) for one in view.peerings), default=0.0)
    return Answer(b"", said, bool(view.shared.drains[0]), load)


def _said_of(one: PeeringView, obstructed: Set[str], now: float) -> Said:
    now_ns = int(now * 1e9)
    staying = [m for m in one.shared.members if not m.leaves[0] and m.far_leaves_until[0] <= now_ns]
    carrying = [member for member in staying if carries(member, now)]
    passes = bool(carrying) and turns(one.shared.demux, now) and one.config.name not in obstructed
    return Said(passes, sum(member.loss for member in carrying) / len(carrying) if carrying else 0.0)


def _load(one: PeeringView) -> float:
    """How full the fullest of its rings is."""
    return max((min(1.0, max(0, ring.head - ring.done) / SEGMENTS) for ring in one.rings), default=0.0)

"""One peering's IKEv2: an endpoint without sockets (fwd.proto.ike), and the pairs of each member.

Says to the far side what both must agree on: the payload, and whose Child SA is whose. Asks for what is missing, has
rekeyed what is old and deleted what was left, and begins anew when the connection is gone. Traffic that members hear
keeps the connection alive, so that a peer whose keyd is away for a while is not given up (RFC 7296 §2.4).
"""

from __future__ import annotations

import logging
import os
import struct
import time
from typing import Final

from fwd.config import Peering
from fwd.datapath.counters import MemberCounter
from fwd.datapath.shared import LinkWord
from fwd.keyd.mailbox import KeydMember
from fwd.keyd.pairs import MemberPairs, NoSlotError
from fwd.proto.ike import auth
from fwd.proto.ike.auth import Credentials
from fwd.proto.ike.endpoint import Endpoint
from fwd.proto.ike.events import (
    Address,
    ChildDown,
    ChildRefused,
    ChildUp,
    Closed,
    Connection,
    Datagram,
    Established,
    Moved,
    Rejected,
)
from fwd.proto.ike.numbers import Notify, Payload, Protocol
from fwd.proto.ike.payloads import Notification
from fwd.proto.ike.proposals import parse
from fwd.proto.ike.sa import State

SUPERPACKET_VERSION: Final = 1
AGAIN_S: Final = 1.0  # after a connection has closed; doubles up to AGAIN_MAX_S
AGAIN_MAX_S: Final = 10.0
REJECTED_EVERY_S: Final = 1.0
REFUSED_S: Final = 10.0  # after the peer has refused a Child SA
OTHER_SIDE_S: Final = 1.0  # the side that did not begin asks for what is missing this much later
_WAIT_S, _WAITS_MAX = 0.5, 3
_JITTER = 0.1  # rekeying comes up to this share of its time earlier
log = logging.getLogger(__name__)


def connection_of(peering: Peering, credentials: Credentials) -> Connection:
    """The connection that a peering's configuration describes."""
    keys = peering.ike
    assert keys is not None
    port = keys.ike_port
    notifies = []
    if peering.payload == "superpacket":
        notifies.append(Notification(Notify.FWD_SUPERPACKET, struct.pack(">BB", SUPERPACKET_VERSION, peering.members)))
    return Connection(
        name=peering.name,
        local=(str(peering.local_addrs), port),
        remote=(str(peering.remote_addrs), port),
        local_id=auth.identity(keys.local_id or str(peering.local_addrs), Payload.IDI),
        remote_id=auth.identity(keys.remote_id or str(peering.remote_addrs), Payload.IDR),
        credentials=credentials,
        ike_proposals=tuple(parse(words, Protocol.IKE) for words in keys.ike_proposals),
        esp_proposals=tuple(parse(words, Protocol.ESP) for words in keys.esp_proposals),
        local_ts=tuple(peering.local_ts),
        remote_ts=tuple(peering.remote_ts),
        notifies=tuple(notifies),
        rekey_s=float(keys.ike_rekey_time),
        liveness_s=float(keys.dpd_delay),
        float_port=peering.port if peering.shared_port else 0,
    )


class IkePeering:
    """See the module."""

    def __init__(self, peering: Peering, credentials: Credentials, members: list[KeydMember], now: float) -> None:
        self.peering = peering
        self.name = peering.name
        self.connection = connection_of(peering, credentials)
        self.members = [MemberPairs(i, parts, now) for i, parts in enumerate(members)]
        self._shared = [parts.shared for parts in members]
        self._endpoint = Endpoint([self.connection], os.urandom, time.time, self._spi_free)
        # Members that hold SAs come from a keyd before this one: what they use stays until it is replaced.
        self._initial_contact = not any(parts.shared.link[LinkWord.SPI_OUT] for parts in members)
        self._not_before = [0.0] * len(members)  # no Child SA more is asked for before then
        self._missing_since: list[float | None] = [None] * len(members)
        assert peering.ike is not None
        self._starts = peering.ike.start_action == "start"
        self._begin_at: float | None = now if self._starts else None
        self._again_s = AGAIN_S
        self._rejected_at = float("-inf")
        self._waited = 0
        self._heard_esp = 0
        jitter = 1 - _JITTER * os.urandom(1)[0] / 255
        self._rekey_s = peering.rekey_time * jitter

    # -- datagrams and time ---------------------------------------------------------------------------------------

    def receive(self, data: bytes, local: Address, remote: Address, now: float) -> None:
        """A message that came from the peering's remote address."""
        self._endpoint.receive(data, local, remote, now)
        self._follow(now)

    def datagrams(self) -> list[Datagram]:
        return self._endpoint.datagrams_to_send()

    def next_timeout(self) -> float | None:
        """When `tick` is due at the latest, for IKE's own sake."""
        times = [self._endpoint.next_timeout(), self._begin_at]
        return min((at for at in times if at is not None), default=None)

    def hear(self, index: int, now: float) -> None:
        """A member has something to tell."""
        self.members[index].hear()
        self.tick(now)

    def tick(self, now: float) -> None:
        """Everything that is due."""
        self._endpoint.handle_timeout(now)
        for member in self.members:
            member.tick(now)
        self._note_traffic(now)
        if self._begin_at is None and self._starts and not self._endpoint.sas(self.name):
            self._begin_at = now + self._again_s  # our attempt gave way to the peer's, and that has come to nothing
        if self._begin_at is not None and now >= self._begin_at:
            self._begin(now)
        self._care(now)
        self._follow(now)

    def _begin(self, now: float) -> None:
        """Initiate, unless the peer is about to; anybody can seem to be, so that is believed a few times only."""
        if self._endpoint.begins(self.name, now) and self._waited < _WAITS_MAX:
            self._waited += 1
            self._begin_at = now + _WAIT_S
            return
        self._waited = 0
        self._begin_at = None
        self._endpoint.initiate(self.name, now, initial_contact=self._initial_contact)

    def _note_traffic(self, now: float) -> None:
        """What members have authenticated shows that the peer is there."""
        heard = sum(shared.counters.read()[MemberCounter.IN_ESP_OK] for shared in self._shared)
        if heard != self._heard_esp:
            self._heard_esp = heard
            self._endpoint.heard(self.name, now)

    # -- what there is to do --------------------------------------------------------------------------------------

    def _care(self, now: float) -> None:
        endpoint = self._endpoint
        sa = endpoint.established(self.name)
        for index, member in enumerate(self.members):
            for spi in member.due_to_delete(now):
                endpoint.delete_child(self.name, spi, now)
            if sa is None:
                continue
            for spi in member.due_to_rekey(now, self._rekey_s):
                endpoint.rekey_child(self.name, spi, now)
            missing = member.missing() - endpoint.asked(self.name, index)
            if missing <= 0 or now < self._not_before[index]:
                self._missing_since[index] = None
                continue
            since = self._missing_since[index]
            if since is None:
                since = self._missing_since[index] = now
            if sa.initiator or now >= since + OTHER_SIDE_S:
                for _ in range(missing):
                    endpoint.create_child(self.name, index, (_for_member(index),), now)

    # -- what IKE tells -------------------------------------------------------------------------------------------

    def _follow(self, now: float) -> None:
        while (event := self._endpoint.next_event()) is not None:
            match event:
                case Established():
                    self._established(event, now)
                case ChildUp():
                    self._child_up(event, now)
                case ChildDown():
                    log.debug("%s: Child SA %#010x of member %d is deleted", self.name, event.spi, event.member)
                    if event.member < len(self.members):
                        self.members[event.member].down(event.spi, now)
                case ChildRefused():
                    self._not_before[event.member] = now + REFUSED_S
                    log.warning("%s: no Child SA for member %d: notify %d", self.name, event.member, event.notify)
                case Moved():
                    log.info("%s: the peer is at %s port %d now", self.name, *event.remote)
                case Rejected():
                    self._rejected(event, now)
                case Closed():
                    self._closed(event, now)
        for member in self.members:
            member.settle(now)

    def _established(self, event: Established, now: float) -> None:
        log.info("%s: IKE SA with %s established", self.name, auth.name_of(event.peer))
        self._begin_at = None
        self._again_s = AGAIN_S
        self._initial_contact = False
        known = {notify.kind: notify.data for notify in event.notifies}
        wanted = {notify.kind: notify.data for notify in self.connection.notifies}
        if known.get(Notify.FWD_SUPERPACKET) != wanted.get(Notify.FWD_SUPERPACKET):
            log.error("%s: payload or members differ from the peer's: set both sides alike", self.name)

    def _child_up(self, event: ChildUp, now: float) -> None:
        index = event.child.member
        if index >= len(self.members):
            self._endpoint.delete_child(self.name, event.child.inbound.spi, now)
            return
        try:
            self.members[index].up(event.child, event.replaces, now)
        except NoSlotError as error:
            log.warning("%s: %s", self.name, error)
            self._endpoint.delete_child(self.name, event.child.inbound.spi, now)

    def _rejected(self, event: Rejected, now: float) -> None:
        """Anybody can be rejected again and again: it is told once in a while."""
        if now >= self._rejected_at + REJECTED_EVERY_S:
            self._rejected_at = now
            log.warning("%s: IKE with %s port %d refused: %s", self.name, *event.remote, event.error)

    def _closed(self, event: Closed, now: float) -> None:
        if event.error:
            log.warning("%s: IKE SA is gone: %s", self.name, event.error)
        else:
            log.info("%s: IKE SA is closed", self.name)
        self._begin_at = now + self._again_s if self._starts else None
        self._again_s = min(2 * self._again_s, AGAIN_MAX_S)

    def told(self, now: float) -> list[dict[str, object]]:
        """What there is to see of its IKE SAs and their Child SAs, as `swanctl --list-sas` has it. No keys."""
        return [
            {
                "state": sa.state.name.lower(),
                "spi_i": sa.spi_i.hex(),
                "spi_r": sa.spi_r.hex(),
                "initiator": sa.initiator,
                "remote": f"{sa.remote[0]}:{sa.remote[1]}",
                "remote_id": auth.name_of(self.connection.remote_id),
                "established_s": round(now - sa.established_at) if sa.established_at else None,
                "children": [
                    {
                        "member": child.keys.member,
                        "state": child.use.name.lower(),
                        "spi_in": f"{child.spi_in:#010x}",
                        "spi_out": f"{child.spi_out:#010x}",
                        "proposal": child.keys.proposal,
                    }
                    for child in sa.children.values()
                ],
            }
            for sa in self._endpoint.sas(self.name)
        ]

    def _spi_free(self, spi: int) -> bool:
        return not any(member.knows(spi) for member in self.members)

    def stopping(self, now: float) -> None:
        """fwd goes: tell the peer."""
        if any(sa.state is State.ESTABLISHED for sa in self._endpoint.sas(self.name)):
            self._endpoint.terminate(self.name, now)


def _for_member(index: int) -> Notification:
    return Notification(Notify.FWD_MEMBER, bytes([index]))

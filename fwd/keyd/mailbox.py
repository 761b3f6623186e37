"""How keyd's keys get to one member: boot records that wait for whoever starts next, updates for who lives.

Two boot records wait in a socket pair that outlives both ends, each with all inbound SAs and one unused SA to send on.
keyd holds both ends and takes records back to write them anew: what was unused stays so, and what a member has taken is
gone (rule 1). A second pair, both ends of which only keyd reads, holds what the member has installed, and what
that was authenticated by (proof.py), for the next keyd: the new state is written before the old one is taken out, so
that no death leaves none.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from fwd.datapath.clock import boot_ns
from fwd.datapath.shared import MemberShared, PeeringShared
from fwd.keyd.offers import Offers
from fwd.model.config import Peering
from fwd.model.pairing import Far
from fwd.proto.logged import event
from fwd.proto.sa import EVENT_BYTES, SET_BYTES_MAX, MessageError, SaEvent, SaKeys, SaSet

BOOT_RECORDS: Final = 2
EVENTS_MAX: Final = 64  # that are read in a turn: whoever writes without end gets no more of keyd's time
_REFUSED_EVERY_S: Final = 1.0  # between two records of what made no sense
_NOTE = struct.Struct(">H")  # octets
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeydMember:
    """A member's shared words and the ends of its socket pairs. keyd has both ends of `boot`, to take records back."""

    shared: MemberShared
    boot: socket.socket
    boot_far: socket.socket
    control: socket.socket
    memory: tuple[socket.socket, socket.socket] | None = None  # both ends of the second pair (IKE only)

    def close(self) -> None:
        """Close keyd's ends."""
        for sock in (self.boot, self.boot_far, self.control, *(self.memory or ())):
            sock.close()


@dataclass(frozen=True)
class KeydPeering:
    """What keyd inherits of a peering."""

    peering: Peering
    fds: dict[str, int]  # of its secret files (keyd.secrets)
    members: list[KeydMember]
    shared: PeeringShared
    offloads: int  # flags of TUNSETOFFLOAD that its TUN device was given
    far: Far | None = None  # which of several far gateways this is of; None: there is one
    offers: Offers | None = None  # of all of them together
    stopped: bool = False  # a user has ended it, and neither side is to begin it

    def towards(self, far: Far, offers: Offers) -> KeydPeering:
        """What belongs to one of its far gateways: the members that are paired with it."""
        members = [self.members[index] for index in far.members(len(self.members))]
        return replace(self, peering=self.peering.towards(far), members=members, far=far, offers=offers)


class Mailbox:
    """Of one member."""

    def __init__(self, parts: KeydMember) -> None:
        self._parts = parts
        self._remembered = False
        self._refused = 0  # messages of the member that made no sense, so far
        self._refused_at = float("-inf")  # when the log was told of them
        self.note = b""  # what the SAs were authenticated by, remembered along with them

    def take_back(self) -> list[SaSet]:
        """The boot records that wait, oldest first; now none does."""
        found: list[SaSet] = []
        with contextlib.suppress(BlockingIOError, MessageError):
            while True:
                found.append(SaSet.decode(self._parts.boot_far.recv(SET_BYTES_MAX)))
        return found

    def put(self, inbound: Sequence[SaKeys], unused: Iterable[SaKeys]) -> None:
        """A boot record for each SA to send on."""
        for outbound in unused:
            self._parts.boot.send(SaSet(0, tuple(inbound), outbound, written_ns=boot_ns()).encode())

    def remember(self, inbound: Sequence[SaKeys]) -> None:
        """What the member has installed, for the next keyd."""
        if self._parts.memory is not None:
            near, far = self._parts.memory
            near.send(_NOTE.pack(len(self.note)) + self.note + SaSet(0, tuple(inbound)).encode())
            if self._remembered:
                far.recv(SET_BYTES_MAX)
            self._remembered = True

    def recall(self) -> tuple[SaKeys, ...]:
        """What the last keyd has remembered. Call once, before `remember`."""
        found: tuple[SaKeys, ...] = ()
        if self._parts.memory is not None:
            with contextlib.suppress(BlockingIOError, MessageError, struct.error):
                while True:
                    data = self._parts.memory[1].recv(SET_BYTES_MAX)
                    end = _NOTE.size + _NOTE.unpack_from(data)[0]
                    found, self.note = SaSet.decode(data[end:]).inbound, data[_NOTE.size : end]
        self.remember(found)
        return found

    def update(
        self, inbound: Sequence[SaKeys], outbound: SaKeys | None, *, stop: bool = False, until_ms: int = 0
    ) -> bool:
        """Tell the living member. One that dies first reads its boot record instead. False: it has no room for more."""
        incarnation = self._parts.shared.process.incarnation
        message = SaSet(incarnation, tuple(inbound), outbound, stop, until_ms, boot_ns())
        try:
            self._parts.control.send(message.encode())
        except BlockingIOError:
            return False
        return True

    def events(self) -> list[SaEvent]:
        """What the member has told, EVENTS_MAX at most: what is left comes next turn. Nonsense is counted."""
        found: list[SaEvent] = []
        with contextlib.suppress(BlockingIOError):
            for _ in range(EVENTS_MAX):
                data = self._parts.control.recv(EVENT_BYTES + 1)  # what is longer is none, and stays so
                try:
                    found.append(SaEvent.decode(data))
                except MessageError as error:
                    self._refuse(error)
        return found

    def _refuse(self, error: MessageError) -> None:
        """Count a message that makes no sense; the log is told once in a while, however many there are."""
        self._refused += 1
        now = time.monotonic()
        if now >= self._refused_at + _REFUSED_EVERY_S:
            self._refused_at = now
            life = self._parts.shared.process.incarnation
            told = event("member.event_refused", incarnation=life, so_far=self._refused)
            log.error("event of a member refused: %s (%d so far)", error, self._refused, extra=told)

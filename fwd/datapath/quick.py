"""A member's loop while all that comes is simple, in the compiled core (quick.c): no Python runs for a small burst.

After a pause code and objects have left the caches, so that what a small burst costs is how much of them it touches.
Simple is, of payload superpacket, a segment that the SA carries whole and the kernel takes at once, and a datagram of
the SA in hand, from where its peer was heard before, whose number follows the last one and whose records are whole and
plain. All else is left as it came, and goes the ways of outbound.py and inbound.py, which say what is done; so does
everything where there is no core. In `wait` C has the numbers, counters and times that these keep, and gives them back.
"""

from __future__ import annotations

import select
import socket
import struct
from dataclasses import dataclass
from typing import Any, Final

from fwd.datapath.counters import MemberCounter
from fwd.datapath.inbound import Inbound
from fwd.datapath.outbound import Outbound
from fwd.datapath.payloads.superpacket import SuperpacketIn
from fwd.datapath.receiver import address_of
from fwd.datapath.receiving import Receiving
from fwd.datapath.ring import SEGMENTS, Ring
from fwd.datapath.shared import LinkWord, MemberShared
from fwd.datapath.slots import Slots
from fwd.datapath.udp import Sender
from fwd.datapath.unread import UNREAD_S, Unread
from fwd.datapath.whereabouts import Whereabouts
from fwd.proto import core
from fwd.proto.core import ffi, lib
from fwd.proto.drops import DropReason
from fwd.proto.esp import OutboundSa

Ready = list[tuple[int, int]]
Datagram = tuple[int, int, int, int, tuple[Any, ...]]  # of what was received: what Inbound.take takes
# Why a call has ended, as in quick.h.
_DUE: Final = 1
_DATAGRAM, _UNSENT, _UNSEALED = 3, 4, 5
_DATA, _CONTROL = 1, 2  # bits of `ready`
_TURN: Final[Ready] = [(-1, 0)]  # nothing is ready, and nothing due: there is another turn
_UNREAD_NS: Final = int(UNREAD_S * 1e9)
_COUNTERS: Final = {
    **{name.lower(): MemberCounter[name].value for name in (
        "OUT_RECORDS", "OUT_BYTES", "OUT_ESP", "OUT_ESP_BYTES", "DONE",
        "IN_ESP", "IN_ESP_BYTES", "IN_ESP_OK", "IN_RECORDS", "IN_RECORDS_OK", "IN_BYTES",
    )},
    **{name.lower(): DropReason[name].value for name in ("BUCKETS_MOVED", "TUN_REFUSED", "SOCKET_OVERFLOW")},
}  # fmt: skip


def _words(view: memoryview, at: int = 0) -> core.Memory:
    """Return where 64-bit words are, from the one at `at` on; of memory that this process may only read, too."""
    return ffi.cast("uint64_t *", ffi.from_buffer("uint8_t[]", view)) + at


@dataclass(frozen=True)
class Ends:
    """What a member works with, on either side of the loop."""

    sock: socket.socket
    control: socket.socket
    ring: Ring
    shared: MemberShared
    sender: Sender
    outbound: Outbound
    inbound: Inbound
    unread: Unread
    where: Whereabouts


class Quick:
    """Of one member with payload superpacket and a socket of the kernel's."""

    def __init__(self, ends: Ends, payload: SuperpacketIn) -> None:
        self._payload, self._outbound, self._inbound, self._sender = payload, ends.outbound, ends.inbound, ends.sender
        self._unread, self._where = ends.unread, ends.where
        self._block = block = ends.shared.counters
        self._slots = ends.shared.slots
        self._quick = quick = ffi.new("fwd_quick *")
        quick.data, quick.control = data, control = ends.sock.fileno(), ends.control.fileno()
        both: Ready = [(data, select.EPOLLIN), (control, select.EPOLLIN)]
        self._ready: dict[int, Ready] = {_DATA: both[:1], _CONTROL: both[1:], _DATA | _CONTROL: both}

        # Words that others read, and what is counted.
        ring, shared, out = ends.ring, ends.shared, ends.outbound.out
        quick.heartbeat = _words(shared.process.heartbeat)
        quick.demux_words, quick.member_words = _words(ring.demux_words), _words(ring.member_words)
        quick.rx_taken = _words(shared.link, LinkWord.RX_TAKEN)
        quick.counters, quick.block = _words(memoryview(block.values)), _words(block.words)
        quick.n_counters = len(block.values)
        for name, index in _COUNTERS.items():
            setattr(quick, name, index)

        # The ring, and where packets are sealed to.
        quick.fields = core.words(ring.segments[0].fields)
        for i in range(SEGMENTS):
            segment = ring.segments[i]
            quick.rows[i], quick.ends[i] = core.memory(segment.rows), core.words(segment.ends)
        quick.rows_octets, quick.ends_octets = len(ring.segments[0].rows), 4 * len(ring.segments[0].ends)
        quick.stride = ring.stride
        quick.out, quick.out_octets = core.memory(out), len(out)
        quick.send_octets_max = ends.sender.bytes_max
        quick.unread_ns = _UNREAD_NS

        # What it was last made of, so that it is made anew only when that changes.
        self._seals: OutboundSa | None = None
        self._opens: Receiving | None = None
        self._received: Slots | None = None
        self._peer: tuple[Any, ...] = ()
        self._heard_from: tuple[Any, ...] = ()
        self._in_hand = False
        self.times_s = (0.0, 0.0, 0.0)  # records sent first, heard last, and sent first since; 0: not

    @classmethod
    def of(cls, ends: Ends) -> Quick | None:
        """Make one, if there is a compiled core and the payload is one that it knows."""
        payload = ends.inbound.payload
        if not (core.in_use and isinstance(ends.sock, socket.socket) and isinstance(payload, SuperpacketIn)):
            return None
        return cls(ends, payload)

    def wait(self, epoll: select.epoll, until_s: float, deadline_ms: int, left: int, *, tells_sent: bool) -> Ready:
        """Wait until something comes that is not simple, or until `until_s`; what is ready, nothing if it is due.

        `left`: as the far member was told. `tells_sent`: end with the first segment that is sent.
        """
        quick = self._quick
        quick.epoll, quick.left, quick.tells_sent = epoll.fileno(), left, tells_sent
        quick.deadline_ms = deadline_ms
        self._arm_outbound()
        self._arm_inbound()
        why: int = lib.fwd_quick_wait(quick, int(until_s * 1e9))

        # What is kept in Python goes on from there, before anything else.
        self._block.follow()
        if self._seals is not None:
            self._seals.number = quick.number
        if quick.taken:
            self._settle_inbound()
        if quick.was_empty:
            self._unread.follow(quick.read_ns, (quick.empty_ns, quick.empty_esp, quick.empty_bytes))
        self.times_s = quick.sent_before_ns / 1e9, quick.heard_ns / 1e9, quick.sent_ns / 1e9

        if why == _DUE:
            return []
        if why in (_UNSENT, _UNSEALED):
            self._outbound.go_on(quick.segment, quick.at, quick.end, quick.packet_octets, quick.packets)
        self._in_hand = why == _DATAGRAM
        return self._ready.get(_DATA if self._in_hand else quick.ready if why == 2 else 0, _TURN)

    def take_over(self) -> Datagram | None:
        """Return what was received and not taken, if anything was; it lies in the inbound's space."""
        if not self._in_hand:
            return None
        self._in_hand = False
        quick = self._quick
        name = ffi.buffer(quick.came_name)[: quick.came_name_octets]
        known = name == ffi.buffer(quick.name)[: quick.name_octets] and self._heard_from
        return quick.length, quick.size, quick.came_flow_info, quick.came_lost, known or address_of(name)

    # -- what is simple -------------------------------------------------------------------------------------------

    def _arm_outbound(self) -> None:
        quick, outbound, sender = self._quick, self._outbound, self._sender
        if outbound.peer is not self._peer:
            self._peer = outbound.peer
            name = _name(self._peer, v6=sender.v6)
            quick.peer_octets = len(name)
            ffi.memmove(quick.peer, name, len(name))
        sa = outbound.simple if quick.peer_octets else None
        if sa is not self._seals:
            self._seals = sa
            quick.seals = ffi.NULL if sa is None else sa.cipher
            quick.ledger = _words(*outbound.ledger_place)
        if sa is None:
            return
        quick.number, quick.number_max = sa.number, sa.sequence_max
        quick.tos, quick.offload = sender.tos, sender.gso

    def _arm_inbound(self) -> None:
        """Let it open what follows on the SA in hand, if nothing of that is unfinished or held."""
        quick, inbound = self._quick, self._inbound
        received = inbound.received
        if received is not self._received:
            self._received = received
            space = received.space()
            quick.space, quick.space_octets = core.memory(space), len(space)
            quick.packet_octets_max = received.packet_bytes
        quick.read_ns, quick.empty_ns = self._unread.times_ns

        direct, payload, (address, flow_info) = inbound.delivery.direct, self._payload, inbound.sender
        sa, number = payload.follows()
        if sa is None or not sa.heard or direct is None or address != self._where.heard_from:
            self._opens, quick.opens = None, ffi.NULL
            return
        quick.next, quick.top, quick.octets, quick.flow_info = number, sa.window.top, sa.octets, flow_info
        if address is not self._heard_from:
            self._heard_from = address
            name = _name(self._heard_from, v6=self._sender.v6)
            quick.name_octets = len(name)
            ffi.memmove(quick.name, name, len(name))
        rows = payload.buffer
        quick.way, quick.opened = direct.aim(rows, rows.chunk), rows.memory
        if sa is not self._opens:
            self._opens = sa
            slot = sa.keys.slot
            quick.slot_top = _words(self._slots.words, 2 * slot + 1)
            quick.slot_octets = _words(self._slots.octets, slot)
            quick.spi, quick.window = sa.spi, sa.window.size
        quick.opens = sa.cipher

    def _settle_inbound(self) -> None:
        """Note in window, SA and stream what was taken."""
        quick, sa = self._quick, self._opens
        assert sa is not None
        sa.window.commit_run(quick.first_number, quick.taken)
        sa.octets = quick.octets
        self._payload.followed(quick.next - 1)
        self._unread.follow(quick.read_ns)


def _name(address: tuple[Any, ...], *, v6: bool) -> bytes:
    """Return an address as the kernel has it (sockaddr_in, sockaddr_in6); nothing for one of the other family.

    Where the peer is, keyd says, and a child may be wrong: Python's socket refuses it with each send.
    """
    host, port, *more = address
    try:
        octets = socket.inet_pton(socket.AF_INET6 if v6 else socket.AF_INET, host)
    except OSError:
        return b""
    if not v6:
        return struct.pack("=H", socket.AF_INET) + struct.pack(">H", port) + octets + bytes(8)
    flow_info, scope = more or (0, 0)
    head = struct.pack("=H", socket.AF_INET6) + struct.pack(">HI", port, flow_info)
    return head + octets + struct.pack("=I", scope)

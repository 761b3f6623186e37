"""What two fwd gateways tell each other of a peering in IKE_AUTH, and what follows from both (ARCHITECTURE, "Keys").

A private-use notify carries version, payload, the offloads whose super-packets its sender takes, where its members
listen, whether they answer echoes in payload esp, and, from version 2 on, its own address as it knows it: seen at
another one, it is behind a NAT. Of a sender with several far gateways the members that are paired with one of them have
ports evenly apart. From version 3 on it has the number of its members, and for how long those beyond it may still be
busy; it comes again in INFORMATIONAL when that changes. The two need not have as many members:
those of one number are partners. `superpacket` is not sent unless both have said it: a peer that says nothing is a
standard one. Refused, as ValueError: what is not such a notify.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final

from fwd.model.words import Payload
from fwd.proto.ike.numbers import Notify
from fwd.proto.ike.payloads import Notification
from fwd.proto.ip import CSUM, TSO4, TSO6, USO4, USO6

VERSION: Final = 3
_WITH_ADDRESS: Final = 2
_OLDEST: Final = 1
PORT_MAX: Final = 65535
_FORM = struct.Struct(">BBBBHH")  # version, payload, flags, ports' distance - 1, offloads, UDP port of the first member
_ADDRESS_BYTES: Final = 16  # behind that, from version 2 on
_MEMBERS = struct.Struct(">BBH")  # behind that, from version 3 on: members, zero, seconds
_IPV4_MAPPED: Final = bytes(10) + b"\xff\xff"
_PAYLOADS: Final[dict[int, Payload]] = {1: "superpacket", 2: "esp"}
_ONE_PORT = 1
_ECHOES = 2


@dataclass(frozen=True)
class Terms:
    """One side's. `offloads`: flags of TUNSETOFFLOAD."""

    payload: Payload
    offloads: int
    port: int
    one_port: bool  # for all members; else member i has `port` + i × `apart`
    address: str | None = None  # of its sender, as that knows it; None: it does not tell
    apart: int = 1
    echoes: bool = False  # its members answer them in payload esp, too
    members: int = 0  # that its sender has; 0: it does not tell
    drain_s: int = 0  # for how long members beyond those may still be busy

    def notification(self) -> Notification:
        number = next(number for number, name in _PAYLOADS.items() if name == self.payload)
        flags = (_ONE_PORT if self.one_port else 0) | (_ECHOES if self.echoes else 0)
        data = _FORM.pack(VERSION, number, flags, self.apart - 1, self.offloads, self.port)
        address = ip_address(self.address) if self.address else None
        if address is None:
            return Notification(Notify.FWD_PEERING, data)
        packed = address.packed if address.version == 6 else _IPV4_MAPPED + address.packed
        return Notification(Notify.FWD_PEERING, data + packed + _MEMBERS.pack(self.members, 0, self.drain_s))

    @classmethod
    def decode(cls, data: bytes) -> Terms:
        """Raises ValueError. Octets behind those of this version are of a later one, and passed over."""
        if len(data) < _FORM.size:
            raise ValueError(f"notify of {len(data)} octets")
        version, number, flags, between, offloads, port = _FORM.unpack_from(data)
        if version < _OLDEST or number not in _PAYLOADS or not port:
            raise ValueError(f"version {version}, payload {number}, port {port}")
        address, members, drain_s, end = None, 0, 0, _FORM.size + _ADDRESS_BYTES
        if version >= _WITH_ADDRESS and len(data) >= end:
            found = IPv6Address(data[_FORM.size : end])
            address = str(found.ipv4_mapped or found)
        if version >= VERSION and len(data) >= end + _MEMBERS.size:
            members, _, drain_s = _MEMBERS.unpack_from(data, end)
        return cls(
            _PAYLOADS[number], _that_go_together(offloads), port, bool(flags & _ONE_PORT), address, between + 1,
            bool(flags & _ECHOES), members, drain_s,
        )  # fmt: skip

    def behind_nat(self, seen: str) -> bool:
        """Whether a NAT is before its sender, whom we see at `seen`."""
        return self.address is not None and ip_address(self.address) != ip_address(seen)

    def port_of(self, member: int) -> int:
        """Where a member listens; there is none beyond the last port."""
        return self.port if self.one_port else min(self.port + member * self.apart, PORT_MAX)


def terms_told(notifies: Sequence[Notification]) -> Terms | None:
    """Return what another fwd has said among its notifies; None: the peer is no fwd. Raises ValueError."""
    told = [one.data for one in notifies if one.kind == Notify.FWD_PEERING]
    return Terms.decode(told[-1]) if told else None


def _that_go_together(offloads: int) -> int:
    """Of these flags those that a TUN device can have: no segmentation without checksums, USO for both IP versions."""
    known = offloads & (CSUM | TSO4 | TSO6 | USO4 | USO6)
    if not known & CSUM:
        return 0
    return known if known & USO4 and known & USO6 else known & ~(USO4 | USO6)


def disagreement(mine: Terms, theirs: Terms | None) -> str:
    """Why the two cannot be joined, in words for the user; empty: they can. `theirs` None: no fwd."""
    if theirs is None and mine.payload == "superpacket":
        return 'the peer does not speak payload superpacket: set payload = "esp"'
    if theirs is not None and theirs.payload != mine.payload:
        return f"payload is {mine.payload} here and {theirs.payload} there: set both sides alike"
    return ""

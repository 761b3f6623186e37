"""Payloads of IKEv2 messages (RFC 7296 §3.2 to §3.13), strictly: what is encoded is decoded to the same.

A payload is a frozen dataclass with its body as fields. `decode_chain` reads payloads up to the end of a message;
those of an unknown type are passed over, or refused when they are critical (RFC 7296 §2.5). SA payloads are in
proposals.py, traffic selectors in selectors.py. Refused, as ProtocolError: lengths that contradict one another, more
payloads, proposals, selectors or SPIs than any sane message has, reserved values that have a meaning.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, TypeVar

from fwd.proto.ike.limits import NOTIFY_BYTES_MAX
from fwd.proto.ike.numbers import (
    ESP_SPI_BYTES,
    STATUS_FIRST,
    Notify,
    Payload,
    Protocol,
    ProtocolError,
    syntax,
)
from fwd.proto.ike.proposals import Proposal, decode_proposals, encode_proposals
from fwd.proto.ike.selectors import Selector, decode_selectors, encode_selectors

PAYLOADS_MAX: Final = 64
NONCE_BYTES: Final = range(16, 257)  # RFC 7296 §2.10 and §3.9
_DELETES_MAX: Final = 256
_CRITICAL = 0x80
_HEAD = struct.Struct(">BBH")


@dataclass(frozen=True)
class SecurityAssociation:
    """SA: proposals in order of preference."""

    TYPE: ClassVar = Payload.SA
    proposals: tuple[Proposal, ...]

    def encode(self) -> bytes:
        return encode_proposals(self.proposals)

    @classmethod
    def decode(cls, body: memoryview, kind: Payload) -> SecurityAssociation:
        return cls(decode_proposals(body))


@dataclass(frozen=True)
class KeyExchange:
    """KE: a public value of one group."""

    TYPE: ClassVar = Payload.KE
    group: int
    public: bytes

    def encode(self) -> bytes:
        return struct.pack(">HH", self.group, 0) + self.public

    @classmethod
    def decode(cls, body: memoryview, kind: Payload) -> KeyExchange:
        _at_least(body, 5, "KE")
        return cls(int.from_bytes(body[:2], "big"), bytes(body[4:]))


@dataclass(frozen=True)
class Identity:
    """IDi or IDr, as `type` says."""

    type: Payload
    kind: int  # IdType
    data: bytes

    @property
    def TYPE(self) -> Payload:  # noqa: N802
        return self.type

    def encode(self) -> bytes:
        return bytes([self.kind, 0, 0, 0]) + self.data

    @classmethod
    def decode(cls, body: memoryview, kind: Payload) -> Identity:
        _at_least(body, 4, "ID")
        return cls(kind, body[0], bytes(body[4:]))


@dataclass(frozen=True)
class Certificate:
    TYPE: ClassVar = Payload.CERT
    encoding: int
    data: bytes

    def encode(self) -> bytes:
        return bytes([self.encoding]) + self.data

    @classmethod
    def decode(cls, body: memoryview, kind: Payload) -> Certificate:
        _at_least(body, 2, "CERT")
        return cls(body[0], bytes(body[1:]))


@dataclass(frozen=True)
class CertificateRequest:
    """CERTREQ: SHA-1 hashes of the public keys of trusted CAs, one behind the other."""

    TYPE: ClassVar = Payload.CERTREQ
    encoding: int
    authorities: bytes

    def encode(self) -> bytes:
        return bytes([self.encoding]) + self.authorities

    @classmethod
    def decode(cls, body: memoryview, kind: Payload) -> CertificateRequest:
        _at_least(body, 1, "CERTREQ")
        return cls(body[0], bytes(body[1:]))


@dataclass(frozen=True)
class Authentication:
    TYPE: ClassVar = Payload.AUTH
    method: int
    data: bytes

    def encode(self) -> bytes:
        return bytes([self.method, 0, 0, 0]) + self.data

    @classmethod
    def decode(cls, body: memoryview, kind: Payload) -> Authentication:
        _at_least(body, 5, "AUTH")
        return cls(body[0], bytes(body[4:]))


@dataclass(frozen=True)
class Nonce:
    TYPE: ClassVar = Payload.NONCE
    data: bytes

    def encode(self) -> bytes:
        return self.data

    @classmethod
    def decode(cls, body: memoryview, kind: Payload) -> Nonce:
        if len(body) not in NONCE_BYTES:
            raise syntax(f"nonce of {len(body)} octets")
        return cls(bytes(body))


@dataclass(frozen=True)
class Notification:
    """N: `kind` is a Notify, or a number that fwd does not know."""

    TYPE: ClassVar = Payload.NOTIFY
    kind: int
    data: bytes = b""
    protocol: int = Protocol.NONE
    spi: bytes = b""

    @property
    def is_error(self) -> bool:
        return self.kind < STATUS_FIRST

    def encode(self) -> bytes:
        return struct.pack(">BBH", self.protocol, len(self.spi), self.kind) + self.spi + self.data

    @classmethod
    def decode(cls, body: memoryview, kind: Payload) -> Notification:
        _at_least(body, 4, "N")
        protocol, spi_bytes, number = struct.unpack_from(">BBH", body)
        if len(body) < 4 + spi_bytes:
            raise syntax("N: shorter than its SPI")
        return cls(number, bytes(body[4 + spi_bytes :]), protocol, bytes(body[4 : 4 + spi_bytes]))


@dataclass(frozen=True)
class Delete:
    """D: the sender's own inbound SPIs; none for the IKE SA itself."""

    TYPE: ClassVar = Payload.DELETE
    protocol: int
    spis: tuple[int, ...] = ()

    def encode(self) -> bytes:
        spi_bytes = ESP_SPI_BYTES if self.spis else 0
        head = struct.pack(">BBH", self.protocol, spi_bytes, len(self.spis))
        return head + b"".join(spi.to_bytes(ESP_SPI_BYTES, "big") for spi in self.spis)

    @classmethod
    def decode(cls, body: memoryview, kind: Payload) -> Delete:
        _at_least(body, 4, "D")
        protocol, spi_bytes, count = struct.unpack_from(">BBH", body)
        wanted = 0 if protocol == Protocol.IKE else ESP_SPI_BYTES
        if count > _DELETES_MAX or len(body) != 4 + spi_bytes * count or (count and spi_bytes != wanted):
            raise syntax("D: number or size of SPIs")
        if wanted == 0 and count:
            raise syntax("D: an IKE SA is deleted without an SPI")
        return cls(protocol, tuple(int.from_bytes(body[at : at + 4], "big") for at in range(4, len(body), 4)))


@dataclass(frozen=True)
class Vendor:
    TYPE: ClassVar = Payload.VENDOR
    data: bytes

    def encode(self) -> bytes:
        return self.data

    @classmethod
    def decode(cls, body: memoryview, kind: Payload) -> Vendor:
        return cls(bytes(body))


@dataclass(frozen=True)
class TrafficSelectors:
    """TSi or TSr, as `type` says."""

    type: Payload
    selectors: tuple[Selector, ...]

    @property
    def TYPE(self) -> Payload:  # noqa: N802
        return self.type

    def encode(self) -> bytes:
        return encode_selectors(self.selectors)

    @classmethod
    def decode(cls, body: memoryview, kind: Payload) -> TrafficSelectors:
        return cls(kind, decode_selectors(body))


AnyPayload = (
    SecurityAssociation
    | KeyExchange
    | Identity
    | Certificate
    | CertificateRequest
    | Authentication
    | Nonce
    | Notification
    | Delete
    | Vendor
    | TrafficSelectors
)
_DECODERS: Final[dict[Payload, Callable[[memoryview, Payload], AnyPayload]]] = {
    Payload.SA: SecurityAssociation.decode,
    Payload.KE: KeyExchange.decode,
    Payload.IDI: Identity.decode,
    Payload.IDR: Identity.decode,
    Payload.CERT: Certificate.decode,
    Payload.CERTREQ: CertificateRequest.decode,
    Payload.AUTH: Authentication.decode,
    Payload.NONCE: Nonce.decode,
    Payload.NOTIFY: Notification.decode,
    Payload.DELETE: Delete.decode,
    Payload.VENDOR: Vendor.decode,
    Payload.TSI: TrafficSelectors.decode,
    Payload.TSR: TrafficSelectors.decode,
}


def encode_chain(payloads: Sequence[AnyPayload]) -> tuple[int, bytes]:
    """The type of the first payload (0: none), and all of them one behind the other."""
    kinds = [*(payload.TYPE for payload in payloads), Payload.NONE]
    parts = []
    for payload, following in zip(payloads, kinds[1:], strict=True):
        body = payload.encode()
        parts.append(_HEAD.pack(following, 0, _HEAD.size + len(body)) + body)
    return kinds[0], b"".join(parts)


def split_chain(first: int, octets: bytes, most: int = PAYLOADS_MAX) -> list[tuple[int, int, memoryview]]:
    """(type, flags, body) of each payload in `octets`, which they fill; `first` is the type of the first one.

    SK and SKF are the last of their message, and their own next-payload field belongs to what they hold.
    """
    found: list[tuple[int, int, memoryview]] = []
    data = memoryview(octets)
    kind = first
    while kind != Payload.NONE:
        if len(found) == most:
            raise syntax(f"more than {most} payloads")
        if len(data) < _HEAD.size:
            raise syntax("payload header cut short")
        following, flags, length = _HEAD.unpack_from(data)
        if not _HEAD.size <= length <= len(data):
            raise syntax(f"payload {kind}: length {length} of {len(data)}")
        found.append((kind, flags, data[_HEAD.size : length]))
        data = data[length:]
        if kind in (Payload.SK, Payload.SKF):
            break
        kind = following
    if len(data):
        raise syntax(f"{len(data)} octets behind the last payload")
    return found


def decode_chain(first: int, octets: bytes) -> list[AnyPayload]:
    """The payloads in `octets` that fwd knows. Raises ProtocolError, for an unknown critical one, too."""
    found: list[AnyPayload] = []
    for kind, flags, body in split_chain(first, octets):
        decoder = _DECODERS.get(kind)  # type: ignore[call-overload]
        if decoder is not None:
            found.append(decoder(body, Payload(kind)))
        elif flags & _CRITICAL:
            reason = f"unknown critical payload {kind}"
            raise ProtocolError(Notify.UNSUPPORTED_CRITICAL_PAYLOAD, reason, bytes([kind]))
    return found


def _at_least(body: memoryview, octets: int, name: str) -> None:
    if len(body) < octets:
        raise syntax(f"{name}: {len(body)} octets")


# -- reading a message --------------------------------------------------------------------------------------------

_Kind = TypeVar("_Kind")


def maybe(payloads: Sequence[AnyPayload], kind: type[_Kind]) -> _Kind | None:
    """The payload of this kind, if there is one. Raises ProtocolError when there are more."""
    found: list[_Kind] = [one for one in payloads if isinstance(one, kind)]
    if len(found) > 1:
        raise syntax(f"{len(found)} payloads {kind.__name__}")
    return found[0] if found else None


def only(payloads: Sequence[AnyPayload], kind: type[_Kind]) -> _Kind:
    """The payload of this kind. Raises ProtocolError unless there is exactly one."""
    found = maybe(payloads, kind)
    if found is None:
        raise syntax(f"payload {kind.__name__} is missing")
    return found


def of_type(payloads: Sequence[AnyPayload], type_: Payload, kind: type[_Kind]) -> _Kind | None:
    """The same for kinds that stand for two types, such as IDi and IDr."""
    return maybe([one for one in payloads if type_ == one.TYPE], kind)


def selectors_of(payloads: Sequence[AnyPayload], type_: Payload) -> tuple[Selector, ...]:
    """What TSi or TSr says. Raises ProtocolError when it is missing."""
    found = of_type(payloads, type_, TrafficSelectors)
    if found is None:
        raise syntax(f"payload {type_.name} is missing")
    return found.selectors


def public_value(payloads: Sequence[AnyPayload], group: int) -> bytes:
    """The peer's public value of this group. Raises ProtocolError, asking for the group, when it is of another."""
    found = maybe(payloads, KeyExchange)
    if found is None or found.group != group:
        reason = f"key exchange in group {found.group if found else 'none'}, wanted {group}"
        raise ProtocolError(Notify.INVALID_KE_PAYLOAD, reason, group.to_bytes(2, "big"))
    return found.public


def notified(payloads: Sequence[AnyPayload], kind: Notify) -> Notification | None:
    """The first notify of this kind."""
    return next((one for one in payloads if isinstance(one, Notification) and one.kind == kind), None)


def error_of(payloads: Sequence[AnyPayload]) -> Notification | None:
    """The first error notify."""
    return next((one for one in payloads if isinstance(one, Notification) and one.is_error), None)


def kept(payloads: Sequence[AnyPayload]) -> tuple[Notification, ...]:
    """Of a peer's status notifies those that mean something later: each kind once, and of bounded length."""
    found = [notified(payloads, kind) for kind in _KEPT]
    return tuple(one for one in found if one is not None and len(one.data) + len(one.spi) <= NOTIFY_BYTES_MAX)


_KEPT: Final = (Notify.FWD_PEERING, Notify.FWD_MEMBER, Notify.SA_RESOURCE_INFO)


def notify_for(error: ProtocolError) -> Notification:
    """What answers a message that was refused."""
    protocol = Protocol.ESP if error.spi else Protocol.NONE
    return Notification(error.notify, error.data, protocol, error.spi)


def is_about_children(payload: AnyPayload) -> bool:
    """Say whether a payload asks for, or ends, a Child SA."""
    return isinstance(payload, SecurityAssociation) or (
        isinstance(payload, Delete) and payload.protocol == Protocol.ESP
    )

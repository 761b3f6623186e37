"""What somebody writes who means harm: decisions out of octets, and payloads, chains and requests out of decisions.

All of it is well-formed as far as its place in a message goes, so that what is behind the codec gets to see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from ipaddress import ip_address, ip_network
from typing import Any

from certkit import KEYS, Ca, costly_key, credentials
from cryptography.hazmat.primitives.serialization import Encoding

from fwd.proto.ike import payloads as p
from fwd.proto.ike.crypto import ICV_BYTES, IV_BYTES, Sealer
from fwd.proto.ike.message import HEADER_BYTES, Header
from fwd.proto.ike.numbers import Exchange, IdType, Notify, Payload, Protocol
from fwd.proto.ike.payloads import AnyPayload, encode_chain, split_chain
from fwd.proto.ike.proposals import WORDS, Proposal, Transform
from fwd.proto.ike.sa import NO_SPI
from fwd.proto.ike.selectors import SELECTORS_MAX, Selector

Raw = tuple[int, int, bytes]  # a payload: type, flags, body


class Octets:
    """Decisions out of octets. When there are none left, it is always the first choice."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        found = self._data[self._at : self._at + count]
        self._at += count
        return found

    def below(self, limit: int) -> int:
        return int.from_bytes(self.take(1 if limit <= 256 else 2), "big") % limit

    def one(self, choices: Sequence[Any]) -> Any:
        return choices[self.below(len(choices))]


# -- datagrams ----------------------------------------------------------------------------------------------------


def seal(header: Header, kind: int, first: bytes, extra: bytes, plain: bytes, sealer: Sealer, iv: int) -> bytes:
    """A datagram; `plain` with its padding, and nothing checked."""
    length = 4 + len(extra) + IV_BYTES + len(plain) + ICV_BYTES
    aad = replace(header, first_payload=kind, length=HEADER_BYTES + length).encode()
    aad += first + b"\0" + (length & 0xFFFF).to_bytes(2, "big") + extra
    return aad + sealer.seal(iv, plain, aad)


def exchange(octets: Octets) -> int:
    found: int = octets.one([*Exchange, 38, 0])
    return found


def raw_chain(first: int, data: bytes) -> list[Raw]:
    return [(kind, flags, bytes(body)) for kind, flags, body in split_chain(first, data)]


def joined(chain: Sequence[Raw]) -> tuple[int, bytes]:
    """First payload and octets of a chain."""
    kinds = [*(kind for kind, _, _ in chain), 0]
    parts = [
        bytes([after, flags]) + (4 + len(body)).to_bytes(2, "big") + body
        for (_, flags, body), after in zip(chain, kinds[1:], strict=True)
    ]
    return kinds[0], b"".join(parts)


def chained(header: Header, chain: Sequence[Raw]) -> bytes:
    """A datagram in the clear."""
    first, data = joined(chain)
    return replace(header, first_payload=first, length=HEADER_BYTES + len(data)).encode() + data


# -- payloads -----------------------------------------------------------------------------------------------------


def altered(octets: Octets, spis: Sequence[int], chain: list[Raw]) -> list[Raw]:
    """A chain with up to three changes, each of which keeps it a chain. `spis`: those that mean something."""
    for _ in range(1 + octets.below(3)):
        at = octets.below(max(1, len(chain)))
        kind, flags, body = chain[at] if chain else (Payload.NOTIFY, 0, b"")
        match octets.below(8):
            case 0:
                chain = [*chain[:at], *chain[at + 1 :]]
            case 1:
                chain = [*chain, (kind, flags, body)]
            case 2:
                chain = [*chain[:at], made(octets, spis), *chain[at + 1 :]]
            case 3:
                chain = [*chain[:at], made(octets, spis), *chain[at:]]
            case 4:
                spot = octets.below(max(1, len(body)))
                chain[at : at + 1] = [(kind, flags, body[:spot] + octets.take(1) + body[spot + 1 :])]
            case 5:
                chain[at : at + 1] = [(kind, flags, body[: octets.below(max(1, len(body)))])]
            case 6:
                chain[at : at + 1] = [(octets.one([*Payload]), octets.one([0, 0x80]), body)]
            case 7:
                chain = [*chain[at:], *chain[:at]]
    return chain


def request(octets: Octets, spis: Sequence[int]) -> tuple[int, list[Raw]]:
    """One that may be asked, perhaps with changes, or any payloads at all."""
    kind, payloads = Exchange.CREATE_CHILD_SA, list[AnyPayload]()
    spi = octets.one(spis)
    theirs = bytes([7, octets.below(256), 0, 0])
    offered = octets.one(SELECTORS)
    child: list[AnyPayload] = [
        p.SecurityAssociation((Proposal(Protocol.ESP, _words("aes256gcm16 x25519 esn"), 1, theirs),)), *KEYED,
        p.TrafficSelectors(Payload.TSI, offered), p.TrafficSelectors(Payload.TSR, offered),
    ]  # fmt: skip
    match octets.below(6):
        case 0:
            payloads = child
        case 1:
            payloads = [p.Notification(Notify.REKEY_SA, b"", Protocol.ESP, spi.to_bytes(4, "big")), *child]
        case 2:
            words = _words("aes256gcm16 prfsha384 x25519")
            payloads = [p.SecurityAssociation((Proposal(Protocol.IKE, words, 1, theirs * 2),)), *KEYED]
        case 3:
            kind, payloads = Exchange.INFORMATIONAL, [p.Delete(Protocol.ESP, (spi,))]
        case 4:
            kind = Exchange.INFORMATIONAL
        case 5:
            return exchange(octets), [made(octets, spis) for _ in range(octets.below(7))]
    chain = raw_chain(*encode_chain(payloads))
    return kind, altered(octets, spis, chain) if octets.below(2) else chain


def made(octets: Octets, spis: Sequence[int]) -> Raw:
    """A payload that its place in the exchange need not allow, of what both sides know."""
    found = _made(octets, spis)
    return found if isinstance(found, tuple) else (found.TYPE, 0, found.encode())


def _made(octets: Octets, spis: Sequence[int]) -> AnyPayload | Raw:
    spi = octets.one(spis)
    match octets.below(12):
        case 0:
            return octets.one([*Payload]), octets.one([0, 0x80]), octets.take(octets.below(300))
        case 1:
            return p.Delete(Protocol.ESP, (spi, *octets.one([(), (spi,), (spi + 1,), range(70000, 70200)])))
        case 2:
            return p.Delete(octets.one([Protocol.IKE, 2]))
        case 3:
            return p.Notification(Notify.REKEY_SA, b"", Protocol.ESP, spi.to_bytes(4, "big"))
        case 4:
            return p.Notification(octets.one([*Notify]), octets.one(NOTIFIED))
        case 5:
            return p.SecurityAssociation(tuple(_proposal(octets, spi) for _ in range(1 + octets.below(2))))
        case 6:
            return p.KeyExchange(octets.one([31, 19, 20, 0]), octets.one([b"\7" * 32, b"\7" * 64, bytes(32), b"x"]))
        case 7:
            return p.Nonce(octets.one([bytes(16), b"\xff" * 256]))
        case 8:
            return p.TrafficSelectors(octets.one([Payload.TSI, Payload.TSR]), octets.one(SELECTORS))
        case 9:
            return p.Authentication(octets.one([2, 14, 1]), octets.one([b"\0", b"x" * 48, b"\xff" + b"x" * 64]))
        case 10:
            who = octets.one([b"", b"a.example", b"b.example", b"\xff" * 4])
            return p.Identity(octets.one([Payload.IDI, Payload.IDR]), octets.one([*IdType, 99]), who)
        case _:
            return p.Certificate(4, octets.one([b"\x30\0", *leaves()]))


NOTIFIED = [b"", b"\0\x1f", b"\0\x13", b"\1", bytes(20), b"\xff" * 3000]
SELECTORS = [
    *((Selector.of(ip_network(word)),) for word in ("0.0.0.0/0", "10.1.0.0/16", "10.2.7.0/24", "::/0")),
    (replace(Selector.of(ip_network("10.1.0.0/16")), protocol=6),),
    # Each of as many as there may be has an end in either of two subnets.
    tuple(Selector(ip_address(f"10.1.1.{n}"), ip_address(f"10.3.1.{n}")) for n in range(SELECTORS_MAX)),
]


KEYED: list[AnyPayload] = [p.Nonce(b"n" * 32), p.KeyExchange(31, b"\7" * 32)]


def _words(words: str) -> tuple[Transform, ...]:
    return tuple(WORDS[word] for word in words.split())


def _proposal(octets: Octets, spi: int) -> Proposal:
    protocol = octets.one([Protocol.ESP, Protocol.IKE])
    words = octets.one([
        "aes256gcm16 x25519 esn", "aes256gcm16 noesn", "aes256gcm16 prfsha384 x25519", "",
        "aes128gcm16 ecp256 ecp384 noesn", "aes256gcm16 aes256gcm16 prfsha384 x25519 ecp256",
    ])  # fmt: skip
    mine = [spi.to_bytes(4, "big"), bytes(4)] if protocol == Protocol.ESP else [b"12345678", b"", NO_SPI]
    return Proposal(protocol, _words(words), 1 + octets.below(2), octets.one(mine))


@cache
def ca() -> Ca:
    return Ca()


@cache
def leaves() -> tuple[bytes, ...]:
    return tuple(
        credentials(ca(), "a.example", kind).chain[0].public_bytes(Encoding.DER) for kind in ("P-256", "Ed25519")
    )


@cache
def dear_chain() -> tuple[p.Certificate, ...]:
    """A stranger's: an RSA exponent of 3,000 bits, and seven CAs of one name that may each have issued each."""
    key = costly_key()
    cas = [Ca("evil", key) for _ in range(7)]
    chain = [cas[0].issue("a.example", KEYS["P-256"]()), *(one.certificate for one in cas)]
    return tuple(p.Certificate(4, one.public_bytes(Encoding.DER)) for one in chain)

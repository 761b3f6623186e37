"""ICMP errors of routers whose own addresses lie in no selector: which of them belong to a peering (RFC 4301 §6.2).

A router behind a far gateway may have addresses that nobody has configured, and still says what hosts must hear: that a
packet is too big, or where it has ended. Its error belongs to the peering if the packet that it quotes does: the error
goes to the host that sent that packet, and the selectors carry what would come back for it, its addresses exchanged.

Refused: anything else than the errors of RFC 792 and RFC 4443, redirects and source quench too; fragments of errors;
sources that no router has, or that are in the receiver's subnets; quotes that are cut off before the ports or
contradict themselves, of later fragments of IPv4, and of ICMP errors: no error is answered by one (RFC 1122 §3.2.2,
RFC 4443 §2.4); more octets than a router sends; what the kernel would change after the look, by a checksum or
segmentation that is left to it.
"""

from __future__ import annotations

from typing import Final

from fwd.proto.ip import NEEDS_CSUM, VNET_BYTES, Selectors, address_pair

ERRORS_PER_S: Final = 100  # of a peering, in each direction
ERROR_MAX: Final = 1280  # octets: of ICMPv6 (RFC 4443 §2.4); of ICMP 576 are usual (RFC 1812 §4.3.2.3)
_ICMP, _ICMPV6, _FRAGMENT, _AUTHENTICATION = 1, 58, 44, 51
_EXTENSIONS = frozenset({0, 43, 60, 135})  # hop-by-hop, routing, destination, mobility: with a length of their own
_ERRORS = {4: frozenset({3, 11, 12}), 6: frozenset({1, 2, 3, 4})}
_QUERIES4 = frozenset({0, 8, 13, 14, 15, 16, 17, 18})  # and their answers: what an error may be about
_QUERIES6_FIRST = 128
_HEADER = 8  # octets of an ICMP error before the quote; and of the quoted packet's payload at least

Octets = bytes | memoryview


class Errors:
    """The ICMP errors that pass for what they quote, of one peering and direction, and how many of them.

    `selectors`: the peering's, in that direction.
    """

    def __init__(self, selectors: Selectors, per_s: int = ERRORS_PER_S) -> None:
        self._selectors = selectors
        self._per_s = self._left = per_s
        self._until = float("-inf")

    def belongs(self, record: Octets, carries: Selectors | None = None) -> bool:
        """Whether a record, of an IP packet and its virtio header, is one. `carries`: the SA's, if it is narrower."""
        packet = record[VNET_BYTES:]
        if record[0] & NEEDS_CSUM or record[1] or not is_carried(packet, carries or self._selectors):
            return False
        return not self._selectors.has_destination(_source(packet))

    def allows(self, now: float) -> bool:
        """Whether one more may pass; if so, it is counted. A second begins with the first one after the last second."""
        if now >= self._until:
            self._until, self._left = now + 1.0, self._per_s
        if not self._left:
            return False
        self._left -= 1
        return True


def is_error(packet: Octets) -> bool:
    """Whether an IP packet is an ICMP error that quotes a packet, whatever that may be."""
    return _quote(packet) is not None


def is_carried(packet: Octets, selectors: Selectors) -> bool:
    """Whether an IP packet is an ICMP error about one whose return traffic these selectors carry."""
    pair = returning(packet)
    return pair is not None and selectors.allow(pair)


def returning(packet: Octets) -> bytes | None:
    """Find the addresses of the return traffic that an ICMP error is about; None: it is no error that may pass.

    They are those of the quoted packet, exchanged. `packet` is a whole IP packet, as long as its header says.
    """
    quote = _quote(packet)
    if quote is None or not _can_be_quoted(quote):
        return None

    # The quoted packet has come from whom the error goes to: nobody else is to hear of it.
    pair, quoted = address_pair(memoryview(packet)), address_pair(memoryview(quote))
    half = len(pair) // 2
    if quoted[:half] != pair[half:] or not _is_of_a_router(pair[:half]):
        return None
    return quoted[half:] + quoted[:half]


def _source(packet: Octets) -> bytes:
    pair = address_pair(memoryview(packet))
    return pair[: len(pair) // 2]


def _quote(packet: Octets) -> Octets | None:
    """Cut out what an ICMP error quotes, with what may follow it (RFC 4884); None: it is no such error."""
    version = packet[0] >> 4
    if version == 4:
        start = (packet[0] & 0x0F) * 4
        is_icmp = packet[9] == _ICMP and not (packet[6] & 0x3F or packet[7])
    else:
        start, is_icmp = 40, len(packet) > 40 and packet[6] == _ICMPV6
    least = start + _HEADER + (40 if version == 6 else 20)
    if not is_icmp or not least <= len(packet) <= ERROR_MAX or packet[start] not in _ERRORS[version]:
        return None
    quote = packet[start + _HEADER :]
    return quote if quote[0] >> 4 == version else None


def _can_be_quoted(quote: Octets) -> bool:
    """Whether an error may be about this packet, of which the first octets are there: 8 of its payload, or all."""
    if quote[0] >> 4 == 4:
        at, total = (quote[0] & 0x0F) * 4, quote[2] << 8 | quote[3]
        if at < 20 or quote[6] & 0x1F or quote[7]:
            return False
        return _has_payload(quote, at, total) and (quote[9] != _ICMP or quote[at] in _QUERIES4)
    total = 40 + (quote[4] << 8 | quote[5])
    protocol, at = _behind_extensions(quote)
    return _has_payload(quote, at, total) and (protocol != _ICMPV6 or quote[at] >= _QUERIES6_FIRST)


def _has_payload(quote: Octets, at: int, total: int) -> bool:
    """Whether 8 octets from `at` on are there, or all up to the end of the quoted packet."""
    return at < total and min(at + _HEADER, total) <= len(quote)


def _behind_extensions(quote: Octets) -> tuple[int, int]:
    """Find a quoted IPv6 packet's upper protocol, and where its header begins: perhaps behind the quote's end.

    Of a later fragment, which has no such header, the fragment header counts as it.
    """
    protocol, at = quote[6], 40
    while at + _HEADER <= len(quote):
        if protocol == _FRAGMENT:
            if quote[at + 2] or quote[at + 3] & 0xF8:
                return protocol, at
            size = 8
        elif protocol == _AUTHENTICATION:
            size = (quote[at + 1] + 2) * 4
        elif protocol in _EXTENSIONS:
            size = (quote[at + 1] + 1) * 8
        else:
            break
        protocol, at = quote[at], at + size
    return protocol, at


def _is_of_a_router(source: bytes) -> bool:
    """Whether a router may have this address and be heard by it beyond its own links."""
    if len(source) == 4:
        return source[0] not in (0, 127) and source[0] < 224
    return source[0] != 0xFF and source[:8] != bytes(8) and (source[0] != 0xFE or source[1] & 0xC0 != 0x80)

"""Octets that mean harm, and what must hold whatever they are: one mechanism for the tests and for `make fuzz`.

A *harness* is a function of octets. It raises when fwd does what it must not:

    codec       a message, in the clear or within SK or SKF: decoded, or ProtocolError; what it says can be said again
    strangers   datagrams to endpoints, of somebody who has no key
    peer        two endpoints, and between them somebody with the keys of both who writes their messages anew
    insider     certificates of any content, signed by the CA that everybody trusts

An endpoint never raises, and what it holds stays within its limits (made so small here that few octets reach them).
What it does for a datagram is counted, in function calls, not seconds: so many, and so many more for each octet. It
tells of exactly those Child SAs that it has. It never uses an IV twice. Strangers are never Established.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_network
from unittest import mock

import recording
from certkit import NOW, signed
from cryptography import x509
from hostile import (
    SELECTORS,
    Octets,
    Raw,
    altered,
    ca,
    chained,
    dear_chain,
    exchange,
    joined,
    leaves,
    made,
    raw_chain,
    request,
    seal,
)
from ikekit import NAME, A, B, Net, Side, connection, for_member

from fwd.proto.ike import auth, exchanges, limits, table
from fwd.proto.ike import payloads as p
from fwd.proto.ike import strangers as strangers_module
from fwd.proto.ike.crypto import IV_BYTES, IkeKeys, Sealer
from fwd.proto.ike.events import Address, Datagram, Established
from fwd.proto.ike.message import FRAGMENTS_MAX, HEADER_BYTES, Assembly, Header, open_message
from fwd.proto.ike.numbers import Exchange, Flag, IdType, Payload, ProtocolError
from fwd.proto.ike.payloads import decode_chain, encode_chain
from fwd.proto.ike.sa import NO_SPI, IkeSa
from fwd.proto.ike.states import State

CALLS, CALLS_AN_OCTET = 2000, 6  # for one datagram
CPU_S = 1.0  # the same; a hundred times what any needs, on a busy machine or when instrumented
ROUNDS_MAX = 30
SMALL = {
    (exchanges, "CHILDREN_MAX"): 6, (strangers_module, "HALF_OPEN_COOKIES"): 2, (strangers_module, "HALF_OPEN_MAX"): 4,
    (table, "IKE_SAS_MAX"): 4,
}  # fmt: skip
MADE_BYTES_MAX = 100_000  # kept of datagrams by one IKE SA
Harness = Callable[[bytes], None]


@contextlib.contextmanager
def counted(octets: int) -> Iterator[None]:
    """Fails if what is done within takes more function calls, or more CPU, than so many octets are worth."""
    collects = gc.isenabled()
    gc.disable()  # what all tests before have left is not this datagram's cost
    calls, began_s = 0, time.process_time()

    def event(frame: object, what: str, function: object) -> None:
        nonlocal calls
        calls += what in ("call", "c_call")

    # The fuzzer's own calls would be counted, too, and slowly; it has a limit of time.
    sys.setprofile(event if "atheris" not in sys.modules else None)
    try:
        yield
    finally:
        sys.setprofile(None)
        if collects:
            gc.enable()
    # What one call of a library costs is not to be seen by counting: a signature can be made to cost a second.
    cpu_s = time.process_time() - began_s
    assert cpu_s <= CPU_S, f"{cpu_s:.2f} s of CPU for {octets} octets"
    allowed = CALLS + CALLS_AN_OCTET * octets
    assert calls <= allowed, f"{calls} function calls for {octets} octets, not {allowed}"


# -- codec --------------------------------------------------------------------------------------------------------

SEALER = Sealer(bytes(range(36)))


def codec(data: bytes) -> None:
    """The first octet says how the others are taken."""
    octets = Octets(data)
    how, rest = octets.one(["clear", Payload.SK, Payload.SKF]), data[1:]
    with counted(len(data)), contextlib.suppress(ProtocolError):
        if how == "clear":
            header = Header.decode(rest)
            with contextlib.suppress(ProtocolError):
                open_message(header, rest, SEALER)
            check_chain(header.first_payload, rest[HEADER_BYTES:])
            return
        extra = rest[1:5].ljust(4, b"\0") if how == Payload.SKF else b""
        header = Header(b"initspi1", b"respspi2", Exchange.IKE_AUTH, Flag.INITIATOR, 5)
        sealed = seal(header, how, rest[:1] or b"\0", extra, rest[1 + len(extra) :] or b"\0", SEALER, 7)
        fragment = open_message(Header.decode(sealed), sealed, SEALER)
        assert fragment is not None
        whole = Assembly().add(fragment)
        if whole is not None:
            check_chain(*whole)


def check_chain(first: int, data: bytes) -> None:
    """Raises ProtocolError. What fwd has understood it says in the same way."""
    found = decode_chain(first, data)
    if not any(isinstance(one, p.SecurityAssociation) and _has_strange_attributes(one) for one in found):
        assert decode_chain(*encode_chain(found)) == found


def _has_strange_attributes(payload: p.SecurityAssociation) -> bool:
    return any(transform.key_bits < 0 for proposal in payload.proposals for transform in proposal.transforms)


# -- endpoints ----------------------------------------------------------------------------------------------------


class HostileNet(Net):
    """Two endpoints, and what must hold of them after every datagram."""

    def __init__(self) -> None:
        near, far = (tuple(ip_network(f"10.{n}.0.0/16") for n in ends) for ends in ((1, 3), (2, 4)))
        super().__init__(
            1, connection("a", local_ts=near, remote_ts=far), connection("b", local_ts=far, remote_ts=near)
        )
        # By whose they are and SPIs; of IKE SAs that are gone, too.
        self._keys: dict[tuple[Side, bytes, bytes], IkeKeys] = {}
        self._ivs: dict[tuple[bytes, bool, bytes], bytes] = {}

    def deliver(self, datagram: Datagram) -> None:
        with counted(len(datagram.data)):
            super().deliver(datagram)
        self.check()

    def flush(self) -> None:
        at = len(self.sent)
        super().flush()
        for side in (self.a, self.b):
            for sa in side.endpoint.sas(NAME):
                if sa.keys is not None:
                    self._keys[side, sa.spi_i, sa.spi_r] = sa.keys
        for datagram in self.sent[at:]:
            self._check_iv(datagram.data)

    def sealer(self, side: Side, header: Header) -> Sealer | None:
        """With the keys that this side has for a message."""
        keys = self._keys.get((side, header.spi_i, header.spi_r))
        return Sealer(keys.ei if header.by_initiator else keys.er) if keys else None

    def _check_iv(self, data: bytes) -> None:
        header = Header.decode(data)
        if header.exchange != Exchange.IKE_SA_INIT:
            iv_at = HEADER_BYTES + (8 if header.first_payload == Payload.SKF else 4)
            used = header.spi_i + header.spi_r, header.by_initiator, data[iv_at : iv_at + IV_BYTES]
            assert self._ivs.setdefault(used, data) == data, "an IV is used twice"

    def check(self) -> None:
        self.flush()
        for side in (self.a, self.b):
            side.check_told()
            sas = side.endpoint.sas(NAME)
            assert len([sa for sa in sas if sa.established_at]) <= SMALL[table, "IKE_SAS_MAX"]
            assert len(sas) <= SMALL[table, "IKE_SAS_MAX"] + SMALL[strangers_module, "HALF_OPEN_MAX"] + ROUNDS_MAX
            for sa in sas:
                check_limits(sa)
            check_budgets(side, sas)

    def known_spis(self) -> list[int]:
        """Of Child SAs, of both sides, and one of none."""
        found = {spi for side in (self.a, self.b) for sa in side.endpoint.sas(NAME) for spi in sa.children}
        return [*sorted(found), 0x01020300]


def check_limits(sa: IkeSa) -> None:
    most = SMALL[exchanges, "CHILDREN_MAX"]
    # A successor may come by the children of two; our own requests are our own affair.
    assert len(sa.children) <= 2 * most + ROUNDS_MAX
    assert len(sa.gone_early) <= most
    assert len(sa.tasks()) <= 3 * ROUNDS_MAX
    assert sum(map(len, sa._window.answer)) <= MADE_BYTES_MAX
    assert sum(len(assembly._parts) for _, assembly in sa._channel.assemblies._assemblies.values()) <= 2 * FRAGMENTS_MAX


def check_budgets(side: Side, sas: Sequence[IkeSa]) -> None:
    """What counts as held is what is held: nothing is given back twice, and nothing never."""
    world = side.endpoint._world
    held = {
        strange: sum(
            assembly._held
            for sa in sas
            for _, assembly in sa._channel.assemblies._assemblies.values()
            if (assembly._budget is world.strangers_fragments) is strange
        )
        for strange in (True, False)
    }
    assert limits.FRAGMENTS_BYTES_STRANGERS - world.strangers_fragments.left == held[True]
    assert limits.FRAGMENTS_BYTES_ALL - world.fragments.left == held[True] + held[False]
    half_open = sum(sa.state is State.CONNECTING and not sa.initiator for sa in sas)
    assert len(side.endpoint._strangers) == half_open


@contextlib.contextmanager
def small_limits() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for (module, name), value in SMALL.items():
            stack.enter_context(mock.patch.object(module, name, value))
        yield


def strangers(data: bytes) -> None:
    """First octet: how far the two have come; then datagrams and pauses."""
    octets = Octets(data)
    with small_limits():
        net = HostileNet()
        came = octets.below(3)
        if came == 2:
            net.connect()
        elif came == 1:
            net.a.endpoint.initiate(NAME, net.now)
            net.flush()
        before = len(net.a.of(Established)) + len(net.b.of(Established))
        net.judge = lambda datagram: []  # from here on the stranger has the network
        for _ in range(ROUNDS_MAX):
            if not octets:
                break
            to, other = octets.one([(A, B), (B, A)])
            remote: Address = octets.one([other, (other[0], 9), ("203.0.113.5", 9)])
            net.deliver(Datagram(_strange(octets, net), remote, to))
            net.run(octets.one([0.0, 0.0, 0.0, 1.0, 40.0]))
        assert len(net.a.of(Established)) + len(net.b.of(Established)) == before


def _strange(octets: Octets, net: HostileNet) -> bytes:
    """A datagram: any octets, a message with everything right that anybody can know, or somebody's first one."""
    how = octets.below(4)
    if how == 0:
        return octets.take(octets.below(1000))
    if how == 1:
        other = Side(net.a_again())
        other.endpoint.initiate(NAME, net.now)
        (first,) = other.endpoint.datagrams_to_send()
        header = Header.decode(first.data)
        chain = raw_chain(header.first_payload, first.data[HEADER_BYTES:])
        return chained(header, altered(octets, net.known_spis(), chain))
    spis = [(sa.spi_i, sa.spi_r) for side in (net.a, net.b) for sa in side.endpoint.sas(NAME)]
    spi_i, spi_r = octets.one([*spis, (b"whatever", NO_SPI)])
    spi_r = octets.one([spi_r, b"whatever", NO_SPI])
    header = Header(spi_i, spi_r, exchange(octets), octets.one(FLAGS), octets.below(3))
    if how == 2:
        return chained(header, [made(octets, net.known_spis()) for _ in range(octets.below(6))])
    return seal(header, octets.one([Payload.SK, Payload.SKF]), octets.take(1) or b"\0", octets.take(octets.one([0, 4])),
                octets.take(octets.below(60)), SEALER, 1)  # fmt: skip


FLAGS = [Flag.RESPONSE, Flag.INITIATOR, Flag(0), Flag.INITIATOR | Flag.RESPONSE, Flag(0xFF)]


# -- a peer that means harm ---------------------------------------------------------------------------------------


class TwistedNet(HostileNet):
    """Every datagram passes somebody who has all keys."""

    def __init__(self, octets: Octets) -> None:
        super().__init__()
        self._octets = octets
        self.twists = False

    def deliver(self, datagram: Datagram) -> None:
        for data in self._twisted(datagram) if self.twists else [datagram.data]:
            super().deliver(replace(datagram, data=data))

    def _twisted(self, datagram: Datagram) -> Iterator[bytes]:
        """What comes in place of a datagram; each is written when the one before has come."""
        what, header = self._octets.below(16), Header.decode(datagram.data)
        if what < 5:
            yield datagram.data
        elif what < 7:
            yield from [datagram.data] * (what - 5) * 2
        elif what < 14:
            yield from self._changed(what, header, datagram)
        else:
            yield datagram.data
            yield from self._requests(self.side(datagram.remote))

    def _changed(self, what: int, header: Header, datagram: Datagram) -> list[bytes]:
        data = datagram.data
        if header.exchange == Exchange.IKE_SA_INIT:
            chain = raw_chain(header.first_payload, data[HEADER_BYTES:])
            return [chained(header, altered(self._octets, self.known_spis(), chain))]
        theirs = self.sealer(self.side(datagram.local), header)
        assert theirs is not None
        fragment = open_message(header, data, theirs)
        assert fragment is not None
        if fragment.total > 1:
            return [data]
        # With other messages changed the two may have come to different keys.
        sealer = self.sealer(self.side(datagram.remote), header) or theirs
        chain = raw_chain(fragment.first_payload, fragment.plain)
        if what == 13:
            return self._sealed(replace(header, exchange=exchange(self._octets)), chain, sealer)
        if what == 12:
            number = (header.message_id + self._octets.one([1, -1])) & 0xFFFFFFFF
            return self._sealed(replace(header, message_id=number), chain, sealer)
        return self._sealed(header, altered(self._octets, self.known_spis(), chain), sealer)

    def _requests(self, side: Side) -> Iterator[bytes]:
        """Some that nobody has thought of, on any IKE SA that this side has."""
        for _ in range(1 + self._octets.below(8)):
            sas = [sa for sa in side.endpoint.sas(NAME) if sa.keys is not None]
            if not sas:
                return
            sa = self._octets.one(sas[::-1])
            flags = Flag(0) if sa.initiator else Flag.INITIATOR
            kind, payloads = request(self._octets, self.known_spis())
            header = Header(sa.spi_i, sa.spi_r, kind, flags, sa._window.expected_id)
            sealer = self.sealer(side, header)
            assert sealer is not None
            yield from self._sealed(header, payloads, sealer)

    def _sealed(self, header: Header, chain: Sequence[Raw], sealer: Sealer) -> list[bytes]:
        """A message as one datagram or in pieces, whose numbers need not be right."""
        first, plain = joined(chain)
        pieces = self._octets.one([1, 1, 1, 1, 1, 1, 2, 3])
        if pieces == 1:
            padding = self._octets.one([b"\0", b"\0", b"\0", b"\0\0\0\3"])
            return [seal(header, Payload.SK, bytes([first]), b"", plain + padding, sealer, 1 << 40)]
        size, found = len(plain) // pieces + 1, []
        for number in range(1, pieces + 1):
            part = plain[(number - 1) * size : number * size]
            extra = bytes([0, number, 0, self._octets.one([pieces, pieces, pieces, pieces + 1, pieces - 1])])
            head = bytes([first if number == 1 else 0])
            found.append(seal(header, Payload.SKF, head, extra, part + b"\0", sealer, (1 << 40) + number))
        return found


def peer(data: bytes) -> None:
    """First octet: whether the two have connected before; then what they want, and what becomes of their datagrams."""
    octets = Octets(data)
    with small_limits():
        net = TwistedNet(octets)
        if octets.below(2):
            net.a.endpoint.initiate(NAME, net.now)
        else:
            net.connect()
        net.twists = True
        for _ in range(ROUNDS_MAX):
            if not octets:
                break
            wish(octets, net, octets.one([net.a, net.b]))
            net.run(octets.one([0.02, 0.05, 0.05, 3.0, 60.0]))
        net.run(100)


def wish(octets: Octets, net: Net, side: Side) -> None:
    """What whoever runs an endpoint may ask of it."""
    spis = sorted(side.children())
    match octets.below(7):
        case 0:
            side.endpoint.create_child(NAME, 1, for_member(1), net.now)
        case 1 if spis:
            side.endpoint.rekey_child(NAME, octets.one(spis), net.now)
        case 2 if spis:
            side.endpoint.delete_child(NAME, octets.one(spis), net.now)
        case 3:
            side.endpoint.rekey_ike(NAME, net.now)
        case 4 if not side.endpoint.sas(NAME):
            side.endpoint.initiate(NAME, net.now, initial_contact=bool(octets.below(2)))
        case 5:
            side.endpoint.heard(NAME, net.now)
        case 6:
            side.endpoint.terminate(NAME, net.now)


# -- certificates -------------------------------------------------------------------------------------------------


def insider(data: bytes) -> None:
    """First octets: what is changed and whether it is signed again; the rest is a signature and its algorithm."""
    octets = Octets(data)
    chain = []
    for _ in range(1 + octets.below(2)):
        der = octets.one(leaves())
        certificate = x509.load_der_x509_certificate(der)
        whole, head = octets.one([(der, 0), (certificate.tbs_certificate_bytes, 1)])
        for _ in range(octets.below(4)):
            spot, size = octets.below(len(whole)), octets.below(4)
            whole = whole[:spot] + octets.take(octets.below(4)) + whole[spot + size :]
        chain.append(p.Certificate(4, signed(ca(), whole) if head else whole))
    chain += octets.one([(), dear_chain()])[: octets.below(9)]
    if octets.below(2):
        chain.reverse()
    proof = p.Authentication(octets.one([14, 2]), octets.take(octets.below(120)) or b"\0")
    with counted(len(data)), contextlib.suppress(ProtocolError):
        leaf = auth.check_chain(chain, (ca().certificate,), NOW)
        for text in ("a.example", "10.0.0.1", "who@a.example", "CN=a.example", "@#00"):
            with contextlib.suppress(ProtocolError):
                auth.check_name(leaf, auth.identity(text, Payload.IDI))
        auth.check_signature(leaf, b"octets", proof)


def named(data: bytes) -> None:
    """A distinguished name: whatever it is, it is the same as itself and can be printed."""
    octets = Octets(data)
    whole = leaf_name()
    for _ in range(1 + octets.below(6)):
        spot, size = octets.below(len(whole) + 1), octets.below(4)
        whole = whole[:spot] + octets.take(octets.below(4)) + whole[spot + size :]
    who = p.Identity(Payload.IDI, IdType.DER_ASN1_DN, whole)
    with counted(len(data)):
        assert auth.same(who, who)
        auth.same(who, auth.identity("C=DE, O=Example, CN=gw1", Payload.IDR))
        assert auth.name_of(who).isprintable()


def leaf_name() -> bytes:
    """With attributes of two kinds, and two in one place."""
    return x509.Name.from_rfc4514_string("CN=gw1+UID=7,O=Example,DC=example,C=DE").public_bytes()


# -- where to start from ------------------------------------------------------------------------------------------

HARNESSES: dict[str, Harness] = {one.__name__: one for one in (codec, strangers, peer, insider, named)}


def seeds(name: str) -> list[bytes]:
    """Octets to begin with: for the codec and for strangers what was said with strongSwan, for others what they do."""
    recorded = [recording.load(one) for one in recording.NAMES]
    clear = [data for one in recorded for data in recording.datagrams(one)]
    match name:
        case "codec":
            within = [(first, plain) for one in recorded for _, first, plain in recording.messages(one)]
            return [b"\0" + data for data in clear] + [
                b"\1" + bytes([first]) + plain + b"\0" for first, plain in within
            ]
        case "strangers":
            return [bytes([1, to, 0, 0]) + len(data).to_bytes(2, "big") + data for data in clear for to in (0, 1)]
        case "peer":
            wishes = [bytes([0, side, wish, how]) for side in (0, 1) for wish in range(7) for how in range(5)]
            # Behind a message of either side: the same request again and again, for each of the selectors.
            again = [
                bytes(octet for n in range(8) for octet in (0, 0, n, offered, kind, 0, 0, 0))
                for kind in range(6)
                for offered in range(len(SELECTORS) if kind < 2 else 1)
            ]
            return wishes + [bytes([0, side, 0, 0, 15, 7]) + one for side in (0, 1) for one in again]
        case _:
            dear = [bytes([0, 0, 0, 0, 1, count, 1]) for count in (3, 7)]
            return [bytes(6), bytes([1, 0, 1, 0, 1, 1]), *dear]

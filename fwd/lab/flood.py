"""Floods of datagrams at a gateway's IKE port: what an attacker sends, or a crowd after a power cut.

`python -m fwd.lab.flood KIND --to A --port 500 --sources A … --rate 1000 --count 20`, in a host's namespace, as root.
Prints how many messages were sent. The kinds:

    begin     IKE_SA_INIT requests as fwd begins, each with an SPI of its own
    forged    IKE_SA_INIT requests of `--octets` octets, shaped to cost whoever decodes them the most
    junk      28 octets that are a header of IKE_SA_INIT and nothing else
    stranger  IKE_SA_INIT to its end, then an IKE_AUTH that cannot authenticate; from an own address, by a socket

The first three come from a raw socket: from one of the source addresses, or from anybody's, and a random port. What is
answered to them nobody reads. Messages longer than a packet leave as IP fragments. Refuses: hosts that are no IPv4
addresses. The pace is that of the clock: what was late is made up for, so that `--rate` holds on a busy machine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from ipaddress import IPv4Address, ip_network
from typing import Final

from fwd.proto.ike import auth
from fwd.proto.ike.endpoint import Endpoint
from fwd.proto.ike.events import Connection
from fwd.proto.ike.numbers import SPI_BYTES, Exchange, Flag, Notify, Payload, Protocol
from fwd.proto.ike.proposals import parse

KINDS: Final = ("begin", "forged", "junk", "stranger")
ANYBODY: Final = ip_network("198.18.0.0/15")  # RFC 2544: for tests of this kind

_IPV4: Final = struct.Struct(">BBHHHBBH4s4s")
_UDP: Final = struct.Struct(">HHHH")
_IKE: Final = struct.Struct(">8s8sBBBBII")
_VERSION: Final = 0x20
_PORTS: Final = range(1024, 65536)
_FRAGMENT_BYTES: Final = 1480  # of IP payload: a multiple of 8, on a path of 1,500
_MORE_FRAGMENTS: Final = 0x2000
_SELECTORS_MAX: Final = 128  # in one payload
_PAYLOADS_MAX: Final = 62
_STRANGERS_MAX: Final = 64  # exchanges under way at a time
_STRANGER_S: Final = 2.0  # then it is given up


def connection(source: str, source_port: int, to: str, port: int) -> Connection:
    """A connection that the far side knows by its address alone: identity and secret are made up."""
    any_net = (ip_network("10.0.0.0/8"),)
    return Connection(
        "attempt", (source, source_port), (to, port), auth.identity("nobody", Payload.IDI),
        auth.identity("nobody", Payload.IDR), auth.Psk(b"none"),
        (parse("aes256gcm16-prfsha384-x25519", Protocol.IKE),), (parse("aes256gcm16-noesn", Protocol.ESP),),
        any_net, any_net,
    )  # fmt: skip


def begin(source: str, to: str, port: int) -> bytes:
    """Make an IKE_SA_INIT request as fwd begins, without its SPI."""
    endpoint = Endpoint([connection(source, port, to, port)], os.urandom, time.time)
    endpoint.initiate("attempt", 0.0)
    return endpoint.datagrams_to_send()[0].data[SPI_BYTES:]


def forged(octets: int) -> bytes:
    """Make an IKE_SA_INIT request of at most `octets`, without its SPI: a made-up cookie, then as many traffic
    selectors as fit, which belong to another exchange."""
    selector = struct.pack(">BBHHH4s4s", 7, 0, 16, 0, 65535, bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2)))
    chain = [(Payload.NOTIFY, struct.pack(">BBH", 0, 0, Notify.COOKIE) + bytes(16))]
    left = octets - _IKE.size - 24

    while left > 8 + len(selector) and len(chain) < _PAYLOADS_MAX:
        count = min(_SELECTORS_MAX, (left - 8) // len(selector))
        chain.append((Payload.TSI, bytes((count, 0, 0, 0)) + selector * count))
        left -= 8 + count * len(selector)

    kinds = [kind for kind, _ in chain]
    parts = (
        struct.pack(">BBH", following, 0, 4 + len(body)) + body
        for (_, body), following in zip(chain, [*kinds[1:], 0], strict=True)
    )
    return _message(kinds[0], b"".join(parts))


def junk() -> bytes:
    """Make a header of IKE_SA_INIT that announces a payload and ends, without its SPI."""
    return _message(Payload.SA, b"")


def _message(first_payload: int, body: bytes) -> bytes:
    head = _IKE.pack(
        bytes(8), bytes(8), first_payload, _VERSION, Exchange.IKE_SA_INIT, Flag.INITIATOR, 0, _IKE.size + len(body)
    )
    return head[SPI_BYTES:] + body


def packets(source: str, source_port: int, to: str, port: int, message: bytes, number: int) -> list[bytes]:
    """Put UDP and IP in front, in fragments if need be; the kernel fills in IP's checksum, and UDP's may be zero over
    IPv4 (RFC 768). `number` tells the fragments of one datagram from those of others."""
    data = _UDP.pack(source_port, port, _UDP.size + len(message), 0) + message
    addresses = IPv4Address(source).packed, IPv4Address(to).packed
    found = []
    for at in range(0, len(data), _FRAGMENT_BYTES):
        piece = data[at : at + _FRAGMENT_BYTES]
        more = _MORE_FRAGMENTS if at + len(piece) < len(data) else 0
        total = _IPV4.size + len(piece)
        head = _IPV4.pack(0x45, 0, total, number & 0xFFFF, at // 8 | more, 64, socket.IPPROTO_UDP, 0, *addresses)
        found.append(head + piece)
    return found


def send(body: bytes, to: str, port: int, sources: list[str], rate: float, count: int) -> int:
    """Send `count` messages, `rate` a second; without sources from anybody's addresses. Returns how many went.

    A packet that the device's queue has no room for is lost, as on any wire.
    """
    dice, sent = random.Random(), 0
    start_s = time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        for number in range(count):
            if (early_s := start_s + number / rate - time.monotonic()) > 0:
                time.sleep(early_s)
            source = dice.choice(sources) if sources else str(ANYBODY[dice.randrange(1, ANYBODY.num_addresses - 1)])
            message = os.urandom(SPI_BYTES) + body
            with contextlib.suppress(BlockingIOError):
                for packet in packets(source, dice.choice(_PORTS), to, port, message, number + 1):
                    sock.sendto(packet, (to, 0))
                sent += 1
    return sent


class Stranger:
    """One attempt to authenticate that must fail: an endpoint and a socket of its own."""

    def __init__(self, source: str, to: str, port: int, now: float) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((source, 0))
        self.sock.connect((to, port))
        self.sock.setblocking(False)
        self.until = now + _STRANGER_S
        here = self.sock.getsockname()
        self._path = here, (to, port)
        self._endpoint = Endpoint([connection(source, here[1], to, port)], os.urandom, time.time)
        self._endpoint.initiate("attempt", now)
        self._flush()

    def turn(self, now: float) -> bool:
        """Take what was answered; False: it is over."""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while True:
                self._endpoint.receive(self.sock.recv(65536), *self._path, now)
                self._flush()
        return bool(self._endpoint.sas("attempt")) and now < self.until

    def _flush(self) -> None:
        for datagram in self._endpoint.datagrams_to_send():
            with contextlib.suppress(OSError):  # as good as lost
                self.sock.send(datagram.data)


def authenticate(source: str, to: str, port: int, rate: float, count: int) -> int:
    """Begin `count` attempts, `rate` a second, and take each as far as the gateway lets it. Returns how many began."""
    under_way: deque[Stranger] = deque()
    start_s = time.monotonic()
    for number in range(count):
        while (now := time.monotonic()) < start_s + number / rate or len(under_way) >= _STRANGERS_MAX:
            _turn(under_way, now)
            time.sleep(0.001)
        under_way.append(Stranger(source, to, port, now))
        _turn(under_way, now)
    while under_way:
        _turn(under_way, time.monotonic())
        time.sleep(0.001)
    return count


def _turn(under_way: deque[Stranger], now: float) -> None:
    for _ in range(len(under_way)):
        stranger = under_way.popleft()
        if stranger.turn(now):
            under_way.append(stranger)
        else:
            stranger.sock.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fwd.lab.flood")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--to", required=True)
    parser.add_argument("--port", type=int, default=500)
    parser.add_argument("--sources", nargs="*", default=[], help="none: anybody's")
    parser.add_argument("--rate", type=float, default=1000.0)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--octets", type=int, default=1400, help="of a forged message")
    given = parser.parse_args()

    # What depends on other arguments is made when all are known.
    make: dict[str, Callable[[], bytes]] = {
        "begin": lambda: begin(given.sources[0] if given.sources else str(ANYBODY[1]), given.to, given.port),
        "forged": lambda: forged(given.octets),
        "junk": junk,
    }
    if given.kind == "stranger" and len(given.sources) != 1:
        parser.error("a stranger sends from one address of this host's own: --sources ADDRESS")

    try:
        if given.kind == "stranger":
            print(authenticate(given.sources[0], given.to, given.port, given.rate, given.count))
        else:
            print(send(make[given.kind](), given.to, given.port, given.sources, given.rate, given.count))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()

"""Many attempts to begin IKE that come to nothing: what an attacker sends, or a crowd after a power cut.

`python -m fwd.lab.half_open --to A --port 500 --sources A … --rate 1000 --count 20`, in a host's namespace and with
root's rights: every packet is a good IKE_SA_INIT request with an SPI of its own, from one of the source addresses and
a random port, by a raw socket. What is answered nobody reads. Prints how many were sent. Refuses: hosts that are no
IPv4 addresses.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import struct
import time
from ipaddress import IPv4Address, ip_network
from typing import Final

from fwd.proto.ike import auth
from fwd.proto.ike.endpoint import Endpoint
from fwd.proto.ike.events import Connection
from fwd.proto.ike.numbers import SPI_BYTES, Payload, Protocol
from fwd.proto.ike.proposals import parse

_IPV4: Final = struct.Struct(">BBHHHBBH4s4s")
_UDP: Final = struct.Struct(">HHHH")
_PORTS: Final = range(1024, 65536)
ANYBODY: Final = ip_network("198.18.0.0/15")  # RFC 2544: for tests of this kind


def request(source: str, to: str, port: int) -> bytes:
    """An IKE_SA_INIT request, as fwd would begin."""
    any_net = (ip_network("10.0.0.0/8"),)
    connection = Connection(
        "attempt", (source, port), (to, port), auth.identity("nobody", Payload.IDI),
        auth.identity("nobody", Payload.IDR), auth.Psk(b"none"),
        (parse("aes256gcm16-prfsha384-x25519", Protocol.IKE),), (parse("aes256gcm16-noesn", Protocol.ESP),),
        any_net, any_net,
    )  # fmt: skip
    endpoint = Endpoint([connection], os.urandom, time.time)
    endpoint.initiate("attempt", 0.0)
    return endpoint.datagrams_to_send()[0].data


def packet(source: str, source_port: int, to: str, port: int, message: bytes) -> bytes:
    """IP and UDP in front; the kernel fills in IP's checksum, and UDP's may be zero over IPv4 (RFC 768)."""
    octets = _UDP.size + len(message)
    addresses = IPv4Address(source).packed, IPv4Address(to).packed
    head = _IPV4.pack(0x45, 0, _IPV4.size + octets, 0, 0, 64, socket.IPPROTO_UDP, 0, *addresses)
    return head + _UDP.pack(source_port, port, octets, 0) + message


def send(to: str, port: int, sources: list[str], rate: float, count: int) -> int:
    """Send `count` requests, `rate` a second; without sources from anybody's addresses. Returns how many went."""
    body = request(sources[0] if sources else str(ANYBODY[1]), to, port)[SPI_BYTES:]
    dice, sent = random.Random(), 0
    start_s = time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        for number in range(count):
            time.sleep(max(0.0, start_s + number / rate - time.monotonic()))
            source = dice.choice(sources) if sources else str(ANYBODY[dice.randrange(1, ANYBODY.num_addresses - 1)])
            data = packet(source, dice.choice(_PORTS), to, port, os.urandom(SPI_BYTES) + body)
            sent += sock.sendto(data, (to, 0)) == len(data)
    return sent


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fwd.lab.half_open")
    parser.add_argument("--to", required=True)
    parser.add_argument("--port", type=int, default=500)
    parser.add_argument("--sources", nargs="*", default=[], help="none: anybody's")
    parser.add_argument("--rate", type=float, default=1000.0)
    parser.add_argument("--count", type=int, required=True)
    given = parser.parse_args()
    try:
        print(send(given.to, given.port, given.sources, given.rate, given.count))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()

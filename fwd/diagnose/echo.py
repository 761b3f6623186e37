"""The largest packet that a path takes, by ICMP echo requests that must not be fragmented (needs root)."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Final

from fwd.diagnose.facts import Echo
from fwd.model.words import Address

WAIT_S: Final = 1.0
TRIES: Final = 2
_PROBE: Final = 3  # IP_PMTUDISC_PROBE: do not fragment, and believe no router
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER = 10, 23
_IP_BYTES: Final = {4: 20, 6: 40}
_ICMP_BYTES: Final = 8
SMALL_BYTES: Final = {4: 576, 6: 1280}  # what every path takes


def measure(local: Address, remote: Address, most_bytes: int) -> Echo:
    """Return what the far gateway answers, up to `most_bytes`. Raises OSError."""
    with _open(local) as sock:
        return search(lambda size: _is_answered(sock, remote, size), SMALL_BYTES[local.version], most_bytes)


def search(answered: Callable[[int], bool], least: int, most: int) -> Echo:
    """Return the largest size for which `answered` is true, between a size that passes everywhere and `most`."""
    if not answered(min(least, most)):
        return Echo(answers=False)
    if least >= most or answered(most):
        return Echo(answers=True, largest_bytes=most)
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if answered(middle) else (least, middle)
    return Echo(answers=True, largest_bytes=least)


def _open(local: Address) -> socket.socket:
    if local.version == 4:
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PROBE)
    else:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PROBE)
    try:
        sock.bind((str(local), 0))
    except OSError:
        sock.close()
        raise
    return sock


def _is_answered(sock: socket.socket, remote: Address, size: int) -> bool:
    """Whether an echo request in an IP packet of `size` octets is answered."""
    token = os.urandom(4)
    request = _request(remote.version, token, size - _IP_BYTES[remote.version] - _ICMP_BYTES)
    for _ in range(TRIES):
        try:
            sock.sendto(request, (str(remote), 0))
        except OSError:  # longer than the device takes, or no way there
            return False
        deadline_s = time.monotonic() + WAIT_S
        while (left_s := deadline_s - time.monotonic()) > 0 and select.select([sock], [], [], left_s)[0]:
            data, (host, *_) = sock.recvfrom(65535)
            if host.partition("%")[0] == str(remote) and _is_reply(remote.version, data, token):
                return True
    return False


def _request(version: int, token: bytes, payload_bytes: int) -> bytes:
    """Return an echo request; the kernel sums ICMPv6 itself."""
    kind = 8 if version == 4 else 128
    message = struct.pack(">BBH4s", kind, 0, 0, token) + bytes(payload_bytes)
    return message if version == 6 else struct.pack(">BBH", kind, 0, checksum(message)) + message[4:]


def _is_reply(version: int, data: bytes, token: bytes) -> bool:
    """Whether what came is the answer: of IPv4 with its IP header, of IPv6 without."""
    start = (data[0] & 15) * 4 if version == 4 and data else 0
    return data[start : start + 1] == (b"\0" if version == 4 else b"\x81") and data[start + 4 : start + 8] == token


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

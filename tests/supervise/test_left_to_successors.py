"""What a process that was taken over can leave to its successor, or take from the machine, is bounded."""

from __future__ import annotations

import mmap
import os
import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

import pytest

from fwd.datapath.tun import Offloads
from fwd.datapath.udp import open_socket, renew
from fwd.supervise import privileges

IP_MTU_DISCOVER, IPV6_MTU_DISCOVER = 10, 23


def fails(act: Callable[[], object]) -> bool:
    """Whether a limited process cannot do `act`."""
    pid = os.fork()
    if pid == 0:
        status = 2
        try:
            privileges.limit(64 << 20, 16)
            act()
            status = 0
        except (OSError, MemoryError):
            status = 1
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 1)
    return status == 1


@pytest.mark.parametrize("flags", [mmap.MAP_PRIVATE, mmap.MAP_SHARED], ids=["private", "shared"])
def test_memory_of_either_kind_ends(flags: int) -> None:
    assert fails(lambda: mmap.mmap(-1, 128 << 20, flags | mmap.MAP_ANONYMOUS))
    assert not fails(lambda: mmap.mmap(-1, 16 << 20, flags | mmap.MAP_ANONYMOUS))


def test_descriptors_end() -> None:
    assert fails(lambda: [os.dup(0) for _ in range(100_000)])
    assert not fails(lambda: [os.dup(0) for _ in range(8)])


@pytest.mark.parametrize("address", [IPv4Address("127.0.0.1"), IPv6Address("::1")], ids=str)
def test_a_socket_that_a_member_has_connected_hears_everybody_again(address: IPv4Address | IPv6Address) -> None:
    v6 = address.version == 6
    family = socket.AF_INET6 if v6 else socket.AF_INET
    level, option = (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER) if v6 else (socket.IPPROTO_IP, IP_MTU_DISCOVER)
    with socket.socket(family, socket.SOCK_DGRAM) as free:
        free.bind((str(address), 0))
        port = free.getsockname()[1]
    with open_socket(address, port, Offloads(), wanted=True, marks=True) as sock:
        as_opened = sock.getsockopt(level, option)
        sock.connect((str(address), 9))
        sock.setsockopt(level, option, 0)
        renew(sock, probes=False)
        assert sock.getsockname()[:2] == (str(address), port)
        assert sock.getsockopt(level, option) == as_opened
        with socket.socket(family, socket.SOCK_DGRAM) as other:
            other.sendto(b"x", (str(address), port))
            sock.settimeout(5)
            assert sock.recv(1) == b"x"

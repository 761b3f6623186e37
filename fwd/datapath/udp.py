"""A member's UDP socket (RFC 3948): options, sending with segmentation offload, receiving what GRO merged.

One port pair for each member, since NICs, clouds and ECMP spread and limit traffic by 5-tuple. Outer packets have DF
set. Refuses: a port that is taken (`PortError`, one line).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import select
import socket
import struct
import time
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from fwd.datapath.tun import Offloads
from fwd.proto.errors import UserError

_UDP_SEGMENT, _UDP_GRO = 103, 104
_IPV6_FLOWINFO = 11
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER = 10, 23
_PMTUDISC_DONT, _PMTUDISC_DO, _PMTUDISC_PROBE = 0, 2, 3
_IP_MTU, _IPV6_MTU = 14, 24
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE, _SO_RXQ_OVFL = 32, 33, 40
_SO_ATTACH_REUSEPORT_CBPF = 51
_BUFFER_BYTES = 8 << 20
_SOCKADDR_BYTES = 16
_libc = ctypes.CDLL(None)
SEND_WAIT_MS: Final = 40  # for a full send buffer, in one segment of the ring

RECEIVE_BYTES: Final = 65536
ANCILLARY_BYTES: Final = 128
GSO_DATAGRAMS_MAX: Final = 64
KEEPALIVE: Final = b"\xff"  # RFC 3948 §2.3
KEEPALIVE_S: Final = 20.0  # RFC 3948 §4
TRAFFIC_CLASS_SHIFT: Final = 20  # in flow information (read_ancillary): above the flow label


class PortError(UserError):
    """The UDP port cannot be had; one line for the user."""


def open_socket(
    address: IPv4Address | IPv6Address,
    port: int,
    offloads: Offloads,
    *,
    wanted: bool,
    marks: bool,
    shared: bool = False,
    probes: bool = False,
) -> socket.socket:
    """Open a bound, non-blocking socket with every offload that the kernel gives; `marks`: it tells outer TOS octets.

    An IPv6 socket always tells them, and the flow label, which the audit log wants (RFC 4303 §4).

    `probes`: echoes tell what the path takes. The kernel then refuses nothing for what ICMP, which anybody can forge,
    has told it; DF is set all the same. Else what the kernel believes of the path is all that there is.

    `shared`: with keyd's socket, which is bound already (see `split`). Then nothing is merged: the kernel would merge
    datagrams before it chooses the socket.
    """
    v6 = address.version == 6
    sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((str(address), port))
    except OSError as error:
        sock.close()
        raise PortError(f"UDP {address} port {port}: {error.strerror}; change port or local_addrs") from None

    # Buffers for a burst, a count of what they lose, and no fragments on the way.
    for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
        with contextlib.suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)
    _set_df(sock, probes=probes)

    if v6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FLOWINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, int(marks))

    # Offloads are tried out; what the kernel refuses is told.
    if wanted:
        offloads.gso = _try_option(sock, offloads, "udp-gso", _UDP_SEGMENT, 0)
        offloads.gro = not shared and _try_option(sock, offloads, "udp-gro", _UDP_GRO, 1)
    sock.setblocking(False)
    return sock


def renew(sock: socket.socket, *, probes: bool) -> None:
    """Make of a socket what it was when it was opened, whatever a member has made of it: it hears everybody, DF is set.

    A member that was taken over may have connected it, and its successor would hear one address alone.
    """
    _libc.connect(sock.fileno(), bytes(_SOCKADDR_BYTES), _SOCKADDR_BYTES)  # AF_UNSPEC: to nobody
    _set_df(sock, probes=probes)


def _set_df(sock: socket.socket, *, probes: bool) -> None:
    discover = _PMTUDISC_PROBE if probes else _PMTUDISC_DO
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, discover)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, discover)


def split(sock: socket.socket, members: int) -> None:
    """Let a socket that others will share the port with have what is not ESP: SPI 0, and what is shorter than an SPI.

    A classic BPF program over the UDP payload. Sockets count by when they were bound: this one, then those of the
    members. ESP goes to the member in the SPI's low byte; where there is none, to the first (RFC 3948 §2.2).
    """
    program = [
        (0x80, 0, 0, 0),  # A = length
        (0x35, 0, 7, 4),  # less than 4: to keyd
        (0x20, 0, 0, 0),  # A = SPI
        (0x15, 5, 0, 0),  # zero: to keyd
        (0x54, 0, 0, 0xFF),  # A = its low byte
        (0x35, 2, 0, members),  # no member's: to the first
        (0x04, 0, 0, 1),
        (0x16, 0, 0, 0),  # the member: place A
        (0x06, 0, 0, 1),  # the first member
        (0x06, 0, 0, 0),  # keyd
    ]
    attach(sock, _SO_ATTACH_REUSEPORT_CBPF, program)


def attach(sock: socket.socket, option: int, program: Sequence[tuple[int, int, int, int]]) -> None:
    """Give a socket a classic BPF program: its steps as (code, steps to skip if true, if false, operand)."""
    code = b"".join(struct.pack("=HBBI", *step) for step in program)
    memory = ctypes.create_string_buffer(code, len(code))
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("@HP", len(program), ctypes.addressof(memory)))


def _try_option(sock: socket.socket, offloads: Offloads, name: str, option: int, value: int) -> bool:
    try:
        sock.setsockopt(socket.IPPROTO_UDP, option, value)
    except OSError as error:
        offloads.refused[name] = error.strerror or str(error)
        return False
    return True


def path_mtu(local: IPv4Address | IPv6Address, remote: str, port: int) -> int:
    """Ask the kernel what the path's MTU is, by its route or by what ICMP has told; 0: there is no route."""
    v6 = local.version == 6
    with socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((str(local), 0))
            sock.connect((remote, port))
            if v6:
                return sock.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)
            return sock.getsockopt(socket.IPPROTO_IP, _IP_MTU)
        except OSError:
            return 0


class Mapping:
    """A NAT's, of a member's port: whatever is sent keeps it alive; without that, one octet does (RFC 3948 §2.3)."""

    def __init__(self, now: float) -> None:
        self._seen = 0, now  # ESP packets sent when the NAT last saw us, and when that was

    def is_due(self, sent: int, now: float) -> bool:
        """Whether to send a keepalive now; `sent`: ESP packets so far."""
        due = sent == self._seen[0] and now >= self._seen[1] + KEEPALIVE_S
        if due or sent != self._seen[0]:
            self._seen = sent, now
        return due

    def next_timeout(self, now: float) -> float:
        """Seconds until one is due, if nothing is sent."""
        return self._seen[1] + KEEPALIVE_S - now


class Sender:
    """Sends runs of equal ESP packets to the member's peer.

    `patience_ms` is how long its sends may still wait for a full send buffer, all together. Who sends a segment sets
    it before; once it is spent, what does not go at once is given up: the loop's heartbeat must go on.
    """

    def __init__(self, sock: socket.socket, *, gso: bool) -> None:
        self._sock = sock
        self.v6 = sock.family == socket.AF_INET6
        self.bytes_max = 65487 if self.v6 else 65507
        self.tos = -1
        self._packet_bytes = self._group = 0
        self._ancillary: list[tuple[int, int, bytes]] = []
        self.patience_ms: float = SEND_WAIT_MS
        self._full = False  # the send buffer was full, and no patience is left
        self.gso = gso
        self.gso_refused = False
        self._fragments = False
        self.too_big = False  # set by EMSGSIZE, cleared by whoever has asked for the path's MTU

    def forget(self) -> None:
        """Set options and tables anew with the next send."""
        self.tos = -1
        self._packet_bytes = 0

    def set_tos(self, tos: int) -> None:
        """Set DSCP and ECN of what is sent from now on."""
        if tos != self.tos:
            level, option = (socket.IPPROTO_IPV6, socket.IPV6_TCLASS) if self.v6 else (socket.IPPROTO_IP, socket.IP_TOS)
            self._sock.setsockopt(level, option, tos)
            self.tos = tos

    def allow_fragments(self, allowed: bool) -> None:
        """Let the kernel fragment outer packets that the path does not take, or set DF again."""
        if allowed != self._fragments:
            level, option = (
                (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER) if self.v6 else (socket.IPPROTO_IP, _IP_MTU_DISCOVER)
            )
            self._sock.setsockopt(level, option, _PMTUDISC_DONT if allowed else _PMTUDISC_DO)
            self._fragments = allowed

    def send(self, view: memoryview, packet_bytes: int, peer: tuple[str, int]) -> int:
        """Send the packets of `packet_bytes` in `view`, the last of which may be shorter; returns how many went."""
        self._full = False
        if len(view) <= packet_bytes:
            return 0 if self._send_one((view,), (), peer) else 1
        if packet_bytes != self._packet_bytes:
            self._group = min(GSO_DATAGRAMS_MAX, self.bytes_max // packet_bytes) * packet_bytes
            self._ancillary = [(socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("=H", packet_bytes))]
            self._packet_bytes = packet_bytes
        sent, at, end, group = 0, 0, len(view), self._group
        while at < end and not self._full:
            sent += self._send_group(view[at : at + group], packet_bytes, peer)
            at += group
        return sent

    def _send_group(self, view: memoryview, packet_bytes: int, peer: tuple[str, int]) -> int:
        """Send packets of one size at once, or one by one where segmentation offload is off or refused."""
        count = -(-len(view) // packet_bytes)
        if count > 1 and self.gso:
            number = self._send_one((view,), self._ancillary, peer)
            if number not in (errno.EIO, errno.EINVAL, errno.EMSGSIZE):
                return 0 if number else count
            if number == errno.EIO:  # the egress has no checksum offload
                self.gso, self.gso_refused = False, True
        sent = 0
        for at in range(0, len(view), packet_bytes):
            sent += self._send_one((view[at : at + packet_bytes],), (), peer) == 0
            if self._full:
                break
        return sent

    def _send_one(
        self, buffers: Sequence[memoryview], ancillary: Sequence[tuple[int, int, bytes]], peer: tuple[str, int]
    ) -> int:
        """Send once; returns 0, or the error's number. A full send buffer is waited for: that slows the senders."""
        for attempt in range(2):
            try:
                self._sock.sendmsg(buffers, ancillary, 0, peer)
            except BlockingIOError:
                if attempt or self.patience_ms <= 0:
                    break
                self._wait()
            except OSError as error:
                if error.errno == errno.EMSGSIZE:
                    self.too_big = True
                return error.errno or errno.EIO
            else:
                return 0
        self._full = True
        return errno.EAGAIN

    def _wait(self) -> None:
        """Wait for room in the send buffer, and take the time from the patience."""
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        before = time.monotonic()
        poll.poll(self.patience_ms)
        self.patience_ms -= (time.monotonic() - before) * 1000


def read_ancillary(ancillary: list[tuple[int, int, bytes]], received: int) -> tuple[int, int, int]:
    """Read the size of each merged datagram (`received`: it is one), flow information, and how many were lost so far.

    Flow information is what the first word of an IPv6 header has behind the version: traffic class and flow label.
    For IPv4 it is the TOS octet at the same place.
    """
    size, flow_info, lost = received, 0, 0
    if not ancillary:
        return size, flow_info, lost
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_UDP and kind == _UDP_GRO:
            size = int.from_bytes(data[:4], "little")
        elif level == socket.SOL_SOCKET and kind == _SO_RXQ_OVFL:
            lost = int.from_bytes(data[:4], "little")
        elif level == socket.IPPROTO_IPV6 and kind == _IPV6_FLOWINFO:
            flow_info = int.from_bytes(data[:4], "big")
        elif level == socket.IPPROTO_IP and kind == socket.IP_TOS:
            flow_info = data[0] << TRAFFIC_CLASS_SHIFT
    return size, flow_info, lost

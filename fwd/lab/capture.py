"""A capture on the wire that sees every ESP packet, although veth carries 44 of them as one frame.

`python -m fwd.lab.capture --iface wan --outer A --outer B --out FILE`, in a gateway's namespace. An AF_PACKET
socket with PACKET_VNET_HDR tells each frame's segment size; NumPy picks the ESP header (SPI, sequence number,
IV: 16 bytes, RFC 4303 §2, RFC 4106 §3.1) of every segment without a loop. Each frame is one of

- ESP in UDP (RFC 3948) between the outer addresses, on one of the members' ports at both ends;
- control: ARP, neighbour and multicast listener discovery, ICMP errors between the outer addresses, IKE on port
  500 (a whole IKEv2 message) and on those same ports (SPI 0), NAT keepalives;
- plaintext: anything else, and any frame in which the marker of the probes is found.

What cannot be read whole, and what the kernel had no room for, counts as dropped by the capture: of that nothing is
known. So that it is none, the capture comes before whatever else wants the processor, and up to a second of a full
wire may wait. Nothing is sent, and no key is known here.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from argparse import ArgumentTypeError
from collections import Counter
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from fwd.datapath import udp
from fwd.lab import arguments, pcap

_SOL_PACKET, _PACKET_STATISTICS, _PACKET_VNET_HDR = 263, 6, 15
_PACKET_ADD_MEMBERSHIP, _PACKET_IGNORE_OUTGOING, _PACKET_MR_PROMISC = 1, 23, 1
_MEMBERSHIP = struct.Struct("iHH8x")  # struct packet_mreq
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_KEEP_NOTHING = (0x06, 0, 0, 0)  # classic BPF: return 0
_ETH_P_ALL = 3
_RECEIVE_BUFFER_BYTES = 512 << 20  # of memory only when it is behind
_NICE = -20
_BATCH_MS = 4  # one wake-up for all frames of this long: the gateways share the cores
_BATCH_FRAMES_MAX = 20_000

VNET: Final = 10  # bytes of virtio_net_hdr before each frame
_IP: Final = VNET + pcap.ETHERNET_BYTES
_FRAME_BYTES_MAX: Final = _IP + 65535 + 40
_GSO_UDP: Final = 5  # VIRTIO_NET_HDR_GSO_UDP_L4
_ESP_BYTES_MIN: Final = 32  # SPI, number, IV and ICV
_SPI_RESERVED: Final = 256  # RFC 4303 §2.1
_IKE_PORTS: Final = (500).to_bytes(2, "big") * 2
_IKE_BYTES_MIN: Final = 28
_IKE_VERSION: Final = 0x20
_EXAMPLES_MAX: Final = 5
_CHUNK_PACKETS: Final = 1 << 16
_ICMP_ERRORS: Final = {3, 11, 12}
_ICMP6_ERRORS: Final = {1, 2, 3, 4}
_ICMP6_LINK: Final = {130, 131, 132, 133, 134, 135, 136, 137, 143}

_ESP_HEADER: Final = np.dtype([("spi", ">u4"), ("seq", ">u4"), ("iv", ">u8")])
_RAW: Final = np.dtype("V16")
_vnet: Final = struct.Struct("<BBHH").unpack_from  # flags, gso_type, hdr_len, gso_size


class _Headers:
    """The ESP headers of one sender, 16 bytes each, in the order of the wire."""

    def __init__(self) -> None:
        self._chunks = [np.empty(_CHUNK_PACKETS, _RAW)]
        self._filled = 0

    def add(self, buffer: bytearray, at: int, count: int, size: int) -> None:
        """Store the headers of `count` segments, `size` bytes apart."""
        if self._filled + count > _CHUNK_PACKETS:
            self._chunks[-1] = self._chunks[-1][: self._filled]
            self._chunks.append(np.empty(_CHUNK_PACKETS, _RAW))
            self._filled = 0
        headers = np.ndarray((count,), _RAW, buffer, at, (size,))
        self._chunks[-1][self._filled : self._filled + count] = headers
        self._filled += count

    def by_spi(self) -> dict[int, npt.NDArray[Any]]:
        chunks = [c.view(_ESP_HEADER) for c in [*self._chunks[:-1], self._chunks[-1][: self._filled]]]
        spis = np.unique(np.concatenate([np.unique(c["spi"]) for c in chunks]))
        return {int(spi): np.concatenate([c[c["spi"] == spi] for c in chunks]) for spi in spis}


class Recorder:
    """Classifies frames and keeps 16 bytes of each ESP packet; `buffer` holds one virtio header and frame."""

    def __init__(
        self, outer: Sequence[str], ports: Sequence[int], marker: bytes | None = None, sample: int = 0
    ) -> None:
        addresses = [ip_address(a) for a in outer]
        # Source and destination as they stand in the header → what that source sent.
        self._senders = {
            a.packed + b.packed: (str(a), _Headers())
            for a in addresses
            for b in addresses
            if a != b and a.version == b.version
        }
        self._ports = {port.to_bytes(2, "big") * 2: port for port in ports}
        self._marker = marker
        self.buffer = bytearray(_FRAME_BYTES_MAX)
        self.esp_packets = self.esp_bytes = self.plaintext_packets = self.control_packets = 0
        self.unread_frames = 0
        self.esp_by_port: Counter[int] = Counter()
        self.examples: list[str] = []
        self._sample_left = sample
        self.sample: list[tuple[int, bytes]] = []

    def frame(self, n: int) -> None:
        """Take note of the `n` bytes in the buffer."""
        if n > _FRAME_BYTES_MAX:
            self.unread_frames += 1
            return
        if n < _IP + 20:
            self._link_frame(n)
            return
        if self._marker is not None and self.buffer.find(self._marker, 0, n) >= 0:
            self._plaintext(n)
        elif self.buffer[VNET + 12 : _IP] == b"\x08\x00":
            self._ipv4(n)
        elif self.buffer[VNET + 12 : _IP] == b"\x86\xdd":
            self._ipv6(n)
        else:
            self._link_frame(n)

    def _link_frame(self, n: int) -> None:
        if self.buffer[VNET + 12 : _IP] == b"\x08\x06":
            self.control_packets += 1
        else:
            self._plaintext(n)

    def _ipv4(self, n: int) -> None:
        buffer = self.buffer
        udp = _IP + (buffer[_IP] & 15) * 4
        end = min(n, _IP + int.from_bytes(buffer[_IP + 2 : _IP + 4], "big"))
        ours = self._senders.get(bytes(buffer[_IP + 12 : _IP + 20]))
        fragment = buffer[_IP + 6] & 0x3F or buffer[_IP + 7]
        if ours and not fragment and buffer[_IP + 9] == 17:
            self._udp(ours[1], udp, end, n)
        elif ours and not fragment and buffer[_IP + 9] == 1 and udp < n and buffer[udp] in _ICMP_ERRORS:
            self.control_packets += 1
        else:
            self._plaintext(n)

    def _ipv6(self, n: int) -> None:
        buffer = self.buffer
        at, protocol = _IP + 40, buffer[_IP + 6]
        end = min(n, at + int.from_bytes(buffer[_IP + 4 : _IP + 6], "big"))
        ours = self._senders.get(bytes(buffer[_IP + 8 : _IP + 40]))
        if ours and protocol == 17:
            self._udp(ours[1], at, end, n)
            return
        if protocol == 0 and at + 8 < end and buffer[at + 1] == 0:  # listener reports bear a router alert
            protocol, at = buffer[at], at + 8
        kind = buffer[at] if protocol == 58 and at < end else 0
        if kind in _ICMP6_LINK or (ours and kind in _ICMP6_ERRORS):
            self.control_packets += 1
        else:
            self._plaintext(n)

    def _udp(self, headers: _Headers, udp: int, end: int, n: int) -> None:
        """A datagram, or many in one, between the outer addresses."""
        buffer = self.buffer
        ports = bytes(buffer[udp : udp + 4])
        port = self._ports.get(ports)
        at, length = udp + 8, end - udp - 8

        # IKE, keepalives and what has the marker of IKE are control packets.
        if ports == _IKE_PORTS and self._is_ike(at, length):
            self.control_packets += 1
            return
        if port is None or length < 1:
            self._plaintext(n)
            return
        spi = int.from_bytes(buffer[at : at + 4], "big")
        if (length == 1 and buffer[at] == 0xFF) or (length >= _ESP_BYTES_MIN and spi == 0):
            self.control_packets += 1
            return

        # All else must be ESP, each packet with a header whose number is looked at.
        count, size = self._segments(length)
        if spi < _SPI_RESERVED or length - (count - 1) * size < _ESP_BYTES_MIN or size < _ESP_BYTES_MIN:
            self._plaintext(n)
            return
        headers.add(buffer, at, count, size)
        self.esp_packets += count
        self.esp_bytes += length
        self.esp_by_port[port] += count
        if self._sample_left:
            self._take_sample(at, end, count, size)

    def _is_ike(self, at: int, length: int) -> bool:
        """Whether a payload is a whole IKEv2 message (RFC 7296 §3.1)."""
        told = int.from_bytes(self.buffer[at + 24 : at + 28], "big")
        return length >= _IKE_BYTES_MIN and self.buffer[at + 17] == _IKE_VERSION and told == length

    def _segments(self, length: int) -> tuple[int, int]:
        """How many datagrams the `length` bytes behind the UDP header are, and how long all but the last."""
        _, gso_type, _, gso_size = _vnet(self.buffer)
        if gso_type & 0x7F != _GSO_UDP or not 0 < gso_size < length:
            return 1, length
        return -(-length // gso_size), gso_size

    def _plaintext(self, n: int) -> None:
        _, gso_type, _, gso_size = _vnet(self.buffer)
        self.plaintext_packets += -(-(n - _IP) // gso_size) if gso_type and gso_size and n > _IP else 1
        if len(self.examples) < _EXAMPLES_MAX:
            self.examples.append(bytes(self.buffer[VNET : min(n, VNET + 64)]).hex())

    def _take_sample(self, at: int, end: int, count: int, size: int) -> None:
        headers, now_ns = bytes(self.buffer[VNET:at]), time.time_ns()
        for i in range(min(count, self._sample_left)):
            payload = bytes(self.buffer[at + i * size : min(at + (i + 1) * size, end)])
            self.sample.append((now_ns, pcap.datagram(headers, payload)))
            self._sample_left -= 1

    def result(self) -> dict[str, Any]:
        """All counts. A sender's SPI stands for one key, so that each of its IVs may appear once only."""
        repeated = 0
        seq_per_spi: dict[str, dict[str, list[int]]] = {}
        for source, headers in self._senders.values():
            seq_per_spi[source] = {}
            for spi, own in headers.by_spi().items():
                repeated += own.size - np.unique(own["iv"].astype(np.uint64)).size
                seq_per_spi[source][str(spi)] = [int(own["seq"].min()), int(own["seq"].max()), own.size]
        return {
            "esp_packets": self.esp_packets,
            "esp_by_port": {str(port): n for port, n in sorted(self.esp_by_port.items())},
            "esp_bytes": self.esp_bytes,
            "plaintext_packets": self.plaintext_packets,
            "plaintext_examples": self.examples,
            "repeated_nonces": repeated,
            "control_packets": self.control_packets,
            "capture_drops": self.unread_frames,
            "seq_per_spi": seq_per_spi,
        }


def open_socket(iface: str, bridge: bool = False) -> socket.socket:
    """A raw socket that sees both directions of `iface`, each frame behind its virtio header.

    Of a `bridge` it sees what passes between its ports, once, and not what this host itself sends there.
    """
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        sock.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
        if bridge:
            membership = _MEMBERSHIP.pack(socket.if_nametoindex(iface), _PACKET_MR_PROMISC, 0)
            sock.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, membership)
            sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        sock.bind((iface, _ETH_P_ALL))
    except OSError:
        sock.close()
        raise
    return sock


def drain(sock: socket.socket, recorder: Recorder) -> bool:
    """Take the frames that wait, up to a bound; return whether none is left."""
    buffer, frame = recorder.buffer, recorder.frame
    flags = socket.MSG_DONTWAIT | socket.MSG_TRUNC
    for _ in range(_BATCH_FRAMES_MAX):
        try:
            n = sock.recv_into(buffer, 0, flags)
        except BlockingIOError:
            return True
        except OSError as error:
            # EINVAL: a kind of offload that the virtio header cannot say. That the interface went down is no frame.
            recorder.unread_frames += error.errno != errno.ENETDOWN
            continue
        frame(n)
    return False


def kernel_drops(sock: socket.socket) -> int:
    """Frames that the kernel dropped for want of buffer since the last call."""
    _, drops = struct.unpack("II", sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
    return int(drops)


def run(sock: socket.socket, recorder: Recorder, seconds: float, stop_fd: int) -> dict[str, Any]:
    """Record until `seconds` are over or `stop_fd` is readable, and what still waits then."""
    deadline_s = time.monotonic() + seconds
    stop = select.poll()
    stop.register(stop_fd, select.POLLIN)
    while not stop.poll(_BATCH_MS) and time.monotonic() < deadline_s:
        drain(sock, recorder)

    # No more comes, so that what waits has an end, and nothing is dropped while the result is made.
    udp.attach(sock, _SO_ATTACH_FILTER, [_KEEP_NOTHING])
    while not drain(sock, recorder):
        pass
    result = recorder.result()
    result["capture_drops"] += kernel_drops(sock)
    return result


def _address(text: str) -> str:
    return str(ip_address(text))


def _iface(text: str) -> str:
    try:
        socket.if_nametoindex(text)
    except OSError:
        raise ArgumentTypeError(f"no interface {text} in this network namespace") from None
    return text


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments.OneLineParser("fwd.lab.capture", description="Count what is on a gateway's wire.")
    parser.add_argument("--iface", type=_iface, required=True)
    parser.add_argument("--bridge", action="store_true", help="the interface is a bridge: see what passes through it")
    parser.add_argument("--out", type=arguments.new_file, required=True, help="JSON result")
    parser.add_argument("--outer", type=_address, action="append", required=True, help="outer address; twice")
    parser.add_argument("--ports", type=arguments.ports, default=range(4500, 4504), help="4500-4503")
    parser.add_argument("--marker", type=arguments.magic, help="32 hex digits that no frame may show")
    parser.add_argument("--seconds", type=arguments.positive, default=600.0, help="longest run")
    parser.add_argument("--pcap", type=arguments.new_file, help="file for the first ESP packets, each a datagram")
    parser.add_argument("--sample", type=int, default=2000, help="how many of them")
    options = parser.parse_args(argv)

    # Everything that can fail does so before `ready` is said.
    recorder = Recorder(options.outer, options.ports, options.marker, max(options.sample, 0) if options.pcap else 0)
    try:
        sock = open_socket(options.iface, options.bridge)
    except PermissionError:
        arguments.fail(parser.prog, "a capture needs root: run it again as root, or with sudo")
    stop_fd = os.eventfd(0, os.EFD_NONBLOCK)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.eventfd_write(stop_fd, 1))

    # Frames are counted until it is told to stop.
    with contextlib.suppress(OSError):  # a container may forbid it
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    print("ready", flush=True)
    with sock:
        result = run(sock, recorder, options.seconds, stop_fd)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    if options.pcap:
        with options.pcap.open("wb") as file:
            _write_sample(file, recorder)
    return 0


def _write_sample(file: BinaryIO, recorder: Recorder) -> None:
    pcap.write_header(file)
    for time_ns, packet in recorder.sample:
        pcap.write_packet(file, packet, time_ns)


if __name__ == "__main__":
    sys.exit(main())

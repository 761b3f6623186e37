"""What the kernel takes for a record, in a network namespace of its own: TUN device and UDP socket, both ways.

The line is the loopback device and the client's side a second TUN device, so there is no network card's driver in it,
and a send has in it what the far side's interrupt would do: the loopback device delivers at once. Needs root.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import socket
import struct
import subprocess
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address
from multiprocessing.connection import Connection
from typing import Final

from fwd.bench.micro import mean_us
from fwd.bench.rig import PATH_MTU, Record
from fwd.datapath.tun import Offloads, Tun
from fwd.datapath.udp import ANCILLARY_BYTES, RECEIVE_BYTES, Sender, open_socket
from fwd.lab.topology import kernel_has_ipv6
from fwd.lab.world import LabError
from fwd.proto.ip import VNET_BYTES

STEPS: Final = ("tun_read", "tun_write", "send", "receive")
Found = dict[str, dict[str, list[float]]]  # by step and size: µs a record, a value for each round

_CLONE_NEWNET = 0x40000000
_SOL_PACKET, _PACKET_VNET_HDR, _ETH_P_IP = 263, 15, 0x0800
_LOOPBACK = "127.0.0.1"
_PACKET = 1472  # of ESP, on a path of 1,500 octets
_INSIDE = "fwdcost0", "fwdcost1"  # the gateway's TUN device, and what stands for the client's device


def measure(rounds: int, bursts: Mapping[str, tuple[int, int]]) -> Found:
    """Microseconds a record at each step, a value for each round; `bursts`: size → octets and number of records.

    Raises LabError if the kernel does not give what is needed.
    """
    context = multiprocessing.get_context("fork")
    near, far = context.Pipe(duplex=False)
    process = context.Process(target=_apart, args=(far, rounds, bursts), daemon=True)
    process.start()
    far.close()
    try:
        found: Found | str = near.recv()
    except EOFError:
        found = "the process that measures the kernel has ended"
    finally:
        near.close()
        process.join()
    if isinstance(found, str):
        raise LabError(found)
    return found


def _apart(told: Connection, rounds: int, bursts: Mapping[str, tuple[int, int]]) -> None:
    """Measure in a network namespace that goes with this process."""
    try:
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        found: Found = {step: {size: [] for size in bursts} for step in STEPS}
        with _Kernel() as kernel:
            calls = {size: kernel.calls(octets, count) for size, (octets, count) in bursts.items()}
            for _ in range(rounds):
                for size, (_, count) in bursts.items():
                    for step, (call, before) in calls[size].items():
                        found[step][size].append(mean_us(call, before) / count)
        told.send(found)
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        told.send(f"what the kernel takes cannot be measured: {error}")


class _Kernel:
    """Two TUN devices with a route between them, and two UDP sockets."""

    def __enter__(self) -> _Kernel:
        # Nothing but what is measured comes out of the devices.
        if kernel_has_ipv6():
            _sysctl("net.ipv6.conf.default.disable_ipv6=1")
        _sysctl("net.ipv4.ip_forward=1")
        offloads = Offloads()
        self._tun, self._client = (Tun(name) for name in _INSIDE)
        for tun in (self._tun, self._client):
            tun.set_offloads(offloads, wanted=True)
            tun.up(PATH_MTU)
        lines = ["link set lo up", f"route add 10.2.0.0/16 dev {_INSIDE[0]}", f"route add 10.1.0.0/16 dev {_INSIDE[1]}"]
        subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True, capture_output=True)

        # What is sent through it comes out of the TUN device, super-packets whole.
        self._inject = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._inject.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        loopback = IPv4Address(_LOOPBACK)
        self._near = open_socket(loopback, 0, offloads, wanted=True, marks=False)
        self._far = open_socket(loopback, 0, offloads, wanted=True, marks=False)
        self._peer = _LOOPBACK, self._far.getsockname()[1]
        self._sender = Sender(self._near, gso=offloads.gso)
        self._buffer = memoryview(bytearray(RECEIVE_BYTES + VNET_BYTES))
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._tun, self._client, self._inject, self._near, self._far):
            each.close()

    def calls(self, octets: int, count: int) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
        """By step: what handles `count` records of `octets`, and what goes before, which is not timed."""
        record = _routed(octets)
        packets = memoryview(bytes(_esp_octets(octets, count)))

        def inject() -> None:
            for _ in range(count):
                self._inject.sendto(record, (_INSIDE[0], _ETH_P_IP))

        def send() -> None:
            self._sender.send(packets, _PACKET, self._peer)

        def send_alone() -> None:
            self._receive(None)
            send()

        def write() -> None:
            for _ in range(count):
                os.writev(self._tun.fd, [record])

        # What is written is forwarded, or its cost would be that of a drop.
        self._read(self._client, None, len(record))
        write()
        self._read(self._client, count, len(record))
        return {
            "tun_read": (lambda: self._read(self._tun, count, len(record)), inject),
            "tun_write": (write, lambda: self._read(self._client, None, len(record))),
            "send": (send, lambda: self._receive(None)),
            "receive": (lambda: self._receive(len(packets)), send_alone),
        }

    def _read(self, tun: Tun, count: int | None, octets: int) -> None:
        """Read a device until it is drained. Raises RuntimeError if it did not give so many records of that length."""
        lengths = []
        while True:
            try:
                lengths.append(os.readv(tun.fd, [self._buffer]))
            except BlockingIOError:
                break
        if count is not None and lengths != [octets] * count:
            raise RuntimeError(f"{count} records of {octets} octets went to {tun.name}, {lengths} came")

    def _receive(self, octets: int | None) -> None:
        received = 0
        while True:
            try:
                received += self._far.recvmsg_into([self._buffer], ANCILLARY_BYTES)[0]
            except BlockingIOError:
                break
        if octets is not None and received != octets:
            raise RuntimeError(f"{octets} octets were sent over the loopback device, {received} came")


def _sysctl(setting: str) -> None:
    subprocess.run(["sysctl", "-qw", setting], check=True, capture_output=True)


def _routed(octets: int) -> memoryview:
    """A record that the kernel forwards: its IP header has a checksum, its TCP checksum is left to the device."""
    record = Record(octets)
    data = record.bytes
    data[:VNET_BYTES] = struct.pack("<BBHHHH", 1, data[1], 40, 1460 if data[1] else 0, 20, 16)
    head = struct.unpack_from(">10H", data, VNET_BYTES)
    total = sum(head)
    total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into(">H", data, VNET_BYTES + 10, ~(total + (total >> 16)) & 0xFFFF)
    return record.view


def _esp_octets(octets: int, count: int) -> int:
    """Octets of the ESP packets that carry so many records as one burst."""
    chunk = _PACKET - 38
    data = count * (octets + VNET_BYTES)
    full, rest = divmod(data, chunk)
    return full * _PACKET + (-(-(rest + 38) // 4) * 4 if rest else 0)

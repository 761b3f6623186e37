"""The TUN device: opened with python-pytun, given as many offloads as this kernel takes.

Every read and write is one record: virtio_net_hdr (little-endian) and IP packet. What an offload probe finds refused
is reported, not hidden. Refuses: a host without /dev/net/tun, a name that is taken (`TunError`, one line).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from dataclasses import dataclass, field
from typing import Final

import pytun

from fwd.proto.errors import UserError
from fwd.proto.ip import CSUM, TSO4, TSO6, USO4, USO6

_TUNSETOFFLOAD = 0x400454D0
_TUNSETVNETLE = 0x400454DC
_IFF_TUN_EXCL = 0x8000  # a device of several queues is nobody else's already
_ATTEMPTS = (
    (CSUM | TSO4 | TSO6 | USO4 | USO6, ()),
    (CSUM | TSO4 | TSO6, ("uso",)),
    (CSUM, ("uso", "tso")),
    (0, ("uso", "tso", "csum")),
)


_accepted: set[int] = set()  # flags with which this kernel has taken super-packets
STEERING: Final = "kernel-steering"  # as status names it
TUN_FLAGS: Final = {"csum": CSUM, "tso": TSO4, "uso": USO4}  # as status names them


class DeviceError(Exception):
    """The TUN device gives no records any more, and trying again will not help: its cause says why."""


class TunError(UserError):
    """The TUN device cannot be had; one line for the user."""


@dataclass
class Offloads:
    """What the kernel was asked for and what it refused: shown by status and log."""

    tun_flags: int = 0
    gso: bool = False  # UDP_SEGMENT
    gro: bool = False  # UDP_GRO
    refused: dict[str, str] = field(default_factory=dict)
    steered: bool = False  # the kernel steers packets to members

    @property
    def in_force(self) -> list[str]:
        """Names as `fwd status` shows them."""
        return [n for n, f in TUN_FLAGS.items() if self.tun_flags & f] + [
            n for n, on in (("udp-gso", self.gso), ("udp-gro", self.gro), (STEERING, self.steered)) if on
        ]


class Tun:
    """One TUN device. Children inherit `fd`; the device goes when the last of them has closed it."""

    def __init__(self, name: str, *, queues: bool = False, more: bool = False) -> None:
        """`queues`: it may have several, of which this is the first; `more`: this is one more of such a device."""
        try:
            flags = pytun.IFF_TUN | pytun.IFF_NO_PI | pytun.IFF_VNET_HDR
            if queues or more:
                flags |= pytun.IFF_MULTI_QUEUE | (0 if more else _IFF_TUN_EXCL)
            self._device = pytun.TunTapDevice(name=name, flags=flags)
        except (pytun.Error, OSError) as error:
            raise TunError(_why(name, error)) from None
        self.name: str = self._device.name
        self.fd: int = self._device.fileno()
        self.index = socket.if_nametoindex(self.name)
        os.set_blocking(self.fd, False)
        fcntl.ioctl(self.fd, _TUNSETVNETLE, struct.pack("i", 1))

    def set_offloads(self, offloads: Offloads, *, wanted: bool, udp: bool = True) -> None:
        """Ask for every offload (without `udp`, not for USO), then for fewer until the kernel agrees.

        What it refused is recorded.
        """
        reason = ""
        attempts = _ATTEMPTS if udp else _ATTEMPTS[1:]
        for flags, refused in attempts if wanted else attempts[-1:]:
            try:
                fcntl.ioctl(self.fd, _TUNSETOFFLOAD, flags)
            except OSError as error:
                reason = error.strerror or str(error)
                continue
            offloads.tun_flags = flags
            if reason:
                offloads.refused |= {name: reason for name in refused if udp or name != "uso"}
            return

    def limit_offloads(self, flags: int) -> None:
        """Be content with these, which must be among those that the kernel has agreed to."""
        fcntl.ioctl(self.fd, _TUNSETOFFLOAD, flags)

    def set_mtu(self, mtu_bytes: int) -> None:
        """Change the MTU."""
        self._device.mtu = mtu_bytes

    def up(self, mtu_bytes: int) -> None:
        """Set the MTU and bring the device up."""
        self.set_mtu(mtu_bytes)
        self._device.up()

    def close(self) -> None:
        """Give the device back."""
        self._device.close()


def offloads_in_common(ours: int, theirs: int) -> int:
    """Those of our flags that the far side takes, whatever it says, as a set that the kernel accepts."""
    both = ours & theirs
    if not both & CSUM:
        return 0
    return both if both & USO4 and both & USO6 else both & ~(USO4 | USO6)


def super_packets_accepted(flags: int) -> str | None:
    """Write a TCP super-packet to a device of its own; why the kernel refuses it, or None.

    Some kernels refuse every such write; one that has taken one takes others. The packet has no valid destination, so
    it goes no further.
    """
    if not flags & TSO4 or flags in _accepted:
        return None
    probe = Tun("fwdprobe%d")
    try:
        fcntl.ioctl(probe.fd, _TUNSETOFFLOAD, flags)
        probe.up(1500)
        payload = 2800
        vnet = struct.pack("<BBHHHH", 1, 1, 40, 1400, 20, 16)
        ip = struct.pack(">BBHHHBBH8x", 0x45, 0, 40 + payload, 0, 0, 64, 6, 0)
        tcp = struct.pack(">HHIIBBHHH", 9, 9, 0, 0, 5 << 4, 0x10, 0, 0, 0)
        os.write(probe.fd, vnet + ip + tcp + bytes(payload))
    except OSError as error:
        return error.strerror or str(error)
    finally:
        with contextlib.suppress(OSError):
            probe.close()
    _accepted.add(flags)
    return None


def _why(name: str, error: Exception) -> str:
    number = error.args[0] if error.args and isinstance(error.args[0], int) else getattr(error, "errno", 0)
    if not os.path.exists("/dev/net/tun"):
        return "/dev/net/tun is missing: load the tun module, or give the container --device /dev/net/tun"
    if number == errno.EBUSY:
        return f"TUN device {name} is busy: another process has it, choose another name with peering.tun"
    if number == errno.EPERM:
        return f"TUN device {name}: not permitted; run as root or with CAP_NET_ADMIN"
    if number == errno.EINVAL:
        return f"TUN device {name}: another device has this name, or none may have it: choose another with peering.tun"
    return f"TUN device {name}: {error}"


def is_drained(error: OSError) -> bool:
    """Whether the device, of which a read gave `error`, has no record now. Raises DeviceError if it will have none."""
    if isinstance(error, BlockingIOError):
        return True
    raise DeviceError(error.strerror) from error

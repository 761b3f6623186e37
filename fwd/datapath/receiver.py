"""A member's socket, received from by the compiled core: all that waits, in one call (receive.c).

What is as usual lies in slots afterwards, as `Slots.fill` would have laid it. What is not, Python takes (Inbound.take):
another sender or other marks, merged datagrams of another size, what is too short for ESP.
"""

from __future__ import annotations

import os
import socket
from typing import Final

from fwd.datapath.shared import LinkWord
from fwd.datapath.slots import Slots
from fwd.proto import core
from fwd.proto.core import CoreError, ffi, lib
from fwd.proto.esp import BATCH_MAX

# Why a call has ended, as in stages.h.
DRAINED: Final = 0
OTHER: Final = 1
FULL: Final = 4
_ERRORS: Final = 1000

Address = tuple[str, int]


class Receiver:
    """Of one member. What a call tells, beside why it has ended, is in `told`, an fwd_socket of stages.h."""

    def __init__(self, sock: socket.socket, link: memoryview, batch_bytes: int) -> None:
        """`batch_bytes`: a batch that has as many may not grow."""
        self.told = told = ffi.new("fwd_socket *")
        told.fd, told.count_max, told.octets_max = sock.fileno(), BATCH_MAX, batch_bytes
        told.taken_word = ffi.cast("uint64_t *", core.memory(link.cast("B"))) + LinkWord.RX_TAKEN.value
        self._slots: Slots | None = None
        self._address: tuple[str, int] | None = None  # whose name the core has

    @classmethod
    def of(cls, sock: socket.socket, link: memoryview, batch_bytes: int) -> Receiver | None:
        """Make one, if there is a compiled core and a socket of the kernel's."""
        return cls(sock, link, batch_bytes) if core.in_use and isinstance(sock, socket.socket) else None

    def receive(self, slots: Slots, before: int, taken: int, octets: int, flow_info: int, address: Address) -> int:
        """Receive behind what is in the slots, which is from `address` with these marks; return why it has ended.

        `before`, `taken`, `octets`: datagrams that were taken before this batch, and what of it. Raises OSError.
        """
        told = self.told
        if slots is not self._slots:
            self._slots = slots
            slots.describe(told)
        if address != self._address:
            told.name_octets = 0
        told.used, told.taken_before, told.taken, told.octets, told.flow_info = (
            slots.used, before, taken, octets, flow_info,
        )  # fmt: skip
        why: int = lib.fwd_receive(told)
        if told.taken != taken:
            n_short = told.shorter_count
            short = ffi.unpack(told.shorter, 2 * n_short) if n_short else ()
            slots.filled(told.used, zip(short[::2], short[1::2], strict=True))
        if why < 0 and why >= -_ERRORS:
            raise CoreError(f"{slots.used} slots of {slots.packet_bytes} octets have no room ({why})")
        return why

    def sender(self) -> Address:
        """Return whom the datagrams are from that were received last and not taken; they are as usual from now on."""
        told = self.told
        name = bytes(ffi.buffer(told.its_name)[: told.its_name_octets])
        if self._address is None or name != bytes(ffi.buffer(told.name)[: told.name_octets]):
            self._address = address_of(name)
            told.name, told.name_octets = told.its_name, told.its_name_octets
        return self._address

    def fail(self, why: int) -> None:
        """Raise the error that a call has ended with."""
        number = -why - _ERRORS
        raise OSError(number, os.strerror(number))


def address_of(name: bytes) -> Address:
    """Return what `recvfrom` gives for a sockaddr: to ask for the name of its interface would end this process."""
    port = int.from_bytes(name[2:4], "big")
    if len(name) == 16:
        return socket.inet_ntop(socket.AF_INET, name[4:8]), port
    scope = int.from_bytes(name[24:28], "little" if socket.htons(1) != 1 else "big")
    flow_info = int.from_bytes(name[4:8], "big")
    return socket.inet_ntop(socket.AF_INET6, name[8:24]), port, flow_info, scope  # type: ignore[return-value]

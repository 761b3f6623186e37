"""Programs of eBPF (RFC 9669), written as instructions with labels, and encoded as Linux takes them on x86-64.

It knows what fwd's programs use: arithmetic of 64 bits, loads and stores, jumps ahead, and Linux's loads from a packet
(octets of the network, most significant first), which end the program with 0 where the packet has no such octets. They
want the packet's context in R6, and leave nothing in R1 to R5. Refuses, as ValueError: a jump to nowhere, too far, or
back.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Literal

Operation = Literal["+", "*", "/", "&", "<<", ">>", "^"]

R0, R1, R2, R6, R7, R8, R9 = 0, 1, 2, 6, 7, 8, 9
STACK: Final = 10  # where the stack ends: what lies there has negative offsets
INSTRUCTION_BYTES: Final = 8

_OPERATIONS: Final = {"+": 0x07, "*": 0x27, "/": 0x37, "&": 0x57, "<<": 0x67, ">>": 0x77, "^": 0xA7}
_COMPARISONS: Final = {"==": 0x15, ">=": 0x35, "!=": 0x55}
_OF_A_REGISTER: Final = 0x08  # the second operand is one, and no number
_SIZES: Final = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}
_LOAD, _STORE, _STORE_NUMBER, _PACKET, _PACKET_BEHIND = 0x61, 0x63, 0x62, 0x20, 0x40
_SET, _WIDE, _JUMP, _CALL, _LEAVE = 0xB7, 0x18, 0x05, 0x85, 0x95
_MAP_VALUE: Final = 2  # a wide constant is an address in a map's first value
_AHEAD_MAX: Final = 2**15 - 1


@dataclass(frozen=True, slots=True)
class _Line:
    code: int
    to: int = 0
    of: int = 0
    offset: int | str = 0  # a label, of a jump
    number: int = 0


class Program:
    """Instructions, one behind the other."""

    def __init__(self) -> None:
        self._lines: list[_Line] = []
        self._labels: dict[str, int] = {}

    def set(self, to: int, number: int) -> None:
        """Set a register to a number of 31 bits."""
        self._lines.append(_Line(_SET, to, number=number))

    def set_wide(self, to: int, number: int) -> None:
        """Set a register to a number of 64 bits."""
        self._wide(to, 0, number & 0xFFFFFFFF, number >> 32)

    def set_address(self, to: int, map_fd: int, offset: int) -> None:
        """Set a register to an address in the one value of a map, an array, that the kernel knows by `map_fd`."""
        self._wide(to, _MAP_VALUE, map_fd, offset)

    def _wide(self, to: int, kind: int, low: int, high: int) -> None:
        self._lines += [_Line(_WIDE, to, kind, number=low), _Line(0, number=high)]

    def copy(self, to: int, of: int) -> None:
        """Copy a register."""
        self._lines.append(_Line(_SET | _OF_A_REGISTER, to, of))

    def work(self, to: int, operation: Operation, number: int) -> None:
        """Change a register by a number."""
        self._lines.append(_Line(_OPERATIONS[operation], to, number=number))

    def work_with(self, to: int, operation: Operation, of: int) -> None:
        """Change a register by another."""
        self._lines.append(_Line(_OPERATIONS[operation] | _OF_A_REGISTER, to, of))

    def load(self, size: int, to: int, base: int, offset: int) -> None:
        """Load from memory, at what register `base` says."""
        self._lines.append(_Line(_LOAD | _SIZES[size], to, base, offset))

    def store(self, size: int, base: int, offset: int, of: int) -> None:
        """Store a register in memory."""
        self._lines.append(_Line(_STORE | _SIZES[size], base, of, offset))

    def store_number(self, size: int, base: int, offset: int, number: int) -> None:
        """Store a number in memory."""
        self._lines.append(_Line(_STORE_NUMBER | _SIZES[size], base, offset=offset, number=number))

    def load_packet(self, size: int, at: int) -> None:
        """Set R0 to what lies `at` octets into the packet."""
        self._lines.append(_Line(_PACKET | _SIZES[size], number=at))

    def load_packet_behind(self, size: int, base: int, at: int) -> None:
        """Set R0 to what lies `at` octets behind where register `base` says in the packet."""
        self._lines.append(_Line(_PACKET_BEHIND | _SIZES[size], of=base, number=at))

    def label(self, name: str) -> None:
        """Name the next instruction."""
        if name in self._labels:
            raise ValueError(f"two labels {name}")
        self._labels[name] = len(self._lines)

    def jump(self, to: str) -> None:
        """Go on at a label."""
        self._lines.append(_Line(_JUMP, offset=to))

    def jump_if(self, register: int, comparison: Literal["==", ">=", "!="], number: int, to: str) -> None:
        """Go on at a label if a register compares so with a number."""
        self._lines.append(_Line(_COMPARISONS[comparison], register, offset=to, number=number))

    def jump_if_same(self, register: int, other: int, to: str) -> None:
        """Go on at a label if two registers are the same."""
        self._lines.append(_Line(_COMPARISONS["=="] | _OF_A_REGISTER, register, other, to))

    def call(self, helper: int) -> None:
        """Call one of the kernel's functions; R0 is what it returns."""
        self._lines.append(_Line(_CALL, number=helper))

    def leave(self) -> None:
        """End with R0."""
        self._lines.append(_Line(_LEAVE))

    def encoded(self) -> bytes:
        """Return the instructions' octets. Raises ValueError."""
        return b"".join(
            struct.pack("<BBhI", one.code, one.of << 4 | one.to, self._offset(at, one.offset), one.number & 0xFFFFFFFF)
            for at, one in enumerate(self._lines)
        )

    def _offset(self, at: int, offset: int | str) -> int:
        if isinstance(offset, int):
            return offset
        ahead = self._labels.get(offset, -1) - at - 1
        if not 0 <= ahead <= _AHEAD_MAX:
            raise ValueError(f"instruction {at} cannot jump to {offset!r}")
        return ahead

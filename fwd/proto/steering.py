"""Steering by the kernel: a program that a multi-queue TUN device runs on each packet, and a model of it in Python.

The program hashes a packet's flow to a bucket, notes when the bucket was used, and returns the queue of its owner. Both
stand in one table: of each bucket its owner (16 bits), then its last use (32 bits), in flow.py's words and units. What
belongs together is as in flow.py; the hash is another one, which needs nothing but multiplications. Queue 0 is that of
who has the table; it gets what has no owner, what is no IP, and what ends before its flow is known. Member i has queue
i + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fwd.proto.ebpf import R0, R1, R2, R6, R7, R8, R9, STACK, Program
from fwd.proto.flow import AH, BUCKETS, EXTENSIONS, EXTENSIONS_MAX, FRAGMENT, PARKED, TICK_MASK, WITH_PORTS

USED_AT: Final = BUCKETS * 2  # in the table: where the last uses begin
TABLE_BYTES: Final = BUCKETS * 6
TICK_NS: Final = 10_000_000  # unit of last use

_MIX: Final = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio, which is odd: no two words are mixed to the same
_MASK: Final = 2**64 - 1
_BUCKET_SHIFT: Final = 48  # of the hash: its upper 16 bits
_HELPER_CLOCK: Final = 5  # bpf_ktime_get_ns: CLOCK_MONOTONIC
_IPV4, _IPV6 = 4, 6
_FRAGMENT_MASK: Final = 0x3FFF  # of IPv4: more fragments, or an offset
_IPV6_BYTES: Final = 40

# Registers: R6 the packet, R7 the hash, R8 what it is multiplied with, R9 the protocol. On the stack: where in the
# packet the next header begins.
_AT: Final = -8


# -- the model ----------------------------------------------------------------------------------------------------


class _CutShort(Exception):
    """The packet ends before what is looked at."""


def bucket_of(packet: bytes | memoryview) -> int | None:
    """Return the bucket of a packet's flow, as the program finds it; None: it gives the packet to queue 0."""
    try:
        words, protocol = _flow(packet)
    except _CutShort:
        return None
    if not words:
        return None

    found = words[0]
    for word in (*words[1:], protocol):
        found = (found ^ word) * _MIX & _MASK
        found ^= found >> 32
    return (found * _MIX & _MASK) >> _BUCKET_SHIFT


def queue_of(packet: bytes | memoryview, owners: Sequence[int]) -> int:
    """Return the queue that the program gives a packet to, when `owners` have the buckets."""
    bucket = bucket_of(packet)
    return 0 if bucket is None or owners[bucket] >= PARKED else owners[bucket] + 1


def tick_of(now_ns: int) -> int:
    """Return the program's time of use, of CLOCK_MONOTONIC in ns."""
    return now_ns // TICK_NS & TICK_MASK


def _flow(packet: bytes | memoryview) -> tuple[list[int], int]:
    """Return what a flow is known by: words, and a protocol. No words: it is no IP. Raises _CutShort."""
    first = _load(packet, 0, 1)
    if first >> 4 == _IPV4:
        words = [_IPV4, _load(packet, 12, 4), _load(packet, 16, 4)]
        protocol, fragment = _load(packet, 9, 1), _load(packet, 6, 2) & _FRAGMENT_MASK
        at = (first & 0x0F) * 4
    elif first >> 4 == _IPV6:
        words = [_IPV6, *(_load(packet, start, 4) for start in range(8, _IPV6_BYTES, 4))]
        protocol, at, fragment = _behind_extensions(packet)
    else:
        return [], 0
    if protocol in WITH_PORTS and not fragment:
        words.append(_load(packet, at, 4))
    return words, protocol


def _behind_extensions(packet: bytes | memoryview) -> tuple[int, int, int]:
    """Return the protocol behind IPv6's extension headers, where that begins, and 1 if it is a fragment's."""
    protocol, at = _load(packet, 6, 1), _IPV6_BYTES
    for _ in range(EXTENSIONS_MAX):
        if protocol == FRAGMENT:
            return _load(packet, at, 1), at, 1
        if protocol not in EXTENSIONS:
            return protocol, at, 0
        length = _load(packet, at + 1, 1)
        length = (length + 2) * 4 if protocol == AH else (length + 1) * 8
        protocol, at = _load(packet, at, 1), at + length
    return protocol, at, 1  # too many: what lies behind is not looked at


def _load(packet: bytes | memoryview, at: int, size: int) -> int:
    if at + size > len(packet):
        raise _CutShort
    return int.from_bytes(packet[at : at + size], "big")


# -- the program --------------------------------------------------------------------------------------------------


def program(table_fd: int) -> bytes:
    """Return the program's instructions; `table_fd`: a BPF array of one value, TABLE_BYTES long."""
    p = Program()
    p.copy(R6, R1)
    p.set_wide(R8, _MIX)

    # By the version of IP; anything else is for queue 0.
    p.load_packet(1, 0)
    p.copy(R9, R0)
    p.work(R0, ">>", 4)
    p.jump_if(R0, "==", _IPV6, "IPv6")
    p.jump_if(R0, "!=", _IPV4, "queue 0")
    _hash_ipv4(p)
    _hash_ipv6(p)

    p.label("ports")
    p.load(8, R1, STACK, _AT)
    p.load_packet_behind(4, R1, 0)
    _mix(p, R0)

    p.label("no ports")
    _mix(p, R9)
    p.work_with(R7, "*", R8)
    p.work(R7, ">>", _BUCKET_SHIFT)
    _note_use(p, table_fd)
    _find_owner(p, table_fd)
    return p.encoded()


def _mix(p: Program, of: int) -> None:
    """Mix a register into the hash."""
    p.work_with(R7, "^", of)
    p.work_with(R7, "*", R8)
    p.copy(R0, R7)
    p.work(R0, ">>", 32)
    p.work_with(R7, "^", R0)


def _hash_ipv4(p: Program) -> None:
    """Mix an IPv4 packet's addresses, and go on by its protocol."""
    p.work(R9, "&", 0x0F)
    p.work(R9, "<<", 2)
    p.store(8, STACK, _AT, R9)
    p.set(R7, _IPV4)
    for at in (12, 16):
        p.load_packet(4, at)
        _mix(p, R0)

    # The protocol, and not a fragment's ports, which all but the first lack.
    p.load_packet(1, 9)
    p.copy(R9, R0)
    p.load_packet(2, 6)
    p.work(R0, "&", _FRAGMENT_MASK)
    p.jump_if(R0, "!=", 0, "no ports")
    _to_ports(p)
    p.jump("no ports")


def _hash_ipv6(p: Program) -> None:
    """Mix an IPv6 packet's addresses, and go on by the protocol behind its extension headers."""
    p.label("IPv6")
    p.store_number(8, STACK, _AT, _IPV6_BYTES)
    p.set(R7, _IPV6)
    for at in range(8, _IPV6_BYTES, 4):
        p.load_packet(4, at)
        _mix(p, R0)

    # Each step over an extension header is written out: jumps go ahead only.
    p.load_packet(1, 6)
    p.copy(R9, R0)
    for step in range(EXTENSIONS_MAX):
        _to_ports(p)
        p.jump_if(R9, "==", FRAGMENT, "fragment")
        for header in sorted(EXTENSIONS):
            p.jump_if(R9, "==", header, f"extension {step}")
        p.jump("no ports")
        p.label(f"extension {step}")
        _pass_extension(p, step)
    p.jump("no ports")

    p.label("fragment")
    p.load(8, R1, STACK, _AT)
    p.load_packet_behind(1, R1, 0)
    p.copy(R9, R0)
    p.jump("no ports")


def _pass_extension(p: Program, step: int) -> None:
    """Pass over one extension header: by its length, in units of 8 octets or, of AH, of 4."""
    p.load(8, R1, STACK, _AT)
    p.load_packet_behind(2, R1, 0)
    p.load(8, R1, STACK, _AT)
    p.copy(R2, R0)
    p.work(R2, "&", 0xFF)
    p.jump_if(R9, "==", AH, f"AH {step}")
    p.work(R2, "+", 1)
    p.work(R2, "<<", 3)
    p.jump(f"length {step}")
    p.label(f"AH {step}")
    p.work(R2, "+", 2)
    p.work(R2, "<<", 2)

    # Its first octet says what comes next.
    p.label(f"length {step}")
    p.work_with(R1, "+", R2)
    p.store(8, STACK, _AT, R1)
    p.work(R0, ">>", 8)
    p.copy(R9, R0)


def _to_ports(p: Program) -> None:
    for protocol in sorted(WITH_PORTS):
        p.jump_if(R9, "==", protocol, "ports")


def _note_use(p: Program, table_fd: int) -> None:
    """Note the time of the bucket in R7, unless it is there: cores that share a line of the table only read it then."""
    p.call(_HELPER_CLOCK)
    p.work(R0, "/", TICK_NS)
    p.work(R0, "<<", 32)
    p.work(R0, ">>", 32)
    p.set_address(R1, table_fd, USED_AT)
    p.copy(R2, R7)
    p.work(R2, "<<", 2)
    p.work_with(R1, "+", R2)
    p.load(4, R2, R1, 0)
    p.jump_if_same(R0, R2, "used")
    p.store(4, R1, 0, R0)
    p.label("used")


def _find_owner(p: Program, table_fd: int) -> None:
    """End with the queue of the owner of the bucket in R7."""
    p.set_address(R1, table_fd, 0)
    p.work(R7, "<<", 1)
    p.work_with(R1, "+", R7)
    p.load(2, R0, R1, 0)
    p.jump_if(R0, ">=", PARKED, "queue 0")
    p.work(R0, "+", 1)
    p.leave()

    p.label("queue 0")
    p.set(R0, 0)
    p.leave()

"""The stages of a burst in the compiled core: the same functions as in burst.py, one call of it for each burst.

What the core does is in core.c, what it means in burst.py. The replay window stays Python's: the core is told its top,
and says which numbers have authenticated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from fwd.proto.aggfrag import FramedRows
from fwd.proto.core import CoreError, Memory, ffi, lib
from fwd.proto.drops import DropReason
from fwd.proto.esp import BATCH_MAX, OVERHEAD_BYTES, InboundSa, OutboundSa, PacketTable, Rejects, Rows

_NOT_RISING: Final = -2
ROWS_MAX: Final = 1024  # of a segment
# What a call gives beside the buffers, and gets: made once, and of this process alone.
_numbers: Final = ffi and ffi.new("uint64_t[]", BATCH_MAX)
_refused: Final = ffi and ffi.new("uint8_t[]", BATCH_MAX)
_shorter: Final = ffi and ffi.new("int32_t[]", 2 * BATCH_MAX)
_runs: Final = ffi and ffi.new("int32_t[]", 4 * ROWS_MAX)
_octets: Final = ffi and ffi.new("int64_t *")


def seal_burst(
    sa: OutboundSa, number: int, rows: Rows, first: int, full: int, tail: int, out: PacketTable
) -> int:  # fmt: skip
    """Seal `full` rows, and the `tail` octets of the row behind them; return the octets of `out` filled."""
    end: int = lib.fwd_seal(
        sa.cipher, number, rows.memory, len(rows.view), rows.stride, first, full,
        out.packet_bytes - OVERHEAD_BYTES if full else 0, tail, out.memory, len(out.view), 0,
    )  # fmt: skip
    if end < 0:
        raise CoreError(f"{full} rows and {tail} octets from row {first} on do not fit ({end})")
    return end


def seal_records(sa: OutboundSa, number: int, rows: FramedRows, records: int, fill: int, out: PacketTable) -> int:
    """Write framing and trailers of a burst of records, and seal it; return the octets of `out` filled."""
    end: int = lib.fwd_seal_records(
        sa.cipher, number, rows.memory, len(rows.view), rows.stride, rows.chunk,
        rows.ends_memory, 4 * len(rows.ends), records, fill, out.memory, len(out.view),
    )  # fmt: skip
    if end < 0:
        raise CoreError(f"{records} records of {fill} octets do not fit, or do not end there ({end})")
    return end


def seal_packets(
    sa: OutboundSa, number: int, rows: Rows, first: int, full: int, octets: int, tail: int, next_header: int,
    out: PacketTable,
) -> int:  # fmt: skip
    """Write the trailers of packets that lie one in a row, and seal them; return the octets of `out` filled."""
    end: int = lib.fwd_seal_packets(
        sa.cipher, number, rows.memory, len(rows.view), rows.stride, first, full, octets, tail, next_header,
        out.memory, len(out.view),
    )  # fmt: skip
    if end < 0:
        raise CoreError(f"{full} packets of {octets} octets and one of {tail} from row {first} on do not fit ({end})")
    return end


def complete(rows: Rows, words: Memory, n_words: int, fill: int) -> tuple[list[int], int]:
    """Complete the packets of `fill` rows, of which `words` have lengths and marks (segments.packet_mark).

    Returns their runs, four numbers for each (core's fwd_complete), and how many octets all packets have.
    """
    count: int = lib.fwd_complete(
        rows.memory, len(rows.view), rows.stride, words, 4 * n_words, fill, _runs, 16 * ROWS_MAX, _octets
    )
    if count < 0:
        raise CoreError(f"{fill} rows are no packets, or none that their marks can be for ({count})")
    return ffi.unpack(_runs, 4 * count), _octets[0]


def open_burst(
    sa: InboundSa,
    packets: PacketTable,
    start: int,
    count: int,
    short: Iterable[tuple[int, int]],
    rows: Rows,
    first: int,
    drops: Rejects,
) -> Sequence[int] | None:
    """Open packets whose numbers only rise, above the window; None: they do not, and nothing was opened."""
    shorter = [number for one in short for number in one]
    if len(shorter) > 2 * BATCH_MAX:
        raise CoreError("more short packets than a batch has")
    _shorter[0 : len(shorter)] = shorter
    window = sa.window
    failed: int = lib.fwd_open(
        sa.cipher, window.top, window.size, packets.memory, len(packets.view), packets.packet_bytes, start, count,
        _shorter, len(shorter) // 2, rows.memory, len(rows.view), rows.stride, first, _numbers, _refused, BATCH_MAX,
    )  # fmt: skip
    if failed:
        if failed == _NOT_RISING:
            return None
        if failed < 0:
            raise CoreError(f"{count} packets from {start} on do not fit the rows from {first} on ({failed})")
        return _without(sa, count, drops)

    # All are authentic, and mostly follow each other.
    lowest = _numbers[0]
    if _numbers[count - 1] - lowest == count - 1:
        window.commit_run(lowest, count)
        return range(lowest, lowest + count)
    numbers: list[int] = ffi.unpack(_numbers, count)
    for number in numbers:
        window.commit(number)
    return numbers


def _without(sa: InboundSa, count: int, drops: Rejects) -> list[int]:
    """Move the window over what has authenticated, and count the others; their numbers become 0."""
    numbers: list[int] = ffi.unpack(_numbers, count)
    for i, is_refused in enumerate(ffi.unpack(_refused, count)):
        if is_refused:
            drops[DropReason.BAD_ICV] += 1
            sa.refused(DropReason.BAD_ICV, numbers[i])
            numbers[i] = 0
        else:
            sa.window.commit(numbers[i])
    return numbers

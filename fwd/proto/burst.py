"""The four stages of a burst, as functions over buffers and numbers.

    lay_record    1. a record → rows of a segment
    seal_burst    2. rows of a segment → ESP packets; seal_records, seal_packets: once framing and trailers are written
    open_burst    3. ESP packets → opened rows
    give_records  4. opened rows → whole records

Of the second and the third there is another form, for SAs that have a cipher of the compiled core: compiled.py; and of
the fourth, where there is that core: datapath/direct.py. A buffer comes as `Rows` or `PacketTable` (esp.py): its
octets, how far apart what lies in it is, and views of that, made once, which are the Python form's own affair. The
stages keep nothing; all that outlives a burst is in the SA. In payload esp the first and the last stage are
`segments.lay_packet` and `segments.joined`.

Each call's cost in Python is fixed: headers, nonces and AADs of a whole burst are filled by NumPy and all rows go
through one `map`. A burst of up to SCALAR_MAX packets takes a plain path, since NumPy's fixed cost would exceed
the work.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag

from fwd.proto import compiled
from fwd.proto.aggfrag import FRAMING_BYTES, FramedRows, RowBuffer
from fwd.proto.drops import DropReason
from fwd.proto.esp import (
    HEADER_BYTES,
    NEXT_AGGFRAG,
    OVERHEAD_BYTES,
    InboundSa,
    OutboundSa,
    PacketTable,
    Rejects,
    Rows,
    open_one,
    seal_one,
    trailer_bytes,
    write_trailer,
)
from fwd.proto.ip import IP_MIN, VNET_BYTES, ip_length

SCALAR_MAX: Final = 2  # packets of a burst that are handled one by one
PEEK_BYTES: Final = VNET_BYTES + 6  # octets of a record that tell its length

# Packets of a burst that are shorter than the others: index in the burst, octets of the packet.
Short = Iterable[tuple[int, int]]


def lay_record(
    record: memoryview, octets: npt.NDArray[np.uint8], length: int,
    rows: memoryview, grid: npt.NDArray[np.uint8], stride: int, chunk: int, at: int, room: int,
) -> int:  # fmt: skip
    """Lay a record over rows from octet `at` of `rows` on, where `room` octets fit before the row ends, and no more do.

    `octets` is the record, and `grid` the data of the rows, as arrays. Returns where the next octet goes.
    """
    # The head fills the row that is begun.
    rows[at : at + room] = record[:room]
    row = at // stride + 1

    # Whole rows are one strided copy.
    whole = (length - room) // chunk
    if whole:
        end = room + whole * chunk
        grid[row : row + whole] = octets[room:end].reshape(whole, chunk)
        row += whole
        room = end

    # The tail begins another row.
    at = row * stride + FRAMING_BYTES
    end = at + length - room
    rows[at:end] = record[room:length]
    return end


def seal_burst(
    sa: OutboundSa, number: int, rows: Rows, first: int, full: int, tail: int, out: PacketTable
) -> int:  # fmt: skip
    """Seal `full` rows, from `first` on, of the table's size, and the `tail` octets of the row behind them if any.

    Returns the octets of `out` filled. Numbers go from `number` on (see OutboundSa.claim).

    1. Fill headers, nonces and AADs
    2. Encrypt every full row to its place
    3. Encrypt the tail to the place after them
    """
    if sa.cipher is not None:
        return compiled.seal_burst(sa, number, rows, first, full, tail, out)
    end = 0
    views = rows.cut(first, full, out.packet_bytes - OVERHEAD_BYTES) if full else []
    if full + (tail > 0) <= SCALAR_MAX:
        for row in views:
            end = seal_one(sa, number, row, out.view, end)
            number += 1
        return seal_one(sa, number, rows.row(first + full, tail), out.view, end) if tail else end

    # 1. Numbers, in the three places where they belong.
    tables = sa.tables
    numbers = tables.index[:full] + np.uint64(number)
    tables.nonce_iv[:full] = numbers
    tables.aad_number[:full] = numbers
    out.spi[:full] = sa.spi
    out.low[:full] = numbers
    out.iv[:full] = numbers

    # 2. and 3. Encrypt.
    deque(map(sa.aead.encrypt_into, tables.nonces[:full], views, tables.aads, out.ciphers), maxlen=0)
    end = full * out.packet_bytes
    return seal_one(sa, number + full, rows.row(first + full, tail), out.view, end) if tail else end


def seal_records(sa: OutboundSa, number: int, rows: FramedRows, records: int, fill: int, out: PacketTable) -> int:
    """Seal a burst of `records` records, which have `fill` octets, as seal_burst does.

    1. Write the BlockOffsets, and the trailer of a last row that is not full
    2. Seal all rows
    """
    if sa.cipher is not None:
        return compiled.seal_records(sa, number, rows, records, fill, out)

    # 1. Offsets and trailer are written in place.
    full, tail_octets = divmod(fill, rows.chunk)
    count, framer = full + (tail_octets > 0), rows.framer
    if count > 1:
        framer.write_offsets(rows.ends[:records], count)
    start = tail_end = full * rows.stride
    if tail_octets:
        tail_end = write_trailer(rows.view, start, FRAMING_BYTES + tail_octets, NEXT_AGGFRAG)

    # 2. Then all of it is sealed in one go.
    end = seal_burst(sa, number, rows, 0, full, tail_end - start, out)
    if tail_end - start == rows.octets:
        rows.view[tail_end - 2] = 0  # a full row of a later burst has no padding
    return end


def seal_packets(
    sa: OutboundSa, number: int, rows: Rows, first: int, full: int, octets: int, tail: int, next_header: int,
    out: PacketTable,
) -> int:  # fmt: skip
    """Seal `full` packets of one length, one in each row from `first` on, and one of `tail` octets behind them if any.

    Padding and trailers are written first; the table's size is that of the full ones.
    """
    if sa.cipher is not None:
        return compiled.seal_packets(sa, number, rows, first, full, octets, tail, next_header, out)
    view, stride = rows.view, rows.stride
    at = first * stride
    if full > 1:
        trailer = np.frombuffer(trailer_bytes(octets, next_header), np.uint8)
        rows.grid[first : first + full, octets : octets + len(trailer)] = trailer
    elif full:
        write_trailer(view, at, octets, next_header)

    # A shorter last packet has a trailer of its own.
    tail_row = 0
    if tail:
        start = at + full * stride
        tail_row = write_trailer(view, start, tail, next_header) - start
    return seal_burst(sa, number, rows, first, full, tail_row, out)


def open_burst(
    sa: InboundSa, packets: PacketTable, start: int, count: int, short: Short, rows: Rows, first: int, drops: Rejects
) -> Sequence[int]:  # fmt: skip
    """Open `count` packets, all of this SA, from index `start` of the table on, into the rows from `first` on.

    Those in `short` are shorter than the table's. Returns the sequence number of each, 0 for one that was refused and
    counted in `drops`; a `range` when all were accepted and follow each other, which is the common case.

    1. Numbers that only rise, above the window and within its reach: nothing to check; else one packet after another
    2. Fill nonces and AADs, decrypt row by row through one map; go on behind a row that fails
    3. Move the window over what authenticated, in order
    """
    if sa.cipher is not None:
        opened = compiled.open_burst(sa, packets, start, count, short, rows, first, drops)
        if opened is not None:
            return opened
    ciphers, targets = packets.ciphers[start : start + count], rows.rows[first : first + count]
    for i, octets in short:
        ciphers[i] = ciphers[i][: octets - HEADER_BYTES]
        targets[i] = targets[i][: octets - OVERHEAD_BYTES]

    # 1. Numbers.
    low = packets.low[start : start + count]
    number, consecutive = _number(sa, low) if sa.cipher is None else (0, False)
    if not number:
        return _open_each(sa, packets, start, ciphers, targets, drops)

    # 2. Decrypt.
    sa.tables.nonce_iv[:count] = packets.iv[start : start + count]
    failed = _decrypt(sa, ciphers, targets)

    # 3. Move the window.
    if consecutive and not failed:
        sa.window.commit_run(number, count)
        return range(number, number + count)
    numbers: list[int] = sa.tables.aad_number[:count].tolist()
    for i in failed:
        drops[DropReason.BAD_ICV] += 1
        sa.refused(DropReason.BAD_ICV, numbers[i])
        numbers[i] = 0
    for number in filter(None, numbers):
        sa.window.commit(number)
    return numbers


def _number(sa: InboundSa, low: npt.NDArray[np.uint32]) -> tuple[int, bool]:
    """Put the full numbers of these low halves into the AADs; return the first, and whether they follow each other.

    (0, False): they do not rise, or the window does not take them as they are.
    """
    window, tables, count = sa.window, sa.tables, len(low)
    first = window.full_number(int(low[0]))
    if first <= window.top or first + count - 1 > window.furthest():
        return 0, False
    tables.aad_number[:count] = tables.index[:count] + np.uint64(first)
    if low.tobytes() == tables.aad_low[:count].tobytes():
        return first, True

    # Some are missing: the others may still rise.
    rise = low - low[0]  # wraps like the numbers themselves
    if not _rising(rise) or first + int(rise[-1]) > window.furthest():
        return 0, False
    tables.aad_number[:count] = rise + np.uint64(first)
    return first, False


def _rising(rise: npt.NDArray[np.uint32]) -> bool:
    return int(rise[-1]) < 2**31 and bool((rise[1:] > rise[:-1]).all())


def _open_each(
    sa: InboundSa,
    packets: PacketTable,
    start: int,
    ciphers: Sequence[memoryview],
    rows: Sequence[memoryview],
    drops: Rejects,
) -> list[int]:
    """Open one packet after another, for numbers that do not simply rise."""
    size, view = packets.packet_bytes, packets.view
    return [
        open_one(sa, view[at * size : at * size + HEADER_BYTES + len(cipher)], row, drops)
        for at, (cipher, row) in enumerate(zip(ciphers, rows, strict=True), start)
    ]


def _decrypt(sa: InboundSa, ciphers: Sequence[memoryview], rows: Sequence[memoryview]) -> list[int]:
    """Decrypt every cipher to its row; return the indices of those that did not authenticate."""
    failed: list[int] = []
    source = iter(ciphers)  # its length hint tells which packet the map stopped at
    work = map(sa.aead.decrypt_into, sa.tables.nonces, source, sa.tables.aads, rows)
    while True:
        try:
            deque(work, maxlen=0)
            return failed
        except InvalidTag:
            failed.append(len(ciphers) - operator.length_hint(source) - 1)


def give_records(
    buffer: RowBuffer, first: int, at: int, have: int, deliver: Callable[[Sequence[memoryview], int], None]
) -> tuple[int, bool]:
    """Give every whole record of `have` octets of data, from octet `at` of it on, to `deliver(pieces, length)`.

    The data lies over rows from `first` on. Returns where the rest begins, and whether what is there makes sense.
    """
    chunk, data, start = buffer.chunk, buffer.data, first * buffer.chunk
    ends, sound = record_ends(buffer.buffer, buffer.stride, chunk, first, at, have)

    # A record is one piece of a row, or one of each row that it lies in.
    for end in ends:
        row, offset = divmod(at, chunk)
        stop = offset + end - at
        if stop <= chunk:
            deliver([data[first + row][offset:stop]], end - at)
        else:
            deliver(buffer.pieces(start + at, start + end), end - at)
        at = end
    return at, sound


def record_ends(octets: bytearray, stride: int, chunk: int, first: int, at: int, have: int) -> tuple[list[int], bool]:
    """Find where each whole record ends, of data that lies over rows from `first` on, `chunk` octets in each.

    The first record begins at octet `at` of that data, which has `have` octets. Returns also whether the lengths that
    the records tell made sense so far.
    """
    ends: list[int] = []
    row, offset = divmod(at, chunk)
    start = (first + row) * stride + FRAMING_BYTES + VNET_BYTES  # of the IP header, less `offset`
    while have - at >= PEEK_BYTES:
        # The record tells its own length, in its IP header; that may lie across two rows.
        head = start + offset
        if offset + PEEK_BYTES > chunk:
            length = ip_length(_peek(octets, stride, chunk, start - VNET_BYTES, offset), VNET_BYTES)
        elif octets[head] >> 4 == 4:
            length = octets[head + 2] << 8 | octets[head + 3]
        else:
            length = ip_length(octets, head)
        if length < IP_MIN:
            return ends, False

        # The next begins behind it, perhaps in another row.
        at += VNET_BYTES + length
        if at > have:
            break
        ends.append(at)
        offset += VNET_BYTES + length
        if offset >= chunk:
            row, offset = divmod(offset, chunk)
            start += row * stride
    return ends, True


def _peek(octets: bytearray, stride: int, chunk: int, start: int, offset: int) -> bytearray:
    """Return the first octets of a record that begins `offset` octets into a row's data, and goes on in the next."""
    here = min(PEEK_BYTES, chunk - offset)
    return octets[start + offset : start + offset + here] + octets[start + stride : start + stride + PEEK_BYTES - here]

"""What the reassembly tests share: records, their chunks, and a receiver that fills rows as the data path does."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from fwd.proto.aggfrag import FRAMING_BYTES, RowBuffer, row_bytes
from fwd.proto.drops import N_REASONS, DropReason
from fwd.proto.ip import VNET_BYTES
from fwd.proto.reassembly import Reassembler

CHUNK = 66
LATER, WAIT_S = 3, 0.002


@dataclass(frozen=True)
class Chunk:
    number: int
    offset: int  # BlockOffset
    data: bytes


@dataclass
class Stream:
    """Records cut into chunks, and which chunks each record lies in."""

    chunks: list[Chunk] = field(default_factory=list)
    records: list[tuple[bytes, range]] = field(default_factory=list)
    first_number: int = 1

    def add_burst(self, records: Sequence[bytes], chunk: int = CHUNK) -> None:
        """A burst starts and ends on a record boundary; all its chunks but the last are full."""
        octets, first = b"".join(records), self.next_number
        starts = [0]
        for record in records:
            start, end = starts[-1], starts[-1] + len(record)
            self.records.append((record, range(first + start // chunk, first + (end - 1) // chunk + 1)))
            starts.append(end)
        for at in range(0, len(octets), chunk):
            offset = min(start for start in starts if start >= at) - at
            self.chunks.append(Chunk(self.next_number, offset, octets[at : at + chunk]))

    @property
    def next_number(self) -> int:
        return self.first_number + len(self.chunks)


def record(length: int, tag: int) -> bytes:
    """A record with an IP packet of this length, unlike any other: IPv4, or IPv6 where it is long enough."""
    body = random.Random(tag).randbytes(length)
    vnet = bytes(VNET_BYTES)
    if tag % 3 == 0 and length > 40:
        return vnet + b"\x60\0\0\0" + (length - 40).to_bytes(2, "big") + body[6:]
    return vnet + b"\x45\0" + length.to_bytes(2, "big") + body[4:]


class Receiver:
    """A Reassembler, and what it delivered."""

    def __init__(self, later: int = LATER, wait_s: float = WAIT_S, stride: int = row_bytes(CHUNK)) -> None:
        self.records: list[bytes] = []
        self.drops = [0] * N_REASONS
        self.reassembler = Reassembler(self._deliver, self.drops, later, wait_s)
        self.rows = RowBuffer(stride)

    def _deliver(self, pieces: Sequence[memoryview], length: int) -> None:
        assert sum(len(piece) for piece in pieces) == length
        self.records.append(b"".join(pieces))

    def counted(self, reason: DropReason) -> int:
        return self.drops[reason]

    def take(self, chunk: Chunk, now: float = 0.0) -> None:
        """One chunk, out of the rows."""
        self.reassembler.take_chunk(chunk.number, chunk.offset, memoryview(chunk.data), now)

    def take_batch(self, chunks: Sequence[Chunk], now: float = 0.0) -> None:
        """What one receive brought, by way of the rows: run by run of successive chunks, a short one ends its run."""
        numbers = [chunk.number for chunk in chunks]
        last = numbers[-1] if numbers == sorted(numbers) else 0

        # All of it lies in rows before any of it is taken.
        rows = self.rows
        if rows.owner is not None and rows.used + len(chunks) > rows.capacity:
            self.reassembler.to_front(rows)
        first = rows.used if rows.owner is not None else 0
        for row, chunk in enumerate(chunks, first):
            rows.rows[row][2:4] = chunk.offset.to_bytes(2, "big")
            rows.rows[row][FRAMING_BYTES : FRAMING_BYTES + len(chunk.data)] = chunk.data

        run: list[Chunk] = []
        for chunk in chunks:
            if run and (chunk.number != run[-1].number + 1 or len(run[-1].data) < rows.chunk):
                first = self._take_run(run, first, now, last)
                run = []
            run.append(chunk)
        if run:
            self._take_run(run, first, now, last)

    def _take_run(self, run: Sequence[Chunk], first: int, now: float, last: int) -> int:
        """Take successive chunks, which lie in rows from `first` on; the row behind them."""
        full = sum(len(chunk.data) == self.rows.chunk for chunk in run)
        tail = 0 if full == len(run) else len(run[-1].data)
        self.reassembler.take_rows(self.rows, run[0].number, first, full, tail, now, last)
        return first + len(run)

    def pieces_kept(self) -> int:
        """Chunks kept out of the rows, for all records that are not whole."""
        inside = self.reassembler
        return len(inside._tails) + len(inside._middles) + len(inside._heads)

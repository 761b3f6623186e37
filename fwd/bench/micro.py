"""Part `micro`: single steps of the data path, each timed in turns with its floor: what no Python could do without.

    seal       framing, numbers, headers and 44 packets sealed; floor: 44 bare `encrypt_into` calls of the same size
    open       44 packets opened, replay window, records found; floor: 44 bare `decrypt_into` calls
    assemble   two records of 64 KiB laid into the rows of a burst; floor: one copy of as many octets
    ring       a burst described, handed over with the bell, and taken; floor: the bell alone, one eventfd write
    pin        flow key, hash, bucket and owner of a packet; floor: the bare hash of a key of 12 octets
    replay     44 numbers committed to the window; floor: the shift and the mask of a window of 1,024 bits

`of_floor` is the floor's time over ours, round by round: 1 is as fast as the floor.
"""

from __future__ import annotations

import gc
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xxhash

from fwd.bench.result import Plan, figure, ratio
from fwd.bench.rig import Path, Record
from fwd.proto.aggfrag import Framer, RowBuffer
from fwd.proto.burst import open_burst, seal_burst
from fwd.proto.drops import N_REASONS
from fwd.proto.esp import InboundSa, OutboundSa, PacketTable, Rows
from fwd.proto.flow import BUCKET_MASK, flow_hash
from fwd.proto.ip import RECORD_MAX, VNET_BYTES
from fwd.proto.reassembly import Reassembler
from fwd.proto.replay import ReplayWindow
from fwd.proto.sa import SaKeys

ROWS: Final = 44  # the most that one segmentation-offload send takes on a path of 1,500 bytes
CHUNK: Final = 1434
STRIDE: Final = CHUNK + 6
PACKET: Final = STRIDE + 32
RECORD: Final = ROWS * CHUNK
_WINDOW = 1024
_ROUNDS, _QUICK_ROUNDS = 60, 5
_CALLS = 20

Call = Callable[[], object]


@dataclass(frozen=True)
class Pair:
    """One step and its floor. What `before` does ahead of each of our calls, such as to make room, is not timed."""

    ours: Call
    floor: Call
    what: str  # the floor, in words
    before: Call | None = None


def run(plan: Plan) -> dict[str, Any]:
    """Time all pairs; returns the part's result."""
    rounds = _QUICK_ROUNDS if plan.quick else _ROUNDS
    found, told = pairs(), {}
    for done, (name, pair) in enumerate(found.items()):
        plan.step(done, len(found), name)
        ours_us, floor_us = timed(pair, rounds)
        told[name] = {
            "ours_us": figure(ours_us, "us"),
            "floor_us": figure(floor_us, "us"),
            "of_floor": ratio(floor_us, ours_us),
            "what": pair.what,
        }
    plan.step(len(found), len(found), "done")
    return {"pairs": told}


def pairs(seal: Callable[..., int] = seal_burst, unseal: Callable[..., Any] = open_burst) -> dict[str, Pair]:
    """All pairs by name; `seal` and `unseal` may be other implementations of those stages of burst.py."""
    return {
        "seal": _seal(seal),
        "open": _open(unseal),
        "assemble": _assemble(),
        "ring": _ring(),
        "pin": _pin(),
        "replay": _replay(),
    }


def timed(pair: Pair, rounds: int) -> tuple[list[float], list[float]]:
    """Microseconds a call of ours and of the floor, in turns, a value for each round."""
    ours_us, floor_us = [], []
    mean_us(pair.ours, pair.before)  # tables are made, caches warm
    gc.disable()
    try:
        for _ in range(rounds):
            floor_us.append(mean_us(pair.floor))
            ours_us.append(mean_us(pair.ours, pair.before))
    finally:
        gc.enable()
    return ours_us, floor_us


def mean_us(call: Call, before: Call | None = None) -> float:
    """Microseconds of a call, the mean of some; what `before` does ahead of each is not timed."""
    total_ns = 0
    if before is None:
        start_ns = time.perf_counter_ns()
        for _ in range(_CALLS):
            call()
        total_ns = time.perf_counter_ns() - start_ns
    else:
        for _ in range(_CALLS):
            before()
            start_ns = time.perf_counter_ns()
            call()
            total_ns += time.perf_counter_ns() - start_ns
    return total_ns / 1e3 / _CALLS


# -- ESP ----------------------------------------------------------------------------------------------------------


class Burst:
    """One record of 63,096 octets over 44 rows, and what sealing it needs."""

    def __init__(self, keys: SaKeys) -> None:
        self.sa = OutboundSa(keys, ROWS)
        segment = memoryview(bytearray(STRIDE * ROWS))
        self.framer = Framer(segment, STRIDE, ROWS, CHUNK)
        self.rows = Rows(segment, STRIDE, ROWS, STRIDE)
        self.ends = np.array([RECORD], np.uint32)
        segment[14:18] = b"\x45\0" + (RECORD - VNET_BYTES).to_bytes(2, "big")
        self.table = PacketTable(bytearray(PACKET * ROWS), PACKET, ROWS)

    def seal(self, seal: Callable[..., int]) -> None:
        """Frame and seal it with the next numbers of the SA."""
        self.framer.write_offsets(self.ends, ROWS)
        seal(self.sa, self.sa.claim(ROWS), self.rows, 0, ROWS, 0, self.table)


def _keys() -> SaKeys:
    return SaKeys(0x101, True, os.urandom(32), os.urandom(4))


def _seal(seal: Callable[..., int]) -> Pair:
    burst = Burst(_keys())
    sa = burst.sa

    def floor() -> None:
        tables = sa.tables
        deque(map(sa.aead.encrypt_into, tables.nonces, burst.rows.rows, tables.aads, burst.table.ciphers), maxlen=0)

    return Pair(lambda: burst.seal(seal), floor, f"{ROWS} bare encrypt_into calls")


def _open(unseal: Callable[..., Any]) -> Pair:
    keys = _keys()
    burst, sa = Burst(keys), InboundSa(keys, ROWS, _WINDOW)
    buffer, drops = RowBuffer(STRIDE), [0] * N_REASONS
    rows, ciphers = buffer.rows[:ROWS], burst.table.ciphers
    delivered: list[int] = []
    reassembler = Reassembler(lambda pieces, length: delivered.append(length), drops)

    def before() -> None:
        delivered.clear()
        burst.seal(seal_burst)
        sa.tables.nonce_iv[:] = sa.tables.aad_number[:] = burst.table.iv  # for the floor

    def ours() -> None:
        numbers = unseal(sa, burst.table, 0, ROWS, (), buffer, 0, drops)
        if buffer.all_records(0, ROWS):
            reassembler.take_rows(buffer, numbers[0], 0, ROWS, 0, 0.0)
        if delivered != [RECORD]:
            raise RuntimeError(f"delivered: {delivered}; one record of {RECORD:,} octets was sealed")

    def floor() -> None:  # what ours opened last
        deque(map(sa.aead.decrypt_into, sa.tables.nonces, ciphers, sa.tables.aads, rows), maxlen=0)

    return Pair(ours, floor, f"{ROWS} bare decrypt_into calls", before)


# -- demux --------------------------------------------------------------------------------------------------------


def _assemble() -> Pair:
    path, record = Path(), Record(RECORD_MAX - VNET_BYTES)
    source, target = np.concatenate([record.octets] * 2), np.empty(2 * record.length, np.uint8)
    lane = path.lane

    def ours() -> None:
        for _ in range(2):
            lane.put(record.view, record.octets, record.length, 0)

    def floor() -> None:
        target[:] = source

    return Pair(ours, floor, f"one copy of {len(source):,} octets", path.drain)


def _ring() -> Pair:
    path, record = Path(), Record(52)
    ring, lane = path.ring, path.lane
    bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def before() -> None:
        path.drain()
        lane.put(record.view, record.octets, record.length, 0)

    def ours() -> None:
        lane.flush()
        number = ring.taken
        ring.taken = number + 1
        ring.segment(number).fields.tolist()
        ring.done = number + 1

    return Pair(ours, lambda: os.eventfd_write(bell, 1), "one eventfd write", before)


def _pin() -> Pair:
    packet = Record(1500).view[VNET_BYTES:]
    owners = Path().shared.owner_words
    key, digest = bytes(packet[12:24]), xxhash.xxh3_64_intdigest
    return Pair(lambda: owners[flow_hash(packet) & BUCKET_MASK], lambda: digest(key, 6), "the bare hash of 12 octets")


def _replay() -> Pair:
    window = ReplayWindow(_WINDOW, esn=True, floor=_WINDOW)
    bits, run, mask = (1 << _WINDOW) - 1, (1 << ROWS) - 1, (1 << _WINDOW) - 1
    return Pair(
        lambda: window.commit_run(window.top + 1, ROWS),
        lambda: (bits << ROWS | run) & mask,
        "shift and mask of 1,024 bits",
    )

"""Sealing and opening a burst of 44 packets, the most that one segmentation-offload send takes on a 1,500-byte path.

Ours: sequence numbers, ESN AADs, headers, AGGFRAG framing with BlockOffsets, the replay window, record boundaries. The
floor: nothing but the same number of `encrypt_into` or `decrypt_into` calls on rows of the same size.
"""

from __future__ import annotations

import os
from collections import deque

import numpy as np

from fwd.proto.aggfrag import Framer, RowBuffer
from fwd.proto.esp import InboundSa, OutboundSa, PacketTable, open_burst, seal_burst
from fwd.proto.reassembly import Reassembler
from fwd.proto.sa import SaKeys

ROWS = 44
CHUNK = 1434
STRIDE = CHUNK + 6
PACKET = STRIDE + 32
RECORD = ROWS * CHUNK


def keys() -> SaKeys:
    return SaKeys(0x101, True, os.urandom(32), os.urandom(4))


class Burst:
    """One record of 63,096 octets over 44 rows, and what sealing it needs."""

    def __init__(self, sa_keys: SaKeys) -> None:
        self.sa = OutboundSa(sa_keys, ROWS)
        self.segment = memoryview(bytearray(STRIDE * ROWS))
        self.framer = Framer(self.segment, STRIDE, ROWS, CHUNK)
        self.rows = [self.segment[i * STRIDE : (i + 1) * STRIDE] for i in range(ROWS)]
        self.ends = np.array([RECORD], np.uint32)
        self.rows[0][14:18] = b"\x45\0" + (RECORD - 10).to_bytes(2, "big")
        self.out = bytearray(PACKET * ROWS)
        self.table = PacketTable(self.out, PACKET, ROWS)

    def seal(self) -> None:
        self.framer.write_offsets(self.ends, ROWS)
        seal_burst(self.sa, self.sa.claim(ROWS), self.rows, ROWS, None, self.table)


def test_seal(pair) -> None:
    burst = Burst(keys())
    sa = burst.sa

    def bare() -> None:
        deque(map(sa.aead.encrypt_into, sa.nonces, burst.rows, sa.aads, burst.table.ciphers), maxlen=0)

    pair(burst.seal, bare, 0.75)


def test_open(pair) -> None:
    sa_keys = keys()
    burst, sa = Burst(sa_keys), InboundSa(sa_keys, ROWS, 1024)
    buffer, drops = RowBuffer(STRIDE), [0] * 64
    delivered = [0]

    def deliver(pieces, length: int) -> None:
        delivered[0] += length

    reassembler = Reassembler(deliver, drops)
    # The same 44 packets again and again would be replays: the window and the stream are set back before each burst.
    burst.seal()
    top, bits = sa.window.top, sa.window._bits

    def ours() -> None:
        sa.window.top, sa.window._bits, reassembler._top = top, bits, 0
        numbers = open_burst(sa, burst.table, 0, ROWS, buffer.rows, drops)
        if buffer.all_records(0, ROWS):
            reassembler.take_rows(buffer, numbers[0], 0, ROWS, 0, 0.0)

    def bare() -> None:
        deque(map(sa.aead.decrypt_into, sa.nonces, burst.table.ciphers, sa.aads, buffer.rows), maxlen=0)

    reassembler._top = 0
    ours()
    assert delivered[0] == RECORD
    assert not any(drops)
    pair(ours, bare, 0.65)

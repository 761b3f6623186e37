"""What a member's outbound SA does not carry, though the configuration does, is taken out of a segment of the ring.

The demux holds records to the configuration and knows no SA. Where the peer has agreed to less (RFC 4301 §5.1), what is
left of a segment moves together: records in payload `superpacket`, rows in payload `esp`. Most segments lose nothing
and are left as they lie. The descriptor stays as the demux wrote it: by that a successor counts what it has lost.
"""

from __future__ import annotations

import numpy as np

from fwd.datapath.ring import Segment
from fwd.proto.aggfrag import BLOCK_OFFSET_MAX, FRAMING_BYTES
from fwd.proto.icmp import is_carried
from fwd.proto.ip import VNET_BYTES, Selectors, address_pair
from fwd.proto.segments import rows_of_mark


def keep_records(
    segment: Segment, stride: int, chunk: int, fill: int, records: int, selectors: Selectors
) -> tuple[int, int]:
    """Leave in a segment, cut into rows of `chunk` octets, what the SA carries; returns its octets and records."""
    grid = np.frombuffer(segment.rows, np.uint8).reshape(-1, stride)[:, FRAMING_BYTES : FRAMING_BYTES + chunk]
    stream = memoryview(grid[: -(-fill // chunk)].tobytes())
    kept: list[memoryview] = []
    at = start = 0
    for end in segment.ends_array[:records].tolist():
        record, start = stream[start:end], end
        # A record that moves must still be one whose end a BlockOffset can tell.
        room = chunk - at % chunk if at else chunk
        fits = not at or len(record) - room <= BLOCK_OFFSET_MAX
        if fits and _carries(selectors, record[VNET_BYTES:]):
            kept.append(record)
            at += len(record)
    if len(kept) == records:
        return fill, records

    octets = np.frombuffer(b"".join(kept), np.uint8)
    full, tail = divmod(at, chunk)
    grid[:full] = octets[: full * chunk].reshape(full, chunk)
    if tail:
        grid[full, :tail] = octets[full * chunk :]
    segment.ends_array[: len(kept)] = np.cumsum([len(record) for record in kept])
    return at, len(kept)


def keep_packets(segment: Segment, stride: int, count: int, selectors: Selectors) -> tuple[int, int]:
    """Leave what the SA carries in a segment whose rows are packets; returns its rows, and how many records have gone.

    The packets of a super-packet, which is one record, go together: its first row alone has a header yet.
    """
    rows = segment.rows
    kept: list[int] = []
    at = gone = 0
    words = segment.ends_array[:count].tolist()
    while at < count:
        covers = rows_of_mark(words[at] >> 16)
        if _carries(selectors, rows[at * stride : at * stride + (words[at] & 0xFFFF)]):
            kept += range(at, at + covers)
        else:
            gone += 1
        at += covers
    if gone:
        grid = np.frombuffer(rows, np.uint8).reshape(-1, stride)
        grid[: len(kept)] = grid[kept]
        segment.ends_array[: len(kept)] = segment.ends_array[kept]
    return len(kept), gone


def _carries(selectors: Selectors, packet: memoryview) -> bool:
    """Whether an SA of these selectors carries a packet: by its addresses or, of an ICMP error, by what it quotes."""
    return selectors.allow(address_pair(packet)) or is_carried(packet, selectors)

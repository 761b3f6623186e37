"""A TCP super-packet without its last segment is what a kernel would have made of less payload."""

from __future__ import annotations

import pytest
import segkit
from segkit import ACK, CWR, FIN, PSH

from fwd.proto.cut import cut_segment
from fwd.proto.ip import CSUM, TSO4, TSO6, VNET_BYTES, record_fault


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("octets", [2001, 2999, 3000, 3001, 41_234, 64_000])
@pytest.mark.parametrize(("flags", "options"), [(ACK, b""), (ACK | PSH | CWR, bytes([1, 1, 8, 10]) + bytes(8))])
def test_what_is_left_is_a_super_packet_of_less_payload(v6: bool, octets: int, flags: int, options: bytes) -> None:
    for seed in range(20):
        payload = segkit.octets(seed, octets)
        left = payload[: (octets - 1) // 1000 * 1000]

        def made(data: bytes, seed: int = seed) -> bytes:
            return segkit.super_record(data, 1000, v6=v6, flags=flags, options=options, sequence=seed, tos=2)

        record = bytearray(made(payload))
        length = cut_segment(memoryview(record), len(record))
        assert bytes(record[:length]) == made(left)
        assert record_fault(record[:length], length - VNET_BYTES, CSUM | TSO4 | TSO6) is None
        assert segkit.segments(bytes(record[:length])) == segkit.segments(made(left))


@pytest.mark.parametrize(
    "record",
    [
        segkit.super_record(bytes(2000), 1000),
        segkit.super_record(bytes(900), 1000),
        segkit.super_record(bytes(9000), 1000, flags=ACK | FIN),
        bytes(VNET_BYTES) + segkit.tcp_packet(bytes(1000)),
        segkit.VNET.pack(1, 5, 28, 1000, 20, 6) + segkit.tcp_packet(bytes(5000)),
    ],
    ids=["two segments", "one", "the end of a stream", "single", "UDP"],
)
def test_what_cannot_be_cut_stays_as_it_is(record: bytes) -> None:
    octets = bytearray(record)
    assert cut_segment(memoryview(octets), len(octets)) == len(record)
    assert octets == record

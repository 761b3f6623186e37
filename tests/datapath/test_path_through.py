"""Records through two gateways: both payloads, ESN on and off, IPv4 and IPv6 inside and outside."""

from __future__ import annotations

import struct
import time

import pytest
from rig import headers, identity_of, record, rig

from fwd.datapath.counters import MemberCounter
from fwd.datapath.shared import LinkWord
from fwd.proto.drops import DropReason
from fwd.proto.ip import VNET_BYTES

PAYLOADS = ("superpacket", "esp")


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("esn", [True, False])
@pytest.mark.parametrize("outer_v6", [False, True])
@pytest.mark.parametrize("inner_v6", [False, True])
def test_every_record_arrives_as_it_was(payload: str, esn: bool, outer_v6: bool, inner_v6: bool) -> None:
    lengths = [60, 61, 62, 63, 100, 576, 1280, 1300, 1400, 60]
    with rig(payload=payload, esn=esn, v6=outer_v6) as r:
        records = [record(n, length, v6=inner_v6, port=n % 3) for n, length in enumerate(lengths)]
        assert sorted(r.pass_over(*records)) == sorted(records)
        r.a.check_books()
        r.b.check_books()
        assert r.b.counted(MemberCounter.IN_RECORDS_OK) == len(records)
        assert r.b.counted(MemberCounter.IN_BYTES) == sum(lengths) == r.a.counted(MemberCounter.OUT_BYTES)


@pytest.mark.parametrize("mtu", [576, 1280, 1500, 9000])
def test_super_packets_of_every_size_pass(mtu: int) -> None:
    lengths = [1433, 1434, 1435, 2868, 16000, 64000, 65535, 65535, 40000]
    with rig(mtu=mtu) as r:
        for n, length in enumerate(lengths):
            sent = [record(n, length), record(100 + n, 80)]
            assert r.pass_over(*sent) == sent
        r.a.check_books()
        r.b.check_books()


def test_both_directions_and_many_flows() -> None:
    with rig(members=4) as r:
        there = [record(n, 200, port=n) for n in range(200)]
        back = [record(n, 200, port=n, back=True) for n in range(200)]
        r.b.send(*back)
        r.b.demux_turn()
        r.b.work()
        assert sorted(r.pass_over(*there)) == sorted(there)
        assert sorted(r.a.delivered()) == sorted(back)
        assert all(m.link[LinkWord.SPI_OUT] for m in r.a.shared.members)


def test_a_flow_keeps_its_order() -> None:
    with rig(members=4) as r:
        out: dict[int, list[int]] = {}

        def keep(delivered: list[bytes]) -> None:
            for data in delivered:
                out.setdefault(struct.unpack_from(">H", data, VNET_BYTES + 20)[0], []).append(identity_of(data))

        for turn in range(20):
            batch = [record(turn * 50 + n, 60 + n * 17, port=n % 7, tos=n % 2 * 8) for n in range(50)]
            keep(r.pass_over(*batch))

        # What changes its TOS octet from packet to packet waits for its turns.
        until = time.monotonic() + 30
        while sum(map(len, out.values())) < 1000 and time.monotonic() < until:
            keep(r.pass_over())
        assert sum(map(len, out.values())) == 1000
        r.a.check_books()
        assert all(seen == sorted(seen) for seen in out.values())


def test_no_nonce_twice_and_numbers_without_a_gap() -> None:
    with rig(members=2) as r:
        seen: list[tuple[int, int]] = []
        for turn in range(30):
            r.a.send(*[record(n, 1000, port=n) for n in range(turn)])
            r.a.demux_turn()
            r.a.work()
            seen += headers(r.carry())
        assert len(seen) == len(set(seen))
        for entry in (e for m in r.a.shared.members for e in m.ledger.entries()):
            numbers = [iv for spi, iv in seen if spi == entry.spi]
            assert numbers == list(range(entry.first, entry.last + 1))


def test_a_record_with_offload_headers_passes_on_verbatim() -> None:
    tcp = bytearray(record(1, 4000))
    tcp[VNET_BYTES + 9] = 6
    tcp[:VNET_BYTES] = struct.pack("<BBHHHH", 1, 1, 40, 1400, 20, 16)
    with rig() as r:
        assert r.pass_over(bytes(tcp)) == [bytes(tcp)]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_32_bit_numbers_end_with_the_last_one(payload: str) -> None:
    """Rule 1: no counter wraps; at the hard limit nothing is sent any more."""
    with rig(members=1, payload=payload, esn=False) as r:
        sa = r.a.members[0].outbound.sa
        assert sa is not None
        sa.number = 2**32 - 2
        assert len(r.pass_over(record(1))) == 1
        assert r.pass_over(record(2)) == []
        assert sa.number == 2**32 - 1
        assert r.a.dropped(DropReason.SA_EXHAUSTED) == 1
        r.a.members[0].outbound.send_control(bytes(8), 144)
        assert r.a.wires[0].sent() == []
        r.a.check_books()

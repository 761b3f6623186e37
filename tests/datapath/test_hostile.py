"""Any bytes on a member's socket: counted, never an exception, and the next record passes (rule 6)."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from propkit import examples
from rig import Gateway, Group, Rig, record, rig, sa_keys

from fwd.proto.aggfrag import SUBTYPE_RECORDS
from fwd.proto.esp import NEXT_AGGFRAG, NEXT_DUMMY, NEXT_IPV4, NEXT_IPV6, OVERHEAD_BYTES, OutboundSa, seal_one
from fwd.proto.ip import ip_length

PAYLOADS = pytest.mark.parametrize("payload", ["superpacket", "esp"])
SPI = sa_keys(1, 0, 0).spi


class Attacker:
    """Sends to gateway 2's member: bytes, or packets sealed with the right keys."""

    def __init__(self, r: Rig) -> None:
        self.b: Gateway = r.b
        self._sa = OutboundSa(sa_keys(1, 0, 0), 64)
        self._good = 0

    def send(self, data: bytes, size: int = 0, tos: int = 0) -> list[bytes]:
        self.b.arrive(0, [Group(data, size or len(data), tos)])
        self.b.check_books()
        return self.b.delivered()

    def seal(self, row: bytes) -> bytes:
        out = bytearray(len(row) + OVERHEAD_BYTES)
        seal_one(self._sa, self._sa.claim(1), memoryview(row), memoryview(out), 0)
        return bytes(out)

    def check_still_works(self) -> None:
        """A good record passes; one more, should it be taken as the end of a hole."""
        for _ in range(6):
            self._good += 1
            good = record(self._good, 200)
            if self.b.peering.payload == "esp":
                row = good[10:] + b"\1\2\2" + bytes([NEXT_IPV4])
            else:
                row = bytes([SUBTYPE_RECORDS, 0, 0, 0]) + good + bytes([0, NEXT_AGGFRAG])
            if good in self.send(self.seal(row)):
                return
        raise AssertionError("nothing passes any more")


@contextlib.contextmanager
def attacked(payload: str) -> Iterator[Attacker]:
    with rig(members=1, payload=payload) as r:
        yield Attacker(r)


spis = st.sampled_from([SPI, SPI, 0, 0xFFFFFFFF, SPI + 0x100])
headers = st.builds(struct.pack, st.just(">IIQ"), spis, st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
datagrams = st.one_of(
    st.binary(max_size=80), st.builds(bytes.__add__, headers, st.binary(max_size=1500)), st.just(b"\xff")
)


@PAYLOADS
def test_any_datagrams(payload: str) -> None:
    with attacked(payload) as attacker:

        @settings(max_examples=examples(150))
        @given(st.lists(datagrams, max_size=4), st.integers(0, 255))
        def check(batch: list[bytes], tos: int) -> None:
            for data in batch:
                assert attacker.send(data, tos=tos) == []

        check()
        attacker.check_still_works()


@PAYLOADS
def test_any_merged_receive(payload: str) -> None:
    """Sizes that divide nothing, more datagrams than GRO gives, and the table's own size."""
    with attacked(payload) as attacker:
        own = attacker.b.geometry.packet_bytes

        @settings(max_examples=examples(150))
        @given(headers, st.integers(0, 65536), st.one_of(st.integers(1, 70000), st.just(own)))
        def check(header: bytes, length: int, size: int) -> None:
            data = (header.ljust(size, b"\x5a") * (length // size + 1))[:length] if size <= length else bytes(length)
            assert attacker.send(data, size) == []

        check()
        attacker.check_still_works()


def test_more_small_segments_than_gro_merges() -> None:
    """Segmentation offload of a neighbour may give 128 datagrams in one receive."""
    with rig(members=1, mtu=576) as r:
        size = r.b.geometry.packet_bytes
        for count in (63, 64, 65, 119):
            r.b.arrive(0, [Group(struct.pack(">IIQ", SPI, 1, 1).ljust(size, b"x") * count, size)])
        r.b.check_books()
        assert r.pass_over(record(1, 65535)) == [record(1, 65535)]


trailers = st.one_of(
    st.builds(lambda n: bytes([0, n]), st.sampled_from([NEXT_AGGFRAG, NEXT_IPV4, NEXT_IPV6, NEXT_DUMMY])),
    st.binary(max_size=6),
)
framings = st.builds(
    struct.pack, st.just(">BBH"), st.sampled_from([0xD0, 0xD0, 0xD0, 0xD1, 0xD2, 0, 1]), st.sampled_from([0, 0, 0, 1]),
    st.integers(0, 65535) | st.integers(0, 64),
)  # fmt: skip
vnets = st.builds(
    struct.pack, st.just("<BBHHHH"),
    st.integers(0, 255) | st.integers(0, 3), st.sampled_from([0, 1, 3, 4, 5, 0x81, 255]),
    *[st.integers(0, 65535) | st.integers(0, 100)] * 4,
)  # fmt: skip
ip_heads = st.builds(
    struct.pack, st.just(">BBHI"),
    st.sampled_from([0x45, 0x45, 0x4F, 0x40, 0x60, 0x65, 0x00, 0xF5]), st.integers(0, 255),
    st.integers(0, 65535) | st.integers(0, 200), st.integers(0, 2**32 - 1),
)  # fmt: skip
garbage = st.builds(lambda *parts: b"".join(parts), framings, vnets, ip_heads, st.binary(max_size=300), trailers)
bare = st.builds(lambda *parts: b"".join(parts), ip_heads, st.binary(max_size=300), trailers)
rows = st.one_of(garbage, bare, st.binary(max_size=200)).map(lambda row: row if len(row) >= 2 else row + b"\0\0")


@PAYLOADS
def test_any_payload_of_an_authenticated_peer(payload: str) -> None:
    """What is delivered is a packet within the selectors, with a header that says its length."""
    with attacked(payload) as attacker:

        @settings(max_examples=examples(300))
        @given(st.lists(rows, min_size=1, max_size=5), st.integers(0, 3))
        def check(batch: list[bytes], ecn: int) -> None:
            for row in batch:
                for delivered in attacker.send(attacker.seal(row), tos=ecn):
                    assert ip_length(delivered, 10) == len(delivered) - 10

        check()
        attacker.check_still_works()


def test_runs_of_hostile_chunks_of_the_full_size() -> None:
    """The path of whole batches, too: every row full, opened together."""
    with attacked("superpacket") as attacker:
        chunk = attacker.b.geometry.chunk

        @settings(max_examples=examples(100))
        @given(st.lists(st.tuples(framings, vnets, ip_heads), min_size=3, max_size=12), st.booleans())
        def check(parts: list[tuple[bytes, bytes, bytes]], regular: bool) -> None:
            sealed = [
                attacker.seal(
                    (bytes([0xD0, 0]) + f[2:] if regular else f)
                    + (v + i).ljust(chunk, b"\x45")
                    + bytes([0, NEXT_AGGFRAG])
                )
                for f, v, i in parts
            ]
            attacker.send(b"".join(sealed), len(sealed[0]))

        check()
        attacker.check_still_works()


def test_records_that_never_end_on_many_sas_keep_little_together() -> None:
    """A peer may have very many SAs, and packets of 64 KiB."""
    with attacked("superpacket") as attacker:
        sas = [sa_keys(1, 0, epoch) for epoch in range(40)]
        attacker.b.members[0].inbound.install(sas)
        senders, kept = [OutboundSa(keys, 64) for keys in sas], []
        endless = bytes([SUBTYPE_RECORDS, 0, 255, 255]) + bytes(60_000) + bytes([0, NEXT_AGGFRAG])
        begin = bytes([SUBTYPE_RECORDS, 0, 0, 0]) + record(1, 65535)[:60_000] + bytes([0, NEXT_AGGFRAG])
        for row in [begin, *[endless] * 12]:
            for sender in senders:
                attacker._sa = sender
                attacker.send(attacker.seal(row))
                assemblers = attacker.b.members[0].inbound._payload._assemblers.values()  # type: ignore[attr-defined]
                kept.append(sum(one.weigh() for one in assemblers))

        assert max(kept) <= 3 << 20
        attacker._sa = senders[0]
        attacker.check_still_works()


def test_very_many_records_in_the_largest_packets_are_a_few_packets_a_batch() -> None:
    """The loop's turn must not be so long that it looks hung."""
    with attacked("superpacket") as attacker:
        small = record(1, 28 + 8)
        row = bytes([SUBTYPE_RECORDS, 0, 0, 0]) + small * (64_000 // len(small))
        padding = -(len(row) + 2) % 4
        row += bytes(range(1, padding + 1)) + bytes([padding, NEXT_AGGFRAG])
        attacker.b.wires[0].inbox = [(Group(one, len(one)), 0) for one in (attacker.seal(row) for _ in range(40))]
        attacker.b.members[0]._receive()
        assert len(attacker.b.wires[0].inbox) >= 30


@pytest.mark.parametrize("size", [258, 259, 300, 516, 1000, 2000, 9000, 60000])
def test_a_peer_that_changes_its_size_is_followed(size: int) -> None:
    with attacked("superpacket") as attacker:
        for _ in range(60):
            attacker.send(attacker.seal(bytes([0xD0, 0, 0, 0]) + bytes(size - 6) + bytes([0, NEXT_AGGFRAG])))
        attacker.check_still_works()

"""Merged datagrams that are not of the slots' size are opened as a burst, with the same outcome as one by one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from fwd.bench.rig import Path, Payload, Record
from fwd.datapath.counters import MemberCounter
from fwd.proto.drops import DropReason

PEER = ("192.0.2.2", 4500)
RECORDS: dict[Payload, int] = {"superpacket": 212, "esp": 226}  # octets of a record of which ESP makes a packet of SIZE
SIZE = 260
Make = Callable[[], tuple[Path, Path]]


@pytest.fixture(params=RECORDS)
def paths(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes two paths of which the second opens what the first seals: as a burst, and one by one."""
    made: list[Path] = []

    def make() -> tuple[Path, Path]:
        burst = Path(payload=request.param)
        single = Path(burst.keys, request.param)
        made.extend((burst, single))
        single.inbound._open_others = lambda length, size: False  # type: ignore[method-assign]
        return burst, single

    yield make
    for path in made:
        path.close()


def sealed(path: Path, count: int, less: int = 0) -> list[bytes]:
    """So many ESP packets, with a record in each, that is `less` shorter than others."""
    packets, octets = [], RECORDS[path.peering.payload] - less
    for number in range(count):
        path.put(Record(octets, 40_000 + number))
        path.work()
        packets += [bytes(view) for view, _ in path.wire.sends]
    return packets


def arrive(path: Path, packets: list[bytes], size: int = SIZE) -> list[int]:
    """Merged into one receive; returns what is counted for it."""
    data = b"".join(packets)
    path.inbound.space()[: len(data)] = data
    path.inbound.take(len(data), size, 0, 0, PEER)
    path.inbound.open(0.0)
    return list(path.member.counters.read())


def in_both(one: tuple[Path, Path], packets: list[bytes], size: int = SIZE) -> list[int]:
    """Return what is counted, which is the same either way, but for what sealing has counted."""
    burst, single = (arrive(path, packets, size) for path in one)
    sealing = {MemberCounter.DONE, *(c for c in MemberCounter if c.name.startswith("OUT_"))}
    assert [n for i, n in enumerate(burst) if i not in sealing] == [n for i, n in enumerate(single) if i not in sealing]
    return burst


@pytest.mark.parametrize("count", [3, 44, 64, 128])
def test_what_is_merged_is_one_burst(paths: Make, count: int) -> None:
    one = paths()
    packets = sealed(one[0], count)
    assert {len(packet) for packet in packets} == {SIZE}

    def never(*_: object) -> None:
        raise AssertionError("opened by itself")

    one[0].inbound._open_one = never  # type: ignore[method-assign, assignment]
    assert in_both(one, packets)[MemberCounter.IN_RECORDS_OK] == count


def test_the_last_one_may_be_shorter(paths: Make) -> None:
    one = paths()
    packets = [*sealed(one[0], 10), *sealed(one[0], 1, 100)]
    assert in_both(one, packets)[MemberCounter.IN_RECORDS_OK] == 11


def test_what_is_not_authentic_costs_itself_alone(paths: Make) -> None:
    one = paths()
    packets = sealed(one[0], 10)
    packets[4] = packets[4][:-1] + bytes([packets[4][-1] ^ 1])
    counted = in_both(one, packets)
    assert (counted[MemberCounter.IN_RECORDS_OK], counted[DropReason.BAD_ICV]) == (9, 1)


def test_what_comes_again_is_refused(paths: Make) -> None:
    one = paths()
    packets = sealed(one[0], 10)
    in_both(one, packets)
    assert in_both(one, packets)[MemberCounter.IN_RECORDS_OK] == 10


def test_another_sas_packets_among_them_and_a_runt_behind_them_are_told_apart(
    paths: Make,
) -> None:
    one = paths()
    packets = sealed(one[0], 10)
    counted = in_both(one, [*packets[:3], b"\xee" * SIZE, *packets[3:], b"\xff"])
    assert counted[MemberCounter.IN_RECORDS_OK] == 10
    assert counted[DropReason.KEEPALIVE] == 1
    assert counted[DropReason.UNKNOWN_SPI] == (one[0].peering.payload == "superpacket")  # payload esp: it waits


def test_any_mixture_has_the_same_outcome(paths: Make) -> None:
    chance = random.Random(7)
    one = paths()
    for _ in range(60):
        packets = sealed(one[0], chance.randint(1, 20))
        for _ in range(chance.randint(0, 3)):
            at = chance.randrange(len(packets))
            what = chance.randrange(4)
            if what == 0:
                packets[at] = chance.randbytes(SIZE)
            elif what == 1:
                packets[at] = packets[at][:8] + chance.randbytes(SIZE - 8)
            elif what == 2:
                packets.insert(at, packets[chance.randrange(len(packets))])
            else:
                chance.shuffle(packets)
        if chance.random() < 0.5:
            packets[-1] = packets[-1][: chance.randint(1, SIZE)]
        in_both(one, packets)

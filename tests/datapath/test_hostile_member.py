"""Words of a process that was taken over: they cost its own flows while it lives, and nothing once it is replaced."""

from __future__ import annotations

import random

import pytest
from rig import Rig, flows, record, rig

from fwd.datapath import barrier
from fwd.datapath.ring import CHUNK, DONE, FILL, RECORDS, TAKEN
from fwd.datapath.shared import LinkWord
from fwd.proto.drops import DropReason

WORDS = [0, 1, 12, 1 << 15, 1 << 40, (1 << 64) - 1]


@pytest.mark.parametrize("payload", ["superpacket", "esp"])
@pytest.mark.parametrize("word", WORDS)
def test_any_chunk_leaves_records_whole(payload: str, word: int) -> None:
    """Rows are of a length that fits, whatever the member says, and a record of 64 KiB fits a segment."""
    size = 60_000 if payload == "superpacket" else 1200
    with rig(members=1, payload=payload) as r:
        r.a.demux_turn()
        r.a.shared.members[0].link[LinkWord.CHUNK] = word
        sent = [record(n, size) for n in range(4)]
        assert r.pass_over(*sent) == sent


@pytest.mark.parametrize("word", WORDS)
def test_any_position_in_one_ring_leaves_the_others_alone(word: int) -> None:
    with rig(members=2) as r:
        r.a.demux_turn()
        hostile, mine = flows(r.a.shared, 0)[0], flows(r.a.shared, 1)[0]
        r.a.rings[0].member_words[TAKEN] = r.a.rings[0].member_words[DONE] = word
        sent = [record(n, port=mine) for n in range(40)]
        r.a.send(*(record(100 + n, port=hostile) for n in range(40)))
        r.a.send(*sent)
        r.a.demux_turn()
        while r.a.members[1].outbound.work():
            pass
        r.carry()
        assert r.b.delivered() == sent


# -- what its successor finds -------------------------------------------------------------------------------------

JUNK = {
    "ones": b"\xff",
    "half": (1 << 63).to_bytes(8, "little"),
    "many": (1 << 40).to_bytes(8, "little"),
    "one": (1).to_bytes(8, "little"),
    "random": random.Random(3).randbytes(8184),
}


def fill(words: memoryview, junk: bytes) -> None:
    view = words.cast("B")
    view[:] = (junk * (len(view) // len(junk) + 1))[: len(view)]


def carries(r: Rig) -> bool:
    """Whether records of flows of all members arrive, whole."""
    r.a.demux_turn()
    sent = [record(1000 + n, port=flows(r.a.shared, index)[0]) for index in range(2) for n in range(4)]
    return sorted(r.pass_over(*sent)) == sorted(sent)


@pytest.mark.parametrize("payload", ["superpacket", "esp"])
@pytest.mark.parametrize("junk", JUNK)
def test_the_successor_of_a_member_that_was_taken_over_carries_its_flows(payload: str, junk: str) -> None:
    with rig(members=2, payload=payload) as r:
        assert carries(r)
        shared = r.a.shared.members[0]
        for words in (shared.link, shared.ring, shared.ledger._words, shared.counters._words):
            fill(words, JUNK[junk])
        r.a.respawn(0)
        assert carries(r)


@pytest.mark.parametrize("payload", ["superpacket", "esp"])
@pytest.mark.parametrize("junk", JUNK)
def test_the_successor_of_a_demux_that_was_taken_over_carries_all_flows(payload: str, junk: str) -> None:
    with rig(members=2, payload=payload) as r:
        assert carries(r)
        fill(r.a.shared.demux_counters._words, JUNK[junk])
        fill(r.a.shared.owner_words, JUNK[junk])
        fill(r.a.shared.used_words, JUNK[junk])
        for ring in r.a.rings:
            fill(ring.demux_words, JUNK[junk])
        r.a.spawn_demux()
        assert carries(r)


@pytest.mark.parametrize("payload", ["superpacket", "esp"])
@pytest.mark.parametrize("fill", [1 << 20, (1 << 32) - 1])
def test_a_segment_of_more_packets_than_fit_it_uses_up_no_numbers(
    monkeypatch: pytest.MonkeyPatch, payload: str, fill: int
) -> None:
    """Else the numbers behind them would be out of the far window's reach, with another demux as well."""
    monkeypatch.setattr(barrier, "reraise", False)
    with rig(members=1, payload=payload) as r:
        member, ring = r.a.members[0].outbound, r.a.rings[0]
        assert member.sa is not None
        fields = ring.segment(ring.head).fields
        fields[FILL], fields[RECORDS], fields[CHUNK] = fill, 1, 20
        ring.head += 1
        before = member.sa.number
        assert member.work()
        assert member.sa.number == before
        assert member._counters[DropReason.INTERNAL_ERROR] == 1

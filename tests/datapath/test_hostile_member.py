"""Words of a member that was taken over, as the demux reads them: they cost that member's flows, and no other's."""

from __future__ import annotations

import pytest
from rig import flows, record, rig

from fwd.datapath.ring import DONE, TAKEN
from fwd.datapath.shared import LinkWord

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

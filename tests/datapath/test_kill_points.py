"""A demux or a member killed between any two of its steps: nothing twice, nothing stuck, losses counted."""

from __future__ import annotations

import pytest
from killing import dies_at, every_point
from rig import Gateway, Rig, flows, headers, identity_of, record, rig

from fwd.datapath.counters import CounterBlock, DemuxCounter, MemberCounter
from fwd.proto.drops import DropReason

# Every line of a step is a point to try: minutes on a machine that is busy with other things.
pytestmark = pytest.mark.timeout(900)

OUTBOUND = ("fwd/datapath/outbound.py", "fwd/datapath/counters.py", "fwd/datapath/shared.py", "fwd/datapath/udp.py")
DEMUX = tuple(f"fwd/datapath/{name}.py" for name in ("demux", "owners", "lane", "counters", "ring"))
INBOUND = ("fwd/datapath/inbound.py", "fwd/datapath/delivery.py", "fwd/datapath/counters.py", "fwd/datapath/shared.py")
PAYLOADS = pytest.mark.parametrize("payload", ["superpacket", "esp"])
FLAGS = pytest.mark.parametrize("second_skips", [False, True])


def segments(count: int, first: int = 0) -> list[bytes]:
    """`count` segments of 1, 2, 3, 1, 2, … records, each with its own TOS octet; a record tells segment and place."""
    return [record((first + s) * 10 + n, 700, tos=s % 60 * 4) for s in range(count) for n in range(s % 3 + 1)]


def fill(gateway: Gateway, records: list[bytes]) -> None:
    gateway.send(*records)
    gateway.demux_turn()


def check_outcome(r: Rig, sent: list[bytes]) -> list[int]:
    """The rules that hold whoever died; returns the identities of the records that did not arrive."""
    r.a.work()
    groups = r.carry()
    arrived = [identity_of(d) for d in r.b.delivered()]
    nonces = headers(groups)
    assert len(nonces) == len(set(nonces)), "a nonce was used twice"
    assert len(arrived) == len(set(arrived)), "a record was sent twice"
    r.a.check_books()
    r.b.check_books()
    for ring in r.a.rings:
        assert ring.head == ring.taken == ring.done, "a segment is stuck"
    assert r.a.counted(MemberCounter.OUT_RECORDS) <= len(arrived)
    return sorted(set(map(identity_of, sent)) - set(arrived))


@PAYLOADS
def test_member_killed_while_it_sends(payload: str, every_time: bool) -> None:
    def check(nth: int) -> bool:
        with rig(members=1, payload=payload) as r:
            sent = segments(2)
            fill(r.a, sent)

            def live() -> None:
                r.a.respawn(0)
                r.a.work()

            died = dies_at(nth, live, *OUTBOUND)
            more = segments(1, first=2)
            fill(r.a, more)
            r.a.respawn(0)
            missing = check_outcome(r, sent + more)
            lost = r.a.dropped(DropReason.DIED_WITH_MEMBER)
            assert len({i // 10 for i in missing}) <= 1, "more than the segment it held"
            assert len(missing) <= lost <= 2
            assert lost == 0 or died
            return died

    assert every_point(check, every_time=every_time) > 100


@FLAGS
@pytest.mark.parametrize("third_skips", [False, True])
def test_successor_killed_while_it_takes_over(second_skips: bool, third_skips: bool, every_time: bool) -> None:
    """Segment 0 was held by the dead; 1 and 2 wait. The second life dies as well, the third sends."""

    def check(nth: int) -> bool:
        with rig(members=1) as r:
            sent = segments(3)
            fill(r.a, sent)
            r.a.rings[0].taken = 1
            died = dies_at(nth, lambda: r.a.spawn(0, skip=second_skips), *OUTBOUND)
            r.a.respawn(0, skip=third_skips)
            missing = check_outcome(r, sent)
            assert r.a.dropped(DropReason.DIED_WITH_MEMBER) == 1
            skipped = r.a.dropped(DropReason.FAILED_SKIPPED)
            assert skipped in ({5} if third_skips else {0, 5} if second_skips else {0})
            assert len(missing) == 1 + skipped
            return died

    assert every_point(check, every_time=every_time) > 20


def stream(r: Rig) -> list[bytes]:
    """Records of both members that open, split and close segments, and some that are refused."""
    zero, one = flows(r.a.shared, 0)[0], flows(r.a.shared, 1)[0]
    good = [record(n, 900, port=one if n % 3 else zero, tos=n // 3 * 4) for n in range(6)]
    return [*good[:3], record(98, back=True), record(99)[:-1], *good[3:]]


def test_demux_killed_while_it_fills(every_time: bool) -> None:
    """Only what it had read and not yet counted goes with it: the segments that are open."""

    def check(nth: int) -> bool:
        with rig() as r:
            r.a.demux._follow_live(r.a.tick)
            sent = stream(r)
            r.a.send(*sent)

            def live() -> None:
                r.a.spawn_demux()
                r.a.demux_turn()

            died = dies_at(nth, live, *DEMUX)
            more = [record(100 + n, port=n) for n in range(8)]
            r.a.send(*more)
            live()
            missing = check_outcome(r, sent + more)
            refused = r.a.dropped(DropReason.SELECTOR_OUT) + r.a.dropped(DropReason.RECORD_MALFORMED)
            uncounted = len(sent + more) - r.a.records_in()
            assert len(missing) == refused + uncounted
            assert uncounted <= len(sent)
            assert died or (uncounted == 0 and refused == 2)
            return died

    assert every_point(check, every_time=every_time) > 100


def test_successor_of_a_demux_killed_while_it_takes_over(every_time: bool) -> None:
    """The first counted a segment and died before it stored `head`; the second dies as well."""

    def check(nth: int) -> bool:
        with rig(members=1) as r:
            sent = segments(1)
            fill(r.a, sent)
            r.a.rings[0].head = 0
            died = dies_at(nth, r.a.spawn_demux, *DEMUX)
            r.a.spawn_demux()
            assert check_outcome(r, sent) == []
            assert r.a.records_in() == 1
            return died

    assert every_point(check, every_time=every_time) > 10


@pytest.mark.parametrize(("payload", "esn"), [("superpacket", True), ("esp", False)])
def test_member_killed_while_it_receives(payload: str, esn: bool, every_time: bool) -> None:
    """Its successor gets all the same datagrams again: none is accepted twice, and the next ones are all taken."""
    size = 1200 if payload == "esp" else 3000

    def check(nth: int) -> bool:
        with rig(members=1, payload=payload, esn=esn) as r:
            records = [record(n, size if n % 4 else 300, tos=n // 5 * 4) for n in range(10)]
            fill(r.a, records)
            r.a.work()
            old = r.a.wires[0].sent()
            fill(r.a, more := [record(100 + n, size) for n in range(4)])
            r.a.work()
            new = r.a.wires[0].sent()
            r.b.wires[0].inbox = [(g, 0) for g in old]

            def live() -> None:
                r.b.respawn(0)
                while r.b.wires[0].inbox:
                    r.b.members[0]._receive()

            died = dies_at(nth, live, *INBOUND)
            first = [identity_of(d) for d in r.b.delivered()]
            taken = r.b.counted(MemberCounter.IN_ESP)
            r.b.wires[0].inbox.clear()
            r.b.respawn(0)
            lost = r.b.dropped(DropReason.DIED_WITH_MEMBER_IN)
            assert lost == r.b.counted(MemberCounter.IN_ESP) - taken
            assert lost == 0 or died
            r.b.arrive(0, old)
            r.b.arrive(0, new)
            arrived = first + [identity_of(d) for d in r.b.delivered()]
            assert len(arrived) == len(set(arrived)), "accepted twice"
            assert set(arrived) >= set(map(identity_of, more))
            r.b.check_books()
            return died

    assert every_point(check, every_time=every_time) > 100


def test_writer_killed_while_it_publishes(every_time: bool) -> None:
    """Readers and the successor see all of a burst's counts or none of them."""

    def check(nth: int) -> bool:
        with rig(members=1) as r:
            words = r.a.shared.members[0].counters._words
            count = 8
            block = CounterBlock(words[: CounterBlock.size(count)], count)
            for value in (1, 2):
                block.values[:] = type(block.values)("Q", [value] * count)
                block.publish()

            def live() -> None:
                values = block.attach()
                for value in (3, 4):
                    for i in range(count):
                        values[i] = value
                    block.publish()

            died = dies_at(nth, live, "fwd/datapath/counters.py")
            seen = set(block.read())
            assert len(seen) == 1
            assert seen <= {2, 3, 4}
            assert set(CounterBlock(block._words, count).attach()) == seen
            return died

    assert every_point(check, every_time=every_time) > 5


def test_demux_counts_and_heads_agree() -> None:
    with rig() as r:
        fill(r.a, segments(5))
        heads = r.a.shared.demux_counters.read()[DemuxCounter.HEADS :][: len(r.a.rings)]
        assert heads == [ring.head for ring in r.a.rings]

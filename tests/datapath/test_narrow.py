"""SAs narrower than the configuration: both ends hold what passes to the SA's own selectors (RFC 4301 §5.1, §5.2)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
import segkit
from rig import Rig, identity_of, record, rig, sa_keys

from fwd.datapath.counters import MemberCounter
from fwd.datapath.member import Member
from fwd.proto.drops import DropReason
from fwd.proto.ip import VNET_BYTES
from fwd.proto.sa import Narrowed, SaSet

EPOCH = 20


def side(*ranges: tuple[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((ip_address(first).packed, ip_address(last).packed) for first, last in ranges)


ALL_1, ALL_2 = side(("10.1.0.0", "10.1.255.255")), side(("10.2.0.0", "10.2.255.255"))
# `record` is of 10.1.0.9 and 10.2.0.9.
CARRIES = Narrowed(side(("10.1.0.0", "10.1.0.255")), side(("10.2.0.9", "10.2.0.9")))
LEAVES_OUT = Narrowed(ALL_1, side(("10.2.1.0", "10.2.1.255"), ("fd02::", "fd02::ffff")))


def to(data: bytes, address: str) -> bytes:
    """The same record to another client."""
    at = VNET_BYTES + 16
    changed = data[:at] + ip_address(address).packed + data[at + 4 :]
    return changed[: VNET_BYTES + 10] + b"\0\0" + changed[VNET_BYTES + 12 :]


def flipped(held: Narrowed) -> Narrowed:
    return Narrowed(held.remote, held.local)


def agree(r: Rig, out: Narrowed | None, back: Narrowed | None) -> None:
    """From now on `a` sends to `b` on an SA of `out` at its own end, which is one of `back` at `b`'s."""
    keys = sa_keys(1, 0, EPOCH)
    r.b.members[0]._install(SaSet(1, (replace(keys, narrowed=back),)))
    r.a.members[0]._install(SaSet(1, (), replace(keys, narrowed=out)))


def sent_and_delivered(r: Rig, *records: bytes) -> list[int]:
    r.a.send(*records)
    r.a.demux_turn()
    r.a.work()
    r.carry()
    return [identity_of(one) for one in r.b.delivered()]


PAYLOADS = pytest.mark.parametrize("payload", ["superpacket", "esp"])


@PAYLOADS
@pytest.mark.parametrize(("held", "passes"), [(None, True), (CARRIES, True), (LEAVES_OUT, False)])
def test_what_the_sa_does_not_carry_is_not_sent(payload: str, held: Narrowed | None, passes: bool) -> None:
    with rig(members=1, payload=payload) as r:
        agree(r, held, None)
        assert sent_and_delivered(r, record(1), record(2)) == ([1, 2] if passes else [])
        assert r.a.dropped(DropReason.SELECTOR_OUT) == (0 if passes else 2)
        if not passes:
            assert r.a.counted(MemberCounter.OUT_ESP) == 0
        r.a.check_books()
        r.b.check_books()


@PAYLOADS
@pytest.mark.parametrize(("held", "passes"), [(None, True), (CARRIES, True), (LEAVES_OUT, False)])
def test_what_the_sa_does_not_carry_is_not_delivered(payload: str, held: Narrowed | None, passes: bool) -> None:
    with rig(members=1, payload=payload) as r:
        agree(r, None, flipped(held) if held else None)
        assert sent_and_delivered(r, record(1), record(2)) == ([1, 2] if passes else [])
        assert r.b.dropped(DropReason.SELECTOR_IN) == (0 if passes else 2)
        r.a.check_books()
        r.b.check_books()


@PAYLOADS
@pytest.mark.parametrize("length", [100, 1400, 4000, 30000])
def test_of_a_burst_only_what_the_sa_carries_is_left_and_in_order(payload: str, length: int) -> None:
    """Records of all places in the burst, over rows and within them."""
    with rig(members=1, payload=payload) as r:
        length = min(length, r.a.geometry.inner_mtu) if payload == "esp" else length
        held = Narrowed(ALL_1, side(("10.2.0.9", "10.2.0.9")))
        agree(r, held, None)
        for wrong in ({0}, {1}, {3}, {0, 1}, {0, 2, 3}, {1, 2}, {0, 1, 2, 3}, set()):
            before = r.a.dropped(DropReason.SELECTOR_OUT)
            records = [record(n, length if n % 2 else length // 2 + 60) for n in range(4)]
            records = [to(one, "10.2.0.10") if n in wrong else one for n, one in enumerate(records)]
            assert sent_and_delivered(r, *records) == [n for n in range(4) if n not in wrong]
            assert r.a.dropped(DropReason.SELECTOR_OUT) == before + len(wrong)
        r.a.check_books()
        r.b.check_books()


def test_sas_of_different_selectors_are_held_to_their_own() -> None:
    """Small datagrams of one flow may wait for each other; not those of an SA that does not carry them."""
    with rig(members=1) as r:
        wide, other = sa_keys(1, 0, EPOCH), sa_keys(1, 0, EPOCH + 1)
        narrow = replace(other, narrowed=flipped(LEAVES_OUT))
        r.b.members[0]._install(SaSet(1, (wide, narrow)))
        groups = []
        for keys in (wide, other):
            r.a.members[0]._install(SaSet(1, (), keys))
            r.a.send(*(bytes(VNET_BYTES) + segkit.udp_packet(bytes(100), identity=n) for n in (1, 2)))
            r.a.demux_turn()
            r.a.work()
            groups += r.a.wires[0].sent()
        r.b.wires[0].inbox += [(group, 0) for group in groups]
        r.b.members[0]._receive()  # in one batch
        assert r.b.counted(MemberCounter.IN_RECORDS_OK) == 2
        assert r.b.dropped(DropReason.SELECTOR_IN) == 2
        r.b.check_books()


@PAYLOADS
def test_each_sa_is_held_to_its_own_selectors_whichever_was_in_hand_before(payload: str) -> None:
    """Packets of another SA come between, and so does giving up what waits, which goes by SA, a narrow one last."""
    with rig(members=1, payload=payload) as r:
        sas = [sa_keys(1, 0, EPOCH + n) for n in range(4)]
        narrowed = [replace(sa, narrowed=flipped(LEAVES_OUT)) if n % 2 else sa for n, sa in enumerate(sas)]
        r.b.members[0]._install(SaSet(1, tuple(narrowed)))
        for n, sa in enumerate(sas):
            r.a.members[0]._install(SaSet(1, (), sa))
            for number in (2 * n, 2 * n + 1):
                assert sent_and_delivered(r, record(number)) == ([] if n % 2 else [number])
                r.b.expire()
        assert r.b.dropped(DropReason.SELECTOR_IN) == 4
        r.b.check_books()


@PAYLOADS
def test_ipv6_and_ipv4_are_narrowed_each_for_itself(payload: str) -> None:
    with rig(members=1, payload=payload) as r:
        six = Narrowed(side(("fd01::", "fd01::ffff")), side(("fd02::", "fd02::ffff")))
        agree(r, six, None)
        assert sent_and_delivered(r, record(1), record(2, v6=True)) == [2]
        assert r.a.dropped(DropReason.SELECTOR_OUT) == 1


@PAYLOADS
def test_a_member_killed_with_a_narrowed_segment_leaves_books_that_balance(
    payload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rig(members=1, payload=payload) as r:
        agree(r, CARRIES, None)
        r.a.send(record(1), to(record(2), "10.2.0.77"), record(3))
        r.a.demux_turn()

        def dies(*args: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(Member, "_tick", dies)
        monkeypatch.setattr(type(r.a.members[0].outbound), "_transmit", dies)
        with pytest.raises(KeyboardInterrupt):
            r.a.members[0].outbound.work()
        monkeypatch.undo()
        r.a.respawn(0)
        assert r.a.dropped(DropReason.DIED_WITH_MEMBER) == 3
        r.a.check_books()


@PAYLOADS
def test_without_an_sa_what_it_would_not_carry_is_counted_once(payload: str) -> None:
    with rig(members=1, payload=payload) as r:
        agree(r, LEAVES_OUT, None)
        sa = r.a.members[0].outbound.sa
        assert sa is not None
        sa.number = sa.sequence_max
        held = Narrowed(ALL_1, side(("10.2.0.9", "10.2.0.9")))
        r.a.members[0]._install(SaSet(1, (), replace(sa_keys(1, 0, EPOCH + 1), narrowed=held)))
        sa = r.a.members[0].outbound.sa
        assert sa is not None
        sa.number = sa.sequence_max
        assert sent_and_delivered(r, record(1), to(record(2), "10.2.0.77")) == []
        assert (r.a.dropped(DropReason.SA_EXHAUSTED), r.a.dropped(DropReason.SELECTOR_OUT)) == (1, 1)
        r.a.check_books()


def test_a_super_packet_is_left_out_whole() -> None:
    """Its first row alone has a header when it is looked at."""
    with rig(members=1, payload="esp") as r:
        agree(r, Narrowed(ALL_1, side(("10.2.0.9", "10.2.0.9"))), None)
        whole = [segkit.super_record(segkit.octets(n, 13000), 1300, sequence=n << 16) for n in range(3)]
        r.a.send(whole[0], to(whole[1], "10.2.0.77"), record(5), to(record(6), "10.2.0.77"), whole[2])
        r.a.demux_turn()
        r.a.work()
        r.carry()
        got = [packet for data in r.b.delivered() for packet in segkit.segments(data)]
        expected = [packet for data in (whole[0], record(5), whole[2]) for packet in segkit.segments(data)]
        assert got == expected
        assert r.a.dropped(DropReason.SELECTOR_OUT) == 2
        r.a.check_books()
        r.b.check_books()

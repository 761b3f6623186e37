"""Receives that are opened together: what waits, what may not wait, and that nothing is lost or mixed up by it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from rig import Group, Rig, identity_of, record, rig, sa_keys

from fwd.datapath import inbound as inbound_module
from fwd.datapath.counters import MemberCounter
from fwd.datapath.shared import LinkWord
from fwd.datapath.udp import RECEIVE_BYTES
from fwd.proto.burst import open_burst
from fwd.proto.drops import DropReason
from fwd.proto.esp import BATCH_MAX


def bursts(r: Rig, count: int, records: int = 1, length: int = 3000) -> list[Group]:
    """`count` bursts of gateway 1's member 0, each of so many records, one send or more each."""
    groups: list[Group] = []
    for n in range(count):
        r.a.send(*[record(n * records + i, length) for i in range(records)])
        r.a.demux_turn()
        r.a.work()
        groups += r.a.wires[0].sent()
    return groups


def opens(r: Rig, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Packets of each call of open_burst from here on."""
    calls: list[int] = []
    real = open_burst

    def counting(*arguments: Any) -> Any:
        calls.append(arguments[3])
        return real(*arguments)

    monkeypatch.setattr(inbound_module, "open_burst", counting)
    return calls


def test_bursts_that_wait_together_are_opened_together(monkeypatch: pytest.MonkeyPatch) -> None:
    with rig(members=1) as r:
        groups = bursts(r, 4)
        calls = opens(r, monkeypatch)
        r.b.arrive_only(0, groups)
        assert calls == [sum(len(group.datagrams()) for group in groups)]
        assert [identity_of(d) for d in r.b.delivered()] == list(range(4))
        assert r.b.counted(MemberCounter.IN_ESP) == calls[0]
        r.b.check_books()


@pytest.mark.parametrize("payload", ["superpacket", "esp"])
@pytest.mark.parametrize("length", [300, 1300, 5000, 60_000])
def test_any_number_of_waiting_bursts_is_delivered_in_order(payload: str, length: int) -> None:
    with rig(members=1, payload=payload) as r:
        length = min(length, r.a.geometry.inner_mtu) if payload == "esp" else length
        groups = bursts(r, 30, length=length)
        at_once = 20 if length < 5000 else 3  # what the pair of sockets holds that stands for the TUN device
        got = []
        for at in range(0, len(groups), at_once):
            r.b.arrive_only(0, groups[at : at + at_once])
            got += [identity_of(d) for d in r.b.delivered()]
        assert got == list(range(30))
        r.b.check_books()


def test_what_comes_from_elsewhere_does_not_share_a_batch() -> None:
    """The peer's address is where authentic packets came from, each batch from one."""
    with rig(members=1) as r:
        one, two = bursts(r, 2)
        inbound = r.b.members[0].inbound
        heard: list[tuple[str, int]] = []
        r.b.members[0].on_heard = lambda sa, address: heard.append(address)  # type: ignore[method-assign]
        for group, address in ((one, ("192.0.2.1", 4500)), (two, ("203.0.113.9", 7))):
            inbound.space()[: len(group.data)] = group.data
            assert inbound.take(len(group.data), group.size, 0, 0, address)
        inbound.open(0.0)
        assert heard == [("192.0.2.1", 4500), ("203.0.113.9", 7)]
        assert [identity_of(d) for d in r.b.delivered()] == [0, 1]


def test_packets_with_other_marks_do_not_share_a_batch() -> None:
    """Payload esp: the outer ECN field of each packet decides over its own inner one."""
    with rig(members=1, payload="esp") as r:
        groups = []
        for n, tos in enumerate([2, 2, 2]):
            r.a.send(record(n, tos=tos))
            r.a.demux_turn()
            r.a.work()
            groups += r.a.wires[0].sent()
        marked = [Group(g.data, g.size, outer) for g, outer in zip(groups, (2, 3, 2), strict=True)]
        r.b.arrive_only(0, marked)
        assert [data[11] & 3 for data in r.b.delivered()] == [2, 3, 2]


NOISE = {
    "runts": (b"x" * 20, DropReason.NOT_ESP),
    "keepalives": (b"\xff", DropReason.KEEPALIVE),
    "empty": (b"", DropReason.NOT_ESP),
    "unknown": (bytes([9] * 200), DropReason.UNKNOWN_SPI),
    "IKE": (bytes(200), DropReason.NOT_ESP),
}


@pytest.mark.parametrize("name", NOISE)
@pytest.mark.parametrize("payload", ["superpacket", "esp"])
def test_noise_between_bursts_is_counted_and_costs_nothing_else(name: str, payload: str) -> None:
    data, reason = NOISE[name]
    with rig(members=1, payload=payload) as r:
        groups = bursts(r, 12, length=1200)
        dice = random.Random(name)
        arriving = [g for group in groups for g in [*[Group(data, len(data))] * dice.randint(0, 2), group]]
        noise = len(arriving) - len(groups)
        r.b.arrive_only(0, arriving)
        assert [identity_of(d) for d in r.b.delivered()] == list(range(12))
        r.b.expire()
        assert r.b.dropped(reason) == noise > 0
        r.b.check_books()


def test_a_full_size_packet_of_an_unknown_sa_within_a_batch() -> None:
    with rig(members=1) as r:
        size = r.b.geometry.packet_bytes
        groups = bursts(r, 3)
        stranger = Group(bytes([9] * size), size)
        r.b.arrive_only(0, [groups[0], stranger, groups[1], stranger, stranger, groups[2]])
        assert [identity_of(d) for d in r.b.delivered()] == [0, 1, 2]
        assert r.b.dropped(DropReason.UNKNOWN_SPI) == 3
        r.b.check_books()


def test_two_sas_in_one_batch() -> None:
    """The sender has moved on to its next SA, and both are accepted."""
    with rig(members=1) as r:
        groups = bursts(r, 2)
        r.a.respawn(0)
        groups += bursts(r, 2)
        r.b.arrive_only(0, groups)
        assert [identity_of(d) for d in r.b.delivered()] == [0, 1, 0, 1]
        assert r.b.shared.members[0].slots.heard().keys() == {sa_keys(1, 0, 0).spi, sa_keys(1, 0, 1).spi}
        r.b.check_books()


@pytest.mark.parametrize("data", [b"", b"\xff", b"x" * 20, bytes([9] * 60)], ids=len)
def test_a_flood_is_opened_as_often_as_there_is_room(data: bytes) -> None:
    """However small what comes: `take` says when it is enough, and the count that a successor needs is stored."""
    with rig(members=1) as r:
        inbound, link = r.b.members[0].inbound, r.b.shared.members[0].link
        taken = 0
        while True:
            inbound.space()[: len(data)] = data
            taken += 1
            room = inbound.take(len(data), len(data), 0, 0, ("192.0.2.1", 4500))
            assert link[LinkWord.RX_TAKEN] == taken
            if not room:
                break
        assert taken <= BATCH_MAX
        inbound.open(0.0)
        assert r.b.counted(MemberCounter.IN_ESP) == taken
        r.b.check_books()
        assert r.pass_over(record(1)) == [record(1)]


def test_room_for_a_receive_is_always_left() -> None:
    """A receive may be as long as the kernel gives one."""
    with rig(members=1) as r:
        inbound = r.b.members[0].inbound
        size = r.b.geometry.packet_bytes
        for _ in range(20):
            assert len(inbound.space()) >= RECEIVE_BYTES
            if not inbound.take(RECEIVE_BYTES // size * size, size, 0, 0, ("192.0.2.1", 4500)):
                inbound.open(0.0)


# -- what one sender may cost another ---------------------------------------------------------------------------


ELSEWHERE = ("203.0.113.66", 9)


def receives(r: Rig, data: bytes, size: int, address: tuple[str, int]) -> None:
    """One receive of gateway 2's member, which waits to be opened."""
    inbound = r.b.members[0].inbound
    inbound.space()[: len(data)] = data
    inbound.take(len(data), size, 0, 0, address)


@pytest.mark.parametrize("payload", ["superpacket", "esp"])
@pytest.mark.parametrize("junk", [b"\0\0\1\1" + bytes(60), b"\xff", b"\0\0\1\1" + bytes(3000), bytes(64)])
def test_datagrams_of_no_sa_do_not_end_a_batch(payload: str, junk: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody can send them, from anywhere."""
    with rig(members=1, payload=payload) as r:
        sent = [record(n, r.a.geometry.inner_mtu) for n in range(30)]
        r.a.send(*sent)
        r.a.demux_turn()
        r.a.work()
        opened = opens(r, monkeypatch)
        (group,) = r.a.wires[0].sent()
        half = len(group.datagrams()) // 2 * group.size
        receives(r, group.data[:half], group.size, ("192.0.2.1", 4500))
        receives(r, junk * 2, len(junk), ELSEWHERE)
        receives(r, group.data[half:], group.size, ("192.0.2.1", 4500))
        r.b.members[0].inbound.open(0.0)
        assert r.b.delivered() == sent
        assert len(opened) == 1
        r.b.expire()
        r.b.check_books()


def test_who_knows_two_spis_does_not_move_an_unfinished_record() -> None:
    """Packets that do not authenticate leave the rows as they were; those that do may have them."""
    with rig(members=1) as r:
        inbound = r.b.members[0].inbound
        sent = record(1, 9000)
        r.a.send(sent)
        r.a.demux_turn()
        r.a.work()
        (group,) = r.a.wires[0].sent()
        packets = group.datagrams()
        r.b.arrive(0, [Group(b"".join(packets[:4]), group.size)])
        buffer = inbound._payload._buffer  # type: ignore[attr-defined]
        owner = buffer.owner
        assert owner is not None
        forged = sa_keys(1, 0, 1).spi.to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes(group.size - 8)
        for count in (1, 5, 60):
            r.b.arrive(0, [Group(forged * count, group.size)])
            assert buffer.owner is owner
        r.b.arrive(0, [Group(b"".join(packets[4:]), group.size)])
        assert r.b.delivered() == [sent]
        r.b.check_books()


def test_an_unfinished_record_gives_way_to_another_sa_and_is_finished_all_the_same() -> None:
    with rig(members=1) as r:
        first, second = record(1, 9000), record(2, 60_000)
        groups = []
        for epoch, data in enumerate((first, second)):
            r.a.members[0].outbound.use(sa_keys(1, 0, epoch))
            r.a.send(data)
            r.a.demux_turn()
            r.a.work()
            groups.append(b"".join(group.data for group in r.a.wires[0].sent()))
        size = r.b.geometry.packet_bytes
        one, two = ([data[at : at + size] for at in range(0, len(data), size)] for data in groups)
        for part in (one[:3], two[:20], one[3:5], two[20:21], two[21:], one[5:]):
            r.b.arrive(0, [Group(b"".join(part), size)])
        assert sorted(r.b.delivered()) == sorted([first, second])
        r.b.check_books()


def test_the_kernels_count_of_lost_datagrams_has_32_bits_and_ours_goes_on() -> None:
    with rig(members=1) as r:
        told = [5, 2**31, 2**32 - 2, 2**32 - 3, 3, 2**31 + 2, 1, 7]
        wanted = [5, 2**31, 2**32 - 2, 2**32 - 2, 2**32 + 3, 2**32 + 2**31 + 2, 2**33 + 1, 2**33 + 7]
        for lost, count in zip(told, wanted, strict=True):
            r.b.arrive(0, [Group(b"\xff", 1)], lost=lost)
            assert r.b.dropped(DropReason.SOCKET_OVERFLOW) == count

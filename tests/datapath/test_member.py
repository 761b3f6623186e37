"""A member's own business: echoes, its path, its peer's address, congestion marks, and what it tells keyd."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rig import Gateway, Rig, packet, peering_of, record, rig, sa_keys

from fwd.datapath import member as member_module
from fwd.datapath.counters import MemberCounter
from fwd.datapath.shared import LinkWord
from fwd.model.keys import PskKeys
from fwd.proto.drops import DropReason
from fwd.proto.esp import NEXT_DUMMY
from fwd.proto.ip import VNET_BYTES
from fwd.proto.path import SILENCE_S
from fwd.proto.pulse import ECHO_S, MISSES
from fwd.proto.sa import EventKind, SaSet


def turn(gateway: Gateway, now: float) -> None:
    """What a member's loop does about its path, at `now`."""
    member = gateway.members[0]
    member._now = now
    member.echoes.look(now)


def sends(r: Rig, now: float, *records: bytes) -> None:
    r.a.send(*records)
    r.a.demux_turn()
    r.a.work()
    r.a.members[0].echoes.sent(now)


def test_an_echo_is_answered_and_the_path_is_up() -> None:
    with rig(members=1) as r:
        now = r.a.members[0]._now + 1
        sends(r, now, record(1))
        r.carry()
        now += SILENCE_S + 0.01
        r.b.members[0]._now = now
        turn(r.a, now)
        r.carry()
        assert r.a.members[0]._counters[MemberCounter.ECHOES_SENT] == 3, "one of the pulse, two that ask for the size"
        assert r.b.counted(MemberCounter.ECHOES_ANSWERED) == 3
        r.carry()
        assert not r.a.shared.members[0].link[LinkWord.PATH_DOWN]
        turn(r.a, now)
        assert r.a.members[0]._counters[MemberCounter.ECHOES_SENT] == 3
        r.a.check_books()
        r.b.check_books()


def test_how_long_an_answer_took_is_told() -> None:
    with rig(members=1) as r:
        member, link = r.a.members[0], r.a.shared.members[0].link
        now = member._now + 1
        sends(r, now, record(1))
        turn(r.a, now)
        assert link[LinkWord.RTT_US] == 0, "none has come"
        member._now = now + 0.03
        r.carry()
        assert link[LinkWord.RTT_US] == pytest.approx(30_000, abs=1)


def test_unanswered_echoes_take_the_path_down_and_an_answer_brings_it_up() -> None:
    with rig(members=1) as r:
        link = r.a.shared.members[0].link
        now = r.a.members[0]._now + 1
        sends(r, now, record(1))
        for _ in range(MISSES + 1):
            assert not link[LinkWord.PATH_DOWN]
            now += ECHO_S + 0.001
            turn(r.a, now)
            r.a.wires[0].sent()  # lost
        assert link[LinkWord.PATH_DOWN] == 1
        now += 1
        turn(r.a, now)
        r.carry()
        r.carry()
        assert not link[LinkWord.PATH_DOWN]


def test_a_path_that_is_up_again_is_asked_for_its_size_at_once() -> None:
    """It may be another path by now; that records come says nothing of what goes."""
    with rig(members=1) as r:
        member, link, now = r.a.members[0], r.a.shared.members[0].link, r.a.members[0]._now + 1
        sends(r, now, record(1))
        turn(r.a, now)
        r.carry()
        r.carry()  # the size is confirmed
        for _ in range(MISSES + 1):
            now += ECHO_S + 0.001
            sends(r, now, record(2))
            turn(r.a, now)
            r.a.wires[0].sent()  # lost
        assert link[LinkWord.PATH_DOWN] == 1
        now += 1
        turn(r.a, now)
        r.carry()
        r.carry()
        assert not link[LinkWord.PATH_DOWN]
        member.echoes.sizes.heard(now)
        turn(r.a, now)
        assert r.a.geometry.packet_bytes_for(1500) in [group.size for group in r.a.wires[0].sent()]


def test_a_path_that_takes_less_gets_smaller_chunks() -> None:
    with rig(members=1) as r:
        link, geometry = r.a.shared.members[0].link, r.a.geometry
        now = r.a.members[0]._now + 1
        sends(r, now, record(1))
        for _ in range(40):
            now += SILENCE_S + 0.01
            r.b.members[0]._now = now
            turn(r.a, now)
            r.b.arrive(0, [g for g in r.a.wires[0].sent() if g.size <= geometry.packet_bytes_for(1400)])
            r.a.arrive(0, r.b.wires[0].sent())
        assert link[LinkWord.PATH_MTU] == 1400
        assert link[LinkWord.CHUNK] == geometry.chunk_for(1400)
        assert not link[LinkWord.PATH_DOWN]
        assert r.pass_over(record(2, 65535)) == [record(1), record(2, 65535)]


def hinted(r: Rig, mtu: int, monkeypatch: pytest.MonkeyPatch) -> float:
    """A send fails with EMSGSIZE, and the kernel says that the path takes `mtu`: what one ICMP message brings about."""
    monkeypatch.setattr(member_module, "path_mtu", lambda local, remote, port: mtu)
    r.a.wires[0].errors = [errno.EMSGSIZE]
    now = r.a.members[0]._now + 1
    sends(r, now, record(1))
    r.a.members[0]._now = now
    r.a.members[0]._tick()
    return now


def test_the_kernels_word_that_the_path_is_smaller_is_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 8899 §4.6: anybody can forge an ICMP message. An echo of the size in force is answered: nothing changes."""
    with rig(members=1) as r:
        now = hinted(r, 552, monkeypatch)
        link = r.a.shared.members[0].link
        assert link[LinkWord.PATH_MTU] == 1500
        r.carry()
        for _ in range(5):
            now += 1
            r.a.members[0]._now = now
            r.a.members[0]._tick()
            r.carry()
        assert link[LinkWord.PATH_MTU] == 1500
        assert r.a.members[0]._counters[MemberCounter.ECHOES_SENT] <= 5, "the same hint again is no reason to ask again"


def test_the_kernels_word_is_believed_once_echoes_of_the_size_in_force_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    with rig(members=1) as r:
        geometry, now = r.a.geometry, hinted(r, 1300, monkeypatch)
        link = r.a.shared.members[0].link
        while link[LinkWord.PATH_MTU] == 1500:
            r.b.arrive(0, [g for g in r.a.wires[0].sent() if g.size <= geometry.packet_bytes_for(1300)])
            r.a.arrive(0, r.b.wires[0].sent())
            now += 0.05
            r.a.members[0]._now = now
            r.a.members[0]._tick()
        assert link[LinkWord.PATH_MTU] == 1300
        assert link[LinkWord.CHUNK] == geometry.chunk_for(1300)
        assert now < r.a.members[0].echoes.sizes._raised + 1
        r.a.respawn(0)  # its successor starts from there
        assert link[LinkWord.PATH_MTU] == 1300


@pytest.mark.parametrize("v6", [False, True])
def test_esp_follows_the_kernel_down_and_up_again(v6: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a standard peer nobody else knows; what ICMP has said the kernel forgets after 10 minutes."""
    with rig(members=1, payload="esp", v6=v6) as r:
        member, link = r.a.members[0], r.a.shared.members[0].link
        now = hinted(r, 1320, monkeypatch)
        assert link[LinkWord.PATH_MTU] == 1320
        assert r.a.wires[0].fragments, "IPv6 inside needs 1,280 octets: outer packets become fragments"
        for kernel, wanted in ((1400, 1400), (0, 1400), (1500, 1500), (9000, 1500)):
            monkeypatch.setattr(member_module, "path_mtu", lambda *peer, kernel=kernel: kernel)
            now += 1.01
            member._now = now
            member._tick()
            assert link[LinkWord.PATH_MTU] == wanted
            assert not r.a.wires[0].fragments


@pytest.mark.parametrize("payload", ["superpacket", "esp"])
def test_what_the_kernel_says_at_the_start_is_where_it_begins_and_no_limit(
    payload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rig(members=1, payload=payload) as r:
        link = r.a.shared.members[0].link
        link[LinkWord.PATH_MTU] = 0  # no predecessor
        monkeypatch.setattr(member_module, "path_mtu", lambda *peer: 1400)
        r.a.respawn(0)
        assert link[LinkWord.PATH_MTU] == 1400
        monkeypatch.setattr(member_module, "path_mtu", lambda *peer: 1500)
        r.a.members[0]._kernel_asked = 0.0
        r.a.members[0]._tick()
        r.carry()
        assert link[LinkWord.PATH_MTU] == 1500


def test_esp_without_ipv6_inside_makes_no_fragments_above_576(monkeypatch: pytest.MonkeyPatch) -> None:
    subnets: dict[str, Any] = {"local_ts": ["10.1.0.0/16"], "remote_ts": ["10.2.0.0/16"]}
    with rig(members=1, payload="esp") as r:
        r.a.peering = r.a.peering.model_copy(update=peering_of(1, payload="esp", **subnets).__dict__)
        r.a.parts[0] = replace(r.a.parts[0], peering=r.a.peering)
        r.a.respawn(0)
        hinted(r, 700, monkeypatch)
        assert not r.a.wires[0].fragments
        r.a.members[0]._kernel_asked = 0.0
        hinted(r, 552, monkeypatch)
        assert r.a.wires[0].fragments


def test_a_flood_of_emsgsize_does_not_ask_the_kernel_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with rig(members=1) as r:
        asked: list[object] = []
        monkeypatch.setattr(member_module, "path_mtu", lambda *peer: asked.append(peer) or 1500)
        for _ in range(100):
            r.a.members[0]._sender.too_big = True
            r.a.members[0]._tick()
        assert len(asked) == 1


def test_a_refused_offload_is_shown() -> None:
    with rig(members=1) as r:
        r.a.wires[0].errors = [errno.EIO]
        assert r.pass_over(record(1, 9000)) == [record(1, 9000)]
        r.a.members[0]._tick()
        assert r.a.shared.members[0].link[LinkWord.GSO_REFUSED] == 1


@pytest.mark.parametrize(("v6", "address"), [(False, "192.0.2.2"), (True, "2001:db8::2")])
def test_the_peer_is_at_the_port_where_authentic_packets_come_from(v6: bool, address: str) -> None:
    with rig(members=1, v6=v6) as r:
        r.a.wires[0].address = (address, 6000)
        r.a.arrive(0, [])
        r.b.members[0].outbound.send_control(bytes(8), 59)
        groups = r.b.wires[0].sent()
        forged = bytearray(groups[0].data)
        forged[-1] ^= 1
        r.a.arrive(0, [type(groups[0])(bytes(forged), len(forged))])
        assert r.a.members[0].outbound.peer != (address, 6000)
        r.a.arrive(0, groups)
        assert r.a.members[0].outbound.peer == (address, 6000)
        r.a.respawn(0)
        assert r.a.members[0].outbound.peer == (address, 6000)


def test_keyd_is_told_what_it_must_know() -> None:
    with rig(members=1) as r:
        assert [e.kind for e in r.a.events(0)] == [EventKind.STARTED]
        r.b.events(0)
        r.pass_over(record(1))
        r.pass_over(record(2))
        assert [(e.kind, e.spi) for e in r.b.events(0)] == [(EventKind.HEARD, sa_keys(1, 0, 0).spi)]
        sa = r.a.members[0].outbound.sa
        assert sa is not None
        sa.number = r.a.peering.rekey_packets
        for _ in range(3):  # keyd may have missed it
            r.a.members[0]._tick()
        assert {e.kind for e in r.a.events(0)} == {EventKind.SOFT_LIMIT}
        sa.number = 0
        r.a.members[0]._tick()
        assert r.a.events(0) == []


@pytest.mark.parametrize("limit", ["packets", "octets"])
def test_keyd_is_told_a_little_before_a_soft_limit(limit: str) -> None:
    changes = {"rekey_packets": 2**20} if limit == "packets" else {"rekey_bytes": 200_000}
    with rig(members=1, **changes) as r:
        r.a.events(0)
        outbound = r.a.members[0].outbound
        assert outbound.sa is not None
        while not r.a.events(0):
            before = r.a.counted(MemberCounter.OUT_ESP_BYTES), outbound.sa.number
            if limit == "packets":
                outbound.sa.number += 2**14
            else:
                r.pass_over(record(1, 1000))
            r.a.members[0]._tick()
        if limit == "packets":
            assert 0.88 * 2**20 <= before[1] <= 2**20
        else:
            assert 0.88 * 200_000 <= before[0] <= 200_000
        r.a.members[0].outbound.use(sa_keys(1, 0, 9))
        r.a.members[0]._tick()
        assert not r.a.events(0), "the next SA has its own limits"


def test_peers_that_have_said_where_they_listen_are_sent_to_there_until_they_are_heard() -> None:
    with rig(members=2) as r:
        shared = r.a.shared.members[1]
        assert r.a.members[1].outbound.peer == ("192.0.2.2", 4501)
        shared.far.put(("198.51.100.7", 7001))
        r.a.members[1]._install(SaSet(1, ()))
        assert r.a.members[1].outbound.peer == ("198.51.100.7", 7001)
        shared.peer.put(("198.51.100.7", 9))
        r.a.members[1]._install(SaSet(1, ()))
        assert r.a.members[1].outbound.peer == ("198.51.100.7", 9)


@pytest.mark.parametrize(
    ("heard", "moves_to", "sends_to"),
    [
        (None, ("198.51.100.7", 61001), ("198.51.100.7", 61001)),  # it never sends to this member
        (("192.0.2.2", 4500), ("192.0.2.2", 4600), ("192.0.2.2", 4600)),
        (("192.0.2.2", 9), ("198.51.100.7", 4500), ("198.51.100.7", 4500)),
        (("192.0.2.2", 9), ("192.0.2.2", 4600), ("192.0.2.2", 9)),  # by a NAT's mapping of its own
    ],
)
def test_a_peer_that_ike_finds_elsewhere_is_sent_to_there(
    heard: tuple[str, int] | None, moves_to: tuple[str, int], sends_to: tuple[str, int]
) -> None:
    with rig(members=1) as r:
        shared = r.a.shared.members[0]
        shared.far.put(("192.0.2.2", 4500))
        if heard:
            shared.peer.put(heard)
        r.a.respawn(0)
        member = r.a.members[0]
        assert member.outbound.peer == (heard or ("192.0.2.2", 4500))
        shared.far.put(moves_to)
        member._tick()
        assert member.outbound.peer == sends_to
        heard_from(r, (sends_to[0], 7))
        assert member.outbound.peer == (sends_to[0], 7), "the port of what is heard after that is later news"


def heard_from(r: Rig, address: tuple[str, int]) -> None:
    """`b` sends something, and `a` has it from this address."""
    r.b.members[0].outbound.send_control(bytes(8), 59)
    r.a.wires[0].address = address
    r.a.arrive(0, r.b.wires[0].sent())
    r.a.members[0]._tick()


def test_another_address_is_told_to_keyd_and_not_followed_before_keyd_says_so() -> None:
    """Whoever holds back one fresh packet could point all that a member sends at others."""
    with rig(members=1) as r:
        member, shared = r.a.members[0], r.a.shared.members[0]
        shared.far.put(("192.0.2.2", 4500))
        member._tick()
        r.a.events(0)
        for turn in range(3):
            member._now += 10.0
            heard_from(r, ("203.0.113.77", 7))
            assert member.outbound.peer == ("192.0.2.2", 4500)
            told = [event.kind for event in r.a.events(0)]
            assert told == ([EventKind.ELSEWHERE, EventKind.HEARD] if turn == 0 else [EventKind.ELSEWHERE])
            assert shared.elsewhere.get() == ("203.0.113.77", 7)
        heard_from(r, ("203.0.113.77", 7))
        assert r.a.events(0) == [], "once a second"
        r.a.respawn(0)
        assert r.a.members[0].outbound.peer == ("192.0.2.2", 4500)
        shared.far.put(("203.0.113.77", 4500))
        r.a.members[0]._tick()
        heard_from(r, ("203.0.113.77", 7))
        assert r.a.members[0].outbound.peer == ("203.0.113.77", 7)


def test_a_late_packet_moves_nothing() -> None:
    """It is authentic, and new to the window; but the peer has sent from elsewhere since."""
    with rig(members=1) as r:
        r.b.members[0].outbound.send_control(bytes(8), 59)
        late = r.b.wires[0].sent()
        heard_from(r, ("192.0.2.2", 5001))
        r.a.wires[0].address = ("192.0.2.2", 5000)
        r.a.arrive(0, late)
        assert r.a.members[0].outbound.peer == ("192.0.2.2", 5001)
        assert r.a.dropped(DropReason.REPLAYED) == r.a.dropped(DropReason.TOO_OLD) == 0


def test_where_the_peer_may_not_move_not_even_its_port_is_followed() -> None:
    keys = PskKeys(source="psk", secret=Path("unused"), mobility="none")
    with rig(members=1, keys=keys) as r:
        r.a.shared.members[0].far.put(("192.0.2.2", 4500))
        r.a.members[0]._tick()
        heard_from(r, ("192.0.2.2", 7))
        assert r.a.members[0].outbound.peer == ("192.0.2.2", 4500)


def test_a_member_that_is_told_to_stop_sends_nothing_until_it_has_another_sa() -> None:
    with rig(members=1) as r:
        r.a.members[0]._install(SaSet(1, (), stop=True))
        assert r.pass_over(record(1)) == []
        assert r.a.dropped(DropReason.SA_EXHAUSTED) == 1
        assert r.a.shared.members[0].link[LinkWord.SPI_OUT] == 0
        r.a.check_books()
        r.a.members[0]._install(SaSet(1, (), sa_keys(1, 0, 1)))
        assert r.pass_over(record(2)) == [record(2)]


def test_an_update_is_for_its_incarnation_only_and_garbage_is_refused() -> None:
    with rig(members=1) as r:
        member, keyd = r.a.members[0], r.a.controls[0]
        inbound = (sa_keys(2, 0, 1),)
        old = r.a.shared.members[0].link[LinkWord.SPI_OUT]
        for data in (SaSet(9, inbound, sa_keys(1, 0, 7)).encode(), b"x", os.urandom(200)):
            keyd.send(data)
            member._hear_keyd()
        member._hear_keyd()  # nothing waits
        assert r.a.shared.members[0].link[LinkWord.SPI_OUT] == old
        keyd.send(SaSet(1, inbound, sa_keys(1, 0, 3)).encode())
        member._hear_keyd()
        assert r.a.shared.members[0].link[LinkWord.SPI_OUT] == sa_keys(1, 0, 3).spi
        assert set(member.inbound.sas) == {sa_keys(2, 0, 1).spi}
        assert r.pass_over(record(1)) == [record(1)]


@pytest.mark.parametrize(("written_ns", "stops"), [(99, False), (100, True), (101, True)])
def test_what_keyd_wrote_before_the_boot_record_is_not_about_what_that_gave(written_ns: int, stops: bool) -> None:
    """A word to stop, say, of what a user has ended: both queues are read after the user has begun again."""
    with rig(members=1) as r:
        boot = SaSet(0, (sa_keys(2, 0, 0),), sa_keys(1, 0, 1), written_ns=100)
        member = member_module.Member(r.a.parts[0], boot, skip=False)
        r.a.controls[0].send(SaSet(1, (), stop=True, written_ns=written_ns).encode())
        member._hear_keyd()
        assert (member.outbound.sa is None) == stops


NOT_ECT, ECT1, ECT0, CE = 0, 1, 2, 3
# RFC 6040 §4.2, figure 4: inner, outer → what goes on; None: dropped.
ECN = [
    (NOT_ECT, NOT_ECT, NOT_ECT), (NOT_ECT, ECT0, NOT_ECT), (NOT_ECT, ECT1, NOT_ECT), (NOT_ECT, CE, None),
    (ECT0, NOT_ECT, ECT0), (ECT0, ECT0, ECT0), (ECT0, ECT1, ECT1), (ECT0, CE, CE),
    (ECT1, NOT_ECT, ECT1), (ECT1, ECT0, ECT1), (ECT1, ECT1, ECT1), (ECT1, CE, CE),
    (CE, NOT_ECT, CE), (CE, ECT0, CE), (CE, ECT1, CE), (CE, CE, CE),
]  # fmt: skip


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize(("inner", "outer", "result"), ECN)
def test_congestion_marks_of_the_path(v6: bool, inner: int, outer: int, result: int | None) -> None:
    """Payload esp: combined into the inner packet, whose DSCP stays and whose checksum is right."""
    with rig(members=1, payload="esp") as r:
        dscp = 0x28
        r.a.send(record(1, v6=v6, tos=dscp | inner))
        r.a.demux_turn()
        r.a.work()
        (group,) = r.a.wires[0].sent()
        assert group.tos == dscp | inner
        r.b.arrive(0, [type(group)(group.data, group.size, outer)])
        wanted = [] if result is None else [packet(1, v6=v6, tos=dscp | result)]
        assert [d[VNET_BYTES:] for d in r.b.delivered()] == wanted
        r.b.check_books()


@pytest.mark.parametrize("inner", [NOT_ECT, ECT1, ECT0, CE])
def test_superpackets_are_not_ect_outside_and_as_they_were_inside(inner: int) -> None:
    with rig(members=1) as r:
        data = record(1, tos=0x28 | inner)
        r.a.send(data)
        r.a.demux_turn()
        r.a.work()
        (group,) = r.a.wires[0].sent()
        assert group.tos == 0x28
        r.b.arrive(0, [type(group)(group.data, group.size, group.tos | CE)])
        assert r.b.delivered() == [data]


# -- echoes in payload esp -------------------------------------------------------------------------------------


def esp_pair(r: Rig, *, known: bool = True) -> None:
    """Both sides have said that they answer echoes, or a standard peer has said nothing."""
    for gateway in (r.a, r.b):
        gateway.shared.members[0].echoes[0] = int(known)


def test_a_standard_peer_is_sent_no_echo() -> None:
    with rig(members=1, payload="esp") as r:
        now = r.a.members[0]._now + 1
        sends(r, now, record(1))
        r.carry()
        for _ in range(20):
            now += ECHO_S + 0.001
            turn(r.a, now)
        assert r.a.wires[0].sent() == []
        assert not r.a.shared.members[0].link[LinkWord.PATH_DOWN]
        assert r.a.members[0].echoes.next_timeout(now) == float("inf")


def test_another_fwd_answers_echoes_in_payload_esp() -> None:
    with rig(members=1, payload="esp") as r:
        esp_pair(r)
        link, now = r.a.shared.members[0].link, r.a.members[0]._now + 1
        sends(r, now, record(1))
        turn(r.a, now)
        r.carry()
        r.carry()
        assert r.a.members[0]._counters[MemberCounter.ECHOES_SENT] == 1, "no size is tried"
        assert r.b.members[0]._counters[MemberCounter.ECHOES_ANSWERED] == 1
        assert r.a.members[0].echoes.next_timeout(now + 0.01) == float("inf"), "it is answered, and nothing was sent"
        for _ in range(MISSES + 1):
            assert not link[LinkWord.PATH_DOWN]
            now += ECHO_S + 0.001
            sends(r, now, record(2))
            turn(r.a, now)
            r.a.wires[0].sent()  # lost
        assert link[LinkWord.PATH_DOWN] == 1
        now += 1
        turn(r.a, now)
        r.carry()
        r.carry()
        assert not link[LinkWord.PATH_DOWN]
        r.a.check_books()
        r.b.check_books()


def test_a_peer_that_answers_echoes_no_more_is_trusted_again() -> None:
    """A far gateway may be replaced by one that is no fwd."""
    with rig(members=1, payload="esp") as r:
        esp_pair(r)
        link, now = r.a.shared.members[0].link, r.a.members[0]._now + 1
        sends(r, now, record(1))
        for _ in range(MISSES + 2):
            turn(r.a, now)
            now += ECHO_S + 0.001
        assert link[LinkWord.PATH_DOWN] == 1
        esp_pair(r, known=False)
        turn(r.a, now)
        assert not link[LinkWord.PATH_DOWN]


def test_an_echo_among_packets_of_one_batch_disturbs_none_of_them() -> None:
    with rig(members=1, payload="esp") as r:
        esp_pair(r)
        sent = [record(i, 1000) for i in range(40)]
        now = r.a.members[0]._now + 1
        sends(r, now, *sent[:20])
        turn(r.a, now)
        sends(r, now, *sent[20:])
        r.carry()
        assert r.b.delivered() == sent
        assert r.b.members[0]._counters[MemberCounter.ECHOES_ANSWERED] == 1
        r.b.check_books()


def test_a_dummy_packet_that_is_no_echo_is_dropped() -> None:
    with rig(members=1, payload="esp") as r:
        esp_pair(r)
        for payload in (b"", b"fwd", b"\xd1fwe" + bytes(4), b"\xd0fwd" + bytes(4), b"\xd1fwd" + bytes(5)):
            r.a.members[0].outbound.send_control(payload, NEXT_DUMMY)
        r.carry()
        assert r.b.dropped(DropReason.DUMMY) == 5
        assert r.b.members[0]._counters[MemberCounter.ECHOES_ANSWERED] == 0
        r.b.check_books()

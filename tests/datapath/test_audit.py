"""The audit log: each event of RFC 4303 §4 is told with what the RFC wants told of it, and seldom."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rig import FLOW_LABEL, Group, Rig, packet, record, rig, sa_keys
from scapy.layers.inet import ICMP, IP
from scapy.packet import Raw

from fwd.datapath.audit import EVERY_S, Audit, Event
from fwd.datapath.tuning import Tuning, publish
from fwd.model.keys import PskKeys
from fwd.proto.aggfrag import SUBTYPE_RECORDS
from fwd.proto.esp import NEXT_AGGFRAG, NEXT_IPV4, OVERHEAD_BYTES, OutboundSa, seal_one, write_trailer
from fwd.proto.ip import NO_VNET

SENDER = "192.0.2.1"  # gateway 1's
ME, PEER = ("192.0.2.1", 4500), ("192.0.2.2", 4500)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, Any]]]:
    """The audit events logged so far, each as its fields with the event among them."""
    caplog.set_level(logging.WARNING)

    def read() -> list[dict[str, Any]]:
        records = [vars(record) for record in caplog.records if "event" in vars(record)]
        return [{"event": r["event"], **r["fields"]} for r in records]

    return read


def sealed(payload: bytes, number: int, next_header: int = NEXT_AGGFRAG, *, epoch: int = 0) -> Group:
    row = bytearray(len(payload) + 8)
    row[: len(payload)] = payload
    end = write_trailer(memoryview(row), 0, len(payload), next_header)
    out = bytearray(end + OVERHEAD_BYTES)
    seal_one(OutboundSa(sa_keys(1, 0, epoch), 8), number, memoryview(row)[:end], memoryview(out), 0)
    return Group(bytes(out), len(out))


def framed(data: bytes) -> bytes:
    return bytes([SUBTYPE_RECORDS, 0, 0, 0]) + data


def of_gateway_2(spi: int, number: int) -> dict[str, Any]:
    """What is told of a packet that member 0 of gateway 2 has refused."""
    return {
        "spi": f"{spi:#010x}", "sequence_number": number, "source": SENDER, "source_port": 4500,
        "destination": "192.0.2.2", "destination_port": 4500,
    }  # fmt: skip


SPI = sa_keys(1, 0, 0).spi


def icmp_error(quoted: bytes) -> bytes:
    """A record of an error from a router outside the selectors to gateway 2's client."""
    return NO_VNET + bytes(IP(src="172.16.9.2", dst="10.2.0.9") / ICMP(type=3, code=4) / Raw(quoted))


@pytest.mark.parametrize("payload", ["superpacket", "esp"])
def test_an_icmp_error_about_no_packet_of_the_peering_that_is_to_go_out(
    payload: str, told: Callable[[], list[dict[str, Any]]]
) -> None:
    about_ours = packet(1, 200, back=True)
    with rig(members=1, payload=payload) as r:
        others = [icmp_error(packet(1, 200, back=False)), NO_VNET + bytes(IP(src="172.16.9.2", dst="10.2.0.9"))]
        assert r.pass_over(*others, icmp_error(about_ours)) == [icmp_error(about_ours)]
    refused = {"event": "audit.icmp_refused", "inner_source": "172.16.9.2", "inner_destination": "10.2.0.9"}
    assert told() == [refused], "the error, and not what is none or has passed"


def test_icmp_errors_that_are_refused_are_told_no_more_once_that_is_not_wanted(
    told: Callable[[], list[dict[str, Any]]],
) -> None:
    with rig(members=1) as r:
        publish(r.a.shared.tuning, Tuning.of(r.a.peering.model_copy(update={"audit": False})))
        assert r.pass_over(icmp_error(packet(1, 200))) == []
    assert told() == []


def test_members_that_share_a_port_are_all_told_to_be_at_it(told: Callable[[], list[dict[str, Any]]]) -> None:
    keys = PskKeys(source="psk", secret=Path("unused"))
    with rig(members=2, payload="esp", shared_port=True, keys=keys) as r:
        r.b.arrive(1, [Group(bytes(range(1, 101)), 100)])
        r.b.expire()
        assert [event["destination_port"] for event in told()] == [4500]


@pytest.mark.parametrize("count", [1, 5])
def test_no_sa(count: int, told: Callable[[], list[dict[str, Any]]]) -> None:
    with rig(members=1) as r:
        size = r.b.geometry.packet_bytes
        r.b.arrive(0, [Group((b"\x77\x77\x77\x77\0\0\0\x09" + bytes(size - 8)) * count, size)])
    expected = {"event": "audit.no_sa", **of_gateway_2(0x77777777, 9)}
    assert told() == [expected | ({"suppressed": count - 1} if count > 1 else {})]


def test_replayed(told: Callable[[], list[dict[str, Any]]]) -> None:
    with rig(members=1) as r:
        r.b.arrive(0, [sealed(framed(record(1)), 9), sealed(framed(record(1)), 9)])
    assert told() == [{"event": "audit.replayed", **of_gateway_2(SPI, 9)}]


def test_left_of_the_window(told: Callable[[], list[dict[str, Any]]]) -> None:
    with rig(members=1) as r:
        data = bytearray(sealed(framed(record(1)), 9).data)
        data[4:8] = bytes(4)
        r.b.arrive(0, [Group(bytes(data), len(data))])
    assert told() == [{"event": "audit.replayed", **of_gateway_2(SPI, 0)}]


def test_bad_icv(told: Callable[[], list[dict[str, Any]]]) -> None:
    with rig(members=1) as r:
        data = bytearray(sealed(framed(record(1)), 9).data)
        data[-1] ^= 1
        r.b.arrive(0, [Group(bytes(data), len(data))])
    assert told() == [{"event": "audit.bad_icv", **of_gateway_2(SPI, 9)}]


def test_bad_icv_in_a_burst_tells_the_packet_that_failed(told: Callable[[], list[dict[str, Any]]]) -> None:
    with rig(members=1) as r:
        r.a.send(*[record(n, 9000) for n in range(7)])
        r.a.demux_turn()
        r.a.work()
        group = r.a.wires[0].sent()[0]
        data = bytearray(group.data)
        data[20 * group.size + 100] ^= 1
        r.b.arrive(0, [Group(bytes(data), group.size)])
    assert told() == [{"event": "audit.bad_icv", **of_gateway_2(SPI, 21)}]


def test_sequence_overflow(told: Callable[[], list[dict[str, Any]]]) -> None:
    with rig(members=1, esn=False) as r:
        sa = r.a.members[0].outbound.sa
        assert sa is not None
        sa.number = sa.sequence_max
        assert r.pass_over(record(1)) == []
    expected = {
        "event": "audit.sequence_overflow", "spi": f"{SPI:#010x}", "sequence_number": 2**32 - 1,
        "source": "192.0.2.1", "source_port": 4500, "destination": "192.0.2.2", "destination_port": 4500,
    }  # fmt: skip
    assert told() == [expected]


@pytest.mark.parametrize("v6", [False, True], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("payload", ["superpacket", "esp"])
def test_selectors(payload: str, v6: bool, told: Callable[[], list[dict[str, Any]]]) -> None:
    if payload == "esp":
        group = sealed(packet(1, back=True, v6=v6), 1, 41 if v6 else NEXT_IPV4)
    else:
        group = sealed(framed(record(1, back=True, v6=v6)), 1)
    with rig(members=1, payload=payload) as r:
        r.b.arrive(0, [group])
    inner = ("fd02::9", "fd01::9") if v6 else ("10.2.0.9", "10.1.0.9")
    expected = {
        "event": "audit.selectors", "spi": f"{SPI:#010x}", "inner_source": inner[0], "inner_destination": inner[1],
        "source": SENDER, "destination": "192.0.2.2",
    }  # fmt: skip
    assert told() == [expected]


def test_selectors_of_datagrams_that_would_be_joined_are_told_with_their_own_sa(
    told: Callable[[], list[dict[str, Any]]],
) -> None:
    checksum_undone = struct.pack("<BBHHHH", 1, 0, 0, 0, 20, 6)
    strangers = sealed(framed(b"".join(checksum_undone + packet(n, back=True) for n in range(4))), 1)
    with rig(members=1) as r:
        r.b.arrive_only(0, [strangers, sealed(framed(record(9)), 1, epoch=1)])
        assert r.b.delivered() == [record(9)]
    (one,) = told()
    assert (one["event"], one["spi"]) == ("audit.selectors", f"{SPI:#010x}")


def test_over_ipv6_the_flow_label_is_told(told: Callable[[], list[dict[str, Any]]]) -> None:
    with rig(members=1, v6=True) as r:
        r.b.arrive(0, [Group(b"\x77" * 60, 60)])
    assert told()[0]["flow_label"] == f"{FLOW_LABEL:#07x}"


def test_nothing_is_told_of_good_packets(told: Callable[[], list[dict[str, Any]]]) -> None:
    with rig() as r:
        assert len(r.pass_over(*[record(n, 3000) for n in range(50)])) == 50
    assert told() == []


def test_nothing_is_told_if_not_wanted(told: Callable[[], list[dict[str, Any]]]) -> None:
    with rig(members=1, audit=False) as r:
        r.b.arrive(0, [Group(b"\x77" * 60, 60)])
        r.b.members[0]._tick()
    assert told() == []


def test_the_text_tells_all_of_it(caplog: pytest.LogCaptureFixture) -> None:
    Audit(ME, wanted=True).received(Event.BAD_ICV, 0x101, 7, PEER, 0x12345)
    (text,) = caplog.messages
    for word in ("0x00000101", "sequence_number=7", "source=192.0.2.2", "destination=192.0.2.1", "flow_label=0x12345"):
        assert word in text


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_flood_is_one_line_a_second_and_its_size_is_told(told: Callable[[], list[dict[str, Any]]]) -> None:
    clock = Clock()
    audit = Audit(ME, wanted=True, clock=clock)
    for number in range(3000):
        clock.now = 100 + number / 1000
        audit.received(Event.REPLAYED, 0x101, number, PEER)
    assert [(one["sequence_number"], one.get("suppressed", 0)) for one in told()] == [(0, 0), (1000, 999), (2000, 999)]


def test_what_was_not_told_is_told_when_no_more_follow(told: Callable[[], list[dict[str, Any]]]) -> None:
    clock = Clock()
    audit = Audit(ME, wanted=True, clock=clock)
    for number in range(5):
        audit.received(Event.REPLAYED, 0x101, number, PEER)
    audit.tick()
    assert len(told()) == 1
    clock.now += EVERY_S
    for _ in range(3):
        audit.tick()
    assert told()[1:] == [{"event": "audit.replayed", "suppressed": 4}]


def test_a_flood_of_one_kind_hides_no_other(told: Callable[[], list[dict[str, Any]]]) -> None:
    audit = Audit(ME, wanted=True, clock=Clock())
    for event in (Event.NO_SA, Event.NO_SA, Event.BAD_ICV, Event.REPLAYED):
        audit.received(event, 0x101, 1, PEER)
    assert [one["event"] for one in told()] == ["audit.no_sa", "audit.bad_icv", "audit.replayed"]


def test_a_member_tells_the_rest_in_its_own_time(r: Rig, told: Callable[[], list[dict[str, Any]]]) -> None:
    member = r.b.members[0]
    clock = Clock()
    member._audit._clock = clock
    for _ in range(3):
        r.b.arrive(0, [Group(b"\x77" * 60, 60)])
    member._tick()
    clock.now += EVERY_S
    member._tick()
    assert [one.get("suppressed", 0) for one in told()] == [0, 2]


@pytest.fixture
def r() -> Any:
    with rig(members=1) as made:
        yield made

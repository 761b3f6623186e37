"""The capture: what is ESP, what is control and what is plaintext; and that it sees through offload frames."""

from __future__ import annotations

import contextlib
import errno
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6ND_NS, IPv6
from scapy.layers.ipsec import ESP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw
from scapy.utils import rdpcap

from fwd.lab import capture, tools, wire
from fwd.lab.capture import VNET, Recorder
from fwd.lab.topology import Topology

A, B, A6, B6 = "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"
MARKER = bytes(range(16))
ETHERNET: dict[str, Any] = {
    "src": "02:00:00:00:00:01",
    "dst": "02:00:00:00:00:02",
}  # else scapy asks the network for them
GSO_TCP4, GSO_UDP = 1, 5
SPI = 0x1000


def recorder(sample: int = 0) -> Recorder:
    return Recorder([A, B, A6, B6], range(4500, 4504), MARKER, sample)


def esp(number: int, spi: int = SPI, length: int = 100) -> bytes:
    return struct.pack(">IIQ", spi, number & 0xFFFFFFFF, number) + b"\xa5" * (length - 16)


def framed(packet: Packet, gso_type: int = 0, gso_size: int = 0) -> bytes:
    kind = {IP: 0x0800, IPv6: 0x86DD, ARP: 0x0806}[type(packet)]
    vnet = struct.pack("<BBHHHH", 0, gso_type, 0, gso_size, 0, 0)
    return vnet + bytes(Ether(type=kind, **ETHERNET) / packet)


def feed(to: Recorder, packet: Packet, gso_type: int = 0, gso_size: int = 0) -> None:
    frame = framed(packet, gso_type, gso_size)
    to.buffer[: len(frame)] = frame
    to.frame(len(frame))


def ike_message(length: int = 100) -> bytes:
    head = b"initspi1" + b"respspi1" + bytes([33, 0x20, 34, 8]) + bytes(4) + length.to_bytes(4, "big")
    return head.ljust(100, b"x")


def outer(payload: bytes, port: int = 4500, to_port: int | None = None, ipv6: bool = False) -> Packet:
    ip = IPv6(src=A6, dst=B6) if ipv6 else IP(src=A, dst=B)
    return ip / UDP(sport=port, dport=to_port or port) / Raw(payload)


@pytest.mark.parametrize("ipv6", [False, True])
def test_an_offload_frame_is_split(ipv6: bool) -> None:
    r = recorder()
    numbers = range(7, 51)
    feed(r, outer(b"".join(map(esp, numbers)) + esp(51, length=40), 4502, ipv6=ipv6), GSO_UDP, 100)
    result = r.result()
    assert result["esp_packets"] == 45
    assert result["esp_bytes"] == 44 * 100 + 40
    assert result["esp_by_port"] == {"4502": 45}
    assert result["seq_per_spi"][A6 if ipv6 else A] == {str(SPI): [7, 51, 45]}
    assert result["plaintext_packets"] == result["repeated_nonces"] == 0


def test_a_run_longer_than_a_chunk_keeps_every_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "_CHUNK_PACKETS", 1 << 10)
    r = recorder()
    frames = 100
    for frame in range(frames):
        feed(r, outer(b"".join(esp(frame * 44 + i) for i in range(44))), GSO_UDP, 100)
    result = r.result()
    assert result["seq_per_spi"][A][str(SPI)] == [0, frames * 44 - 1, frames * 44]
    assert result["repeated_nonces"] == 0


def test_repeated_nonces_are_found_inside_a_frame_and_between_frames() -> None:
    r = recorder()
    feed(r, outer(esp(1) + esp(2) + esp(2)), GSO_UDP, 100)
    feed(r, outer(esp(1)))
    feed(r, outer(esp(1, spi=SPI + 1)))
    feed(r, IP(src=B, dst=A) / UDP(sport=4500, dport=4500) / Raw(esp(1)))  # the other direction has its own keys
    feed(r, outer(esp((1 << 32) + 1)))  # the low half alone is the same
    assert r.result()["repeated_nonces"] == 2


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(ARP(hwsrc=ETHERNET["src"], psrc=A, pdst=B), id="ARP"),
        pytest.param(IPv6(src="fe80::1", dst="ff02::1:ff00:2") / ICMPv6ND_NS(tgt=B6), id="neighbour discovery"),
        pytest.param(IP(src=A, dst=B) / ICMP(type=3, code=4) / Raw(b"x" * 28), id="ICMP error"),
        pytest.param(outer(b"\xff"), id="NAT keepalive"),
        pytest.param(outer(b"\0" * 4 + b"i" * 28), id="IKE"),
        pytest.param(outer(ike_message(), port=500), id="IKE on its own port"),
    ],
)
def test_control(packet: Packet) -> None:
    r = recorder()
    feed(r, packet)
    assert (r.control_packets, r.plaintext_packets, r.esp_packets) == (1, 0, 0)


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(IP(src="10.1.0.10", dst="10.2.0.10") / TCP() / Raw(b"clear"), id="inner addresses"),
        pytest.param(IP(src=A, dst="198.51.100.1") / UDP(sport=4500, dport=4500) / Raw(esp(1)), id="elsewhere"),
        pytest.param(outer(esp(1), 4600), id="another port"),
        pytest.param(outer(esp(1), 4500, 4501), id="unequal ports"),
        pytest.param(outer(b"short"), id="too short for ESP"),
        pytest.param(outer(esp(1, spi=1)), id="reserved SPI"),
        pytest.param(outer(b"x" * 50 + MARKER + b"x" * 50), id="marker"),
        pytest.param(outer(ike_message(99), port=500), id="no whole IKE message"),
        pytest.param(outer(ike_message(), port=501), id="IKE elsewhere"),
        pytest.param(IP(src=A, dst=B) / ICMP(type=8), id="ping between gateways"),
        pytest.param(IP(src=A, dst=B, frag=10, proto=17) / Raw(b"x" * 60), id="fragment"),
        pytest.param(IP(src=A, dst=B, proto=47) / Raw(b"x" * 60), id="GRE"),
        pytest.param(IPv6(src="fd00:1::10", dst="fd00:2::10") / UDP() / Raw(b"clear"), id="inner IPv6"),
    ],
)
def test_plaintext(packet: Packet) -> None:
    r = recorder()
    feed(r, packet)
    assert (r.control_packets, r.plaintext_packets, r.esp_packets) == (0, 1, 0)
    assert bytes.fromhex(r.examples[0]) == bytes(r.buffer[VNET : VNET + 14 + len(packet)])[:64]


def test_a_clear_offload_frame_counts_its_packets_and_examples_are_few() -> None:
    r = recorder()
    for _ in range(7):
        feed(r, IP(src="10.1.0.10", dst="10.2.0.10") / TCP() / Raw(b"x" * 2960), GSO_TCP4, 1000)
    assert r.plaintext_packets == 7 * 3
    assert len(r.examples) == 5


def test_a_frame_too_long_to_read_counts_as_dropped() -> None:
    r = recorder()
    r.frame(len(r.buffer) + 1)
    assert r.result()["capture_drops"] == 1


def test_frames_cut_short_anywhere_raise_nothing() -> None:
    for packet in (outer(esp(1)), outer(esp(1), ipv6=True), IPv6(nh=0, src=A6, dst=B6) / Raw(b"x" * 8)):
        whole = framed(packet)
        for n in range(len(whole)):
            r = recorder()
            r.buffer[:n] = whole[:n]
            r.frame(n)
            assert r.esp_packets + r.plaintext_packets + r.control_packets == 1


@pytest.mark.parametrize("ipv6", [False, True])
def test_the_sample_has_whole_datagrams(ipv6: bool) -> None:
    r = recorder(sample=3)
    feed(r, outer(b"".join(map(esp, range(1, 5))), ipv6=ipv6), GSO_UDP, 100)
    assert len(r.sample) == 3
    for number, (_, data) in enumerate(r.sample, start=1):
        packet = Ether(data)
        assert bytes(packet[UDP].payload) == esp(number)
        assert packet[UDP].len == 108
        rebuilt = packet.copy()
        if ipv6:
            assert packet[IPv6].plen == 108
            del rebuilt[UDP].chksum
        else:
            assert packet[IP].len == 128
            assert packet[UDP].chksum == 0
            del rebuilt[IP].chksum
        assert bytes(Ether(bytes(rebuilt))) == data


def test_bad_input_is_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = ["--iface", "lo", "--outer", A, "--outer", B, "--out", str(tmp_path / "out")]
    for extra in (
        ["--iface", "nosuchdevice"],
        ["--outer", "x"],
        ["--ports", "9-8"],
        ["--marker", "abcd"],
        ["--seconds", "-1"],
        ["--out", "/nosuchdirectory/out"],
    ):
        with pytest.raises(SystemExit) as ended:
            capture.main([*good, *extra])
        assert ended.value.code == 2
        told = capsys.readouterr().err
        assert len(told.splitlines()) == 1, told
        assert extra[0] in told


SENDER = """
import socket, struct, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("192.0.2.1", 4501))
sock.connect(("192.0.2.2", 4501))
number = 0
for _ in range(50):
    data = b"".join(struct.pack(">IIQ", 0x1000, n, n) + b"e" * 1448 for n in range(number + 1, number + 45))
    number += 44
    sock.sendmsg([data], [(17, 103, struct.pack("=H", 1464))])
"""


@pytest.mark.netns
@pytest.mark.alone
@pytest.mark.parametrize("offload", [True, False])
def test_both_modes_of_the_wire_give_the_same_count(
    lab: Callable[..., Topology], tmp_path: Path, offload: bool
) -> None:
    topology = lab()
    topology.ethtool("gw1", "wan", "tx-udp-segmentation", offload)
    pcap = tmp_path / "sample.pcap"
    with capturing(topology, tmp_path, "--pcap", str(pcap), "--sample", "100") as result:
        topology.run("gw1", [sys.executable, "-c", SENDER])
        topology.run("gw1", ["ping", "-c1", "-W2", B])
    assert result["esp_by_port"] == {"4501": 2200}
    assert result["seq_per_spi"][A] == {str(0x1000): [1, 2200, 2200]}
    assert result["repeated_nonces"] == result["capture_drops"] == 0
    assert result["plaintext_packets"] == 2  # the ping and its answer
    sample = rdpcap(str(pcap))
    assert len(sample) == 100
    assert [ESP(bytes(p[UDP].payload)).seq for p in sample] == list(range(1, 101))


@pytest.mark.netns
@pytest.mark.alone
def test_on_a_bridge_it_sees_what_passes_through_once_and_not_what_its_host_sends(
    lab: Callable[..., Topology], tmp_path: Path
) -> None:
    topology = lab()
    for line in (
        "link add br0 type bridge", "addr flush dev wan", "link set wan master br0", "link set lan master br0",
        "link set br0 up", "addr add 192.0.2.9/24 dev br0",
    ):  # fmt: skip
        topology.run("gw1", ["ip", *line.split()])
    topology.run("client1", ["ip", "addr", "add", f"{A}/24", "dev", "eth0"])
    with capturing(topology, tmp_path, "--bridge", iface="br0") as result:
        topology.run("client1", [sys.executable, "-c", SENDER])
        topology.run("gw1", ["ping", "-c1", "-W2", B])
    assert result["esp_packets"] == 2200
    assert result["plaintext_packets"] == 1  # the answer to the ping


STOPPED = """
import os, socket
from fwd.lab import capture, tools, wire
capture._BATCH_FRAMES_MAX = 10
with capture.open_socket("lo") as sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
    there.bind(("127.0.0.1", 0))
    for _ in range(35):
        there.sendto(b"in the clear", there.getsockname())
    result = capture.run(sock, capture.Recorder(["192.0.2.1"], [4500]), 30, os.eventfd(1))
print(result["plaintext_packets"])
"""


def test_an_interface_that_goes_down_is_no_frame_that_was_missed() -> None:
    """The kernel tells of it once, in place of a frame; what it cannot say of one is one that was missed."""
    errors = [OSError(errno.ENETDOWN, "down"), OSError(errno.EINVAL, "an offload"), BlockingIOError()]
    seen = recorder()
    sock: Any = SimpleNamespace(recv_into=Mock(side_effect=errors))
    assert capture.drain(sock, seen)
    assert seen.unread_frames == 1


@pytest.mark.netns
def test_whatever_waits_when_it_is_stopped_is_counted(lab: Callable[..., Topology]) -> None:
    assert lab().run("gw1", [sys.executable, "-c", STOPPED]).stdout == "70\n"  # sent, and received


@contextlib.contextmanager
def capturing(topology: Topology, directory: Path, *options: str, iface: str = "wan") -> Iterator[dict[str, Any]]:
    """A capture on gw1, and somebody at 192.0.2.2 who takes what SENDER sends; the result is there afterwards."""
    # A socket at the far end, so that no ICMP error answers; it need not read.
    sink = topology.popen("gw2", [sys.executable, "-c", SINK], stdout=subprocess.PIPE, text=True)
    with tools.ended(sink):
        tools.await_ready(sink, "the sink")
        with wire.watched(topology, "gw1", directory, (A, B), *options, iface=iface) as seen:
            yield seen


SINK = """
import signal, socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("192.0.2.2", 4501))
print("ready", flush=True)
signal.pause()
"""

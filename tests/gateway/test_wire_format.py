"""What is on the wire, read by another implementation, scapy's, with keys that the test derives itself."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from gwkit import TCP_MBPS_MIN, MakePair, Pair
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, IPSecIntegrityError, SecurityAssociation
from scapy.utils import RawPcapReader

from fwd.keyd.source import LabSource
from fwd.model.config import load

PACKETS = 2000
AGGFRAG = 144
HEADERS_BYTES = 14 + 20 + 8  # Ethernet, IPv4, UDP
DISSECTED = 200  # inner packets that scapy takes apart to the last layer


class Oracle:
    """Opens ESP packets of both gateways, by their SPI."""

    def __init__(self, pair: Pair) -> None:
        self._associations: dict[int, SecurityAssociation] = {}
        peering = load(pair.config("gw1")).peering[0]
        fd = os.memfd_create("secret")
        os.write(fd, pair.secret)
        source = LabSource(fd, peering)
        os.close(fd)
        for member in range(peering.members):
            for epoch in range(4):
                for keys in (source.outbound(member, epoch), source.inbound(member, epoch)):
                    self._associations[keys.spi] = SecurityAssociation(
                        ESP, spi=keys.spi, crypt_algo="AES-GCM", crypt_key=keys.key + keys.salt, esn_en=keys.esn
                    )

    def open(self, data: bytes) -> tuple[int, bytes]:
        """Next header and payload; raises if it is no ESP packet of theirs."""
        encrypted = ESP(data)
        association = self._associations[encrypted.spi]
        esp = association.crypt_algo.decrypt(
            association, encrypted, association.crypt_key, association.crypt_algo.icv_size, esn_en=association.esn_en
        )
        return esp.nh, esp.data


def sample(pair: Pair, tmp_path: Path) -> list[bytes]:
    """The UDP payloads of the first packets on the wire under TCP, both versions and pings."""
    pcap = tmp_path / "wire.pcap"
    with pair.capture(pcap=pcap) as wire:
        assert pair.ping(count=5)
        assert pair.ping(to=pair.topology.address("client2", version=6), count=5)
        assert pair.tcp() > TCP_MBPS_MIN
    assert wire["plaintext_packets"] == 0, wire["plaintext_examples"]
    assert wire["repeated_nonces"] == 0
    with RawPcapReader(str(pcap)) as packets:
        payloads = [bytes(packet[HEADERS_BYTES:]) for packet, _ in packets]
    assert len(payloads) == PACKETS
    return payloads


@pytest.mark.parametrize("esn", [True, False], ids=["ESN", "32 bits"])
def test_esp_is_plain_rfc_4303_tunnel_mode(pairs: MakePair, tmp_path: Path, esn: bool) -> None:
    pair = pairs([{"payload": "esp", "esn": esn}])
    oracle = Oracle(pair)
    seen: Counter[int] = Counter()
    packets = sample(pair, tmp_path)
    for data in packets:
        next_header, payload = oracle.open(data)
        seen[next_header] += 1
        assert int.from_bytes(data[4:8], "big") == int.from_bytes(data[12:16], "big")  # the IV is the number
        assert next_header == (4 if payload[0] >> 4 == 4 else 41)
        octets = int.from_bytes(payload[2:4] if next_header == 4 else payload[4:6], "big")
        assert len(payload) == (octets if next_header == 4 else octets + 40)
        if sum(seen.values()) <= DISSECTED:
            inner = IP(payload) if next_header == 4 else IPv6(payload)
            assert {inner.src, inner.dst} == {
                pair.topology.address(client, version=inner.version) for client in ("client1", "client2")
            }
            if next_header == 4:
                del inner.chksum
                assert bytes(inner)[10:12] == payload[10:12]
    assert set(seen) == {4, 41}
    changed = bytearray(packets[0])
    changed[-20] ^= 1
    with pytest.raises((InvalidTag, IPSecIntegrityError)):
        oracle.open(bytes(changed))


def test_superpacket_is_esp_with_aggfrag_inside(pairs: MakePair, tmp_path: Path) -> None:
    pair = pairs()
    oracle = Oracle(pair)
    records = 0
    for data in sample(pair, tmp_path):
        next_header, payload = oracle.open(data)
        assert next_header == AGGFRAG
        assert payload[1] == 0
        records += payload[2:4] == b"\0\0"
    assert records

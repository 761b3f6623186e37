"""A flow that is asked about hashes as its packets do: scapy makes these."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6

from fwd.proto.flow import BUCKET_MASK, flow_hash
from fwd.proto.sample import Flow

A, B = "10.1.0.10", "10.2.0.10"
A6, B6 = "fd00:1::10", "fd00:2::10"
BODY = b"x" * 40


@pytest.mark.parametrize(
    ("flow", "packet"),
    [
        (Flow(ip_address(A), ip_address(B), 6, 5000, 80), IP(src=A, dst=B) / TCP(sport=5000, dport=80) / BODY),
        (Flow(ip_address(A), ip_address(B), 17, 5000, 53), IP(src=A, dst=B, tos=8) / UDP(sport=5000, dport=53) / BODY),
        (Flow(ip_address(A), ip_address(B), 1), IP(src=A, dst=B) / ICMP(id=7, seq=9) / BODY),
        (Flow(ip_address(A6), ip_address(B6), 6, 5000, 80), IPv6(src=A6, dst=B6) / TCP(sport=5000, dport=80) / BODY),
        (Flow(ip_address(A6), ip_address(B6), 17, 1, 2), IPv6(src=A6, dst=B6, tc=8) / UDP(sport=1, dport=2) / BODY),
    ],
)
def test_a_flow_is_in_the_bucket_of_its_packets(flow: Flow, packet: Any) -> None:
    assert flow.bucket == flow_hash(memoryview(bytes(packet))) & BUCKET_MASK
    assert Flow.read(flow.as_json()) == flow
    assert flow.back.back == flow
    assert flow.back.bucket != flow.bucket


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"source": A6}, "two IP versions"),
        ({"source": "x"}, "does not appear"),
        ({"source": 7}, "are addresses"),
        ({"source": "1" * 1000}, "are addresses"),
        ({"protocol": 256}, "no IP protocol"),
        ({"protocol": True}, "whole numbers"),
        ({"protocol": 6.5}, "whole numbers"),
        ({"source_port": 65536}, "no port"),
        ({"destination_port": -1}, "no port"),
    ],
)
def test_what_is_no_flow_is_refused_by_one_line(changed: dict[str, Any], why: str) -> None:
    told = Flow(ip_address(A), ip_address(B), 6, 5000, 80).as_json()
    with pytest.raises(ValueError, match=why) as error:
        Flow.read(told | changed)
    assert "\n" not in str(error.value)

"""A flow that somebody asks about, and the first octets of a packet of it: what flow.py hashes.

Such a packet is whole and has no options or extension headers; a fragment of the flow may hash elsewhere. Refuses, as
a ValueError of one line: addresses of two IP versions, a protocol or port that is no number of 8 or 16 bits.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from fwd.proto.flow import BUCKET_MASK, WITH_PORTS, flow_hash
from fwd.proto.steering import bucket_of

Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Flow:
    """Addresses, protocol and ports; ports are 0 where the protocol has none."""

    source: Address
    destination: Address
    protocol: int
    source_port: int = 0
    destination_port: int = 0

    def __post_init__(self) -> None:
        if self.source.version != self.destination.version:
            raise ValueError(f"{self.source} and {self.destination} are of two IP versions")
        if not 0 <= self.protocol < 256:
            raise ValueError(f"{self.protocol} is no IP protocol: 0 to 255")
        for port in (self.source_port, self.destination_port):
            if not 0 <= port < 65536:
                raise ValueError(f"{port} is no port: 0 to 65535")

    @classmethod
    def read(cls, told: dict[str, Any]) -> Flow:
        """Read one from JSON. Raises ValueError."""
        numbers = [told.get(key, 0) for key in ("protocol", "source_port", "destination_port")]
        if any(type(one) is not int for one in numbers):
            raise ValueError("protocol and ports are whole numbers")
        ends = [told.get(key) for key in ("source", "destination")]
        if any(type(one) is not str or len(one) > 64 for one in ends):
            raise ValueError("source and destination are addresses")
        source, destination = (ip_address(str(one)) for one in ends)
        return cls(source, destination, *numbers)

    def as_json(self) -> dict[str, Any]:
        """Return it as `read` takes it."""
        return {
            "source": str(self.source), "destination": str(self.destination), "protocol": self.protocol,
            "source_port": self.source_port, "destination_port": self.destination_port,
        }  # fmt: skip

    @property
    def back(self) -> Flow:
        """The flow of its replies."""
        return Flow(self.destination, self.source, self.protocol, self.destination_port, self.source_port)

    @property
    def pair(self) -> bytes:
        """Both addresses, as selectors take them."""
        return self.source.packed + self.destination.packed

    @property
    def bucket(self) -> int:
        """The bucket of the flow table that its packets hash to."""
        return flow_hash(memoryview(self.head())) & BUCKET_MASK

    @property
    def steered_bucket(self) -> int:
        """The same where the kernel steers."""
        return bucket_of(self.head()) or 0

    def head(self) -> bytes:
        """Return the IP header and the ports of one of its packets."""
        ports = struct.pack("!HH", self.source_port, self.destination_port) if self.protocol in WITH_PORTS else b""
        if self.source.version == 4:
            return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(ports), 0, 0, 64, self.protocol, 0) + self.pair + ports
        return struct.pack("!IHBB", 0x60000000, len(ports), self.protocol, 64) + self.pair + ports

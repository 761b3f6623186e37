"""Sizes that the demux and the member must agree on: what a path leaves for a row, and how long a ring segment is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from fwd.proto.aggfrag import chunk_bytes, row_bytes
from fwd.proto.esp import OVERHEAD_BYTES, TRAILER_BYTES
from fwd.proto.ip import RECORD_MAX

UDP_BYTES: Final = 8
# Tuning: a segment takes up to so many octets of records: two of 64 KiB, if the demux finds them waiting. The more of
# them share a burst, the less each pays for what a burst costs, and the fewer sends end short.
SEGMENT_DATA: Final = 2 * RECORD_MAX
PATH_MTU_MIN: Final = 552  # Linux believes in no smaller one (net.ipv4.route.min_pmtu)

_INNER_MTU_MIN, _INNER_MTU_MIN_V6 = 576, 1280


def inner_mtu_min(subnets: Iterable[IPv4Network | IPv6Network]) -> int:
    """Return the least MTU of a TUN device for these subnets.

    Below IPv6's least MTU (RFC 8200 §5) a device loses IPv6, routes included, and never gets it back. Over a path that
    takes less (payload esp) outer packets become fragments.
    """
    return _INNER_MTU_MIN_V6 if any(subnet.version == 6 for subnet in subnets) else _INNER_MTU_MIN


def outer_header_bytes(version: int) -> int:
    """Outer IP and UDP header."""
    return (40 if version == 6 else 20) + UDP_BYTES


def rows_for(chunk: int) -> int:
    """Rows of a segment that are put to use when each takes `chunk` octets."""
    return max(SEGMENT_DATA, RECORD_MAX) // chunk + 1


@dataclass(frozen=True, slots=True)
class Geometry:
    """Rows of a peering whose paths take at most `path_mtu` bytes; a smaller path found later uses part of each row."""

    path_mtu: int
    version: int  # of the outer IP

    @property
    def packet_bytes(self) -> int:
        """The largest ESP packet, a multiple of 4."""
        return self.packet_bytes_for(self.path_mtu)

    @property
    def chunk(self) -> int:
        """Data octets of a full row (payload superpacket)."""
        return self.chunk_for(self.path_mtu)

    @property
    def stride(self) -> int:
        """Octets of a full row."""
        return row_bytes(self.chunk)

    @property
    def inner_mtu(self) -> int:
        """The longest inner packet that fits one ESP packet (payload esp)."""
        return self.inner_mtu_for(self.path_mtu)

    @property
    def rows(self) -> int:
        """Rows of a ring segment: enough for a record of 64 KiB even on the smallest path that may be found later."""
        return max(rows_for(self.chunk), RECORD_MAX // self.chunk_for(PATH_MTU_MIN) + 1)

    def packet_bytes_for(self, path_mtu: int) -> int:
        """The largest ESP packet on a path of `path_mtu`."""
        return (max(path_mtu, PATH_MTU_MIN) - outer_header_bytes(self.version)) // 4 * 4

    def chunk_for(self, path_mtu: int) -> int:
        """Data octets of a full row on a path of `path_mtu`."""
        return chunk_bytes(self.packet_bytes_for(path_mtu))

    def inner_mtu_for(self, path_mtu: int) -> int:
        """The longest inner packet on a path of `path_mtu` (payload esp)."""
        return self.packet_bytes_for(path_mtu) - OVERHEAD_BYTES - TRAILER_BYTES

"""Source ports chosen so that a flow lands on the member one wants: the gateway's own hash, asked beforehand.

Holds while all members live and no bucket has moved. IPv4 only: the demo's inner traffic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address

from fwd.lab.hosts import Hosts
from fwd.proto import flow, steering

# source, source port, destination, destination port, protocol → member
MemberOfFlow = Callable[[str, int, str, int, int], int]


def member_of_flow(members: int, *, steered: bool = False) -> MemberOfFlow:
    """The member that a gateway with this many, all of them live, gives a flow to; `steered`: its kernel does."""
    owners = flow.owners(flow.rendezvous_scores(members), (1 << members) - 1)

    def member(source: str, source_port: int, to: str, to_port: int, protocol: int) -> int:
        packet = bytes([0x45, *bytes(8), protocol, 0, 0])
        packet += IPv4Address(source).packed + IPv4Address(to).packed
        packet += source_port.to_bytes(2, "big") + to_port.to_bytes(2, "big")
        bucket = steering.bucket_of(packet) if steered else flow.flow_hash(memoryview(packet)) & flow.BUCKET_MASK
        return int(owners[bucket or 0])

    return member


def between_clients(
    hosts: Hosts, members: int, port: int, protocol: int, *, steered: bool = False
) -> Callable[[int], int]:
    """The member that carries a flow from client1 to a port of client2, by its source port."""
    member, source, to = member_of_flow(members, steered=steered), hosts.address("client1"), hosts.address("client2")
    return lambda source_port: member(source, source_port, to, port, protocol)


def port_of_each_member(member: Callable[[int], int], members: int, first_port: int) -> list[int]:
    """For each member the lowest source port, from `first_port` on, whose flow it carries."""
    found: dict[int, int] = {}
    for port in range(first_port, 65536):
        found.setdefault(member(port), port)
        if len(found) == members:
            return [found[i] for i in range(members)]
    raise ValueError(f"no source port from {first_port} on reaches every one of {members} members")


def evenest_run(member: Callable[[int], int], members: int, streams: int, ports: range) -> int:
    """The first of `streams` successive source ports that spread most evenly over the members."""

    def unevenness(first: int) -> int:
        load = Counter(member(port) for port in range(first, first + streams))
        return sum(load[i] ** 2 for i in range(members))

    return min(ports[: -streams or None], key=unevenness)

"""Flows: which packets belong together, which bucket they hash to, which member owns the bucket.

A flow key is one contiguous slice wherever the header allows (IPv4 without options: addresses and ports;
IPv6: addresses and ports), with the protocol as xxh3's seed. Fragments and protocols without ports hash on
addresses and protocol alone, so that all parts of a datagram take one member (RFC 2992's concern).
Owners come from rendezvous hashing: a member that leaves takes only its own buckets along.
Refuses nothing: a packet that is cut short hashes on what it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import xxhash

Buffer = bytes | bytearray | memoryview

BUCKETS: Final = 65536
BUCKET_MASK: Final = BUCKETS - 1
NOBODY: Final = 0xFFFF  # owner of a bucket when no member is live
PARKED: Final = 0xFFFE  # of one whose records wait until its member has sent all that it holds
TICK_MASK: Final = 0xFFFFFFFF  # the last use of a bucket is kept in 32 bits

TCP, UDP, DCCP, SCTP, UDPLITE = 6, 17, 33, 132, 136
WITH_PORTS: Final = frozenset({TCP, UDP, DCCP, SCTP, UDPLITE})
_held: WeakValueDictionary[int, npt.NDArray[np.uint64]] = WeakValueDictionary()
_HOP_BY_HOP, _ROUTING, FRAGMENT, AH, _DESTINATION, _MOBILITY = 0, 43, 44, 51, 60, 135
EXTENSIONS: Final = frozenset({_HOP_BY_HOP, _ROUTING, AH, _DESTINATION, _MOBILITY})
EXTENSIONS_MAX: Final = 8  # of one packet, that are passed over

_xxh = xxhash.xxh3_64_intdigest


def flow_hash(packet: memoryview) -> int:
    """64-bit hash of the flow that `packet` (an IP packet of at least its fixed header) belongs to."""
    first = packet[0]
    if first == 0x45:
        protocol = packet[9]
        if protocol in WITH_PORTS and not (packet[6] & 0x3F or packet[7]):
            return _xxh(packet[12:24], protocol)
        return _xxh(packet[12:20], protocol)
    if first >> 4 == 6:
        protocol = packet[6]
        if protocol in WITH_PORTS:
            return _xxh(packet[8:44], protocol)
        return _behind_extensions(packet)
    return _behind_options(packet)


def _behind_options(packet: memoryview) -> int:
    """IPv4 with options: the ports stand behind them."""
    protocol, at = packet[9], (packet[0] & 0x0F) * 4
    if protocol in WITH_PORTS and not (packet[6] & 0x3F or packet[7]):
        return _xxh(bytes(packet[12:20]) + packet[at : at + 4], protocol)
    return _xxh(packet[12:20], protocol)


def _behind_extensions(packet: memoryview) -> int:
    """IPv6 whose next header is not a transport: walk the chain (RFC 8200 §4), which is bounded here."""
    protocol, at = packet[6], 40
    for _ in range(EXTENSIONS_MAX):
        if protocol in WITH_PORTS:
            return _xxh(bytes(packet[8:40]) + packet[at : at + 4], protocol)
        if protocol == FRAGMENT and at < len(packet):
            return _xxh(packet[8:40], packet[at])
        if protocol not in EXTENSIONS or at + 2 > len(packet):
            break
        length = (packet[at + 1] + 2) * 4 if protocol == AH else (packet[at + 1] + 1) * 8
        protocol, at = packet[at], at + length
    return _xxh(packet[8:40], protocol)


def rendezvous_scores(members: int) -> npt.NDArray[np.uint64]:
    """Score of every (bucket, member): shape (BUCKETS, members). The highest live one owns the bucket.

    All peerings of so many members have the same, which is not to be written to.
    """
    found = _held.get(members)
    if found is None:
        found = np.empty((BUCKETS, members), dtype=np.uint64, order="F")
        for member in range(members):
            found[:, member] = scores_of(member)
        found.flags.writeable = False
        _held[members] = found
    return found


@cache
def scores_of(member: int) -> npt.NDArray[np.uint64]:
    """Score of every bucket for one member."""
    found = _mix(_bucket_names() ^ np.uint64(_xxh(member.to_bytes(4, "little"), 1)))
    found.flags.writeable = False
    return found


@cache
def _bucket_names() -> npt.NDArray[np.uint64]:
    """Return the hash of every bucket: worked out once, before a demux is forked, which may get members later."""
    return np.array([_xxh(b.to_bytes(4, "little")) for b in range(BUCKETS)], dtype=np.uint64)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Finalizer of 64 bits, so that the order of members differs from bucket to bucket."""
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))


def owners(scores: npt.NDArray[np.uint64], live: int) -> npt.NDArray[np.uint16]:
    """Owner of every bucket when the members whose bits are set in `live` are; NOBODY when none is."""
    members = [m for m in range(scores.shape[1]) if live >> m & 1]
    if not members:
        return np.full(BUCKETS, NOBODY, dtype=np.uint16)
    # Member by member: a demux that carries traffic has a millisecond for it, and not the twenty of an argmax.
    chosen = np.full(BUCKETS, members[0], dtype=np.uint16)
    best = scores[:, members[0]].copy()
    for member in members[1:]:
        score = scores[:, member]
        better = score > best
        chosen[better] = member
        np.maximum(best, score, out=best)
    return chosen


def owner_of(bucket: int, members: Sequence[int]) -> int:
    """Owner of one bucket when these members are live, and it has not stayed with another: as in the table `owners`."""
    names = np.array([_xxh(one.to_bytes(4, "little"), 1) for one in members], dtype=np.uint64)
    return members[int(_mix(names ^ np.uint64(_xxh(bucket.to_bytes(4, "little")))).argmax())]


def settle(
    current: npt.NDArray[np.uint16],
    target: npt.NDArray[np.uint16],
    last_used: npt.NDArray[np.uint32],
    live: int,
    now: int,
    idle: int,
) -> int:
    """Move buckets of `current` to `target`, in place; returns how many still differ.

    A bucket moves when its owner is not in `live`, or when it has not been used for `idle` (the unit of
    `now` and `last_used`): rule 3. Where `target` has none of a live member's, that member drains: its busy
    buckets stay. So do parked ones that are busy. `now` and `last_used` are 32 bits of a clock that may wrap; a bucket
    that was used one whole turn ago looks busy, and moves `idle` later.
    """
    alive = np.zeros(NOBODY + 1, dtype=np.bool_)
    alive[[m for m in range(64) if live >> m & 1]] = True
    alive[PARKED] = True
    free = ~alive[current] | (np.uint32(now & TICK_MASK) - last_used >= np.uint32(idle))
    current[free] = target[free]
    return int(np.count_nonzero(current != target))


def receivers(live: int, draining: int) -> int:
    """Return which members get buckets: the live ones that do not drain; if all of them drain, they keep theirs."""
    return live & ~draining or live


def park(current: npt.NDArray[np.uint16], leaving: int) -> int:
    """Take the buckets of the members in `leaving` from them, in place; returns how many have nobody now."""
    taken = np.isin(current, [m for m in range(64) if leaving >> m & 1])
    current[taken] = PARKED
    return int(np.count_nonzero(taken))

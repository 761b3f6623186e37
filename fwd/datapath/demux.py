"""The demux of one peering: TUN device → selectors → flow → bucket → the ring of the bucket's member.

One record is one read, one hash and one copy, whatever its length up to 64 KiB. Records of one TOS octet share a
segment; a segment goes to its member when it is full or the TUN device is drained, so nothing waits for a timer.
Refused and counted: records whose length is not what their IP header says, inner addresses outside the selectors,
records of a shape that no sender has or that this payload cannot carry (shapes.py), records for a bucket without a live
member or for a full ring. An ICMP error from outside the selectors goes, if the packet that it quotes is of the peering
and not too many do. It never looks at keys.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from typing import Final

import numpy as np
import numpy.typing as npt

from fwd.datapath.audit import Audit
from fwd.datapath.barrier import Barrier
from fwd.datapath.channel import ChannelError, Notice, hear
from fwd.datapath.counters import DemuxCounter, MemberCounter
from fwd.datapath.lane import BULK_MAX, Lane
from fwd.datapath.parking import Parking
from fwd.datapath.ring import SEGMENTS, Ring, RingMaps
from fwd.datapath.shapes import Shapes, keep
from fwd.datapath.shared import REST_MAX_S, REST_S, MaskWord, MemberShared, PeeringShared
from fwd.datapath.tun import DeviceError, is_drained
from fwd.datapath.tuning import Follower
from fwd.model.config import Peering
from fwd.proto.drops import DropReason
from fwd.proto.flow import (
    BUCKET_MASK,
    NOBODY,
    PARKED,
    TICK_MASK,
    flow_hash,
    owners,
    park,
    receivers,
    scores_of,
    settle,
)
from fwd.proto.icmp import Errors, is_error
from fwd.proto.ip import IP_MIN, RECORD_MAX, VNET_BYTES, Selectors, address_pair, ip_length, tos
from fwd.proto.logged import event
from fwd.proto.segments import TCP, UDP

log = logging.getLogger(__name__)
DEVICE_GONE: Final = 76  # exit status
IDLE_TICK_S = 0.2
_REST_TICKS = 5  # in a row without a record, after which it rests (shared.REST_S); for longer after one more
IDLE_BUCKET_S = 1.0  # a bucket unused for so long may move: longer than any packet is under way
_TICK_NS = 10_000_000  # unit of last use: 10 ms in 32 bits wrap after 497 days of the host's uptime
_SETTLE_TICKS = 10
_FLOWS_MAX = 16384  # remembered, of each protocol: bounded, so that no flood of flows can grow it
_KEY6_END = 44  # of an IPv6 packet's addresses and ports
_READS_MAX = 64  # records read before segments that are not full are handed over
_HELD_S = 0.001  # after which it looks again whether a member that had enough to do has room

_RECORDS = DemuxCounter.RECORDS.value  # a plain integer: reading a member of an enum costs as much as the addition


class Demux:
    """Reads the TUN device and fills the rings. `scores` are flow.rendezvous_scores for the peering's members."""

    def __init__(
        self, peering: Peering, tun_fd: int, rings: list[Ring], shared: PeeringShared,
        scores: npt.NDArray[np.uint64], bell: int | None = None, channel: socket.socket | None = None,
    ) -> None:  # fmt: skip
        """`bell`: an eventfd that is rung when a mask has changed; `channel`: by which rings come and go."""
        self._fd = tun_fd
        self._bell = bell
        self._channel = channel
        self._shared = shared
        self._block = shared.demux_counters
        self._counters = self._block.attach()
        self._esp = peering.payload == "esp"
        self._barrier = Barrier()

        # What the configuration lets through.
        self._selectors = Selectors(peering.local_ts, peering.remote_ts)
        self._errors = Errors(self._selectors)
        self._audit = Audit((str(peering.local_addrs), peering.port), wanted=peering.audit)
        self._follower = Follower(shared.tuning)

        # Rings, and which member each bucket belongs to. What was parked is gone with the predecessor.
        self._rings = rings
        self._lanes = [
            Lane(ring, member.link, self._block, i, esp=self._esp)
            for i, (ring, member) in enumerate(zip(rings, shared.members, strict=True))
        ]
        self._scores = scores
        self._masks, self._masks_seen, self._notices = shared.live, b"", shared.live[MaskWord.RINGS]
        self._live = self._receivers = -1
        self._target = shared.owners
        shared.owners[shared.owners == PARKED] = NOBODY
        self._parking = Parking()
        self._unsettled = self._settled_at = 0

        # What the loop counts.
        self._dropped = False  # something, since counters were published
        self._reads = self._counters[_RECORDS]  # records read, and counted once they are dropped or handed over
        self._reads_before = self._quiet_ticks = 0

        # Where each record is read to, and what is remembered of those before.
        self._scratch = bytearray(RECORD_MAX)
        self._record = memoryview(self._scratch)
        self._octets = np.frombuffer(self._scratch, np.uint8)
        self._packet = self._record[VNET_BYTES:]
        self._shapes = Shapes(self._record, rings[0].stride, rings[0].rows, esp=self._esp)
        # Flows of TCP and UDP that the selectors allow → bucket, by version, protocol, and addresses with ports.
        self._key4, self._key6 = self._packet[12:24], self._packet[8:_KEY6_END]
        self._unknown: dict[bytes, int] = {}  # of other packets nothing is remembered
        self._flows = [[{} if p in (TCP, UDP) else self._unknown for p in range(256)] for _ in range(2)]

    def run(self) -> int:
        """Loop until the process is ended, or the TUN device is gone: then return DEVICE_GONE."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if self._bell is not None:
            poll.register(self._bell, select.POLLIN)
        heartbeat = self._shared.demux.heartbeat

        while True:
            heartbeat[0] = now_ns = time.monotonic_ns()
            self._follow_live(now_ns // _TICK_NS)
            self._follow_tuning()
            self._go_on(now_ns)

            # Records into the lanes, and what is filled to the members.
            try:
                drained = self._read_burst(now_ns // _TICK_NS)
            except DeviceError as error:
                log.error("the TUN device is gone, or gives no records: %s", error, extra=event("demux.device_gone"))
                return DEVICE_GONE
            held = self._hand_over() or self._parking.active

            # With nothing more to read it waits, and says for how long if that is longer than a tick.
            if drained:
                wait_s = _HELD_S if held else self._idle_s()
                if wait_s > IDLE_TICK_S:
                    heartbeat[0] = now_ns + int(wait_s * 1e9)
                for fd, _ in poll.poll(wait_s * 1000):
                    if fd == self._bell:
                        os.eventfd_read(fd)

    def _idle_s(self) -> float:
        """How long nothing is due, unless a record comes or the live mask changes; not at all while rings are told."""
        self._audit.tick()
        if self._notices != self._masks[MaskWord.RINGS]:
            return 0.0
        self._quiet_ticks = self._quiet_ticks + 1 if self._reads == self._reads_before else 0
        self._reads_before = self._reads
        if self._quiet_ticks < _REST_TICKS or self._unsettled:
            return IDLE_TICK_S
        return REST_S if self._quiet_ticks == _REST_TICKS else REST_MAX_S

    def _read_burst(self, tick: int) -> bool:
        """Read up to _READS_MAX records into the lanes; True when the device is drained."""
        try:
            return self._parking.full or self._read_records(tick & TICK_MASK)
        except DeviceError:
            raise
        except Exception:  # noqa: BLE001 - the barrier tells of it
            self._barrier.caught("demux")
            self._lose_burst()
            return False

    def _lose_burst(self) -> None:
        """Count what was read since counters were published as lost, and go on from there as a successor would."""
        self._block.revert()
        for lane in self._lanes:
            lane.go_on()
        if self._parking.active:
            self._parking.forget()  # buckets stay parked until their old members have sent
        else:
            self._unpark()
        lost = self._reads - self._counters[_RECORDS]
        self._counters[DropReason.INTERNAL_ERROR] += lost
        self._counters[_RECORDS] += lost
        self._block.publish()

    def _read_records(self, tick: int) -> bool:
        """Read up to _READS_MAX records, and lay each into the lane of its bucket's member; True: there are no more."""
        readv, fd, buffers, reads, never = os.readv, self._fd, [self._record], 0, RECORD_MAX
        scratch, record, octets, lanes = self._scratch, self._record, self._octets, self._lanes
        owner, used, nobody = self._shared.owner_words, self._shared.used_words, len(self._lanes)
        (flows4, flows6), unknown, key4, key6 = self._flows, self._unknown, self._key4, self._key6
        esp, longest, sums, start = self._esp, self._shapes.longest, self._shapes.checksums, self._shapes.start
        try:
            while reads < _READS_MAX:
                try:
                    length = readv(fd, buffers)
                except OSError as error:
                    return is_drained(error)
                reads += 1

                # Its length, TOS octet and flow; IPv4 without options is by far the most, and so is written out.
                if scratch[VNET_BYTES] == 0x45:
                    size, tos_octet = scratch[VNET_BYTES + 2] << 8 | scratch[VNET_BYTES + 3], scratch[VNET_BYTES + 1]
                    fragment = scratch[VNET_BYTES + 6] & 0x3F or scratch[VNET_BYTES + 7]
                    known, flow = unknown if fragment else flows4[scratch[VNET_BYTES + 9]], key4.tobytes()
                else:
                    size, tos_octet = ip_length(scratch, VNET_BYTES), tos(scratch, VNET_BYTES)
                    ports = scratch[VNET_BYTES] >> 4 == 6 and size >= _KEY6_END
                    known, flow = flows6[scratch[VNET_BYTES + 6]] if ports else unknown, key6.tobytes()
                if size < IP_MIN or length != size + VNET_BYTES:
                    self._drop(DropReason.RECORD_MALFORMED)
                    continue

                # A flow that is known is of the peering, and its bucket has an owner.
                bucket = known.get(flow)
                if bucket is None and (bucket := self._find_bucket(known, flow, size)) is None:
                    continue
                used[bucket], member = tick, owner[bucket]
                if member >= nobody:
                    self._park_or_drop(bucket, member, length)
                    continue

                # A virtio header that says nothing is well, and one that was, of a record no longer than this.
                looks = scratch[1] or size > longest or (esp and scratch[0] and size < sums.get(start.tobytes(), never))
                if looks and self._is_faulty(size):
                    continue

                # A super-packet waits for a member that has enough to do, and what comes later of its bucket behind it.
                lane, most = lanes[member], BULK_MAX if scratch[1] else SEGMENTS
                waits = lane.waiting and (scratch[1] or bucket in lane.waiting)
                if waits or not lane.put(record, octets, length, tos_octet, most):
                    self._wait_or_drop(lane, bucket, length, tos_octet)
            return False
        finally:
            self._reads += reads

    def _wait_or_drop(self, lane: Lane, bucket: int, length: int, tos_octet: int) -> None:
        """Keep a record until its member has room for it; drop a single packet for which even a full ring has none."""
        may_wait = self._scratch[1] or bucket in lane.waiting
        if not may_wait or not lane.backlog.keep(self._record[:length], tos_octet, bucket):
            self._drop(DropReason.RING_FULL)

    def _park_or_drop(self, bucket: int, member: int, length: int) -> None:
        """Keep a record whose bucket is on its way from a member to another; drop it if nobody has that."""
        if member == PARKED and self._parking.active:
            self._parking.put(bucket, self._record[:length])
        else:
            self._drop(DropReason.NO_LIVE_MEMBER)

    def _is_faulty(self, size: int) -> bool:
        """Judge the record in hand by its virtio header, and drop it if the payload cannot carry it."""
        reason = self._shapes.fault(size)
        if reason is not None:
            self._drop(reason)
        return reason is not None

    def _find_bucket(self, known: dict[bytes, int], flow: bytes, size: int) -> int | None:
        """Find the packet's bucket, to be kept in `known` for its flow; None: the peering does not carry it."""
        packet = self._packet if self._packet[0] == 0x45 else self._packet[:size]
        if not self._selectors.allow(address_pair(packet)) and not self._takes_error(size):
            return None
        bucket = flow_hash(packet) & BUCKET_MASK
        if known is not self._unknown:
            keep(known, flow, bucket, _FLOWS_MAX)
        return bucket

    def _takes_error(self, size: int) -> bool:
        """Take an ICMP error about a packet of the peering; False: it is none, or one too many, and is dropped."""
        record = self._record[: VNET_BYTES + size]
        if not self._errors.belongs(record):
            self._drop(DropReason.SELECTOR_OUT)
            if is_error(record[VNET_BYTES:]):
                self._audit.icmp_refused(address_pair(record[VNET_BYTES:]))
            return False
        if not self._errors.allows(time.monotonic()):
            self._drop(DropReason.ICMP_LIMIT_OUT)
            return False
        self._counters[DemuxCounter.ICMP_ERRORS] += 1
        return True

    def _drop(self, reason: DropReason) -> None:
        """Count the record in hand as read and dropped."""
        self._dropped = True
        self._counters[reason] += 1
        self._counters[DemuxCounter.RECORDS] += 1

    def _hand_over(self) -> bool:
        """Give every member what was filled for it; True: some is held back from members that have enough to do."""
        try:
            return self._flush_lanes()
        except Exception:  # noqa: BLE001 - the barrier tells of it
            self._barrier.caught("hand over")
            self._lose_burst()
            return False

    def _flush_lanes(self) -> bool:
        held = False
        for lane in self._lanes:
            if lane.waiting:
                held |= lane.lay_waiting()
            if lane.open:
                if lane.has_enough():
                    held = True
                else:
                    lane.flush()
        if self._dropped:
            self._dropped = False
            self._block.publish()
        return held

    def _follow_live(self, tick: int) -> None:
        """Let the bucket table follow the masks: for the dead at once, for others when idle, or in order."""
        try:
            seen = self._masks.tobytes()
            settled = not self._unsettled or (tick - self._settled_at) & TICK_MASK < _SETTLE_TICKS
            if seen != self._masks_seen or not settled or self._notices != self._masks[MaskWord.RINGS]:
                self._follow_masks(tick)
                self._masks_seen = seen
        except Exception:  # noqa: BLE001 - the barrier tells of it
            self._barrier.caught("live mask")
            self._lose_burst()  # what waited may be on its way from one to another

    def _follow_masks(self, tick: int) -> None:
        """Take the masks as they are now, and move buckets to where they belong, as far as they may move yet."""
        live, draining, over, notices = self._masks.tolist()
        if notices != self._notices and not self._hear_of_a_ring():
            self._notices = notices

        # A member without a ring here gets nothing, whoever says that it is there.
        live &= (1 << len(self._lanes)) - 1
        getting = receivers(live, draining)
        if (live, getting) != (self._live, self._receivers):
            self._target = owners(self._scores, getting)
            self._leave_dead(live)
        for buckets in (*(lane.waiting for lane in self._lanes), self._parking.buckets()):
            for bucket in buckets:  # what waits is not idle
                self._shared.used_words[bucket] = tick & TICK_MASK
        self._take_busy(over & live & ~getting)

        # Buckets of the dead move at once, others when they are idle.
        idle = int(IDLE_BUCKET_S * 1e9) // _TICK_NS
        self._unsettled = settle(self._shared.owners, self._target, self._shared.last_used, live, tick, idle)
        self._settled_at, self._live, self._receivers = tick, live, getting
        self._give_to_others(live)

    # -- members that come and go -------------------------------------------------------------------------------------

    def _hear_of_a_ring(self) -> bool:
        """Hear of one ring that comes or goes, and of no more in a turn: the device's queue is short. False: none."""
        return self._channel is not None and hear(self._channel, self._change_rings)

    def _change_rings(self, notice: Notice) -> None:
        """Do what a notice says. Raises ChannelError."""
        index = int(notice.body["index"])
        match notice.act:
            case "ring" if index == len(self._lanes):
                maps, first = notice.map("demux"), self._rings[0]
                member, bell = MemberShared(maps, index), notice.kept()["bell"]
                of = RingMaps(maps[f"demux-{index}"], member.ring, maps[f"rows-{index}"], bell)
                self._rings.append(Ring(first.stride, first.rows, of))
                self._shared.members.append(member)
                self._lanes.append(Lane(self._rings[-1], member.link, self._block, index, esp=self._esp))
                self._scores = np.asfortranarray(np.column_stack([self._scores[:, :index], scores_of(index)]))
            case "unring" if 0 < index == len(self._lanes) - 1:
                counted = self._shared.members.pop().counters.read()
                self._lanes.pop().close(counted[MemberCounter.DONE])
                self._rings.pop().close()
                self._scores = self._scores[:, :index]
            case _:
                notice.close()
                raise ChannelError(f"{notice.act} {index}, with {len(self._lanes)} rings")

    def _take_busy(self, leaving: int) -> None:
        """Take from members that leave the buckets that they still have, whose records then wait (parking.py)."""
        if leaving and park(self._shared.owners, leaving):
            held = [lane for index, lane in enumerate(self._lanes) if leaving >> index & 1]
            for lane in held:
                if lane.open:
                    lane.flush()
            self._parking.begin({lane: lane.head for lane in held}, time.monotonic_ns())
            for lane in held:
                self._parking.bring((w.bucket, w.record[: w.length]) for w in lane.backlog.take_all())

    def _go_on(self, now_ns: int) -> None:
        """Let parked records go to their new members, once they may."""
        if not self._parking.active:
            return
        try:
            if self._parking.is_over(now_ns):
                self._parking.release(self._put_parked)
                self._unpark()
        except Exception:  # noqa: BLE001 - the barrier tells of it
            self._barrier.caught("parked records")
            self._lose_burst()

    def _give_to_others(self, live: int) -> None:
        """Give what waits for members that are not live to those that have its buckets now."""
        for index, lane in enumerate(self._lanes):
            if lane.waiting and not live >> index & 1:
                for record, _, length, tos_octet, bucket in lane.backlog.take_all():
                    member = int(self._target[bucket])
                    if member >= len(self._lanes):
                        self._drop(DropReason.NO_LIVE_MEMBER)
                    elif not self._lanes[member].backlog.keep(record[:length], tos_octet, bucket):
                        self._drop(DropReason.RING_FULL)

    def _put_parked(self, bucket: int, record: bytes) -> None:
        """Give a record to its bucket's new member, for which it may have to wait."""
        length, member, scratch = len(record), int(self._target[bucket]), self._scratch
        self._record[:length] = record
        if member >= len(self._lanes):
            self._drop(DropReason.NO_LIVE_MEMBER)
            return
        size = length - VNET_BYTES
        if (scratch[0] or scratch[1] or size > self._shapes.longest) and self._is_faulty(size):
            return
        lane, most, tos_octet = self._lanes[member], BULK_MAX if scratch[1] else SEGMENTS, tos(scratch, VNET_BYTES)
        waits = lane.waiting and (scratch[1] or bucket in lane.waiting)
        is_laid = not waits and lane.put(self._record, self._octets, length, tos_octet, most)
        if not is_laid and not lane.backlog.keep(self._record[:length], tos_octet, bucket):
            self._drop(DropReason.RING_FULL)

    def _unpark(self) -> None:
        """Give the buckets that were parked to their new members."""
        parked = self._shared.owners == PARKED
        self._shared.owners[parked] = self._target[parked]

    def _follow_tuning(self) -> None:
        """Take the subnets in force, and forget all flows, some of which may not pass any more."""
        try:
            if tuning := self._follower.news():
                self._selectors.replace(tuning.local_ts, tuning.remote_ts)
                self._audit.want(tuning.audit)
                for known in (self._unknown, *self._flows[0], *self._flows[1]):
                    known.clear()
        except Exception:  # noqa: BLE001 - the barrier tells of it
            self._follower.look_again()
            self._barrier.caught("subnets")

    def _leave_dead(self, live: int) -> None:
        """Give up what is filled for members that are not live: sent late it would come behind what others now send."""
        for index, lane in enumerate(self._lanes):
            if not live >> index & 1:
                if lane.open:
                    lane.give_up(DropReason.NO_LIVE_MEMBER)
                if lane.ring.left != lane.head:
                    lane.ring.left = lane.head
                    lane.ring.ring_bell()  # the far member is to know, which may not have read the last ones yet

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
import traceback
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from fwd.datapath.audit import Audit
from fwd.datapath.barrier import Barrier
from fwd.datapath.counters import DemuxCounter
from fwd.datapath.gates import Steered, Table
from fwd.datapath.lane import Lane
from fwd.datapath.owners import TICK_NS, Owners
from fwd.datapath.ring import Ring
from fwd.datapath.shapes import Shapes, keep
from fwd.datapath.shared import REST_MAX_S, REST_S, PeeringShared
from fwd.datapath.tun import DeviceError, is_drained
from fwd.datapath.tuning import Follower
from fwd.model.config import Peering
from fwd.proto.drops import DropReason
from fwd.proto.flow import BUCKET_MASK, PARKED, TICK_MASK, flow_hash
from fwd.proto.icmp import Errors, is_error
from fwd.proto.ip import IP_MIN, RECORD_MAX, VNET_BYTES, Selectors, address_pair, ip_length, tos
from fwd.proto.logged import event
from fwd.proto.segments import TCP, UDP

log = logging.getLogger(__name__)
DEVICE_GONE: Final = 76  # exit status
IDLE_TICK_S = 0.2
_REST_TICKS = 5  # in a row without a record, after which it rests (shared.REST_S); for longer after one more
_FLOWS_MAX = 16384  # remembered, of each protocol: bounded, so that no flood of flows can grow it
_KEY6_END = 44  # of an IPv6 packet's addresses and ports
_READS_MAX = 64  # records read before segments that are not full are handed over
_HELD_S = 0.001  # after which it looks again whether a member that had enough to do has room
_PATIENT_LOOKS = 50  # in a row at which no member has got on, after which it looks more and more seldom

_RECORDS = DemuxCounter.RECORDS.value  # a plain integer: reading a member of an enum costs as much as the addition


class Demux:
    """Reads the TUN device and fills the rings. `scores` are flow.rendezvous_scores for the peering's members."""

    def __init__(
        self, peering: Peering, tun_fd: int, rings: list[Ring], shared: PeeringShared,
        scores: npt.NDArray[np.uint64], bell: int | None = None, channel: socket.socket | None = None,
        table: Table | None = None,
    ) -> None:  # fmt: skip
        """`bell`: an eventfd that is rung when a mask has changed; `channel`: by which rings come and go;
        `table`: the kernel's, which steers; to this one comes what nobody has.
        """
        self._fd = tun_fd
        self._bell = bell
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

        # Whose each bucket is, and the way to each member.
        self._owner_words = shared.owner_words
        if table is None:
            self._owners = Owners(rings, shared, scores, channel, esp=self._esp)
        else:
            self._owners = steered = Steered(rings, shared, scores, channel, table, esp=self._esp)
            self._owner_words = steered.nobody
        self._lanes = self._owners.lanes
        self._drop = self._owners.drop

        # What the loop counts.
        self._reads = self._counters[_RECORDS]  # records read, and counted once they are dropped or handed over
        self._reads_before = self._quiet_ticks = self._looks = 0
        self._taken_before: list[int] = []  # how far members were with their rings at the last look
        self.readv: Callable[[int, list[memoryview]], int] = os.readv

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
            self._follow_live(now_ns // TICK_NS)
            self._follow_tuning()
            self._go_on(now_ns)

            # Records into the lanes, and what is filled to the members.
            try:
                drained = self._read_burst(now_ns // TICK_NS)
            except DeviceError as error:
                log.error("the TUN device is gone, or gives no records: %s", error, extra=event("demux.device_gone"))
                return DEVICE_GONE
            held = self._hand_over() or self._owners.is_moving

            # With nothing more to read it waits, and says for how long if that is longer than a tick.
            if self._owners.parking.full:
                time.sleep(_HELD_S)  # the device has records that are not read now: it would wake this at once
            elif drained:
                wait_s = self._held_s() if held else self._idle_s()
                if wait_s > IDLE_TICK_S:
                    heartbeat[0] = now_ns + int(wait_s * 1e9)
                for fd, _ in poll.poll(wait_s * 1000):
                    if fd == self._bell:
                        os.eventfd_read(fd)

    def _held_s(self) -> float:
        """How long to wait for members that have enough to do, unless a record comes."""
        taken = self._owners.taken()
        is_on = self._owners.is_moving or taken != self._taken_before
        self._looks, self._taken_before = 0 if is_on else self._looks + 1, taken
        return held_wait_s(self._looks)

    def _idle_s(self) -> float:
        """How long nothing is due, unless a record comes or the live mask changes; not at all while rings are told."""
        self._audit.tick()
        if self._owners.has_notices:
            return 0.0
        self._quiet_ticks = self._quiet_ticks + 1 if self._reads == self._reads_before else 0
        self._reads_before = self._reads
        if self._quiet_ticks < _REST_TICKS or self._owners.unsettled:
            return IDLE_TICK_S
        return REST_S if self._quiet_ticks == _REST_TICKS else REST_MAX_S

    # -- for a member that is its own demux (queue.py) ----------------------------------------------------------------

    def lay(self, most: int) -> bool:
        """Read up to `most` records; True when the device is drained."""
        return self._read_burst(0, most)

    def give(self) -> bool:
        """Hand over what was read; True: some waits."""
        self._follow_tuning()
        return self._hand_over()

    def tick(self) -> None:
        """Do what need not be done on every turn."""
        self._audit.tick()

    def waits(self) -> bool:
        """Whether something waits for room in the ring."""
        return len(self._lanes[0].backlog) > 0

    def leave(self) -> int:
        """Forget what waits; returns how many records."""
        return len(self._lanes[0].backlog.take_all())

    # -- records ------------------------------------------------------------------------------------------------------

    def _read_burst(self, tick: int, most: int = _READS_MAX) -> bool:
        """Read up to `most` records into the lanes; True when the device is drained."""
        try:
            return self._owners.parking.full or self._read_records(tick & TICK_MASK, most)
        except DeviceError:
            raise
        except Exception as error:  # noqa: BLE001 - the barrier tells of it
            self._barrier.caught("demux")
            self._lose(lane_of(error))
            return False

    def _lose(self, lane: Lane | None) -> None:
        """Count as lost what an exception has cost: the record in hand, and what `lane`, in which it came, had."""
        self._block.revert()
        if lane is not None:
            lane.go_on()
        self._count_lost()

    def _count_lost(self) -> None:
        """Count what was read, and is neither counted nor held."""
        lost = self._reads - self._counters[_RECORDS] - self._owners.held()
        self._counters[DropReason.INTERNAL_ERROR] += lost
        self._counters[_RECORDS] += lost
        self._block.publish()

    def _read_records(self, tick: int, most: int) -> bool:
        """Read up to `most` records, and lay each into the lane of its bucket's member; True: there are no more."""
        readv, fd, buffers, reads, never = self.readv, self._fd, [self._record], 0, RECORD_MAX
        scratch, record, octets, lanes = self._scratch, self._record, self._octets, self._lanes
        owner, used, nobody = self._owner_words, self._shared.used_words, len(self._lanes)
        (flows4, flows6), unknown, key4, key6 = self._flows, self._unknown, self._key4, self._key6
        esp, longest, sums, start = self._esp, self._shapes.longest, self._shapes.checksums, self._shapes.start
        try:
            while reads < most:
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

                # Into its member's ring, if there is room and nothing that waits goes before it.
                lane = lanes[member]
                is_laid = lane.put(record, octets, length, tos_octet, bucket)
                if not is_laid and not lane.keep(record, length, tos_octet, bucket):
                    self._drop(DropReason.RING_FULL)
            return False
        finally:
            self._reads += reads

    def _park_or_drop(self, bucket: int, member: int, length: int) -> None:
        """Keep a record whose bucket is on its way from a member to another; drop it if nobody has that."""
        scratch, size = self._scratch, length - VNET_BYTES
        if member != PARKED or not self._owners.parking.active:
            self._drop(self._owners.why_nobody(self._packet[:size]))
        elif not ((scratch[0] or scratch[1] or size > self._shapes.longest) and self._is_faulty(size)):
            self._owners.parking.put(bucket, self._record[:length])

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

    def _hand_over(self) -> bool:
        """Give every member what was filled for it; True: some is held back from members that have enough to do."""
        for _ in (*self._lanes, None):  # a lane that fails has nothing left then, and others have their turn
            try:
                return self._owners.flush()
            except Exception as error:  # noqa: BLE001 - the barrier tells of it
                self._barrier.caught("hand over")
                self._lose(lane_of(error))
        return True

    def _follow_live(self, tick: int) -> None:
        """Let the bucket table follow the masks: for the dead at once, for others when idle, or in order."""
        try:
            self._owners.follow(tick)
        except Exception:  # noqa: BLE001 - the barrier tells of it
            self._barrier.caught("live mask")
            self._block.revert()
            self._owners.forget()  # what waited may be on its way from one to another
            self._count_lost()

    def _go_on(self, now_ns: int) -> None:
        """Let parked records go to their new members, once they may."""
        try:
            self._owners.go_on(now_ns)
        except Exception as error:  # noqa: BLE001 - the barrier tells of it
            self._barrier.caught("parked records")
            self._lose(lane_of(error))

    def _follow_tuning(self) -> None:
        """Take the subnets in force, and forget all flows and drop what waits, as far as it may not pass any more."""
        try:
            if tuning := self._follower.news():
                self._selectors.replace(tuning.local_ts, tuning.remote_ts)
                self._audit.want(tuning.audit)
                for known in (self._unknown, *self._flows[0], *self._flows[1]):
                    known.clear()
                self._owners.sift(self._may_go)
        except Exception:  # noqa: BLE001 - the barrier tells of it
            self._follower.look_again()
            self._barrier.caught("subnets")
            self._lose(None)

    def _may_go(self, record: memoryview) -> bool:
        """Whether the subnets carry a record that has been looked at once already."""
        return self._selectors.allow(address_pair(record[VNET_BYTES:])) or self._errors.belongs(record)


def held_wait_s(looks: int) -> float:
    """After how long to look again at members that have enough to do, and have not got on at so many looks."""
    return min(_HELD_S * 2.0 ** min(max(0, looks - _PATIENT_LOOKS), 10), IDLE_TICK_S)


def lane_of(error: BaseException) -> Lane | None:
    """Find the lane in which an exception came, by its traceback; None: it came elsewhere."""
    frames = (frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__))
    return next((one for one in frames if isinstance(one, Lane)), None)

"""Which member has each bucket, and the lanes to the members, as these come and go.

The supervisor's masks say which members live, drain, or must give up what they have; by its channel rings come and go.
Buckets of the dead move at once, others when they are idle or, of a member whose time is over, in order (parking.py).
What waits for a member moves with its buckets (rule 3). Refused: notices of rings that cannot be.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from fwd.datapath.channel import ChannelError, Notice, hear
from fwd.datapath.counters import DemuxCounter, MemberCounter
from fwd.datapath.lane import Lane
from fwd.datapath.parking import Parking
from fwd.datapath.ring import Ring, RingMaps
from fwd.datapath.shared import MaskWord, MemberShared, PeeringShared
from fwd.proto.drops import DropReason
from fwd.proto.flow import NOBODY, PARKED, TICK_MASK, owners, park, receivers, scores_of, settle
from fwd.proto.ip import VNET_BYTES, tos

IDLE_BUCKET_S = 1.0  # a bucket unused for so long may move: longer than any packet is under way
TICK_NS: Final = 10_000_000  # unit of last use: 10 ms in 32 bits wrap after 497 days of the host's uptime
_SETTLE_TICKS = 10


class Owners:
    """The bucket table, `lanes` by member, and `parking` for records whose bucket is on its way."""

    def __init__(
        self, rings: list[Ring], shared: PeeringShared, scores: npt.NDArray[np.uint64], channel: socket.socket | None,
        *, esp: bool,
    ) -> None:  # fmt: skip
        """`scores` are flow.rendezvous_scores for the peering's members; `channel`: by which rings come and go."""
        self.channel = channel
        self._shared = shared
        self._block = shared.demux_counters
        self._counters = self._block.values
        self._esp = esp
        self._rings = rings
        self.lanes = [
            Lane(ring, member.link, self._block, i, esp=esp)
            for i, (ring, member) in enumerate(zip(rings, shared.members, strict=True))
        ]
        self._dropped = False  # something, since counters were published

        # Which member each bucket belongs to. What was parked is gone with the predecessor.
        self._scores = scores
        self._masks, self._masks_seen, self._notices = shared.live, b"", shared.live[MaskWord.RINGS]
        self._live = self._receivers = -1
        self._target = shared.owners
        shared.owners[shared.owners == PARKED] = NOBODY
        self.parking = Parking()
        self.unsettled = self._settled_at = 0  # buckets that are not where they belong, and when that was found

    @property
    def is_moving(self) -> bool:
        """Whether buckets are on their way from one member to another."""
        return self.parking.active

    @property
    def has_notices(self) -> bool:
        """Whether the supervisor has sent notices of rings that were not heard of yet."""
        return bool(self._notices != self._masks[MaskWord.RINGS])

    def drop(self, reason: DropReason) -> None:
        """Count a record as read and dropped."""
        self._dropped = True
        self._counters[reason] += 1
        self._counters[DemuxCounter.RECORDS] += 1

    def why_nobody(self, packet: memoryview) -> DropReason:
        """Say why a packet has no member."""
        return DropReason.NO_LIVE_MEMBER

    def flush(self) -> bool:
        """Give every member what was filled for it; True: some is held back from members that have enough to do."""
        held = False
        for lane in self.lanes:
            if lane.waiting:
                held |= lane.lay_waiting()
            if lane.open:
                if lane.has_enough():
                    held = True
                else:
                    lane.flush()

        # Handing over publishes, too; dropping alone does not.
        if self._dropped:
            self._dropped = False
            self._block.publish()
        return held

    def held(self) -> int:
        """Count the records that are filled, wait or are parked: read, and not counted yet."""
        return sum(lane.held() for lane in self.lanes) + len(self.parking)

    def forget(self) -> None:
        """Begin behind what was counted, as a successor would: what is filled, waits or is parked is forgotten."""
        for lane in self.lanes:
            lane.go_on()
        if self.parking.active:
            self.parking.forget()  # buckets stay parked until their old members have sent
        else:
            self._unpark()

    def sift(self, may_go: Callable[[memoryview], bool]) -> None:
        """Drop what waits or is parked, and is outside of the subnets that are in force now."""
        gone = sum(lane.backlog.sift(may_go) for lane in self.lanes) + self.parking.sift(may_go)
        for _ in range(gone):
            self.drop(DropReason.SELECTOR_OUT)

    def taken(self) -> list[int]:
        """Tell how far members are with their rings."""
        return [lane.ring.taken for lane in self.lanes]

    # -- buckets follow the masks -------------------------------------------------------------------------------------

    def follow(self, tick: int) -> None:
        """Let the bucket table follow the masks, if they have changed or some buckets are not where they belong."""
        seen = self._masks.tobytes()
        settled = not self.unsettled or (tick - self._settled_at) & TICK_MASK < _SETTLE_TICKS
        if seen != self._masks_seen or not settled or self.has_notices:
            self._follow_masks(tick)
            self._masks_seen = seen

    def _follow_masks(self, tick: int) -> None:
        """Take the masks as they are now, and move buckets to where they belong, as far as they may move yet."""
        live, draining, over, notices = self._masks.tolist()
        if notices != self._notices and not self.hear_of_a_ring():
            self._notices = notices

        # A member without a ring here gets nothing, whoever says that it is there.
        live &= (1 << len(self.lanes)) - 1
        getting = receivers(live, draining)
        if (live, getting) != (self._live, self._receivers):
            self._target = owners(self._scores, getting)
            self._leave_dead(live)
        for buckets in (*(lane.waiting for lane in self.lanes), self.parking.buckets()):
            for bucket in buckets:  # what waits is not idle
                self._shared.used_words[bucket] = tick & TICK_MASK
        self._take_busy(over & live & ~getting)

        # Buckets of the dead move at once, others when they are idle.
        idle = int(IDLE_BUCKET_S * 1e9) // TICK_NS
        self.unsettled = settle(self._shared.owners, self._target, self._shared.last_used, live, tick, idle)
        self._settled_at, self._live, self._receivers = tick, live, getting
        self._give_to_others(live)

    def _leave_dead(self, live: int) -> None:
        """Give up what is filled for members that are not live: sent late it would come behind what others now send."""
        for index, lane in enumerate(self.lanes):
            if not live >> index & 1:
                if lane.open:
                    lane.give_up(DropReason.NO_LIVE_MEMBER)
                if lane.ring.left != lane.head:
                    lane.ring.left = lane.head
                    lane.ring.ring_bell()  # the far member is to know, which may not have read the last ones yet

    def _give_to_others(self, live: int) -> None:
        """Give what waits for members that are not live to those that have its buckets now."""
        for index, lane in enumerate(self.lanes):
            if lane.waiting and not live >> index & 1:
                for record, _, length, tos_octet, bucket, _ in lane.backlog.take_all():
                    member = int(self._target[bucket])
                    if member >= len(self.lanes):
                        self.drop(DropReason.NO_LIVE_MEMBER)
                    elif not self.lanes[member].backlog.keep(record[:length], tos_octet, bucket):
                        self.drop(DropReason.RING_FULL)

    # -- busy buckets of members that leave ---------------------------------------------------------------------------

    def _take_busy(self, leaving: int) -> None:
        """Take from members that leave the buckets that they still have, whose records then wait (parking.py)."""
        if leaving and park(self._shared.owners, leaving):
            held = [lane for index, lane in enumerate(self.lanes) if leaving >> index & 1]
            for lane in held:
                if lane.open:
                    lane.flush()
            self.parking.begin({lane: lane.head for lane in held}, time.monotonic_ns())
            for lane in held:
                self.parking.bring((w.bucket, w.record[: w.length]) for w in lane.backlog.take_all())

    def go_on(self, now_ns: int) -> None:
        """Let parked records go to their new members, once they may."""
        if self.parking.active and self.parking.is_over(now_ns):
            self.parking.release(self._put_parked)
            self._unpark()

    def _put_parked(self, bucket: int, octets: bytearray) -> None:
        """Give a record to its bucket's new member, for which it may have to wait."""
        member, record = int(self._target[bucket]), memoryview(octets)
        if member >= len(self.lanes):
            self.drop(DropReason.NO_LIVE_MEMBER)
            return
        lane, tos_octet = self.lanes[member], tos(octets, VNET_BYTES)
        is_laid = lane.put(record, np.frombuffer(octets, np.uint8), len(octets), tos_octet, bucket)
        if not is_laid and not lane.backlog.keep(record, tos_octet, bucket):
            self.drop(DropReason.RING_FULL)

    def _unpark(self) -> None:
        """Give the buckets that were parked to their new members."""
        parked = self._shared.owners == PARKED
        self._shared.owners[parked] = self._target[parked]

    # -- members that come and go -------------------------------------------------------------------------------------

    def hear_of_a_ring(self) -> bool:
        """Hear of one ring that comes or goes, and of no more in a turn: the device's queue is short. False: none."""
        return self.channel is not None and hear(self.channel, self._change_rings)

    def _change_rings(self, notice: Notice) -> None:
        """Do what a notice says. Raises ChannelError."""
        index = int(notice.body["index"])
        match notice.act:
            case "ring" if index == len(self.lanes):
                maps, first = notice.map("demux"), self._rings[0]
                member, bell = MemberShared(maps, index), notice.kept()["bell"]
                of = RingMaps(maps[f"demux-{index}"], member.ring, maps[f"rows-{index}"], bell)
                self._rings.append(Ring(first.stride, first.rows, of))
                self._shared.members.append(member)
                self.lanes.append(Lane(self._rings[-1], member.link, self._block, index, esp=self._esp))
                self._scores = np.asfortranarray(np.column_stack([self._scores[:, :index], scores_of(index)]))
            case "unring" if 0 < index == len(self.lanes) - 1:
                counted = self._shared.members.pop().counters.read()
                self.lanes.pop().close(counted[MemberCounter.DONE])
                self._rings.pop().close()
                self._scores = self._scores[:, :index]
            case _:
                notice.close()
                raise ChannelError(f"{notice.act} {index}, with {len(self.lanes)} rings")

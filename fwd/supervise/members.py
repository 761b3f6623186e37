"""Which members of each peering may own buckets; and how those that are to leave do so, one after the other.

A member that leaves is there until draining.py says that it may go. Then keyd deletes its SAs and forgets it; LINGER_S
later, when the peer has heard of that, its process ends, and what it had is closed. Only the last member of a peering
ever goes, so that those that stay keep their numbers, ports and partners. Where far gateways come and go others have
nobody to be paired with then, and wait for a far gateway that comes (model/pairing.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from fwd.datapath.counters import DemuxCounter, MemberCounter
from fwd.datapath.shared import LinkWord, MaskWord, MemberShared
from fwd.model.pairing import far_of
from fwd.proto.logged import event
from fwd.supervise import policy, spreading
from fwd.supervise.children import Child
from fwd.supervise.draining import Leaving, Seen, Stage, leaving, leaving_seats, stage
from fwd.supervise.patience import Allowance
from fwd.supervise.peering import PeeringParts
from fwd.supervise.rings import Rings

log = logging.getLogger(__name__)
LINGER_S: Final = 2.0


@dataclass
class _Peering:
    parts: PeeringParts
    rings: Rings
    leaving: dict[int, Leaving] = field(default_factory=dict)
    retired_at: float = 0.0  # when the last one was
    lines: Allowance = field(default_factory=Allowance)  # of who shares the buckets: a far gateway may change that
    comeback: policy.Comeback = field(default_factory=policy.Comeback)
    left: dict[int, int] = field(default_factory=dict)  # far gateways about to close, as seen last
    settled: tuple[object, ...] = ()  # what was seen when nothing was under way; empty: something is


class Members:
    """Of all peerings. `end`: ends a process and gives its slot up; `changed`: keyd or agent are to be told; and
    `all_told`: they are, and no descriptor waits to be sent to them.
    """

    def __init__(
        self,
        children: Mapping[str, Child],
        end: Callable[[list[Child]], None],
        changed: Callable[[], None],
        all_told: Callable[[], bool],
    ) -> None:
        self._children = children
        self._end = end
        self._changed = changed
        self._all_told = all_told
        self._of: dict[str, _Peering] = {}

    def of(self, parts: PeeringParts) -> _Peering:
        """Return what is known of a peering."""
        name = parts.peering.name
        known = self._of.get(name)
        if known is None or known.parts is not parts:
            if known is not None:
                known.rings.close()
            known = self._of[name] = _Peering(parts, Rings(parts))
        return known

    def renew(self, parts: PeeringParts) -> None:
        """Make the channel of a demux that is about to be forked."""
        self.of(parts).rings.renew()

    def is_settled(self, parts: PeeringParts) -> bool:
        """Whether nothing follows from a turn while nobody stirs: nothing was under way, and all is as it was."""
        known = self._of.get(parts.peering.name)
        return known is not None and known.parts is parts and known.settled == _seen(parts)

    def turn(self, parts: PeeringParts, forgiven_at: float, now: float, *, stirred: bool) -> None:
        """Publish what follows from the members' lives; let go whoever may."""
        if not stirred and self.is_settled(parts):
            return
        one, seen = self.of(parts), _seen(parts)
        one.settled, left = (), _left(parts)
        stirred, one.left = stirred or left != one.left, left

        over = self._drain(one, now)
        if stirred or one.leaving or parts.shared.live[MaskWord.DRAINING] or one.comeback.is_awaited:
            self._publish(one, over, forgiven_at, now)
        one.rings.tell(self._children[f"{parts.peering.name}/demux"], now)
        moves = one.leaving or parts.retired or parts.shared.live[MaskWord.DRAINING] or one.comeback.is_awaited
        if one.rings.is_told and not moves:
            one.settled = seen

    def _publish(self, one: _Peering, over: int, forgiven_at: float, now: float) -> None:
        parts = one.parts
        name, members = parts.peering.name, parts.shared.members
        lives = [self._children[f"{name}/member-{i}"].life for i in range(parts.count)]
        begun, able = [m.has_begun for m in members], [m.can_send for m in members]
        fars = parts.peering.fars
        paired = sum(1 << i for i in range(parts.count) if far_of(i, fars))
        live = policy.live_mask(lives, begun, able, forgiven_at, now, one.comeback) & paired
        draining = sum(1 << index for index in one.leaving)

        # A far gateway that is about to close gets nothing more if there is another one: what its members have goes
        # to others at once, and in order.
        aside = _aside(members, now) & live
        if live & ~aside:
            draining, over = draining | aside, over | aside
        before = parts.shared.live.tolist()
        if [live, draining, over] == before[: MaskWord.RINGS]:
            return
        parts.tell_masks(live, draining, over)
        alive, leave = ([i for i in range(parts.count) if mask >> i & 1] for mask in (live & ~draining, draining))
        if [live, draining] != before[: MaskWord.OVER] and one.lines.may_tell(now):
            kept_back = one.lines.take_kept_back()
            told = event("peering.members", peering=name, members=alive, leaving=leave, suppressed=kept_back)
            text = f"; members {leave} leave" if leave else ""
            log.info("peering %s: buckets are shared by members %s%s", name, alive or "none", text, extra=told)

    def _drain(self, one: _Peering, now: float) -> int:
        """Look at members that leave; returns the mask of those that give up what is busy."""
        parts = one.parts
        far, far_s = parts.shared.far_members
        peering, members = parts.peering, parts.count
        seated = peering.is_seated
        gone = leaving_seats(peering.fars, members, far) if seated else leaving(members, peering.members, far)
        one.leaving = {index: one.leaving.get(index) or Leaving(now) for index in gone}
        if not one.leaving and not parts.retired:
            return 0

        # Only the last one goes, and only if this side wants fewer: else it waits for a partner.
        ours_s, staying = float(peering.drain_deadline), peering.staying
        stages: dict[int, Stage] = {}
        for index, known in one.leaving.items():
            deadline_s = min(ours_s, far_s) if index in staying else ours_s
            stages[index] = stage(known, self._seen(parts, index), deadline_s, now)
        self._let_go(one, stages, now)
        return sum(1 << index for index in one.leaving if stages[index] is not Stage.STAYS)

    def _seen(self, parts: PeeringParts, index: int) -> Seen:
        shared = parts.shared
        counted = shared.members[index].counters.read()
        head, done = shared.demux_counters.read()[DemuxCounter.HEADS + index], counted[MemberCounter.DONE]
        buckets = int(np.count_nonzero(shared.owners == index))
        reads = shared.members[index].link[LinkWord.QUEUE_READ] > counted[MemberCounter.READ_RECORDS]
        return Seen(counted[MemberCounter.IN_RECORDS], buckets, head > done or reads)

    def _let_go(self, one: _Peering, stages: Mapping[int, Stage], now: float) -> None:
        """Retire members, the last before others; close the last once the peer has heard of it."""
        parts = one.parts
        while (index := self._last_to_go(parts, stages)) is not None:
            if parts.peering.is_seated:
                parts.peering = spreading.without(parts.peering, index)
                parts.retired = parts.count - parts.peering.there
                del one.leaving[index]
            else:
                parts.retired += 1
            one.retired_at = now
            self._changed()
            log.info(
                "peering %s: member %d has nothing left to carry, and goes", parts.peering.name, index,
                extra=event("member.leaves", peering=parts.peering.name, member=index),
            )  # fmt: skip
        if parts.retired and now >= one.retired_at + LINGER_S and self._all_told():
            self.close_retired(parts)

    @staticmethod
    def _last_to_go(parts: PeeringParts, stages: Mapping[int, Stage]) -> int | None:
        """Return a member that goes: the peering's last one or, where far gateways come and go, the last of one."""
        peering, there = parts.peering, parts.count - parts.retired
        lasts = [far.members(there)[-1:] for far in peering.fars] if peering.is_seated else [range(there)[-1:]]
        found = [seat for last in lasts for seat in last if seat not in peering.staying]
        return next((seat for seat in found if stages.get(seat) is Stage.GOES), None)

    def close_retired(self, parts: PeeringParts) -> None:
        """End the processes of members that keyd knows no more, and close what they had."""
        one = self.of(parts)
        while parts.retired:
            index = parts.count - 1
            child = self._children.get(f"{parts.peering.name}/member-{index}")
            if child is not None:  # else it has ended, and what came after went wrong
                self._end([child])
            one.leaving.pop(index, None)
            parts.drop_member()
            self._changed()

    def forget(self, name: str) -> None:
        """Close what is kept for a peering that is closed."""
        if (known := self._of.pop(name, None)) is not None:
            known.rings.close()

    def close(self) -> None:
        """Close all of it."""
        for name in list(self._of):
            self.forget(name)


def _seen(parts: PeeringParts) -> tuple[object, ...]:
    """Return all that a turn depends on while nobody stirs."""
    return parts.count, parts.resized, parts.peering, parts.shared.far_words.tolist(), _left(parts)


def _left(parts: PeeringParts) -> dict[int, int]:
    """Return of members whose far gateway is about to close until when that holds."""
    members = enumerate(parts.shared.members)
    return {index: until_ns for index, member in members if (until_ns := member.far_leaves_until[0])}


def _aside(members: Sequence[MemberShared], now: float) -> int:
    """Return the mask of members whose far gateway is about to close."""
    now_ns = int(now * 1e9)
    return sum(1 << index for index, member in enumerate(members) if member.far_leaves_until[0] > now_ns)

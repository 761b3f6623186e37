"""Everything one peering needs that outlives its processes: TUN device, sockets, shared memory, secret.

Opened by the supervisor, its descriptors inherited by fork; what a process shares it maps for itself, in `demux`,
`member`, `keyd` or `view`. A process that dies leaves all of it as it was, and its successor goes on.
Refuses, as UserError: a TUN device or port that is taken, an address that this host does not have, a bad secret. The
leak guards are not part of it: they outlive it (guards.py).
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fwd.agent.view import PeeringView
from fwd.datapath import member, ring
from fwd.datapath.counters import COUNTS_END, MemberCounter
from fwd.datapath.demux import Demux
from fwd.datapath.geometry import Geometry, inner_mtu_min
from fwd.datapath.member import MemberParts
from fwd.datapath.memory import Maps, Memory
from fwd.datapath.ring import Ring, RingMaps, RingWords
from fwd.datapath.shared import LinkWord, MaskWord, MemberShared, PeeringShared, member_sizes, peering_sizes
from fwd.datapath.tun import Offloads, Tun, offloads_in_common, super_packets_accepted
from fwd.datapath.tuning import Tuning, publish
from fwd.datapath.udp import open_socket, renew
from fwd.keyd.mailbox import KeydMember, KeydPeering
from fwd.model.config import Peering
from fwd.model.keys import StartAction
from fwd.proto.drops import DropReason
from fwd.proto.flow import rendezvous_scores
from fwd.proto.logged import event
from fwd.supervise import network
from fwd.supervise.kernel import Device
from fwd.supervise.material import KeyMaterial
from fwd.supervise.patience import Allowance
from fwd.supervise.queues import Queues

log = logging.getLogger(__name__)
_PATH_MTU_DEFAULT = 1500
MTU_EVERY_S: Final = 1.0  # between two changes of the TUN device's MTU, in the long run
_QUEUE_RECORDS = 1000  # of the TUN device: small packets that come while the demux waits for a core
_PACKETS_OF_A_SUPER_PACKET = 64  # which payload esp splits into bursts, not longer than the rows of one


@dataclass(frozen=True)
class Pairs:
    """A member's socket pairs. Nobody but keyd and the member reads them, and no death closes them."""

    boot_keyd: socket.socket
    boot_member: socket.socket
    control_keyd: socket.socket
    control_member: socket.socket
    memory: tuple[socket.socket, socket.socket]  # keyd's own, for the next keyd

    @classmethod
    def make(cls) -> Pairs:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
        for sock in (s for pair in pairs for s in pair):
            sock.setblocking(False)
        return cls(*pairs[0], *pairs[1], pairs[2])

    def for_keyd(self) -> dict[str, int]:
        """What keyd has of them: its ends, and the far one of the boot records, to take them back."""
        near, far = self.memory
        named = {"boot": self.boot_keyd, "boot_far": self.boot_member, "control": self.control_keyd}
        return {name: sock.fileno() for name, sock in {**named, "memory": near, "memory_far": far}.items()}

    def close(self) -> None:
        for sock in (self.boot_keyd, self.boot_member, self.control_keyd, self.control_member, *self.memory):
            sock.close()


class PeeringParts:
    """Opens it all, in the order in which it can fail; what was opened is closed when a later step fails."""

    def __init__(self, peering: Peering, material: KeyMaterial) -> None:
        self.peering = peering
        self.start_action: StartAction | None = None  # that a user wants, and not the configuration
        self.material = material
        self.warnings: list[str] = []
        self._far_offloads = -1
        self._mtu_lines, self._mtu_changes = Allowance(), Allowance(MTU_EVERY_S)
        self.mtu_waits = False  # for its turn: members have found another too often
        with contextlib.ExitStack() as undo:
            self._open(undo)
            self._undo = undo.pop_all()

    def _open(self, undo: contextlib.ExitStack) -> None:
        peering = self.peering
        self.offloads = Offloads()
        self.geometry = Geometry(self._path_mtu(), peering.local_addrs.version)
        self.queues = Queues(peering, self.offloads)
        undo.callback(self.queues.close)
        # Payload esp splits TCP super-packets itself, and no others.
        self.tun.set_offloads(self.offloads, wanted=peering.offload, udp=peering.payload == "superpacket")
        refused = super_packets_accepted(self.offloads.tun_flags)
        if refused:
            self.tun.set_offloads(self.offloads, wanted=False)
            self.offloads.refused["super-packet writes"] = refused
        self.memory = Memory(peering_sizes(0), peering.name)
        undo.callback(self.memory.close)
        self.shared = PeeringShared(0, self.memory.map("supervisor"))
        self.demux_bell = ring.open_bell()
        undo.callback(os.close, self.demux_bell)
        self.sockets: list[socket.socket] = []
        self.bells: list[int] = []
        self.pairs: list[Pairs] = []
        self.resized = 0  # how often there was a member more or fewer
        self.retired = 0  # of the last members: keyd is to know of them no more
        self._members: list[contextlib.ExitStack] = []
        undo.callback(self._close_members)
        for _ in range(peering.members):
            self.add_member()
        self.inner_mtu = peering.tun_mtu or self._inner_mtu()
        for name, reason in self.offloads.refused.items():
            told = event("peering.offload_refused", peering=peering.name, offload=name)
            log.warning("peering %s: offload %s refused by the kernel: %s", peering.name, name, reason, extra=told)

    @property
    def tun(self) -> Tun:
        """The TUN device, by the queue that the demux reads."""
        return self.queues.tun

    # -- members that come and go -----------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many members there are, those that leave among them."""
        return len(self._members)

    def add_member(self) -> None:
        """Open what the next member needs: port, ring, memory, and in it what its first process must find."""
        peering, index = self.peering, self.count
        told, rows = ring.sizes(self.geometry.stride, self.geometry.rows)
        sizes = {**member_sizes(index), f"demux-{index}": told, f"rows-{index}": rows}
        with contextlib.ExitStack() as undo:
            sock = open_socket(
                peering.local_addrs, peering.port_of(index), self.offloads,
                wanted=peering.offload, marks=peering.payload == "esp", shared=peering.shared_port,
                probes=peering.payload == "superpacket",
            )  # fmt: skip
            undo.callback(sock.close)
            undo.callback(self.memory.drop, sizes)
            self.memory.add(sizes)
            bell, pairs = ring.open_bell(), Pairs.make()
            undo.callback(os.close, bell)
            undo.callback(pairs.close)

            undo.callback(self.queues.drop_from, index)
            self.queues.add()

            shared = MemberShared(self.memory.map_to_write(sizes), index)
            shared.link[LinkWord.CHUNK] = self.geometry.chunk
            self.material.recall(peering, index, shared)
            seen = MemberShared(self.memory.map("supervisor", sizes), index)
            scores = rendezvous_scores(index + 1)

            # All of it is there, or none.
            undo.callback(self._forget_from, index)
            self.shared.members.append(seen)
            self.sockets.append(sock)
            self.bells.append(bell)
            self.pairs.append(pairs)
            self._members.append(undo.pop_all())
        self.scores = scores  # a demux that is forked has them at once
        self.resized += 1
        self.shared.left.add((), self.count)

    def drop_member(self) -> None:
        """Close what the last member had, whose process has ended; what it had counted stays in the sums.

        What went wrong half-way can be done again.
        """
        index = self.count - 1
        scores = rendezvous_scores(index)
        if len(self.shared.members) > index:  # else it is counted already
            self.shared.left.add(counted_by(self.shared.members[index]), index)
            del self.shared.members[index:]
        self._members[index].close()
        del self._members[index:]
        self.retired, self.scores = max(0, self.retired - 1), scores
        self.resized += 1

    def _forget_from(self, index: int) -> None:
        for of in (self.shared.members, self.sockets, self.bells, self.pairs):
            del of[index:]

    def _close_members(self) -> None:
        while self._members:
            self._members.pop().close()

    def _path_mtu(self) -> int:
        """What members' paths take at most: a smaller one found, by whatever, is theirs to follow, down and up."""
        peering = self.peering
        if peering.path_mtu:
            return min(peering.path_mtu, 65535)
        found = {one: network.route_mtu(peering.local_addrs, one) for one in peering.addresses}
        self.warnings += [f"peering {peering.name}: no route to {one}" for one, mtu in found.items() if not mtu]
        return min(max(found.values()) or _PATH_MTU_DEFAULT, 65535)

    def _inner_mtu(self) -> int:
        if self.peering.payload == "superpacket":
            return self.geometry.path_mtu
        return self._inner_mtu_for(self.geometry.path_mtu)

    def _inner_mtu_for(self, path_mtu: int) -> int:
        """The TUN device's MTU on a path of `path_mtu` (payload esp)."""
        least = inner_mtu_min((*self.peering.local_ts, *self.peering.remote_ts))
        return max(least, self.geometry.inner_mtu_for(path_mtu))

    def device(self) -> Device:
        """The TUN device as it is to be in the kernel."""
        segments = _PACKETS_OF_A_SUPER_PACKET if self.peering.payload == "esp" else None
        return Device(self.tun.name, self.tun.index, self.inner_mtu, _QUEUE_RECORDS, segments)

    def renew_tun(self) -> None:
        """Make the TUN device anew, when somebody has deleted it. Processes hold the old one: they are to be replaced.

        Raises UserError if something else has its name.
        """
        self.queues.renew()
        self.tun.limit_offloads(self.offloads.tun_flags)
        self._far_offloads = -1

    def follow(self, wanted: Peering) -> None:
        """Let demux and members follow another configuration, which differs in keys that are live."""
        self.peering = wanted
        self.tell()

    def tell(self) -> None:
        """Show demux and members what is in force; the log's level is this process's."""
        level = logging.getLevelName(logging.getLogger().getEffectiveLevel()).lower()
        publish(self.shared.tuning, Tuning.of(self.peering, level))
        for bell in (self.demux_bell, *self.bells):  # whoever rests looks now
            with contextlib.suppress(BlockingIOError):  # rung as often as it can be
                os.eventfd_write(bell, 1)

    def check(self) -> None:
        """Have each member ask its far one whether packets come through; what comes of it the agent tells."""
        for one in self.shared.members:
            one.checks[0] += 1
        self.tell()

    def close(self) -> None:
        """Undo everything, in reverse order."""
        try:
            self.material.remember(self.peering, self.shared.members)
        finally:
            self._undo.close()

    @property
    def is_joined(self) -> bool:
        """Whether some member has an SA to the far gateway."""
        return any(member.link[LinkWord.SPI_OUT] for member in self.shared.members)

    def follow_far_offloads(self) -> None:
        """Payload superpacket: the TUN device gives no super-packets that the far side does not take."""
        far = self.shared.far_offloads
        if far is not None and far != self._far_offloads:
            self.tun.limit_offloads(offloads_in_common(self.offloads.tun_flags, far))
            self._far_offloads = far

    def follow_path_mtu(self, now: float) -> None:
        """Payload esp: the TUN device's MTU follows the smallest path that a member found, down and up again.

        At once, as a rule. A member may say ever another one, and each change costs the supervisor a look around.
        """
        self.mtu_waits = False
        if self.peering.payload == "esp" and self.peering.tun_mtu is None:
            widest = self.geometry.path_mtu
            found = [m.path_mtu for m in self.shared.members]
            path = min([widest, *(one for one in found if one)])
            wanted = self._inner_mtu_for(path)
            if wanted != self.inner_mtu and not self._mtu_changes.may_tell(now):
                self.mtu_waits = True
            elif wanted != self.inner_mtu:
                self.tun.set_mtu(wanted)
                self.inner_mtu = wanted
                self._tell_mtu(path, now)

    def _tell_mtu(self, path: int, now: float) -> None:
        """Log that the MTU has changed: a member says it, and may say it again and again."""
        if self._mtu_lines.may_tell(now):
            name, tun, mtu = self.peering.name, self.tun.name, self.inner_mtu
            told = event("peering.mtu", peering=name, mtu=mtu, suppressed=self._mtu_lines.take_kept_back())
            log.info("peering %s: path takes %d, MTU of %s is now %d", name, path, tun, mtu, extra=told)

    # -- what each process has, mapped in that process ----------------------------------------------------------

    def demux(self, channel: socket.socket) -> Callable[[], int]:
        """The demux, ready to run; `channel`: by which it hears of rings that come and go (rings.py)."""
        maps = self.memory.map("demux")
        shared = PeeringShared(self.count, maps)
        rings = [self._ring(maps, i, one) for i, one in enumerate(shared.members)]
        scores, bell, table = self.scores, self.demux_bell, self.queues.table()
        return lambda: Demux(self.peering, self.tun.fd, rings, shared, scores, bell, channel, table).run()

    def demux_fds(self) -> set[int]:
        """The descriptors that the demux keeps, but for its channel."""
        return {*self.demux_inputs(), *self.bells}

    def demux_inputs(self) -> set[int]:
        """Those of them by which work comes."""
        return {self.tun.fd, self.demux_bell}

    def tell_masks(self, live: int, draining: int, over: int) -> None:
        """Let the members of `live` own buckets, and no others; those in `draining` get no more of them, and those in
        `over` give up what is busy.
        """
        self.shared.live[MaskWord.DRAINING] = draining
        self.shared.live[MaskWord.OVER] = over
        self.shared.live[MaskWord.LIVE] = live
        self.wake_demux()

    def wake_demux(self) -> None:
        """Have the demux look at what it is told."""
        with contextlib.suppress(BlockingIOError):  # rung as often as it can be
            os.eventfd_write(self.demux_bell, 1)

    def member(self, index: int, *, skip: bool) -> Callable[[], None]:
        """Member `index`, ready to run; `skip` as in datapath.member."""
        renew(self.sockets[index], probes=self.peering.payload == "superpacket")
        maps = self.memory.map(f"member-{index}")
        shared = MemberShared(maps, index)
        parts = MemberParts(
            index=index,
            peering=self.peering,
            geometry=self.geometry,
            offloads=self.offloads,
            tun_fd=self.queues.fd(index),
            sock=self.sockets[index],
            boot=self.pairs[index].boot_member,
            control=self.pairs[index].control_member,
            ring=self._ring(maps, index, shared),
            shared=shared,
            steered=self.queues.steered,
        )
        return lambda: member.run(parts, skip=skip)

    def member_fds(self, index: int) -> set[int]:
        """The descriptors that member `index` keeps."""
        pairs = self.pairs[index]
        socks = (self.sockets[index], pairs.boot_member, pairs.control_member)
        return {self.queues.fd(index), self.bells[index], *(sock.fileno() for sock in socks)}

    def member_inputs(self, index: int) -> set[int]:
        """Those of them by which work comes."""
        own = {self.bells[index], self.sockets[index].fileno(), self.pairs[index].control_member.fileno()}
        return own | ({self.queues.fd(index)} if self.queues.steered else set())

    def keyd(self) -> KeydPeering:
        """What keyd inherits, and what it shares."""
        served = self.served_pairs()
        shared = PeeringShared(len(served), self.memory.map("keyd"))
        members = [
            KeydMember(one, pair.boot_keyd, pair.boot_member, pair.control_keyd, pair.memory)
            for one, pair in zip(shared.members, served, strict=True)
        ]
        flags, stopped = self.offloads.tun_flags, self.is_stopped
        return KeydPeering(self.as_keyd_has_it, self.material.fds, members, shared, flags, stopped=stopped)

    @property
    def as_keyd_has_it(self) -> Peering:
        """The configuration, but for what a user wants otherwise."""
        keys = self.peering.ike
        if keys is None or self.start_action is None:
            return self.peering
        return self.peering.model_copy(update={"keys": keys.model_copy(update={"start_action": self.start_action})})

    @property
    def is_stopped(self) -> bool:
        """Whether a user has ended its IKE (`fwd terminate`)."""
        return self.start_action == "none"

    def served_pairs(self) -> list[Pairs]:
        """Return the socket pairs of the members that keyd is to know."""
        return self.pairs[: self.count - self.retired]

    def view(self, process: str) -> PeeringView:
        """What the agent sees, or the beacon."""
        maps = self.memory.map(process)
        shared = PeeringShared(self.count, maps)
        rings = [RingWords(maps[f"demux-{i}"], one.ring) for i, one in enumerate(shared.members)]
        return PeeringView(self.peering, shared, rings, self.offloads, self.inner_mtu, self.warnings)

    def _ring(self, maps: Maps, index: int, shared: MemberShared) -> Ring:
        of = RingMaps(maps[f"demux-{index}"], shared.ring, maps[f"rows-{index}"], self.bells[index])
        return Ring(self.geometry.stride, self.geometry.rows, of)


def counted_by(member: MemberShared) -> list[int]:
    """Return what a member that has ended had counted; what it had taken and not looked at is lost."""
    counted = member.counters.read()
    counted = [value if value < COUNTS_END else 0 for value in counted]
    lost = member.link[LinkWord.RX_TAKEN] - counted[MemberCounter.IN_ESP]
    if 0 < lost < COUNTS_END:
        counted[DropReason.DIED_WITH_MEMBER_IN] += lost
        counted[MemberCounter.IN_ESP] += lost
    lost = member.link[LinkWord.QUEUE_READ] - counted[MemberCounter.READ_RECORDS]
    if 0 < lost < COUNTS_END:
        counted[DropReason.DIED_WITH_MEMBER] += lost
        counted[MemberCounter.READ_RECORDS] += lost
    return counted

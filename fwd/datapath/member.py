"""A member: one process, one ESP tunnel. Its loop joins the way out, the way in, the path monitor and keyd's messages.

The loop writes its own heartbeat; it needs nobody (rule 7): without keyd it goes on with the SAs it has, until
their lives end. It ends them itself, whatever keyd does: by deadline once a turn, by packets and octets on its tick.
Before its first turn it takes one boot record, and waits for it as long as need be. With nothing to do it rests.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import time
from functools import partial
from typing import Final

from fwd.datapath.audit import Audit
from fwd.datapath.barrier import Barrier
from fwd.datapath.boot import take_boot_record, wait_for_keys
from fwd.datapath.clock import boot_ms
from fwd.datapath.counters import MemberCounter
from fwd.datapath.echoes import Echoes
from fwd.datapath.geometry import inner_mtu_min
from fwd.datapath.inbound import BATCH_BYTES_MAX, Inbound
from fwd.datapath.outbound import Outbound
from fwd.datapath.parts import MemberParts as MemberParts
from fwd.datapath.queue import Queue
from fwd.datapath.quick import Ends, Quick
from fwd.datapath.receiver import Receiver
from fwd.datapath.receiving import Receiving
from fwd.datapath.ring import LEFT, TOLD
from fwd.datapath.shared import REST_MAX_S, REST_S, LinkWord
from fwd.datapath.tuning import Follower, Tuning
from fwd.datapath.udp import ANCILLARY_BYTES, KEEPALIVE, Mapping, Sender, path_mtu, read_ancillary
from fwd.datapath.unread import Unread
from fwd.datapath.whereabouts import Whereabouts
from fwd.proto.aggfrag import SUBTYPE_ECHO
from fwd.proto.echo import MOVED
from fwd.proto.logged import event
from fwd.proto.path import PathMonitor
from fwd.proto.sa import DEADLINE_MAX_MS, SET_BYTES_MAX, EventKind, MessageError, SaEvent, SaSet

IDLE_TICK_S: Final = 0.2
_REST_TICKS = 5  # in a row without traffic, after which it rests; for longer after one more
_UNKNOWN_EVERY_S = 0.1
_ASK_KERNEL_S = 1.0  # what the path takes
_ASK_KERNEL_SOON_S = 0.1  # after EMSGSIZE, which may come with every send
_BATCHES_MAX = 96  # of what lay in the socket: more of the smallest datagrams than its receive buffer takes
_LOOK_MAX_S = 0.2  # of CPU time, for which it is looked through, whoever sends meanwhile

log = logging.getLogger(__name__)


def run(parts: MemberParts, *, skip: bool) -> None:
    """Be a member until the process is ended.

    `skip`: it returns from `failed`, and leaves what waited meanwhile; so does one that has waited for keys.
    """
    boot = take_boot_record(parts.boot)
    if boot is None:
        boot, skip = wait_for_keys(parts.boot, parts.control, parts.shared), True
    Member(parts, boot, skip=skip).run()


class Member:
    """The loop and what it joins."""

    def __init__(self, parts: MemberParts, boot: SaSet, *, skip: bool) -> None:
        self._now = now = time.monotonic()
        self._parts = parts
        self._shared = parts.shared
        self._link = parts.shared.link
        self._incarnation, self._booted_ns = parts.shared.process.incarnation, boot.written_ns
        self._counters = parts.shared.counters.attach()
        self._esp = parts.peering.payload == "esp"
        self._sender = Sender(parts.sock, gso=parts.offloads.gso)
        local = str(parts.peering.local_addrs), parts.peering.port_of(parts.index)
        self._audit = Audit(local, wanted=parts.peering.audit)
        self._tuning, self._follower = Tuning.of(parts.peering), Follower(parts.shared.tuning)
        self._barrier = Barrier()
        self._unread = Unread(parts.sock, self._counters)

        # The two ways. The way in tells this object what it hears.
        self.inbound = Inbound(
            parts.peering, parts.geometry, parts.tun_fd, parts.offloads.tun_flags,
            parts.shared.counters, parts.shared.slots, self._link, self._audit, self,
            self._unread,
        )  # fmt: skip
        self._receiver = Receiver.of(parts.sock, self._link, BATCH_BYTES_MAX)
        self.queue, self.outbound = self._way_out()

        # The path, from what a predecessor or the kernel knows of it.
        self._where = Whereabouts(parts.peering, parts.index, parts.shared, self.outbound)
        self.echoes = self._watch_path(now)
        self._quick = Quick.of(self._ends()) if not parts.steered else None

        # What a predecessor held is counted as lost before anything new is taken.
        self.outbound.recover(skip=skip)
        self.inbound.recover()
        if self.queue is not None:
            self.queue.recover(skip=skip)

        # What the loop remembers from turn to turn.
        self.clock_ms = boot_ms
        self._deadline_ms = DEADLINE_MAX_MS  # the first of all SAs'
        self._mapping = Mapping(now)
        self._kernel_asked = self._unknown_at = 0.0
        self._left = parts.ring.member_words[TOLD]  # as the far member was told
        self._traffic = 0, 0  # ESP packets sent and received, at the last tick
        self._quiet_ticks = 0  # in a row without any
        self.echoes.publish()
        self._install(boot)
        self._tell(EventKind.STARTED, self._link[LinkWord.SPI_OUT])

    def _way_out(self) -> tuple[Queue | None, Outbound]:
        """Make the way out: from the ring that the demux fills, or from a queue of the member's own."""
        parts, queue = self._parts, None
        if parts.steered:
            queue = Queue(parts.peering, parts.tun_fd, parts.ring, parts.shared, parts.shared.counters)
        outbound = Outbound(
            queue.ring if queue else parts.ring, parts.geometry, self._sender, parts.shared.counters,
            parts.shared.ledger, self._link, self._incarnation, self._audit, self._barrier,
            payload=parts.peering.payload,
        )  # fmt: skip
        outbound.life = self._tuning.life
        outbound.queue = queue
        return queue, outbound

    def run(self) -> None:
        """Until the process is ended."""
        parts, heartbeat = self._parts, self._shared.process.heartbeat
        bell, data, control = parts.ring.bell, parts.sock.fileno(), parts.control.fileno()

        # What wakes it: the demux, the network, keyd.
        epoll = select.epoll()
        epoll.register(bell, select.EPOLLIN | select.EPOLLET)  # every ring is an edge: the bell need not be read
        epoll.register(data, select.EPOLLIN)
        epoll.register(control, select.EPOLLIN)
        queue, work = self.queue, self.outbound.work
        if queue is not None:
            epoll.register(parts.tun_fd, select.EPOLLIN | select.EPOLLET)  # each turn reads what there is
            work = partial(queue.turn, self.outbound.work)
        sender, told, due = self._sender, parts.ring.demux_words, 0.0
        while True:
            # What the far member may not have read yet is of others' flows by now.
            if told[LEFT] != self._left or (queue is not None and queue.to_tell):
                self._tell_moved()

            # Two segments at most before the other direction has its turn.
            busy = work()
            if busy:
                if self.echoes.sent(self._now):
                    due = min(due, self._now + self.echoes.next_timeout(self._now))
                busy = work()

            # It blocks if nothing waits: up to the next tick, or for as long as nothing is due at all.
            if not busy and due - self._now > IDLE_TICK_S:
                ready, due = self._rest(epoll, due), 0.0
            else:
                ready, due = self._wait(epoll, due, busy=busy)
            heartbeat[0] = now_ns = time.monotonic_ns()
            self._now = now = now_ns / 1e9

            # Nothing is received or sent on an SA beyond its end.
            if self.clock_ms() >= self._deadline_ms:
                self._end_overdue()
            for fd, _ in ready:
                if fd == data:
                    self._receive()
                elif fd == control:
                    self._hear_keyd()
            if now >= due or sender.too_big or not (ready or busy):  # what waits for packets has waited long enough
                due = now + self._tick()

    def _wait(self, epoll: select.epoll, due: float, *, busy: bool) -> tuple[list[tuple[int, int]], float]:
        """Block until something comes, or `due`; what is simple is done with meanwhile. Returns what is due then."""
        quick, patience_s = self._quick, self.inbound.patience_s
        if busy or quick is None or patience_s < IDLE_TICK_S or self._is_to_tell:
            return epoll.poll(0.0 if busy else max(0.0, min(due - self._now, patience_s))), due
        knows = self.echoes.pulse.knows_of_sent
        ready = quick.wait(epoll, due, self._deadline_ms, self._left, tells_sent=not knows)
        if self.echoes.followed(*quick.times_s):
            due = min(due, self._now + self.echoes.next_timeout(self._now))
        return ready, due

    def _rest(self, epoll: select.epoll, due: float) -> list[tuple[int, int]]:
        """Block until something comes, or `due`. From here on a bell that is rung stays readable: work waits."""
        bell = self._parts.ring.bell
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(bell)
            if self.queue is not None:
                return []  # it may have been rung since the queue was found empty: the demux waits for another look
        if self.outbound.waits() or self._parts.ring.left != self._left or (self.queue and self.queue.is_stirred):
            return []
        self._shared.process.heartbeat[0] = int(due * 1e9)
        ready = epoll.poll(max(0.0, due - self._now))

        self._follow()  # what others' words said meanwhile holds for what has come
        return ready

    # -- the network ------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        """Open what the socket holds."""
        try:
            more = self._receive_batch()
            if self.inbound.delivery.holds:
                self._look_through(more)
        except Exception:  # noqa: BLE001 - the barrier tells of it
            self._barrier.caught("receive")
            self.inbound.lose_batch()

    def _look_through(self, more: bool) -> None:
        """Look through all that the socket holds, if there is `more`, before any of it is delivered: this process, or
        its predecessor, has not read it for a while. Behind what is of flows that go on with others the far member
        says so (`on_echo`).
        """
        inbound, until = self.inbound, time.thread_time() + _LOOK_MAX_S
        for _ in range(_BATCHES_MAX):
            if not more or not inbound.delivery.holds or time.thread_time() >= until:
                break
            more = self._receive_batch()
        inbound.release(is_all=not more)

    def _receive_batch(self) -> bool:
        """Receive and open what the socket holds, as far as is fair to the other way; True: there may be more."""
        sock, inbound = self._parts.sock, self.inbound
        inbound.now = self._now
        more: bool | None = True

        # What the quick way has left, then the socket's, until that is empty (None) or a batch is full.
        try:
            if self._quick is not None and (first := self._quick.take_over()) is not None:
                more = inbound.take(*first)
            while more:
                if self._receiver is not None:
                    more = inbound.take_from(self._receiver)
                else:
                    length, ancillary, _, address = sock.recvmsg_into((inbound.space(),), ANCILLARY_BYTES)
                    more = inbound.take(length, *read_ancillary(ancillary, length), address)
        except BlockingIOError:
            more = None
        except ConnectionError:  # instead of a datagram: more may lie behind
            more = False
        if inbound.open(self._now):
            self.echoes.sizes.heard(self._now)
        if more is None:
            self._unread.found_empty()
        return more is not None

    def on_heard(self, sa: Receiving, address: tuple[str, int]) -> None:
        """Something authenticated came on `sa`, newer than all before it, from `address`."""
        where = self._where
        if address != where.heard_from and where.find(address, self._now, moves=self._tuning.mobility != "none"):
            self._tell(EventKind.ELSEWHERE, sa.spi)
        if not sa.heard:
            sa.heard = True
            self._tell(EventKind.HEARD, sa.spi)

    def on_unknown(self, spi: int) -> None:
        if self._now - self._unknown_at >= _UNKNOWN_EVERY_S:
            self._unknown_at = self._now
            self._tell(EventKind.UNKNOWN, spi)

    def on_echo(self, subtype: int, number: int) -> None:
        if number == MOVED:
            if subtype == SUBTYPE_ECHO:
                self.inbound.drop_held()
            return
        self.echoes.take(subtype, number, self._now)

    def _tell_moved(self) -> None:
        """Tell the far member that this one's buckets have gone to others, in the next turn if there is no room now."""
        left = self._parts.ring.left
        try:
            if self.outbound.sa is not None and not self.echoes.tell_moved():
                return
        except Exception:  # noqa: BLE001 - the barrier tells of it
            self._barrier.caught("moved")
        self._left = self._parts.ring.member_words[TOLD] = left
        if self.queue is not None and self.queue.to_tell:
            self.queue.told()

    @property
    def _is_to_tell(self) -> bool:
        """Whether the far member does not know yet that this one's buckets have gone to others."""
        return self._parts.ring.left != self._left or (self.queue is not None and self.queue.to_tell)

    def _ends(self) -> Ends:
        parts, ways = self._parts, (self._sender, self.outbound, self.inbound, self._unread, self._where)
        return Ends(parts.sock, parts.control, parts.ring, parts.shared, *ways)

    def _watch_path(self, now: float) -> Echoes:
        """Begin to watch the path from what a predecessor, or else the kernel, knows of its MTU."""
        geometry, widest = self._parts.geometry, self._parts.geometry.path_mtu
        known = self._shared.path_mtu or self._kernel_mtu() or widest
        sizes = PathMonitor(min(known, widest), now, widest)
        return Echoes(self._shared, geometry, self.outbound, self._counters, sizes, esp=self._esp)

    def _tick(self) -> float:
        """Do what need not be done on every turn; returns after how many seconds it is due again, at the latest."""
        try:
            return self._do_tick()
        except Exception:  # noqa: BLE001 - the barrier tells of it
            self._barrier.caught("tick")
            self.inbound.lose_batch()  # it may have been giving up what had waited too long
            return IDLE_TICK_S

    def _follow(self) -> None:
        """Follow what supervisor and keyd say by shared words."""
        try:
            if (tuning := self._follower.news()) is not None:
                self._tune(tuning)
            self._where.follow_keyd()
        except Exception:  # noqa: BLE001 - the barrier tells of it
            self._follower.look_again()
            self._barrier.caught("words")

    def _do_tick(self) -> float:
        self._follow()
        due_s = _ASK_KERNEL_SOON_S if self._sender.too_big else _ASK_KERNEL_S
        self._sender.too_big = False
        if self._now - self._kernel_asked >= due_s:
            self._ask_kernel()
        self.echoes.look(self._now)
        self._link[LinkWord.GSO_REFUSED] = self._sender.gso_refused
        self.inbound.expire(self._now)
        if self._shared.keepalive[0] and self._mapping.is_due(self._counters[MemberCounter.OUT_ESP], self._now):
            with contextlib.suppress(OSError):  # as good as lost
                self._parts.sock.sendto(KEEPALIVE, self.outbound.peer)
        self._audit.tick()
        if self.queue is not None:
            self.queue.tick()
        self._end_overdue()
        tuning, sa = self._tuning, self.outbound.sa
        if sa and self.outbound.is_due(tuning.rekey_packets, tuning.rekey_bytes):  # until keyd has answered
            self._tell(EventKind.SOFT_LIMIT, sa.spi)
        return self._idle_s()

    def _idle_s(self) -> float:
        """How long nothing is due. What waits for missing packets, or for its SA, is given up within _REST_TICKS.

        It rests for REST_S at first, and for REST_MAX_S when nothing came in that time: there may be hundreds.
        """
        traffic = self._counters[MemberCounter.OUT_ESP], self._link[LinkWord.RX_TAKEN]
        self._quiet_ticks = self._quiet_ticks + 1 if traffic == self._traffic else 0
        self._traffic = traffic
        if self._quiet_ticks < _REST_TICKS or self._is_to_tell:
            return min(IDLE_TICK_S, self.echoes.next_timeout(self._now))

        # The life of an SA, a NAT's mapping and what is shown of losses end while it rests, too.
        is_short = self._quiet_ticks == _REST_TICKS or self._link[LinkWord.LOSS]
        wait_s = min(REST_S if is_short else REST_MAX_S, (self._deadline_ms - self.clock_ms()) / 1000)
        if self._shared.keepalive[0]:
            wait_s = min(wait_s, self._mapping.next_timeout(self._now))
        return min(max(IDLE_TICK_S, wait_s), self.echoes.next_timeout(self._now))

    def _tune(self, tuning: Tuning) -> None:
        """Follow what the supervisor has put in force."""
        self._tuning = tuning
        self._audit.want(tuning.audit)
        self.inbound.tune(tuning)
        self.outbound.life = tuning.life

    def _ask_kernel(self) -> None:
        """Ask what the kernel takes the path's MTU to be: what ICMP has told it counts for 10 minutes (RFC 1191 §6.3).

        In superpacket that is a hint for the path monitor. In esp it is the only word, followed down and up again; the
        TUN device follows it as far as IPv6 inside allows, and what the path does not take then becomes fragments.
        """
        self._kernel_asked = self._now
        tuning, found = self._tuning, self._kernel_mtu()
        if self._esp:
            self.echoes.sizes.follow(found)
            self.echoes.publish()
            least = inner_mtu_min((*tuning.local_ts, *tuning.remote_ts))
            self._sender.allow_fragments(self._parts.geometry.inner_mtu_for(self.echoes.sizes.mtu_bytes) < least)
        else:
            self.echoes.sizes.too_big(found, self._now)

    def _kernel_mtu(self) -> int:
        peer = self.outbound.peer
        return path_mtu(self._parts.peering.local_addrs, peer[0], peer[1])

    # -- keyd -------------------------------------------------------------------------------------------------

    def _hear_keyd(self) -> None:
        """Take all that keyd has sent."""
        try:
            self.on_news()
        except Exception:  # noqa: BLE001 - the barrier tells of it
            self._barrier.caught("message from keyd")
            self.inbound.lose_batch()  # packets that had waited for these SAs, among others

    def on_news(self) -> None:
        """Take what keyd has sent to this incarnation, and not before its boot record was written."""
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    message = SaSet.decode(self._parts.control.recv(SET_BYTES_MAX))
                except MessageError as error:
                    log.error("message from keyd refused: %s", error, extra=event("member.message_refused"))
                    continue
                if message.incarnation == self._incarnation and message.written_ns >= self._booted_ns:
                    self._install(message)

    def _end_overdue(self) -> None:
        """Send and accept no more on SAs whose life is over; and note when the next one's is."""
        try:
            self._end_sas()
        except Exception:  # noqa: BLE001 - the barrier tells of it
            self._barrier.caught("end of an SA")

    def _end_sas(self) -> None:
        now_ms = self.clock_ms()
        for spi in self.inbound.end_overdue(now_ms):
            told = event("member.sa_expired", spi=f"{spi:#010x}", way="in")
            log.info("SPI %#010x is at the end of its life, and accepted no more", spi, extra=told)
        sa = self.outbound.sa
        if sa is not None and self.outbound.is_over(now_ms):
            self.outbound.stop(expired=True)
            told = event("member.sa_expired", spi=f"{sa.spi:#010x}", way="out")
            log.warning(
                "SPI %#010x is at the end of its life: no outbound SA until keyd has another",
                sa.spi,
                extra=told,
            )
        deadlines = (self.inbound.deadline_ms, self.outbound.deadline_ms)
        self._deadline_ms = min((one for one in deadlines if one), default=DEADLINE_MAX_MS)

    def _install(self, sas: SaSet) -> None:
        self.inbound.install(sas.inbound, self.clock_ms())
        self._where.look()
        if sas.stop:
            self.outbound.stop()
            log.info("no outbound SA: the peer or a user has ended it", extra=event("member.stopped"))
        if sas.until_ms:
            self.outbound.end_by(sas.until_ms)
        if sas.outbound is not None:
            self.outbound.use(sas.outbound)
            spi, accepts = f"{sas.outbound.spi:#010x}", len(sas.inbound)
            told = event("member.sa", spi=spi, accepts=accepts)
            log.info("sends on SPI %s, accepts %d SPIs", spi, accepts, extra=told)
        self._end_overdue()

    def _tell(self, kind: EventKind, spi: int) -> None:
        """Events are hints: keyd finds the same in the shared words, so a full or dead queue loses nothing."""
        with contextlib.suppress(OSError):
            self._parts.control.send(SaEvent(kind, self._incarnation, spi).encode())

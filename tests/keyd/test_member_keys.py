"""keyd's SAs of one member, over any sequence of deaths: none is sent on twice, and the far side accepts them."""

from __future__ import annotations

import contextlib
import random
import socket
import tempfile
from collections.abc import Iterator

import pytest
from killing import dies_at, every_point
from test_source import SECRET, peering

from fwd.datapath.shared import LinkWord, PeeringShared, ProcessState
from fwd.keyd.epochs import OLD_SA_S, SPARES_IN, MemberKeys
from fwd.keyd.mailbox import KeydMember
from fwd.keyd.source import LabSource
from fwd.proto.sa import SLOTS, EventKind, SaEvent, SaKeys, SaSet


class Side:
    """keyd and one member of one gateway. The member is played: it takes boot records, sends, hears, dies."""

    def __init__(self, side: int, secret_fd: int, undo: contextlib.ExitStack, rekey_time: int = 0) -> None:
        self.peering = peering(side).model_copy(update={"rekey_time": rekey_time})
        self.source = LabSource(secret_fd, self.peering)
        self.shared = PeeringShared(1).members[0]
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        for sock in (s for pair in pairs for s in pair):
            undo.callback(sock.close)
            sock.setblocking(False)
        (keyd_boot, self.boot), (keyd_control, self.control) = pairs
        self.parts = KeydMember(self.shared, keyd_boot, self.boot, keyd_control)
        self.used: list[SaKeys] = []  # every outbound SA that an incarnation took up
        self.inbound: dict[int, SaKeys] = {}
        self.outbound: SaKeys | None = None
        self.incarnation = 0
        self.spawn_keyd(0.0)

    def spawn_keyd(self, now: float) -> None:
        self.keys = MemberKeys(self.peering, 0, self.source, self.parts, now)

    def start(self) -> None:
        """The supervisor forks a member, which has not done anything yet."""
        self.incarnation += 1
        self.shared.process.put(ProcessState.RUNNING, 1, self.incarnation - 1, 0, self.incarnation)
        self.inbound, self.outbound = {}, None

    def spawn(self) -> bool:
        """A member starts and takes a boot record; False: there was none."""
        self.start()
        try:
            record = SaSet.decode(self.boot.recv(65536))
        except BlockingIOError:
            return False
        assert record.incarnation == 0
        assert record.outbound is not None
        self.install(record)
        return True

    def install(self, message: SaSet) -> None:
        self.inbound = {keys.spi: keys for keys in message.inbound}
        slots = [keys.slot for keys in message.inbound]
        assert len(slots) == len(set(slots)), "two SAs of one replay slot"
        assert all(self.source.inbound_epoch(0, spi) is not None for spi in self.inbound)
        for keys in message.inbound:
            self.shared.slots.floor(keys.slot, keys.spi)
        if message.outbound is not None:
            self.used.append(message.outbound)
            self.outbound = message.outbound
            self.shared.ledger.begin(self.incarnation, message.outbound.spi)
            self.shared.link[LinkWord.SPI_OUT] = message.outbound.spi

    def read_updates(self) -> int:
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                message = SaSet.decode(self.control.recv(65536))
                count += 1
                if message.incarnation == self.incarnation:
                    self.install(message)
        return count

    def tell(self, kind: EventKind, spi: int, now: float) -> None:
        self.control.send(SaEvent(kind, self.incarnation, spi).encode())
        self.keys.hear(now)

    def boot_records(self) -> list[SaSet]:
        """What waits, taken out and put back."""
        records = []
        with contextlib.suppress(BlockingIOError):
            while True:
                records.append(self.boot.recv(65536))
        for data in records:
            self.parts.boot.send(data)
        return [SaSet.decode(data) for data in records]

    def receives(self, sender: Side, now: float) -> bool:
        """Packets of the sender's member reach this one's; what it does not know it tells keyd."""
        assert sender.outbound is not None
        keys = self.inbound.get(sender.outbound.spi)
        if keys is None:
            self.tell(EventKind.UNKNOWN, sender.outbound.spi, now)
            return False
        assert keys == sender.outbound
        self.shared.slots.words[2 * keys.slot + 1] += 1
        return True


@contextlib.contextmanager
def sides(**parts: int) -> Iterator[tuple[Side, Side]]:
    with contextlib.ExitStack() as undo:
        file = undo.enter_context(tempfile.TemporaryFile())
        file.write(SECRET)
        file.flush()
        yield Side(1, file.fileno(), undo, **parts), Side(2, file.fileno(), undo, **parts)


def settle(a: Side, b: Side, now: float) -> float:
    """Some ticks of both keyds with traffic both ways."""
    for _ in range(4):
        now += 0.1
        for side, other in ((a, b), (b, a)):
            side.keys.tick(now)
            side.read_updates()
            if side.outbound and other.outbound:
                other.receives(side, now)
    return now


def test_two_records_wait_from_the_start() -> None:
    with sides() as (a, b):
        for side in (a, b):
            records = side.boot_records()
            assert len(records) == 2
            assert records[0].outbound != records[1].outbound
        assert a.spawn()
        assert b.spawn()
        settle(a, b, 0.0)
        assert a.receives(b, 1.0)
        assert b.receives(a, 1.0)
        assert len(a.boot_records()) == len(b.boot_records()) == 2


@pytest.mark.parametrize("seed", range(25))
def test_any_sequence_of_deaths(seed: int) -> None:
    """No outbound SA is used twice, records are there again after a tick, and traffic passes again within a few."""
    dice = random.Random(seed)
    with sides() as (a, b):
        assert a.spawn()
        assert b.spawn()
        now = settle(a, b, 0.0)
        for _ in range(60):
            side, other = dice.choice([(a, b), (b, a)])
            what = dice.choice(["member", "keyd", "both", "twice", "renew", "refresh", "settle", "settle"])
            if what in ("keyd", "both"):
                side.spawn_keyd(now)
            if what in ("member", "both", "twice"):
                assert side.spawn()
            if what == "twice":
                assert side.spawn()
            if what == "renew":
                assert side.outbound is not None
                side.tell(EventKind.SOFT_LIMIT, side.outbound.spi, now)
            if what == "refresh":
                side.keys.refresh()
            if what == "settle":
                now = settle(a, b, now + dice.choice([0.0, OLD_SA_S]))
                assert b.receives(a, now), "gateway 2 does not accept what gateway 1 sends on"
                assert a.receives(b, now)
            side.keys.tick(now)
            side.read_updates()
            assert len(side.boot_records()) == 2
            spis = [keys.spi for keys in side.used]
            assert len(spis) == len(set(spis)), "an SA was sent on by two incarnations"
            assert not {r.outbound for r in side.boot_records()} & set(side.used)
            assert other.keys is not None


def test_members_that_die_before_they_send_do_not_use_up_the_records() -> None:
    """Each takes a record and dies before its SPI shows in the shared words."""
    with sides() as (a, b):
        assert a.spawn()
        now = settle(a, b, 0.0)
        for _ in range(6):
            a.start()
            a.boot.recv(65536)
            now += 0.1
            a.keys.tick(now)
        a.start()
        a.keys.tick(now + 0.1)
        assert len(a.boot_records()) == 2
        spis = {r.outbound.spi for r in a.boot_records() if r.outbound}
        assert a.outbound is None
        assert len(spis) == 2


def test_keyd_killed_at_every_line(every_time: bool) -> None:
    """A spare may be lost with it, but none is handed out twice, and the next keyd makes up the number."""

    def check(nth: int) -> bool:
        with sides() as (a, b):
            assert a.spawn()
            assert b.spawn()
            settle(a, b, 0.0)

            def live() -> None:
                a.spawn_keyd(1.0)
                a.spawn()
                a.keys.tick(1.1)
                assert a.outbound is not None
                a.tell(EventKind.SOFT_LIMIT, a.outbound.spi, 1.2)

            died = dies_at(nth, live, "fwd/keyd/epochs.py", "fwd/keyd/mailbox.py")
            epochs = a.shared.next_epoch[0]
            taken = [r.outbound.spi for r in a.boot_records() if r.outbound]
            a.incarnation = a.shared.process.incarnation
            a.read_updates()
            a.spawn_keyd(2.0)
            records = a.boot_records()
            assert len(records) == 2
            waiting = [r.outbound.spi for r in records if r.outbound]
            fresh = {a.source.outbound(0, e).spi for e in range(epochs, a.shared.next_epoch[0])}
            assert set(waiting) == set(taken) | fresh
            assert a.shared.link[LinkWord.SPI_OUT] not in waiting
            assert not {keys.spi for keys in a.used} & set(waiting)
            assert a.spawn()
            settle(a, b, 3.0)
            assert b.receives(a, 4.0)
            return died

    assert every_point(check, every_time=every_time) > 50


def test_a_respawn_after_a_rekey_is_accepted() -> None:
    """The boot records that waited during the rekey are not of an epoch that the far side has retired."""
    with sides() as (a, b):
        assert a.spawn()
        assert b.spawn()
        now = settle(a, b, 0.0)
        assert a.outbound is not None
        a.tell(EventKind.SOFT_LIMIT, a.outbound.spi, now)
        now = settle(a, b, now)
        now = settle(a, b, now + OLD_SA_S + 1)
        assert a.spawn()
        assert b.receives(a, now)


def test_soft_limit_and_rekey_time_give_a_new_sa() -> None:
    with sides(rekey_time=60) as (a, b):
        assert a.spawn()
        assert b.spawn()
        now = settle(a, b, 0.0)
        first = a.outbound
        assert first is not None
        a.tell(EventKind.SOFT_LIMIT, first.spi ^ 0x100, now)  # of an SA that is not the current one
        a.read_updates()
        assert a.outbound == first
        a.tell(EventKind.SOFT_LIMIT, first.spi, now)
        a.read_updates()
        second = a.outbound
        assert second != first
        now = settle(a, b, now)
        a.keys.tick(now + 59)
        a.read_updates()
        assert a.outbound == second
        a.keys.tick(now + 61)
        a.read_updates()
        assert a.outbound not in (first, second)


def test_the_old_inbound_sa_is_kept_for_five_seconds() -> None:
    with sides() as (a, b):
        assert a.spawn()
        assert b.spawn()
        now = settle(a, b, 0.0)
        old = a.outbound
        assert old is not None
        assert a.spawn()
        assert b.receives(a, now)
        b.keys.tick(now)
        b.read_updates()
        b.keys.tick(now + OLD_SA_S - 0.1)
        b.read_updates()
        assert old.spi in b.inbound
        b.keys.tick(now + OLD_SA_S + 0.1)
        b.read_updates()
        assert old.spi not in b.inbound
        assert a.outbound is not None
        assert a.outbound.spi in b.inbound


def test_updates_are_sent_on_change_only() -> None:
    with sides() as (a, b):
        assert a.spawn()
        assert b.spawn()
        now = settle(a, b, 0.0)
        for turn in range(50):
            a.keys.tick(now + turn / 10)
        assert a.read_updates() == 0


@pytest.mark.parametrize("ahead", [*range(SPARES_IN, 40), 1000, 4000])
def test_an_epoch_far_ahead_is_accepted(ahead: int) -> None:
    """The far side has died often, unheard; but the SA in use stays, whoever forged the packet."""
    with sides() as (a, b):
        assert a.spawn()
        assert b.spawn()
        now = settle(a, b, 0.0)
        current = a.outbound
        assert current is not None
        far = a.source.outbound(0, ahead + 1)
        b.tell(EventKind.UNKNOWN, far.spi, now)
        b.read_updates()
        assert current.spi in b.inbound, "a forged packet took the SA away that is in use"
        assert far.spi in b.inbound or ahead + 1 <= SPARES_IN or (ahead + 1) % SLOTS == 0


@pytest.mark.parametrize("ahead", range(SPARES_IN + 1, SPARES_IN + 1 + SLOTS))
def test_a_forged_far_epoch_does_not_keep_the_next_one_out(ahead: int) -> None:
    with sides() as (a, b):
        assert a.spawn()
        assert b.spawn()
        now = settle(a, b, 0.0)
        for _ in range(5):
            assert a.outbound is not None
            b.tell(EventKind.UNKNOWN, a.source.outbound(0, ahead).spi, now)
            b.read_updates()
            assert a.spawn()
            now = settle(a, b, now)
            assert b.receives(a, now)


def test_unknown_spis_of_no_epoch_change_nothing() -> None:
    with sides() as (a, b):
        assert a.spawn()
        assert b.spawn()
        now = settle(a, b, 0.0)
        before = dict(b.inbound)
        for spi in (0, 1, 0xFFFFFFFF, b.used[0].spi, a.source.outbound(1, 9).spi, a.source.outbound(0, 100_000).spi):
            b.tell(EventKind.UNKNOWN, spi, now)
        b.read_updates()
        assert b.inbound == before


def test_bytes_that_are_no_event_are_refused() -> None:
    with sides() as (a, _):
        for data in (b"x", bytes(13), b"\x01" * 12, random.Random(1).randbytes(500)):
            a.control.send(data)
        a.keys.hear(1.0)
        assert len(a.boot_records()) == 2


def test_a_member_that_has_ended_its_sa_by_count_gets_another_once() -> None:
    """keyd was away when the soft limit was told."""
    with sides() as (a, b):
        for side in (a, b):
            assert side.spawn()
        now = settle(a, b, 0.0)
        a.outbound, a.shared.link[LinkWord.SPI_OUT] = None, 0
        a.spawn_keyd(now)
        for _ in range(5):
            now += 0.1
            a.keys.tick(now)
        a.read_updates()
        assert a.outbound is not None
        assert len(a.used) == 2
        settle(a, b, now)
        assert b.receives(a, now)

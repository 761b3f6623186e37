"""Pairs of SAs where IKEv2 makes them: two keyds in memory, and members that are played, over deaths of all kinds.

What must hold at every moment: no SA is sent on by two incarnations, and the far side accepts whatever is sent on.
"""

from __future__ import annotations

import contextlib
import random
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from propkit import examples
from test_source import peering

from fwd.datapath.counters import MemberCounter
from fwd.datapath.shared import LinkWord, PeeringShared, ProcessState
from fwd.keyd import accepted
from fwd.keyd.ike import IkePeering
from fwd.keyd.mailbox import BOOT_RECORDS, KeydMember, KeydPeering
from fwd.keyd.pair_states import Life
from fwd.keyd.pairs import ANSWER_S, OLD_SA_S
from fwd.model.keys import PskKeys
from fwd.proto.ike import endpoint, exchanges, rekey
from fwd.proto.ike.auth import Credentials, Psk
from fwd.proto.ike.message import Header
from fwd.proto.ike.numbers import Notify, ProtocolError
from fwd.proto.ike.payloads import notified
from fwd.proto.ike.sa import NO_SPI
from fwd.proto.sa import SLOTS, EventKind, SaEvent, SaKeys, SaSet

STEP_S = 0.1
TUN_FLAGS = 0x7


class PlayedMember:
    """A member's process: it takes a boot record, sends, hears, dies."""

    def __init__(self, shared: PeeringShared, index: int, undo: contextlib.ExitStack) -> None:
        self.shared = shared.members[index]
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
        for sock in (s for pair in pairs for s in pair):
            undo.callback(sock.close)
            sock.setblocking(False)
        (boot, self.boot), (keyd_control, self.control), memory = pairs
        self.parts = KeydMember(self.shared, boot, self.boot, keyd_control, memory)
        self._counters = self.shared.counters.attach()
        self.incarnation = self.booted_ns = 0
        self.alive = False
        self.outbound: SaKeys | None = None
        self.inbound: dict[int, SaKeys] = {}
        self.used: list[int] = []

    def start(self) -> bool:
        """The next incarnation; False: there was no boot record."""
        self.forked()
        return self.take_record()

    def forked(self) -> None:
        """The supervisor has begun the next incarnation, which has done nothing yet."""
        self.incarnation += 1
        self.shared.process.put(ProcessState.RUNNING, 1, self.incarnation - 1, 0, self.incarnation)

    def take_record(self) -> bool:
        """It looks for a boot record; False: there was none."""
        self.inbound, self.outbound, self.alive = {}, None, False
        try:
            record = SaSet.decode(self.boot.recv(65536))
        except BlockingIOError:
            return False
        self.alive, self.booted_ns = True, record.written_ns
        self._install(record)
        return True

    def read(self) -> None:
        """What keyd has sent to the living."""
        with contextlib.suppress(BlockingIOError):
            while True:
                message = SaSet.decode(self.control.recv(65536))
                if self.alive and message.incarnation == self.incarnation and message.written_ns >= self.booted_ns:
                    self._install(message)

    def _install(self, message: SaSet) -> None:
        self.inbound = {keys.spi: keys for keys in message.inbound}
        slots = [keys.slot for keys in message.inbound]
        assert len(slots) == len(set(slots)), "two SAs of one replay slot"
        for keys in message.inbound:
            self.shared.slots.floor(keys.slot, keys.spi)
        if message.until_ms and self.outbound is not None:
            ends_ms = min(self.outbound.deadline_ms or message.until_ms, message.until_ms)
            self.outbound = replace(self.outbound, deadline_ms=ends_ms)
        if message.stop:
            self.outbound, self.shared.link[LinkWord.SPI_OUT] = None, 0
        if message.outbound is not None:
            self.outbound = message.outbound
            self.used.append(message.outbound.spi)
            assert len(self.used) == len(set(self.used)), "an SA was sent on twice"
            self.shared.ledger.begin(self.incarnation, message.outbound.spi)
            self.shared.link[LinkWord.SPI_OUT] = message.outbound.spi

    def end_overdue(self, now: float) -> None:
        """SAs whose life is over, which a member ends by itself."""
        self.inbound = {spi: keys for spi, keys in self.inbound.items() if not 0 < keys.deadline_ms <= now * 1000}
        if self.outbound is not None and 0 < self.outbound.deadline_ms <= now * 1000:
            self.outbound, self.shared.link[LinkWord.SPI_OUT] = None, 0

    def hear(self, keys: SaKeys) -> bool:
        """A packet of the far side's; whether it is accepted."""
        mine = self.inbound.get(keys.spi)
        if not self.alive or mine is None:
            return False
        assert (mine.key, mine.salt, mine.esn) == (keys.key, keys.salt, keys.esn)
        self.shared.slots.words[2 * mine.slot + 1] += 1
        self._counters[MemberCounter.IN_ESP_OK] += 1
        self.shared.counters.publish()
        return True


class Side:
    """keyd and the members of one gateway."""

    def __init__(self, number: int, members: int, undo: contextlib.ExitStack, rekey_time: int, **more: Any) -> None:
        keys = PskKeys(source="psk", secret=Path("unused"), dpd_delay=10)
        self.standard = more.pop("standard", False)  # it does not say that it is an fwd
        self.reveal = more.pop("reveal", None)
        self.certificates: Credentials | None = more.pop("certificates", None)
        changes = {"keys": keys, "members": members, "rekey_time": rekey_time, **more}
        self.peering = peering(number).model_copy(update=changes)
        self.shared = PeeringShared(members)
        self.members = [PlayedMember(self.shared, i, undo) for i in range(members)]
        self.keyd: IkePeering | None = None

    def start_keyd(self, now: float, secret: bytes = b"both sides have this secret", *, stopped: bool = False) -> None:
        members = [member.parts for member in self.members]
        parts = KeydPeering(self.peering, {}, members, self.shared, TUN_FLAGS, stopped=stopped)
        self.keyd = IkePeering(parts, self.certificates or Psk(secret), now, self.reveal)
        if self.standard:
            endpoint = self.keyd._endpoint
            endpoint.connections = {n: replace(c, notifies=()) for n, c in endpoint.connections.items()}


class World:
    """Both sides, and the time."""

    def __init__(
        self,
        undo: contextlib.ExitStack,
        members: int = 2,
        rekey_time: int = 0,
        theirs: dict[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """`more` is of both sides, `theirs` of the second alone."""
        self.now = 100.0
        self.sides = [
            Side(1, members, undo, rekey_time, **more),
            Side(2, **{"members": members, "undo": undo, "rekey_time": rekey_time, **more, **(theirs or {})}),
        ]
        self.refused = 0
        for side in self.sides:
            side.start_keyd(self.now)

    def run(self, seconds: float, *, traffic: bool = True) -> None:
        """keyds talk, members that have died start again, and every member sends a packet now and then."""
        for _ in range(round(seconds / STEP_S)):
            self.now += STEP_S
            for side in self.sides:
                if side.keyd is not None:
                    side.keyd.tick(self.now)
            self._exchange()
            for side in self.sides:
                for member in side.members:
                    member.read()
                    if not member.alive:
                        member.start()
                    member.end_overdue(self.now)
            if traffic:
                self._send()
            assert not any(side.keyd.faults for side in self.sides if side.keyd), "a fault of fwd's: see the log"

    def _exchange(self) -> None:
        for _ in range(20):
            sent = 0
            for here, there in (self.sides, self.sides[::-1]):
                for datagram in here.keyd.datagrams() if here.keyd is not None else []:
                    sent += 1
                    if there.keyd is not None:
                        there.keyd.receive(datagram.data, datagram.remote, datagram.local, self.now)
            if not sent:
                break

    def _send(self) -> None:
        for here, there in (self.sides, self.sides[::-1]):
            for mine in here.members:
                if mine.alive and mine.outbound is not None:
                    theirs = there.members[mine.outbound.spi & 0xFF]  # as the port's filter has it
                    theirs.read()
                    self.refused += theirs.alive and not theirs.hear(mine.outbound)

    def check_sends(self) -> None:
        """Every member of both sides sends, and is heard."""
        before = self.refused
        self.run(1.0)
        assert self.refused == before
        for side in self.sides:
            assert all(member.alive and member.outbound for member in side.members)

    def check_spares(self) -> None:
        """Soon boot records wait for every member; and no more SAs are held than is right."""
        for _ in range(20):
            records = [self._records(side, index) for side in self.sides for index in range(len(side.members))]
            if set(records) == {BOOT_RECORDS}:
                break
            self.run(0.1)
        else:
            raise AssertionError(f"boot records: {records}")
        for side in self.sides:
            assert all(BOOT_RECORDS + 1 <= len(member.inbound) <= SLOTS for member in side.members)

    def _records(self, side: Side, index: int) -> int:
        """How many boot records wait for a member."""
        boot = side.members[index].boot
        count, waiting = 0, []
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting.append(boot.recv(65536))
                count += 1
        for data in waiting:
            side.members[index].parts.boot.send(data)
        return count


def test_every_member_sends_soon_and_has_spares(undo: contextlib.ExitStack) -> None:
    world = World(undo, members=4)
    world.run(1.0)
    assert world.refused == 0
    world.check_sends()
    world.check_spares()


def test_members_die_again_and_again(undo: contextlib.ExitStack) -> None:
    world, dice = World(undo), random.Random(1)
    world.run(2.0)
    for _ in range(examples(240)):
        side, index = world.sides[dice.randrange(2)], dice.randrange(2)
        side.members[index].alive = False
        world.run(dice.choice([0.3, 1.0]))
    world.run(3 * OLD_SA_S)
    world.check_sends()
    world.check_spares()
    assert world.refused == 0
    # In use, spares, and perhaps one that came of both asking; nothing that was left is kept.
    assert all(len(member.inbound) <= 5 for side in world.sides for member in side.members)


def test_both_members_of_a_tunnel_die_at_once(undo: contextlib.ExitStack) -> None:
    world = World(undo)
    world.run(2.0)
    for _ in range(5):
        for side in world.sides:
            side.members[0].alive = False
        world.run(1.0)
    world.check_sends()
    assert world.refused == 0


def test_rekeying_is_never_seen(undo: contextlib.ExitStack) -> None:
    world = World(undo, rekey_time=2)
    seconds = 20.0 + examples(160)
    world.run(seconds)
    assert world.refused == 0
    assert all(len(member.used) > seconds / 4 for side in world.sides for member in side.members)
    world.check_spares()


def test_a_count_that_nears_its_end_is_renewed(undo: contextlib.ExitStack) -> None:
    world = World(undo)
    world.run(2.0)
    side = world.sides[0]
    member = side.members[0]
    before = member.outbound
    assert before is not None
    assert side.keyd is not None
    member.control.send(SaEvent(EventKind.SOFT_LIMIT, member.incarnation, before.spi).encode())
    side.keyd.hear(0, world.now)
    world.run(1.0)
    assert member.outbound != before
    assert world.refused == 0


def test_keyd_dies_and_its_successor_takes_over(undo: contextlib.ExitStack) -> None:
    """Everything that was installed stays so; members that die meanwhile take the spares that wait."""
    world, dice = World(undo, rekey_time=5), random.Random(2)
    world.run(2.0)
    for n in range(2 + examples(40)):
        side = world.sides[n % 2]
        side.keyd = None
        world.run(dice.choice([0.1, 1.0]))
        if n % 3 == 0:
            side.members[0].alive = False
            world.run(0.2)
        side.start_keyd(world.now)
        world.run(dice.choice([1.0, 4.0]))
    assert world.refused == 0
    world.run(60.0)
    world.check_sends()
    world.check_spares()


def test_keyd_is_away_for_a_minute(undo: contextlib.ExitStack) -> None:
    """The far side wants to rekey meanwhile, is not answered, and does not give up what carries traffic."""
    world = World(undo, rekey_time=10, life_time=0)
    world.run(2.0)
    world.sides[1].keyd = None
    world.run(60.0)
    assert world.refused == 0
    world.sides[1].start_keyd(world.now)
    world.run(30.0)
    world.check_sends()
    world.check_spares()
    assert world.refused == 0


def test_a_gateway_that_begins_anew_is_joined_again(undo: contextlib.ExitStack) -> None:
    """All its memory is gone: its peer forgets the old SAs, and both send on new ones."""
    world = World(undo)
    world.run(2.0)
    fresh = Side(2, 2, undo, 0)
    world.sides[1] = fresh
    fresh.start_keyd(world.now)
    world.run(2.0)
    world.check_sends()


def test_no_key_and_no_secret_is_shown(undo: contextlib.ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    world = World(undo, rekey_time=3)
    world.run(10.0)
    keyd = world.sides[0].keyd
    assert keyd is not None
    shown = caplog.text + repr(keyd.connection) + repr(keyd.members[0]._pairs)
    keys = {keys.key for side in world.sides for member in side.members for keys in member.inbound.values()}
    assert len(keys) > 4
    for secret in (*keys, b"both sides have this secret"):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown


STANDARD: dict[str, Any] = {"payload": "esp", "shared_port": True}


def errors(world: World) -> list[str]:
    return [side.keyd.told(world.now)["error"] for side in world.sides if side.keyd is not None]


def test_what_a_standard_peer_sends_is_received_by_the_first_member(undo: contextlib.ExitStack) -> None:
    """It may send everything on its newest SA; all members send."""
    world = World(undo, members=4, **STANDARD, theirs={"standard": True})
    world.run(2.0)
    world.check_sends()
    ours = world.sides[0].members
    assert len(ours[0].inbound) >= 4 * (1 + BOOT_RECORDS)
    assert not any(member.inbound for member in ours[1:])
    assert len({member.outbound.spi for member in ours if member.outbound}) == 4


def test_behind_one_receiver_members_die_rekey_and_are_renewed(undo: contextlib.ExitStack) -> None:
    world, dice = World(undo, members=4, rekey_time=3, **STANDARD, theirs={"standard": True}), random.Random(3)
    world.run(2.0)
    for _ in range(examples(160)):
        dice.choice(world.sides[dice.randrange(2)].members).alive = False
        world.run(dice.choice([0.3, 1.0]))
    world.run(3 * OLD_SA_S)
    world.check_sends()
    assert world.refused == 0
    assert len(world.sides[0].members[0].inbound) <= SLOTS


def test_the_receiver_itself_dies_and_its_successor_accepts_what_all_others_had(undo: contextlib.ExitStack) -> None:
    world = World(undo, members=4, **STANDARD, theirs={"standard": True})
    world.run(2.0)
    before = set(world.sides[0].members[0].inbound)
    world.sides[0].members[0].alive = False
    world.run(STEP_S)
    assert before <= set(world.sides[0].members[0].inbound)


def test_a_peer_with_fewer_members_has_fewer_and_the_status_says_so(undo: contextlib.ExitStack) -> None:
    world = World(undo, members=4, theirs={"members": 2})
    world.run(3.0)
    assert [member.alive for member in world.sides[0].members] == [True, True, False, False]
    assert world.sides[0].keyd is not None
    assert world.sides[0].keyd.told(world.now)["refused"] == dict.fromkeys("23", "the far side has 2 members")
    assert world.refused == 0


def test_a_peer_that_gives_one_child_sa_is_content_and_a_death_is_mended_by_rekeying(
    undo: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(undo, members=2, **STANDARD, theirs={"standard": True})
    world.sides[1].peering = world.sides[1].peering.model_copy()
    real = exchanges.respond_child

    def one_only(sa: Any, request: Any, now: float) -> Any:
        if sa.children and notified(request, Notify.REKEY_SA) is None:
            raise ProtocolError(Notify.NO_ADDITIONAL_SAS, "one is enough")
        return real(sa, request, now)

    monkeypatch.setattr(rekey, "respond_child", one_only)
    world.run(3.0)
    ours = world.sides[0]
    assert ours.keyd is not None
    assert [member.alive for member in ours.members] == [True, False]
    assert ours.keyd.told(world.now)["refused"] == {"1": "NO_ADDITIONAL_SAS"}
    for _ in range(3):
        before = ours.members[0].outbound
        ours.members[0].alive = False
        world.run(1.0)
        assert ours.members[0].alive
        assert ours.members[0].outbound != before


def test_first_messages_that_anybody_can_write_do_not_keep_us_from_beginning(undo: contextlib.ExitStack) -> None:
    world = World(undo)
    world.run(2.0)
    side, stranger = world.sides[0], Side(2, 2, undo, 0)  # who writes the peer's address
    assert side.keyd is not None
    side.keyd.terminate(world.now)
    world.run(STEP_S)
    world.sides[1].keyd = None
    stranger.start_keyd(world.now)
    assert stranger.keyd is not None
    stranger.keyd.tick(world.now)
    (first,) = stranger.keyd.datagrams()
    side.keyd.receive(first.data, first.remote, first.local, world.now)
    side.keyd.datagrams()
    world.now += 5.0
    side.keyd.initiate(world.now)
    side.keyd.tick(world.now)
    (begun,) = side.keyd.datagrams()
    assert Header.decode(begun.data).spi_r == NO_SPI


def test_a_member_without_room_is_not_asked_for_again_and_again(
    undo: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepted, "SLOTS", 2)
    world = World(undo, members=1)
    asked, real = [], endpoint.Endpoint.create_child

    def counted(self: Any, name: str, member: int, *more: Any) -> bool:
        asked.append(member)
        return real(self, name, member, *more)

    monkeypatch.setattr(endpoint.Endpoint, "create_child", counted)
    world.run(9.0)
    assert len(asked) <= 2 * BOOT_RECORDS
    world.check_sends()


@pytest.mark.parametrize(
    ("ours", "theirs", "why"),
    [
        ({"payload": "superpacket"}, {"payload": "esp"}, "set both sides alike"),
        ({"payload": "superpacket"}, {"standard": True}, 'set payload = "esp"'),
    ],
)
def test_superpackets_are_not_sent_to_who_has_not_agreed(
    undo: contextlib.ExitStack, ours: dict[str, Any], theirs: dict[str, Any], why: str
) -> None:
    world = World(undo, **ours, theirs=theirs)
    world.run(5.0)
    assert not any(member.alive for member in world.sides[0].members)
    assert why in errors(world)[0]


def test_what_the_far_tun_does_not_take_is_told_to_the_supervisor(undo: contextlib.ExitStack) -> None:
    world = World(undo)
    assert [side.shared.far_offloads for side in world.sides] == [None, None]
    world.run(1.0)
    assert [side.shared.far_offloads for side in world.sides] == [TUN_FLAGS, TUN_FLAGS]


def test_each_member_is_told_where_its_pair_listens(undo: contextlib.ExitStack) -> None:
    world = World(undo, theirs={"port": 7000})
    world.run(1.0)
    far = [[member.shared.far.get() for member in side.members] for side in world.sides]
    assert far == [[("192.0.2.2", 7000), ("192.0.2.2", 7001)], [("192.0.2.1", 4500), ("192.0.2.1", 4501)]]


def test_the_spares_of_a_dead_keyd_serve_until_its_successor_has_its_own(undo: contextlib.ExitStack) -> None:
    """The far side does not answer: nothing can be negotiated, and members die all the same."""
    world = World(undo)
    world.run(2.0)
    ours = world.sides[0]
    ours.keyd = None
    world.sides[1].keyd = None
    ours.start_keyd(world.now)
    world.run(1.0)
    for _ in range(BOOT_RECORDS):
        ours.members[0].alive = False
        world.run(0.5)
        assert ours.members[0].alive
    assert world.refused == 0


def test_a_terminated_connection_stays_so_until_somebody_initiates(undo: contextlib.ExitStack) -> None:
    keys = PskKeys(source="psk", secret=Path("unused"), start_action="none")
    world = World(undo, theirs={"keys": keys})
    world.run(2.0)
    keyd = world.sides[0].keyd
    assert keyd is not None
    keyd.terminate(world.now)
    world.run(30.0, traffic=False)
    assert keyd.told(world.now)["sas"] == []
    assert not any(member.outbound for side in world.sides for member in side.members), "sent where nothing is taken"
    keyd.initiate(world.now)
    world.run(2.0)
    world.check_sends()


def test_what_a_user_has_terminated_carries_nothing_whoever_begins(undo: contextlib.ExitStack) -> None:
    world = World(undo)
    world.run(2.0)
    ours = world.sides[0]
    assert ours.keyd is not None
    ours.keyd.terminate(world.now)
    world.run(1.0, traffic=False)
    assert not any(member.outbound for member in ours.members), "a member goes on with what it has"
    assert not any(one.accepted.all() for one in ours.keyd.members)

    # The far side tries again and again, and is told that it is not to be now.
    world.run(60.0, traffic=False)
    told = ours.keyd.told(world.now)
    assert (told["sas"], told["stopped"]) == ([], True)
    assert "terminated" in told["error"]
    assert not any(member.outbound for member in ours.members)
    for member in ours.members:
        member.alive = False  # nor has a successor anything
    world.run(1.0, traffic=False)
    assert not any(member.outbound for member in ours.members)

    # Nor does a keyd that comes later let anybody begin.
    ours.start_keyd(world.now, stopped=True)
    world.run(60.0, traffic=False)
    assert ours.keyd.told(world.now)["sas"] == []
    assert not any(member.outbound for member in ours.members)

    ours.keyd.initiate(world.now)
    world.run(5.0, traffic=False)
    world.check_sends()
    assert not ours.keyd.told(world.now)["stopped"]


def test_a_member_that_is_late_to_read_that_it_is_to_stop_goes_on_with_what_came_since(
    undo: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has begun, and reads nothing until a user has ended the connection and begun it again."""
    world = World(undo)
    world.run(2.0)
    keyd, member = world.sides[0].keyd, world.sides[0].members[0]
    assert keyd is not None
    member.alive = False
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(member, "start", lambda: False)
        meanwhile.setattr(member, "read", lambda: None)
        member.forked()
        keyd.terminate(world.now)
        world.run(0.2, traffic=False)
        keyd.initiate(world.now)
        world.run(2.0, traffic=False)
    assert member.take_record()
    member.read()
    assert member.outbound is not None
    world.check_sends()


def test_a_user_has_everything_rekeyed_without_a_loss(undo: contextlib.ExitStack) -> None:
    world = World(undo)
    world.run(2.0)
    keyd = world.sides[0].keyd
    assert keyd is not None
    before = [member.outbound for member in world.sides[0].members], keyd.told(world.now)["sas"][0]["spi_i"]
    keyd.rekey(world.now)
    world.run(2.0)
    after = [member.outbound for member in world.sides[0].members], keyd.told(world.now)["sas"][0]["spi_i"]
    assert before[1] != after[1]
    assert all(old != new for old, new in zip(before[0], after[0], strict=True))
    assert world.refused == 0


def test_a_pair_that_the_far_side_asked_for_is_ready_with_its_next_request_or_after_a_while(
    undo: contextlib.ExitStack,
) -> None:
    world = World(undo)
    world.run(2 * STEP_S)  # all is negotiated in less time than ANSWER_S
    ready = [
        pair.life is not Life.WAITING
        for side in world.sides
        if side.keyd is not None
        for member in side.keyd.members
        for pair in member._pairs.values()
        if not pair.keys.initiated
    ]
    assert ready == [True] * (2 * (1 + BOOT_RECORDS) - 1) + [False], "the last one has no request behind it yet"
    world.run(ANSWER_S)
    world.check_spares()

"""keyd's loop on real UDP sockets: which peering a datagram is for, what a turn may take, faults that stay apart."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import propkit
import pytest
from portkit import free_port
from test_pairs import PlayedMember, Side

import fwd
from fwd.datapath.clock import boot_s
from fwd.datapath.shared import REST_MAX_S, REST_S, GatewayShared, ProcessState
from fwd.keyd import barrier, beginning, inbox, service
from fwd.keyd.barrier import Guarded
from fwd.keyd.ike import IkePeering
from fwd.keyd.inbox import Inbox
from fwd.keyd.mailbox import KeydPeering
from fwd.keyd.patience import GLANCE_S, together_at
from fwd.keyd.secrets import SecretError
from fwd.keyd.service import KeydParts, Service
from fwd.model.keys import PskKeys
from fwd.proto.ike.auth import Psk
from fwd.proto.ike.causes import Failure
from fwd.proto.ike.limits import TIME_S, TIME_SHARE
from fwd.proto.ike.message import Header
from fwd.proto.ike.numbers import Exchange, Flag, Payload
from fwd.proto.sa import SaSet
from fwd.supervise.sockets import seqpacket_pair

pytestmark = pytest.mark.usefixtures("soon_again")

ADDRESSES = ("127.0.0.2", "127.0.0.3")
TURNS_MAX = 3000


class Gateway:
    """keyd of one gateway; its peerings by name, each with the changes of its keys, and its secret."""

    def __init__(
        self,
        number: int,
        peerings: dict[str, tuple[bytes, dict[str, Any]]],
        undo: contextlib.ExitStack,
        finish: Callable[[KeydPeering], KeydPeering] = lambda parts: parts,
    ) -> None:
        self.parts, self.secrets = [], {}
        self.members: dict[str, list[PlayedMember]] = {}
        for index, (name, (secret, keys)) in enumerate(peerings.items()):
            ids = {key: value for key, value in keys.items() if key not in ("remote_addrs", "members")}
            if number == 1 and "local_id" in ids:
                ids["local_id"], ids["remote_id"] = ids["remote_id"], ids["local_id"]
            side = Side(1, keys.get("members", 1), undo, 0)
            remote = keys.get("remote_addrs", ADDRESSES[1 - number])
            changes = {
                "name": name, "local_addrs": ip_address(ADDRESSES[number]), "remote_addrs": ip_address(remote),
                "local_ts": [ip_network(f"10.{1 + number}.{index}.0/24")],
                "remote_ts": [ip_network(f"10.{2 - number}.{index}.0/24")],
                "keys": PskKeys(source="psk", secret=Path(name), **ids),
            }  # fmt: skip
            peering = side.peering.model_copy(update=changes)
            self.parts.append(finish(KeydPeering(peering, {}, [m.parts for m in side.members], side.shared, 0)))
            self.secrets[name] = secret
            self.members[name] = side.members
        ports = {parts.peering.ike.ike_port for parts in self.parts if parts.peering.ike}
        sockets = [undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in ports]
        for sock, port in zip(sockets, ports, strict=True):
            sock.bind((ADDRESSES[number], port))
            sock.setblocking(False)
        self.shared = GatewayShared()
        self.channel, far = seqpacket_pair()  # the supervisor's end
        undo.callback(self.channel.close)
        undo.callback(far.close)
        self.service = Service(KeydParts(self.shared, self.parts, sockets, channel=far), 0.0)

    def sa(self, name: str) -> Any:
        """The IKE SA that speaks for a peering."""
        guards = [guard for guard in self.service._guards if guard.name == name]
        return guards[0].peering.endpoint.established(name) if guards and guards[0].peering else None


@pytest.fixture
def meet(undo: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Gateway]]:
    """Makes two gateways with the same peerings."""

    def make(**peerings: tuple[bytes, dict[str, Any]]) -> list[Gateway]:
        secrets = {name: secret for name, (secret, _) in peerings.items()}
        monkeypatch.setattr(service, "credentials", lambda keys, fds: Psk(secrets[str(keys.secret)]))
        return [Gateway(number, peerings, undo) for number in (0, 1)]

    return make


def until(gateways: list[Gateway], condition: Callable[[], object]) -> None:
    """Turn both loops until it holds."""
    for _ in range(TURNS_MAX):
        if condition():
            return
        for gateway in gateways:
            gateway.service.turn(0.001)
    raise AssertionError("it never came about")


ONE, OTHER = b"one secret that both sides have", b"another secret that they have too"


@pytest.mark.parametrize("secret", [ONE, OTHER], ids=["the same secret", "another secret"])
def test_two_peerings_of_one_pair_of_addresses_are_told_apart_by_port(meet: Any, secret: bytes) -> None:
    pair = meet(p=(ONE, {"ike_port": free_port(ADDRESSES)}), q=(secret, {"ike_port": free_port(ADDRESSES)}))
    until(pair, lambda: all(gateway.sa(name) for gateway in pair for name in "pq"))
    for name in "pq":
        assert pair[0].sa(name).spi_i == pair[1].sa(name).spi_i


@pytest.mark.parametrize("secret", [ONE, OTHER], ids=["the same secret", "another secret"])
def test_two_peerings_of_one_pair_of_addresses_and_ports_are_told_apart_by_identity(meet: Any, secret: bytes) -> None:
    port = free_port(ADDRESSES)
    first = {"ike_port": port, "local_id": "p1.example", "remote_id": "p2.example"}
    second = {"ike_port": port, "local_id": "q1.example", "remote_id": "q2.example"}
    pair = meet(p=(ONE, first), q=(secret, second))
    until(pair, lambda: all(gateway.sa(name) for gateway in pair for name in "pq"))
    for name in "pq":
        (sas,) = {frozenset(gateway.sa(name).spi_i for gateway in pair)}
        assert len(sas) == 1
        assert all(gateway.sa(name).connection.name == name for gateway in pair)
        assert all(len(gateway.sa(name).children) >= 1 for gateway in pair)


# -- what a datagram costs ------------------------------------------------------------------------------------------

JUNK = Header(b"junkjunk", bytes(8), Exchange.IKE_SA_INIT, Flag.INITIATOR, 0, 0, 28).encode()


def calls_for(gateway: Gateway, data: bytes) -> int:
    """Function calls for a datagram of a stranger's."""
    calls = 0

    def count(frame: FrameType, what: str, arg: object) -> None:
        nonlocal calls
        calls += what in ("call", "c_call")

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind(("127.0.0.9", 0))
        (fd,) = gateway.service._inbox.fds()
        stranger.sendto(data, gateway.service._inbox._addresses[fd])
    sys.setprofile(count)
    try:
        gateway.service._receive([fd], 0.0)
    finally:
        sys.setprofile(None)
    return calls


def test_a_datagram_costs_the_same_with_64_peerings_as_with_one(
    undo: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "credentials", lambda keys, fds: Psk(ONE))
    decoded = []
    decode = Header.decode
    monkeypatch.setattr(Header, "decode", lambda data: decoded.append(1) or decode(data))
    calls = []
    for count in (1, 64):
        port = free_port(ADDRESSES)
        peerings = {f"p{n}": (ONE, {"ike_port": port, "remote_addrs": f"192.0.2.{n + 1}"}) for n in range(count)}
        gateway = Gateway(0, peerings, undo)
        decoded.clear()
        calls.append(calls_for(gateway, JUNK))
        assert len(decoded) == 1
        for fd in gateway.service._inbox.fds():
            gateway.service._inbox._sockets[gateway.service._inbox._addresses[fd]].close()
    assert calls[0] == calls[1] < 60


def test_a_datagram_costs_the_same_with_64_members_as_with_one(meet: Any) -> None:
    """It comes from the peer's address, which anybody can write."""
    calls = []
    for members in (1, 64):
        pair = meet(p=(ONE, {"ike_port": free_port(ADDRESSES), "members": members, "remote_addrs": "127.0.0.9"}))
        calls.append(calls_for(pair[0], JUNK))
    assert calls[0] == calls[1]


def test_a_flood_on_one_socket_leaves_turns_for_others_and_ends_in_time(
    undo: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets = [undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2)]
    for sock in sockets:
        sock.bind(("127.0.0.2", 0))
        sock.setblocking(False)
    flooded, calm = (sock.getsockname() for sock in sockets)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for _ in range(100):
            stranger.sendto(JUNK, flooded)
        stranger.sendto(JUNK, calm)
    box = Inbox(sockets, ())
    clock = iter(n / 1000 for n in range(1000))  # each datagram takes a millisecond
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    came = [message.local for message in box.messages(box.fds())]
    assert 40 < len(came) <= 50
    assert calm in came[:20]


def test_the_heartbeat_goes_on_between_messages(meet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = meet(p=(ONE, {"ike_port": free_port(ADDRESSES)}))
    until(pair, lambda: all(gateway.sa("p") for gateway in pair))
    beats: list[int] = []
    monkeypatch.setattr(IkePeering, "receive", lambda *args: beats.append(pair[0].shared.keyd.heartbeat[0]))
    source = next(iter(pair[1].service._inbox._sockets.values()))
    sa = pair[0].sa("p")
    flags = Flag.RESPONSE if sa.initiator else Flag.INITIATOR
    data = Header(sa.spi_i, sa.spi_r, Exchange.INFORMATIONAL, flags, 9, Payload.SK, 28).encode()
    for _ in range(5):
        source.sendto(data, next(iter(pair[0].service._inbox._sockets)))
    pair[0].service.turn(0.1)
    assert len(set(beats)) == len(beats) >= 5


def test_a_peer_that_asks_without_end_has_its_share_of_time_and_leaves_the_rest(
    meet: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Both peerings have one socket: what waits there for one, waits for the other."""
    port = free_port(ADDRESSES)
    first = {"ike_port": port, "local_id": "p1.example", "remote_id": "p2.example"}
    second = {"ike_port": port, "local_id": "q1.example", "remote_id": "q2.example"}
    pair = meet(p=(ONE, first), q=(OTHER, second))
    until(pair, lambda: all(gateway.sa(name) for gateway in pair for name in "pq"))
    keyd, heard, spent = pair[0].service, list[str](), [0.0]
    monkeypatch.setattr(time, "thread_time", lambda: spent[0])

    def receive(peering: IkePeering, *message: Any) -> None:
        heard.append(peering.name)
        spent[0] += 0.01

    monkeypatch.setattr(IkePeering, "receive", receive)

    def send(name: str, count: int, now: float) -> int:
        sa = pair[0].sa(name)
        data = Header(sa.spi_i, sa.spi_r, Exchange.INFORMATIONAL, 0 if sa.initiator else Flag.INITIATOR, 9).encode()
        one = inbox.Message(Header.decode(data[:-4] + (28).to_bytes(4, "big")), data, sa.local, sa.remote)
        heard.clear()
        monkeypatch.setattr(keyd._inbox, "messages", lambda ready: iter([one] * count))
        monkeypatch.setattr(keyd, "_beat", lambda: now)
        keyd._receive([], now)
        assert set(heard) <= {name}
        return len(heard)

    now = boot_s() + 100
    assert send("p", 1000, now) == pytest.approx(TIME_S / 0.01, abs=2)
    assert send("q", 10, now) == 10
    assert send("p", 1000, now + 1) == pytest.approx(TIME_SHARE / 0.01, abs=2)
    assert caplog.text.count("more than its share") == 1


def test_what_a_peers_messages_stir_is_of_its_share_too(meet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at 64 members takes ten times what a message does that has keyd look."""
    pair = meet(p=(ONE, {}))
    until(pair, lambda: all(gateway.sa("p") for gateway in pair))
    keyd, heard, spent = pair[0].service, list[float](), [0.0]
    sa, now = pair[0].sa("p"), boot_s() + 100
    data = Header(sa.spi_i, sa.spi_r, Exchange.INFORMATIONAL, 0 if sa.initiator else Flag.INITIATOR, 9).encode()
    one = inbox.Message(Header.decode(data[:-4] + (28).to_bytes(4, "big")), data, sa.local, sa.remote)
    monkeypatch.setattr(keyd._inbox, "messages", lambda ready: iter([one]))
    monkeypatch.setattr(keyd, "_beat", lambda: now)
    monkeypatch.setattr(time, "thread_time", lambda: spent[0])

    def receive(peering: IkePeering, *message: Any) -> None:
        peering.stirred = True
        heard.append(now)

    def tick(peering: IkePeering, now: float) -> None:
        peering.stirred = False
        spent[0] += 0.01

    monkeypatch.setattr(IkePeering, "receive", receive)
    monkeypatch.setattr(IkePeering, "tick", tick)
    for _ in range(1000):
        keyd._receive([], now)
        keyd._tick(now)
    assert len(heard) == pytest.approx(TIME_S / 0.01, abs=3)


# -- faults ---------------------------------------------------------------------------------------------------------


class InjectedError(Exception):
    """Raised where nothing should be."""


@contextlib.contextmanager
def raising_at(number: int, guard: Guarded) -> Iterator[list[str]]:
    """Raise at the so-many-th call, on behalf of one peering, of a function of IKE or of keyd's part of it."""
    left, where = number, list[str]()
    root = Path(fwd.__file__).parent
    files = (str(root / "proto/ike"), *(str(root / "keyd" / name) for name in ("ike.py", "pairs.py", "accepted.py")))

    def trace(frame: FrameType, what: str, arg: object) -> None:
        nonlocal left
        code = frame.f_code
        if what == "call" and not where and code.co_filename.startswith(files) and code.co_name != "<genexpr>":
            left -= 1
            if left == 0:
                where.append(code.co_qualname)
                raise InjectedError(where[0])

    def traced_use(act: Any, now: float, otherwise: Any, **words: Any) -> Any:
        def traced(peering: IkePeering) -> Any:
            sys.settrace(trace)
            try:
                return act(peering)
            finally:
                sys.settrace(None)

        return use(traced, now, otherwise, **words)

    use = guard.use
    with mock.patch.object(guard, "use", traced_use):
        yield where


def test_whatever_raises_in_one_peering_another_keeps_its_ike_sa_and_the_peering_comes_back(meet: Any) -> None:
    pair = meet(p=(ONE, {"ike_port": free_port(ADDRESSES)}), q=(OTHER, {"ike_port": free_port(ADDRESSES)}))
    until(pair, lambda: all(gateway.sa(name) for gateway in pair for name in "pq"))
    kept = pair[0].sa("q")
    guard, far = (next(guard for guard in gateway.service._guards if guard.name == "p") for gateway in pair)
    hits, apart = 0, 5 + 2 * propkit.one_place_in
    for number in range(1, 1000, apart):
        until(pair, lambda: all(gateway.sa("p") for gateway in pair))
        assert far.peering is not None
        far.peering.rekey(0.0)
        pair[1].service.turn(0.0)
        with raising_at(number, guard) as where:
            for _ in range(3):
                pair[0].service.turn(0.001)
        hits += len(where)
        assert pair[0].sa("q") is kept, where
    assert hits * apart > 250


def test_what_has_no_ike_sa_to_blame_begins_the_peering_anew(
    meet: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pair = meet(p=(ONE, {"ike_port": free_port(ADDRESSES)}), q=(OTHER, {"ike_port": free_port(ADDRESSES)}))
    until(pair, lambda: all(gateway.sa(name) for gateway in pair for name in "pq"))
    before, kept = pair[0].sa("p"), pair[0].sa("q")
    (guard,) = [guard for guard in pair[0].service._guards if guard.name == "p"]
    assert guard.peering is not None
    guard.peering.endpoint.failures[Failure.WRONG_SECRET] += 3
    monkeypatch.setattr(guard.peering, "tick", lambda now: 1 / 0)
    until(pair[:1], lambda: guard.peering is None)
    assert "ZeroDivisionError" in caplog.text
    assert "Traceback" in caplog.text
    until(pair, lambda: pair[0].sa("p") not in (None, before) and pair[1].sa("p"))
    assert pair[0].sa("q") is kept
    assert guard.faults == 1
    until(pair, lambda: json.loads(pair[0].shared.ike.get())["p"].get("faults") == 1)
    assert json.loads(pair[0].shared.ike.get())["p"]["failures"]["wrong_secret"] == 3, "they count on"


def stops_in(member: PlayedMember) -> list[bool]:
    """What keyd has told a member since: whether it is to stop."""
    told = []
    with contextlib.suppress(BlockingIOError):
        while True:
            told.append(SaSet.decode(member.control.recv(65536)).stop)
    return told


def test_a_user_who_ends_a_peering_that_is_to_begin_anew_after_a_fault_does_not_wait_for_that(
    meet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = meet(p=(ONE, {"ike_port": free_port(ADDRESSES)}))
    until(pair, lambda: all(gateway.sa("p") for gateway in pair))
    monkeypatch.setattr(barrier, "AGAIN_S", 3600.0)
    guard = guard_of(pair[0])
    guard._pause_s = 3600.0
    guard.use(lambda _: 1 / 0, boot_s(), None)
    assert guard.peering is None
    (member,) = pair[0].members["p"]
    stops_in(member)
    pair[0].service.obey("p", "terminate", boot_s())
    until(pair[:1], lambda: True in stops_in(member))


def has_good(pair: list[Gateway]) -> bool:
    return all(gateway.sa("good") for gateway in pair)


def test_one_peerings_files_stop_no_other_peering(undo: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever reading them raises."""
    for error in (SecretError("no secret"), IsADirectoryError("a directory"), ValueError("no idea")):

        def read(keys: PskKeys, fds: dict[str, int], error: Exception = error) -> Psk:
            if str(keys.secret) == "bad":
                raise error
            return Psk(ONE)

        monkeypatch.setattr(service, "credentials", read)
        peerings = {"bad": (ONE, {"ike_port": free_port(ADDRESSES)}), "good": (ONE, {"ike_port": free_port(ADDRESSES)})}
        pair = [Gateway(number, peerings, undo) for number in (0, 1)]
        until(pair, partial(has_good, pair))
        assert not pair[0].sa("bad")


def test_a_peering_that_was_begun_anew_is_still_told_from_its_neighbour(
    meet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IKE_SA_INIT for it comes to the first peering of those addresses; what there was of it before is not found."""
    port = free_port(ADDRESSES)
    first = {"ike_port": port, "local_id": "p1.example", "remote_id": "p2.example"}
    second = {"ike_port": port, "local_id": "q1.example", "remote_id": "q2.example", "start_action": "none"}
    pair = meet(p=(ONE, first), q=(OTHER, second))
    far = next(guard for guard in pair[1].service._guards if guard.name == "q")
    guard = next(guard for guard in pair[0].service._guards if guard.name == "q")
    for _ in range(2):
        assert far.peering is not None
        far.peering.initiate(0.0)
        until(pair, lambda: all(gateway.sa(name) for gateway in pair for name in "pq"))
        assert guard.peering is not None
        assert guard.peering.endpoint.sas("q")
        monkeypatch.setattr(guard.peering, "tick", lambda now: 1 / 0)
        until(pair[:1], lambda: guard.peering is None)
        until(pair[:1], lambda: guard.peering is not None)
        far.peering.terminate(0.0)
        monkeypatch.setattr("fwd.proto.ike.sa.TRIES_MAX", 0)
        until(pair, lambda: not pair[1].sa("q"))
        monkeypatch.undo()
        monkeypatch.setattr(service, "credentials", lambda keys, fds: Psk({"p": ONE, "q": OTHER}[str(keys.secret)]))
        for module in (barrier, beginning):
            monkeypatch.setattr(module, "AGAIN_S", 0.01)


# -- at rest --------------------------------------------------------------------------------------------------------


def guard_of(gateway: Gateway) -> Any:
    (guard,) = gateway.service._guards
    return guard


def test_a_peering_in_which_nothing_is_under_way_is_left_alone_until_a_member_says_something(meet: Any) -> None:
    pair = meet(p=(ONE, {"ike_port": free_port(ADDRESSES), "dpd_delay": 3600}))
    until(pair, lambda: all(not guard_of(gateway).restless for gateway in pair))
    guard = guard_of(pair[0])
    ticks: list[float] = []
    tick = guard.peering.tick
    guard.peering.tick = lambda now: (ticks.append(now), tick(now))
    now = boot_s()
    pair[0].service._tick_at = now
    pair[0].service._tick(now)
    assert not ticks, "a glance at its members' words is all"

    words = guard.peering._shared[0]
    words.process.put(ProcessState.RUNNING, 1, 1, 0, words.process.incarnation + 1)
    pair[0].service._tick_at = now
    pair[0].service._tick(now)
    assert ticks == [now]


def test_for_a_timer_of_ikes_own_nothing_else_of_a_peering_at_rest_is_looked_at(meet: Any) -> None:
    """Whether the peer lives is asked every few seconds, of each of many peerings."""
    pair = meet(p=(ONE, {"ike_port": free_port(ADDRESSES), "dpd_delay": 5}))
    until(pair, lambda: all(not guard_of(gateway).restless for gateway in pair))
    guard = next(one for one in map(guard_of, pair) if one.peering.endpoint.established("p").initiator)
    keyd, endpoint = next(gateway.service for gateway in pair if guard_of(gateway) is guard), guard.peering.endpoint
    ticks: list[float] = []
    tick = guard.peering.tick
    guard.peering.tick = lambda now: (ticks.append(now), tick(now))
    later = guard.due
    assert later < guard.calm_until, "the probe is due before it is to be looked at again"
    keyd._tick_at = later + 1.0  # no glance
    keyd._tick(later)
    assert endpoint.established("p").busy, "it asks whether the peer lives"
    assert not ticks

    # Of whom nothing is heard, so that it is asked again, an operator is told.
    keyd._tick(later + 1.0)
    assert not ticks
    keyd._tick(later + 20.0)
    assert ticks


def test_what_waits_for_time_at_rest_may_wait_a_little_more_for_keyd_to_be_awake() -> None:
    for after_s, slack_s in ((0.0, 0.0), (0.5, 0.05), (10.0, GLANCE_S), (-1.0, 0.0)):
        assert together_at(100.0 + after_s, 100.0) == pytest.approx(100.0 + after_s + slack_s)
    assert together_at(float("inf"), 100.0) == float("inf")


def test_a_peering_that_rests_is_not_shown_anew_because_another_has_news(
    meet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it forgotten: at the latest REST_MAX_S after it was asked last it is asked again."""
    (gateway, _) = meet(p=(ONE, {"ike_port": free_port(ADDRESSES)}), q=(ONE, {"ike_port": free_port(ADDRESSES)}))
    asked: list[str] = []
    told = IkePeering.told

    def counted(peering: IkePeering, now: float) -> dict[str, Any]:
        asked.append(peering.name)
        return told(peering, now)

    monkeypatch.setattr(IkePeering, "told", counted)
    p, q = gateway.service._guards
    now = boot_s()
    for guard in (p, q):
        guard.restless = False
        guard.tell(now)
    asked.clear()

    assert q.peering is not None
    q.peering.news = True
    assert p.tell(now + 1.0)
    assert q.tell(now + 1.0)
    assert asked == ["q"]
    assert not q.peering.news
    p.tell(now + REST_S)
    assert asked == ["q"]
    p.tell(now + REST_MAX_S)
    assert asked == ["q", "p"]


def test_a_peering_that_rests_is_shown_anew_soon_if_something_is_other_than_was_told(meet: Any) -> None:
    (gateway, _) = meet(p=(ONE, {"ike_port": free_port(ADDRESSES)}))
    guard, now = guard_of(gateway), boot_s()
    guard.tell(now)
    guard.restless = guard.peering.news = False
    told = guard.tell(now + REST_S)
    guard.peering.endpoint.failures[Failure.RATE_LIMITED] += 1
    assert guard.tell(now + REST_S - 0.1) is told
    assert guard.tell(now + REST_S)["failures"] == {"rate_limited": 1}


def test_what_has_not_been_asked_anew_is_told_by_the_same_object(meet: Any) -> None:
    """By that it is known that its text need not be made again."""
    (gateway, _) = meet(p=(ONE, {"ike_port": free_port(ADDRESSES)}))
    guard, now = guard_of(gateway), boot_s()
    for restless, every_s in ((True, barrier.TOLD_EVERY_S), (False, REST_MAX_S)):
        guard.restless = restless
        guard.peering.news = True
        told = guard.tell(now)
        assert guard.tell(now + every_s * 0.9) is told
        assert guard.tell(now + every_s * 1.1) is not told
        now += 2 * every_s


def test_telling_takes_no_more_than_its_share_of_time(meet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (gateway, _) = meet(p=(ONE, {"ike_port": free_port(ADDRESSES)}))
    keyd, guard, now = gateway.service, guard_of(gateway), boot_s() + REST_S
    texts: list[bytes] = []
    monkeypatch.setattr(keyd._parts.gateway.ike, "put", texts.append)
    clock = iter((0.0, 0.2, 0.0, 0.2))
    monkeypatch.setattr(time, "thread_time", lambda: next(clock))

    # What has taken 0.2 s is not done again within 2 s, though there are news.
    for after_s, so_far in ((0.0, 1), (0.5, 1), (1.5, 1), (2.5, 2)):
        guard.peering.news = True
        keyd._tell(now + after_s)
        assert len(texts) == so_far


def test_peerings_at_rest_are_looked_at_together(meet: Any) -> None:
    """keyd does not wake up for each of them, but for its next glance at the members of all."""
    pair = meet(p=(ONE, {"ike_port": free_port(ADDRESSES), "dpd_delay": 3600}))
    until(pair, lambda: all(not guard_of(gateway).restless for gateway in pair))
    guard = guard_of(pair[0])
    assert guard.wakes_at > guard.due + GLANCE_S
    guard.peering.news = True
    guard.settle(boot_s())
    assert guard.restless
    assert guard.wakes_at == guard.due


def test_of_a_socket_that_is_closed_nothing_is_told_any_more_though_the_supervisor_has_it_open(meet: Any) -> None:
    """Or what comes there would wake keyd again and again, and nobody would read it."""
    address = ADDRESSES[0], free_port(ADDRESSES)
    (gateway, _) = meet(p=(ONE, {"ike_port": address[1]}))
    keyd = gateway.service
    with (
        socket.socket(fileno=os.dup(keyd._inbox.fd(address))),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
    ):
        stranger.sendto(b"something", address)
        assert keyd._epoll.poll(1.0)
        keyd.change_sockets([address], [])
        assert not keyd._epoll.poll(0.0)

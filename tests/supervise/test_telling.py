"""What keyd and the agent are told is the difference between what is open and what they know; nobody is waited for."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from fwd.datapath import channel
from fwd.datapath.channel import Notice, hear
from fwd.datapath.memory import Memory
from fwd.datapath.ring import sizes as ring_sizes
from fwd.datapath.shared import member_sizes, peering_sizes
from fwd.datapath.tun import Offloads
from fwd.model import config
from fwd.model.example import EXAMPLE
from fwd.supervise import telling
from fwd.supervise.material import KeyMaterial
from fwd.supervise.peering import Pairs
from fwd.supervise.standing import RETRY_S
from fwd.supervise.telling import LATE_S, NotHeardError, Teller


class Parts(SimpleNamespace):
    """A peering, with the parameters that it is configured with."""

    is_stopped = False

    @property
    def as_keyd_has_it(self) -> Any:
        return self.peering


class Standing:
    """What the supervisor has open: peerings with members and secrets, and IKE's sockets."""

    def __init__(self, undo: contextlib.ExitStack) -> None:
        self._undo = undo
        self.peerings: dict[str, Any] = {}
        self.sockets: dict[tuple[str, int], socket.socket] = {}
        self.version = 0

    def served(self) -> dict[str, Any]:
        return self.peerings

    def ike_served(self) -> dict[tuple[str, int], socket.socket]:
        return dict(self.sockets)

    def open(self, name: str, members: int = 2) -> None:
        peering = config.parse(EXAMPLE, "example").peering[0].model_copy(update={"name": name, "members": members})
        sizes, (told, rows) = peering_sizes(members), ring_sizes(64, 4)
        for i in range(members):
            sizes |= {f"demux-{i}": told, f"rows-{i}": rows}
        memory = Memory(sizes, name)
        self._undo.callback(memory.close)
        pairs = [Pairs.make() for _ in range(members)]
        for one in pairs:
            self._undo.callback(one.close)
        material = KeyMaterial({"secret": self.fd()})
        self.peerings[name] = Parts(
            peering=peering,
            memory=memory,
            pairs=pairs,
            material=material,
            offloads=Offloads(),
            inner_mtu=1400,
            warnings=[],
            served_pairs=lambda: self.peerings[name].pairs,
        )
        self.version += 1

    def fd(self) -> int:
        fd = os.open(os.devnull, os.O_RDONLY)
        self._undo.callback(os.close, fd)
        return fd

    def listen(self, port: int) -> None:
        sock = self._undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.sockets["192.0.2.1", port] = sock
        self.version += 1

    def close(self, name: str) -> None:
        del self.peerings[name]
        self.version += 1

    def change(self, name: str, **changes: Any) -> None:
        parts = self.peerings[name]
        parts.peering = parts.peering.model_copy(update=changes)
        self.version += 1


class Process:
    """Whoever is told; it does as it is told, but for the acts in `refused`."""

    def __init__(self, teller: Teller) -> None:
        self._teller = teller
        self.refused: set[str] = set()

    def heard(self) -> list[str]:
        found: list[str] = []

        def act(notice: Notice) -> None:
            found.append(f"{notice.act} {notice.peering}".strip())
            notice.close()
            if notice.act in self.refused:
                raise ValueError

        assert self._teller.far is not None
        while True:
            with contextlib.suppress(ValueError):
                if not hear(self._teller.far, act):
                    return found


@pytest.fixture
def standing(undo: contextlib.ExitStack) -> Any:
    made = Standing(undo)
    made.open("p")
    made.listen(500)
    return made


@pytest.fixture(params=["keyd", "agent", "beacon"])
def teller(request: pytest.FixtureRequest, standing: Any, undo: contextlib.ExitStack) -> Teller:
    made = Teller(request.param, undo.enter_context(selectors.DefaultSelector()))
    undo.callback(made.close)
    made.renew(standing)
    return made


def told(teller: Teller, standing: Any) -> list[str]:
    """What the process hears until it knows all."""
    process, found = Process(teller), list[str]()
    while not teller.tell(standing):
        found += process.heard()
    return found


def test_what_was_there_at_the_fork_is_not_told(teller: Teller, standing: Any) -> None:
    assert told(teller, standing) == []


def test_a_peering_comes_with_its_members_one_by_one_changes_and_goes(teller: Teller, standing: Any) -> None:
    standing.open("q", members=3)
    assert told(teller, standing) == ["open q", "member q", "member q", "member q"]
    standing.change("q", rekey_time=77)
    assert told(teller, standing) == ["change q"]
    standing.close("q")
    assert told(teller, standing) == ["close q"]


def test_members_that_have_gone_are_told_before_others_the_last_first(teller: Teller, standing: Any) -> None:
    parts = standing.peerings["p"]
    pairs = Pairs.make()
    parts.pairs.append(pairs)
    parts.memory.add({**member_sizes(2), "demux-2": 4096, "rows-2": 4096})
    standing.version += 1
    assert told(teller, standing) == ["member p"]
    parts.pairs[1:] = [pairs]
    standing.version += 1
    assert told(teller, standing) == ["leave p", "leave p", "member p"]
    del parts.pairs[1:]
    standing.change("p", members=1)
    assert told(teller, standing) == ["change p", "leave p"]
    pairs.close()


def test_what_goes_is_told_before_what_comes(teller: Teller, standing: Any) -> None:
    """One that is set up anew is both."""
    standing.close("p")
    standing.open("p", members=1)
    standing.sockets.clear()
    standing.listen(501)
    sockets = ["sockets"] if teller.name == "keyd" else []
    assert told(teller, standing) == ["close p", *sockets, "open p", "member p"]


def test_sockets_are_told_as_many_at_a_time_as_a_message_can_have(undo: contextlib.ExitStack, standing: Any) -> None:
    teller = Teller("keyd", undo.enter_context(selectors.DefaultSelector()))
    undo.callback(teller.close)
    teller.renew(standing)
    for port in range(1000, 1000 + channel.DESCRIPTORS_MAX + 1):
        standing.listen(port)
    assert told(teller, standing) == ["sockets", "sockets"]
    standing.sockets.clear()
    standing.version += 1
    assert told(teller, standing) == ["sockets"]


def test_secrets_go_along_only_when_they_are_others(undo: contextlib.ExitStack, standing: Any) -> None:
    teller = Teller("keyd", undo.enter_context(selectors.DefaultSelector()))
    undo.callback(teller.close)
    teller.renew(standing)
    fds: list[set[str]] = []
    for material in (None, {"secret": standing.fd(), "crls.0": standing.fd()}):
        standing.change("p", audit=material is not None)
        if material is not None:
            standing.peerings["p"].material = replace(standing.peerings["p"].material, fds=material, version=1)
        while not teller.tell(standing):
            assert teller.far is not None
            while hear(teller.far, lambda notice: fds.append(set(notice.fds)) or notice.close()):
                pass
    assert fds == [set(), {"secret", "crls.0"}]


def test_a_process_of_a_later_life_is_told_nothing_of_what_it_was_forked_with(teller: Teller, standing: Any) -> None:
    standing.open("q")
    assert not teller.tell(standing)
    teller.renew(standing)
    assert told(teller, standing) == []
    standing.close("q")
    assert told(teller, standing) == ["close q"]


def test_who_does_not_hear_holds_nobody_up_and_is_given_up(
    teller: Teller, standing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(telling, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    for number in range(40):  # more than its socket takes
        standing.open(f"q{number}", members=8)
    assert not teller.tell(standing)
    clock[0] += LATE_S - 0.1
    assert not teller.tell(standing)
    clock[0] += 0.2
    with pytest.raises(NotHeardError):
        teller.tell(standing)


def test_all_is_told_in_the_end_however_much_it_is(teller: Teller, standing: Any) -> None:
    for number in range(40):
        standing.open(f"q{number}", members=8)
    assert len(told(teller, standing)) == 40 * 9


def test_who_cannot_be_told_all_at_once_is_given_up_and_forked_with_it(
    teller: Teller, standing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "_NOTICE_BYTES_MAX", 1024)
    standing.open("second")
    with pytest.raises(NotHeardError, match="peering second: "):
        teller.tell(standing)


def test_what_a_process_could_not_do_it_is_told_anew_a_while_later(
    teller: Teller, standing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(telling, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    process = Process(teller)
    process.refused = {"member"}
    standing.open("q", members=1)
    teller.tell(standing)
    assert process.heard() == ["open q", "member q"]
    assert teller.tell(standing), "others are not to wait for it"
    process.refused = set()
    clock[0] += RETRY_S
    assert told(teller, standing) == ["close q", "open q", "member q"]


@pytest.mark.parametrize("answer", [b"what?", channel._ANSWER.pack(1, True)], ids=["no answer", "not asked"])
def test_who_answers_what_was_not_asked_is_given_up(teller: Teller, standing: Any, answer: bytes) -> None:
    assert teller.far is not None
    teller.far.send(answer)
    with pytest.raises(NotHeardError):
        teller.tell(standing)


def test_an_order_is_told_once_and_only_to_who_runs(teller: Teller, standing: Any) -> None:
    standing.open("a")
    teller.renew(standing)
    teller.order("rekey", "a")
    assert told(teller, standing) == ["command a"]
    teller.order("rekey", "a")
    teller.renew(standing)  # a later life: what was asked for before it is not for it
    assert told(teller, standing) == []

"""One peering with several far gateways: a keyd with an IKE SA for each, and keyds that know of one another nothing.

The keyds speak over UDP on addresses of the loopback device; members are played.
"""

from __future__ import annotations

import contextlib
import socket
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from portkit import free_port
from test_pairs import Side

from fwd.agent import ike as agent_ike
from fwd.datapath.clock import boot_s
from fwd.datapath.shared import GatewayShared, LinkWord
from fwd.keyd import service
from fwd.keyd.mailbox import KeydPeering
from fwd.keyd.service import KeydParts, Service
from fwd.model.keys import PskKeys
from fwd.proto.ike.auth import Psk
from fwd.proto.ip import CSUM, TSO4, TSO6

HERE, FAR = "127.0.0.2", ("127.0.0.3", "127.0.0.4")
MEMBERS = 5
TURNS_MAX = 4000
SECRET = b"one secret that all three sides have"


class Keyd:
    """keyd of one gateway, and its members. It can end and begin anew, as on another machine."""

    def __init__(
        self, address: str, remotes: tuple[str, ...], members: int, port: int, undo: contextlib.ExitStack, **more: Any
    ) -> None:
        near, far = address == HERE, tuple(map(ip_address, remotes))
        self._address, self._port, self._undo = address, port, undo
        self.offloads = more.pop("offloads", CSUM | TSO4 | TSO6)
        self._peering = {
            "name": "p", "local_addrs": ip_address(address), "remote_addrs": far if len(far) > 1 else far[0],
            "local_ts": [ip_network("10.1.0.0/24" if near else "10.2.0.0/24")],
            "remote_ts": [ip_network("10.2.0.0/24" if near else "10.1.0.0/24")],
            "members": members, **more,
        }  # fmt: skip
        self._members = members
        self.ids = {key: self._peering.pop(key) for key in ("local_id", "remote_id") if key in self._peering}
        self.begin()

    def begin(self) -> None:
        self._life = contextlib.ExitStack()
        self._undo.callback(self._life.close)
        self.side = Side(1, self._members, self._life, 0)
        keys = PskKeys(source="psk", secret=Path("unused"), ike_port=self._port, dpd_delay=1, **self.ids)
        self.peering = self.side.peering.model_copy(update={**self._peering, "keys": keys})
        parts = KeydPeering(self.peering, {}, [m.parts for m in self.side.members], self.side.shared, self.offloads)
        sock = self._life.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sock.bind((self._address, self._port))
        sock.setblocking(False)
        self.shared = GatewayShared()
        self.service: Service | None = Service(KeydParts(self.shared, [parts], [sock]), 0.0)

    def kill(self) -> None:
        """It is gone without a word, its members too."""
        self.service = None
        self._life.close()

    def turn(self) -> None:
        if self.service is None:
            return
        self.service.turn(0.001)
        for member in self.side.members:
            member.read()
            if not member.alive:
                member.start()

    def sends(self) -> list[bool]:
        return [bool(member.shared.link[LinkWord.SPI_OUT]) for member in self.side.members]

    def told(self) -> agent_ike.Told:
        return agent_ike.read(self.shared.ike.get(), ["p"])["p"]


@pytest.fixture(autouse=True)
def one_secret(soon_again: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "credentials", lambda keys, fds: Psk(SECRET))


def meet(undo: contextlib.ExitStack, ids: bool = False, **more: Any) -> tuple[Keyd, Keyd, Keyd]:
    """One gateway and its two far gateways, which have three and two members; `ids`: identities of their own."""
    port = free_port((HERE, *FAR))
    names = ({"remote_id": ["a", "b"], "local_id": "here"}, {"local_id": "a", "remote_id": "here"},
             {"local_id": "b", "remote_id": "here"}) if ids else ({}, {}, {})  # fmt: skip
    here = Keyd(HERE, FAR, MEMBERS, port, undo, **more, **names[0])
    far = [
        Keyd(address, (HERE,), members, port, undo, **name)
        for address, members, name in zip(FAR, (3, 2), names[1:], strict=True)
    ]
    return here, far[0], far[1]


def until(keyds: tuple[Keyd, ...], condition: Any, what: str) -> None:
    for _ in range(TURNS_MAX):
        if condition():
            return
        for one in keyds:
            one.turn()
    raise AssertionError(f"it never came about: {what}")


def spis(keyd: Keyd) -> set[str]:
    """Of the IKE SAs that it tells of."""
    return {sa.spi_i for sa in keyd.told().sas}


def told_spis(keyds: tuple[Keyd, ...]) -> set[str]:
    """Of both IKE SAs of the first one, once it tells of them."""
    until(keyds, lambda: len(spis(keyds[0])) == 2, "both IKE SAs are told")
    return spis(keyds[0])


def all_send(keyds: tuple[Keyd, ...]) -> Any:
    return lambda: all(all(one.sends()) for one in keyds)


@pytest.mark.parametrize("ids", [False, True], ids=["by address", "by identity"])
def test_members_are_paired_with_those_of_both_far_gateways(undo: contextlib.ExitStack, ids: bool) -> None:
    keyds = here, a, b = meet(undo, ids)
    until(keyds, all_send(keyds), "every member sends")
    for far, number in ((a, 0), (b, 1)):
        for partner, theirs in enumerate(far.side.members):
            ours = here.side.members[2 * partner + number]
            assert theirs.outbound is not None
            assert ours.outbound is not None
            assert ours.hear(theirs.outbound)
            assert theirs.hear(ours.outbound)
            assert theirs.outbound.spi & 0xFF == 2 * partner + number, "the low octet is the member that receives"
            assert ours.outbound.spi & 0xFF == partner
            # Where they send to is what the other one has told.
            port = here.peering.port
            assert ours.shared.far.get() == (FAR[number], port + partner)
            assert theirs.shared.far.get() == (HERE, port + 2 * partner + number)
            assert ours.shared.echoes[0] == theirs.shared.echoes[0] == 1


def test_each_far_gateway_is_told_of_by_itself(undo: contextlib.ExitStack) -> None:
    keyds = here, _, b = meet(undo)
    until(keyds, all_send(keyds), "every member sends")

    def by_remote() -> dict[str, set[int]]:
        return {sa.remote.partition(":")[0]: {child.member for child in sa.children} for sa in here.told().sas}

    until(keyds, lambda: by_remote() == {FAR[0]: {0, 2, 4}, FAR[1]: {1, 3}}, "Child SAs by far gateway")
    assert [(far.number, far.established) for far in here.told().far] == [(0, True), (1, True)]
    until(keyds, lambda: b.told().sas, "told there, too")
    assert [far.number for far in b.told().far] == [0]


def test_one_far_gateway_that_is_gone_leaves_the_other_alone_and_comes_back(undo: contextlib.ExitStack) -> None:
    keyds = here, a, b = meet(undo)
    until(keyds, all_send(keyds), "every member sends")
    before = [member.outbound for member in here.side.members]
    before_spis = told_spis(keyds)

    b.kill()
    b.begin()
    until(keyds, lambda: all(b.sends()), "the one that was gone has SAs")
    until(keyds, lambda: here.side.members[1].outbound != before[1], "our members have new ones with it")
    until(keyds, all_send(keyds), "every member sends")
    for index in (0, 2, 4):
        assert here.side.members[index].outbound == before[index]
    assert spis(a) < before_spis, "the IKE SA with the other one stands"
    until(keyds, lambda: spis(a) < spis(here), "and is told")
    for partner, theirs in enumerate(b.side.members):
        assert theirs.outbound is not None
        assert here.side.members[2 * partner + 1].hear(theirs.outbound)


def test_a_delete_of_one_far_gateway_ends_its_members_sas_alone(undo: contextlib.ExitStack) -> None:
    keyds = here, a, b = meet(undo)
    until(keyds, all_send(keyds), "every member sends")
    assert b.service is not None
    for guard in b.service._guards:
        b.service._say_goodbye(guard, 0.0)
    b.kill()
    until((here, a), lambda: here.sends() == [True, False, True, False, True], "members of the one that is gone stop")
    until((here, a), lambda: [far.established for far in here.told().far] == [True, False], "and that is told")


def test_a_far_gateway_whose_members_step_aside_hears_it_and_the_other_does_not(undo: contextlib.ExitStack) -> None:
    keyds = here, a, b = meet(undo)
    until(keyds, all_send(keyds), "every member sends")
    for ours in here.side.members[1::2]:  # those of the second one
        ours.shared.leaves[0] = 1
    until(keyds, lambda: all(one.shared.far_leaves_until[0] for one in b.side.members), "it is told")
    assert not any(one.shared.far_leaves_until[0] for one in a.side.members)


def test_our_device_gives_what_both_far_gateways_take(undo: contextlib.ExitStack) -> None:
    port = free_port((HERE, *FAR))
    here = Keyd(HERE, FAR, 2, port, undo)
    a = Keyd(FAR[0], (HERE,), 1, port, undo)
    b = Keyd(FAR[1], (HERE,), 1, port, undo, offloads=CSUM)
    until((here, a, b), all_send((here, a, b)), "every member sends")
    assert here.side.shared.far_offloads == CSUM
    assert a.side.shared.far_offloads == CSUM | TSO4 | TSO6


def test_a_command_is_for_all_far_gateways(undo: contextlib.ExitStack) -> None:
    keyds = meet(undo)
    here = keyds[0]
    until(keyds, all_send(keyds), "every member sends")
    before = told_spis(keyds)
    assert here.service is not None
    here.service.obey("p", "rekey", boot_s())
    until(keyds, lambda: len(spis(here) - before) == 2 and not spis(here) & before, "both IKE SAs have a successor")


def test_identities_and_times_change_for_each_far_gateway(undo: contextlib.ExitStack) -> None:
    keyds = meet(undo, ids=True)
    here = keyds[0]
    until(keyds, all_send(keyds), "every member sends")
    before = told_spis(keyds)
    assert here.service is not None
    here.service.change(here.peering.model_copy(update={"rekey_time": 1000}), {}, boot_s())
    until(keyds, all_send(keyds), "every member sends")
    assert spis(here) == before
    remote_ids = {guard.peering.connection.remote_id.data for guard in here.service._guards if guard.peering}
    assert remote_ids == {b"a", b"b"}

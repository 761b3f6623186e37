"""Far gateways by name: when they are looked up, whose answer is taken, and what a child may say."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

import psutil
import pytest

from fwd.model.config import Peering, parse
from fwd.model.example import EXAMPLE
from fwd.model.words import ConfigError
from fwd.supervise import names as module
from fwd.supervise.names import AT_ONCE, DEADLINE_S, ELSEWHERE_S, FIRST_S, LONGEST_S, LOST_S, Names, answer_in

USER = (60701, 60701)
GW2 = "gw2.example.net"
NAMED = EXAMPLE.replace("192.0.2.2", GW2)
OTHER = (
    NAMED.replace("vpc2", "vpc3").replace("10.2.", "10.3.").replace("fwd0", "fwd1").replace("4500", "4600")
    .replace("ike_port = 500", "ike_port = 510").partition("[[peering]]")[2]
)  # fmt: skip
ANSWERS: dict[str, str] = {}  # what the child says of a name; the child is forked, and so knows it


@pytest.fixture(autouse=True)
def child(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A child that knows ANSWERS, and of other names says nothing and does not end."""

    def look_up(name: module.Name, user: Any, parent: int, far: int) -> None:
        if name[0] not in ANSWERS:
            time.sleep(60)
        os.write(far, f"{ANSWERS[name[0]]}\n".encode())

    monkeypatch.setattr(module, "_look_up", look_up)
    ANSWERS.clear()
    yield
    ANSWERS.clear()


class World:
    """Names of a configuration, whether each peering has its far gateway, and the time."""

    def __init__(self, text: str = NAMED) -> None:
        self.config = parse(text, "")
        self.names = Names(USER)
        self.joined: set[str] = set()
        self.now = 1000.0

    def pass_turn(self, seconds: float = 0.0) -> bool:
        """A turn of the supervisor's loop so much later."""
        self.now += seconds
        return self.names.turn(self.config.peering, lambda name: name in self.joined, self.now)

    def turn(self, seconds: float = 0.0) -> bool:
        """A turn so much later, and the next when children have said all that they know."""
        changed = self.pass_turn(seconds)
        poll = select.poll()
        for lookup in self.names._lookups:
            if lookup.name[0] in ANSWERS:
                poll.register(lookup.answer, select.POLLHUP)
                assert poll.poll(30_000)
                poll.unregister(lookup.answer)
        return changed | self.pass_turn()

    def join(self, *names: str) -> None:
        """These peerings have their far gateway, and no others."""
        self.joined = set(names)
        self.pass_turn()

    def lose(self, seconds: float) -> bool:
        """Nothing joins anybody to a far gateway any more, for so long."""
        self.joined = set()
        return self.turn() | self.turn(seconds)

    @property
    def addresses(self) -> list[str]:
        return [str(peering.remote_addrs) for peering in self.names.resolved(self.config).peering]


@pytest.fixture
def worlds() -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def make(text: str = NAMED) -> World:
        made.append(World(text))
        return made[-1]

    yield make
    for world in made:
        world.names.close()


Worlds = Callable[..., World]


def test_a_name_is_looked_up_at_the_start(worlds: Worlds) -> None:
    ANSWERS[GW2] = "192.0.2.2 192.0.2.3"
    world = worlds()
    assert world.addresses == [GW2]
    assert world.turn()
    assert world.addresses == ["192.0.2.2"]
    (peering,) = world.names.resolved(world.config).peering
    assert peering.far == ip_address("192.0.2.2")
    assert peering.model_copy(update={"remote_addrs": GW2}) == world.config.peering[0]


def test_a_new_address_is_taken_when_ike_begins_anew_and_not_under_traffic(worlds: Worlds) -> None:
    ANSWERS[GW2] = "192.0.2.2"
    world = worlds()
    world.turn()
    world.join("vpc2")
    ANSWERS[GW2] = "192.0.2.9"
    assert not world.turn(3600.0)
    assert not world.lose(LOST_S / 2), "it may be keyd that starts again"
    world.join("vpc2")
    assert not world.turn(60.0)
    assert world.addresses == ["192.0.2.2"]
    assert world.lose(LOST_S)
    assert world.addresses == ["192.0.2.9"]


def test_another_peering_of_the_same_name_is_left_where_it_is(worlds: Worlds) -> None:
    ANSWERS[GW2] = "192.0.2.2"
    world = worlds(f"{NAMED}[[peering]]{OTHER}")
    world.turn()
    world.join("vpc2")
    ANSWERS[GW2] = "192.0.2.9"
    assert world.turn(LONGEST_S)
    assert world.addresses == ["192.0.2.2", "192.0.2.9"]


def test_one_of_several_addresses_is_kept_as_long_as_the_name_has_it(worlds: Worlds) -> None:
    ANSWERS[GW2] = "192.0.2.2 192.0.2.3"
    world = worlds()
    world.turn()
    world.join("vpc2")
    world.turn(3600.0)
    ANSWERS[GW2] = "192.0.2.3 192.0.2.2"
    assert not world.lose(ELSEWHERE_S - 1)
    assert world.addresses == ["192.0.2.2"]


def test_of_several_addresses_the_next_one_is_tried_when_one_comes_to_nothing(worlds: Worlds) -> None:
    ANSWERS[GW2] = "192.0.2.2 192.0.2.4 192.0.2.3"
    world = worlds()
    world.turn()
    seen = [*world.addresses]
    for _ in range(3):
        assert world.turn(LONGEST_S)
        seen += world.addresses
    assert seen == ["192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.2"]
    world.join("vpc2")
    assert not world.turn(3600.0)


def test_a_single_address_that_comes_to_nothing_stays(worlds: Worlds) -> None:
    ANSWERS[GW2] = "192.0.2.2"
    world = worlds()
    world.turn()
    assert not world.turn(3600.0)
    assert world.addresses == ["192.0.2.2"]


def test_on_sighup_a_new_address_is_taken_at_once(worlds: Worlds) -> None:
    ANSWERS[GW2] = "192.0.2.2"
    world = worlds()
    world.turn()
    world.join("vpc2")
    ANSWERS[GW2] = "192.0.2.9"
    world.names.again(world.config.peering, {"vpc2": [ip_address("192.0.2.2")]})
    assert world.addresses == ["192.0.2.2"], "until it has been looked up"
    assert world.turn(0.05)
    assert world.addresses == ["192.0.2.9"]
    ANSWERS[GW2] = "192.0.2.10"
    assert not world.turn(3600.0), "once"


def test_a_peering_that_gets_a_name_keeps_its_address_until_that_is_known(worlds: Worlds) -> None:
    ANSWERS[GW2] = "192.0.2.7 192.0.2.2"
    world = worlds(EXAMPLE)
    world.join("vpc2")
    world.config = parse(NAMED, "")
    world.names.again(world.config.peering, {"vpc2": [ip_address("192.0.2.2")]})
    assert world.addresses == ["192.0.2.2"]
    assert not world.turn()
    assert world.addresses == ["192.0.2.2"]


@pytest.mark.parametrize("answer", ["!Name or service not known", "192.0.2.9"])
def test_a_peering_that_gets_a_name_does_not_stay_where_that_is_not(answer: str, worlds: Worlds) -> None:
    ANSWERS[GW2] = answer
    world = worlds()
    world.names.again(world.config.peering, {"vpc2": [ip_address("192.0.2.2")]})
    assert world.turn()
    assert world.addresses == [GW2 if answer.startswith("!") else answer]


def test_what_cannot_be_looked_up_is_told_once_and_the_address_of_before_stays(
    worlds: Worlds, caplog: pytest.LogCaptureFixture
) -> None:
    ANSWERS[GW2] = "192.0.2.2"
    world = worlds()
    world.turn()
    ANSWERS[GW2] = "!Temporary failure in name resolution"
    for _ in range(5):
        assert not world.lose(LONGEST_S)
    assert world.addresses == ["192.0.2.2"]
    reason = "Temporary failure in name resolution"
    assert caplog.messages == [f"{GW2} (remote_addrs) cannot be looked up: {reason}"]


def test_a_name_without_an_address_is_tried_again_and_less_and_less_often(worlds: Worlds) -> None:
    ANSWERS[GW2] = "!unknown"
    world = worlds()
    world.turn()
    for wait_s in (FIRST_S, 2 * FIRST_S, 4 * FIRST_S, 8 * FIRST_S, LONGEST_S, LONGEST_S):
        world.pass_turn(wait_s / 2)
        assert not world.names._lookups
        assert not world.turn(wait_s / 2)
    ANSWERS[GW2] = "192.0.2.2"
    assert world.turn(LONGEST_S)
    assert world.addresses == ["192.0.2.2"]


def test_a_look_up_that_does_not_end_is_ended_and_holds_up_no_other(worlds: Worlds) -> None:
    ANSWERS["gw3.example.net"] = "192.0.2.3"
    world = worlds(f"{NAMED}[[peering]]{OTHER.replace(GW2, 'gw3.example.net')}")
    assert world.turn()
    assert world.addresses == [GW2, "192.0.2.3"]
    (lookup,) = world.names._lookups
    world.pass_turn(DEADLINE_S - 0.1)
    assert world.names._lookups
    world.pass_turn(0.2)
    with pytest.raises(ProcessLookupError):
        os.kill(lookup.pid, 0)
    ANSWERS[GW2] = "192.0.2.2"
    assert world.turn(FIRST_S)
    assert world.addresses == ["192.0.2.2", "192.0.2.3"]


def test_so_many_at_once_and_no_more(worlds: Worlds) -> None:
    more = "".join(
        f"[[peering]]{OTHER}".replace("vpc3", f"vpc{i}").replace("10.3.", f"10.{i}.").replace("fwd1", f"fwd{i}")
        .replace("4600", f"{4500 + 100 * i}").replace("= 510", f"= {1500 + i}").replace(GW2, f"gw{i}.example.net")
        for i in range(3, 3 + AT_ONCE)
    )  # fmt: skip
    world = worlds(NAMED + more)
    world.pass_turn()
    assert len(world.names._lookups) == AT_ONCE
    world.pass_turn(DEADLINE_S)
    assert len({lookup.name for lookup in world.names._lookups}) == 1, "who could not be asked before"


def test_nothing_is_left_of_a_look_up_when_fwd_ends(worlds: Worlds) -> None:
    world = worlds()
    before, children = set(os.listdir("/proc/self/fd")), psutil.Process().children()
    world.pass_turn()
    world.names.close()
    assert set(os.listdir("/proc/self/fd")) == before
    assert psutil.Process().children() == children


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("10.2.0.9", "remote_ts 10.2.0.0/16 contains a gateway's own outer address, 10.2.0.9"),
        ("192.0.2.1", "local_addrs and remote_addrs are the same address"),
        ("0.0.0.0", "0.0.0.0 is no address of one host"),
    ],
)
def test_an_address_that_could_not_be_configured_is_not_taken(
    address: str, reason: str, worlds: Worlds, caplog: pytest.LogCaptureFixture
) -> None:
    ANSWERS[GW2] = address
    world = worlds()
    world.turn()
    assert world.addresses == [GW2]
    assert world.addresses == [GW2]
    assert len(caplog.messages) == 1
    assert f"{GW2} (remote_addrs) is {address}, which cannot be taken" in caplog.text
    assert reason in caplog.text


def test_two_names_of_one_address_are_two_peerings_if_they_can_be_told_apart(
    worlds: Worlds, caplog: pytest.LogCaptureFixture
) -> None:
    second = OTHER.replace(GW2, "gw3.example.net")
    ANSWERS.update({GW2: "192.0.2.2", "gw3.example.net": "192.0.2.2"})
    world = worlds(f"{NAMED}[[peering]]{second}")
    world.turn()
    assert world.addresses == ["192.0.2.2", "192.0.2.2"]
    world = worlds(f"{NAMED}[[peering]]{second.replace('ike_port = 510', 'ike_port = 500')}")
    world.turn()
    assert world.addresses == ["192.0.2.2", "gw3.example.net"]
    assert "no identities to tell them apart" in caplog.text


def test_peerings_with_addresses_are_left_alone_and_nothing_is_looked_up_for_them(worlds: Worlds) -> None:
    world = worlds(EXAMPLE)
    assert not world.pass_turn()
    assert not world.names._lookups
    (peering,) = world.names.resolved(world.config).peering
    assert peering is world.config.peering[0]


GW3 = "gw3.example.net"
SEVERAL = EXAMPLE.replace('"192.0.2.2"', f'["{GW2}", "192.0.2.5", "{GW3}"]')


def test_names_in_a_list_are_each_looked_up_and_the_peering_waits_for_all_of_them(worlds: Worlds) -> None:
    ANSWERS.update({GW2: "192.0.2.2", GW3: "!unknown"})
    world = worlds(SEVERAL)
    world.turn()
    (peering,) = world.names.resolved(world.config).peering
    assert (peering.names, peering.fars) == ((GW2, GW3), ())
    assert peering.where == f"{GW2}, 192.0.2.5, {GW3}"
    ANSWERS[GW3] = "192.0.2.3"
    assert world.turn(FIRST_S)
    (peering,) = world.names.resolved(world.config).peering
    assert [str(far.address) for far in peering.fars] == ["192.0.2.2", "192.0.2.5", "192.0.2.3"]
    assert not peering.names


def test_while_one_of_several_is_joined_no_other_address_is_taken(worlds: Worlds) -> None:
    """It would set the peering up anew, under the traffic of those that are joined."""
    ANSWERS.update({GW2: "192.0.2.2", GW3: "192.0.2.3"})
    world = worlds(SEVERAL)
    world.turn()
    world.join("vpc2")
    ANSWERS[GW3] = "192.0.2.9"
    assert not world.turn(3600.0)
    assert world.lose(LOST_S)
    (peering,) = world.names.resolved(world.config).peering
    assert peering.where == "192.0.2.2, 192.0.2.5, 192.0.2.9"


def test_two_names_of_a_list_at_one_address_cannot_be_taken(worlds: Worlds, caplog: pytest.LogCaptureFixture) -> None:
    ANSWERS.update({GW2: "192.0.2.2", GW3: "192.0.2.5"})
    world = worlds(SEVERAL)
    world.turn()
    (peering,) = world.names.resolved(world.config).peering
    assert not peering.fars
    assert "192.0.2.5 stands here twice" in caplog.text


def test_a_list_that_gets_names_keeps_its_addresses_until_those_are_known(worlds: Worlds) -> None:
    world = worlds(SEVERAL)
    before = [ip_address(one) for one in ("192.0.2.2", "192.0.2.5", "192.0.2.3")]
    world.names.again(world.config.peering, {"vpc2": before})
    (peering,) = world.names.resolved(world.config).peering
    assert list(peering.addresses) == before


@pytest.mark.parametrize("port", [500, 510])
def test_peerings_that_share_a_name_in_their_lists_must_be_told_apart(port: int) -> None:
    other = OTHER.replace(f'"{GW2}"', f'["{GW3}", "192.0.2.7"]').replace("= 510", f"= {port}")
    text = f"{SEVERAL}[[peering]]{other}"
    if port == 510:
        parse(text, "")
    else:
        with pytest.raises(ConfigError, match="no identities to tell them apart"):
            parse(text, "")


def test_a_name_that_is_in_the_configuration_no_more_is_forgotten(worlds: Worlds) -> None:
    ANSWERS[GW2] = "192.0.2.2"
    world = worlds()
    world.turn()
    named, world.config = world.config, parse(EXAMPLE, "")
    world.turn()
    world.config = named
    assert world.addresses == [GW2]


# -- what a child may say ------------------------------------------------------------------------------------------

NOTHING: tuple[list[object], str] = ([], "no answer in time")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"192.0.2.2\n", ([ip_address("192.0.2.2")], "")),
        (b"192.0.2.2 x 2001:db8::1 192.0.2.3\n1.2.3.4\n", ([ip_address("192.0.2.2"), ip_address("192.0.2.3")], "")),
        (b"2001:db8::1\n", ([], "no address of IPv4")),
        (b"\n", ([], "no address of IPv4")),
        ("\u0661.2.3.4\n".encode(), ([], "no address of IPv4")),
        (b"!No such\x1b[2J name\n", ([], "No such[2J name")),
        (b"!" + b"x" * 5000 + b"\n", ([], "x" * 199)),
        *((said, NOTHING) for said in (b"", b"192.0.2.2", b"\xff\xfe", b"!half a rea")),
    ],
)
def test_a_child_can_say_addresses_and_reasons_and_nothing_else(said: bytes, told: object) -> None:
    assert answer_in(said, 4) == told


def test_of_many_addresses_some_are_taken() -> None:
    addresses, _ = answer_in(" ".join(f"192.0.2.{i}" for i in range(200)).encode() + b"\n", 4)
    assert len(addresses) == 16


# -- the real child -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which the child gives up")
def test_the_real_child_asks_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    world = World(NAMED.replace(GW2, "LocalHost."))
    ANSWERS["localhost"] = "it ends by itself"
    assert world.turn()
    assert world.addresses == ["127.0.0.1"]


def with_far(text: str, address: str) -> Peering:
    return parse(text.replace(GW2, address), "").peering[0]


def test_a_resolved_peering_is_the_same_as_one_that_was_written_with_the_address() -> None:
    """So nothing is set up anew for an address that has not changed."""
    assert with_far(NAMED, GW2).at({GW2: ip_address("192.0.2.7")}) == with_far(NAMED, "192.0.2.7")

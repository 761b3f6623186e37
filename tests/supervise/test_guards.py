"""Whose leak guards those are that stand, and which may go: tables of what stands and what is wanted."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from fwd.model.config import Peering
from fwd.model.keys import LabKeys
from fwd.model.words import Network
from fwd.proto.errors import UserError
from fwd.supervise import guards, network, owner
from fwd.supervise.guards import OWNERLESS, STRANGERS, Found, Table
from fwd.supervise.keeper import Keeper
from fwd.supervise.netlink import Kernel
from fwd.supervise.owner import NUMBERS, Owner

ME, LIVING, DEAD = 200, 201, 202
A, B, WIDE, PART = (ip_network(s) for s in ("10.2.0.0/24", "10.3.0.0/24", "10.0.0.0/8", "10.2.0.128/25"))
V6 = ip_network("fd00:2::/64")


def peering(name: str, *remote_ts: Network) -> Peering:
    return Peering.model_validate(
        {
            "name": name, "local_addrs": "192.0.2.1", "remote_addrs": "192.0.2.2", "local_ts": ["172.16.0.0/16"],
            "remote_ts": [str(subnet) for subnet in remote_ts], "keys": LabKeys(source="lab", secret=Path("x")),
        }
    )  # fmt: skip


def found(*peerings: tuple[str, int, Network]) -> Found:
    tables = {f"fwd_{name}": Table(number, (subnet,)) for name, number, subnet in peerings}
    return Found(tables, {subnet: number for _, number, subnet in peerings})


REFUSALS = [
    ("nothing stands", found(), False),
    ("our own of before", found(("far", ME, A)), False),
    ("a dead one's", found(("far", DEAD, A)), False),
    ("of a fwd without numbers", found(("far", OWNERLESS, A)), False),
    ("a living one's name", found(("far", LIVING, B)), True),
    ("a living one's subnet", found(("other", LIVING, A)), True),
    ("part of a living one's subnet", found(("other", LIVING, WIDE)), True),
    ("more than a living one's subnet", found(("other", LIVING, PART)), True),
    ("a table that is not fwd's", Found({"fwd_far": Table(STRANGERS, ())}, {}), True),
    ("a living one elsewhere", found(("other", LIVING, B)), False),
    ("a living one with the other IP version", found(("other", LIVING, V6)), False),
]


@pytest.mark.parametrize(("what", "standing", "refused"), REFUSALS, ids=[row[0] for row in REFUSALS])
def test_what_a_living_fwd_has_is_refused(what: str, standing: Found, refused: bool) -> None:
    assert bool(guards.refusal(peering("far", A), standing, {LIVING})) == refused


WANTED = [peering("far", A)]
LEFTOVERS = [
    ("wanted", found(("far", ME, A)), [], []),
    ("renamed: the table goes, the route stays", found(("near", ME, A)), ["fwd_near"], []),
    ("ours that nobody wants", found(("near", ME, B)), ["fwd_near"], [B]),
    ("a name with other subnets", found(("far", ME, B)), [], [B]),
    ("of a fwd without numbers", found(("near", OWNERLESS, B)), ["fwd_near"], [B]),
    ("a table that is not fwd's", Found({"fwd_nat": Table(STRANGERS, ())}, {}), [], []),
    ("a living one's", found(("near", LIVING, B)), [], []),
    ("a dead one's elsewhere: its successor will want it", found(("near", DEAD, B)), [], []),
    ("a dead one's in our way", found(("near", DEAD, A)), ["fwd_near"], []),
    ("a dead one's around ours", found(("near", DEAD, WIDE)), ["fwd_near"], [WIDE]),
    ("a dead one's within ours", found(("near", DEAD, PART)), ["fwd_near"], [PART]),
]


@pytest.mark.parametrize(("what", "standing", "tables", "subnets"), LEFTOVERS, ids=[row[0] for row in LEFTOVERS])
def test_what_is_left_over(what: str, standing: Found, tables: list[str], subnets: list[Network]) -> None:
    assert guards.leftovers(standing, WANTED, ME, {LIVING}) == (tables, subnets)


# The mark of a configuration is of two halves: its control socket, and its file.
MARK, OTHER_CONTROL, OTHER_FILE, NEITHER = (
    "11111111aaaaaaaa",
    "22222222aaaaaaaa",
    "11111111bbbbbbbb",
    "22222222bbbbbbbb",
)
LEFT_BY = [
    ("the same", {MARK}, True),
    ("with another control socket", {OTHER_CONTROL}, True),
    ("of another file", {OTHER_FILE}, True),
    ("of before files had marks", {"11111111"}, True),
    ("another one", {NEITHER}, False),
    ("another one of before files had marks", {"22222222"}, False),
    ("halves that are alike by chance", {"aaaaaaaa11111111"}, False),
    ("one without a mark", {""}, False),
    ("two under one number", {MARK, NEITHER}, False),
]


@pytest.mark.parametrize(("what", "marks", "goes"), LEFT_BY, ids=[row[0] for row in LEFT_BY])
def test_what_a_dead_one_of_this_configuration_has_left_goes_whatever_its_number(
    what: str, marks: set[str], goes: bool
) -> None:
    tables = {f"fwd_{i}": Table(DEAD, (B,), mark) for i, mark in enumerate(sorted(marks))}
    standing = Found(tables, {B: DEAD})
    assert guards.leftovers(standing, WANTED, ME, {LIVING}, MARK) == (([*tables], [B]) if goes else ([], []))
    left = guards.strangers_left(standing, WANTED, {ME, LIVING}, MARK)
    assert (left.tables, left.routes) == (({}, {}) if goes else (tables, {B: DEAD}))

    # Of one that lives nothing goes, and nothing is told.
    assert guards.leftovers(standing, WANTED, ME, {LIVING, DEAD}, MARK) == ([], [])
    assert guards.strangers_left(standing, WANTED, {ME, LIVING, DEAD}, MARK) == Found({}, {})


def test_the_marks_of_files_of_one_path_differ_where_the_directories_do(tmp_path: Path) -> None:
    """Containers that share the host's network have their files at one path, each its own."""
    made = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        made.append(owner.mark_of(Path(f"/run/{name}.sock"), tmp_path / name / "fwd.toml"))
    assert not owner.is_ours(*made)
    again = owner.mark_of(Path("/run/third.sock"), tmp_path / "one" / "fwd.toml")
    assert owner.is_ours(made[0], again)
    assert guards.table_in(LISTING.replace('"fwd 200"', f'"fwd 200 {again}"')).mark == again


def test_what_strangers_left_is_told_with_the_commands_that_remove_it() -> None:
    said = guards.removal(found(("y", DEAD, B), ("z", DEAD, V6)))
    assert said.split("; ") == [
        "nft delete table inet fwd_y", "nft delete table inet fwd_z",
        "ip -4 route del unreachable 10.3.0.0/24 metric 1000000",
        "ip -6 route del unreachable fd00:2::/64 metric 1000000",
    ]  # fmt: skip


def test_a_clean_stop_removes_ones_own_alone() -> None:
    standing = found(("far", ME, A), ("near", LIVING, B), ("old", DEAD, V6))
    assert guards.leftovers(standing, (), ME) == (["fwd_far"], [A])


LISTING = """table inet fwd_far {
\tcomment "fwd 200"
\tchain from_wire {
\t\ttype filter hook prerouting priority raw; policy accept;
\t\tiifname != { "lo", "fwd0" } ip saddr { 10.2.0.0/24, 10.4.0.0-10.6.255.255,
\t\t\t\t\t 10.9.0.1 } counter packets 0 bytes 0 drop
\t\tiifname != { "lo", "fwd0" } ip6 saddr fd00:2::/64 counter packets 0 bytes 0 drop
\t}

\tchain to_wire {
\t\ttype filter hook postrouting priority filter; policy accept;
\t}
}
"""


def test_a_start_that_fails_after_guards_were_set_removes_those_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a crash had left still guards its subnets."""
    stand, removed = [found(("far", ME, A), ("other", LIVING, V6))], list[object]()
    monkeypatch.setattr(network, "look", lambda asks: stand[-1])
    monkeypatch.setattr(network, "remove_tables", removed.extend)
    monkeypatch.setattr(network, "remove_guard_routes", removed.extend)
    keeper = Keeper(ME, "", Kernel())
    assert keeper.refusals([peering("far", A), peering("b", B)], {LIVING}) == {}
    stand.append(found(("far", ME, A), ("other", LIVING, V6), ("b", ME, B)))
    keeper.undo()
    keeper.close()
    assert removed == ["fwd_b", B]


def test_a_table_is_read_as_nft_lists_it() -> None:
    subnets = ("10.2.0.0/24", "10.4.0.0/15", "10.6.0.0/16", "10.9.0.1/32", "fd00:2::/64")
    assert guards.table_in(LISTING) == Table(ME, tuple(ip_network(s) for s in subnets))
    assert guards.table_in(LISTING.replace('\tcomment "fwd 200"\n', "")).owner == OWNERLESS
    assert guards.table_in(LISTING.replace('"fwd 200"', '"fwd 200 0a1b2c3d"')).mark == "0a1b2c3d"
    assert guards.table_in(LISTING.replace("to_wire", "forward")).owner == ME
    for foreign in ('\tcomment "fwd, the firewall"\n', ""):
        listing = LISTING.replace('\tcomment "fwd 200"\n', foreign).replace("to_wire", "forward")
        assert guards.table_in(listing) == Table(STRANGERS, ())


def test_closed_guards_let_nothing_pass_but_on_the_host() -> None:
    closed = guards.ruleset(peering("far", A), ME, closed=True)
    assert "fwd0" not in closed
    assert closed.count('!= { "lo" }') == 2


def test_what_comes_out_of_the_tun_device_must_not_leave_to_the_outside() -> None:
    outside = {"wan": (A, V6), "eth9": (B,)}
    rules = guards.ruleset(peering("far", WIDE), ME, outside=outside)
    assert [line for line in rules.splitlines() if ' oifname "' in line and "drop" in line] == [
        'iifname "fwd0" oifname "eth9" ip daddr { 10.3.0.0/24 } counter drop',
        'iifname "fwd0" oifname "wan" ip daddr { 10.2.0.0/24 } counter drop',
        'iifname "fwd0" oifname "wan" ip6 daddr { fd00:2::/64 } counter drop',
    ]
    closed = guards.ruleset(peering("far", WIDE), ME, outside=outside, closed=True)
    assert 'iifname "fwd0"' not in closed
    for text in (rules, closed):
        quoting = [line for line in text.splitlines() if line.startswith("oifname") and "type {" in line]
        assert len(quoting) == 3
        assert all(line.endswith("} counter drop") for line in quoting)


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Owner]:
    made = Owner(tmp_path)
    yield made
    made.close()


def test_a_configuration_gets_its_number_again(tmp_path: Path, mine: Owner) -> None:
    number = mine.number
    mine.close()
    again = Owner(tmp_path)
    assert again.number == number
    again.close()


FIRST = 6  # NUMBERS[FIRST] is what the configuration leads to
OURS, OTHERS = "0a1b2c3d", "99999999"
CHOICES = [
    ("nothing stands", [], NUMBERS[FIRST]),
    ("our own stand", [(NUMBERS[FIRST], OURS)], NUMBERS[FIRST]),
    ("our own stand, of another number", [(NUMBERS[40], OURS)], NUMBERS[40]),
    ("another's stand, who is dead: with its number we would remove them", [(NUMBERS[FIRST], OTHERS)], NUMBERS[7]),
    ("both have stood under one number", [(NUMBERS[FIRST], OTHERS), (NUMBERS[FIRST], OURS)], NUMBERS[FIRST]),
    ("of a fwd without marks", [(NUMBERS[FIRST], "")], NUMBERS[FIRST]),
    ("another's stand under each", [(number, OTHERS) for number in NUMBERS], NUMBERS[FIRST]),
]


@pytest.mark.parametrize(("what", "standing", "chosen"), CHOICES, ids=[row[0] for row in CHOICES])
def test_a_number_of_which_a_dead_ones_guards_stand_is_left_alone(
    what: str, standing: list[tuple[int, str]], chosen: int
) -> None:
    tried = owner.candidates(FIRST, OURS, standing)
    assert tried[0] == chosen
    assert sorted(tried) == list(NUMBERS)


def test_two_have_two_numbers_and_see_each_other(tmp_path: Path, mine: Owner) -> None:
    other = Owner(tmp_path)
    assert other.number != mine.number
    assert other.number in mine.others()
    assert mine.number in other.others()
    assert mine.number not in mine.others()
    other.close()
    assert other.number not in mine.others()


def test_two_that_start_at_once_look_and_set_one_after_the_other(tmp_path: Path, mine: Owner) -> None:
    """Else both would find that nobody has what they want. Of one that never ends, the other goes on."""
    other, seen = Owner(tmp_path), []

    def follow() -> None:
        with other.alone():
            seen.append("the other")

    with mine.alone():
        thread = threading.Thread(target=follow)
        thread.start()
        thread.join(owner.ALONE_S / 4)
        seen.append("mine")
    thread.join()
    assert seen == ["mine", "the other"]

    with mine.alone(), other.alone():
        seen.append("both")
    other.close()
    assert seen[-1] == "both"


class Clock:
    """Goes on while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time that is waited for the turn at guards, at a name that no other program has."""
    made = Clock()
    monkeypatch.setattr(owner, "time", made)
    monkeypatch.setattr(owner, "_SETTING", f"\0fwd-test/{os.getpid()}")
    return made


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes somebody else, and has to be root for it")
@pytest.mark.parametrize("listens", [True, False])
def test_a_stranger_who_holds_the_turn_at_guards_holds_up_nobody(mine: Owner, clock: Clock, listens: bool) -> None:
    """Any user of the host may bind an abstract name, and each change of guards takes its turn."""
    script = (
        "import os,socket,sys,time; os.setresuid(65534, 65534, 65534)\n"
        "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1].replace('@', chr(0)))\n"
        f"if {listens}: s.listen(0)\n"
        "print('held', flush=True); time.sleep(60)"
    )
    argv = [sys.executable, "-I", "-c", script, owner._SETTING.replace("\0", "@")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        for _ in range(10):
            with mine.alone():
                pass
        process.kill()
    assert clock.now - 1000.0 <= (0.0 if listens else 1.0)


def test_an_fwd_that_is_frozen_in_its_turn_is_waited_for_once(tmp_path: Path, mine: Owner, clock: Clock) -> None:
    other = Owner(tmp_path)
    with other.alone():
        for _ in range(64):
            with mine.alone():
                pass
    other.close()
    assert owner.ALONE_S <= clock.now - 1000.0 < owner.ALONE_S + 1.0


def test_one_that_is_asked_again_and_again_still_lives(mine: Owner) -> None:
    assert all(owner._lives(mine.number) for _ in range(5000))


def test_the_number_goes_with_the_process(tmp_path: Path) -> None:
    script = (
        "import sys,time; from pathlib import Path; from fwd.supervise.owner import Owner\n"
        "o = Owner(Path(sys.argv[1])); print(o.number, flush=True); time.sleep(60)"
    )
    argv = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        number = int(process.stdout.readline())
        assert owner._lives(number)
        process.kill()
        process.wait()
        assert not owner._lives(number)


def test_when_all_numbers_are_taken_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "NUMBERS", NUMBERS[:2])
    held = [Owner(tmp_path), Owner(tmp_path)]
    with pytest.raises(UserError, match="network namespace"):
        Owner(tmp_path)
    for one in held:
        one.close()

"""Leak guards whatever happens to fwd: raised in, started anew with a wrong peering, renamed, two on one host. Nothing
leaves in the clear, and what is nobody's goes."""

from __future__ import annotations

import signal
import sys
import time
import zlib
from pathlib import Path

import pytest
from gwkit import Json, MakePair, Pair, network_of, until
from test_supervisor import MARKER, crash, pinging

from fwd.agent.client import query
from fwd.supervise.owner import NUMBERS

SUBNET = "10.2.0.0/24"
# A peering beside the one of the lab, to an address that the host has not.
ELSEWHERE = {
    "subnets": {"gw1": ["10.1.0.0/24"], "gw2": ["10.3.0.0/24"]},
    "local_addrs": "192.0.2.77",
    "tun": "fwd1",
    "port": 4700,
}


def tables(pair: Pair, host: str = "gw1") -> list[str]:
    listing = pair.topology.run(host, ["nft", "list", "tables"]).stdout
    return sorted(line.split()[-1] for line in listing.splitlines() if "fwd_" in line)


def unreachable(pair: Pair, host: str = "gw1") -> list[str]:
    routes = pair.topology.run(host, ["ip", "route", "show", "type", "unreachable"]).stdout.splitlines()
    return sorted(route.split()[1] for route in routes)


def way_to_client2(pair: Pair) -> str:
    argv = ["ip", "route", "get", pair.topology.address("client2")]
    return pair.topology.run("gw1", argv, check=False).stdout


def edit(pair: Pair, old: str, new: str, to: Path | None = None) -> Path:
    """Write gw1's configuration with one word another."""
    path = to or pair.config("gw1")
    text = pair.config("gw1").read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def second(pair: Pair, name: str, **peering: object) -> Path:
    """A second fwd's configuration on gw1: a control socket, ports and a TUN device of its own."""
    other = {"control": str(pair.topology.run_dir / f"{name}.sock"), "tun": "fwd9", "port": 4900, **peering}
    path, control = pair.topology.run_dir / f"{name}.toml", other.pop("control")
    first, pair.peerings = pair.peerings, [{"name": name, **other}]
    gateway, pair.gateway = pair.gateway, {"control": control}
    text = pair.config("gw1").read_text()
    pair.write_config("gw1")
    path.write_text(pair.config("gw1").read_text())
    pair.config("gw1").write_text(text)
    pair.peerings, pair.gateway = first, gateway
    return path


RAISING = """
import sys
from pathlib import Path
from fwd.supervise import running, supervisor
supervisor.GIVE_UP_S = 0.5
def fail(self):
    if Path(sys.argv[2]).exists():
        raise RuntimeError("on purpose")
    turn(self)
turn, supervisor.Supervisor._turn = supervisor.Supervisor._turn, fail
sys.exit(running.run(Path(sys.argv[1])))
"""


def test_nothing_in_the_clear_when_the_supervisor_cannot_go_on(pairs: MakePair, tmp_path: Path) -> None:
    """An exception is a crash, not a clean stop."""
    pair = pairs()
    assert pair.stop("gw1") == 0
    pair.write_secret("gw1")
    with (pair.topology.run_dir / "gw1.log").open("wb") as log:
        argv = [sys.executable, "-c", RAISING, str(pair.config("gw1")), str(tmp_path / "fail")]
        pair.running["gw1"] = pair.topology.popen("gw1", argv, stdout=log, stderr=log)
    pair.wait_ready("gw1")
    with pair.capture(marker=MARKER) as wire, pinging(pair):
        until(lambda: pair.peering("gw1")["demux"]["records"] > 20, what="pings")
        (tmp_path / "fail").touch()
        process = pair.running.pop("gw1")
        assert process.wait(60) not in (0, 2)
        assert not pair.ping(count=3)
    assert wire["plaintext_packets"] == 0, wire["plaintext_examples"]
    assert tables(pair) == ["fwd_to_gw2_0"]
    assert SUBNET in unreachable(pair)
    assert "on purpose" in pair.log("gw1")
    pair.launch("gw1")
    pair.wait_ready("gw1")
    assert pair.stop("gw1") == 0
    assert (tables(pair), unreachable(pair)) == ([], [])


@pytest.mark.parametrize("wrong", [{**ELSEWHERE, "local_addrs": "192.0.2.1", "tun": "lan"}, ELSEWHERE])
def test_a_start_that_fails_leaves_the_guards_of_a_crash(pairs: MakePair, wrong: Json) -> None:
    """Refused for good, the TUN device's name being taken; or only late, and then the other peering carries."""
    pair = pairs()
    crash(pair, "gw1")
    if wrong["local_addrs"] == "192.0.2.1":
        wrong = {**wrong, "local_addrs": pair.topology.outer("gw1")}
    pair.peerings = [{}, wrong]
    late = wrong == ELSEWHERE
    with pair.capture(marker=MARKER) as wire, pinging(pair):
        pair.launch("gw1")
        if late:
            until(lambda: "peering to-gw2-1 is not set up" in pair.log("gw1"), 15.0, "told")
            until(lambda: "10.3.0.0/24" in unreachable(pair), 15.0, "its own guard stands")
        else:
            assert pair.running.pop("gw1").wait(60) == 2
        time.sleep(0.5)  # for pings to leave
    assert wire["plaintext_packets"] == 0, wire["plaintext_examples"]
    assert "fwd_to_gw2_0" in tables(pair)
    assert SUBNET in unreachable(pair)
    assert ("10.3.0.0/24" in unreachable(pair)) == late


def test_a_late_address_is_waited_for(pairs: MakePair) -> None:
    """The other peering carries; the status says what is missing; the guards of the one that waits stand, closed."""
    pair = pairs([{}, ELSEWHERE], start=False)
    pair.secret = b"s" * 32
    pair.launch("gw1")
    pair.peerings = [{}]
    pair.launch("gw2")
    until(lambda: pair.ping(), 15.0, "the other peering carries")
    reason = "to-gw2-1: not set up: peering to-gw2-1: this host has no address 192.0.2.77 (local_addrs)"
    until(lambda: reason in pair.status("gw1")["not_ready"], what="the reason in the status")
    assert not pair.status("gw1")["ready"]
    assert unreachable(pair) == [SUBNET, "10.3.0.0/24"]
    pids = pair.pids("gw1")

    pair.topology.run("gw1", ["ip", "addr", "add", "192.0.2.77/24", "dev", "wan"])
    until(lambda: len(pair.status("gw1")["peerings"]) == 2, 15.0, "set up")
    until(lambda: not any("not set up" in line for line in pair.status("gw1")["not_ready"]), what="nothing waits")
    now = pair.pids("gw1")
    assert {n: now[n] for n in ("demux", "member-0", "member-1")} == {
        n: pids[n] for n in ("demux", "member-0", "member-1")
    }
    assert pair.log("gw1").count("is not set up") == 1
    assert pair.ping()


def test_nothing_in_the_clear_while_a_peering_is_renamed(pairs: MakePair) -> None:
    """New guards stand before old ones go, whatever the peering and its TUN device are called."""
    pair = pairs()
    with pair.capture(marker=MARKER) as wire, pinging(pair):
        for old, new in (("to-gw2-0", "frankfurt"), ('name = "frankfurt"', 'tun = "fwd5"\nname = "far"')):
            edit(pair, old, new)
            pair.reload("gw1", words="configuration re-read: 1 changed, 1 in force")
            until(lambda: pair.ping(), 15.0, "carries again")
    assert wire["plaintext_packets"] == 0, wire["plaintext_examples"]
    assert tables(pair) == ["fwd_far"]


@pytest.mark.parametrize("control", ["gw1.sock", "moved.sock"])
def test_what_is_nobodys_any_more_goes_at_the_start(pairs: MakePair, control: str) -> None:
    """Also if the control socket is elsewhere by then: the file is the same."""
    pair = pairs(start=False)
    before = network_of(pair.topology, "gw1")
    pair.start()
    crash(pair, "gw1")
    pair.peerings = [{"name": "other", "subnets": {"gw1": ["10.1.0.0/24"], "gw2": ["10.3.0.0/24"]}}]
    pair.gateway = {"control": str(pair.topology.run_dir / control)}
    pair.launch("gw1")
    until(lambda: tables(pair) == ["fwd_other"], 15.0, "the old table goes")
    until(lambda: unreachable(pair) == ["10.3.0.0/24"], 15.0, "the old route goes")
    until((pair.topology.run_dir / control).exists, 15.0, "listens")
    query(pair.topology.run_dir / control)
    assert pair.stop("gw1") == 0
    assert network_of(pair.topology, "gw1") == before


@pytest.mark.parametrize(
    ("peering", "word"),
    [({"name": "to-gw2-0", "subnets": {"gw1": ["10.1.0.0/24"], "gw2": ["10.9.0.0/24"]}}, "name"), ({}, SUBNET)],
    ids=["of the same name", "to the same subnet"],
)
def test_what_another_fwd_has_is_refused(pairs: MakePair, peering: Json, word: str) -> None:
    pair = pairs()
    pair.write_secret("gw1")
    name = str(peering.get("name", "another"))
    before = network_of(pair.topology, "gw1")
    with pair.capture(marker=MARKER) as wire, pinging(pair):
        assert word in pair.refused("gw1", second(pair, name, **{k: v for k, v in peering.items() if k != "name"}))
        assert pair.ping(count=3)
    assert network_of(pair.topology, "gw1") == before
    assert wire["plaintext_packets"] == 0, wire["plaintext_examples"]


def test_two_fwds_on_one_host_leave_each_other_alone(pairs: MakePair) -> None:
    """Started, reloaded with what is the other's, stopped: each removes its own alone. A dead one's is taken over."""
    pair = pairs()
    pair.write_secret("gw1")
    apart = {"subnets": {"gw1": ["10.1.0.0/24"], "gw2": ["10.9.0.0/24"]}}
    config = second(pair, "another", **apart)
    log = pair.topology.run_dir / "another.log"
    with pair.capture(marker=MARKER) as wire, pinging(pair), log.open("wb") as out:
        process = pair.popen("gw1", config, out)
        until(lambda: tables(pair) == ["fwd_another", "fwd_to_gw2_0"], 40.0, "both")
        until(lambda: "agent started" in log.read_text(), 40.0, "the second runs")
        second(pair, "another", subnets={"gw1": ["10.1.0.0/24"], "gw2": ["10.9.0.0/24", SUBNET]})
        process.send_signal(signal.SIGHUP)
        until(lambda: "another fwd on this host" in log.read_text(), 40.0, "refused")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert tables(pair) == ["fwd_to_gw2_0"]
        assert unreachable(pair) == [SUBNET]
        assert pair.ping(count=3)
        crash(pair, "gw1")

        # Now the subnet is a dead one's.
        pair.write_secret("gw1")
        second(pair, "another")
        process = pair.popen("gw1", config, out)
        until(lambda: tables(pair) == ["fwd_another"], 40.0, "taken over")
        assert unreachable(pair) == [SUBNET]
        process.kill()
        process.wait()
    assert wire["plaintext_packets"] == 0, wire["plaintext_examples"]


def test_a_dead_ones_guards_stand_though_another_would_get_its_number(pairs: MakePair) -> None:
    """There are few numbers: the paths of two control sockets may lead to one. A table that is not fwd's stays, too."""
    pair = pairs()
    pair.topology.run("gw1", ["nft", "add", "table", "inet", "fwd_nat"])
    other = {"subnets": {"gw1": ["10.1.0.0/24"], "gw2": ["10.9.0.0/24"]}}
    controls = (f"{pair.topology.run_dir}/same-{i}.sock" for i in range(10_000))
    same = next(control for control in controls if first_number(control) == first_number(pair.control("gw1")))
    config = second(pair, "another", control=same, **other)
    log = pair.topology.run_dir / "another.log"
    with pair.capture(marker=MARKER) as wire, pinging(pair), log.open("wb") as out:
        crash(pair, "gw1")
        pair.write_secret("gw1")
        process = pair.popen("gw1", config, out)
        until(lambda: "agent started" in log.read_text(), 15.0, "the second runs")
        assert tables(pair) == ["fwd_another", "fwd_nat", "fwd_to_gw2_0"]
        assert unreachable(pair) == [SUBNET, "10.9.0.0/24"]
        pair.launch("gw1")
        pair.wait_ready("gw1")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert pair.ping(count=3)
    assert wire["plaintext_packets"] == 0, wire["plaintext_examples"]
    assert pair.stop("gw1") == 0
    assert (tables(pair), unreachable(pair)) == (["fwd_nat"], [])


def first_number(control: object) -> int:
    return zlib.crc32(str(control).encode()) % len(NUMBERS)


def test_too_few_descriptors_are_one_line(pairs: MakePair) -> None:
    pair = pairs(start=False)
    pair.secret = b"s" * 32
    pair.write_config("gw1")
    pair.write_secret("gw1")
    argv = ["prlimit", "--nofile=30:30", sys.executable, "-m", "fwd", "demux", "--config", str(pair.config("gw1"))]
    done = pair.topology.run("gw1", argv, check=False, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "30" in done.stderr
    assert "LimitNOFILE" in done.stderr


def test_the_limit_of_descriptors_is_raised(pairs: MakePair) -> None:
    pair = pairs(start=False)
    pair.secret = b"s" * 32
    pair.write_config("gw1")
    pair.write_secret("gw1")
    with (pair.topology.run_dir / "gw1.log").open("wb") as log:
        argv = [
            "prlimit",
            "--nofile=40:4096",
            sys.executable,
            "-m",
            "fwd",
            "demux",
            "--config",
            str(pair.config("gw1")),
        ]
        pair.running["gw1"] = pair.topology.popen("gw1", argv, stdout=log, stderr=log)
    until(lambda: pair.control("gw1").exists() and pair.status("gw1"), 15.0, "it runs")


def test_without_the_right_to_become_another_user_it_is_one_line(pairs: MakePair) -> None:
    pair = pairs(start=False)
    pair.secret = b"s" * 32
    pair.write_config("gw1")
    pair.write_secret("gw1")
    argv = ["setpriv", "--bounding-set=-setuid", "--inh-caps=-setuid", sys.executable, "-m", "fwd", "demux"]
    done = pair.topology.run("gw1", [*argv, "--config", str(pair.config("gw1"))], check=False, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "CAP_SETUID" in done.stderr

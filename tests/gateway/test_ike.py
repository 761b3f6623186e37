"""Two gateways keyed by IKEv2: they connect, rekey, lose processes, and nothing of it is seen in the traffic."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from gwkit import TCP_MBPS_MIN, MakePair, Pair, until

from fwd.lab.topology import GATEWAYS

PSK = {"source": "psk"}
ROUNDS_MAX = 8


def make(pairs: MakePair, keys: dict[str, Any] | None = None, **peering: Any) -> Pair:
    return pairs([peering], keys={**PSK, **(keys or {})})


@pytest.fixture(scope="module")
def pair(module_pairs: MakePair) -> Pair:
    return make(module_pairs)


def spis(pair: Pair, host: str) -> list[str]:
    return [member["spi_out"] for member in pair.peering(host)["members"]]


def test_traffic_flows_both_ways(pair: Pair) -> None:
    until(pair.ping, 5.0, "first ping")
    assert pair.tcp() > TCP_MBPS_MIN
    assert pair.tcp(reverse=True) > TCP_MBPS_MIN
    assert not pair.key_drops()


def test_both_sides_have_the_same_pairs(pair: Pair) -> None:
    """What a member of one gateway sends on, its pair has heard."""
    assert pair.tcp(streams=8) > TCP_MBPS_MIN
    for here, there in (("gw1", "gw2"), ("gw2", "gw1")):
        for mine, theirs in zip(pair.peering(here)["members"], pair.peering(there)["members"], strict=True):
            if mine["out"]["records"]:
                assert mine["spi_out"] in theirs["spis_in"]


def test_the_status_shows_ike_and_child_sas(pair: Pair) -> None:
    until(lambda: pair.peering("gw1")["ike_sas"], what="keyd tells of IKE")
    mine, theirs = (until(lambda host=host: pair.peering(host)["ike_sas"]) for host in GATEWAYS)  # type: ignore[misc]
    assert (mine[0]["spi_i"], mine[0]["spi_r"]) == (theirs[0]["spi_i"], theirs[0]["spi_r"])
    assert {mine[0]["initiator"], theirs[0]["initiator"]} == {True, False}
    assert mine[0]["remote"] == f"{pair.topology.outer('gw2')}:500"
    assert {child["member"] for child in mine[0]["children"]} == {0, 1}
    shown = fwd_status(pair)
    assert f"{mine[0]['spi_i']}_i" in shown
    assert all(child["spi_in"] in shown for child in mine[0]["children"])


def fwd_status(pair: Pair) -> str:
    argv = [sys.executable, "-m", "fwd", "status", "--control", str(pair.control("gw1"))]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def test_the_pre_shared_key_is_nowhere_to_be_seen(pair: Pair) -> None:
    secret = pair.secret.hex()
    places = {f"log of {host}": pair.log(host) for host in GATEWAYS}
    places |= {f"status of {host}": json.dumps(pair.status(host)) for host in GATEWAYS}
    for name, pid in {**pair.pids("gw1"), "supervisor": pair.running["gw1"].pid}.items():
        for file in ("cmdline", "environ"):
            places[f"{file} of {name}"] = Path(f"/proc/{pid}/{file}").read_text()
    assert [place for place, text in places.items() if secret in text] == []
    assert pair.secret_path("gw1").read_text() == secret, "the test looks for what is there"


def is_another(pair: Pair, before: object) -> bool:
    return spis(pair, "gw1")[0] not in (before, None)


def has_refused(pair: Pair, times: int) -> bool:
    return pair.log("gw1").count("keeps the secrets of before") == times


def test_a_killed_member_takes_a_spare_and_there_is_a_new_one(pair: Pair) -> None:
    for _ in range(6):
        before = spis(pair, "gw1")[0]
        pid = pair.kill("gw1", "member-0")
        pair.wait_replaced("gw1", "member-0", pid)
        until(partial(is_another, pair, before), 2.0, "another SA")
        assert pair.ping("-W", "2", count=3)
        time.sleep(0.7)
    assert not pair.key_drops()


def test_a_gateway_that_was_killed_is_joined_again(pairs: MakePair) -> None:
    pair = make(pairs)
    until(pair.ping, 5.0, "first ping")
    for _ in range(2):
        pair.stop("gw2", signal.SIGKILL)
        pair.launch("gw2")
        pair.wait_ready("gw2")
        until(lambda: pair.ping("-W", "0.2"), 5.0, "ping again")


def sent_on(pair: Pair, host: str) -> list[str]:
    """The SAs that a gateway has sent on, of all members."""
    return [entry["spi"] for m in pair.peering(host)["members"] for entry in m["ledger"]]


def have_sent_on(pair: Pair, counts: list[int]) -> bool:
    return all(len(sent_on(pair, host)) > count for host, count in zip(GATEWAYS, counts, strict=True))


@pytest.mark.alone
def test_rekeying_under_load_loses_nothing(pairs: MakePair) -> None:
    """Load that leaves room: a full queue loses packets by itself, and a busy machine fills one now and then."""
    pair = make(pairs, rekey_time=2)
    until(pair.ping, 5.0, "first ping")
    before = [set(spis(pair, host)) for host in GATEWAYS]
    ports = pair.flow_ports(2)

    for _ in range(ROUNDS_MAX):
        congested, sent = pair.congested(), [len(sent_on(pair, host)) for host in GATEWAYS]
        with pair.probes(ports, seconds=60) as got, pair.flood(50, 20000, max(ports) + 1, seconds=60):
            until(partial(have_sent_on, pair, [count + 2 * 3 for count in sent]), 15.0, "three SAs of each member")
        lost, congested = sum(arrived.lost for arrived in got.values()), pair.congested() - congested
        if not congested:
            break
    assert (lost, congested) == (0, 0), "lost to rekeying, or never without a queue that was full"
    for host, old in zip(GATEWAYS, before, strict=True):
        assert not old & set(spis(pair, host))
        ledgers = sent_on(pair, host)
        assert len(ledgers) == len(set(ledgers)), "an SA was sent on twice"
        assert len(ledgers) > 2 * 3
    assert not pair.key_drops()


def test_keyd_killed_under_load_loses_nothing(pairs: MakePair) -> None:
    pair = make(pairs, rekey_time=3)
    until(pair.ping, 5.0, "first ping")
    # So few that the TUN device's queue holds 2.5 s of them: nothing is lost to a machine that is busy.
    with pair.probes(pair.flow_ports(2), seconds=60, rate_hz=200.0) as got:
        for n in range(4):
            host = GATEWAYS[n % 2]
            pid = pair.kill(host, "keyd")
            pair.wait_replaced(host, "keyd", pid)
            time.sleep(0.8)
    assert [arrived.lost for arrived in got.values()] == [0, 0], [pair.drops(host) for host in GATEWAYS]
    assert not pair.key_drops()


def test_a_wrong_secret_joins_nothing(pairs: MakePair) -> None:
    pair = make(pairs)
    pair.stop("gw2")
    pair.secret = os.urandom(32)
    pair.launch("gw2")
    until(lambda: "AUTHENTICATION_FAILED" in pair.log("gw1") + pair.log("gw2"), 8.0, "refusal")
    assert not pair.ping("-W", "0.5")


def test_a_secret_that_was_replaced_is_read_anew_on_sighup(pairs: MakePair) -> None:
    pair = make(pairs)
    pair.stop("gw2")
    pair.secret = os.urandom(32)
    pair.secret_path("gw1").unlink()
    pair.write_secret("gw1")
    pair.running["gw1"].send_signal(signal.SIGHUP)
    until(lambda: "configuration re-read: 1 changed" in pair.log("gw1"), what="re-read")
    pair.launch("gw2")
    until(lambda: pair.ping("-W", "0.5"), 15.0, "traffic under the new secret")


def test_a_secret_that_is_not_good_leaves_the_one_of_before_in_force(pairs: MakePair) -> None:
    """Also one emptied in place, and one of which only keyd could tell that it is none. All else is followed."""
    pair = make(pairs)
    path = pair.secret_path("gw1")
    bad = [(0o644, b"whatever"), (0o600, b""), (0o600, b"\n" * 64), (0o600, b"a" * 64)]
    for number, (mode, octets) in enumerate(bad, 1):
        path.write_bytes(octets)
        path.chmod(mode)
        pair.running["gw1"].send_signal(signal.SIGHUP)
        until(partial(has_refused, pair, number), what=f"refusal {number}")
    until(lambda: "keeps the secrets of before" in str(pair.status("gw1")["warnings"]), what="the status says so")
    pair.keys = {**pair.keys, "dpd_delay": 7}
    pair.write_config("gw1")
    pair.running["gw1"].send_signal(signal.SIGHUP)
    until(lambda: "follows keys.dpd_delay" in pair.log("gw1"), what="what has nothing to do with the secret")
    pair.stop("gw2")
    pair.launch("gw2")
    until(lambda: pair.ping("-W", "0.5"), 15.0, "traffic under the old secret")
    pair.write_secret("gw1")
    pair.running["gw1"].send_signal(signal.SIGHUP)
    until(lambda: "keeps the secrets" not in str(pair.status("gw1")["warnings"]), what="no more, once one is good")


def test_a_changed_peering_takes_its_secret_anew(pairs: MakePair) -> None:
    pair = make(pairs)
    pair.stop("gw2")
    pair.secret = os.urandom(32)
    pair.peerings = [{"members": 1}]
    pair.write_config("gw1")
    pair.secret_path("gw1").unlink()  # another file under the same name, as an editor leaves it
    pair.write_secret("gw1")
    pair.running["gw1"].send_signal(signal.SIGHUP)
    pair.launch("gw2")
    until(lambda: pair.ping("-W", "0.5"), 15.0, "traffic under the new secret")


def test_what_was_not_set_up_takes_its_secret_anew(pairs: MakePair) -> None:
    """The first SIGHUP opens a secret for a peering that fails; the second finds another file."""
    pair = make(pairs)
    pair.stop("gw2")
    pair.peerings = [{"tun": "lan"}]  # which is no TUN device
    pair.write_config("gw1")
    pair.running["gw1"].send_signal(signal.SIGHUP)
    until(lambda: "is not set up" in pair.log("gw1"), what="refusal")
    pair.secret = os.urandom(32)
    pair.peerings = [{}]
    pair.write_config("gw1")
    pair.secret_path("gw1").unlink()
    pair.write_secret("gw1")
    pair.running["gw1"].send_signal(signal.SIGHUP)
    pair.launch("gw2")
    until(lambda: "configuration re-read: 0 changed, 1 in force" in pair.log("gw1"), what="re-read")
    pair.wait_ready()
    until(lambda: pair.ping("-W", "0.5"), 5.0, "traffic under the new secret")


def test_ports_change_hands_on_sighup(pairs: MakePair) -> None:
    """From IKE and members together to members alone; from IKE alone to both."""
    pair = make(pairs, payload="esp", port=4500, shared_port=True)
    turns: list[tuple[dict[str, Any], int]] = [
        ({"port": 4500}, 500),
        ({"port": 4600}, 4500),
        ({"port": 4500, "shared_port": True}, 500),
    ]

    def times_read() -> list[int]:
        return [pair.log(host).count("configuration re-read: 1 changed, 1 in force") for host in GATEWAYS]

    for peering, ike_port in turns:
        pair.peerings, pair.keys = [{"payload": "esp", **peering}], {**PSK, "ike_port": ike_port}
        wanted = [count + 1 for count in times_read()]
        for host in GATEWAYS:
            pair.write_config(host)
            pair.running[host].send_signal(signal.SIGHUP)
        until(lambda wanted=wanted: times_read() == wanted, what="re-read")  # type: ignore[misc]
        until(lambda: pair.ping("-W", "0.5"), 15.0, "traffic")

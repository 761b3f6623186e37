"""Keys end: with short lives, real processes, and a far side that does not answer or has another secret."""

from __future__ import annotations

import os
import signal
from typing import Any

from gwkit import MakePair, Pair, until

from fwd.lab.topology import GATEWAYS


def make(pairs: MakePair, keys: dict[str, Any] | None = None, **peering: Any) -> Pair:
    return pairs([peering], keys={"source": "psk", **(keys or {})})


def change_secret(pair: Pair, host: str) -> None:
    pair.secret_path(host).unlink()
    pair.write_secret(host)
    pair.reload(host)


def pings(pair: Pair) -> bool:
    return pair.ping("-W", "0.5")


def spi_of_ike_sa(pair: Pair) -> str:
    """Return the initiator SPI of gw1's one IKE SA, as soon as the status shows it."""
    until(lambda: pair.peering("gw1")["ike_sas"], what="an IKE SA in the status")
    return str(pair.peering("gw1")["ike_sas"][0]["spi_i"])


def test_a_far_keyd_that_is_frozen_prolongs_nothing(pairs: MakePair) -> None:
    """Its supervisor, which would replace it, is frozen, too; its members go on."""
    pair = make(pairs, rekey_time=3, life_time=6)
    until(lambda: pings(pair), what="first ping")
    frozen = [pair.running["gw2"].pid, pair.pids("gw2")["keyd"]]
    try:
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        until(lambda: not pings(pair), 15.0, "end of traffic")
        until(lambda: not pings(pair) and pair.drops("gw1")["sa_expired"] > 0, what="a drop with its name")
        assert "is at the end of its life" in pair.log("gw1")
        status = until(lambda: (s := pair.status("gw1"))["not_ready"] and s, what="not ready")
        assert any("has no SA to send on" in line for line in status["not_ready"])
    finally:
        for pid in reversed(frozen):
            os.kill(pid, signal.SIGCONT)
    until(lambda: pings(pair), 60.0, "traffic again")


def test_a_changed_secret_ends_the_sas_of_the_old_one_after_grace(pairs: MakePair) -> None:
    pair = make(pairs, keys={"grace": 4})
    until(lambda: pings(pair), what="first ping")
    pair.secret = os.urandom(32)
    change_secret(pair, "gw1")
    assert pings(pair)
    until(lambda: not pings(pair), 12.0, "end of traffic")
    assert "the secret, CAs or identities have changed" in pair.log("gw1")
    change_secret(pair, "gw2")
    until(lambda: pings(pair), 30.0, "traffic under the new secret")


def test_a_secret_that_both_sides_change_in_time_is_not_seen_in_the_traffic(pairs: MakePair) -> None:
    pair = make(pairs, keys={"grace": 30})
    until(lambda: pings(pair), what="first ping")
    pair.secret = os.urandom(32)
    with pair.probes(pair.flow_ports(2)) as got:
        for host in GATEWAYS:
            change_secret(pair, host)
        for _ in range(20):
            assert pings(pair)
    assert sum(arrived.lost for arrived in got.values()) == 0


def test_sighup_where_nothing_has_changed_does_nothing(pairs: MakePair) -> None:
    pair = make(pairs)
    until(lambda: pings(pair), what="first ping")
    before = pair.pids("gw1"), spi_of_ike_sa(pair)
    pair.reload("gw1")
    assert (pair.pids("gw1"), spi_of_ike_sa(pair)) == before


def test_another_identity_sets_nothing_up_anew(pairs: MakePair) -> None:
    pair = make(pairs, keys={"grace": 30})
    until(lambda: pings(pair), what="first ping")
    members = pair.member("gw1", 0)["pid"]
    for host, names in (("gw1", ("one", "two")), ("gw2", ("two", "one"))):
        pair.keys = {**pair.keys, "local_id": names[0], "remote_id": names[1]}
        pair.write_config(host)
        pair.reload(host)
    until(lambda: pair.peering("gw1")["ike_sas"] and pair.peering("gw1")["ike_sas"][0]["remote_id"] == "two", 20.0)
    assert pings(pair)
    assert pair.member("gw1", 0)["pid"] == members


def test_reauthentication_is_not_seen_in_the_traffic(pairs: MakePair) -> None:
    pair = make(pairs, keys={"reauth_time": 3})
    until(lambda: pings(pair), what="first ping")
    first = spi_of_ike_sa(pair)
    with pair.probes(pair.flow_ports(2)) as got:
        until(lambda: first not in [sa["spi_i"] for sa in pair.peering("gw1")["ike_sas"]], 20.0, "another IKE SA")
    assert sum(arrived.lost for arrived in got.values()) == 0


def test_a_new_secret_of_the_labs_at_the_old_path_is_taken(pairs: MakePair) -> None:
    pair = pairs([{}])
    until(lambda: pings(pair), what="first ping")
    pair.secret = os.urandom(32)
    for host in GATEWAYS:
        pair.write_secret(host)
        pair.running[host].send_signal(signal.SIGHUP)
        until(lambda host=host: "configuration re-read: 1 changed" in pair.log(host))  # type: ignore[misc]
        assert not pair.secret_path(host).exists()
    until(lambda: pings(pair), 15.0, "traffic under the new secret")

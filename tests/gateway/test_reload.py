"""SIGHUP: what changed takes effect, what did not is not touched, and a bad file changes nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from gwkit import Json, MakePair, Pair, until

ONE = {"subnets": {"gw1": ["10.1.0.0/24"], "gw2": ["10.2.0.0/24"]}}
TWO = {
    "subnets": {"gw1": ["10.11.0.0/24"], "gw2": ["10.12.0.0/24"]},
    "tun": "fwd1",
    "port": 4600,
    "payload": "esp",
}


@pytest.fixture(scope="module")
def pair(module_pairs: MakePair) -> Pair:
    """Two peerings between the same gateways; the clients have an address in the subnets of each."""
    pair = module_pairs(start=False)
    pair.add_second_subnets()
    pair.peerings = [ONE, TWO]
    return pair.start()


def ping_both(pair: Pair) -> bool:
    return pair.ping("-I", "10.1.0.10", to="10.2.0.10") and pair.ping("-I", "10.11.0.10", to="10.12.0.10")


def metrics(pair: Pair) -> str:
    """Return what gw1 says at its metrics' address; nothing while nobody listens there."""
    script = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9595/metrics', timeout=5).read().decode())"
    return pair.topology.run("gw1", [sys.executable, "-c", script], check=False).stdout


def lives(peering: Json) -> list[int]:
    return [m["pid"] for m in peering["members"]]


def test_each_peering_carries_its_own_subnets(pair: Pair) -> None:
    before = [p["demux"]["records"] for p in pair.status("gw1")["peerings"]]
    assert pair.ping("-I", "10.11.0.10", to="10.12.0.10", count=5)
    after = [p["demux"]["records"] for p in pair.status("gw1")["peerings"]]
    assert after[1] - before[1] >= 5
    assert after[0] - before[0] < 5
    assert ping_both(pair)


def test_addresses_of_two_peerings_do_not_mix(pair: Pair) -> None:
    """Rule 4: the selectors of a peering are its own."""
    before = pair.peering("gw1", 1)["drops"]["selector_out"]
    assert not pair.ping("-I", "10.1.0.10", to="10.12.0.10")
    assert pair.peering("gw1", 1)["drops"]["selector_out"] > before


def test_what_is_live_changes_under_traffic_and_no_process_of_the_data_path_ends(pair: Pair) -> None:
    """Log level, metrics' address and what members follow; and a subnet comes and goes on both sides."""
    before = {host: [lives(one) for one in pair.status(host)["peerings"]] for host in ("gw1", "gw2")}
    wider = {"gw1": ["10.1.0.0/24", "10.21.0.0/24"], "gw2": ["10.2.0.0/24", "10.22.0.0/24"]}
    net = pair.topology
    for client, gateway, subnet in (("client1", "gw1", "10.21.0"), ("client2", "gw2", "10.22.0")):
        net.run(client, ["ip", "addr", "add", f"{subnet}.10/24", "dev", "eth0"])
        net.run(gateway, ["ip", "addr", "add", f"{subnet}.1/24", "dev", "lan"])
    first = pair.peerings[0]
    routes = {"gw1": "10.22.0.0/24", "gw2": "10.21.0.0/24"}

    for subnets, passes in ((wider, True), (ONE["subnets"], False)):
        pair.gateway = {"log_level": "debug", "metrics": "127.0.0.1:9595"} if passes else {}
        pair.peerings = [{**first, "subnets": subnets, "audit": not passes, "reorder_packets": 5}, *pair.peerings[1:]]
        for host in ("gw1", "gw2"):
            pair.write_config(host)
        with pair.probes([20001, 20002]) as arrived:
            pair.reload("gw1", "gw2")
        assert {flow: (one.lost, one.inversions) for flow, one in arrived.items()} == {20001: (0, 0), 20002: (0, 0)}
        for host in ("gw1", "gw2"):
            found = net.run(host, ["ip", "route", "show", "to", "exact", routes[host]]).stdout
            assert ("dev fwd0" in found, "unreachable" in found) == (passes, passes), found
            assert (routes[host] in net.run(host, ["nft", "list", "ruleset"]).stdout) == passes
        pair.wait_ready()
        if passes:
            until(lambda: pair.ping("-I", "10.21.0.10", to="10.22.0.10"), what="the new subnet carries traffic")
            until(lambda: "fwd_" in metrics(pair), what="metrics at their address")
        assert ping_both(pair)
    assert {host: [lives(one) for one in pair.status(host)["peerings"]] for host in ("gw1", "gw2")} == before


def test_cpus_are_kept_awake_and_let_go_while_fwd_runs(pair: Pair) -> None:
    """The supervisor alone holds the device; where there is none, the status warns instead."""
    device = Path("/dev/cpu_dma_latency")

    def holders() -> list[int]:
        pids = [pair.status("gw1")["gateway"]["pid"], *pair.pids("gw1").values()]
        links = [(pid, fd) for pid in pids for fd in Path(f"/proc/{pid}/fd").iterdir()]
        return [pid for pid, fd in links if os.path.exists(fd) and os.path.samefile(fd, device)]

    def warned() -> bool:
        return any("low_latency has no effect" in warning for warning in pair.status("gw1")["warnings"])

    try:
        pair.gateway = {"low_latency": True}
        pair.write_config("gw1")
        pair.reload("gw1")
        if device.exists():
            until(holders, what="the device is held")
            assert holders() == [pair.status("gw1")["gateway"]["pid"]]
        else:
            until(warned, what="the status says that nothing comes of it")
    finally:
        pair.gateway = {}
        pair.write_config("gw1")
        pair.reload("gw1")
    until(lambda: not (device.exists() and holders()) and not warned(), what="the device is let go")
    assert ping_both(pair)


def test_a_changed_peering_is_set_up_anew_and_the_other_is_not_touched(pair: Pair) -> None:
    untouched = {host: lives(pair.peering(host, 1)) for host in ("gw1", "gw2")}
    pair.peerings = [{**ONE, "members": 3}, TWO]
    for host in ("gw1", "gw2"):
        pair.write_config(host)
    pair.reload("gw1", "gw2")
    pair.wait_ready()
    for host in ("gw1", "gw2"):
        peerings = {p["tun"]: p for p in pair.status(host)["peerings"]}
        assert len(lives(peerings["fwd0"])) == 3
        assert lives(peerings["fwd1"]) == untouched[host]
    until(lambda: ping_both(pair), what="both peerings carry traffic again")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[gateway", "not TOML"),
        ("[gateway]\nnonsense = 1\n", "nonsense"),
        (None, "cannot become 12345 while fwd runs: leave it as it is, or restart fwd"),
    ],
)
def test_a_bad_file_changes_nothing_and_says_why(pair: Pair, text: str | None, reason: str) -> None:
    before = pair.pids("gw1")
    good = pair.write_config("gw1").read_text()
    bad = good.replace("[gateway]\n", "[gateway]\nuser = 12345\n") if text is None else text
    pair.config("gw1").write_text(bad)
    pair.reload("gw1", words="configuration not re-read")
    assert reason in pair.log("gw1").splitlines()[-1]
    assert pair.pids("gw1") == before
    assert ping_both(pair)
    pair.config("gw1").write_text(good)
    pair.reload("gw1")
    pair.wait_ready("gw1")
    assert ping_both(pair)


def test_a_peering_can_go_and_come(pair: Pair) -> None:
    three = {**ONE, "members": 3}
    for peerings, counts in (([three], 1), ([three, TWO], 2)):
        pair.peerings = peerings
        for host in ("gw1", "gw2"):
            pair.write_config(host)
        pair.reload("gw1", "gw2")
        pair.wait_ready()
        assert len(pair.status("gw1")["peerings"]) == counts
        links = pair.topology.run("gw1", ["ip", "-br", "link"]).stdout
        assert ("fwd1" in links) == (counts == 2)
        assert pair.ping("-I", "10.1.0.10", to="10.2.0.10")
    until(lambda: ping_both(pair), what="both again")

"""Every tunnel comes up, carries a ping and a few datagrams, and leaves nothing; the books of the part."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fwd.bench import http, load, loss, newest, peers, udp
from fwd.bench.tunnels import Peer, openvpn, ours, plain, strongswan, wireguard_go
from fwd.lab import gateways, traffic
from fwd.lab.topology import Topology
from fwd.lab.world import LabError
from fwd.proto import core

MAKERS = {
    "fwd": ours.superpacket,
    "fwd-esp": ours.esp,
    "fwd-pure": ours.pure,
    "strongswan": strongswan.peer,
    "openvpn-[\\d.]+": openvpn.peer,
    "wireguard-go-\\d+": wireguard_go.peer,
    "plain": plain.peer,
}
FETCHED = Path(__file__).parents[2] / newest.DIRECTORY
Lab = Callable[..., Topology]


@pytest.mark.netns
@pytest.mark.alone
@pytest.mark.parametrize("name", MAKERS)
def test_a_tunnel_comes_up_and_carries(name: str, lab: Lab) -> None:
    peer = MAKERS[name]()
    assert re.fullmatch(name, peer.name)
    assert peer.version
    assert peer.settings
    assert peer.source == "installed"
    carries(peer, lab())


@pytest.mark.netns
@pytest.mark.alone
def test_the_newest_versions_carry_or_it_is_said_why_there_are_none(lab: Lab) -> None:
    newer, unfetched = peers.newest_versions(FETCHED)
    assert bool(newer) is not bool(unfetched)
    for peer in newer:
        assert peer.source.startswith("Debian sid: ")
        carries(peer, lab())


def carries(peer: Peer, topology: Topology) -> None:
    with peer.tunnel(topology):
        with udp.load(topology, 512, 0.1) as probe:
            delivery = probe(1000)
        assert delivery.sent > 50
        assert delivery.delivered == delivery.sent
        with loss.segmented(topology), loss.dropping(topology, 0.9999):
            done = topology.run("client1", ["ping", "-c1", "-W1", topology.address("client2")], check=False)
            assert done.returncode == 1
    route = topology.run("gw1", ["ip", "route", "get", topology.address("client2")]).stdout
    assert "dev wan" in route


@pytest.mark.netns
def test_a_program_that_is_no_tunnel_is_told_in_one_line(lab: Lab) -> None:
    [peer] = wireguard_go.others([Path(shutil.which("false") or "/bin/false")])
    assert peer.name == "wireguard-go:false"
    with pytest.raises(LabError, match=r"gw\d has ended: it logged nothing; waited for: .*false: sockets"), \
            peer.tunnel(lab()):  # fmt: skip
        pass


def test_a_missing_program_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    for make, package in ((openvpn.peer, "openvpn"), (wireguard_go.peer, "wireguard-go"), (strongswan.peer, "swanctl")):
        with pytest.raises(LabError, match=f"missing: install .*{package}"):
            make()


def test_binaries_of_one_name_are_told_apart() -> None:
    true = Path(shutil.which("true") or "/bin/true")
    elsewhere = true.parent / ".." / true.parent.name / true.name
    assert [peer.name for peer in wireguard_go.others([true])] == ["wireguard-go:true"]
    assert [peer.name for peer in wireguard_go.others([true, elsewhere])] == [
        f"wireguard-go:{true}", f"wireguard-go:{elsewhere}"
    ]  # fmt: skip


def test_every_peer_has_its_turn_in_every_kind_and_round_and_no_one_is_always_first() -> None:
    everyone = [Peer(name, "", "", plain.tunnel) for name in MAKERS]
    wanted = load.measurements(load.FULL)
    taken = [(number, one.name, peer.name) for number, one, peer in peers.turns(3, wanted, everyone)]
    assert len(taken) == len(set(taken)) == 3 * len(wanted) * len(everyone)
    first = {name for *_, name in taken[:: len(everyone)]}
    assert first == set(MAKERS)
    for start in range(0, len(taken), len(everyone)):
        assert len({turn[:2] for turn in taken[start : start + len(everyone)]}) == 1


def test_books() -> None:
    records = peers.Records()
    for fwd, esp, openvpn_mbps in ((400.0, 200.0, 100.0), (300.0, 100.0, 100.0)):
        records.add("fwd", load.Taken({"tcp-4": fwd}, {"tcp-4": 3}, cpu_s_per_gb={"gw1 demux": 1.0}))
        records.add("fwd-esp", load.Taken({"tcp-4": esp}))
        records.add("openvpn", load.Taken({"tcp-4": openvpn_mbps}))
    for peer, p50 in (("fwd", 1.0), ("fwd-esp", 1.0), ("openvpn", 2.0)):
        records.add(peer, load.Taken({"ping-idle-p50": p50}, unanswered={"ping-idle": 0.01}))
    body = records.body()
    assert body["measurements"]["tcp-4"]["fwd"]["values"] == [400.0, 300.0]
    assert body["measurements"]["tcp-4"]["fwd"]["unit"] == "Mbit/s"
    assert body["ratios"]["tcp-4"]["openvpn"]["values"] == [4.0, 3.0]
    assert body["ratios"]["tcp-4"]["fwd-esp"]["median"] == 2.5
    assert body["ratios"]["esp-tcp-4"]["openvpn"]["median"] == 1.5
    assert "fwd" not in body["ratios"]["esp-tcp-4"]
    assert body["ratios"]["pure-tcp-4"]["openvpn"]["values"] == [4.0, 3.0]  # nothing is compiled
    assert body["ratios"]["ping-idle-p50"]["openvpn"]["median"] == 0.5
    assert "esp-ping-idle-p50" not in body["ratios"]
    assert body["cpu"]["fwd"]["gw1 demux"]["median"] == 1.0
    assert body["retransmits"]["tcp-4"]["fwd"]["values"] == [3, 3]
    assert body["unanswered"]["ping-idle"]["openvpn"]["values"] == [0.01]


def test_pure_python_is_held_against_the_peers_by_itself() -> None:
    of = {"fwd": [600.0], "fwd-pure": [300.0], "fwd-esp": [200.0], "openvpn-2.6": [100.0]}
    found = peers.ratios({"tcp-4-reverse": of})
    assert found["pure-tcp-4-reverse"]["openvpn-2.6"]["median"] == 3.0
    assert found["tcp-4-reverse"]["fwd-pure"]["median"] == 2.0
    assert "esp-tcp-4-reverse" not in found


@pytest.mark.netns
@pytest.mark.parametrize(("peer", "which"), [(ours.superpacket, core.name()), (ours.pure, "pure")])
def test_what_is_called_pure_is(peer: Callable[[], Peer], which: str, lab: Lab) -> None:
    topology = lab()
    with peer().tunnel(topology):
        for host in ("gw1", "gw2"):
            status = gateways.status(topology, host)
            assert status is not None
            assert status["gateway"]["core"] == which
    assert peer().settings.endswith(f"core: {which}")


@pytest.mark.netns
def test_short_requests_are_answered_each_on_a_new_connection_or_on_one_that_is_kept(lab: Lab) -> None:
    topology = lab()
    with plain.peer().tunnel(topology), http.serving(topology):
        before = opened(topology)
        assert http.run(topology, seconds=10, requests=200, kept=False) > 0
        assert opened(topology) - before >= 200
        before = opened(topology)
        assert http.run(topology, seconds=10, requests=200, kept=True) > 0
        assert opened(topology) - before <= http.AT_ONCE
    assert not topology.run("client2", ["ss", "-Hltn", "sport = :8080"]).stdout


def opened(topology: Topology) -> int:
    """Connections that client1 has opened so far."""
    return traffic.counters_in(topology.run("client1", ["cat", "/proc/net/snmp"]).stdout)["ActiveOpens"]

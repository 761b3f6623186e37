"""The lab: namespaces that come, carry packets, and go without a trace; and its command line's refusals."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fwd.lab import gateways, processes
from fwd.lab.processes import Process
from fwd.lab.topology import RUN_DIR, Topology
from fwd.lab.world import LabError, Version

MakeLab = Callable[..., Topology]


def namespaces(name: str) -> list[str]:
    return sorted(path.name for path in Path("/run/netns").glob(f"{name}-*"))


def fwd(*argv: str, before: tuple[str, ...] = (), seconds: float = 30) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-P", "-m", "fwd", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds)


def assert_refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line on stderr with these words, nothing on stdout, exit status 2."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    for word in words:
        assert word in result.stderr


@pytest.mark.netns
def test_up_and_down_are_idempotent(lab: MakeLab) -> None:
    topology = lab()
    first = (Path("/run/netns") / topology.ns("gw1")).stat().st_ino
    topology.up()
    assert (Path("/run/netns") / topology.ns("gw1")).stat().st_ino == first
    assert namespaces(topology.name) == sorted(map(topology.ns, ("client1", "gw1", "gw2", "client2")))
    assert Topology.load(topology.name) == topology
    topology.down()
    assert not topology.exists()
    assert namespaces(topology.name) == []
    assert not (RUN_DIR / topology.name).exists()
    topology.down()


@pytest.mark.netns
def test_up_repairs_a_half_made_lab(lab: MakeLab) -> None:
    topology = lab()
    subprocess.run(["ip", "netns", "del", topology.ns("client2")], check=True)
    assert not topology.exists()
    topology.up()
    topology.run("client1", ["ping", "-c1", "-W2", topology.address("client2")])


@pytest.mark.netns
def test_up_refuses_other_parameters(lab: MakeLab) -> None:
    topology = lab()
    with pytest.raises(LabError, match="other parameters"):
        Topology(topology.name, ipv6=True).up()


@pytest.mark.netns
@pytest.mark.parametrize("version", [4, 6])
def test_clients_reach_one_another_in_the_clear_without_fwd(lab: MakeLab, version: Version) -> None:
    topology = lab()
    for here, there in (("client1", "client2"), ("client2", "client1")):
        topology.run(here, ["ping", "-c1", "-W2", topology.address(there, version=version)])


@pytest.mark.netns
@pytest.mark.parametrize("version", [4, 6])
def test_several_gateways_a_site_reach_one_another_and_both_clients(lab: MakeLab, version: Version) -> None:
    topology = lab(sites={"vpc1": 2, "vpc2": 3}, spread=True)
    for here, there in itertools.permutations(topology.gateways, 2):
        topology.run(here, ["ping", "-c1", "-W2", topology.address(there, version=version)])
    for site in topology.plan:
        for gateway in site.gateways:
            topology.run(gateway, ["ping", "-c1", "-W2", topology.address(site.client, version=version)])
    topology.run("client1", ["ping", "-c1", "-W2", topology.address("client2", version=version)])


@pytest.mark.netns
def test_two_labs_side_by_side(lab: MakeLab) -> None:
    one, two = lab(), lab()
    one.down()
    two.run("client1", ["ping", "-c1", "-W2", two.address("client2")])


@pytest.mark.netns
@pytest.mark.parametrize("version", [4, 6])
def test_router_makes_a_narrow_path_behind_wide_interfaces(lab: MakeLab, version: Version) -> None:
    topology = lab(router=True, router_mtu_bytes=1400)
    headers_bytes = 28 if version == 4 else 48
    for here, there in (("gw1", "gw2"), ("gw2", "gw1")):
        ping = ["ping", "-c1", "-W2", "-Mdo"]
        target = topology.address(there, version=version)
        topology.run(here, [*ping, f"-s{1400 - headers_bytes}", target])
        refused = topology.run(here, [*ping, f"-s{1401 - headers_bytes}", target], check=False)
        assert refused.returncode != 0
        assert "mtu = 1400" in refused.stdout or "mtu=1400" in refused.stdout


@pytest.mark.netns
def test_offloads_and_mtu_can_be_set(lab: MakeLab) -> None:
    topology = lab(wan_mtu_bytes=9000)
    topology.set_mtu("gw1", "lan", 1400)
    topology.ethtool("gw1", "wan", "tx-udp-segmentation", False)
    mtus = topology.run("gw1", ["cat", "/sys/class/net/lan/mtu", "/sys/class/net/wan/mtu"]).stdout.split()
    assert mtus == ["1400", "9000"]
    assert "tx-udp-segmentation: off" in topology.run("gw1", ["ethtool", "-k", "wan"]).stdout


@pytest.mark.netns
def test_no_way_out_of_the_lab(lab: MakeLab) -> None:
    topology = lab()
    for host in topology.hosts:
        links = topology.run(host, ["ip", "-o", "link", "show", "type", "veth"]).stdout
        peers = {line.partition("link-netns ")[2] for line in links.splitlines()}
        assert peers <= set(map(topology.ns, topology.hosts))
        up = topology.run(host, ["ip", "-o", "link", "show", "up"]).stdout.splitlines()
        names = {line.split()[1].partition("@")[0].rstrip(":") for line in up}
        assert names <= {"lo", "eth0", "lan", "wan"}


@pytest.mark.netns
def test_down_ends_what_runs_inside_and_nothing_else(lab: MakeLab) -> None:
    topology = lab()
    stubborn = ["sh", "-c", "trap '' TERM; echo set; while :; do read -r _; done"]
    with (
        topology.popen("gw1", stubborn, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as inside,
        subprocess.Popen(["cat"], stdin=subprocess.PIPE) as outside,
    ):
        assert inside.stdout is not None
        inside.stdout.readline()
        [process] = processes.in_network_of(Path("/run/netns") / topology.ns("gw1"))
        assert process.pid == inside.pid
        processes.end([process], grace_s=0.1)
        assert inside.wait(60) == -signal.SIGKILL
        with topology.popen("gw2", ["cat"], stdin=subprocess.PIPE) as polite:
            topology.down()
            assert polite.wait(60) == -signal.SIGTERM
        assert outside.poll() is None


def test_a_reused_pid_is_not_the_same_process() -> None:
    this = Process.of(os.getpid())
    assert this is not None
    assert this.alive()
    other = Process(this.pid, this.start_ticks + 1)
    assert not other.alive()
    assert other.pidfd() is None
    processes.end([other])


@pytest.mark.parametrize("name", ["", "../etc", "UPPER", "-x", "a" * 32, "a b"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(LabError, match="lab name"):
        Topology(name)


@pytest.mark.slow
def test_without_root_every_command_refuses_in_one_line(needs_user_namespaces: None) -> None:
    # An empty user namespace, not another uid: that might not be allowed to read the interpreter or the checkout.
    before = () if os.geteuid() else ("unshare", "--user")
    for argv in (["up"], ["down"], ["status"], ["exec", "gw1", "--", "true"]):
        assert_refused(fwd("lab", *argv, before=before), "fwd lab: ", "root")


@pytest.mark.netns
def test_commands_on_a_lab_that_is_not_up(lab_name: str) -> None:
    assert_refused(fwd("lab", "exec", "--name", lab_name, "gw1", "--", "true"), "not up", "fwd lab up")
    assert_refused(fwd("lab", "status", "--name", lab_name), "not up", "fwd lab up")
    assert fwd("lab", "down", "--name", lab_name).returncode == 0


@pytest.mark.netns
def test_exec_passes_the_exit_status_and_the_arguments(lab: MakeLab) -> None:
    topology = lab()
    inside = fwd("lab", "exec", "--name", topology.name, "gw1", "--", "sh", "-c", "ip -o addr; exit 7")
    assert inside.returncode == 7
    assert topology.outer("gw1") in inside.stdout
    assert_refused(fwd("lab", "exec", "--name", topology.name, "gw3", "--", "true"), "gw3", "client1")
    assert_refused(fwd("lab", "exec", "--name", topology.name, "gw1", "--", "no-such-tool"), "no-such-tool")


@pytest.mark.netns
def test_status_shows_a_lab_whose_gateways_do_not_run(lab: MakeLab) -> None:
    topology = lab()
    shown = fwd("lab", "status", "--name", topology.name)
    assert shown.returncode == 0
    for host in topology.hosts:
        assert host in shown.stdout
    assert "not running" in shown.stdout


@pytest.mark.netns
def test_several_gateways_a_site_come_up_and_carry(lab_name: str) -> None:
    name = ("--name", lab_name)
    done = fwd("lab", "up", "--gateways", "2", "--members", "1", *name, seconds=90)
    assert done.returncode == 0, done.stderr
    topology = Topology.load(lab_name)
    assert topology is not None
    assert topology.sites == {"vpc1": 2, "vpc2": 2}
    before = esp_sent(topology)
    for here, there in (("client1", "client2"), ("client2", "client1")):
        for version in (4, 6):
            topology.run(here, ["ping", "-c1", "-W5", topology.address(there, version=version)])
    assert esp_sent(topology) > before, "by way of fwd"
    assert fwd("lab", "down", *name).returncode == 0
    assert namespaces(lab_name) == []


def esp_sent(topology: Topology) -> int:
    """ESP packets that the gateways have sent, all together."""
    found = 0
    for host in topology.gateways:
        status = gateways.status(topology, host)
        assert status is not None
        assert status["ready"]
        found += sum(member["out"]["esp_packets"] for member in status["peerings"][0]["members"])
    return found


@pytest.mark.netns
def test_gateways_refuse_a_configuration_that_fwd_would_refuse(lab: MakeLab) -> None:
    topology = lab()
    cases: list[tuple[dict[str, Any], str]] = [({"members": 0}, "members"), ({"nonsense": 1}, "unknown key")]
    for wrong, words in cases:
        with pytest.raises(LabError, match=words):
            gateways.start(topology, **wrong)
    assert gateways.alive(topology) == {}
    assert [path.name for path in topology.run_dir.iterdir()] == ["topology.json"]

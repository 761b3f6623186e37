"""What a user can get wrong: one line, exit status 2, and the host as it was."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from gwkit import MakePair, Pair, inside, network_of

NOT_ROOT = ("unshare", "--user")
NO_TUN = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh")


@pytest.fixture(scope="module")
def lab(module_pairs: MakePair) -> Pair:
    return module_pairs(start=False)


@pytest.fixture
def pair(lab: Pair) -> Iterator[Pair]:
    """Configuration and secret as they should be; afterwards the host must be as before."""
    lab.secret = os.urandom(32)
    lab.gateway, lab.peerings = {}, [{}]
    lab.write_config("gw1")
    lab.write_secret("gw1")
    before = network_of(lab.topology, "gw1"), inside(lab.topology, "gw1")
    yield lab
    assert (network_of(lab.topology, "gw1"), inside(lab.topology, "gw1")) == before
    assert not lab.control("gw1").exists()


def refused(pair: Pair, *words: str, before: Sequence[str] = (), arguments: Sequence[str] = ()) -> None:
    if before:
        argv = [*before, sys.executable, "-m", "fwd", "demux", "--config", str(pair.config("gw1")), *arguments]
        done = pair.topology.run("gw1", argv, check=False, timeout=60)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        line = str(done.stderr)
    else:
        line = pair.refused("gw1", pair.config("gw1"), *arguments)
    assert line.startswith("fwd: ")
    for word in words:
        assert word in line, line


def configure(pair: Pair, **peering: object) -> None:
    pair.peerings = [peering]
    pair.write_config("gw1")


def test_without_root(pair: Pair, needs_user_namespaces: None, tmp_path: Path) -> None:
    """An empty user namespace: what is needed can be read, but nothing may be changed."""
    readable = tmp_path / "gw1.toml"
    readable.write_text(pair.config("gw1").read_text())
    argv = [*NOT_ROOT, sys.executable, "-m", "fwd", "demux", "--config", str(readable)]
    done = pair.topology.run("gw1", argv, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "needs root" in done.stderr


def test_no_configuration(pair: Pair) -> None:
    pair.config("gw1").unlink()
    refused(pair, "gw1.toml", "No such file")


@pytest.mark.parametrize("members", ["0", "65", "-1", "many"])
def test_wrong_number_of_members(pair: Pair, members: str) -> None:
    refused(pair, "members", arguments=["--members", members])


def test_secret_missing(pair: Pair) -> None:
    pair.secret_path("gw1").unlink()
    refused(pair, "gw1.secret", "No such file")


def test_a_host_whose_new_devices_have_no_ipv6(pair: Pair) -> None:
    """As in a container of an engine that gives IPv6 to the devices it makes, and to no others."""
    pair.topology.run("gw1", ["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"])
    try:
        refused(pair, "fd00:2::/64", "net.ipv6.conf.default.disable_ipv6")
    finally:
        pair.topology.run("gw1", ["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=0"])


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_secret_readable_by_others(pair: Pair, mode: int) -> None:
    pair.secret_path("gw1").chmod(mode)
    refused(pair, "gw1.secret", f"{mode:04o}", "chmod 600")
    pair.secret_path("gw1").unlink()


def test_secret_of_another_user(pair: Pair) -> None:
    os.chown(pair.secret_path("gw1"), 65534, 65534)
    refused(pair, "gw1.secret", "65534")
    pair.secret_path("gw1").unlink()


def test_secret_too_short(pair: Pair) -> None:
    pair.secret_path("gw1").write_bytes(bytes(31))
    refused(pair, "gw1.secret", "31", "32")


def test_secret_is_a_link(pair: Pair) -> None:
    real = pair.secret_path("gw1").with_suffix(".real")  # beside it: /run may be a file system of its own
    pair.secret_path("gw1").rename(real)
    pair.secret_path("gw1").symlink_to(real)
    refused(pair, "gw1.secret")
    pair.secret_path("gw1").unlink()
    real.unlink()


def test_a_wrong_secret_joins_nothing(pairs: MakePair) -> None:
    """fwd cannot know that the far side has another one: packets are refused, counted, and nothing is delivered."""
    pair = pairs()
    pair.stop("gw2")
    pair.secret = os.urandom(32)
    pair.write_secret("gw2")
    pair.begin("gw2")
    pair.wait_ready("gw2")
    assert not pair.ping(count=3)
    assert pair.drops("gw2")["bad_icv"] >= 3
    assert pair.peering("gw2")["books"]["in_records_out"] == 0


def test_overlapping_subnets(pair: Pair) -> None:
    configure(pair, remote_ts=["10.1.0.0/16"])
    refused(pair, "gw1.toml", "10.1.0.0/24", "10.1.0.0/16", "overlap")


def test_local_address_is_not_here(pair: Pair) -> None:
    configure(pair, local_addrs="192.0.2.77")
    refused(pair, "192.0.2.77", "local_addrs")


def test_busy_port(pair: Pair) -> None:
    script = "import socket,sys;s=socket.socket(type=socket.SOCK_DGRAM);s.bind((sys.argv[1],4501));print(1,flush=True);"
    script += "sys.stdin.read()"
    holder = pair.topology.popen(
        "gw1", [sys.executable, "-c", script, pair.topology.outer("gw1")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        refused(pair, "4501", "in use")


def test_busy_control_socket(pairs: MakePair) -> None:
    pair = pairs()
    pair.write_secret("gw1")
    assert "another fwd" in pair.refused("gw1", pair.config("gw1"))
    assert pair.ping()


def test_busy_tun_name(pair: Pair) -> None:
    pair.topology.run("gw1", ["ip", "link", "add", "fwd7", "type", "veth", "peer", "name", "fwd7x"])
    configure(pair, tun="fwd7")
    refused(pair, "fwd7")
    pair.topology.run("gw1", ["ip", "link", "del", "fwd7"])


def test_tun_name_that_another_fwd_has(pairs: MakePair) -> None:
    pair = pairs()
    pair.write_secret("gw1")
    other = pair.topology.run_dir / "other.toml"
    text = pair.config("gw1").read_text().replace("gw1.sock", "other.sock").replace("members", "port = 4900\nmembers")
    other.write_text(text)
    before = network_of(pair.topology, "gw1")
    assert "fwd0" in pair.refused("gw1", other)
    assert network_of(pair.topology, "gw1") == before
    assert pair.ping()


def test_no_tun_device(pair: Pair) -> None:
    refused(pair, "/dev/net/tun", before=NO_TUN)


def test_no_such_user(pair: Pair) -> None:
    pair.gateway = {"user": "nosuchuser"}
    pair.write_config("gw1")
    refused(pair, "nosuchuser")


def test_busy_metrics_port(pair: Pair) -> None:
    script = "import socket,sys;s=socket.socket();s.bind(('127.0.0.1',9595));s.listen();print(1,flush=True);"
    script += "sys.stdin.read()"
    pair.gateway = {"metrics": "127.0.0.1:9595"}
    pair.write_config("gw1")
    with pair.topology.popen(
        "gw1", [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        refused(pair, "127.0.0.1:9595", "in use")

"""A far gateway that the configuration gives by name, and that comes back at another address."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from gwkit import MakePair, Pair, until

NAME = "gw2.example.net"
ELSEWHERE = "192.0.2.77"


def hosts(pair: Pair, address: str) -> Path:
    """What a gateway has as /etc/hosts; written in place, as it is mounted there."""
    path = pair.topology.run_dir / "hosts"
    path.write_text(f"{address} {NAME}\n")
    path.chmod(0o644)
    return path


def launch_with_hosts(pair: Pair) -> None:
    """gw1, with a hosts file of its own, and nobody else to ask for names."""
    nsswitch = pair.topology.run_dir / "nsswitch.conf"
    nsswitch.write_text("hosts: files\n")
    nsswitch.chmod(0o644)
    mounts = f"mount --bind {pair.topology.run_dir}/hosts /etc/hosts && mount --bind {nsswitch} /etc/nsswitch.conf"
    argv = [sys.executable, *pair.program, "demux", "--config", str(pair.write_config("gw1"))]
    with (pair.topology.run_dir / "gw1.log").open("wb") as log:
        inside = ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$0" "$@"', *argv]
        pair.running["gw1"] = pair.topology.popen("gw1", inside, stdout=log, stderr=log)


@pytest.mark.skipif(not Path("/etc/nsswitch.conf").exists(), reason="needs /etc/nsswitch.conf to stand in for")
def test_a_gateway_is_found_by_its_name_and_again_at_another_address(pairs: MakePair) -> None:
    pair = pairs(start=False, keys={"source": "psk"})
    pair.secret = bytes(range(32))
    pair.topology.run("gw2", ["ip", "addr", "add", f"{ELSEWHERE}/24", "dev", "wan"])
    hosts(pair, pair.topology.outer("gw2"))
    pair.launch("gw2")
    pair.write_secret("gw1")
    pair.peerings = [{"remote_addrs": NAME}]
    launch_with_hosts(pair)
    pair.wait_ready(seconds=30.0)
    until(pair.ping, 30.0, "traffic")
    assert pair.peering("gw1")["remote_addrs"] == pair.topology.outer("gw2")
    supervisor = pair.running["gw1"].pid

    hosts(pair, ELSEWHERE)
    pair.stop("gw2")
    pair.peerings = [{"local_addrs": ELSEWHERE}]
    pair.launch("gw2")
    pair.wait_ready(seconds=60.0)
    until(pair.ping, 30.0, "traffic by way of the other address")
    assert pair.peering("gw1")["remote_addrs"] == ELSEWHERE
    assert pair.running["gw1"].pid == supervisor
    assert pair.running["gw1"].poll() is None

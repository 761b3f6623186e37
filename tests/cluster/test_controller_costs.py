"""A controller of 50 gateways uses little of a core, and little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import manyhosts
import pytest
from clusterkit import Cluster, MakeFleet, until

from fwd.lab.fleet.plan import CONTROLLER, NET, PORT

HOSTS, MEMBERS = 50, 8
FOR_S = 60.0
CORE_MAX, RSS_MIB_MAX = 0.25, 150.0
SETTLED_S = 10.0


def used_s(pid: int) -> float:
    """CPU time of a process, so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int) -> float:
    """What a process has in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def begun(lab: Cluster, directory: Path) -> subprocess.Popen[str]:
    """All hosts, which join: half of them in each VPC."""
    addresses = [f"address add 198.51.100.{number}/32 dev lo" for number in range(1, HOSTS + 1)]
    lab.fleet.run(NET, ["ip", "-batch", "-"], input="\n".join(addresses) + "\n")
    for site in lab.fleet.plan:
        lab.api.create("vpcs", name=site.name, cidrs=[lab.fleet.cidrs(site)[0]])
    vpcs = ["vpc1"] * (HOSTS // 2) + ["vpc2"] * (HOSTS // 2)
    tokens = [str(lab.api.create("tokens", vpc=vpc)["token"]) for vpc in vpcs]
    url = f"https://{lab.fleet.address(CONTROLLER)}:{PORT}"
    argv = [sys.executable, "-P", manyhosts.__file__, url, str(directory), str(HOSTS), str(MEMBERS)]
    made: subprocess.Popen[str] = lab.fleet.popen(NET, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert made.stdin is not None
    made.stdin.write("\n".join(tokens))
    made.stdin.close()
    made.stdin = None
    return made


@pytest.mark.long
@pytest.mark.alone
@pytest.mark.timeout(400)
def test_a_controller_of_50_gateways_costs_little(fleets: MakeFleet, tmp_path: Path) -> None:
    lab = fleets(1, 1, up=False)
    with begun(lab, tmp_path) as hosts:
        try:
            assert hosts.stdout is not None
            assert hosts.stdout.readline() == "ready\n"
            until(
                lambda: all(one["health"]["state"] != "joining" for one in lab.api.items("gateways")), "all are heard"
            )
            time.sleep(SETTLED_S)
            pid = lab.running[CONTROLLER].pid
            before, at = used_s(pid), time.monotonic()
            time.sleep(FOR_S)
            share = (used_s(pid) - before) / (time.monotonic() - at)
            hosts.terminate()
            told = json.loads(hosts.communicate(timeout=60)[0])
        finally:
            hosts.kill()
    print(f"{share:.1%} of a core, {rss_mib(pid):.0f} MiB, {told}")
    assert share < CORE_MAX
    assert rss_mib(pid) < RSS_MIB_MAX
    assert told["answered"] > 0.9 * HOSTS * FOR_S
    assert not told.get("refused", 0) + told.get("failed", 0)

"""The kernel's next hops, groups and routes, in a network namespace of their own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.netns

DEVICES = """
ip link set lo up
ip link add lan type veth peer name far
ip link set lan up; ip link set far up
ip address add 10.1.0.1/24 dev lan
ip address add fd01::1/64 dev lan nodad
ip route add 10.2.0.0/16 via 10.1.0.99
ip -6 route add fd02::/48 via fd01::99
"""
TRY = """
import json, socket, subprocess
from ipaddress import ip_address, ip_network
from fwd.router.kernel import group_id, members_of, state_of
from fwd.router.nexthop import NextHops, Target, Way

kernel, said = NextHops(), {}
device = socket.if_nametoindex("lan")
for version, gateways, network in (
    (4, ("10.1.0.11", "10.1.0.12"), "10.2.0.0/16"),
    (6, ("fd01::11", "fd01::12"), "fd02::/48"),
):
    group = group_id(0, version)
    slots = members_of(group)
    a, b = (Target(device, ip_address(one)) for one in gateways)
    ways = [Way(ip_network(network), None), Way(ip_network(network), group)]
    kernel.point(dict.fromkeys(slots, a))
    kernel.make_group(group, slots)
    kernel.route(ways)
    def shown(*words):
        return subprocess.run(["ip", f"-{version}", "route", *words], capture_output=True, text=True).stdout
    said[f"used {version}"] = shown("get", network.replace("0/16", "9").replace("/48", "9"))
    before = kernel.table(group)
    kernel.point({slots[7]: b})
    has = state_of(kernel.owned(), kernel.ways())
    said[version] = {
        "slots": len(has.hops), "group": has.groups[group] == slots, "moved": has.hops[slots[7]] == b,
        "others": all(has.hops[one] == a for one in slots if one != slots[7]),
        "ways": set(ways) <= has.ways, "of a new socket": set(ways) <= NextHops().ways(),
        "table": [row.hop_id for row in before.values()] == [row.hop_id for row in kernel.table(group).values()],
        "buckets": sorted(row.hop_id for row in before.values()) == list(slots),
    }
    kernel.route(ways, gone=True)
    kernel.remove([group, *slots])
    left = state_of(kernel.owned(), kernel.ways())
    said[f"others {version}"] = shown("show", network)
    said[version]["left"] = len(left.hops) + len(left.groups) + len(left.ways)
try:
    kernel.point({1: Target(device, ip_address("192.0.2.9"))})
except OSError as error:
    said["refused"] = str(error)
print(json.dumps(said))
"""


@pytest.mark.usefixtures("needs_netns")
def test_slots_group_and_routes_are_as_they_were_told_and_go() -> None:
    script = f"set -e\n{DEVICES}\nexec {sys.executable} -P -c '{TRY.replace(chr(39), chr(34))}'"
    done = subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    said = json.loads(done.stdout)

    right = ("group", "moved", "others", "ways", "of a new socket", "table", "buckets")
    assert said["4"] == said["6"] == {**dict.fromkeys(right, True), "slots": 256, "left": 0}
    assert "gateway" in said["refused"]

    # Routes that the host had of its own to the same networks: behind these, and there when they are gone.
    for version, used, own in (("4", "10.1.0.11", "10.1.0.99"), ("6", "fd01::11", "fd01::99")):
        assert f"via {used} " in said[f"used {version}"]
        assert said[f"others {version}"].startswith(f"{'10.2.0.0/16' if version == '4' else 'fd02::/48'} via {own} ")


ASK_ANEW = """
import socket, subprocess
from ipaddress import ip_address
from fwd.router.nexthop import NextHops, Target

device = socket.if_nametoindex("lan")
hosts = "10.1.0.11 10.1.0.12 10.1.0.13 fd01::11 fd01::12".split()
NextHops().forget([Target(device, ip_address(one)) for one in hosts if not one.endswith("13")])
for version in ("-4", "-6"):
    print(subprocess.run(["ip", version, "neigh", "show", "dev", "lan"], capture_output=True, text=True).stdout)
"""


@pytest.mark.usefixtures("needs_netns")
def test_what_the_kernel_has_learned_of_a_gateway_is_forgotten_and_what_a_person_has_set_is_not() -> None:
    known = "".join(
        f"ip neigh add {address} lladdr 02:00:00:00:00:01 dev lan nud {state}\n"
        for address, state in (
            ("10.1.0.11", "reachable"), ("10.1.0.12", "permanent"), ("10.1.0.13", "reachable"),
            ("fd01::11", "stale"), ("fd01::12", "permanent"),
        )
    )  # fmt: skip
    script = f"set -e\n{DEVICES}\n{known}\nexec {sys.executable} -P -c '{ASK_ANEW}'"
    done = subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    left = {line.split()[0] for line in done.stdout.splitlines() if "lladdr" in line}
    assert left == {"10.1.0.12", "10.1.0.13", "fd01::12"}

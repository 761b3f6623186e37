"""A route that the host has of its own to a remote subnet stays: fwd's comes before it, and it holds again after."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# One interpreter imports what the tests need. Each has a fork of it, in a network namespace that goes with it.
SETTING = """
import ctypes, json, os, subprocess, sys, traceback
from ipaddress import ip_address, ip_network
from fwd.supervise import network
from fwd.supervise.kernel import Device, Do, Step
from pyroute2 import IPRoute

NUMBER = 200
def sh(*lines):
    for line in lines:
        subprocess.run(line.split(), check=True)
def routes(subnet):
    argv = ["ip", "-6" if ":" in subnet else "-4", "route", "show", subnet]
    return subprocess.run(argv, capture_output=True, text=True).stdout.split("\\n")[:-1]
def shown(subnet):
    print(" | ".join(" ".join(one.split()[1:5]) for one in routes(subnet)))
def set_route(subnet, source=None):
    with IPRoute() as ip:
        (index,) = ip.link_lookup(ifname="fwd0")
    device = Device("fwd0", index, 1438, 1000)
    step = Step(Do.ROUTE, "fwd0", ip_network(subnet), source and ip_address(source))
    network.carry_out([(step, device)], NUMBER)

def set_up():
    assert ctypes.CDLL(None, use_errno=True).unshare(0x40000000) == 0, os.strerror(ctypes.get_errno())  # CLONE_NEWNET
    for name, address, six in (("lan", "10.1.0.1/24", "fd00:1::1/64"), ("wan", "192.0.2.1/24", "2001:db8::1/64")):
        sh(f"ip tuntap add dev {name} mode tun", f"ip link set {name} up")
        sh(f"ip addr add {address} dev {name}", f"ip addr add {six} dev {name} nodad")
    sh("ip tuntap add dev fwd0 mode tun", "ip link set fwd0 up")

for script in sys.stdin:
    near, far = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(far, 1)
        os.dup2(far, 2)
        status = 1
        try:
            set_up()
            exec(json.loads(script))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    os.close(far)
    with open(near) as told:
        text = told.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(json.dumps((status, text)), flush=True)
"""
Told = Callable[[str], list[str]]


@pytest.fixture(scope="module")
def told(needs_user_namespaces: None) -> Iterator[Told]:
    """Run a script where it may do what it likes to a network, and return the lines that it prints."""
    if shutil.which("ip") is None or not Path("/dev/net/tun").exists():
        pytest.skip("needs ip and /dev/net/tun")
    argv = ["unshare", "--user", "--map-root-user", "--net"]
    tried = [*argv, "ip", "tuntap", "add", "dev", "fwd0", "mode", "tun"]
    if subprocess.run(tried, capture_output=True, check=False).returncode:
        pytest.skip("no TUN device can be made here")

    argv += [sys.executable, "-c", SETTING]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as interpreter:
        assert interpreter.stdin
        assert interpreter.stdout
        scripts, results = interpreter.stdin, interpreter.stdout

        def run(script: str) -> list[str]:
            print(json.dumps(script), file=scripts, flush=True)
            status, text = json.loads(results.readline())
            assert status == 0, text
            return str(text).splitlines()

        yield run
        scripts.close()


HOSTS_OWN = [
    ("10.2.0.0/24", "ip route add 10.2.0.0/24 via 192.0.2.2"),
    ("10.2.0.0/24", "ip route add 10.2.0.0/24 dev wan proto 200 metric 5"),
    ("10.2.0.0/24", "ip route add blackhole 10.2.0.0/24"),
    ("fd00:2::/64", "ip -6 route add fd00:2::/64 via 2001:db8::2"),
    ("fd00:2::/64", "ip -6 route add fd00:2::/64 dev wan metric 2"),
]


@pytest.mark.parametrize(("subnet", "own"), HOSTS_OWN, ids=[own for _, own in HOSTS_OWN])
def test_fwds_route_is_used_and_the_hosts_own_is_there_afterwards(told: Told, subnet: str, own: str) -> None:
    script = f"""
sh({own!r})
before = routes({subnet!r})
set_route({subnet!r})
set_route({subnet!r}, "fd00:1::1" if ":" in {subnet!r} else "10.1.0.1")
set_route({subnet!r})
used = subprocess.run(["ip", "route", "get", {subnet!r}.replace("/64", "5").replace("0/24", "5")],
    capture_output=True, text=True).stdout
print("dev fwd0" in used, len(routes({subnet!r})), set(before) < set(routes({subnet!r})))
network.drop_routes("fwd0", [ip_network({subnet!r})])
print(routes({subnet!r}) == before)
"""
    assert told(script) == ["True 2 True", "True"]


def test_a_route_that_is_put_before_fwds_stays_behind_it_then(told: Told) -> None:
    script = """
set_route("10.2.0.0/24", "10.1.0.1")
sh("ip route prepend 10.2.0.0/24 via 192.0.2.2")
set_route("10.2.0.0/24", "10.1.0.1")
shown("10.2.0.0/24")
"""
    assert told(script) == ["dev fwd0 proto 200 | via 192.0.2.2 dev wan"]


def test_fwds_own_route_is_replaced_and_not_doubled(told: Told) -> None:
    script = """
for subnet, sources in (("10.2.0.0/24", ("10.1.0.1", None, "192.0.2.1")), ("fd00:2::/64", ("fd00:1::1", None))):
    for source in sources:
        set_route(subnet, source)
        print(len(routes(subnet)))
"""
    assert told(script) == ["1"] * 5


def test_a_route_before_which_none_can_be_is_left_and_told(told: Told) -> None:
    script = """
from fwd.proto.errors import UserError
sh("ip -6 route add fd00:2::/64 via 2001:db8::2 metric 1")
try:
    set_route("fd00:2::/64")
except UserError as error:
    print(error)
print(len(routes("fd00:2::/64")))
"""
    assert told(script) == ["route fd00:2::/64 dev fwd0: File exists: another's of metric 1 is there", "1"]

"""A pair that loses packets, a host without time, a router whose kernel others change: nobody is taken out for it, what
was taken is there again in a moment, and nothing leaves in the clear.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from clusterkit import Cluster, MakeFleet, until

from fwd.lab import tools

pytestmark = pytest.mark.alone

GRAY_LOSS = 0.05
REPAIRED_S = 1.5
SILENCE_S = 2.0  # of a flow: the repair, and what its neighbours take to be found again
LOOPS = 2  # that want all of a core, on each
FAILOVERS = re.compile(
    r"gateway \S+ is down|loses packets|cannot reach|hangs|not ready|has ended otherwise|is taken down"
)


@pytest.fixture(scope="module")
def lab(module_fleets: MakeFleet) -> Cluster:
    """Two clusters of two, whose gateways are in two subnets."""
    return module_fleets(2, 2, subnets=2, peered=True)


@pytest.fixture(scope="module")
def shares(lab: Cluster) -> Counter[str]:
    """How many slots each gateway has while nothing is wrong."""
    return lab.shares("router1")


@pytest.fixture(autouse=True)
def _whole(lab: Cluster, shares: Counter[str]) -> None:
    lab.until_uses("router1", gw1="up", gw2="up")
    until(lambda: lab.shares("router1") == shares, "the shares of before")


# -- loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [4, pytest.param(60, marks=pytest.mark.long)])
@pytest.mark.timeout(300)
def test_a_pair_that_loses_packets_gets_a_smaller_share_and_stays(lab: Cluster, seconds: float) -> None:
    before, said = lab.shares("router1")["gw2"], len(lab.log("router1"))
    with lab.load(tcp=False), lab.losing("gw2", GRAY_LOSS):
        until(lambda: lab.shares("router1")["gw2"] < before * 0.7, "a smaller share")
        end_s, uses = time.monotonic() + seconds, set()
        while time.monotonic() < end_s:
            uses |= set(lab.uses("router1").values()) | set(lab.uses("router2").values())
            assert 0 < lab.shares("router1")["gw2"] < before
    assert uses == {"up"}
    assert " is down" not in lab.log("router1")[said:]


# -- time ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def all_cores_stolen() -> Iterator[None]:
    """Loops of a usual priority on each core, that never wait."""
    with contextlib.ExitStack() as stack:
        for core in sorted(os.sched_getaffinity(0)):
            for _ in range(LOOPS):
                script = f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
                stack.enter_context(tools.ended(subprocess.Popen([sys.executable, "-I", "-c", script])))
        yield


@pytest.mark.parametrize("seconds", [20, pytest.param(600, marks=pytest.mark.long)])
@pytest.mark.timeout(900)
def test_nobody_fails_over_while_others_take_the_time_of_all_cores(lab: Cluster, seconds: float) -> None:
    hosts = (*lab.fleet.gateways, *lab.fleet.all_routers)
    lives = {gateway: lab.lives(gateway) for gateway in lab.fleet.gateways}
    said = {host: len(lab.log(host)) for host in hosts}
    with lab.load(tcp=False) as load, all_cores_stolen():
        served = [(index, slot.gateway) for index, slot in sorted(lab.slots("router1").items())]
        time.sleep(seconds)
        after = [(index, slot.gateway) for index, slot in sorted(lab.slots("router1").items())]
        load.end()

    # Neither routers nor gateways nor their supervisors have taken lateness for death.
    news = {
        host: [line for line in lab.log(host)[said[host] :].splitlines() if FAILOVERS.search(line)] for host in hosts
    }
    assert {host: lines for host, lines in news.items() if lines} == {}
    assert after == served
    assert {gateway: lab.lives(gateway) for gateway in lab.fleet.gateways} == lives
    assert load.reordered == 0


# -- the router's kernel --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", [
    "ip link set lan down; ip link set lan up",
    "nft flush ruleset",
    "ip route delete 10.2.0.0/16",
    "ip route delete blackhole 10.2.0.0/16",
    "ip -6 route delete fd00:2::/48",
    "ip nexthop flush",
])  # fmt: skip
@pytest.mark.timeout(300)
def test_what_is_taken_from_a_router_is_repaired_and_nothing_leaves_in_the_clear(lab: Cluster, harm: str) -> None:
    with lab.in_the_clear() as clear, lab.load() as load:
        until(lambda: min(lab.records("gw1"), lab.records("gw2")) > 500, "traffic")
        before = kernel_of(lab)
        lab.fleet.run("router1", ["sh", "-ec", harm])
        start_s = time.monotonic()
        until(lambda: kernel_of(lab) == before, "what was there")
        repaired_s = time.monotonic() - start_s
        sent = lab.records("gw1") + lab.records("gw2")
        until(lambda: lab.records("gw1") + lab.records("gw2") > sent + 1000, "traffic again")
        load.end()
        assert clear() == 0
    assert repaired_s < REPAIRED_S
    assert load.resets == 0
    assert max(load.silence_s) < SILENCE_S, load.silence_s
    until(lambda: set(lab.uses("router1").values()) == {"up"}, "all gateways in use")


def kernel_of(lab: Cluster) -> str:
    """Routes and next hops of the first router, in an order of their own.

    Not by which gateway: a busy slot whose gateway was unreachable for a moment stays with the other one.
    """
    look = "ip route; ip -6 route | sed 's/ expires [0-9]*sec//'; ip nexthop | sed 's/ via [^ ]*//; s/ dev [^ ]*//'"
    lines = lab.fleet.run("router1", ["sh", "-ec", look]).stdout.splitlines()
    return "\n".join(sorted(line.replace(" linkdown", "").strip() for line in lines))

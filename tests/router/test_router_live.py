"""A router, three gateways and a client in namespaces of their own (routekit.py): flows, and what becomes of them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from routekit import BEACON, GATEWAYS, LIMIT_S, Flows, Site

from fwd.lab.waiting import until

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("needs_netns")]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(f"fwd-lab-r{os.getpid()}", tmp_path)
    try:
        made.up()
        made.configure(*GATEWAYS)
        made.route()
        made.uses(g1="up", g2="up", g3="up")
        yield made
    finally:
        made.down()


def even(site: Site, *names: str) -> bool:
    shares = site.shares()
    return all(0.6 / len(names) < shares[name] < 1.5 / len(names) for name in names)


def test_flows_are_spread_over_all_gateways_and_arrive(site: Site) -> None:
    assert site.status()["ready"], site.status()["reasons"]
    assert even(site, *GATEWAYS)
    flows = Flows(site)
    flows.go_on(1)
    flows.assert_none_lost()


def test_one_that_answers_no_more_gives_its_slots_to_the_others(site: Site) -> None:
    flows = Flows(site)
    site.running["g2"].kill()
    site.sh("g2", "ip link set wan down")
    site.uses(g1="up", g2="down", g3="up")

    assert site.shares()["g2"] == 0
    assert site.gateways()["g2"]["why"] == "does not answer probes"
    flows.go_on(1)
    assert flows.silence() < 200, "two seconds"


def test_one_that_was_built_anew_and_has_another_link_address_is_used_again(site: Site) -> None:
    # What the kernel has learned it believes for an hour, as no link goes down by which it would forget.
    site.sh("router", "for one in /proc/sys/net/ipv?/neigh/lan2/base_reachable_time_ms; do echo 3600000 >$one; done")
    site.uses(g1="up", g2="up", g3="up")
    site.sh("g2", "ip link set lan address 02:00:00:00:00:02")
    site.uses(g1="up", g2="down", g3="up")
    site.uses(g1="up", g2="up", g3="up")


def test_one_whose_far_side_is_gone_gives_its_slots_to_the_others(site: Site) -> None:
    site.say("g2", passes=False)
    site.uses(g1="up", g2="down", g3="up")

    assert site.gateways()["g2"]["why"] == "cannot reach the far side"
    assert site.shares()["g2"] == 0


def test_a_gateway_is_added_and_drained_without_a_lost_packet(site: Site) -> None:
    site.configure("g1", "g2")
    site.uses(g1="up", g2="up")
    flows = Flows(site)
    busy = {one["name"]: one["share"]["4"] for one in site.gateways().values()}
    site.configure("g1", "g2", "g3")
    site.uses(g1="up", g2="up", g3="up")
    until(lambda: site.shares()["g3"] > 0, "idle slots of the new gateway", LIMIT_S)
    assert site.status()["spreads"][0]["waiting"] > 0, "busy slots wait"
    assert site.shares()["g1"] < busy["g1"]

    site.configure("g1", "g2", "g3", draining="g1")
    site.uses(g1="draining", g2="up", g3="up")
    assert site.shares()["g1"] > 0, "busy slots stay"
    site.configure("g1", "g2", "g3", draining="g1", deadline_s=0)
    until(lambda: site.shares()["g1"] == 0, "the end of the draining", LIMIT_S)
    flows.go_on(1)
    flows.assert_none_lost()


def test_one_that_is_on_no_link_of_the_router_keeps_none_of_the_others_out(site: Site) -> None:
    site.configure("g1", "g2", "g4")
    site.uses(g1="up", g2="up", g4="down")
    assert site.gateways()["g4"]["why"] == "no device of this router has it on its link"
    until(lambda: even(site, "g1", "g2"), "all slots are the others'", LIMIT_S)
    assert site.status()["ready"], site.status()["reasons"]
    flows = Flows(site)
    flows.go_on(1)
    flows.assert_none_lost()


def test_gray_loss_makes_a_share_less_and_takes_nobody_out(site: Site) -> None:
    site.say("g2", loss=0.05)
    until(lambda: 0 < site.shares()["g2"] < 0.2, "a smaller share", LIMIT_S)

    assert site.gateways()["g2"]["use"] == "up"


def test_all_down_keep_the_last_set(site: Site) -> None:
    for host in GATEWAYS:
        site.running[host].kill()
    site.uses(g1="down", g2="down", g3="down")

    # Whoever was found down first may have lost its share to those that were not yet; what they have stays.
    assert not site.status()["ready"]
    last = site.shares()
    assert round(sum(last.values()), 2) == 1.0
    flows = Flows(site)
    flows.assert_none_lost()
    assert site.shares() == last


@pytest.mark.parametrize("harm", [
    "ip link set lan1 down; ip link set lan1 up",
    "ip route delete 10.2.0.0/24",
    "ip nexthop flush",
    "echo 0 > /proc/sys/net/ipv4/fib_multipath_hash_policy",
])  # fmt: skip
def test_what_somebody_takes_from_the_kernel_comes_back(site: Site, harm: str) -> None:
    look = "ip route; ip nexthop; cat /proc/sys/net/ipv4/fib_multipath_hash_policy"
    before = site.sh("router", look)
    site.sh("router", harm)

    until(lambda: site.sh("router", look) == before, "what was there", LIMIT_S)


def test_a_router_that_starts_anew_leaves_flows_where_they_are(site: Site) -> None:
    flows = Flows(site)
    before = site.sh("router", "ip nexthop")
    site.running["router"].kill()
    site.running["router"].wait()
    site.route()
    site.uses(g1="up", g2="up", g3="up")

    assert site.sh("router", "ip nexthop") == before
    flows.assert_none_lost()


def test_a_forged_answer_is_not_believed(site: Site) -> None:
    site.running["g2"].kill()
    site.running["g2"].wait()
    site.start("g2", BEACON, "08" * 32, str(site.directory / "g2.json"))

    site.uses(g1="up", g2="down", g3="up")


def seen_at_far(site: Site) -> int:
    """How many packets for the VPC's own hosts have come out of the router by its default route."""
    return int(site.sh("far", "nft list counter inet leak leaked").split("packets ")[1].split()[0])


@pytest.mark.parametrize("harm", ["ip link set inside down", "ip link delete inside"])
def test_what_is_for_hosts_behind_a_link_that_is_down_takes_no_default_route(site: Site, harm: str) -> None:
    site.sh("router", "ip route add default via 10.3.9.10; ip -6 address add fd00:1:9::1/64 dev inside nodad")
    site.sh("router", "ip -6 address add fd00:3:9::1/64 dev back nodad; ip -6 route add default via fd00:3:9::10")
    site.sh("far", "ip -6 address add fd00:3:9::10/64 dev back nodad; ip -6 route add fd00:1:9::/64 via fd00:3:9::1")
    own = "ip daddr 10.1.9.0/24 counter name leaked; ip6 daddr fd00:1:9::/64 counter name leaked;"
    site.sh(
        "far",
        f"""nft -f - <<'X'
table inet leak {{ counter leaked {{ }}
chain c {{ type filter hook prerouting priority 0; iifname != "lo" {own} }}
}}
X""",
    )
    until(lambda: "blackhole fd00:1:9::/64" in site.sh("router", "ip -6 route"), "the link is known", LIMIT_S)

    site.sh("router", harm)
    for to in ("10.1.9.10", "fd00:1:9::10"):
        site.sh("far", f"ping -c 3 -i 0.2 -W 1 {to} || true")
    time.sleep(1.5)  # the kernel was looked at again
    for to in ("10.1.9.10", "fd00:1:9::10"):
        site.sh("far", f"ping -c 3 -i 0.2 -W 1 {to} || true")
    assert seen_at_far(site) == 0


def test_what_is_for_the_vpcs_subnets_takes_no_default_route(site: Site) -> None:
    site.sh("router", "ip route add default via 10.3.9.10; ip route add 10.1.20.0/24 via 10.1.9.10")
    site.sh(
        "far",
        """ip route add 10.1.0.0/16 via 10.3.9.1; nft -f - <<'X'
table inet leak { counter leaked { }
chain c { type filter hook prerouting priority 0; iifname != "lo" ip daddr 10.1.0.0/16 counter name leaked; }
}
X""",
    )
    site.sh("far", "ping -c 2 -i 0.2 -W 1 10.1.77.5 || true")
    assert seen_at_far(site) > 0, "without it, it does"
    site.config.write_text(site.config.read_text().replace("[router]\n", '[router]\nlocal_ts = ["10.1.0.0/16"]\n'))
    site.running["router"].send_signal(signal.SIGHUP)
    until(lambda: "blackhole 10.1.0.0/16" in site.sh("router", "ip route"), "it is closed", LIMIT_S)

    before = seen_at_far(site)
    site.sh("router", "ip link set inside down")
    for to in ("10.1.77.5", "10.1.20.5"):
        site.sh("far", f"ping -c 2 -i 0.2 -W 1 {to} || true")
    assert seen_at_far(site) == before

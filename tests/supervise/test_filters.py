"""Which firewalls drop whatever is forwarded, by what nft lists."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from fwd.supervise import filters

HOOK = "type filter hook forward priority filter; policy drop;"


def table(*rules: str, hook: str = HOOK, more: str = "", name: str = "ip filter") -> str:
    body = "".join(f"\t\t{rule}\n" for rule in (hook, *rules))
    return f"table {name} {{\n\tchain FORWARD {{\n{body}\t}}\n{more}}}\n"


DOCKER = (
    "counter packets 12 bytes 900 jump DOCKER-USER",
    'oifname "docker0" ct state related,established counter packets 0 bytes 0 accept',
    'oifname "docker0" counter packets 0 bytes 0 jump DOCKER',
    'iifname "docker0" oifname != "docker0" counter packets 0 bytes 0 accept',
)
USER = "\n\tchain DOCKER-USER {{\n\t\t{}\n\t}}\n\n\tchain DOCKER {{\n\t\tip daddr 172.17.0.2 accept\n\t}}\n"
LOCAL, REMOTE, REMOTE6 = ip_network("10.1.0.0/24"), ip_network("10.2.0.0/24"), ip_network("fd00:2::/64")
LOCAL6, OTHER = ip_network("fd00:1::/64"), ip_network("10.9.0.0/24")
PAIRS = [(LOCAL, REMOTE)]
ACCEPTS = HOOK.replace("drop", "accept")
FIREWALLD = (
    "ct state { established, related } accept",
    "ct status dnat accept",
    'iifname "lo" accept',
    "ct state invalid drop",
    "jump filter_FORWARD_POLICIES",
    "reject with icmpx admin-prohibited",
)
POLICIES = "\n\tchain filter_FORWARD_POLICIES {{\n{}\t}}\n"
ZONES = POLICIES.format("".join(f"\t\t{rule}\n" for rule in (
    'iifname "lan" oifname "wan" jump to_wan', 'iifname "lan" reject with icmpx admin-prohibited'))
) + "\n\tchain to_wan {\n\t\taccept\n\t}\n"  # fmt: skip
FOR_FWD = POLICIES.format('\t\tiifname { "lan", "fwd0" } accept\n')
CASES = [
    ("nothing is accepted", table(), True),
    ("its policy is to accept", table(hook=ACCEPTS), False),
    ("another hook", table(hook=HOOK.replace("forward", "input")), False),
    ("another type", table("drop", hook=HOOK.replace("filter hook", "nat hook")), False),
    ("all is accepted", table("counter packets 1 bytes 2 accept"), False),
    ("answers alone", table("ct state established,related accept"), True),
    ("the TUN device, both ways", table('iifname "fwd0" accept', 'oifname "fwd0" accept'), False),
    ("the TUN device, one way", table('iifname "fwd0" accept'), True),
    ("by a pattern and a set", table('iifname "fwd*" accept', 'oifname { "eth0", "fwd0" } accept'), False),
    ("all but the TUN device", table('iifname != "fwd0" oifname != "fwd0" accept'), True),
    ("Docker", table(*DOCKER, more=USER.format("counter packets 12 bytes 900 return")), True),
    ("Docker, and what its manual says", table(*DOCKER, more=USER.format("accept")), False),
    ("jumps in a circle", table("jump DOCKER-USER", more=USER.format("jump FORWARD")), True),
    ("the last rule drops", table("ct state established,related accept", "drop", hook=ACCEPTS), True),
    ("it rejects, counts and logs", table('counter log prefix "no: " level warn reject', hook=ACCEPTS), True),
    ("a rule for the LAN's device drops", table('iifname "lan" counter drop', hook=ACCEPTS), True),
    ("and where packets come in", table('iif "lan" drop', hook=ACCEPTS.replace("forward", "prerouting")), True),
    ("and where they leave", table('oifname "fwd0" drop', hook=ACCEPTS.replace("forward", "postrouting")), True),
    ("a rule for another device drops", table('iifname "wan" drop', hook=ACCEPTS), False),
    ("some ports are dropped", table("tcp dport 25 drop", hook=ACCEPTS), False),
    ("broken connections are dropped", table("ct state invalid drop", hook=ACCEPTS), False),
    ("new connections are dropped", table("ct state new drop", hook=ACCEPTS), True),
    ("answers alone, by a map", table("ct state vmap { established : accept, related : accept }"), True),
    ("new ones too, by a map", table("ct state vmap { established : accept, new : jump DOCKER-USER }",
     more=USER.format("accept")), False),
    ("ports by a map", table("tcp dport vmap { 22 : accept, 80 : drop }"), False),
    ("the remote subnet is dropped", table("ip daddr 10.2.0.0/16 drop", hook=ACCEPTS), True),
    ("the local subnet is dropped", table("ip saddr { 10.9.0.0/16, 10.1.0.0-10.1.1.255 } drop", hook=ACCEPTS), True),
    ("all but another subnet is dropped", table("ip daddr != 10.9.0.0/16 drop", hook=ACCEPTS), True),
    ("some hosts are dropped", table("ip daddr 10.2.0.7 drop", "ip saddr @bad drop", hook=ACCEPTS), False),
    ("the subnets are accepted", table("ip saddr 10.1.0.0/24 accept", "ip daddr 10.1.0.0/24 accept"), False),
    ("other subnets are accepted", table("ip saddr 10.9.0.0/16 accept", "ip daddr 10.9.0.0/16 accept"), True),
    ("IPv6 is dropped", table("meta nfproto ipv6 drop", "ip6 daddr ::/0 drop", hook=ACCEPTS, name="inet x"), False),
    ("a table for IPv6", table(name="ip6 filter"), False),
    ("fwd's own guards", table(name="inet fwd_far"), True),
    ("firewalld", table(*FIREWALLD, hook=ACCEPTS, more=POLICIES.format("")), True),
    ("firewalld, and zones for other devices", table(*FIREWALLD, hook=ACCEPTS, more=ZONES), True),
    ("firewalld, and a policy for fwd", table(*FIREWALLD, hook=ACCEPTS, more=FOR_FWD), False),
    ("some leave before the drop", table("jump DOCKER-USER", hook=ACCEPTS,
     more=USER.format("tcp dport 22 return\n\t\tdrop")), False),
    ("all leave before it", table("jump DOCKER-USER", hook=ACCEPTS, more=USER.format("return\n\t\tdrop")), False),
    ("a chain that drops", table("jump DOCKER-USER", "accept", hook=ACCEPTS, more=USER.format("drop")), True),
]  # fmt: skip


@pytest.mark.parametrize(("what", "listing", "drops"), CASES, ids=[row[0] for row in CASES])
def test_what_is_dropped(what: str, listing: str, drops: bool) -> None:
    name = listing.split(" {")[0].removeprefix("table ")
    assert filters.dropping(listing, filters.ways("fwd0", {LOCAL: ["lan"]}, PAIRS)) == (
        (f"{name} FORWARD",) if drops else ()
    )


def test_where_the_lan_is_need_not_be_known() -> None:
    ways = filters.ways("fwd0", {}, PAIRS)
    assert filters.dropping(table('iifname "fwd0" accept'), ways) == ("ip filter FORWARD",)
    assert not filters.dropping(table('iifname "fwd0" accept', 'iifname "eth1" accept'), ways)
    assert not filters.dropping(table('iifname "lan" drop', hook=ACCEPTS), ways)


def test_each_device_of_the_lan_and_each_pair_of_subnets_must_pass() -> None:
    both = [(LOCAL, REMOTE), (LOCAL6, REMOTE6)]
    one_lan = table('iifname "lan" accept', 'iifname "fwd0" accept', name="inet x")
    at_lan = dict.fromkeys([LOCAL, LOCAL6], ("lan",))
    assert not filters.dropping(one_lan, filters.ways("fwd0", at_lan, both))
    assert filters.dropping(one_lan, filters.ways("fwd0", {LOCAL: ["lan"], LOCAL6: ["lan", "lan2"]}, both))
    of_v6 = table("ip6 daddr fd00:2::/64 drop", hook=ACCEPTS, name="inet x")
    assert filters.dropping(of_v6, filters.ways("fwd0", at_lan, both))
    assert not filters.dropping(of_v6, filters.ways("fwd0", {LOCAL: ["lan"]}, PAIRS))


def test_tables_that_may_drop_are_found_by_their_chains() -> None:
    names = ("inet a", "ip b", "bridge c", "inet fwd_far")
    chains = "".join(table(name=name) for name in names) + table(hook="", name="ip d")
    assert filters.judged_tables(chains) == ["inet a", "ip b"]


def test_a_rule_against_forged_sources_at_each_device_drops_nothing_of_the_subnets_that_are_there() -> None:
    rules = [f'iifname "{lan}" ip saddr != {subnet} drop' for lan, subnet in (("lan", LOCAL), ("lan2", OTHER))]
    listing = table(*rules, hook=ACCEPTS)
    pairs = [(LOCAL, REMOTE), (OTHER, REMOTE)]
    assert not filters.dropping(listing, filters.ways("fwd0", {LOCAL: ["lan"], OTHER: ["lan2"]}, pairs))
    assert filters.dropping(listing, filters.ways("fwd0", {LOCAL: ["lan2"], OTHER: ["lan2"]}, pairs))

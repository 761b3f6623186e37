"""Which firewalls drop whatever is forwarded, by what nft lists."""

from __future__ import annotations

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
CASES = [
    ("nothing is accepted", table(), True),
    ("its policy is to accept", table(hook=HOOK.replace("drop", "accept")), False),
    ("another hook", table(hook=HOOK.replace("forward", "input")), False),
    ("all is accepted", table("counter packets 1 bytes 2 accept"), False),
    ("answers alone", table("ct state established,related accept"), True),
    ("the TUN device, both ways", table('iifname "fwd0" accept', 'oifname "fwd0" accept'), False),
    ("the TUN device, one way", table('iifname "fwd0" accept'), True),
    ("by a pattern and a set", table('iifname "fwd*" accept', 'oifname { "eth0", "fwd0" } accept'), False),
    ("all but the TUN device", table('iifname != "fwd0" oifname != "fwd0" accept'), True),
    ("Docker", table(*DOCKER, more=USER.format("counter packets 12 bytes 900 return")), True),
    ("Docker, and what its manual says", table(*DOCKER, more=USER.format("accept")), False),
    ("jumps in a circle", table("jump DOCKER-USER", more=USER.format("jump FORWARD")), True),
]


@pytest.mark.parametrize(("what", "listing", "drops"), CASES, ids=[row[0] for row in CASES])
def test_what_is_dropped(what: str, listing: str, drops: bool) -> None:
    assert filters.dropping(listing, "fwd0", ["lan"]) == (["ip filter FORWARD"] if drops else [])


def test_where_the_lan_is_need_not_be_known() -> None:
    one_way = table('iifname "fwd0" accept')
    assert filters.dropping(one_way, "fwd0") == ["ip filter FORWARD"]
    assert not filters.dropping(table('iifname "fwd0" accept', 'iifname "eth1" accept'), "fwd0")


def test_tables_that_may_drop_are_found_by_their_chains() -> None:
    chains = "".join(table(name=name) for name in ("inet a", "ip b", "bridge c")) + table(hook="", name="ip d")
    assert filters.strict_tables(chains) == ["inet a", "ip b"]

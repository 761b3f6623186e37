"""Which leak guards there are to be, whose those are that stand, and which may go: pure, of values.

Guards (rule 4) hold while fwd is dead, too: an `unreachable` route of high metric for each remote subnet, and an
nftables table that drops packets from a remote subnet that did not come out of the TUN device, packets to one that
would leave by anything else, and packets out of the TUN device that would leave to the outside. Both survive a crash; a
clean stop removes them.

Several fwds may share a network. Each has a number of its own (owner.py): it is in the table's comment, and is the
protocol of the routes. What a living one has is refused to others; a dead one's is taken over by who wants it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address, ip_network, summarize_address_range
from typing import Final

from fwd.model.config import Peering
from fwd.model.subnets import inside
from fwd.model.words import Network
from fwd.supervise.owner import NUMBERS, is_ours

METRIC: Final = 1_000_000
OWNERLESS: Final = 4  # RTPROT_STATIC, as the guards of a fwd without numbers are marked
STRANGERS: Final = 0  # the owner of a table that is not fwd's, whatever it is called
_PREFIX: Final = "fwd_"
_COMMANDS_MOST: Final = 8
# What the kernel itself may tell a host of the LAN, with the beginning of a packet that it had sent.
_QUOTING: Final = {
    4: "icmp type { destination-unreachable, redirect, time-exceeded, parameter-problem }",
    6: "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem, nd-redirect }",
}


class Guards(Enum):
    """What becomes of the leak guards at the end."""

    REMOVED = 1  # a clean stop
    STAND = 2  # a crash
    AS_BEFORE = 3  # a start that failed


@dataclass(frozen=True)
class Table:
    """What is known of a table that stands: who has set it, and for which remote subnets."""

    owner: int
    subnets: tuple[Network, ...]
    mark: str = ""  # of its configuration (owner.py)


@dataclass(frozen=True)
class Found:
    """The guards in the kernel: tables by name, and whose the route of each remote subnet is."""

    tables: Mapping[str, Table]
    routes: Mapping[Network, int]


def table_name(peering: Peering) -> str:
    """Name the peering's nftables table."""
    return _PREFIX + peering.name.replace("-", "_")


Outside = Mapping[str, Iterable[Network]]  # devices that lead there → local subnets that are not at them


def ruleset(
    peering: Peering, number: int, mark: str = "", outside: Outside | None = None, *, closed: bool = False
) -> str:
    """The table as nft reads it: made anew in one transaction, whatever was there.

    `closed`: the TUN device is not open (yet), so what has its name may be anything, and nothing passes.
    `outside`: where decrypted packets must not go, though the host's routes may say so when the LAN has gone.
    """
    name, tun = table_name(peering), peering.tun
    passing = '"lo"' if closed else f'"{tun}", "lo"'
    inward, outward = _past(peering, closed=closed)
    for version, family in ((4, "ip"), (6, "ip6")):
        subnets = ", ".join(str(n) for n in peering.remote_ts if n.version == version)
        if subnets:
            inward.append(f"iifname != {{ {passing} }} {family} saddr {{ {subnets} }} counter drop")
            outward.append(f"oifname != {{ {passing} }} {family} daddr {{ {subnets} }} counter drop")
    clamp = []
    if peering.payload == "esp" and peering.mss_clamp:
        # Both ways: `rt mtu` is the smaller of the route to the destination and the one back to the source.
        clamp = [
            f'{way} "{tun}" tcp flags syn / syn,rst tcp option maxseg size set rt mtu' for way in ("oifname", "iifname")
        ]
    kept_in = [] if closed else list(_kept_in(f'iifname "{tun}" ', outside or {}))
    quoting = list(_kept_in("", outside or {}, _QUOTING))
    chains = (
        ("from_wire", "type filter hook prerouting priority raw; policy accept;", inward),
        ("to_wire", "type filter hook postrouting priority filter; policy accept;", outward),
        ("to_lan", "type filter hook forward priority filter; policy accept;", kept_in),
        ("from_here", "type filter hook output priority filter; policy accept;", quoting),
        ("clamp", "type filter hook forward priority mangle; policy accept;", clamp),
    )
    body = "\n".join(f"chain {c} {{ {hook}\n" + "\n".join(rules) + "\n}" for c, hook, rules in chains)
    comment = f'comment "{f"fwd {number} {mark}".rstrip()}"'
    return f"table inet {name}\ndelete table inet {name}\ntable inet {name} {{\n{comment}\n{body}\n}}\n"


def _past(peering: Peering, *, closed: bool) -> tuple[list[str], list[str]]:
    """What lets a peering's own outer packets pass, and keeps them out of its tunnel: of far gateways inside it."""
    far = ", ".join(map(str, inside(peering.reached, peering.remote_ts)))
    if closed or not far:
        return [], []
    local, family = peering.local_addrs, "ip" if peering.local_addrs.version == 4 else "ip6"
    ports = [f"{peering.ports[0]}-{peering.ports[-1]}", *([str(peering.ike.ike_port)] if peering.ike else [])]
    to_here = f"{family} saddr {{ {far} }} {family} daddr {local} udp dport {{ {', '.join(ports)} }}"
    from_here = f"{family} daddr {{ {far} }} {family} saddr {local} udp sport {{ {', '.join(ports)} }}"
    inward = [f'iifname "{peering.tun}" {to_here} counter drop', f"{to_here} accept"]
    return inward, [f'oifname "{peering.tun}" {from_here} counter drop', f"{from_here} accept"]


def _kept_in(start: str, outside: Outside, which: Mapping[int, str] | None = None) -> Iterator[str]:
    for device, subnets in sorted(outside.items()):
        for version, family in ((4, "ip"), (6, "ip6")):
            listed = ", ".join(str(subnet) for subnet in subnets if subnet.version == version)
            if listed:
                kind = f" {which[version]}" if which else ""
                yield f'{start}oifname "{device}" {family} daddr {{ {listed} }}{kind} counter drop'


def stands(listing: str, rules: str) -> bool:
    """Whether what nft lists, without counters, is what `rules` have set: the same owner, hooks and verdicts."""
    comment = re.search(r'^comment ".*"$', rules, re.MULTILINE)
    counted = (" hook ", " counter drop\n", " size set rt mtu\n")
    alike = all(listing.count(word) == rules.count(word) for word in counted)
    return comment is not None and comment[0] in listing and alike


def table_in(listing: str) -> Table:
    """What a table is, by what `nft list table` prints."""
    comment = re.search(r'^\tcomment "fwd (\d+)(?: ([0-9a-f]+))?"$', listing, re.MULTILINE)
    if not comment and not all(f"\tchain {name} {{" in listing for name in ("from_wire", "to_wire")):
        return Table(STRANGERS, ())
    subnets: list[Network] = []
    for several, single in re.findall(r"saddr (?:\{([^}]*)\}|([^\s{]+)) counter", listing):
        for words in (several or single).split(","):
            # Neighbours in one set come back as a range.
            first, _, last = words.strip().partition("-")
            subnets += summarize_address_range(ip_address(first), ip_address(last)) if last else [ip_network(first)]
    return Table(int(comment[1]) if comment else OWNERLESS, tuple(subnets), (comment and comment[2]) or "")


def refusal(peering: Peering, found: Found, living: Collection[int]) -> str | None:
    """Why a peering's guards cannot be set, in one line: one of the other fwds, `living`, has them. None: they can."""
    name = table_name(peering)
    owner = found.tables[name].owner if name in found.tables else None
    if owner == STRANGERS:
        return f"there is a table inet {name} in nftables that is not fwd's: choose another name for one of them"
    if owner in living:
        return f"another fwd on this host has a peering of this name (nftables table {name}): choose another name"
    for subnet in peering.remote_ts:
        for other, owner in found.routes.items():
            if owner in living and _overlap(subnet, other):
                return f"remote_ts {subnet}: another fwd on this host has a peering to {other}"
    return None


def leftovers(
    found: Found, wanted: Iterable[Peering], number: int, living: Collection[int] = (), mark: str = ""
) -> tuple[list[str], list[Network]]:
    """Tables and remote subnets whose guards are to go: ours that nobody wants, and a dead one's in our way.

    Ours are those of a dead one of our `mark`, too. What another dead one has left elsewhere stays: its successor will
    want it. Without a number, it is nobody's.
    """
    wanted = list(wanted)
    names = {table_name(peering) for peering in wanted}
    subnets = {subnet for peering in wanted for subnet in peering.remote_ts}
    ours = {number, OWNERLESS, *_predecessors(found, living, mark)}

    def goes(owner: int, guarded: Iterable[Network]) -> bool:
        in_our_way = any(_overlap(one, other) for one in guarded for other in subnets)
        return owner in ours or (owner not in living and in_our_way)

    return (
        [name for name, table in found.tables.items() if name not in names and goes(table.owner, table.subnets)],
        [subnet for subnet, owner in found.routes.items() if subnet not in subnets and goes(owner, [subnet])],
    )


def _predecessors(found: Found, living: Collection[int], mark: str) -> set[int]:
    """Numbers of dead ones of this mark, which nobody else's guards have."""
    marks: dict[int, list[str]] = {}
    for table in found.tables.values():
        marks.setdefault(table.owner, []).append(table.mark)
    dead = {number: those for number, those in marks.items() if number in NUMBERS and number not in living}
    return {number for number, those in dead.items() if all(is_ours(mark, one) for one in those)}


def strangers_left(found: Found, wanted: Iterable[Peering], living: Collection[int], mark: str) -> Found:
    """Return what dead fwds have left that no start with this configuration takes away."""
    wanted = list(wanted)
    names, subnets = leftovers(found, wanted, OWNERLESS, living, mark)
    names += [table_name(peering) for peering in wanted]
    subnets += [subnet for peering in wanted for subnet in peering.remote_ts]

    def is_dead(owner: int) -> bool:
        return owner in NUMBERS and owner not in living

    tables = {name: one for name, one in found.tables.items() if is_dead(one.owner) and name not in names}
    return Found(tables, {one: whose for one, whose in found.routes.items() if is_dead(whose) and one not in subnets})


def removal(found: Found) -> str:
    """Return the commands that remove guards, as far as one line may name them."""
    commands = [f"nft delete table inet {name}" for name in sorted(found.tables)]
    for subnet in sorted(found.routes, key=str):
        commands.append(f"ip -{subnet.version} route del unreachable {subnet} metric {METRIC}")
    more = len(commands) - _COMMANDS_MOST
    return "; ".join(commands[:_COMMANDS_MOST]) + (f" (and {more} more)" if more > 0 else "")


def _overlap(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)

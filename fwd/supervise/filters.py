"""Which chains of other programs' firewalls drop whatever is forwarded, by what nft lists: pure, of text.

Only a forward hook whose policy is to drop is looked at, and whether any rule that it reaches could accept packets to
or from the TUN device. What single rules drop is not weighed up, and what iptables-legacy has is not seen.
"""

from __future__ import annotations

import re
from collections.abc import Collection

_TABLE = re.compile(r"^table (\w+ \S+) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_CHAIN = re.compile(r"^\tchain (\S+) \{\n(.*?)^\t\}", re.MULTILINE | re.DOTALL)
_HOOK = re.compile(r"^\t\ttype filter hook forward .*policy drop;", re.MULTILINE)
_JUMP = re.compile(r"\b(?:jump|goto) (\S+)")
_DEVICE = r'\b{way}(?:name)? (!= )?(?:"([^"]+)"|\{{([^}}]*)\}})'
_FORWARDED = ("inet", "ip", "ip6")


def strict_tables(chains: str) -> list[str]:
    """Tables with a forward hook whose policy is to drop, by what `nft list chains` prints."""
    return [name for name, body in _TABLE.findall(chains) if _HOOK.search(body) and name.split()[0] in _FORWARDED]


def dropping(listing: str, tun: str, lans: Collection[str] = ()) -> list[str]:
    """Base chains in a listing of whole tables that accept nothing from `lans` to the TUN device, or nothing back.

    Without `lans` it is not known which devices the local subnets are at.
    """
    found = []
    for table, body in _TABLE.findall(listing):
        chains = dict(_CHAIN.findall(body))
        for name, rules in chains.items():
            if _HOOK.search(rules) and not all(_passes(chains, name, way, set()) for way in _ways(tun, lans)):
                found.append(f"{table} {name}")
    return found


def _ways(tun: str, lans: Collection[str]) -> list[dict[str, Collection[str]]]:
    """Both ways through the host: the devices by which packets come, and by which they go; none: any but the other."""
    return [{"iif": (tun,), "oif": lans}, {"iif": lans, "oif": (tun,)}]


def _passes(chains: dict[str, str], name: str, way: dict[str, Collection[str]], seen: set[str]) -> bool:
    """Whether a chain, or one that it jumps to, may accept new packets that go this way."""
    if name in seen or name not in chains:
        return False
    seen.add(name)
    for rule in chains[name].splitlines():
        if not _concerns(rule, way):
            continue
        if re.search(r"\baccept\b", rule) and ("ct state" not in rule or "new" in rule):
            return True
        if any(_passes(chains, to, way, seen) for to in _JUMP.findall(rule)):
            return True
    return False


def _concerns(rule: str, way: dict[str, Collection[str]]) -> bool:
    """Whether a rule may match packets that go this way."""
    others = {"iif": way["oif"], "oif": way["iif"]}
    for end, devices in way.items():
        for unless, single, several in re.findall(_DEVICE.format(way=end), rule):
            names = [single] if single else [name.strip().strip('"') for name in several.split(",")]
            if devices:
                may = any(_is_named(device, names) != bool(unless) for device in devices)
            else:  # any device but those of the other end
                may = bool(unless) or not all(name in others[end] for name in names)
            if not may:
                return False
    return True


def _is_named(device: str, names: list[str]) -> bool:
    return any(device == name or (name.endswith("*") and device.startswith(name[:-1])) for name in names)

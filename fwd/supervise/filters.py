"""Which chains of other programs' firewalls drop whatever hosts of a peering send, by what nft lists: pure, of text.

A chain is gone through as the kernel does for the first packet of a connection, of which the devices and the subnets
are known and nothing else. A rule that may match and accepts lets it pass; a rule that surely matches and drops, or the
policy, ends it. What looks at anything else (ports, marks, sets by name) may match, and does not surely. Not seen:
iptables-legacy, and chains of the types nat and route or of the family netdev.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from ipaddress import ip_address, ip_network, summarize_address_range
from typing import Final

from fwd.model.words import Network

_TABLE = re.compile(r"^table (\w+ \S+) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_CHAIN = re.compile(r"^\tchain (\S+) \{\n(.*?)^\t\}", re.MULTILINE | re.DOTALL)
_HOOK = re.compile(r"^\t\ttype filter hook (?:prerouting|forward|postrouting) .*policy (accept|drop);", re.MULTILINE)
_VERSIONS: Final[Mapping[str, tuple[int, ...]]] = {"inet": (4, 6), "ip": (4,), "ip6": (6,)}  # that a family sees
_FWDS = re.compile(r"inet fwd_")  # fwd's own tables: the leak guards

# What of a rule decides nothing.
_COUNTS = re.compile(r"\bcounter(?: packets \d+ bytes \d+| name \S+)?|\bcomment \"[^\"]*\"")
_LOGS = re.compile(r"\blog\b(?: (?:prefix \"[^\"]*\"|level \w+|flags [\w, ]+?|group \d+|snaplen \d+))*(?= |$)")
# What of it can be told: devices, IP version, addresses, state.
_DEVICE = re.compile(r'\b([io])if(?:name)? (!= )?("[^"]+"|\{[^}]*\})')
_PROTOCOL = re.compile(r"\bmeta (?:nfproto ipv([46])|protocol ip(6)?)(?= |$)")
_ADDRESS = re.compile(r"\bip(6)? ([sd])addr (!= )?(\{[^}]*\}|\S+)")
_STATE = re.compile(r"\bct state (!= )?(?:vmap \{([^}]*)\}|\{([^}]*)\}|([\w,]+))")
_STATUS = re.compile(r"\bct status (?:assured|seen-reply|confirmed|snat|dnat)\b")  # which the first packet has not
_VERDICT = re.compile(r"\b(accept|drop|reject|queue|return|jump|goto)\b(?: (\S+))?.*$")
_JUMP = re.compile(r"\b(?:jump|goto) ([^\s,}]+)")
_NEW: Final = "new"  # the state of the first packet


@dataclass(frozen=True)
class Way:
    """Packets of one subnet pair in one direction. A device that is not known is empty."""

    arrives: str
    leaves: str
    source: Network
    to: Network


class _End(Enum):
    """How a packet leaves a chain."""

    PASSES = 1  # or may
    DROPPED = 2  # surely
    GOES_ON = 3  # to the chain that jumped here, or the policy


@dataclass(frozen=True)
class _Rule:
    """One rule, taken apart. `sure`: it looks at nothing but what is below."""

    devices: tuple[tuple[str, bool, tuple[str, ...]], ...]  # end (i, o), unless, names
    addresses: tuple[tuple[str, bool, tuple[Network, ...] | None], ...]  # end (s, d), unless, networks; None: a set
    versions: frozenset[int]
    concerns_new: bool
    sure: bool
    verdict: str
    targets: tuple[str, ...]


@dataclass
class _Walk:
    """Goes through the chains of one table for one way; each chain once."""

    chains: Mapping[str, str]
    way: Way
    ends: dict[str, _End] = field(default_factory=dict)

    def end(self, name: str) -> _End:
        """How packets of this way leave a chain."""
        if name not in self.ends:
            self.ends[name] = _End.GOES_ON  # a circle, which nft refuses
            self.ends[name] = self._through(name)
        return self.ends[name]

    def _through(self, name: str) -> _End:
        may_have_left = False
        for rule in _rules(self.chains.get(name, "")):
            may, sure = _matches(rule, self.way)
            if not may:
                continue

            # Of several chains that a rule may jump to, each may be the one.
            ends = [self.end(target) for target in rule.targets]
            if rule.verdict in ("accept", "queue") or _End.PASSES in ends:
                return _End.PASSES
            if not sure:
                may_have_left = may_have_left or rule.verdict in ("return", "goto")
            elif rule.verdict in ("drop", "reject") or (ends and set(ends) == {_End.DROPPED}):
                return _End.GOES_ON if may_have_left else _End.DROPPED
            elif rule.verdict in ("return", "goto"):
                return _End.GOES_ON
        return _End.GOES_ON


def judged_tables(chains: str) -> list[str]:
    """Tables that may drop what is forwarded, but for fwd's own, by what `nft list chains` prints."""
    found = [(name, body) for name, body in _TABLE.findall(chains) if name.split()[0] in _VERSIONS]
    return [name for name, body in found if _HOOK.search(body) and not _FWDS.match(name)]


def ways(
    tun: str, lans: Mapping[Network, Collection[str]], pairs: Iterable[tuple[Network, Network]]
) -> tuple[Way, ...]:
    """Both directions of each pair of subnets; `lans`: the devices that a local one is at, where they are known."""
    return tuple(
        way
        for local, remote in pairs
        for lan in sorted(lans.get(local, ())) or [""]
        for way in (Way(lan, tun, local, remote), Way(tun, lan, remote, local))
    )


@lru_cache(maxsize=256)
def dropping(listing: str, which: tuple[Way, ...]) -> tuple[str, ...]:
    """Base chains in a listing of whole tables that let nothing pass of at least one of these ways."""
    found = []
    for table, body in _TABLE.findall(listing):
        chains = dict(_CHAIN.findall(body))
        seen = [way for way in which if way.to.version in _VERSIONS.get(table.split()[0], ())]
        for name, rules in chains.items():
            if (hook := _HOOK.search(rules)) is None:
                continue
            ends = {_Walk(chains, way).end(name) for way in seen}
            if _End.DROPPED in ends or (_End.GOES_ON in ends and hook[1] == "drop"):
                found.append(f"{table} {name}")
    return tuple(found)


def _matches(rule: _Rule, way: Way) -> tuple[bool, bool]:
    """Whether a rule may match packets that go this way, and whether it surely does."""
    if way.to.version not in rule.versions or not rule.concerns_new:
        return False, False
    sure = rule.sure
    for end, unless, names in rule.devices:
        device, other = (way.arrives, way.leaves) if end == "i" else (way.leaves, way.arrives)
        if device:
            if _is_named(device, names) == unless:
                return False, False
            continue

        # It is not known where the LAN is: at any device but the TUN device.
        sure = False
        if not unless and all(name == other for name in names):
            return False, False
    for end, unless, networks in rule.addresses:
        may, surely = _holds(networks, way.source if end == "s" else way.to)
        may, surely = (not surely, not may) if unless else (may, surely)
        if not may:
            return False, False
        sure = sure and surely
    return True, sure


def _holds(networks: tuple[Network, ...] | None, subnet: Network) -> tuple[bool, bool]:
    """Whether some address of a subnet is in one of the networks, and whether all are in one of them."""
    if networks is None:
        return True, False
    same = [one for one in networks if one.version == subnet.version]
    return any(one.overlaps(subnet) for one in same), any(subnet.subnet_of(one) for one in same)  # type: ignore[arg-type]


def _is_named(device: str, names: tuple[str, ...]) -> bool:
    return any(device == name or (name.endswith("*") and device.startswith(name[:-1])) for name in names)


@lru_cache(maxsize=4096)
def _rules(chain: str) -> tuple[_Rule, ...]:
    lines = (line.strip() for line in chain.splitlines())
    return tuple(_parsed(line) for line in lines if line and not line.startswith(("type ", "#", "comment ")))


def _parsed(rule: str) -> _Rule:
    """Take a rule apart as nft prints it."""
    rest = _LOGS.sub("", _COUNTS.sub("", rule))
    devices = tuple((end, bool(unless), _names(names)) for end, unless, names in _DEVICE.findall(rest))
    addresses = tuple(
        (end, bool(unless), _networks(words)) for _, end, unless, words in _ADDRESS.findall(rest)
    )  # fmt: skip
    versions = {4, 6}
    for six, _, _, _ in _ADDRESS.findall(rest):
        versions &= {6 if six else 4}
    for of_nfproto, six in _PROTOCOL.findall(rest):
        versions &= {int(of_nfproto) if of_nfproto else 6 if six else 4}

    # What is left after all that can be told is a verdict, or a condition that may match.
    rest, concerns_new = _of_new(_PROTOCOL.sub("", _ADDRESS.sub("", _DEVICE.sub("", rest))))
    if " vmap " in f" {rest} ":
        verdict = "accept" if re.search(r"\b(?:accept|queue)\b", rest) else "goto" if "goto" in rest else ""
        return _Rule(devices, addresses, frozenset(versions), concerns_new, False, verdict, tuple(_JUMP.findall(rest)))
    found = _VERDICT.search(rest)
    sure = found is not None and not rest[: found.start()].strip()
    verdict = found[1] if found else ""
    targets = (found[2],) if found and verdict in ("jump", "goto") and found[2] else ()
    return _Rule(devices, addresses, frozenset(versions), concerns_new, sure, verdict, targets)


def _of_new(rule: str) -> tuple[str, bool]:
    """Take the condition on the connection's state out of a rule; whether it may match the first packet."""
    concerns = not _STATUS.search(rule)
    for unless, verdicts, several, single in _STATE.findall(rule):
        if verdicts:
            by_state = dict(re.findall(r"(\w+) : ([^,]+)", verdicts))
            concerns = concerns and _NEW in by_state
            rule = _STATE.sub(by_state.get(_NEW, "").strip(), rule, count=1)
        else:
            states = re.findall(r"\w+", several or single)
            concerns = concerns and (_NEW in states) != bool(unless)
            rule = _STATE.sub("", rule, count=1)
    return rule, concerns


def _names(words: str) -> tuple[str, ...]:
    return tuple(word.strip().strip('"') for word in words.strip("{}").split(","))


def _networks(words: str) -> tuple[Network, ...] | None:
    """The networks of an address condition; None: a set, or words that are not understood."""
    found: list[Network] = []
    for word in words.strip("{} ").split(","):
        first, _, last = word.strip().partition("-")
        try:
            if last:
                found += summarize_address_range(ip_address(first), ip_address(last))
            else:
                found.append(ip_network(first, strict=False))
        except (ValueError, TypeError):
            return None
    return tuple(found)

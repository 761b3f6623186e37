"""`fwd diagnose` on a router: what keeps it from spreading flows, as a pure function of what was looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fwd.diagnose.checks import Finding
from fwd.model.router import RouterConfig
from fwd.model.words import Network

_SHOWN: Final = 4
_STATUS: Final = "the router's status"
# What a router says of a gateway that it does not use (router/spread.py) → what to do.
_REMEDIES: Final = (
    ("does not answer", "does `fwd demux` run there, with `beacon` and this probe key? `fwd status` there shows what"
     " its beacon has answered and refused; see what drops UDP to port {port}"),
    ("has no peering", "give the peering there the spread's name, or the spread the peering's"),
    ("cannot reach the far side", "`fwd diagnose` and `fwd verify` there"),
    ("no device of this router", "give the router an address in that gateway's network, or a VXLAN device to it"),
    ("loses packets", "`fwd verify` there; see the links to it, and its load"),
)  # fmt: skip


@dataclass(frozen=True)
class Direct:
    """A destination on the far side that the kernel sends past the gateways."""

    network: Network
    way: str  # where it goes, in words


@dataclass(frozen=True)
class RouterFacts:
    """All that is known. `unseen`: what could not be looked at, and why."""

    config: RouterConfig
    status: Mapping[str, Any] | None = None
    absent: str = ""  # why no router answers
    probe_key: str = ""  # why its file is none
    direct: Sequence[Direct] = ()
    hashing: Sequence[str] = ()  # devices that give packets a hash of their own
    has_seed: bool = True  # this kernel has a seed that can be set
    unseen: Sequence[str] = ()


def findings(facts: RouterFacts) -> list[Finding]:
    """Return what every check has found, faults first."""
    found = [one for check in CHECKS for one in check(facts)]
    return sorted(dict.fromkeys(found), key=lambda one: one.severity != "fault")


def running(facts: RouterFacts) -> Iterator[Finding]:
    """Yield that no router answers; else why it is not ready."""
    if facts.status is None:
        remedy = "start it: `fwd router`; what an earlier one has programmed goes on meanwhile"
        yield Finding("not_running", "fault", "", "fwd router does not run, or says nothing", facts.absent, remedy)
        return
    for reason in facts.status.get("reasons", ()):
        yield Finding("router", "fault", "", str(reason), _STATUS, "see what it names; the log says more")


def keys(facts: RouterFacts) -> Iterator[Finding]:
    """Yield a probe key that is none."""
    if facts.probe_key:
        remedy = "the same file of 32 random octets in hexadecimal on routers and gateways, mode 0600"
        yield Finding("keys", "fault", "", facts.probe_key, "read as the router does", remedy)


def gateways(facts: RouterFacts) -> Iterator[Finding]:
    """Yield gateways that the router does not use as they should be, but those that somebody drains."""
    for spread in facts.status.get("spreads", ()) if facts.status else ():
        for one in spread["gateways"]:
            remedy = next((text for start, text in _REMEDIES if one["why"].startswith(start)), "")
            if one["use"] == "down" or remedy:
                state = "is not used" if one["use"] == "down" else f"is in use ({one['use']}), for less"
                remedy = (remedy or "see `fwd status` there").format(port=facts.config.router.beacon_port)
                what = f"gateway {one['name']} {state}: {one['why']}"
                yield Finding("gateway", "warning", spread["name"], what, _heard(one), remedy)


def _heard(gateway: Mapping[str, Any]) -> str:
    heard, loss = gateway.get("heard_s"), gateway.get("loss") or 0.0
    said = "it has never answered a probe" if heard is None else f"its last answer was {heard:.1f} s ago"
    return f"{said}; {loss:.1%} of the probes lost" if loss else said


def direct(facts: RouterFacts) -> Iterator[Finding]:
    """Yield what goes to the far side round the tunnels."""
    for one in facts.direct:
        what = f"packets to {one.network} go round the tunnels"
        remedy = f"take that route away: `ip route show table all to root {one.network}`, and `ip rule`"
        yield Finding("direct_route", "fault", "", what, f"the kernel sends them {one.way}", remedy)


def hashing(facts: RouterFacts) -> Iterator[Finding]:
    """Yield what makes two routers choose otherwise, where they are to choose alike."""
    if facts.config.router.hash_seed is None:
        return
    if not facts.has_seed:
        what = "there is no hash seed here that can be set, so another router chooses other slots"
        remedy = "Linux 6.11, and /proc/sys not read-only; without it flows go well, and move once with the address"
        yield Finding("hash_seed", "warning", "", what, "no net.ipv4.fib_multipath_hash_seed to write to", remedy)
    if facts.hashing:
        what = "slots are chosen by a hash of the network card's, and not by the seed"
        more = f" and {len(facts.hashing) - _SHOWN} more" if len(facts.hashing) > _SHOWN else ""
        evidence = f"receive-hashing is on: {', '.join(facts.hashing[:_SHOWN])}{more}"
        remedy = f"ethtool -K {facts.hashing[0]} rxhash off, on each of them"
        yield Finding("receive_hash", "warning", "", what, evidence, remedy)


CHECKS: Final[tuple[Callable[[RouterFacts], Iterator[Finding]], ...]] = (running, keys, gateways, direct, hashing)

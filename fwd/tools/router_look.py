"""Gathers what router_checks.py judges, and diagnoses a host by what its configuration is of: a gateway or a router."""

from __future__ import annotations

import json
import os
import socket
import tomllib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

from pyroute2 import IPRoute

from fwd.diagnose import command as gateways
from fwd.diagnose.checks import Finding
from fwd.diagnose.gather import Look
from fwd.files import why_no_probe_key
from fwd.model.router import RouterConfig, load_router
from fwd.model.toml import read_text
from fwd.model.words import ConfigError, Network
from fwd.router.client import ask
from fwd.router.commands import CONFIG as ROUTER
from fwd.router.nexthop import OWNER, NextHops, Target
from fwd.supervise.netlink import Kernel
from fwd.tools.at_router import hashes_itself
from fwd.tools.route import Route, device_towards
from fwd.tools.router_checks import CHECKS, Direct, RouterFacts, findings

_SEED: Final = Path("/proc/sys/net/ipv4/fib_multipath_hash_seed")
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_UNICAST: Final = 1


def is_router(path: Path) -> bool:
    """Whether a configuration is a router's."""
    try:
        return "router" in tomllib.loads(read_text(path))
    except (ConfigError, ValueError, RecursionError):
        return False


def chosen(path: Path, default: Path) -> Path:
    """Return the configuration that is meant: by default a router's, where there is no gateway's."""
    return ROUTER if path == default and not path.exists() and ROUTER.exists() else path


def diagnose(path: Path, control: Path | None, *, as_json: bool) -> tuple[str, int]:
    """Return what to print, and the exit status: 0 if nothing was found, 1 if something was."""
    if not is_router(path):
        return gateways.diagnose(path, control, as_json=as_json)
    try:
        config = load_router(path)
    except ConfigError as error:
        remedy = "mend it: `fwd router check` says the same"
        found, unseen = [Finding("config", "fault", "", str(error), "read as `fwd router` does", remedy)], ["all else"]
    else:
        facts = gather(config, control or config.router.control)
        found, unseen = findings(facts), list(facts.unseen)
    if as_json:
        return json.dumps({"findings": [asdict(one) for one in found], "unseen": unseen}, indent=2), int(bool(found))
    return "\n".join(gateways.lines(found, unseen, len(CHECKS) + 1)), int(bool(found))


def gather(config: RouterConfig, control: Path) -> RouterFacts:
    """Look at everything for a router's configuration; the router is asked at `control`."""
    look = Look()
    status = look.at("the router", ask, control)
    absent, look.unseen = "; ".join(look.unseen), []
    return RouterFacts(
        config=config,
        status=status,
        absent=absent,
        probe_key=look.at("the probe key", _probe_key, config) or "",
        direct=look.at("routes", _direct, config) or (),
        hashing=look.at("devices", _hashing) or (),
        has_seed=os.access(_SEED, os.W_OK),  # a container's is there, and read-only
        unseen=look.unseen,
    )


def _probe_key(config: RouterConfig) -> str:
    return why_no_probe_key(config.probe_key)


def _hashing() -> list[str]:
    return sorted(name for _, name in socket.if_nameindex() if name != "lo" and hashes_itself(name))


# -- what goes round the tunnels ----------------------------------------------------------------------------------


def _direct(config: RouterConfig) -> list[Direct]:
    """Find destinations on the far side that the kernel sends elsewhere than to a gateway of the router's.

    Asked for: an address of each far subnet, and of each part of one to which somebody has a route of his own. What a
    router keeps from default routes on this side (local_ts, networks of links) is not asked for.
    """
    with closing(NextHops()) as kernel:
        owned = kernel.owned()  # first: a socket's first dump is too small for a route over 256 next hops
        ways = kernel.ways()
    with closing(Kernel()) as asks:
        near = {*config.router.local_ts, *(one.network for one in asks.addresses())}
    far = {way.network for way in ways if way.group is not None or way.network not in near}
    far |= {one for spread in config.spread for one in spread.remote_ts}
    hops = {one.gateway for one in owned.values() if isinstance(one, Target)}
    found = []
    for network in sorted({*far, *_parts(far)}, key=lambda one: (one.version, one)):
        route = device_towards(network[min(1, network.num_addresses - 1)])
        if not route.stopped and route.gateway not in hops:
            found.append(Direct(network, _words(route)))
    return found


def _parts(far: set[Network]) -> Iterator[Network]:
    """Yield the parts of far subnets to which there are routes that are none of a router's, in whichever table."""
    with IPRoute() as ip:
        ip.get_links()  # as above
        for version in {one.version for one in far}:
            for message in ip.get_routes(family=_FAMILIES[version]):
                network = _network(message)
                if network is not None and any(_within(network, one) for one in far):
                    yield network


def _network(message: Any) -> Network | None:
    """The destination of somebody's route; None: the default route, a router's, or one that leads nowhere."""
    to = message.get_attr("RTA_DST")
    if to is None or message["proto"] == OWNER or message["type"] != _UNICAST:
        return None
    return ip_network((to, message["dst_len"]))


def _within(network: Network, far: Network) -> bool:
    return network.version == far.version and network.prefixlen >= far.prefixlen and network[0] in far


def _words(route: Route) -> str:
    if route.is_local:
        return "to this host itself"
    return f"by {route.device} to {route.gateway}" if route.gateway else f"by {route.device}, as to a neighbour"

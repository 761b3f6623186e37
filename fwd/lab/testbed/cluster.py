"""What profile `cluster` must show: a controller with three etcds, three gateways and two routers in each VPC.

Scenario after scenario, on one `Fleet`. What is killed is killed from outside, as a host that loses its power, and the
engine starts it anew. Flows are numbered UDP messages with answers (fwd/lab/fleet/talk.py).
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from fwd.lab import tools
from fwd.lab.scenario import Failed, Figures, Scenario
from fwd.lab.testbed.containers import Containers, esp_alone
from fwd.lab.testbed.engine import Engine
from fwd.lab.told import Json, router_asked
from fwd.lab.waiting import until
from fwd.lab.world import LabError

GATEWAYS: Final = ("a1", "a2", "a3", "b1", "b2", "b3")
ROUTERS: Final = {"r1a": "10.11.0.1/", "r1b": "10.11.0.1/", "r2a": "10.12.0.1/", "r2b": "10.12.0.1/"}  # what two share
_OUTER: Final = {name: f"192.0.2.{1 + (name > 'b')}{name[1]}" for name in GATEWAYS}
_ADDRESS: Final = {"app1": "10.11.9.10", "app2": "10.12.9.10"}
_IPV6: Final = "fd00:12:0:9::10"  # app2's
_PORTS: Final = 8  # at most, of a gateway
_TALK: Final = "fwd.lab.fleet.talk"
_FLOWS, _RATE_HZ = 64, 20.0
_WHOLE_S: Final = 300.0  # from nothing, on a busy machine
_BACK_S: Final = 120.0  # of what was killed
_SILENCE_S: Final = 2.0  # of any flow meanwhile, on a busy machine


class Fleet(Containers):
    """The containers of the profile."""

    def __init__(self, engine: Engine, directory: Path) -> None:
        super().__init__(engine, directory, _ADDRESS)

    def restarts(self, service: str) -> int:
        """How often the engine has started a container anew."""
        count: int = self.state(service)["RestartCount"]
        return count

    def kill(self, service: str) -> int:
        """Kill a container's first process, and with it all; how often it had been started anew before."""
        before = self.restarts(service)
        os.kill(self.pid(service), signal.SIGKILL)
        return before

    def router_uses_all(self, router: str) -> bool:
        """Whether a router is ready, and gives flows to all gateways."""
        try:
            shown = router_asked(self.control(router).with_name("router.sock"))
        except (Failed, LabError):  # it is being started anew
            return False
        return bool(shown.get("ready")) and all(
            one["use"] == "up" for spread in shown["spreads"] for one in spread["gateways"]
        )

    def has_address(self, router: str) -> bool:
        """Whether a router has the address that it shares with its partner."""
        try:
            return ROUTERS[router] in self.run(router, ["ip", "-o", "address"], check=False).stdout
        except (Failed, LabError):
            return False

    def in_charge(self) -> dict[str, str]:
        """Return the router of each shared address; empty while it is not one of two."""
        found = {address: router for router, address in ROUTERS.items() if self.has_address(router)}
        return found if len(found) == sum(map(self.has_address, ROUTERS)) == len(set(ROUTERS.values())) else {}

    def is_ready(self, gateway: str) -> bool:
        """Whether a gateway runs and says so."""
        try:
            return self.ready(gateway)
        except (Failed, LabError):
            return False

    def fleet(self) -> dict[str, str]:
        """How the controller says that each host is; empty while it does not answer."""
        try:
            told: list[Json] = [
                one
                for kind in ("gateway", "router")
                for one in json.loads(self.execute("controller", "fwd", kind, "list", "--json"))
            ]
        except (Failed, LabError, ValueError):
            return {}
        return {one["name"]: one["health"]["state"] for one in told}

    def await_whole(self) -> None:
        """Until all gateways and routers carry, and the controller says so."""
        for gateway in GATEWAYS:
            until(functools.partial(self.is_ready, gateway), f"{gateway} is ready", _WHOLE_S)
        for router in ROUTERS:
            until(functools.partial(self.router_uses_all, router), f"{router} uses all gateways", _WHOLE_S)
        until(self.in_charge, "one router in charge of each VPC", _WHOLE_S)
        until(self._is_up, "the controller says that all are up", _WHOLE_S)

    def _is_up(self) -> bool:
        found = self.fleet()
        return set(found) == {*GATEWAYS, *ROUTERS} and set(found.values()) == {"up"}

    @contextlib.contextmanager
    def talk(self, to: str = _ADDRESS["app2"]) -> Iterator[dict[str, Any]]:
        """Flows from app1 while the block runs; what became of them is there afterwards."""
        told: dict[str, Any] = {}
        asking = [_TALK, "ask", to, str(_FLOWS), f"{_RATE_HZ:g}"]
        with tools.tool(self, "app2", [_TALK, "answer"]), tools.tool(self, "app1", asking) as flows:
            time.sleep(1.0)
            yield told
            flows.terminate()
            told |= json.loads(tools.output(flows))

    def records(self, gateway: str) -> int:
        """Of both ways, through a gateway's tunnels; 0 while it has none."""
        books = [one["books"] for one in self.status(gateway)["peerings"]]
        return sum(min(one["out_records_out"], one["in_records_out"]) for one in books)


def _whole(fleet: Fleet) -> Figures:
    """`up` has just returned: tokens, joins, clusters and peering come by themselves."""
    start_s = time.monotonic()
    until(lambda: fleet.state("fleet")["State"]["Status"] == "exited", "fleet has made all of it", _WHOLE_S)
    if code := fleet.state("fleet")["State"]["ExitCode"]:
        raise Failed(f"fleet ended with {code}")
    fleet.await_whole()
    return {"after_up_s": round(time.monotonic() - start_s, 1), "hosts": len(fleet.fleet())}


def _over_all_pairs(fleet: Fleet) -> Figures:
    """Flows of both IP versions, over each gateway both ways, and as ESP alone."""
    figures: Figures = {}
    for version, to in (("ipv4", _ADDRESS["app2"]), ("ipv6", _IPV6)):
        before = {one: fleet.records(one) for one in GATEWAYS}
        with esp_alone(fleet.watched(tuple(_OUTER.values()), _PORTS)) as wire, fleet.talk(to) as told:
            until(functools.partial(_grown, fleet, before), "flows by all pairs", _BACK_S)
        if told["lost"] or told["reordered"]:
            raise Failed(f"{version}: {told['lost']} lost, {told['reordered']} reordered")
        figures |= {f"{version}_messages": sum(told["sent"]), f"{version}_esp_packets": wire["esp_packets"]}
    return figures


def _grown(fleet: Fleet, before: Mapping[str, int]) -> bool:
    return all(fleet.records(one) > count for one, count in before.items())


def _silent(told: Json) -> Figures:
    """What flows felt, within bounds."""
    silence_s = sorted(told["silence_s"])
    figures = {"longest_silence_s": silence_s[-1], "lost": told["lost"], "of": sum(told["sent"])}
    if silence_s[-1] > _SILENCE_S:
        raise Failed(f"flows must be silent for less than {_SILENCE_S:g} s: {figures}")
    return figures


def _gateway_killed(fleet: Fleet) -> Figures:
    """Its flows go on by the others, and it is back in use."""
    with fleet.talk() as told:
        start_s, before = time.monotonic(), fleet.kill("a2")
        until(lambda: fleet.restarts("a2") > before and fleet.is_ready("a2"), "a2 is started anew, and ready", _BACK_S)
        for router in ROUTERS:
            until(functools.partial(fleet.router_uses_all, router), f"{router} uses a2 and its partner again", _BACK_S)
        back_s = time.monotonic() - start_s
    return {"back_s": round(back_s, 1), **_silent(told)}


def _router_killed(fleet: Fleet) -> Figures:
    """The other one has the address, and keeps it."""
    router = fleet.in_charge()[ROUTERS["r1a"]]
    other = next(one for one in ("r1a", "r1b") if one != router)
    with fleet.talk() as told:
        start_s, before = time.monotonic(), fleet.kill(router)
        until(lambda: fleet.has_address(other), f"{other} has the address", _BACK_S)
        taken_s = time.monotonic() - start_s
        until(lambda: fleet.restarts(router) > before and fleet.router_uses_all(router), f"{router} is back", _BACK_S)
        back_s = time.monotonic() - start_s
    if fleet.in_charge().get(ROUTERS[other]) != other:
        raise Failed(f"{other} has not kept the address: {fleet.in_charge()}")
    return {"address_taken_s": round(taken_s, 2), "back_s": round(back_s, 1), **_silent(told)}


def _controller_killed(fleet: Fleet) -> Figures:
    """No packet waits for it, and it is back by itself."""
    with fleet.talk() as told:
        start_s, before = time.monotonic(), fleet.kill("controller")
        until(lambda: fleet.restarts("controller") > before, "the controller is started anew", _BACK_S)
        fleet.await_whole()
        back_s = time.monotonic() - start_s
    if told["lost"] or told["reordered"]:
        raise Failed(f"{told['lost']} lost, {told['reordered']} reordered")
    return {"back_s": round(back_s, 1), **_silent(told)}


def _etcd_killed(fleet: Fleet) -> Figures:
    """One of three, and for good: the controller writes to the two that are left."""
    fleet.engine.docker("kill", "--signal", "KILL", fleet.container("etcd1"))
    start_s = time.monotonic()
    until(lambda: _writes(fleet), "the controller writes", _BACK_S)
    written_s = time.monotonic() - start_s
    fleet.engine.docker("start", fleet.container("etcd1"))
    return {"written_after_s": round(written_s, 1)}


def _writes(fleet: Fleet) -> bool:
    try:
        return bool(fleet.execute("controller", "fwd", "token", "create", "role=viewer"))
    except LabError:
        return False


SCENARIOS: Final[tuple[Scenario[Fleet], ...]] = (
    Scenario("cluster: joined by tokens, peered, all up", _whole),
    Scenario("cluster: traffic over all pairs, both IP versions", _over_all_pairs),
    Scenario("cluster: a gateway killed", _gateway_killed),
    Scenario("cluster: a router killed, of two", _router_killed),
    Scenario("cluster: the controller killed", _controller_killed),
    Scenario("cluster: an etcd killed, of three", _etcd_killed),
)

"""Why a gateway is not ready, as values: a stable code for programs, a sentence and a remedy for people.

Every reason is made from a row of KINDS (`Reason.of`), so that a code without a sentence and a remedy cannot be had.
Pure: who looks at processes, SAs and the kernel decides which reasons there are, and makes them here. The supervisor
hands its own to the agent as JSON (`shared.troubles`, key `reasons`: a list of `as_json`), and the agent adds its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Any, Final, NamedTuple

from fwd.model.shown import STRICT, as_json, read


class Code(StrEnum):
    """Names of what keeps a gateway from being ready; they do not change."""

    DRAINING = "draining"
    PROCESS = "process"
    SUPERVISOR = "supervisor"
    NOTHING_TO_CARRY = "nothing_to_carry"
    NOT_IN_FORCE = "not_in_force"
    NOT_SET_UP = "not_set_up"
    TERMINATED = "terminated"
    NO_CHILD_SA = "no_child_sa"
    NARROWER = "narrower"
    PATH_DOWN = "path_down"
    DEVICE_DOWN = "device_down"
    ROUTE_MISSING = "route_missing"
    GUARD_MISSING = "guard_missing"
    NO_LAN_ADDRESS = "no_lan_address"
    NO_OUTER_ADDRESS = "no_outer_address"
    NO_OUTER_ROUTE = "no_outer_route"
    ROUTE_TAKEN = "route_taken"
    FORWARDING_OFF = "forwarding_off"
    FILTER_DROPS = "filter_drops"
    KERNEL = "kernel"


class Kind(NamedTuple):
    """One row of KINDS: what a code means (for the manual), its sentence, and what to do."""

    meaning: str
    text: str
    remedy: str


KINDS: Final[Mapping[Code, Kind]] = {
    Code.DRAINING: Kind(
        "a user wants the gateway out of service (`fwd drain`); traffic goes on",
        "draining: a user wants it out of service; traffic goes on",
        "`fwd undrain`, once it is to serve again",
    ),
    Code.PROCESS: Kind(
        "a process that packets or keys need does not run, or hangs",
        "{what} is {state}",
        "fwd starts it again by itself; if it stays so, the log says why",
    ),
    Code.SUPERVISOR: Kind(
        "the supervisor does not go on: nobody watches processes, routes and guards, and what it told last may be old",
        "the supervisor, pid {pid}, has not gone on for {silent_s} s: what is shown may be old",
        "see `cat /proc/{pid}/status` (State T: `kill -CONT {pid}`) and /proc/{pid}/wchan, or restart fwd",
    ),
    Code.NOTHING_TO_CARRY: Kind(
        "a gateway that has joined a controller has no peering yet",
        "nothing to carry: no peering yet",
        "put the gateway into a cluster, and peer that with another, on the controller {where}",
    ),
    Code.NOT_IN_FORCE: Kind(
        "what the controller has wanted last, and is kept on this host, could not be taken at the start",
        "what the controller wants is not in force: {why}",
        "mend this host's file, or what the controller wants: fwd tries again every 10 s, its guards stand",
    ),
    Code.NOT_SET_UP: Kind(
        "a peering could not be set up",
        "not set up: {why}",
        "mend what it names: fwd tries again every 3 s",
    ),
    Code.TERMINATED: Kind(
        "a user has ended a peering (`fwd terminate`); no traffic passes",
        "terminated: a user wants no traffic with {name}",
        "`fwd initiate {name}`, once it is to carry traffic again",
    ),
    Code.NO_CHILD_SA: Kind(
        "a member has no Child SA to send on",
        "{what} has no SA to send on{why}",
        "addresses, identities, secrets and proposals of both gateways must fit: see ike_error, and the log of both",
    ),
    Code.NARROWER: Kind(
        "the far gateway has agreed to selectors that are narrower than configured",
        "{what}: of {not_wholly} the far side carries {carried} alone: make local_ts and remote_ts alike",
        "make local_ts here what remote_ts is there, and the other way round, then `fwd rekey`",
    ),
    Code.PATH_DOWN: Kind(
        "no member of a peering gets an answer from the far gateway",
        "no path: {remote} answers no member",
        "look for what drops UDP to port {ports} on the way, in both directions, or whether the far gateway runs",
    ),
    Code.DEVICE_DOWN: Kind(
        "a TUN device is gone, down, or has another MTU",
        "the TUN device {device} is {why}",
        "fwd puts it right by itself; if it does not last, keep network managers and scripts off {device}",
    ),
    Code.ROUTE_MISSING: Kind(
        "a remote subnet is not routed to the TUN device",
        "no route to {what} by {device}{why}",
        "fwd sets it again by itself; if it does not last, keep network managers and scripts off {device}",
    ),
    Code.GUARD_MISSING: Kind(
        "a leak guard does not stand",
        "the leak guard of {what} does not stand{why}",
        "fwd sets it again by itself; if it does not last, see what removes it: a firewall, or a script",
    ),
    Code.NO_LAN_ADDRESS: Kind(
        "the gateway has no address in local_ts, and no route to it but the default one",
        "no way to {what}: this host has no address in it, or its device is down or has no carrier",
        "give the LAN's device an address in local_ts, which the gateway's own packets need as source, or set a route",
    ),
    Code.NO_OUTER_ADDRESS: Kind(
        "the host has lost the address that the tunnels use",
        "this host has lost its address {local} (local_addrs)",
        "give it back to the outer device: packets pass again at once",
    ),
    Code.NO_OUTER_ROUTE: Kind(
        "the host has no route to the far gateway",
        "this host has no route to the far gateway {remote}",
        "bring up the outer device, or set the route: `ip route get {remote}`",
    ),
    Code.ROUTE_TAKEN: Kind(
        "another route, or a policy rule, takes packets for a subnet; the leak guards drop them",
        "{address} does not go to {device}: {why}",
        "see `ip route get {address}` and `ip rule`, and remove what is in the way",
    ),
    Code.FORWARDING_OFF: Kind(
        "the host does not forward packets between the LAN and the TUN device",
        "this host does not forward: {sysctl} is 0",
        "sysctl -w {sysctl}=1, and write it to /etc/sysctl.d",
    ),
    Code.FILTER_DROPS: Kind(
        "a filter of the host drops what is forwarded",
        "{chain} drops all that is forwarded",
        "accept what comes from {device} and what goes to it in {chain}",
    ),
    Code.KERNEL: Kind(
        "what the kernel has cannot be looked at, or put right",
        "the kernel: {why}",
        "mend what it names: fwd tries again every second",
    ),
}


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a gateway is not ready: one of the codes below."""

    __pydantic_config__ = STRICT

    code: Annotated[str, "Its kind, for programs; the table below has them all."]
    peering: Annotated[str, "Name of the peering; empty: the whole gateway."]
    text: Annotated[str, "What is wrong, for people."]
    remedy: Annotated[str, "What to do."]
    subnets: Annotated[tuple[str, ...], "What does not pass; empty: nothing of the peering, or it is not known."] = ()

    @classmethod
    def of(cls, code: Code, peering: str = "", subnets: Iterable[str] = (), **facts: object) -> Reason:
        """Make a reason of its row in KINDS; `facts` are what the row's sentence and remedy name."""
        kind = KINDS[code]
        return cls(code.value, peering, kind.text.format(**facts), kind.remedy.format(**facts), tuple(subnets))

    @property
    def line(self) -> str:
        """The reason as one line for people."""
        return f"{self.peering}: {self.text}" if self.peering else self.text

    def as_json(self) -> dict[str, Any]:
        """The reason as JSON has it."""
        told: dict[str, Any] = as_json(self)
        return told


def folded(reasons: Iterable[Reason], most: int = 8) -> list[Reason]:
    """Return them with one in place of all beyond the first `most` of a kind and peering; it has all their subnets."""
    by_kind: dict[tuple[str, str], list[Reason]] = {}
    for one in reasons:
        by_kind.setdefault((one.peering, one.code), []).append(one)
    found = []
    for alike in by_kind.values():
        rest = alike[most - 1 :]
        if len(rest) > 1:
            text = f"{rest[0].text}; and {len(rest) - 1} more like this"
            subnets = tuple(dict.fromkeys(subnet for one in rest for subnet in one.subnets))
            rest = [replace(rest[0], text=text, subnets=subnets if all(one.subnets for one in rest) else ())]
        found += [*alike[: most - 1], *rest]
    return found


def from_json(told: Mapping[str, Any]) -> Reason:
    """Read back what `as_json` gave."""
    return read(Reason, told)

"""A flow whose way somebody asks for, and what is found of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Final

from fwd.model.words import is_address
from fwd.proto.errors import UserError
from fwd.proto.flow import TCP, UDP
from fwd.proto.sample import Flow

ICMP: Final = {4: 1, 6: 58}
_PROTOCOLS: Final = {"tcp": TCP, "udp": UDP}


@dataclass
class Trace:
    """What is known. `there`, `back`: lines in the order of the way. `breaks`: why it ends here; empty: it does not."""

    flow: dict[str, Any]
    here: str = ""  # gateway, router, or fleet: as the controller sees it; empty: none of fwd's takes it
    facts: dict[str, Any] = field(default_factory=dict)  # for programs
    there: list[str] = field(default_factory=list)
    back: list[str] = field(default_factory=list)
    breaks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def flow_of(source: str, destination: str, protocol: str, sport: int | None, dport: int | None) -> Flow:
    """Read the options. Raises UserError, one line that names the option."""
    for option, text in (("--from", source), ("--to", destination)):
        if not is_address(text):
            raise UserError(f"{option}: {text!a} is no IP address")
    near, far = ip_address(source), ip_address(destination)
    if near.version != far.version:
        raise UserError(f"--from and --to are of two IP versions: {near} and {far}")
    if protocol == "icmp":
        if sport is not None or dport is not None:
            raise UserError("--proto icmp has no ports: leave --sport and --dport out")
        return Flow(near, far, ICMP[near.version])
    if protocol not in _PROTOCOLS:
        raise UserError(f"--proto: {protocol!a}: use tcp, udp or icmp: the kernel tells the way of no others")
    for name, port in (("--sport", sport), ("--dport", dport)):
        if port is None:
            raise UserError(f"{name} is missing: {protocol} hashes by its ports")
        if not 1 <= port <= 65535:
            raise UserError(f"{name}: {port} is no port: 1 to 65535")
    return Flow(near, far, _PROTOCOLS[protocol], sport or 0, dport or 0)

"""fwd itself, with payload `superpacket` and with payload `esp`; and, where it has a compiled core, in pure Python."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Final

import fwd
from fwd.bench.tunnels.peer import Peer, wait_reachable
from fwd.lab import gateways
from fwd.lab.topology import Topology
from fwd.proto import core

MEMBERS: Final = 2
_PURE = "FWD_PURE"  # what turns the compiled core off


def every() -> list[Peer]:
    """As it is, with either payload; and without the compiled core, if there is one."""
    return [superpacket(), esp(), *([pure()] if core.in_use else [])]


def superpacket() -> Peer:
    return _peer("fwd", "superpacket", core.name())


def esp() -> Peer:
    return _peer("fwd-esp", "esp", core.name())


def pure() -> Peer:
    return _peer("fwd-pure", "superpacket", "pure")


def _peer(name: str, payload: str, which_core: str) -> Peer:
    cipher = f"AES-256-GCM of {core.library_name(which_core)}"
    settings = f"payload {payload}, {MEMBERS} members, {cipher}, ESN, core: {which_core}"
    return Peer(name, fwd.__version__, settings, partial(tunnel, payload=payload, is_pure=which_core == "pure"))


@contextlib.contextmanager
def tunnel(topology: Topology, payload: str, *, is_pure: bool) -> Iterator[None]:
    try:
        with _environment({_PURE: "1"} if is_pure else {}):
            gateways.start(topology, members=MEMBERS, payload=payload)
        wait_reachable(topology, [], f"fwd, payload {payload}")
        yield
    finally:
        gateways.stop(topology)


@contextlib.contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """What is started meanwhile has more in its environment."""
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

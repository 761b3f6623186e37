"""The lab's fwd gateways: their configurations, their secret, and the processes that outlive the command.

Each gateway's files lie in the run directory of the lab, where `gateways.json` remembers with what they were started,
and which processes they are. All get the same pre-shared key for IKEv2, drawn afresh at each start.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fwd.lab import processes, told
from fwd.lab.gateway import Gateway
from fwd.lab.gateway import peering as peering_table
from fwd.lab.processes import Process
from fwd.lab.spawn import spawn
from fwd.lab.topology import Topology
from fwd.lab.waiting import Daemon, until
from fwd.lab.world import LabError
from fwd.model import config
from fwd.model.words import ConfigError

READY_TIMEOUT_S = 15.0  # of a lab with two
STOP_GRACE_S = 5.0

# What a key of the configuration may be set to: all of it is written alike in JSON and in TOML.
Setting = str | int | float | bool | list[str]


def files(topology: Topology, host: str) -> Gateway:
    """A gateway's files in the lab's run directory."""
    return Gateway(topology.run_dir, host)


def start(
    topology: Topology,
    members: int = 4,
    payload: str = "superpacket",
    gateway: Mapping[str, Setting] | None = None,
    keys: Mapping[str, Setting] | None = None,
    **peering: Setting,
) -> None:
    """Start the gateways of a lab that is up, and wait until all are ready; if one fails, none stays.

    `members` are those for each far gateway. `gateway`, `keys` and `peering` override keys of those tables in all
    configurations. Does nothing if the gateways run with the same parameters; refuses if they run with others.
    """
    wanted = {
        "members": members, "payload": payload, "gateway": dict(gateway or {}), "keys": dict(keys or {}),
        "peering": peering,
    }  # fmt: skip

    # A lab that runs as wanted is left alone.
    running = alive(topology)
    if running and parameters(topology) != wanted:
        raise LabError(f"lab {topology.name} runs with other parameters: take it down first")
    if len(running) == len(topology.gateways):
        return
    stop(topology)

    # All, or none.
    secret = os.urandom(32)
    settings: dict[str, Setting] = {"payload": payload, **peering}
    try:
        for host in topology.gateways:
            _configure(topology, host, secret, members, gateway or {}, keys or {}, settings)
        started: dict[str, Process] = {}
        for host in topology.gateways:
            started[host] = _spawn(topology, host)
            _remember(topology, wanted, started)
        wait_ready(topology)
    except BaseException:
        stop(topology)
        raise


def again(topology: Topology, host: str) -> None:
    """End one gateway and start it anew; when this returns it has just been started."""
    known = _known(topology)
    processes.end([known[host]], STOP_GRACE_S)
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, known[host].pid, os.WEXITED | os.WNOHANG)
    _remember(topology, parameters(topology), {**known, host: _spawn(topology, host)})


def wait_ready(topology: Topology) -> None:
    """Until all are; raises LabError if one fails."""
    for host, process in _known(topology).items():
        _wait_ready(topology, host, process)


def stop(topology: Topology) -> None:
    """End the gateways and remove their files except the logs. Fine if there are none."""
    known = _known(topology)
    processes.end(known.values(), STOP_GRACE_S)
    for process in known.values():
        with contextlib.suppress(ChildProcessError):  # started by an earlier command, and so not our child
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG)
    for host in topology.gateways:
        gone = files(topology, host)
        for path in (gone.config, gone.secret, gone.control):
            path.unlink(missing_ok=True)
    _record(topology).unlink(missing_ok=True)


def alive(topology: Topology) -> dict[str, Process]:
    """The supervisors that run, by host."""
    return {host: process for host, process in _known(topology).items() if process.alive()}


def parameters(topology: Topology) -> dict[str, Any]:
    """What the gateways were started with: members, payload, gateway, peering; empty if they were not."""
    return {key: value for key, value in _recorded(topology).items() if key != "processes"}


def status(topology: Topology, host: str) -> dict[str, Any] | None:
    """A gateway's status as its agent tells it; None if nobody answers."""
    return told.asked(files(topology, host).control)


def _configure(
    topology: Topology,
    host: str,
    secret: bytes,
    members: int,
    settings: Mapping[str, Setting],
    keys: Mapping[str, Setting],
    peering: Mapping[str, Setting],
) -> None:
    """Write a gateway's secret and configuration; refuses one that fwd itself would refuse."""
    wanted = files(topology, host)
    keys = {"source": "psk", "secret": str(wanted.secret), **keys}
    peerings = [peering_table(topology, host, pairing, keys, members, **peering) for pairing in topology.pairings(host)]

    # Checked as fwd will check it, so that a mistake is told here.
    try:
        config.parse(wanted.text(peerings, settings), str(wanted.config))
    except ConfigError as error:
        raise LabError(str(error)) from None
    wanted.configure(peerings, settings)
    wanted.write_secret(secret.hex().encode())


def _spawn(topology: Topology, host: str) -> Process:
    """Start a gateway in a session of its own, so that neither Ctrl-C nor the end of this command reaches it."""
    started = files(topology, host)
    return spawn(topology.command(host, started.command()), started.log)


def _wait_ready(topology: Topology, host: str, process: Process) -> None:
    def ready() -> bool:
        answer = status(topology, host)
        return answer is not None and answer["ready"]

    daemon = Daemon(f"{host}'s fwd", process, files(topology, host).log)
    until(ready, f"{host} is ready", READY_TIMEOUT_S * len(topology.gateways) / 2, [daemon])


def _record(topology: Topology) -> Path:
    return topology.run_dir / "gateways.json"


def _remember(topology: Topology, wanted: dict[str, Any], started: dict[str, Process]) -> None:
    record = {**wanted, "processes": {host: asdict(process) for host, process in started.items()}}
    _record(topology).write_text(json.dumps(record))


def _known(topology: Topology) -> dict[str, Process]:
    return {host: Process(**fields) for host, fields in _recorded(topology).get("processes", {}).items()}


def _recorded(topology: Topology) -> dict[str, Any]:
    try:
        recorded: dict[str, Any] = json.loads(_record(topology).read_text())
    except FileNotFoundError:
        return {}
    return recorded

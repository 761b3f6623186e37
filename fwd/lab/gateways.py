"""The lab's fwd gateways: their configurations, their secret, and the processes that outlive the command.

For each gateway the run directory of the lab holds `gwN.toml`, `gwN.secret` (mode 0600), `gwN.sock` and `gwN.log`;
`gateways.json` remembers with what they were started, and which processes they are. All get the same pre-shared key
for IKEv2, drawn afresh at each start.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fwd.agent.client import query
from fwd.lab import processes
from fwd.lab.processes import Process
from fwd.lab.topology import Topology, kernel_has_ipv6
from fwd.lab.waiting import Daemon, until
from fwd.lab.world import LabError
from fwd.model import config, render
from fwd.model.words import ConfigError

READY_TIMEOUT_S = 15.0  # of a lab with two
STOP_GRACE_S = 5.0

# What a key of the configuration may be set to: all of it is written alike in JSON and in TOML.
Setting = str | int | float | bool | list[str]


def control_path(topology: Topology, host: str) -> Path:
    """The control socket of a gateway, for `fwd status` and `fwd.agent.client.query`."""
    return topology.run_dir / f"{host}.sock"


def log_path(topology: Topology, host: str) -> Path:
    return topology.run_dir / f"{host}.log"


def config_path(topology: Topology, host: str) -> Path:
    return topology.run_dir / f"{host}.toml"


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
        for path in (config_path(topology, host), _secret_path(topology, host), control_path(topology, host)):
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
    try:
        answer: dict[str, Any] = query(control_path(topology, host))
    except OSError:
        return None
    return answer


def _configure(
    topology: Topology,
    host: str,
    secret: bytes,
    members: int,
    gateway: Mapping[str, Setting],
    keys: Mapping[str, Setting],
    peering: Mapping[str, Setting],
) -> None:
    """Write a gateway's secret and configuration; refuses one that fwd itself would refuse."""
    families = slice(2 if kernel_has_ipv6() else 1)
    wanted = [
        {
            "name": f"to-{pairing.far[0]}",
            "local_addrs": topology.outer(host),
            "remote_addrs": [topology.outer(far) for far in pairing.far],
            "local_ts": list(pairing.local_ts[families]),
            "remote_ts": list(pairing.remote_ts[families]),
            **peering,
            "members": members * len(pairing.far),
            "keys": {"source": "psk", "secret": str(_secret_path(topology, host)), **keys},
        }
        for pairing in topology.pairings(host)
    ]

    # Checked as fwd will check it, so that a mistake is told here.
    text = render.write({"gateway": {"control": str(control_path(topology, host)), **gateway}, "peering": wanted})
    try:
        config.parse(text, str(config_path(topology, host)))
    except ConfigError as error:
        raise LabError(str(error)) from None
    config_path(topology, host).write_text(text)

    fd = os.open(_secret_path(topology, host), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(secret.hex().encode())


def _spawn(topology: Topology, host: str) -> Process:
    """Start a gateway in a session of its own, so that neither Ctrl-C nor the end of this command reaches it.

    posix_spawn rather than subprocess: nobody here keeps a handle on the process, or means to wait for it.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    argv = ["ip", "netns", "exec", topology.ns(host)]
    argv += [sys.executable, "-P", "-m", "fwd", "demux", "--config", str(config_path(topology, host))]
    pid = os.posix_spawnp(
        "ip",
        argv,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log_path(topology, host)), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    return Process.of(pid) or Process(pid, 0)


def _wait_ready(topology: Topology, host: str, process: Process) -> None:
    def ready() -> bool:
        answer = status(topology, host)
        return answer is not None and answer["ready"]

    daemon = Daemon(f"{host}'s fwd", process, log_path(topology, host))
    until(ready, f"{host} is ready", READY_TIMEOUT_S * len(topology.gateways) / 2, [daemon])


def _secret_path(topology: Topology, host: str) -> Path:
    return topology.run_dir / f"{host}.secret"


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

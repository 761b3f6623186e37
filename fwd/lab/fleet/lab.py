"""A lab with a controller: its programs, started, found again by a later command, and ended.

The controller and a door to it from the machine's own network come first, then each gateway and
router joins by a token of its own and starts. Everything lies in the lab's run directory, where `running.json`
remembers the processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from fwd.lab import processes
from fwd.lab.fleet import keepalived
from fwd.lab.fleet.api import Api
from fwd.lab.fleet.plan import CONTROLLER, PORT, Fleet
from fwd.lab.gateway import PROGRAM, Gateway
from fwd.lab.processes import Process
from fwd.lab.spawn import spawn
from fwd.lab.told import Told, router_asked
from fwd.lab.waiting import Daemon, until
from fwd.lab.world import LabError
from fwd.model import render

START_S: Final = 60.0  # of one program, on a busy machine
JOIN_S: Final = 60.0
_END_S: Final = 5.0
_GIVEN: Final = ["10.0.0.0/8", "fd00::/8"]  # what each gateway lets the controller set
_DOOR: Final = "door"
_BEACON_PORT: Final = 4790


class Lab(Told):
    """See the module."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self._api: Api | None = None

    # -- files ------------------------------------------------------------------------------------------------------

    @property
    def directory(self) -> Path:
        """Where all files of the lab are."""
        return self.fleet.run_dir

    @property
    def state(self) -> Path:
        """The controller's state directory."""
        return self.directory / "controller"

    @property
    def controller_config(self) -> Path:
        """The controller's file."""
        return self.directory / "controller.toml"

    def files(self, host: str) -> Gateway:
        """Return a gateway's or router's files."""
        return Gateway(self.directory, host)

    def joined(self, host: str) -> Path:
        """Return where a host keeps what the controller gave it."""
        return self.directory / f"{host}.controller"

    def control(self, host: str) -> Path:
        """Return a host's control socket."""
        return self.files(host).control

    def log(self, host: str) -> str:
        """Return what a host's program has logged since it was started last."""
        return self.files(host).logged()

    # -- processes --------------------------------------------------------------------------------------------------

    @property
    def running(self) -> dict[str, Process]:
        """Programs that were started, by host; and the door."""
        return {name: Process(**fields) for name, fields in self._recorded().get("processes", {}).items()}

    def daemon(self, name: str) -> Daemon:
        """Return a program that was started, to be waited for."""
        return Daemon(name, self.running[name], self.files(name).log)

    @property
    def url(self) -> str:
        """The controller, as this machine reaches it."""
        return f"https://127.0.0.1:{self._recorded()['port']}"

    @property
    def api(self) -> Api:
        """The controller, asked as its admin."""
        if self._api is None:
            self._api = Api(self.url, self.state / "ca.pem", self.state / "admin.token")
        return self._api

    def environment(self) -> dict[str, str]:
        """Return by which variables `fwd` finds the controller."""
        return {**os.environ, "FWD_CLIENT": str(self.directory / "client.toml")}

    def fwd(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `fwd`, as the controller's admin does."""
        argv = [sys.executable, *PROGRAM, *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=self.environment())
        if check and done.returncode:
            raise LabError(f"fwd {' '.join(arguments)}: {done.stderr.strip()}")
        return done

    # -- start ------------------------------------------------------------------------------------------------------

    def program(self, host: str) -> list[str]:
        """Return by which words `fwd` is run on a host."""
        return [sys.executable, *PROGRAM]

    def up(self, **controller: Any) -> None:
        """Start all, each gateway in no cluster yet. `controller`: keys of the controller's file."""
        self.begin(**controller)
        self.fill()

    def begin(self, **controller: Any) -> None:
        """Start the controller of an empty fleet."""
        self.write_controller(**controller)
        self._open_door()
        self.start_controller()

    def fill(self) -> None:
        """Have the controller know all VPCs, and all gateways and routers join."""
        for site in self.fleet.plan:
            self.api.create("vpcs", name=site.name, cidrs=list(self.fleet.cidrs(site)))
        for router in self.fleet.all_routers if self.fleet.routers > 1 else ():
            self.share_address(router)
        self.join(*self.fleet.gateways, *self.fleet.all_routers)

    def write_controller(self, **keys: Any) -> None:
        """Write the controller's file."""
        address = self.fleet.address(CONTROLLER)
        about = {
            "listen": f"{address}:{PORT}", "url": f"https://{address}:{PORT}", "names": ["127.0.0.1", "localhost"],
            "state": str(self.state), **keys,
        }  # fmt: skip
        self.controller_config.write_text("\n".join(render.table("[controller]", about)))

    def start_controller(self) -> None:
        """Start the controller, and wait until it leads."""
        command = [*self.program(CONTROLLER), "controller", "--config", str(self.controller_config)]
        process = self._start(CONTROLLER, command, self.files(CONTROLLER).log)
        daemon = Daemon(CONTROLLER, process, self.files(CONTROLLER).log)
        until(self._leads, "the controller leads", START_S, [daemon])

    def _leads(self) -> bool:
        try:
            self.api.get("vpcs")
        except LabError:
            if self._api is not None and not self._has_same_token():
                self._forget_api()
            return False
        return True

    def _has_same_token(self) -> bool:
        """Whether the controller's token is the one that it is asked with: a new one has another."""
        try:
            token = (self.state / "admin.token").read_text(encoding="ascii").strip()
        except OSError:
            return False
        return self._api is not None and self._api.token == token

    def _forget_api(self) -> None:
        if self._api is not None:
            self._api.close()
        self._api = None

    def _open_door(self) -> None:
        """Have the controller answer at a port of this machine's loopback, too."""
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            sock.listen(64)
            command = [sys.executable, "-P", "-m", "fwd.lab.fleet.door", self.fleet.address(CONTROLLER), str(PORT)]
            argv = self.fleet.command(CONTROLLER, command)
            process = spawn(argv, self.directory / "door.log", given=sock.fileno())
            self._remember(_DOOR, process, port=sock.getsockname()[1])
        client = {"url": self.url, "ca": str(self.state / "ca.pem"), "token_file": str(self.state / "admin.token")}
        lines = "".join(f'{key} = "{value}"\n' for key, value in client.items())
        (self.directory / "client.toml").write_text(lines)

    def join(self, *hosts: str, token_of: Callable[[str, str], str] | None = None) -> None:
        """Have gateways and routers join, all at once, and start each when it has.

        `token_of`: gives a token of a VPC for a kind of host.
        """
        token_of, joining = token_of or self._token_of, {}
        for host in hosts:
            token = self.directory / f"{host}.token"
            token.unlink(missing_ok=True)
            token.touch(0o600)
            token.write_text(token_of(self.fleet.site(host).name, self._kind(host)))
            joining[host] = self._join(host, token)

        # Whoever has joined starts while others still do.
        for host, process in joining.items():
            with process:
                _, said = process.communicate(timeout=JOIN_S)
            if process.returncode:
                raise LabError(f"{host} does not join: {said.strip()}")
            (self.directory / f"{host}.token").unlink()
            self.start(host)

    def _kind(self, host: str) -> str:
        return "router" if host in self.fleet.all_routers else "gateway"

    def _token_of(self, vpc: str, kind: str) -> str:
        return str(self.api.create("tokens", vpc=vpc, kind=kind)["token"])

    def _join(self, host: str, token: Path) -> subprocess.Popen[str]:
        kind, (four, six) = self._kind(host), self.fleet.inner(host)
        argv = [
            *self.program(host), "join", f"https://{self.fleet.address(CONTROLLER)}:{PORT}", "--token-file",
            str(token), "--kind", kind, "--name", host, "--inner", four, "--inner", six,
            "--directory", str(self.joined(host)),
        ]  # fmt: skip
        argv += ["--outer", self.fleet.outer(host)] if kind == "gateway" else []
        joining: subprocess.Popen[str] = self.fleet.popen(
            host, argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        return joining

    def start(self, host: str) -> None:
        """Start a host that has joined."""
        files, (four, _) = self.files(host), self.fleet.inner(host)
        given: dict[str, Any] = {"directory": str(self.joined(host)), "subnets": _GIVEN}
        is_router = host in self.fleet.all_routers
        if self.fleet.nat and not is_router:
            given["local_addrs"] = self.fleet.address(host, "wan")
        own = {"control": str(files.control), **({} if is_router else {"beacon": f"{four}:{_BEACON_PORT}"})}
        tables = (("[router]" if is_router else "[gateway]", own), ("[controller]", given))
        files.config.write_text("\n".join(line for table in tables for line in render.table(*table)))
        what = "router" if is_router else "demux"
        self._start(host, [*self.program(host), what, "--config", str(files.config)], files.log)

    def share_address(self, router: str) -> None:
        """Have a router take part in who has its VPC's address."""
        keepalived.require()
        config = self.directory / f"{router}.keepalived"
        config.write_text(keepalived.configuration(self.fleet, router))
        process = spawn(self.fleet.command(router, keepalived.command(config)), config.with_suffix(".keepalived.log"))
        self._remember(f"{router}-keepalived", process)

    def router(self, host: str) -> dict[str, Any]:
        """Return what a router shows; nothing while it does not answer."""
        return router_asked(self.control(host))

    def router_ready(self, host: str) -> bool:
        """Whether a router carries."""
        return bool(self.router(host).get("ready"))

    def router_uses_all(self, host: str) -> bool:
        """Whether a router carries, and gives flows to all gateways of its spreads."""
        spreads = self.router(host).get("spreads", [])
        return self.router_ready(host) and all(one["use"] == "up" for spread in spreads for one in spread["gateways"])

    def _start(self, host: str, command: Iterable[str], log: Path) -> Process:
        process = spawn(self.fleet.command(host, list(command)), log)
        self._remember(host, process)
        return process

    # -- end --------------------------------------------------------------------------------------------------------

    def stop(self, *names: str) -> None:
        """End programs, all if none is named. Fine if there are none."""
        known = self.running
        ending = [known[name] for name in names or known if name in known]
        processes.end(ending, _END_S)
        for process in ending:
            with contextlib.suppress(ChildProcessError):  # started by an earlier command, and so not our child
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG)

    def down(self) -> None:
        """End everything, and take the net down."""
        self._forget_api()
        self.stop()
        self.fleet.down()

    def _recorded(self) -> dict[str, Any]:
        try:
            recorded: dict[str, Any] = json.loads((self.directory / "running.json").read_text())
        except FileNotFoundError:
            return {}
        return recorded

    def _remember(self, name: str, process: Process, **other: Any) -> None:
        recorded = self._recorded()
        known = {**recorded.get("processes", {}), name: asdict(process)}
        (self.directory / "running.json").write_text(json.dumps({**recorded, **other, "processes": known}))

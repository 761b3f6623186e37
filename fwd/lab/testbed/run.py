"""`fwd lab testbed`: images built, the project up, every scenario, one row each, and the project down again.

The images stay, for the next run; nothing else does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, TypeVar

from fwd.keyd import generate
from fwd.lab import scenario
from fwd.lab.scenario import Failed, Named, Row, Scenario
from fwd.lab.testbed import cluster
from fwd.lab.testbed.bed import Bed
from fwd.lab.testbed.cluster import Fleet
from fwd.lab.testbed.engine import PROFILES, PROJECT, Engine
from fwd.lab.testbed.scenarios import IMAGE_MIB, SCENARIOS
from fwd.lab.world import LabError

B = TypeVar("B")
BASE: Final = "python:3.12-slim-bookworm"
DIRECTORY: Final = Path("docker")
_MIB: Final = 1 << 20
# What docker/compose.yml asks for, by variable → tag, where it is built, by which file, and up to which stage.
_IMAGES: Final = {
    "FWD_IMAGE": ("gateway", Path(), "docker/Dockerfile", "fwd"),
    "FWD_ROUTER_IMAGE": ("router", Path(), "docker/Dockerfile", "router"),
    "FWD_ETCD_IMAGE": ("etcd", DIRECTORY / "etcd", "Dockerfile", ""),
    "FWD_CLIENT_IMAGE": ("client", DIRECTORY / "client", "Dockerfile", ""),
    "FWD_PROMETHEUS_IMAGE": ("prometheus", DIRECTORY / "prometheus", "Dockerfile", ""),
    "FWD_STRONGSWAN_IMAGE": ("strongswan", DIRECTORY / "strongswan", "Dockerfile", ""),
}
IMAGES: Final = tuple(f"{PROJECT}:{tag}" for tag, *_ in _IMAGES.values())
"""What stays on the machine when all is over."""


def engine(secret: Path) -> Engine:
    """The engine, told which images and which pre-shared key. Raises LabError."""
    if not (DIRECTORY / "compose.yml").is_file():
        raise LabError(f"{DIRECTORY}/compose.yml is not here: run it in a checkout of fwd")
    environment = {variable: f"{PROJECT}:{tag}" for variable, (tag, *_) in _IMAGES.items()}
    # Any free port: on this machine somebody else may have Prometheus's own.
    environment |= {"FWD_PSK": str(secret), "FWD_PROMETHEUS_PORT": "0", "COMPOSE_PROFILES": PROFILES}
    return Engine(DIRECTORY, environment)


def build(engine: Engine, base: str) -> Row:
    """All images upon `base`; the row of the gateway's size. Raises LabError where one cannot be built."""
    with scenario.row("images built; the gateway's over its base", (Failed,)) as row:
        for tag, directory, dockerfile, target in _IMAGES.values():
            engine.build(directory, dockerfile, target, f"{PROJECT}:{tag}", base)
        over_mib = (engine.inspect(f"{PROJECT}:gateway")["Size"] - engine.inspect(base)["Size"]) / _MIB
        row["figures"] = {"over_base_mib": round(over_mib)}
        if over_mib >= IMAGE_MIB:
            raise Failed(f"{over_mib:.0f} MiB over its base, must be under {IMAGE_MIB}")
    return row


def run(out: Path, base: str, only: str = "") -> Iterator[Row]:
    """A row for each scenario whose name has `only` in it, as it ends; writes them all to `out`.

    The first one of two gateways, and of a cluster, is always among theirs: it waits for them. Raises LabError where
    none has that name, and where the project cannot be brought up.
    """
    names: list[Named] = [*SCENARIOS, *cluster.SCENARIOS]
    scenario.chosen(names, only)

    # Images, then a project of its own, which is gone at the end whatever happens.
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fwd-testbed-")))
        secret = directory / "fwd.psk"
        generate.write_psk(secret)
        project = engine(secret)
        rows = [build(project, base)]
        yield rows[0]
        stack.callback(project.down)

        # The scenarios, in order, of both, and how it is taken down.
        for checks in (
            _put_through(project, SCENARIOS, only, lambda: _two_gateways(project, directory)),
            _put_through(project, cluster.SCENARIOS, only, lambda: _cluster(project, directory)),
        ):
            for row in checks:
                rows.append(row)
                yield row
        rows.append(_taken_down(project))
        yield rows[-1]
        versions = project.versions()

    scenario.write(out, rows, **versions, base=base)


def _two_gateways(project: Engine, directory: Path) -> Bed:
    """The testbed of two gateways, brought up in the place of whatever stands."""
    project.down()
    project.compose("up", "--detach", "--no-build", "client1", "client2", "gw1", "gw2")
    bed = Bed(project, directory, (directory / "fwd.psk").read_text().strip())
    bed.ignore_redirects()
    return bed


def _cluster(project: Engine, directory: Path) -> Fleet:
    """Profile `cluster`, brought up in the place of whatever stands."""
    project.down()
    project.compose("up", "--detach", "--no-build", "fleet")
    return Fleet(project, directory)


def _put_through(project: Engine, scenarios: Sequence[Scenario[B]], only: str, begin: Callable[[], B]) -> Iterator[Row]:
    """Those that are chosen, and the first one in any case, on what `begin` brings up; nothing if none is."""
    if not any(only in one.name for one in scenarios):
        return
    bed = begin()
    for one in scenarios:
        if only in one.name or one is scenarios[0]:
            with scenario.row(one.name) as row, scenario.logged(row, lambda: _logs(project)):
                row["figures"] = one.check(bed)
            yield row


def _logs(project: Engine) -> dict[str, str]:
    """Of all containers."""
    return {name: project.logs(name) for name in project.containers()}


def _taken_down(project: Engine) -> Row:
    """Nothing of the project is left. Raises LabError where it cannot be taken down."""
    with scenario.row("taken down, nothing left", (Failed,)) as row:
        project.down()
        left = [*project.containers(), *project.networks()]
        row["figures"] = {"containers_and_networks": len(left)}
        if left:
            raise Failed(f"left behind: {', '.join(left)}")
    return row

"""`fwd lab testbed`: images built, the project up, every scenario, one row each, and the project down again.

The images stay, for the next run; nothing else does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from fwd.keyd import generate
from fwd.lab import scenario
from fwd.lab.scenario import Failed, Row
from fwd.lab.testbed.bed import Bed
from fwd.lab.testbed.engine import PROFILES, PROJECT, Engine
from fwd.lab.testbed.scenarios import IMAGE_MIB, SCENARIOS
from fwd.lab.world import LabError

BASE: Final = "python:3.12-slim-bookworm"
DIRECTORY: Final = Path("docker")
_MIB: Final = 1 << 20
# What docker/compose.yml asks for, by variable → tag, and where it is built.
_IMAGES: Final = {
    "FWD_IMAGE": ("gateway", Path(), "docker/Dockerfile"),
    "FWD_CLIENT_IMAGE": ("client", DIRECTORY / "client", "Dockerfile"),
    "FWD_PROMETHEUS_IMAGE": ("prometheus", DIRECTORY / "prometheus", "Dockerfile"),
    "FWD_STRONGSWAN_IMAGE": ("strongswan", DIRECTORY / "strongswan", "Dockerfile"),
}
IMAGES: Final = tuple(f"{PROJECT}:{tag}" for tag, _, _ in _IMAGES.values())
"""What stays on the machine when all is over."""


def engine(secret: Path) -> Engine:
    """The engine, told which images and which pre-shared key. Raises LabError."""
    if not (DIRECTORY / "compose.yml").is_file():
        raise LabError(f"{DIRECTORY}/compose.yml is not here: run it in a checkout of fwd")
    environment = {variable: f"{PROJECT}:{tag}" for variable, (tag, _, _) in _IMAGES.items()}
    # Any free port: on this machine somebody else may have Prometheus's own.
    environment |= {"FWD_PSK": str(secret), "FWD_PROMETHEUS_PORT": "0", "COMPOSE_PROFILES": PROFILES}
    return Engine(DIRECTORY, environment)


def build(engine: Engine, base: str) -> Row:
    """All images upon `base`; the row of the gateway's size. Raises LabError where one cannot be built."""
    with scenario.row("images built; the gateway's over its base", (Failed,)) as row:
        for tag, directory, dockerfile in _IMAGES.values():
            engine.build(directory, dockerfile, f"{PROJECT}:{tag}", base)
        over_mib = (engine.inspect(f"{PROJECT}:gateway")["Size"] - engine.inspect(base)["Size"]) / _MIB
        row["figures"] = {"over_base_mib": round(over_mib)}
        if over_mib >= IMAGE_MIB:
            raise Failed(f"{over_mib:.0f} MiB over its base, must be under {IMAGE_MIB}")
    return row


def run(out: Path, base: str, only: str = "") -> Iterator[Row]:
    """A row for each scenario whose name has `only` in it, as it ends; writes them all to `out`.

    The first one is always among them: it waits for the gateways. Raises LabError where none has that name, and where
    the project cannot be brought up.
    """
    chosen = [SCENARIOS[0], *(one for one in scenario.chosen(SCENARIOS, only) if one is not SCENARIOS[0])]

    # Images, then a project of its own, which is gone at the end whatever happens.
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fwd-testbed-")))
        secret = directory / "fwd.psk"
        generate.write_psk(secret)
        project = engine(secret)
        rows = [build(project, base)]
        yield rows[0]
        stack.callback(project.down)
        project.down()
        project.compose("up", "--detach", "--no-build", "client1", "client2", "gw1", "gw2")

        # The scenarios, in order, and how it is taken down.
        bed = Bed(project, directory, secret.read_text().strip())
        bed.ignore_redirects()
        for one in chosen:
            with scenario.row(one.name) as row, scenario.logged(row, lambda: _logs(project)):
                row["figures"] = one.check(bed)
            rows.append(row)
            yield row
        rows.append(_taken_down(project))
        yield rows[-1]
        versions = project.versions()

    scenario.write(out, rows, **versions, base=base)


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

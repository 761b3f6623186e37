"""The container engine and Compose as this machine has them: `docker`, with `docker compose` or docker-compose 1.29.

Refuses, as LabError of one line: no engine, one that does not answer, no Compose; and commands that fail, with the
engine's own last words.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from fwd.lab.world import LabError

PROJECT: Final = "fwd-testbed"
PROFILES: Final = "interop,observability,cluster"
_TIMEOUT_S = 120.0
_BUILD_TIMEOUT_S = 900.0
_INSTALL = "on Debian: apt-get install docker.io docker-compose"


def compose_command() -> list[str]:
    """How Compose is called here. Raises LabError if there is none, or no engine."""
    if shutil.which("docker") is None:
        raise LabError(f"there is no container engine; {_INSTALL}")
    if _run(["docker", "info", "--format", "{{.ServerVersion}}"]).returncode:
        wanted = "" if shutil.which("dockerd") else f" ({_INSTALL})"
        raise LabError(f"no container engine answers: start dockerd{wanted}, or see why `docker info` fails")
    if _run(["docker", "compose", "version"]).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose") is None:
        raise LabError(f"Compose is missing; {_INSTALL}")
    return ["docker-compose"]


class Engine:
    """Commands for one project; `environment` is what the Compose file asks for."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.directory = directory
        self._compose = [*compose_command(), "-p", PROJECT, "-f", str(directory / "compose.yml")]
        self._environment = {**os.environ, **environment}

    def versions(self) -> dict[str, str]:
        """Of engine and Compose."""
        compose = self._output([*self._compose, "version", "--short"])
        return {"engine": self.docker("version", "--format", "{{.Server.Version}}").strip(), "compose": compose.strip()}

    def compose(self, *words: str) -> str:
        """What a Compose command prints."""
        return self._output([*self._compose, *words])

    def docker(self, *words: str) -> str:
        """What a docker command prints."""
        return self._output(["docker", *words])

    def logs(self, container: str) -> str:
        """What a container has printed, in whatever order its two outputs were read."""
        done = _run(["docker", "logs", container])
        return done.stdout + done.stderr

    def build(self, directory: Path, dockerfile: str, target: str, tag: str, base: str) -> None:
        """An image from a Dockerfile, up to its last stage or `target`, with the network of the engine's host."""
        words = ["build", "--force-rm", "--network", "host", "--build-arg", f"BASE={base}", "-t", tag]
        words += [*(["--target", target] if target else []), "-f", dockerfile, "."]
        self._output(["docker", *words], cwd=directory, timeout=_BUILD_TIMEOUT_S)

    def inspect(self, name: str) -> dict[str, Any]:
        """All that the engine knows of a container, image or network."""
        found: dict[str, Any] = json.loads(self.docker("inspect", name))[0]
        return found

    def containers(self, service: str = "") -> list[str]:
        """Identifiers of this project's containers, of one service if it is named, stopped ones too."""
        filters = [f"label=com.docker.compose.project={PROJECT}"]
        filters += [f"label=com.docker.compose.service={service}"] if service else []
        words = [word for one in filters for word in ("--filter", one)]
        return self.docker("ps", "--all", "--quiet", "--no-trunc", *words).split()

    def networks(self) -> list[str]:
        """Names of this project's networks."""
        words = ("--filter", f"label=com.docker.compose.project={PROJECT}", "--format", "{{.Name}}")
        return self.docker("network", "ls", *words).split()

    def down(self) -> None:
        """Everything of this project goes, but for images."""
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "2")

    def _output(self, argv: Sequence[str], **kw: Any) -> str:
        done = _run(argv, env=self._environment, **kw)
        if done.returncode:
            words = _last_line(done.stderr) or _last_line(done.stdout) or f"exit status {done.returncode}"
            raise LabError(f"{' '.join(_named(argv))}: {words}")
        return done.stdout


def _run(argv: Sequence[str], timeout: float = _TIMEOUT_S, **kw: Any) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            argv, check=False, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
            timeout=timeout, **kw,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise LabError(f"{' '.join(_named(argv))} did not end within {timeout:.0f} s") from None


def _named(argv: Sequence[str]) -> list[str]:
    """A command without the words that are always the same."""
    words = [word for word in argv if word not in ("-p", PROJECT, "-f") and not word.endswith("compose.yml")]
    return words[:6]


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")

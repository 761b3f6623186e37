"""A fresh Debian, with git, make and ca-certificates: what the README says of one, from a clone.

/run is a tmpfs and the terminal is dumb, as on many machines. All else that it needs, `make` brings itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from container import make_root, run_in

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]  # packages are fetched

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "fresh"
PACKAGES = "git,make,ca-certificates"
# How this machine reaches the package indexes is its own affair.
INDEXES = ("http_proxy", "https_proxy", "no_proxy", "PIP_INDEX_URL", "PIP_CERT", "PIP_DEFAULT_TIMEOUT")


@pytest.fixture(scope="module")
def machine() -> Iterator[Path]:
    """A root in which nothing but these packages was ever installed, and a clone of what is committed here."""
    BUILD.mkdir(parents=True, exist_ok=True)
    make_root(BUILD / "root", PACKAGES)
    machine = BUILD / f"machine-{os.getpid()}"
    try:
        subprocess.run(["cp", "--archive", "--reflink=auto", str(BUILD / "root"), str(machine)], check=True)
        subprocess.run(
            ["git", "-C", str(ROOT), "bundle", "create", "--quiet", f"{machine}/root/fwd.bundle", "HEAD"], check=True
        )
        run(machine, "git clone --quiet /root/fwd.bundle /root/fwd", 120.0)
        yield machine
    finally:
        shutil.rmtree(machine, ignore_errors=True)


def run(machine: Path, script: str, timeout_s: float) -> None:
    """Run a script there, and show the end of what it said if it fails."""
    log = BUILD / "log"
    variables = {"TERM": "dumb"} | {name: os.environ[name] for name in INDEXES if name in os.environ}
    status = run_in(machine, script, log, timeout_s, variables)
    assert status == 0, log.read_text(errors="replace")[-8000:]


def test_run_is_a_file_system_of_its_own(machine: Path) -> None:
    run(machine, '[ "$(stat -f -c %T /run)" = tmpfs ] && [ "$(stat -c %d /run)" != "$(stat -c %d /)" ]', 60.0)


def test_the_demo(machine: Path) -> None:
    run(machine, "cd /root/fwd && make demo", 1800.0)


def test_the_tests(machine: Path) -> None:
    run(machine, "cd /root/fwd && make test", 3000.0)

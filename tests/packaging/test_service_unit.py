"""packaging/systemd: systemd understands all of it, and finds little that it could still take away."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "packaging" / "systemd"
EXPOSURE_MAX = {"fwd": 4.0, "fwd-router": 3.0, "fwd-controller": 2.0}


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def text_of(name: str) -> str:
    return (UNITS / f"{name}.service").read_text()


@pytest.fixture(params=EXPOSURE_MAX)
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The unit with a program and a user that are on this machine, since fwd is not installed."""
    name: str = request.param
    copy = tmp_path / f"{name}.service"
    copy.write_text(text_of(name).replace("/usr/bin/fwd", sys.executable).replace("=fwd-controller", "=daemon"))
    return copy


def test_every_unit_is_looked_at() -> None:
    assert {one.stem for one in UNITS.iterdir()} == set(EXPOSURE_MAX)


def test_systemd_has_nothing_to_complain_of(unit: Path) -> None:
    done = analyze("verify", "--man=no", str(unit))
    assert (done.returncode, [line for line in done.stderr.splitlines() if "fwd" in line]) == (0, [])


def test_it_would_complain(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("ProtectClock=yes", "ProtectClocks=yes"))
    assert "ProtectClocks" in analyze("verify", "--man=no", str(unit)).stderr


def test_the_exposure_is_low(unit: Path) -> None:
    done = analyze("security", "--offline=yes", str(unit))
    (exposure,) = re.findall(rf"Overall exposure level for {unit.stem}\.service: ([\d.]+)", done.stdout)
    assert float(exposure) <= EXPOSURE_MAX[unit.stem]


@pytest.mark.parametrize("name", ["fwd", "fwd-router"])
def test_what_the_oom_killer_takes_is_replaced_and_the_supervisor_is_taken_last(name: str) -> None:
    """systemd's default, OOMPolicy=stop, is a clean stop of the whole gateway: without its leak guards."""
    lines = text_of(name).splitlines()
    assert [line for line in lines if line.startswith("OOM")] == ["OOMPolicy=continue", "OOMScoreAdjust=-500"]

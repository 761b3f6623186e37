"""packaging/systemd/fwd.service: systemd understands all of it, and finds little that it could still take away."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "packaging" / "systemd" / "fwd.service"
EXPOSURE_MAX = 4.0


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that is on this machine, since fwd is not installed."""
    copy = tmp_path / "fwd.service"
    copy.write_text(UNIT.read_text().replace("/usr/bin/fwd", sys.executable))
    return copy


def test_systemd_has_nothing_to_complain_of(unit: Path) -> None:
    done = analyze("verify", "--man=no", str(unit))
    assert (done.returncode, [line for line in done.stderr.splitlines() if "fwd" in line]) == (0, [])


def test_it_would_complain(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("ProtectClock=yes", "ProtectClocks=yes"))
    assert "ProtectClocks" in analyze("verify", "--man=no", str(unit)).stderr


def test_the_exposure_is_low(unit: Path) -> None:
    done = analyze("security", "--offline=yes", str(unit))
    (exposure,) = re.findall(r"Overall exposure level for fwd\.service: ([\d.]+)", done.stdout)
    assert float(exposure) <= EXPOSURE_MAX


def test_what_the_oom_killer_takes_is_replaced_and_the_supervisor_is_taken_last() -> None:
    """systemd's default, OOMPolicy=stop, is a clean stop of the whole gateway: without its leak guards."""
    lines = UNIT.read_text().splitlines()
    assert [line for line in lines if line.startswith("OOM")] == ["OOMPolicy=continue", "OOMScoreAdjust=-500"]

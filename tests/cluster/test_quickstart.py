"""`fwd lab quickstart` and `fwd lab up --controller`, as people use them; `fwd lab down` leaves nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fwd.lab.topology import RUN_DIR

FWD = [sys.executable, "-P", "-m", "fwd"]


def fwd(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*FWD, *argv], capture_output=True, text=True, timeout=170, check=False, env={**os.environ, **environment}
    )


@pytest.mark.timeout(240)
def test_quickstart_peers_two_clusters_and_a_viewer_may_look(lab_name: str, tmp_path: Path) -> None:
    out = tmp_path / "quickstart.json"
    done = fwd("lab", "quickstart", "--gateways", "2", "--name", lab_name, "--out", str(out))
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["answers"] > 0
    assert found["controller"] in done.stdout
    assert f"{found['controller']}/ " in done.stdout
    assert Path(found["viewer_token_file"]).read_text().strip() in done.stdout

    # Who only looks may; who changes something may not.
    viewer = {
        "FWD_CONTROLLER": found["controller"], "FWD_CONTROLLER_CA": found["ca"],
        "FWD_CONTROLLER_TOKEN_FILE": found["viewer_token_file"],
    }  # fmt: skip
    pairs = json.loads(fwd("pair", "list", "--json", **viewer).stdout)
    assert {(pair["a"], pair["b"]) for pair in pairs} == {("gw1", "gw3"), ("gw2", "gw4")}
    assert fwd("peering", "delete", "one-two", **viewer).returncode == 2

    # A second one of the name is refused; the end leaves nothing.
    again = fwd("lab", "quickstart", "--name", lab_name)
    assert (again.returncode, again.stderr) == (2, f"fwd lab: lab {lab_name} is up: take it down first\n")
    assert "gw4" in fwd("lab", "status", "--name", lab_name).stdout
    assert fwd("lab", "down", "--name", lab_name).returncode == 0
    assert not list(Path("/run/netns").glob(f"{lab_name}-*"))
    assert not (RUN_DIR / lab_name).exists()


@pytest.mark.timeout(240)
def test_up_with_a_controller_has_all_hosts_join_and_no_more(lab_name: str) -> None:
    done = fwd("lab", "up", "--gateways", "1", "--controller", "--name", lab_name)
    assert done.returncode == 0, done.stderr
    client = {"FWD_CLIENT": str(RUN_DIR / lab_name / "client.toml")}
    gateways = json.loads(fwd("gateway", "list", "--json", **client).stdout)
    assert [one["name"] for one in gateways] == ["gw1", "gw2"]
    assert fwd("cluster", "list", "--json", **client).stdout.strip() == "[]"
    again = fwd("lab", "up", "--gateways", "1", "--controller", "--name", lab_name)
    assert again.returncode == 0, "nothing to do"
    for line in done.stdout.splitlines()[-2:]:
        assert line in again.stdout
    assert "dashboard    https://" in again.stdout
    assert (RUN_DIR / lab_name / "viewer.token").read_text().strip() in again.stdout
    other = fwd("lab", "up", "--gateways", "2", "--controller", "--name", lab_name)
    assert (other.returncode, other.stderr.count("\n")) == (2, 1)
    assert "other parameters" in other.stderr

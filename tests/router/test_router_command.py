"""`fwd router check` and `fwd router ready`: one line, whatever is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fwd.cli import _exit_status

ROUTER = """\
[router]
probe_key = "{key}"
[[spread]]
name = "vpc2"
remote_ts = ["10.2.0.0/16"]
[[spread.gateway]]
name = "a1"
addresses = ["10.1.0.11"]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    key = tmp_path / "probe.key"
    key.touch(0o600)
    key.write_text("0f" * 32)
    path = tmp_path / "router.toml"
    path.write_text(ROUTER.format(key=key))
    return path


def test_what_can_be_used_is_said_to_be(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_status(["router", "check", str(config)]) == 0
    assert capsys.readouterr().out == f"{config}: OK: vpc2 over a1\n"


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("10.2.0.0/16", "10.1.0.0/16", "contains gateway a1's own address"),
        ('addresses = ["10.1.0.11"]', "", "spread.vpc2.gateway.a1.addresses: missing (line 6)"),
        ("[router]", "[rooter]", "rooter"),
        ("probe.key", "none.key", "none.key: probe key cannot be opened"),
    ],
)
def test_what_cannot_is_one_line_and_status_2(
    config: Path, before: str, after: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(config.read_text().replace(before, after))
    assert _exit_status(["router", "check", str(config)]) == 2
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert reason in told.err


def test_a_file_that_is_named_as_the_control_socket_is_left_alone(
    config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "precious"
    file.write_text("kept")
    config.write_text(config.read_text().replace("[router]", f'[router]\ncontrol = "{file}"'))
    assert _exit_status(["router", "--config", str(config)]) == 2
    assert "router.control is no socket" in capfd.readouterr().err
    assert file.read_text() == "kept"


def test_who_is_not_root_clears_nothing_and_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 65534)
    assert _exit_status(["router", "clear"]) == 2
    assert "run it as root" in capsys.readouterr().err


def test_whether_it_is_ready_is_asked_without_loading_the_command_line_and_told_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["router", "ready", "--control", str(tmp_path / "none.sock")]
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "fwd", *arguments], capture_output=True, text=True, check=False
    )
    imported = [line for line in told.stderr.splitlines() if line.startswith("import time:")]
    assert imported
    assert not any("typer" in line or "pydantic" in line for line in imported)

    assert (_exit_status(arguments), told.returncode) == (2, 2)
    assert told.stderr.splitlines()[-1] == capsys.readouterr().err.strip()

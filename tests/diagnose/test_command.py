"""`fwd diagnose` on this host, on the loopback's addresses: nothing runs, and nothing is changed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from fwd.diagnose.command import diagnose

CONFIG = """
[gateway]
control = "{control}"
[[peering]]
name = "far"
local_addrs = "127.0.0.1"
remote_addrs = "127.0.0.2"
local_ts = ["10.1.0.0/16"]
remote_ts = ["10.2.0.0/16"]
members = 1
port = {port}
[peering.keys]
source = "psk"
secret = "{secret}"
ike_port = {ike_port}
"""


@pytest.fixture
def taken() -> Any:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def found_in(path: Path) -> tuple[list[dict[str, Any]], list[str], int]:
    text, status = diagnose(path, None, as_json=True)
    told = json.loads(text)
    return told["findings"], told["unseen"], status


def test_a_file_that_is_none_is_the_only_finding(tmp_path: Path) -> None:
    path = tmp_path / "fwd.toml"
    path.write_text("peering = 3")
    (found,), _, status = found_in(path)
    assert (found["check"], found["severity"], status) == ("config", "fault", 1)
    assert str(path) in found["what"]


def test_a_name_without_an_address_is_a_finding_and_with_one_it_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "fwd.toml"
    names = {"control": tmp_path / "none.sock", "secret": tmp_path / "none.psk", "port": 4500, "ike_port": 500}
    text = CONFIG.format(**names)
    path.write_text(text.replace("127.0.0.2", "no-such-host.invalid"))
    found, _, status = found_in(path)
    (name,) = (one for one in found if one["check"] == "name")
    assert "no-such-host.invalid" in name["what"]
    assert status == 1
    path.write_text(text.replace('"127.0.0.1"', '"127.0.0.9"').replace("127.0.0.2", "localhost"))
    found, _, _ = found_in(path)
    assert not [one for one in found if one["check"] == "name"]
    assert any("127.0.0.9" in one["what"] for one in found)


def test_who_has_a_port_is_named_and_so_is_a_gateway_that_does_not_run(tmp_path: Path, taken: int) -> None:
    path = tmp_path / "fwd.toml"
    names = {"control": tmp_path / "none.sock", "secret": tmp_path / "none.psk"}
    path.write_text(CONFIG.format(**names, port=taken, ike_port=taken - 1 if taken > 2000 else taken + 1))
    found, _, status = found_in(path)
    (port,) = (one for one in found if one["check"] == "port" and str(taken) in one["what"])
    assert f"(pid {os.getpid()})" in port["evidence"]
    assert port["remedy"]
    assert status == 1
    (absent,) = (one for one in found if one["check"] == "not_running")
    assert "none.sock" in absent["evidence"]
    assert "start" in absent["remedy"]


def test_the_ports_of_a_gateway_that_says_nothing_are_not_tried(tmp_path: Path, taken: int) -> None:
    """They are its own: whether it hangs, or has another version."""
    path, control = tmp_path / "fwd.toml", tmp_path / "mute.sock"
    names = {"control": control, "secret": tmp_path / "none.psk"}
    path.write_text(CONFIG.format(**names, port=taken, ike_port=taken - 1 if taken > 2000 else taken + 1))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as mute:
        mute.bind(str(control))
        mute.listen(8)
        answers = threading.Thread(target=lambda: [mute.accept()[0].close() for _ in range(2)])
        answers.start()
        found, _, status = found_in(path)
        answers.join(10)
    assert status == 1
    assert not [one for one in found if one["check"] == "port"]
    assert [one for one in found if one["check"] == "not_running"]


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes somebody else, and has to be root for it")
def test_without_root_one_line_says_so(tmp_path: Path) -> None:
    # Files are read as root's: where fwd is, below somebody's home directory, nobody else may look.
    script = (
        "import ctypes, os; os.setresuid(65534, 65534, 0); ctypes.CDLL(None).setfsuid(0);"
        "from fwd.cli import main; main()"
    )
    argv = [sys.executable, "-c", script, "diagnose", "--config", str(tmp_path / "fwd.toml")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("fwd: fwd diagnose needs root")
    assert done.stderr.count("\n") == 1


def test_people_get_lines(tmp_path: Path) -> None:
    text, status = diagnose(tmp_path / "none.toml", None, as_json=False)
    assert status == 1
    assert text.splitlines()[0].startswith("fault: ")
    assert "remedy:" in text

"""`fwd gather` beside a gateway that runs: what is in the bundle, and that no secret is."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from gwkit import MakePair, Pair

PSK = "correct-horse-battery-staple-4711"
PROBE = bytes(range(32, 64)).hex()
TOKEN = "fwdb.abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ"
STRAY = "stray-secret-of-a-controller"
PEM = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIplanted\n-----END PRIVATE KEY-----"
PLANTED = (PSK, PROBE, TOKEN, STRAY, "MC4CAQAwBQYDK2VwBCIEIplanted")


def forms(secret: str) -> tuple[bytes, ...]:
    """How a secret would be found in a file."""
    octets = secret.encode()
    return octets, octets.hex().encode(), base64.b64encode(octets).rstrip(b"=")


def gather(pair: Pair, directory: Path, output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run it in the gateway's namespace, with a journal that says every secret."""
    tools = directory / "tools"
    tools.mkdir(exist_ok=True)
    journal = tools / "journalctl"
    said = "\n".join([*PLANTED, PSK.encode().hex(), base64.b64encode(PSK.encode()).decode(), PEM, "a line of the log"])
    journal.write_text(f"#!/bin/sh\ncat <<'END'\n{said}\nEND\n")
    journal.chmod(0o755)
    environ = {"PATH": f"{tools}:{os.environ['PATH']}", "FWD_CLIENT": "/nonexistent", "FWD_CONTROLLER_TOKEN": TOKEN}
    argv = ["env", *(f"{key}={value}" for key, value in environ.items()), sys.executable, "-P", "-m", "fwd", "gather"]
    options = ["--output", str(output), "--control", str(pair.control("gw1")), *more]
    return pair.topology.run("gw1", [*argv, *options], check=False)


@pytest.fixture
def pair(pairs: MakePair, tmp_path: Path) -> Pair:
    pair = pairs(keys={"source": "psk"}, start=False)
    pair.probe_key = bytes.fromhex(PROBE)
    pair.answer_routers()
    pair.secret = PSK.encode()
    for host in ("gw1", "gw2"):
        pair.write_config(host)
        pair.files(host).write_secret(PSK.encode())
        pair.begin(host)
    pair.wait_ready()
    return pair


def test_the_bundle_has_what_is_needed_and_no_secret(pair: Pair, tmp_path: Path) -> None:
    # A comment and a chain's comment with the key, and the state of a controller.
    config = pair.config("gw1")
    config.write_text(f"# the key is {PSK}\n{config.read_text()}")
    state = tmp_path / "state"
    state.mkdir()
    (state / "admin.token").write_text(STRAY)
    (state / "ca.key").write_text(PEM)
    controller = tmp_path / "controller.toml"
    controller.write_text(f'[controller]\nurl = "https://c.example"\nstate = "{state}"\nlisten = "{STRAY}"\n')
    pair.nft("gw1", f'table inet planted {{ comment "{PSK}"; }}\n')

    output = tmp_path / "bundle.tar.gz"
    done = gather(pair, tmp_path, output, "--config", str(config), "--config", str(controller))
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert stat.S_IMODE(output.stat().st_mode) == 0o600

    with tarfile.open(output) as archive:
        members = archive.getmembers()
        texts = {one.name.partition("/")[2]: archive.extractfile(one).read() for one in members}  # type: ignore[union-attr]
    found = {
        (name, secret) for name, text in texts.items() for secret in PLANTED for form in forms(secret) if form in text
    }
    assert not found
    assert {one.mode for one in members} == {0o600}

    # What is needed is there.
    assert json.loads(texts["status.json"])["ready"] is True
    assert str(pair.secret_path("gw1")) in texts["config/gw1.toml.json"].decode()
    assert json.loads(texts["versions.json"])["kernel"].startswith(os.uname().release)
    assert b"checks:" in texts["diagnose-gateway.txt"]
    assert b"a line of the log" in texts["log.txt"]
    assert b"planted" in texts["kernel/filters.txt"]
    assert b"lan" in texts["kernel/links.txt"]
    assert b"router.json" in texts["missing.txt"]

    # Nothing is overwritten.
    again = gather(pair, tmp_path, output)
    assert (again.returncode, again.stdout, again.stderr.count("\n")) == (2, "", 1)
    assert "nothing is overwritten" in again.stderr

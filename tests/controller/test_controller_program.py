"""`fwd controller`, the program: what it makes at its first start, and what it says of what it cannot use."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from portkit import free_ports

from fwd.controller import keys
from fwd.controller.config import load
from fwd.lab.waiting import until
from fwd.model.words import ConfigError

ENDED = 60


def written(directory: Path, port: int, more: str = "") -> Path:
    path = directory / "controller.toml"
    path.write_text(
        f'[controller]\nlisten = "127.0.0.1:{port}"\nurl = "https://127.0.0.1:{port}"\n'
        f'state = "{directory / "state"}"\n{more}'
    )
    return path


def started(config: Path) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "fwd", "controller", "--config", str(config)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.timeout(180)
def test_it_makes_its_keys_leads_and_lets_its_first_admin_in_and_again_at_the_next_start(tmp_path: Path) -> None:
    port = free_ports(socket.SOCK_STREAM, 1)[0]
    config, state = written(tmp_path, port), tmp_path / "state"
    for names in ([], ["a"]):
        process = started(config)
        try:
            _wait(process, state, port)
            headers = {"Authorization": f"Bearer {(state / keys.ADMIN_TOKEN).read_text().strip()}"}
            with _client(state, port) as client:
                listed = client.get("/v1/vpcs", headers=headers).json()["items"]
                assert [one["name"] for one in listed] == names
                client.post("/v1/vpcs", json={"name": "a", "cidrs": ["10.1.0.0/16"]}, headers=headers)
        finally:
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=ENDED)
        assert process.returncode == 0, log
        assert "event=controller.leads" in log
    assert {path.stat().st_mode & 0o077 for path in state.iterdir() if path.suffix in (".key", ".pem", ".token")} == {0}


def _wait(process: subprocess.Popen[str], state: Path, port: int) -> None:
    until(lambda: _leads(state, port) or process.poll() is not None, "it leads", ENDED)
    assert process.poll() is None, process.communicate()


def _leads(state: Path, port: int) -> bool:
    try:
        with _client(state, port) as client:
            return client.get("/healthz").status_code == 200 and (state / keys.ADMIN_TOKEN).exists()
    except (OSError, httpx.HTTPError):
        return False


def _client(state: Path, port: int) -> httpx.Client:
    context = ssl.create_default_context(cafile=state / keys.CA_PEM)
    return httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=context, trust_env=False, timeout=30)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "controller: missing"),
        ('[controller]\nurl = "http://a:1"\n', "https is needed"),
        ('[controller]\nurl = "https://a/x"\n', "a URL without a path"),
        ('[controller]\nurl = "https://a:x"\n', "a URL without a path"),
        ('[controller]\nurl = "https://a"\nlisten = "a:1"\n', "an address and a port"),
        ('[controller]\nurl = "https://a"\nlisten = "::1:1"\n', "an address and a port"),
        ('[controller]\nurl = "https://a"\nlisten = "127.0.0.1:70000"\n', "an address and a port"),
        ('[controller]\nurl = "https://a"\ncertificate_lifetime = "1s"\n', "10 is the least"),
        ('[controller]\nurl = "https://a"\ncolor = 1\n', "unknown key"),
        ('[controller]\nurl = "https://a"\n[store]\nkind = "etcd"\n', "etcd needs endpoints"),
        ('[controller]\nurl = "https://a"\n[store]\nendpoints = ["https://e:1"]\n', 'are for kind = "etcd"'),
        ('[controller]\nurl = "https://a"\n[store]\nkind = "redis"\n', "use one of"),
        ('[controller]\nurl = "https://a"\n[store]\nkind = "etcd"\nprefix = "x"\nendpoints = ["http://e"]\n', "prefix"),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_be_is_one_line(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "controller.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_keeps_it_from_starting_is_one_line_and_status_2(tmp_path: Path) -> None:
    """Its port is taken; others may look into its state; a key is none."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = written(tmp_path, taken.getsockname()[1])
        assert "cannot listen here" in refused(config)
    state = tmp_path / "state"
    state.chmod(0o755)
    assert "chmod 700" in refused(config)
    state.chmod(0o700)
    (state / keys.CA_KEY).write_text("no key")
    assert "ca.key" in refused(config)
    os.unlink(state / keys.CA_KEY)
    assert "ca.key" in refused(config)


def refused(config: Path) -> str:
    """Its last word, one line, when it does not start."""
    process = started(config)
    try:
        _, log = process.communicate(timeout=ENDED)
    finally:
        process.kill()
    assert process.returncode == 2, log
    line = log.splitlines()[-1]
    assert line.startswith("fwd: ")
    return line

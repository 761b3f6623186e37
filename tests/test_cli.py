"""The command line: what a user can get wrong is one line on stderr and exit status 2."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.main import get_command

from fwd import __version__
from fwd.cli import _exit_status, app
from fwd.model.example import EXAMPLE

STATUS = {
    "schema": 1, "version": __version__, "ready": False, "not_ready": ["keyd is failed"], "warnings": [],
    "gateway": {"pid": 1, "uptime_s": 3.5, "control": "/run/fwd/fwd.sock"},
    "processes": [{"name": "keyd", "state": "failed", "pid": 0, "restarts": 9, "heartbeat_age_ms": None}],
    "peerings": [],
}  # fmt: skip


@dataclass(frozen=True)
class Done:
    """What a command said, and its exit status."""

    returncode: int
    stdout: str
    stderr: str


def fwd(*args: str) -> Done:
    """Run a command in this process, which has imported already what each process would import anew."""
    out, err = io.StringIO(), io.StringIO()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = _exit_status(list(args))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return Done(status, out.getvalue(), err.getvalue())


def assert_refused(result: Done, *words: str) -> None:
    assert result.returncode == 2, result
    assert result.stdout == ""
    assert result.stderr.startswith("fwd")
    assert result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.toml"
    path.write_text(EXAMPLE)
    return path


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Path]:
    """A control socket that answers every request with STATUS."""
    path = tmp_path / "c.sock"
    with socket.create_server(str(path), family=socket.AF_UNIX) as listener:

        def serve() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                with sock:
                    sock.recv(4096)
                    sock.sendall(json.dumps(STATUS).encode() + b"\n")

        thread = threading.Thread(target=serve)
        thread.start()
        yield path
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_version_and_help() -> None:
    assert fwd("--version").stdout == f"fwd {__version__}\n"
    for args in (["--help"], ["status", "--help"], ["lab", "--help"], ["bench", "--help"], ["config", "--help"]):
        result = fwd(*args)
        assert (result.returncode, result.stderr) == (0, "")
        assert "Usage: fwd" in result.stdout


def test_what_nobody_wants_to_read_is_no_failure() -> None:
    """Of a script that is started with its standard output closed the exit status is all there is."""
    done = subprocess.run(["sh", "-c", f"{sys.executable} -m fwd --version >&-"], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_config_example_is_fine(tmp_path: Path) -> None:
    example = fwd("config", "example").stdout
    assert example == EXAMPLE
    (tmp_path / "x.toml").write_text(example)
    result = fwd("config", "check", str(tmp_path / "x.toml"))
    assert (result.returncode, result.stderr) == (0, "")
    assert "vpc2 with 4 members" in result.stdout


@pytest.mark.parametrize("command", [["config", "check"], ["demux", "--config"]])
def test_bad_files(command: list[str], tmp_path: Path) -> None:
    assert_refused(fwd(*command, str(tmp_path / "none.toml")), "none.toml", "No such file")
    bad = tmp_path / "bad.toml"
    bad.write_text("[[peering]\n")
    assert_refused(fwd(*command, str(bad)), "bad.toml", "not TOML")
    bad.write_text(EXAMPLE.replace("members", "membres"))
    assert_refused(fwd(*command, str(bad)), "bad.toml", "membres", "unknown key")
    bad.write_text(EXAMPLE.replace('remote_ts = ["10.2.0.0/16"]', 'remote_ts = ["10.1.2.0/24"]'))
    assert_refused(fwd(*command, str(bad)), "overlap")


@pytest.mark.parametrize("members", ["0", "65", "many", "-1"])
def test_wrong_members(good: Path, members: str) -> None:
    assert_refused(fwd("demux", "--config", str(good), "--members", members), "--members")


@pytest.mark.parametrize(
    "args", [["demux", "--config"], ["nope"], ["status", "--nope"], ["config", "check"], ["lab", "exec"]]
)
def test_wrong_usage(args: list[str]) -> None:
    assert_refused(fwd(*args))


@pytest.mark.parametrize(
    ("line", "shown"),
    [("demux fwd.toml", "fwd demux"), ("confg", "fwd"), ("config chek", "fwd config"), ("lab up -x", "fwd lab up")],
)
def test_wrong_usage_says_where_the_right_one_is_told(line: str, shown: str) -> None:
    assert_refused(fwd(*line.split()), f": see `{shown} --help`\n")


def test_demux_alone_reads_the_services_configuration() -> None:
    (config,) = (one for one in get_command(app).commands["demux"].params if one.name == "config")  # type: ignore[attr-defined]
    assert config.default == Path("/etc/fwd/fwd.toml")


def test_a_user_that_this_host_has_not_is_told(good: Path) -> None:
    """The file may be for another host; with --secrets it is for this one."""
    good.write_text(EXAMPLE.replace('# user = "fwd"', 'user = "no-such-user"'))
    checked = fwd("config", "check", str(good))
    assert (checked.returncode, checked.stdout.count("OK")) == (0, 1)
    assert "warning: on this host, gateway.user: no such user: no-such-user" in checked.stderr
    examined = fwd("config", "check", "--secrets", str(good))
    assert examined.returncode == 2
    assert "no such user: no-such-user" in examined.stderr


def test_status_without_a_gateway(tmp_path: Path) -> None:
    assert_refused(fwd("status", "--control", str(tmp_path / "none")), "nobody answers", "No such file")
    assert_refused(fwd("status", "--control", "/" + "x" * 200), "nobody answers")
    assert_refused(fwd("status", "--json", "--watch"), "--json and --watch")


def test_status(control: Path) -> None:
    assert json.loads(fwd("status", "--json", "--control", str(control)).stdout) == STATUS
    shown = fwd("status", "--control", str(control))
    assert shown.returncode == 0
    assert "keyd is failed" in shown.stdout


def test_status_of_another_schema(control: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STATUS, "schema", 2)
    assert_refused(fwd("status", "--control", str(control)), "another schema")


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_watch_draws_until_ctrl_c(control: Path, term: str) -> None:
    """Over what was there; a terminal that cannot do so gets one table after the other."""
    terminal, theirs = pty.openpty()
    argv = [sys.executable, "-m", "fwd", "status", "--watch", "--control", str(control)]
    process = subprocess.Popen(argv, stdout=theirs, stderr=subprocess.PIPE, env={**os.environ, "TERM": term})
    try:
        os.close(theirs)
        drawn = seen_twice(terminal)
        assert (b"\x1b[" in drawn) == (term != "dumb")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (0, b"")
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


def test_watch_fills_a_pipe(control: Path) -> None:
    argv = [sys.executable, "-m", "fwd", "status", "--watch", "--control", str(control)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            seen_twice(process.stdout.fileno())
        finally:
            process.kill()


def seen_twice(fd: int) -> bytes:
    """Read until the status has been drawn twice."""
    drawn = b""
    deadline_s = time.monotonic() + 60
    while drawn.count(b"keyd is failed") < 2:
        assert select.select([fd], [], [], deadline_s - time.monotonic())[0], drawn
        drawn += os.read(fd, 65536)
    return drawn


def test_a_reader_that_leaves_is_no_traceback() -> None:
    near, far = os.pipe()
    os.close(near)
    argv = [sys.executable, "-m", "fwd", "config", "example"]
    result = subprocess.run(argv, stdout=far, stderr=subprocess.PIPE, timeout=30, check=False)
    os.close(far)
    assert (result.returncode, result.stderr) == (1, b"")


def test_status_starts_light() -> None:
    """Nothing heavy is imported to ask for the status."""
    code = (  # typer itself brings pydantic
        "import sys; sys.argv = ['fwd', 'status', '--json', '--control', '/nonexistent']; from fwd.cli import main\n"
        "try: main()\n"
        "except SystemExit: print(*({'numpy', 'cryptography', 'pyroute2', 'xxhash'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


@pytest.mark.parametrize(
    ("time_given", "reason"),
    [("", "expected a time such as 90s"), ("0s", "expected a time of 1s or more"), ("2d", "expected 1 day at most")],
)
def test_a_trial_without_a_time_that_can_be_is_refused(tmp_path: Path, time_given: str, reason: str) -> None:
    done = fwd("apply", str(tmp_path / "new.toml"), "--confirm", time_given)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--confirm: {reason}" in done.stderr


def test_help_is_there_by_its_short_name() -> None:
    assert fwd("-h").returncode == 0
    assert fwd("status", "-h").returncode == 0

"""What a host or container lacks is one line with the remedy, before anything is opened and before the first fork."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from fwd.model.config import parse
from fwd.model.example import EXAMPLE
from fwd.proto.errors import UserError
from fwd.supervise import running
from fwd.supervise.host import Host, look, mapped, missing

ALL: Final = (range(2**32 - 1),)
WHOLE: Final = Host(
    capabilities=2**41 - 1, uids=ALL, gids=ALL, may_set_groups=True, tun=0, has_nft=True, free_port_min=1024, run=""
)
USERS: Final = {"demux": (997, 998), "member": (997, 998), "keyd": (996, 997), "agent": (995, 996)}
MISSING = "peering: missing: at least one is needed, unless there is a [controller] from which they come"


def without(*bits: int) -> int:
    return WHOLE.capabilities & ~sum(1 << bit for bit in bits)


LACKS: Final = {
    "SETUID": ({"capabilities": without(7)}, ["without CAP_SETUID, needed for the child", "docker: --cap-add SETUID;"]),
    "SETUID and SETGID": ({"capabilities": without(6, 7)}, ["--cap-add SETGID --cap-add SETUID", "to give up root: "]),
    "NET_ADMIN": ({"capabilities": without(12)}, ["without CAP_NET_ADMIN, needed for the TUN device"]),
    "KILL": ({"capabilities": without(5)}, ["without CAP_KILL, needed to signal the child processes"]),
    "low ports": ({"capabilities": without(10)}, ["UDP port 500 needs CAP_NET_BIND_SERVICE, or the sysctl"]),
    "users": (
        {"uids": (range(996),), "gids": (range(996),)},
        ["user 997, user 996, group 998, group 997, group 996: not mapped", "users 0 to 995", "gateway.user"],
    ),
    "all users but root": ({"uids": (range(1),), "gids": (range(1),)}, ["which has the users 0 and the groups 0:"]),
    "setgroups": ({"may_set_groups": False}, ["forbids setgroups"]),
    "no TUN device": ({"tun": errno.ENOENT}, ["/dev/net/tun is missing", "modprobe tun", "--device /dev/net/tun"]),
    "a TUN device of others": ({"tun": errno.EPERM}, ["/dev/net/tun may not be opened", "DeviceAllow=/dev/net/tun rw"]),
    "no TUN in the kernel": ({"tun": errno.ENODEV}, ["/dev/net/tun cannot be opened, No such device"]),
    "nft": ({"has_nft": False}, ["nft is missing", "install the package nftables"]),
    "a directory": ({"run": "/run is read-only"}, ["/run is read-only, and the control socket (gateway.control)"]),
}


@pytest.mark.parametrize(("lacking", "words"), LACKS.values(), ids=LACKS.keys())
def test_each_thing_that_is_missing_has_its_remedy(lacking: dict[str, object], words: list[str]) -> None:
    (line,) = missing(replace(WHOLE, **lacking), parse(EXAMPLE, ""), USERS)  # type: ignore[arg-type]
    assert "\n" not in line
    for word in words:
        assert word in line


def test_a_host_with_all_of_it_lacks_nothing() -> None:
    assert missing(WHOLE, parse(EXAMPLE, ""), USERS) == []


def test_low_ports_are_free_where_the_sysctl_says_so_and_where_none_is_used() -> None:
    poor = replace(WHOLE, capabilities=without(10))
    assert missing(replace(poor, free_port_min=0), parse(EXAMPLE, ""), USERS) == []
    assert missing(poor, parse(EXAMPLE.replace("ike_port = 500", "ike_port = 5000"), ""), USERS) == []


def test_a_gateway_whose_peerings_come_later_needs_the_port_of_ike() -> None:
    config = parse('[controller]\nsubnets = ["10.0.0.0/8"]\n', "")
    poor = replace(WHOLE, capabilities=without(10))
    assert missing(poor, config, USERS) == [
        "UDP port 500 needs CAP_NET_BIND_SERVICE, or the sysctl net.ipv4.ip_unprivileged_port_start=500"
    ]
    assert missing(replace(poor, free_port_min=0), config, USERS) == []


def test_maps_of_user_namespaces_are_read() -> None:
    assert mapped("         0          0 4294967295\n") == ALL
    assert mapped("") == ALL, "a kernel without user namespaces"
    assert mapped("0 1000 1\n1 100000 65536\n") == (range(1), range(1, 65537))


def test_a_directory_that_is_not_there_is_looked_for_above(tmp_path: Path) -> None:
    assert look(tmp_path / "a" / "b").run == ""
    (tmp_path / "file").touch()
    assert look(tmp_path / "file" / "b").run == f"{tmp_path / 'file'} is no directory"


# -- the real thing ------------------------------------------------------------------------------------------------

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")  # each starts fwd


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "fwd.toml"
    path.write_text(EXAMPLE.replace("/run/fwd/", f"{tmp_path}/run/"))
    return path


def refused(config: Path, *wrapper: str) -> str:
    """What `fwd demux` says in a poor place, which is one line and status 2."""
    if shutil.which(wrapper[0]) is None:
        pytest.skip(f"needs {wrapper[0]}")
    tried = subprocess.run([*wrapper, "true"], capture_output=True, text=True, timeout=60, check=False)
    if tried.returncode:
        pytest.skip(f"not possible here: {tried.stderr.strip()}")
    argv = [*wrapper, sys.executable, "-m", "fwd", "demux", "--config", str(config)]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (2, ""), result
    assert result.stderr.count("\n") == 1, result.stderr
    assert not (config.parent / "run").exists(), "nothing is made"
    return result.stderr


@pytest.mark.slow
@needs_root
def test_without_the_right_to_become_another_user_it_says_so(config: Path) -> None:
    line = refused(config, "setpriv", "--bounding-set=-setuid,-setgid", "--inh-caps=-setuid,-setgid")
    assert line.startswith("fwd: fwd runs without CAP_SETGID, CAP_SETUID, needed for the child processes to give up")


@pytest.mark.slow
@needs_root
def test_in_a_user_namespace_of_one_user_it_says_which_are_missing(config: Path) -> None:
    line = refused(config, "unshare", "--user", "--map-root-user", "--net")
    assert ": not mapped in this user namespace, which has the users 0 and the groups 0: choose a gateway.user" in line


@pytest.mark.slow
@needs_root
@pytest.mark.parametrize(
    ("mounted", "expected"),
    [
        (
            "mount -t tmpfs tmpfs /dev/net",
            "/dev/net/tun is missing: load the module (modprobe tun); in a container",
        ),
        (
            "mount -t tmpfs -o ro tmpfs {run}",
            "{run} is read-only: make it writable (docker: --tmpfs /run), and",
        ),
    ],
)
def test_what_is_not_mounted_is_named(config: Path, mounted: str, expected: str, tmp_path: Path) -> None:
    run = tmp_path / "readonly"
    run.mkdir()
    config.write_text(config.read_text().replace(f"{tmp_path}/run/", f"{run}/"))
    inside = f'{mounted.format(run=run)} && exec "$0" "$@"'
    assert expected.format(run=run) in refused(config, "unshare", "--mount", "sh", "-c", inside)


@pytest.mark.slow
@needs_root
def test_a_reload_that_is_asked_for_in_the_first_second_ends_nothing(config: Path) -> None:
    """fwd waits for its configuration here, as long as the test likes: that is a FIFO."""
    config.unlink()
    os.mkfifo(config)
    argv = [sys.executable, "-m", "fwd", "demux", "--config", str(config)]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    try:
        writer = os.open(config, os.O_WRONLY)  # it has begun to read
        process.send_signal(signal.SIGHUP)
        while process.poll() is None and not _is_pending(process.pid, signal.SIGHUP):
            time.sleep(0.01)
        os.close(writer)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (2, f"fwd: {config}: {MISSING}\n")
    finally:
        process.kill()
        process.wait()


def _is_pending(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("ShdPnd:")[2].split()[0], 16) >> (number - 1) & 1)


def test_a_machine_of_another_order_of_stores_runs_no_gateway(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "fwd.toml").write_text(EXAMPLE)
    (tmp_path / "fwd.toml").chmod(0o600)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(os, "geteuid", lambda: 65534)  # it would be refused all the same, and set up nothing
    with pytest.raises(UserError, match="this machine is aarch64"):
        running.run(tmp_path / "fwd.toml")

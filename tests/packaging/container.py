"""A small Debian that runs, of Debian's packages alone: mmdebstrap makes its root once, systemd-nspawn runs it.

`booted` is one with its own systemd and its own network, on an overlay that goes with it: neither the machine's network
nor its files are touched; commands run inside through nsenter. `run_in` runs one command in a root that keeps what it
does, and with the machine's network, from which it may install.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from fwd.lab.waiting import Daemon, until

PACKAGES = "systemd,systemd-sysv,dbus,python3,nftables,iproute2,iputils-ping,procps"
BOOT_S = 60.0
AUTHORITIES = (Path("/etc/ssl/certs/ca-certificates.crt"),)  # a machine may trust more than Debian's
LANDLOCK = ("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self")
_CGROUPS = Path("/sys/fs/cgroup")


def make_root(directory: Path, packages: str = PACKAGES) -> None:
    """Make a root of Debian's packages, and of nothing else, once."""
    if directory.exists():
        return
    part = directory.with_suffix(".part")
    subprocess.run(["rm", "-rf", str(part)], check=True)
    options = ["--quiet", "--variant=minbase", "--format=directory", f"--include={packages}"]
    subprocess.run(["mmdebstrap", *options, "bookworm", str(part)], check=True, timeout=600)
    part.rename(directory)


class Container:
    """One that has booted. `leader` is its first process, as seen from here."""

    def __init__(self, leader: int) -> None:
        self.leader = leader

    def run(self, *argv: str, check: bool = True, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """A command inside."""
        done = subprocess.run(
            ["nsenter", f"--target={self.leader}", "--mount", "--uts", "--ipc", "--net", "--pid", *argv],
            capture_output=True, text=True, check=False, timeout=timeout_s, cwd="/",
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive"},
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{' '.join(argv)}: {done.stdout}{done.stderr}"
        return done

    def output(self, *argv: str) -> str:
        return self.run(*argv).stdout.strip()

    def write(self, path: str, text: str) -> None:
        (Path(f"/proc/{self.leader}/root") / path.lstrip("/")).write_text(text, encoding="utf-8")

    def copy_in(self, file: Path, path: str) -> None:
        (Path(f"/proc/{self.leader}/root") / path.lstrip("/")).write_bytes(file.read_bytes())


@contextlib.contextmanager
def booted(root: Path, log: Path) -> Iterator[Container]:
    """The container, up; at the end it is gone with all that it changed."""
    options = ["--volatile=overlay", "--boot", "--private-network", "--link-journal=no", "--console=read-only"]
    with _nspawn(root, options, log) as process:
        nspawn = Daemon.of("systemd-nspawn", process, log)
        container = Container(_leader(nspawn))
        _wait_booted(container, nspawn)
        yield container


def run_in(root: Path, script: str, log: Path, timeout_s: float, variables: Mapping[str, str]) -> int:
    """Run a shell's script in a root that keeps what it does, with the machine's network; return its exit status.

    It is root there, may make network namespaces, and has the machine's trusted authorities and resolver.
    """
    options = ["--as-pid2", "--console=pipe", "--capability=CAP_NET_ADMIN", "--resolv-conf=bind-host"]
    options += [f"--system-call-filter={' '.join(LANDLOCK)}"]  # which nspawn's own filter does not know yet
    options += [f"--bind-ro={file}" for file in AUTHORITIES if file.exists()]
    options += [f"--setenv={name}={value}" for name, value in variables.items()]
    # Sysctls of the network can be set there as on any machine: nspawn would mount them read-only.
    with _nspawn(
        root, options, log, ["/bin/sh", "-ec", script], {"SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"}
    ) as process:
        return process.wait(timeout_s)


@contextlib.contextmanager
def _nspawn(
    root: Path, options: Sequence[str], log: Path, command: Sequence[str] = (), variables: Mapping[str, str] = {}
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a container in control groups of its own; at the end it is gone, and they are."""
    argv = ["systemd-nspawn", "--quiet", f"--directory={root}", "--bind=/dev/net/tun", "--register=no", "--keep-unit"]
    group = f"fwd-deb-{os.getpid()}"
    with log.open("wb") as output, _own_cgroups(group):
        process = subprocess.Popen(
            [*argv, *options, *command], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            preexec_fn=lambda: _enter(group), env={**os.environ, **variables},
        )  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _leader(nspawn: Daemon) -> int:
    """systemd inside: the one below nspawn that has that name."""

    def found() -> int:
        for child in psutil.Process(nspawn.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.name() == "systemd":
                    return int(child.pid)
        return 0

    return until(found, "systemd in the container", BOOT_S, [nspawn])


def _wait_booted(container: Container, nspawn: Daemon) -> None:
    def up() -> bool:
        state = container.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state in ("running", "degraded")

    until(up, "the container has booted", BOOT_S, [nspawn])


# -- control groups: nspawn makes some below those that it starts in, and leaves them ---------------------------------


def _hierarchies() -> list[Path]:
    """Where systemd keeps its groups: all there is, or with version 1 those two."""
    return [_CGROUPS] if (_CGROUPS / "cgroup.procs").exists() else [_CGROUPS / "systemd", _CGROUPS / "unified"]


@contextlib.contextmanager
def _own_cgroups(name: str) -> Iterator[None]:
    groups = [hierarchy / name for hierarchy in _hierarchies() if hierarchy.is_dir()]
    for group in groups:
        group.mkdir()
    try:
        yield
    finally:
        for group in groups:
            for directory, _, _ in os.walk(group, topdown=False):
                os.rmdir(directory)


def _enter(name: str) -> None:
    for hierarchy in _hierarchies():
        if hierarchy.is_dir():
            (hierarchy / name / "cgroup.procs").write_text(str(os.getpid()))

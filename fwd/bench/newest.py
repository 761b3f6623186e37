"""The newest versions of the peers that Debian has, unpacked beside the system's own and never installed.

apt does the work, with sources, state and cache of its own: the mirror is the one that the system's own sources name,
the suite must be signed by Debian's archive key, each package must be what the suite says, and a program comes with
all that it needs, its C library among it. dpkg-deb unpacks them; nothing of them is run on the way. What has been
fetched once stays until its directory goes. Refuses (`UnfetchedError`, one line): a system that is not Debian, no
mirror that answers, and whatever apt refuses; the bench then measures the installed versions alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fwd.bench.tunnels.peer import Program
from fwd.proto.errors import UserError

DIRECTORY: Final = Path("build/peers")
SUITE: Final = "sid"
KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
WANTED: Final = ("wireguard-go", "openvpn")  # packages
_RECORD = "packages.json"
_TIMEOUT_S = 180.0  # of one command
_HOOKS = ("Pre-Invoke", "Post-Invoke", "Post-Invoke-Success")  # of apt-get update


class UnfetchedError(UserError):
    """There are no newer versions, and why; one line."""


@dataclass(frozen=True)
class Package:
    """A package of Debian's, as its suite signs for it."""

    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}, SHA-256 {self.sha256}"


@dataclass(frozen=True)
class Newest:
    """Programs that lie unpacked in a directory, and the packages they came in."""

    directory: Path
    suite: str
    packages: tuple[Package, ...]

    def wireguard_go(self) -> Program:
        """A static binary, which needs nothing."""
        return Program((str(self._root / "usr/bin/wireguard-go"),), self._source("wireguard-go"))

    def openvpn(self) -> Program:
        """Run by the dynamic loader of its own C library, which may be newer than the system's.

        The loader goes by the program's name, so that this is what its process is called.
        """
        libraries = _only(self._root, "usr/lib/*-linux-gnu*")
        argv = (self.directory / "bin/openvpn", "--library-path", libraries, self._root / "usr/sbin/openvpn")
        return Program(tuple(map(str, argv)), self._source("openvpn"))

    @property
    def _root(self) -> Path:
        return self.directory / "root"

    def _source(self, name: str) -> str:
        package = next(package for package in self.packages if package.name == name)
        return f"Debian {self.suite}: {package}"


def fetch(directory: Path = DIRECTORY) -> Newest:
    """What has been unpacked there, or else is now. Raises UnfetchedError."""
    directory = directory.absolute()
    if (known := _known(directory)) is not None:
        return known
    for command in ("apt-get", "dpkg-deb"):
        if shutil.which(command) is None:
            raise UnfetchedError(f"there is no {command}")
    found = mirrors()
    if not found:
        raise UnfetchedError("apt's sources name no mirror of Debian")

    # Several are rare: the first that has what is wanted.
    why = ""
    for mirror in found:
        try:
            return fetch_from(mirror, directory, KEYRING)
        except UnfetchedError as error:
            why = str(error)
    raise UnfetchedError(why)


def mirrors() -> list[str]:
    """The mirrors of Debian itself that the system's own sources name."""
    try:
        system = platform.freedesktop_os_release()
    except OSError:
        system = {}
    if system.get("ID") != "debian":
        raise UnfetchedError(f"this is no Debian, but {system.get('PRETTY_NAME', 'unknown')}")
    told = _said(["apt-get", "indextargets", "--format", "$(IDENTIFIER) $(COMPONENT) $(RELEASE) $(REPO_URI)"])
    return mirrors_in(told, system.get("VERSION_CODENAME", ""))


def mirrors_in(targets: str, codename: str) -> list[str]:
    """Those in apt's list of what it fetches: who has the main component of the system's own release, or of sid."""
    rows = [line.split(maxsplit=3) for line in targets.splitlines()]
    of_debian = [row[3] for row in rows if len(row) == 4 and row[:2] == ["Packages", "main"]
                 and row[2] in {codename, "sid", "unstable"} - {""}]  # fmt: skip
    return list(dict.fromkeys(of_debian))


def fetch_from(mirror: str, directory: Path, keyring: Path) -> Newest:
    """Fetch and unpack the newest versions that a mirror has, all or nothing. Raises UnfetchedError."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as made:
        work, result = Path(made) / "apt", Path(made) / "result"
        debs = _download(work, mirror, keyring)
        _unpack(debs, result)
        packages = [_package(deb) for deb in debs]
        record = {"suite": SUITE, "packages": [vars(package) for package in packages]}
        (result / _RECORD).write_text(json.dumps(record, indent=1) + "\n")
        shutil.rmtree(directory, ignore_errors=True)  # what an older fwd has left, or somebody half removed
        result.rename(directory)
    return Newest(directory, SUITE, tuple(packages))


def _known(directory: Path) -> Newest | None:
    """What an earlier run has unpacked."""
    try:
        record = json.loads((directory / _RECORD).read_text())
        packages = tuple(Package(**package) for package in record["packages"])
        return Newest(directory, record["suite"], packages)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _download(work: Path, mirror: str, keyring: Path) -> list[Path]:
    """The packages wanted and all that they need, as if nothing at all were installed."""
    if not keyring.is_file():
        raise UnfetchedError(f"{keyring} is missing: install debian-archive-keyring")
    for name in ("state/lists/partial", "cache/archives/partial"):
        (work / name).mkdir(parents=True)
    (work / "status").touch()
    # Of a mirror in the file system apt would take the packages as they lie, and leave no copy.
    uri = mirror.replace("file:", "copy:", 1) if mirror.startswith("file:") else mirror
    (work / "debian.sources").write_text(
        f"Types: deb\nURIs: {uri}\nSuites: {SUITE}\nComponents: main\nSigned-By: {keyring}\n"
    )
    (work / "apt.conf").write_text(_configuration(work))
    apt = ["apt-get", "-q", "-c", str(work / "apt.conf")]
    _said([*apt, "--error-on=any", "update"])
    _said([*apt, "install", "--yes", "--download-only", "--no-install-recommends", *WANTED])
    return sorted((work / "cache/archives").glob("*.deb"))


def _configuration(work: Path) -> str:
    """apt's, read after the system's own: nothing of the system's is changed, or asked but how to reach a mirror."""
    settings = {
        "Dir::State": work / "state",
        "Dir::State::status": work / "status",
        "Dir::Cache": work / "cache",
        "Dir::Etc::sourcelist": work / "debian.sources",
        "Dir::Etc::sourceparts": os.devnull,
        "Dir::Etc::preferences": os.devnull,
        "Dir::Etc::preferencesparts": os.devnull,
        "APT::Sandbox::User": "root",  # the user that apt would rather be cannot come here
        "Acquire::Languages": "none",
        "Acquire::Retries": 1,
        "Acquire::http::Timeout": 15,
        "Acquire::https::Timeout": 15,
    }
    hooks = "".join(f"#clear APT::Update::{hook};\n" for hook in _HOOKS)
    return hooks + "".join(f'{key} "{value}";\n' for key, value in settings.items())


def _unpack(debs: Sequence[Path], result: Path) -> None:
    root, programs = result / "root", result / "bin"
    root.mkdir(parents=True)
    programs.mkdir()
    for deb in debs:
        _said(["dpkg-deb", "-x", str(deb), str(root)])
    loader = _only(root, "usr/lib*/ld-linux*.so.*")
    (programs / "openvpn").symlink_to(Path(os.path.relpath(loader, programs)))


def _only(root: Path, pattern: str) -> Path:
    found = sorted(root.glob(pattern))
    if not found:
        raise UnfetchedError(f"what was unpacked has no {pattern}")
    return found[0]


def _package(deb: Path) -> Package:
    name, version = _said(["dpkg-deb", "-W", "--showformat=${Package} ${Version}", str(deb)]).split()
    return Package(name, version, hashlib.sha256(deb.read_bytes()).hexdigest())


def _said(argv: Sequence[str]) -> str:
    """A command's output. Raises UnfetchedError with its own first word of what is wrong."""
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                              timeout=_TIMEOUT_S, env=environment)  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UnfetchedError(f"{argv[0]} did not end within {_TIMEOUT_S:.0f} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        wrong = [line for line in lines if line.startswith("E:")] or lines or [f"exit status {done.returncode}"]
        raise UnfetchedError(f"{argv[0]}: {' '.join(wrong[0].removeprefix('E:').split())}")
    return done.stdout

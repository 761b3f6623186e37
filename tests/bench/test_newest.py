"""The newest versions of the peers: what is found, checked, unpacked and named, from a mirror made here."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fwd.bench import newest, peers, tunnels
from fwd.bench.newest import UnfetchedError
from fwd.bench.tunnels import openvpn, wireguard_go
from fwd.bench.tunnels.peer import named

TARGETS = """Packages main bookworm http://one/debian/
Packages main bookworm-updates http://one/debian/
Packages contrib bookworm http://one/debian/
Packages main bookworm-security http://one/debian-security/
Packages main nodistro https://node/
Packages stable bookworm https://docker/
Sources main bookworm http://sources/
Packages main sid file:/somewhere with spaces/
"""
LOADER = "usr/lib64/ld-linux-any.so.2"
OPENVPN = {"usr/sbin/openvpn": ""}
LIBC = {LOADER: '#!/bin/sh\necho "OpenVPN 9.1.4 with $2"\n', "usr/lib/any-linux-gnu/libc.so.6": ""}
WIREGUARD = {"usr/bin/wireguard-go": "#!/bin/sh\necho wireguard-go v0.0.20310203\n"}


class Mirror:
    """A suite of three small packages, signed by a key that was made for it."""

    def __init__(self, home: Path) -> None:
        self.home, self.suite = home, home / "mirror/dists/sid"
        self.keyring, self.uri = home / "key.gpg", f"file:{home}/mirror"
        self._gnupg = home / "gnupg"
        self._gnupg.mkdir(mode=0o700)
        self._gpg("--passphrase", "", "--quick-gen-key", "mirror", "ed25519", "sign", "never")
        self._gpg("--output", str(self.keyring), "--export")
        self.publish()

    def publish(self, **changed: str) -> None:
        """Build packages and lists, and sign them; `changed`: what a package's hash is said to be."""
        entries = [
            self._deb("openvpn", "9.1.4-1", OPENVPN, "libc6", changed),
            self._deb("libc6", "9-1", LIBC, "", changed),
            self._deb("wireguard-go", "0.0.20310203-1", WIREGUARD, "", changed),
        ]
        architecture = _out("dpkg", "--print-architecture")
        path = self.suite / f"main/binary-{architecture}/Packages"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(entries))
        name = path.relative_to(self.suite)
        release = self.home / "Release"
        release.write_text(
            f"Suite: unstable\nCodename: sid\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nArchitectures: {architecture}\n"
            f"Components: main\nSHA256:\n {_sha256(path)} {path.stat().st_size} {name}\n"
        )
        self._gpg("--yes", "--output", str(self.suite / "InRelease"), "--clearsign", str(release))

    def close(self) -> None:
        subprocess.run(["gpgconf", "--homedir", self._gnupg, "--kill", "all"], check=True)

    def _deb(self, name: str, version: str, files: dict[str, str], needs: str, hashes: dict[str, str]) -> str:
        tree = self.home / "trees" / name
        for inner, text in files.items():
            (tree / inner).parent.mkdir(parents=True, exist_ok=True)
            (tree / inner).write_text(text)
            (tree / inner).chmod(0o755)
        control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: nobody\nDescription: none\n"
        control += f"Depends: {needs}\n" if needs else ""
        (tree / "DEBIAN").mkdir(exist_ok=True)
        (tree / "DEBIAN/control").write_text(control)
        deb = self.home / "mirror" / f"{name}.deb"
        deb.parent.mkdir(exist_ok=True)
        subprocess.run(["dpkg-deb", "--build", "--root-owner-group", tree, deb], check=True, capture_output=True)
        told = hashes.get(name.replace("-", "_"), _sha256(deb))
        return f"{control}Filename: {deb.name}\nSize: {deb.stat().st_size}\nSHA256: {told}\n"

    def _gpg(self, *words: str) -> None:
        argv = ["gpg", "--batch", "--homedir", str(self._gnupg), "--quiet", *words]
        subprocess.run(argv, check=True, capture_output=True)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _out(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    (tmp_path / "m").mkdir()
    made = Mirror(tmp_path / "m")
    yield made
    made.close()


def test_a_mirror_is_who_has_the_systems_own_release_or_sid() -> None:
    assert newest.mirrors_in(TARGETS, "bookworm") == ["http://one/debian/", "file:/somewhere with spaces/"]
    assert newest.mirrors_in(TARGETS, "") == ["file:/somewhere with spaces/"]
    assert newest.mirrors_in("", "bookworm") == []


@pytest.mark.parametrize(
    ("program", "version", "name"),
    [
        (openvpn, "OpenVPN 2.6.14", "openvpn-2.6"),
        (openvpn, "OpenVPN 2.7_rc1", "openvpn-2.7"),
        (openvpn, "", "openvpn"),
        (wireguard_go, "wireguard-go v0.0.20220316", "wireguard-go-2022"),
        (wireguard_go, "wireguard-go v0.0.20250522", "wireguard-go-2025"),
        (wireguard_go, "unknown", "wireguard-go"),
    ],
)
def test_each_version_has_a_name_of_its_own(program: object, version: str, name: str) -> None:
    pattern = openvpn.VERSION if program is openvpn else wireguard_go.VERSION
    assert named(name.rstrip("-.0123456789"), version, pattern) == name


def test_what_a_mirror_has_is_unpacked_with_all_that_it_needs_and_run(mirror: Mirror, tmp_path: Path) -> None:
    found = newest.fetch_from(mirror.uri, tmp_path / "build/peers", mirror.keyring)
    assert [package.name for package in found.packages] == ["libc6", "openvpn", "wireguard-go"]
    deb = mirror.home / "mirror/openvpn.deb"
    assert found.openvpn().source == f"Debian sid: openvpn 9.1.4-1, SHA-256 {_sha256(deb)}"

    # They lie where they were unpacked, whoever asks; nothing else is left.
    assert newest.fetch(tmp_path / "build/peers") == found
    assert [path.name for path in (tmp_path / "build").iterdir()] == ["peers"]
    for program in (found.openvpn(), found.wireguard_go()):
        assert Path(program.argv[0]).is_relative_to(tmp_path)
    assert Path(found.openvpn().argv[0]).name == "openvpn"
    assert found.openvpn().argv[1:3] == ("--library-path", str(tmp_path / "build/peers/root/usr/lib/any-linux-gnu"))

    # Newer versions go before the installed ones, which stay.
    newer, unfetched = peers.newest_versions(tmp_path / "build/peers")
    assert unfetched == ""
    assert [(peer.name, peer.version) for peer in newer] == [
        ("wireguard-go-2031", "wireguard-go v0.0.20310203"), ("openvpn-9.1", "OpenVPN 9.1.4")
    ]  # fmt: skip
    names = [peer.name for peer in tunnels.every(newer)]
    assert [name.rpartition("-")[0] for name in names if name[-1].isdigit()] == ["wireguard-go", "openvpn"] * 2


def test_of_two_versions_with_one_name_the_newer_is_measured() -> None:
    installed = wireguard_go.peer()
    [found] = [peer for peer in tunnels.every([wireguard_go.peer()]) if peer.name == installed.name]
    assert found.version == installed.version


def test_a_mirror_that_debian_has_not_signed_is_refused(mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(UnfetchedError, match=r"apt-get: .*(not signed|couldn't be verified)"):
        newest.fetch_from(mirror.uri, tmp_path / "build/peers", newest.KEYRING)
    assert not list((tmp_path / "build").iterdir())


def test_a_package_that_is_not_what_the_suite_says_is_refused(mirror: Mirror, tmp_path: Path) -> None:
    mirror.publish(wireguard_go="0" * 64)
    with pytest.raises(UnfetchedError, match=r"apt-get: .*[Hh]ash"):
        newest.fetch_from(mirror.uri, tmp_path / "build/peers", mirror.keyring)
    assert not list((tmp_path / "build").iterdir())


def test_what_is_half_removed_is_fetched_anew(mirror: Mirror, tmp_path: Path) -> None:
    directory = tmp_path / "build/peers"
    newest.fetch_from(mirror.uri, directory, mirror.keyring)
    (directory / "packages.json").write_text("{")
    newest.fetch_from(mirror.uri, directory, mirror.keyring)
    assert newest.fetch(directory).wireguard_go().argv == (str(directory / "root/usr/bin/wireguard-go"),)


@pytest.mark.parametrize(
    ("system", "mirrors", "reason"),
    [
        ({"ID": "fedora", "PRETTY_NAME": "Fedora 43"}, None, "this is no Debian, but Fedora 43"),
        ({"ID": "debian"}, [], "apt's sources name no mirror"),
        ({"ID": "debian"}, ["file:/nowhere"], "apt-get: .*/nowhere"),
        ({"ID": "debian"}, ["http://127.0.0.1:9/debian"], "apt-get: .*127.0.0.1:9"),
    ],
)
def test_where_nothing_can_be_fetched_the_installed_ones_are_measured_and_it_is_said_why(
    system: dict[str, str], mirrors: list[str] | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: system)
    if mirrors is not None:
        monkeypatch.setattr(newest, "mirrors", lambda: mirrors)
    newer, unfetched = peers.newest_versions(tmp_path / "peers")
    assert newer == []
    assert re.search(reason, unfetched)
    assert "\n" not in unfetched
    assert not list(tmp_path.iterdir())


def test_without_apt_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    assert peers.newest_versions(tmp_path / "peers") == ([], "there is no apt-get")

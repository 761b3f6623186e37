"""`fwd join`: what it asks a controller, whom it believes, what it leaves on the host, and what it refuses."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from servekit import Site, serving

from fwd.cli import _exit_status
from fwd.control.join import Wish, join
from fwd.link.directory import Directory
from fwd.proto.errors import UserError


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "controller").mkdir()
    return Site(tmp_path / "controller")


@pytest.fixture
def url(site: Site) -> Iterator[str]:
    with serving(site) as url:
        yield url


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "joined"


def token_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text(text + "\n")
    return path


def joined(tmp_path: Path, site: Site, url: str, directory: Path, **other: bool) -> str:
    return join(url, token_file(tmp_path, site.token), Wish("a1", ["10.1.0.11"], ["192.0.2.1"]), directory, **other)


def refusal(tmp_path: Path, token: str, url: str, directory: Path) -> str:
    with pytest.raises(UserError) as refused:
        join(url, token_file(tmp_path, token), Wish("a1"), directory)
    assert not directory.exists()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_host_that_joins_has_keys_of_its_own_and_the_controllers_certificates(
    tmp_path: Path, site: Site, url: str, directory: Path
) -> None:
    assert joined(tmp_path, site, url, directory) == f"{directory}: joined {url} as a1"
    about = Directory(directory).about()
    assert (about.url, about.cluster_id, about.name, about.identity) == (url, "c1", "a1", "a1.gateway.fwd")
    assert Directory(directory).document_key() == site.key.public_key()
    public = set()
    for name in ("link", "ike"):
        key = load_pem_private_key((directory / f"{name}.key").read_bytes(), None)
        certificate = x509.load_pem_x509_certificate((directory / f"{name}.pem").read_bytes())
        assert certificate.public_key() == key.public_key()
        public.add(certificate.fingerprint(certificate.signature_hash_algorithm))  # type: ignore[arg-type]
    assert len(public) == 2


def test_nothing_of_it_is_anybodys_but_roots(tmp_path: Path, site: Site, url: str, directory: Path) -> None:
    joined(tmp_path, site, url, directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(one.stat().st_mode) for one in directory.iterdir()} == {0o600}
    assert {one.name for one in tmp_path.iterdir()} == {"controller", "joined", "token"}


def test_no_private_key_leaves_the_host(tmp_path: Path, site: Site, url: str, directory: Path) -> None:
    joined(tmp_path, site, url, directory)
    asked = json.loads(site.read("joined.json"))
    assert "PRIVATE" not in json.dumps(asked)
    assert (asked["inner"], asked["outer"], asked["kind"]) == (["10.1.0.11"], ["192.0.2.1"], "gateway")


def test_one_that_has_joined_is_left_alone_unless_it_is_to_join_again(
    tmp_path: Path, site: Site, url: str, directory: Path
) -> None:
    joined(tmp_path, site, url, directory)
    before = {one.name: one.read_bytes() for one in directory.iterdir()}
    with pytest.raises(UserError, match="--again"):
        joined(tmp_path, site, url, directory)
    assert {one.name: one.read_bytes() for one in directory.iterdir()} == before

    (directory / "seen").write_bytes(b"[7, 3]")
    joined(tmp_path, site, url, directory, again=True)
    assert (directory / "link.key").read_bytes() != before["link.key"]
    assert (directory / "seen").read_bytes() == b"[7, 3]", "older documents are still refused"


def test_documents_of_another_controller_are_forgotten(tmp_path: Path, site: Site, url: str, directory: Path) -> None:
    joined(tmp_path, site, url, directory)
    (directory / "seen").write_bytes(b"[7, 3]")
    (tmp_path / "other").mkdir()
    other = Site(tmp_path / "other")
    with serving(other) as there:
        joined(tmp_path, other, there, directory, again=True)
    assert not (directory / "seen").exists()


def test_who_is_not_the_tokens_controller_hears_no_token(tmp_path: Path, site: Site, url: str, directory: Path) -> None:
    (tmp_path / "other").mkdir()
    assert "not the controller that the token is of" in refusal(
        tmp_path, Site(tmp_path / "other").token, url, directory
    )
    assert not (site.directory / "joined.json").exists()


def test_a_second_attempt_asks_with_the_keys_of_the_first(
    tmp_path: Path, site: Site, url: str, directory: Path
) -> None:
    """The token is used up by the first, whose answer may have been lost."""
    (site.directory / "refuse").write_text("503 could not check")
    assert "503: could not check" in refusal(tmp_path, site.token, url, directory)
    keys = {path.name: path.read_bytes() for path in (tmp_path / ".joined.joining").iterdir()}
    (site.directory / "refuse").unlink()
    joined(tmp_path, site, url, directory)
    assert (directory / "link.key").read_bytes() == keys["link.key"]
    assert not (tmp_path / ".joined.joining").exists()


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("", "holds"),
        ("fwdb.xyz", "no host's token"),
        (f"fwd1.{'s' * 43}", "no host's token"),
        (f"fwd1.{'t' * 43}.PIN", "not known here"),
    ],
)
def test_a_bad_token_is_one_line(token: str, why: str, tmp_path: Path, site: Site, url: str, directory: Path) -> None:
    assert why in refusal(tmp_path, token.replace("PIN", site.token.rpartition(".")[2]), url, directory) or not token


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1",
        "controller",
        "https://",
        "https://a b/",
        "https://u@h/",
        "https://h:x/",
        "https://h/?q",
        "",
    ],
)
def test_a_bad_url_is_one_line(url: str, tmp_path: Path, site: Site, directory: Path) -> None:
    assert "URL" in refusal(tmp_path, site.token, url, directory)


def test_nobody_there_is_one_line(tmp_path: Path, site: Site, directory: Path) -> None:
    assert "refused" in refusal(tmp_path, site.token, "https://127.0.0.1:1", directory)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"document_key": "AAAA"}, "answer cannot be used"),
        ({"ca_bundle": "x"}, "answer cannot be used"),
        ({"link_certificate": None}, "answer cannot be used"),
    ],
)
def test_an_answer_that_cannot_be_used_leaves_nothing(
    changes: dict[str, object], why: str, tmp_path: Path, site: Site, url: str, directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    whole = Site.certificates
    monkeypatch.setattr(Site, "certificates", lambda *arguments: {**whole(*arguments), **changes})
    assert why in refusal(tmp_path, site.token, url, directory)


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path: Path, site: Site, url: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be"):
        joined(tmp_path, site, url, tmp_path / "file" / "joined")
    with pytest.raises(UserError, match="file: keys cannot be kept here: Not a directory"):
        joined(tmp_path, site, url, tmp_path / "file")


def test_no_room_for_a_moments_file_is_one_line_and_the_token_is_not_used(
    tmp_path: Path, site: Site, url: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", full)
    assert "is there room in /tmp?" in refusal(tmp_path, site.token, url, directory)
    assert not (site.directory / "joined.json").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="others' files are root's to make")
def test_a_token_that_others_may_read_is_not_taken(
    tmp_path: Path, site: Site, url: str, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = token_file(tmp_path, site.token)
    path.chmod(0o644)
    assert _exit_status(["join", url, "--token-file", str(path), "--directory", str(directory)]) == 2
    assert "can be read by others" in capsys.readouterr().err

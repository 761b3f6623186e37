"""Secrets are looked at by a process without rights before they are taken."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from fwd.keyd import generate, secrets
from fwd.keyd.secrets import SecretError
from fwd.model.keys import CertificateKeys, PskKeys
from fwd.supervise import examine

USER = (65534, 65534)


@pytest.fixture
def psk(tmp_path: Path) -> PskKeys:
    generate.write_psk(tmp_path / "psk")
    return PskKeys(source="psk", secret=tmp_path / "psk")


def refused(keys: Any) -> str:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(SecretError) as error:
        examine.open_examined(keys, USER)
    assert set(os.listdir("/proc/self/fd")) == before
    return str(error.value)


def test_what_keyd_can_use_is_opened(psk: PskKeys) -> None:
    fds = examine.open_examined(psk, USER)
    assert secrets.credentials(psk, fds)
    os.close(fds["secret"])


def test_what_keyd_would_refuse_is_refused_before(psk: PskKeys, tmp_path: Path) -> None:
    psk.secret.write_bytes(b"\n" * 32)
    assert "holds 0 bytes" in refused(psk)
    generate.write_authority(tmp_path, ["gw1.example", "gw2.example"])
    keys = CertificateKeys(
        source="cert", certificate=tmp_path / "gw1.example.pem", key=tmp_path / "gw2.example.key",
        authorities=tmp_path / "ca.pem",
    )  # fmt: skip
    assert "is not for" in refused(keys)


def test_one_that_looks_for_too_long_is_ended_and_nothing_taken(psk: PskKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine, "_WAIT_S", 0.05)
    monkeypatch.setattr(secrets, "credentials", lambda *_: time.sleep(60))
    assert "could not be examined" in refused(psk)


def test_what_it_says_is_one_line_and_short(psk: PskKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    def rave(*_: object) -> None:
        raise SecretError("a\n" * 4096)

    monkeypatch.setattr(secrets, "credentials", rave)
    said = refused(psk)
    assert "\n" not in said
    assert len(said) <= 1024


def test_it_has_no_rights(psk: PskKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    def tell(*_: object) -> None:
        raise SecretError(f"uid {os.geteuid()}")

    monkeypatch.setattr(secrets, "credentials", tell)
    assert refused(psk) == "uid 65534"


def test_secrets_of_many_peerings_are_looked_at_by_one_process(psk: PskKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    fork, forks = os.fork, list[int]()
    monkeypatch.setattr(os, "fork", lambda: forks.append(1) or fork())
    opened = examine.open_all_examined([psk] * 20, USER)
    assert forks == [1]
    assert len({fds["secret"] for fds in opened}) == 20
    assert all(secrets.credentials(psk, fds) for fds in opened)
    for fds in opened:
        os.close(fds["secret"])


@pytest.mark.parametrize("what", [b"", b"\n" * 32, None])
def test_if_one_of_many_is_not_good_none_is_taken(psk: PskKeys, tmp_path: Path, what: bytes | None) -> None:
    bad = PskKeys(source="psk", secret=tmp_path / "bad")
    if what is not None:
        bad.secret.touch(mode=0o600)
        bad.secret.write_bytes(what)
    before = set(os.listdir("/proc/self/fd"))
    assert examine.open_all_examined([psk, bad, psk], USER) == []
    assert set(os.listdir("/proc/self/fd")) == before

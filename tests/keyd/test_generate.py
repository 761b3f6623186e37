"""Keys that `fwd keygen` makes are such as fwd takes, and nothing is overwritten."""

from __future__ import annotations

import base64
import os
import secrets as random_octets
from pathlib import Path

import pytest

from fwd.cli import _exit_status
from fwd.keyd import generate, secrets
from fwd.model.keys import CertificateKeys, PskKeys
from fwd.proto.errors import UserError
from fwd.proto.ike import auth
from fwd.proto.ike.auth import Certificates, Psk
from fwd.proto.ike.numbers import Payload
from fwd.proto.ike.payloads import Certificate


def read(keys: PskKeys | CertificateKeys) -> Psk | Certificates:
    opened = secrets.open_all(keys)
    try:
        return secrets.credentials(keys, opened)
    finally:
        for fd in opened.values():
            os.close(fd)


def test_a_pre_shared_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "psk"
    assert _exit_status(["keygen", "psk", str(path)]) == 0
    found = read(PskKeys(source="psk", secret=path))
    assert isinstance(found, Psk)
    assert len(found.secret) >= 32
    assert found.secret.decode() not in capsys.readouterr().out
    assert _exit_status(["keygen", "psk", str(path)]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err


@pytest.mark.parametrize("beginning", ["0s", "0x", "0S", "0X"])
def test_no_pre_shared_key_reads_as_another_form_of_it(
    beginning: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is drawn: the octets here begin, as base64, with what says that hex or base64 follows."""
    drawn = base64.b64decode(beginning + "AB")
    monkeypatch.setattr(random_octets, "token_bytes", lambda count: (drawn + bytes(range(count)))[:count])
    generate.write_psk(tmp_path / "psk")
    assert isinstance(read(PskKeys(source="psk", secret=tmp_path / "psk")), Psk)


def test_a_ca_with_gateways_that_believe_each_other(tmp_path: Path) -> None:
    names = ["gw1.example", "192.0.2.2", "2001:db8::3"]
    assert _exit_status(["keygen", "ca", str(tmp_path), *names[:2]]) == 0
    assert _exit_status(["keygen", "ca", str(tmp_path), names[2]]) == 0
    for name in names:
        keys = CertificateKeys(source="cert", certificate=tmp_path / f"{name}.pem", key=tmp_path / f"{name}.key",
                               authorities=tmp_path / "ca.pem")  # fmt: skip
        found = read(keys)
        assert isinstance(found, Certificates)
        payloads = auth.certificate_payloads(found)
        leaf = auth.check_chain([Certificate(p.encoding, p.data) for p in payloads], found.authorities, auth.time_of(
            found.chain[0].not_valid_before_utc.timestamp() + 7200))  # fmt: skip
        auth.check_name(leaf, auth.identity(name, Payload.IDI))
        assert (tmp_path / f"{name}.key").stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    generate.write_authority(tmp_path, ["gw1"])
    with pytest.raises(UserError, match=r"gw1\.key is there already"):
        generate.write_authority(tmp_path, ["gw1"])
    with pytest.raises(UserError, match="not a name"):
        generate.write_authority(tmp_path, ["../gw2"])
    (tmp_path / "ca.key").write_bytes(b"broken")
    with pytest.raises(UserError, match="cannot be used"):
        generate.write_authority(tmp_path, ["gw2"])

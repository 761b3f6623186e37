"""Secret files: what is opened, what is refused, and what is read from them."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from fwd.config import CertificateKeys, PskKeys
from fwd.keyd import secrets
from fwd.keyd.secrets import SecretError
from fwd.proto.ike.auth import Certificates, Psk


@pytest.fixture
def closing() -> Iterator[dict[str, int]]:
    """Descriptors that are closed at the end."""
    opened: dict[str, int] = {}
    yield opened
    for fd in opened.values():
        os.close(fd)


def write(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def pem(key: object) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())  # type: ignore[attr-defined]


def certificate(key: ec.EllipticCurvePrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gw1")])
    start = datetime.datetime(2026, 1, 1)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(start).not_valid_after(start + datetime.timedelta(days=1)).sign(key, hashes.SHA256())
    )  # fmt: skip
    return made.public_bytes(Encoding.PEM)


@pytest.fixture
def files(tmp_path: Path) -> CertificateKeys:
    key = ec.generate_private_key(ec.SECP256R1())
    return CertificateKeys(
        source="cert",
        key=write(tmp_path / "key", pem(key)),
        certificate=write(tmp_path / "certificate", certificate(key), 0o644),
        authorities=write(tmp_path / "authorities", certificate(key) * 2, 0o644),
    )


def test_a_pre_shared_key_stays_where_it_is_and_loses_its_line_end(tmp_path: Path, closing: dict[str, int]) -> None:
    keys = PskKeys(source="psk", secret=write(tmp_path / "psk", b"sixteen octets or more\n"))
    closing |= secrets.open_all(keys)
    assert keys.secret.exists()
    assert secrets.credentials(keys, closing) == Psk(b"sixteen octets or more")


def test_a_pre_shared_key_may_be_long_or_in_hex(tmp_path: Path, closing: dict[str, int]) -> None:
    """RFC 7296 §2.15: ASCII of 64 octets and more, to which nothing is added; and hex, as swanctl has it."""
    for number, (written, meant) in enumerate(
        [(b"a" * 64, b"a" * 64), (b"0x" + b"00ffAa01" * 4 + b"\n", bytes.fromhex("00ffaa01") * 4)]
    ):
        keys = PskKeys(source="psk", secret=write(tmp_path / f"psk{number}", written))
        fds = secrets.open_all(keys)
        closing[str(number)] = fds["secret"]
        assert secrets.credentials(keys, fds) == Psk(meant)


@pytest.mark.parametrize(("written", "reason"), [(b"0x" + b"ab" * 15, "holds 15 bytes"), (b"0x" + b"?" * 32, "no hex")])
def test_hex_that_cannot_be_used_is_told(written: bytes, reason: str, tmp_path: Path, closing: dict[str, int]) -> None:
    keys = PskKeys(source="psk", secret=write(tmp_path / "psk", written))
    closing |= secrets.open_all(keys)
    with pytest.raises(SecretError, match=reason):
        secrets.credentials(keys, closing)


def test_certificates_are_read(files: CertificateKeys, closing: dict[str, int]) -> None:
    closing |= secrets.open_all(files)
    assert set(closing) == {"key", "certificate", "authorities"}
    found = secrets.credentials(files, closing)
    assert isinstance(found, Certificates)
    assert (len(found.chain), len(found.authorities)) == (1, 2)


def test_files_that_cannot_be_used_are_told_in_one_line(files: CertificateKeys, tmp_path: Path) -> None:
    short = PskKeys(source="psk", secret=write(tmp_path / "short", b"short"))
    open_to_all = PskKeys(source="psk", secret=write(tmp_path / "open", bytes(32), 0o644))
    files.key.chmod(0o640)
    for keys, reason in ((short, "holds 5 bytes"), (open_to_all, "read by others"), (files, "read by others")):
        with pytest.raises(SecretError, match=reason) as refused:
            secrets.open_all(keys)
        assert "\n" not in str(refused.value)
    files.key.chmod(0o600)
    files.authorities.unlink()
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(SecretError, match="authorities: certificate cannot be opened"):
        secrets.open_all(files)
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("key", b"no key", "no private key in PEM"),
        ("key", pem(x25519.X25519PrivateKey.generate()), "of this kind cannot sign"),
        ("key", pem(ec.generate_private_key(ec.SECP256R1())), "is not for"),
        ("certificate", b"no certificate", "no certificate in PEM"),
        ("authorities", b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n", "no certificate in PEM"),
    ],
)
def test_what_is_in_them_must_fit(
    files: CertificateKeys, closing: dict[str, int], name: str, data: bytes, reason: str
) -> None:
    write(getattr(files, name), data)
    closing |= secrets.open_all(files)
    with pytest.raises(SecretError, match=reason):
        secrets.credentials(files, closing)

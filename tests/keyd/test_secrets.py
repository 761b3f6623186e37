"""Secret files: what is opened, what is refused, and what is read from them."""

from __future__ import annotations

import base64
import datetime
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from fwd.keyd import secrets
from fwd.keyd.secrets import SecretError
from fwd.model.keys import CertificateKeys, PskKeys
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


def pem(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


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


LONG = b"neither short nor empty, and to its octets nothing is added: 64 and more"
RAW = bytes(range(0, 240, 7)) + b"\x03\x01\x04\x01\x05\x09"


def test_a_pre_shared_key_may_be_long_in_hex_or_in_base64(tmp_path: Path, closing: dict[str, int]) -> None:
    """RFC 7296 §2.15: ASCII of 64 octets and more, to which nothing is added; hex and base64, as swanctl has them."""
    for number, (written, meant) in enumerate(
        [
            (LONG, LONG),
            (b"0123456789abcdef" * 2, b"0123456789abcdef" * 2),  # as good as the half of it, which would do
            *((start + RAW.hex().encode() + b"\n", RAW) for start in (b"0x", b"0X")),
            (b"0s" + base64.b64encode(RAW), RAW),
            *(
                (odd, odd)
                for odd in (
                    b"\x01no text, though it is ASCII",
                    b"`correct horse`: battery",
                    "übel genug, doch ganz gemäß".encode(),
                )
            ),
        ]
    ):
        keys = PskKeys(source="psk", secret=write(tmp_path / f"psk{number}", written))
        fds = secrets.open_all(keys)
        closing[str(number)] = fds["secret"]
        assert secrets.credentials(keys, fds) == Psk(meant)


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (b"0x" + b"ab" * 15, "holds 15 bytes"), (b"0x" + b"?" * 32, "no hex"), (b"0s" + b"?" * 32, "no base64"),
        (b"0sAAAAAAAAAAAAAAAAAA==", "holds 13 bytes"),
        (b'"correct horse battery"\n', "in quotes"), (b"'correct horse battery'", "in quotes"),
        (b"\xef\xbb\xbfcorrect horse battery", "byte order mark"),
        ("correct horse".encode("utf-16"), "byte order mark"),
        (b"correct horse battery \n", "blank"), (b"\tcorrect horse battery", "blank"),
        ("“correct horse battery”".encode(), "“ is no straight quote"),
        ("correct horse battery\xa0".encode(), r"U\+00A0"),
        (b'"correct horse battery', "a quote at one end"), (b"correct horse battery'\n", "a quote at one end"),
        (b': PSK "correct horse battery"', "whole line"), (b'%any 192.0.2.2 : PSK 0sAAAABBBBCCCCDDDD', "whole line"),
        (b'secret = "correct horse battery"', "whole line"), (b"secret=0x00112233445566778899", "whole line"),
        (b"correct horse\nbattery staple\n", "several lines"),
        (b"\n" * 16, "holds 0 bytes"), (b"a" + b"\r\n" * 15, "holds 1 bytes"),
        (b"a" * 16, "1 different"), (b"abcdefg" * 5, "7 different"), (b"0x" + b"00ffaa01" * 8, "4 different"),
        (b"abcdefgh" * 2, "repeats itself every 8"), (b"0x" + b"0123456789abcdef" * 3, "repeats itself every 8"),
    ],
)  # fmt: skip
def test_a_secret_that_is_no_secret_or_not_clear_is_refused(
    written: bytes, reason: str, tmp_path: Path, closing: dict[str, int]
) -> None:
    keys = PskKeys(source="psk", secret=write(tmp_path / "psk", written))
    closing |= secrets.open_all(keys)
    with pytest.raises(SecretError, match=reason):
        secrets.credentials(keys, closing)


def test_what_was_opened_is_what_is_read_whatever_becomes_of_the_file(tmp_path: Path, closing: dict[str, int]) -> None:
    keys = PskKeys(source="psk", secret=write(tmp_path / "psk", LONG))
    closing |= secrets.open_all(keys)
    keys.secret.write_bytes(b"")
    assert secrets.credentials(keys, closing) == Psk(LONG)
    with pytest.raises(PermissionError):
        os.truncate(closing["secret"], 0)
    with pytest.raises(PermissionError):
        os.pwrite(closing["secret"], b"x", 0)
    with pytest.raises(SecretError, match="holds 0 bytes"):
        secrets.open_all(keys)


def test_public_files_may_be_links_and_secrets_say_where_theirs_leads(
    files: CertificateKeys, tmp_path: Path, closing: dict[str, int]
) -> None:
    """As certbot and Kubernetes have them; of a secret the file itself is named, ..data/key and the like."""
    data = tmp_path / "..data"
    data.mkdir()
    for path in (files.key, files.certificate, files.authorities):
        assert path
        path.rename(data / path.name)
        path.symlink_to(Path("..data") / path.name)
    with pytest.raises(SecretError, match=rf"is a symbolic link: name the file itself, {data / 'key'}$"):
        secrets.open_all(files)
    closing |= secrets.open_all(files.model_copy(update={"key": data / "key"}))
    assert isinstance(secrets.credentials(files, closing), Certificates)


@pytest.mark.parametrize("name", ["certificate", "authorities", "crls", "remote_cert"])
def test_what_peers_are_judged_by_belongs_to_root_and_is_written_by_nobody_else(
    files: CertificateKeys, name: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "odd", b"whatever", 0o666)
    keys = files.model_copy(update={name: [path] if name == "crls" else path})
    with pytest.raises(SecretError, match=r"odd: .* can be written by others \(mode 0666\): chmod go-w it"):
        secrets.open_all(keys)
    path.chmod(0o644)
    os.chown(path, 65534, 65534)
    with pytest.raises(SecretError, match=r"odd: .* belongs to user 65534"):
        secrets.open_all(keys)


@pytest.mark.parametrize("name", ["key", "certificate", "authorities", "secret"])
@pytest.mark.parametrize("kind", ["directory", "fifo", "device"])
def test_what_is_no_regular_file_is_told(files: CertificateKeys, name: str, kind: str, tmp_path: Path) -> None:
    odd = Path("/dev/null") if kind == "device" else tmp_path / "odd"
    if kind == "directory":
        odd.mkdir(mode=0o700)
    elif kind == "fifo":
        os.mkfifo(odd, 0o600)
    keys = PskKeys(source="psk", secret=odd) if name == "secret" else files.model_copy(update={name: odd})
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(SecretError, match="is not a regular file"):
        secrets.open_all(keys)
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_file_that_is_too_large_is_not_read_in_part(files: CertificateKeys) -> None:
    assert files.authorities
    write(files.authorities, b"#" * (1 << 21), 0o644)
    with pytest.raises(SecretError, match="holds 2097152 bytes, more than"):
        secrets.open_all(files)


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
    for keys, reason in (
        (short, "holds 5 bytes"),
        (open_to_all, "secret can be read by others"),
        (files, "private key can be read by"),
    ):
        with pytest.raises(SecretError, match=reason) as refused:
            secrets.open_all(keys)
        assert "\n" not in str(refused.value)
    files.key.chmod(0o600)
    assert files.authorities is not None
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
        ("key", pem(ec.generate_private_key(ec.SECP256K1())), "on the curve secp256k1"),
        ("key", pem(rsa.generate_private_key(65537, 1024)), "RSA key of 1024 bits"),
        ("key", b"-----BEGIN ENCRYPTED PRIVATE KEY-----", "is encrypted"),
        ("certificate", b"\x30\x82\x01\x00", "it is DER"),
        ("certificate", b"-----BEGIN TRUSTED CERTIFICATE-----", "of openssl's own kind"),
        ("certificate", b"no certificate", "no certificate in PEM: nothing of PEM is in it$"),
        ("certificate", pem(ec.generate_private_key(ec.SECP256R1())), "no certificate in PEM: it holds a key$"),
        ("certificate", b"-----BEGIN CERTIFICATE REQUEST-----", "it holds a request, which a CA must sign first$"),
        ("key", b"-----BEGIN CERTIFICATE-----", "no private key in PEM that can be used: it holds a certificate$"),
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


def crl(key: ec.EllipticCurvePrivateKey, *extensions: x509.ExtensionType) -> x509.CertificateRevocationList:
    start = datetime.datetime(2026, 1, 1)
    builder = x509.CertificateRevocationListBuilder().issuer_name(x509.Name([])).last_update(start)
    builder = builder.next_update(start + datetime.timedelta(days=1))
    revoked = x509.RevokedCertificateBuilder().serial_number(7).revocation_date(start).build()
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.add_revoked_certificate(revoked).sign(key, hashes.SHA256())


def test_lists_of_what_is_revoked_are_pem_or_der_and_a_pinned_certificate_is_read(
    files: CertificateKeys, tmp_path: Path, closing: dict[str, int]
) -> None:
    made = crl(ec.generate_private_key(ec.SECP256R1()))
    keys = files.model_copy(
        update={
            "crls": [
                write(tmp_path / "two.pem", b"text before\n" + made.public_bytes(Encoding.PEM) * 2, 0o644),
                write(tmp_path / "one.der", made.public_bytes(Encoding.DER), 0o644),
            ],
            "crl_policy": "strict",
            "remote_cert": files.certificate,
            "tls_certificates": True,
        }
    )
    closing |= secrets.open_all(keys)
    found = secrets.credentials(keys, closing)
    assert isinstance(found, Certificates)
    assert [one.revoked for one in found.rules.crls] == [{7}] * 3
    assert found.rules.pinned == found.chain[0]
    assert found.rules.strict
    assert found.rules.tls_purposes


@pytest.mark.parametrize("what", ["a certificate", "nothing", "half of one", "a delta"])
def test_what_is_no_whole_list_is_told(
    files: CertificateKeys, what: str, tmp_path: Path, closing: dict[str, int]
) -> None:
    """RFC 5280 §5.2.4: a delta alone says nothing of the others."""
    key = ec.generate_private_key(ec.SECP256R1())
    data = {
        "a certificate": files.certificate.read_bytes(),
        "nothing": b"#",
        "half of one": crl(key).public_bytes(Encoding.PEM)[:99],
        "a delta": crl(key, x509.DeltaCRLIndicator(1)).public_bytes(Encoding.PEM),
    }
    keys = files.model_copy(update={"crls": [write(tmp_path / "crl", data[what], 0o644)]})
    closing |= secrets.open_all(keys)
    with pytest.raises(SecretError, match=r"crl: no CRL in PEM or DER that can be used: \S") as refused:
        secrets.credentials(keys, closing)
    assert what != "a certificate" or str(refused.value).endswith(": it holds a certificate")
    assert "\n" not in str(refused.value)


def test_a_secret_in_the_place_of_its_path_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal goes to the log."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SecretError, match="write a file's path") as refusal:
        secrets.open_secret(Path("correct-horse-battery"))
    assert "horse" not in str(refusal.value)

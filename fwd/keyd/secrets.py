"""Files with secrets and certificates: copied by the supervisor, which does not read them, and read from the copies.

A copy is sealed (fwd/files.py): what was checked when it was opened is what every keyd reads. Refused, as SecretError
of one line: what fwd.files refuses; secrets that are empty, short, weak, or written in a form that is ambiguous; keys
and certificates that cannot be understood, or do not belong together. The lab's secret is unlinked once it is open.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import warnings
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fwd import files
from fwd.model.keys import CertificateKeys, Keys, LabKeys, PskKeys
from fwd.model.places import strange
from fwd.proto.errors import UserError
from fwd.proto.ike.auth import RSA_BITS_MIN, Certificates, Credentials, PrivateKey, Psk
from fwd.proto.ike.trust import Crl, Rules

SECRET_BYTES_MIN: Final = 32  # of the lab's
PSK_BYTES_MIN: Final = 16
PSK_DISTINCT_MIN: Final = 8  # different octets: a password of one letter is none
_SECRET_BYTES_MAX: Final = 1 << 16
_CERTIFICATE_BYTES_MAX: Final = 1 << 20
_CRL_BYTES_MAX: Final = 1 << 22  # some hundred thousand revoked: to read them takes keyd half a second
_CURVES: Final = ("secp256r1", "secp384r1", "secp521r1")
_QUOTES: Final = ("'", '"')
# As ipsec.secrets and swanctl.conf have it; in hex and base64 there is no blank and no colon.
_LINE: Final = re.compile(rb"[^\"']*:\s*PSK\s|(?:secret|psk)\w*\s*=", re.IGNORECASE)
_LABEL: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----")
_KEY, _CERTIFICATE, _CRL = b"PRIVATE KEY", b"CERTIFICATE", b"X509 CRL"
_KINDS: Final = {
    b"KEY": "a key", b"CERTIFICATE": "a certificate", b"CRL": "a CRL",
    b"REQUEST": "a request, which a CA must sign first",
}  # fmt: skip
_MARKS: Final = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


class SecretError(UserError):
    """A secret that cannot be used."""


# -- opening: the supervisor --------------------------------------------------------------------------------------


def open_all(keys: Keys) -> dict[str, int]:
    """Copy the files that a peering's keys name. Returns descriptors by the configuration's word, of `crls` with a
    number each. Raises SecretError."""
    if isinstance(keys, LabKeys):
        return {"secret": open_secret(keys.secret)}
    if isinstance(keys, PskKeys):
        return {"secret": open_secret(keys.secret, octets_min=PSK_BYTES_MIN, unlink=False)}
    opened: dict[str, int] = {}
    try:
        opened["key"] = open_secret(keys.key, "private key", octets_min=1, unlink=False)
        for name, path in _public(keys).items():
            what, limit = ("CRL", _CRL_BYTES_MAX) if "." in name else ("certificate", _CERTIFICATE_BYTES_MAX)
            opened[name] = files.open_public(path, what, limit)
    except UserError as error:
        for fd in opened.values():
            os.close(fd)
        raise SecretError(str(error)) from None
    return opened


def _public(keys: CertificateKeys) -> dict[str, Path]:
    """The files that need not be secret, by the configuration's word."""
    named = {"certificate": keys.certificate, "authorities": keys.authorities, "remote_cert": keys.remote_cert}
    return {name: path for name, path in named.items() if path} | {f"crls.{n}": p for n, p in enumerate(keys.crls)}


def open_secret(path: Path, what: str = "secret", *, octets_min: int = SECRET_BYTES_MIN, unlink: bool = True) -> int:
    """Copy a secret file without reading it; returns the copy's descriptor. Raises SecretError."""
    try:
        fd = files.open_secret(path, what, _SECRET_BYTES_MAX, octets_min)
    except UserError as error:
        raise SecretError(str(error)) from None
    try:
        if unlink:
            path.unlink()
    except OSError as error:
        os.close(fd)
        raise SecretError(f"{path}: secret cannot be unlinked: {error.strerror}") from None
    return fd


# -- reading: keyd ------------------------------------------------------------------------------------------------


def credentials(keys: Keys, fds: dict[str, int]) -> Credentials:
    """Read what is in the copies. Raises SecretError."""
    try:
        data = {name: files.read_copy(fd) for name, fd in fds.items()}
    except OSError as error:
        raise SecretError(f"keys cannot be read: {error.strerror}") from None
    if isinstance(keys, PskKeys):
        return _psk(data["secret"], keys.secret)
    assert isinstance(keys, CertificateKeys)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a later `cryptography` will refuse
        return _read(keys, data)


def _read(keys: CertificateKeys, data: dict[str, bytes]) -> Certificates:
    key = _private_key(data["key"], keys.key)
    chain = _certificates(data["certificate"], keys.certificate)
    try:
        fits = chain[0].public_key() == key.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SecretError(f"{keys.certificate}: the key in it cannot be used: {error}") from None
    if not fits:
        raise SecretError(f"{keys.certificate}: the first certificate is not for {keys.key}")
    authorities = _certificates(data["authorities"], keys.authorities) if keys.authorities else ()
    crls = tuple(crl for n, path in enumerate(keys.crls) for crl in _crls(data[f"crls.{n}"], path))
    pinned = _certificates(data["remote_cert"], keys.remote_cert)[0] if keys.remote_cert else None
    return Certificates(
        key, chain, authorities, Rules(crls, keys.crl_policy == "strict", pinned, keys.tls_certificates)
    )


def _private_key(data: bytes, path: Path) -> PrivateKey:
    if b"ENCRYPTED" in data:
        raise SecretError(f"{path}: the private key is encrypted: write it without a passphrase (openssl pkey -in)")
    try:
        key = load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SecretError(f"{path}: no private key in PEM that can be used{_hint(data, _KEY, error)}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey):
        raise SecretError(f"{path}: a private key of this kind cannot sign for IKEv2: use ECDSA, Ed25519 or RSA")
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name not in _CURVES:
        raise SecretError(f"{path}: a key on the curve {key.curve.name}: use P-256, P-384 or P-521")
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < RSA_BITS_MIN:
        raise SecretError(f"{path}: an RSA key of {key.key_size} bits: peers want {RSA_BITS_MIN} or more")
    return key


def _certificates(data: bytes, path: Path) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(x509.load_pem_x509_certificates(data))
    except (ValueError, x509.InvalidVersion) as error:
        raise SecretError(f"{path}: no certificate in PEM{_hint(data, _CERTIFICATE, error)}") from None


def _crls(data: bytes, path: Path) -> list[Crl]:
    """The lists in a file: one in DER, or any number in PEM."""
    end = b"-----END X509 CRL-----"
    try:
        if end not in data:
            return [Crl.of(x509.load_der_x509_crl(data))]
        return [Crl.of(x509.load_pem_x509_crl(one + end)) for one in data.split(end)[:-1]]
    except Exception as error:  # noqa: BLE001 - an odd name is no ValueError
        raise SecretError(f"{path}: no CRL in PEM or DER that can be used{_hint(data, _CRL, error)}") from None


def _hint(data: bytes, wanted: bytes, error: Exception) -> str:
    """Say what is in a file instead of a `wanted` block of PEM."""
    if data.startswith(b"\x30") and wanted != _CRL:
        return ": it is DER: convert it (openssl x509 -inform DER, or openssl pkey -inform DER)"
    if b"BEGIN TRUSTED CERTIFICATE" in data:
        return ": it is one of openssl's own kind: convert it (openssl x509 -in)"
    held = _LABEL.findall(data)
    if held and not any(label.endswith(wanted) for label in held):
        return f": it holds {_KINDS.get(held[0].split()[-1], 'something else')}"
    if not held and not data.startswith(b"\x30"):
        return ": nothing of PEM is in it"
    return f": {' '.join(str(error).partition(' See http')[0].partition(', see http')[0].split())}"


# -- pre-shared keys ----------------------------------------------------------------------------------------------


def _psk(data: bytes, path: Path) -> Psk:
    """Octets as they are, behind 0x as hex, or behind 0s as base64, as swanctl reads them (RFC 7296 §2.15)."""
    secret = data.rstrip(b"\r\n")
    if reason := _ambiguous(secret):
        raise SecretError(f"{path}: secret {reason}")
    form = secret[:2].lower()
    try:
        if form == b"0x":
            secret = bytes.fromhex(secret[2:].decode("ascii"))
        elif form == b"0s":
            secret = base64.b64decode(secret[2:], validate=True)
    except (ValueError, binascii.Error):
        what = "hex" if form == b"0x" else "base64"
        raise SecretError(f"{path}: secret begins with {form.decode()}, and what follows is no {what}") from None
    if reason := _weak(secret):
        raise SecretError(f"{path}: secret {reason}: draw another (fwd keygen psk) for both gateways")
    return Psk(secret)


def _ambiguous(secret: bytes) -> str:
    """Why it cannot be told which octets are meant."""
    if secret.startswith(_MARKS):
        return "begins with a byte order mark: save it as plain ASCII"
    if len(secret) > 1 and secret[:1] == secret[-1:] and secret[:1] in (b'"', b"'"):
        return "is in quotes, which would be part of it: remove them"
    if _LINE.match(secret):
        return "is a whole line of another program's file: write what is between the quotes alone"
    if odd := _odd_end(secret):
        return odd
    if secret != secret.strip(b" \t\r\n\v\f"):
        return "has a blank at its beginning or end, which would be part of it: remove it"
    if b"\n" in secret or b"\r" in secret:
        return "has several lines: one is wanted"
    return ""


def _odd_end(secret: bytes) -> str:
    """Say what a text processor has put around it; a secret that is no text may have any octets."""
    try:
        text = secret.decode()
    except UnicodeDecodeError:
        return ""
    ends = text[:1] + text[-1:]
    if odd := strange("".join(one for one in ends if not one.isascii())):
        return f"has at its beginning or end what would be part of it: {odd}"
    if any(one in _QUOTES for one in ends):
        return "has a quote at one end: remove it, or if it is part of the secret, write that in hex, as 0x…"
    return ""


def _weak(secret: bytes) -> str:
    """Why anybody would guess it: an initiator gives away what an offline guess needs (RFC 7296 §2.15)."""
    if len(secret) < PSK_BYTES_MIN:
        return f"holds {len(secret)} bytes, needs {PSK_BYTES_MIN} or more"
    if (distinct := len(set(secret))) < PSK_DISTINCT_MIN:
        return f"has {distinct} different bytes, needs {PSK_DISTINCT_MIN} or more"
    if (period := (secret + secret).find(secret, 1)) < PSK_BYTES_MIN:
        return f"repeats itself every {period} bytes"
    return ""

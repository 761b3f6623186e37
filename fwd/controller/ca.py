"""The controller's certificate authority: pure functions of keys, of what is issued already, and of the time.

A host sends a request (CSR), of which the key alone is taken: names, use and times are the controller's. It has two
keys, each made where it is used: the link's, which speaks to the controller (clientAuth), and keyd's, which speaks to
other gateways (ipsecIKE). Neither certificate is good for the other's use, so whoever takes a link over is no gateway.

While the CA is replaced, hosts trust two: the one that issues, and the other one, before or after (`bundle`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fwd.model.linked import BACKDATED_S

DAYS: Final = 30  # of a certificate; renewed at half of it
_SERVER_BACKDATED_S: Final = 86400  # the controller's own: who makes it anew at each start is not to lock hosts out
AUTHORITY_DAYS: Final = 3650
CRL_DAYS: Final = 40  # for as long as a certificate and its grace: without a controller nothing is refused for the list
CSR_BYTES_MAX: Final = 16384
_NAME_CHARS_MAX: Final = 64  # of a CommonName (RFC 5280, appendix A.1)
_NO_USAGE: Final = dict.fromkeys(
    ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
     "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False
)  # fmt: skip


class RequestError(Exception):
    """A request for a certificate that cannot be granted; its text is one line."""


@dataclass(frozen=True)
class Authority:
    """The CA that issues: its key and its own certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def key_pem(self) -> bytes:
        """Write the key, unencrypted."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def new_authority(name: str, now: float) -> Authority:
    """Make a CA that vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(name)
    builder = _builder(subject, subject, key.public_key(), key, now, timedelta(days=AUTHORITY_DAYS))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    usage = x509.KeyUsage(**{**_NO_USAGE, "key_cert_sign": True, "crl_sign": True})
    return Authority(key, builder.add_extension(usage, critical=True).sign(key, hashes.SHA256()))


def load_authority(key_pem: bytes, certificate_pem: bytes) -> Authority:
    """Read a CA. Raises ValueError if key and certificate are none, or not of each other."""
    try:
        key = load_pem_private_key(key_pem, None)
        certificate = x509.load_pem_x509_certificate(certificate_pem)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("key or certificate cannot be read") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the key is not an ECDSA one")
    if key.public_key() != certificate.public_key():
        raise ValueError("the certificate is of another key")
    return Authority(key, certificate)


def key_in(csr_pem: str) -> CertificatePublicKeyTypes:
    """Take the key out of a request, whose sender has shown that it has it; what else it says is not looked at."""
    if len(csr_pem) > CSR_BYTES_MAX:
        raise RequestError(f"the request has more than {CSR_BYTES_MAX} octets")
    try:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        key, signed = csr.public_key(), csr.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
        raise RequestError("this is no request for a certificate (PKCS #10, PEM)") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
        raise RequestError("the request's key is of another kind than ECDSA with P-256 or P-384")
    if not signed:
        raise RequestError("the request is not signed with its own key")
    return key


def fingerprint(key: CertificatePublicKeyTypes) -> str:
    """Return what tells a public key from all others."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def pin(certificate: x509.Certificate) -> str:
    """Return what a token says of the CA: the SHA-256 of its certificate."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def link_certificate(
    ca: Authority, key: CertificatePublicKeyTypes, host: tuple[str, str, str], now: float, lifetime_s: float
) -> x509.Certificate:
    """Issue a link's certificate. `host`: cluster_id, kind and name, which stand in its URI (`uri_of`)."""
    names = [x509.UniformResourceIdentifier(uri_of(*host))]
    return _issue(ca, key, host[2], names, [ExtendedKeyUsageOID.CLIENT_AUTH], now, lifetime_s)


def ike_certificate(
    ca: Authority, key: CertificatePublicKeyTypes, identity: str, now: float, lifetime_s: float
) -> x509.Certificate:
    """Issue a gateway's certificate for IKE, which has its identity (RFC 4945, section 5.1.3.12)."""
    return _issue(ca, key, identity, [x509.DNSName(identity)], [ExtendedKeyUsageOID.IPSEC_IKE], now, lifetime_s)


def server_certificate(
    ca: Authority, key: CertificatePublicKeyTypes, names: Sequence[str], now: float, lifetime_s: float
) -> x509.Certificate:
    """Issue the controller's own; `names`: host names and addresses in its URL."""
    general, uses = [_general(one) for one in names], [ExtendedKeyUsageOID.SERVER_AUTH]
    since_ca_s = max(BACKDATED_S, now - ca.certificate.not_valid_before_utc.timestamp())
    return _issue(ca, key, names[0], general, uses, now, lifetime_s, min(_SERVER_BACKDATED_S, since_ca_s))


def uri_of(cluster_id: str, kind: str, name: str) -> str:
    """Return what a link's certificate says whose it is."""
    return f"fwd:{cluster_id}/{kind}/{name}"


def revocation_list(ca: Authority, serials: Iterable[tuple[int, float]], number: int, now: float) -> bytes:
    """Write the CA's list of revoked certificates: serial and when; `number` rises with each list."""
    start = _time(now - BACKDATED_S)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.certificate.subject)
        .last_update(start)
        .next_update(start + timedelta(days=CRL_DAYS))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key()), critical=False)
    )
    for serial, at in sorted(serials):
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(_time(at)).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(ca.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def bundle(certificates: Iterable[x509.Certificate]) -> bytes:
    """Write the CAs that a host is to trust."""
    return b"".join(pem(one) for one in certificates)


def pem(certificate: x509.Certificate) -> bytes:
    """Write a certificate."""
    return certificate.public_bytes(Encoding.PEM)


def _issue(
    ca: Authority, key: CertificatePublicKeyTypes, name: str, names: Sequence[x509.GeneralName],
    uses: Sequence[x509.ObjectIdentifier], now: float, lifetime_s: float, backdated_s: float = BACKDATED_S,
) -> x509.Certificate:  # fmt: skip
    lifetime = timedelta(seconds=lifetime_s)
    builder = _builder(_name(name), ca.certificate.subject, key, ca.key, now, lifetime, backdated_s)
    for extension, critical in (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (x509.KeyUsage(**{**_NO_USAGE, "digital_signature": True}), True),
        (x509.ExtendedKeyUsage(uses), False),
        (x509.SubjectAlternativeName(names), False),
    ):
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(ca.key, hashes.SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: CertificatePublicKeyTypes, signer: ec.EllipticCurvePrivateKey,
    now: float, lifetime: timedelta, backdated_s: float = BACKDATED_S,
) -> x509.CertificateBuilder:  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(now - backdated_s))
        .not_valid_after(_time(now) + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:_NAME_CHARS_MAX])])


def _general(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)

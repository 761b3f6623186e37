"""Who is who: pre-shared keys, and X.509 with RFC 7427 signatures (RFC 7296 §2.15 and §3.5 to §3.8).

What is signed is the sender's own first message, the other's nonce and a MAC of the sender's identity, so that a
signature is of this exchange and no other. Signatures are ECDSA, Ed25519 or RSA-PSS with SHA-2 (RFC 7427 §3, RFC 8420);
PKCS #1 v1.5 is not accepted. names.py has identities, trust.py which certificates are believed. Refused, as
ProtocolError with AUTHENTICATION_FAILED, saying to us, and not to the peer, why.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha1
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fwd.proto.ike.causes import Failure
from fwd.proto.ike.crypto import Prf
from fwd.proto.ike.names import identity as identity
from fwd.proto.ike.names import name_of as name_of
from fwd.proto.ike.names import same as same
from fwd.proto.ike.numbers import AuthMethod, CertEncoding, IdType
from fwd.proto.ike.payloads import Authentication, Certificate, CertificateRequest, Identity
from fwd.proto.ike.trust import NO_GRACE, Rules, judge, refusing
from fwd.proto.ike.trust import Trusted as Trusted
from fwd.proto.ike.trust import check_chain as check_chain
from fwd.proto.ike.trust import check_name as check_name
from fwd.proto.ike.trust import failed as failed

RSA_BITS_MIN: Final = 2048  # RFC 8247 §4.1
_KEY_PAD: Final = b"Key Pad for IKEv2"
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
_Hash = hashes.SHA256 | hashes.SHA384 | hashes.SHA512

# SIGNATURE_HASH_ALGORITHMS (RFC 7427 §4): SHA2-256, SHA2-384, SHA2-512, identity (RFC 8420).
HASH_ALGORITHMS: Final = bytes([0, 2, 0, 3, 0, 4, 0, 5])


# -- what is signed -----------------------------------------------------------------------------------------------


def signed_octets(message: bytes, nonce: bytes, prf: Prf, key: bytes, who: Identity) -> bytes:
    """RFC 7296 §2.15: the signer's first message as it was sent, the other's nonce, prf(SK_p, the identity's body)."""
    return message + nonce + prf(key, who.encode())


def psk_authentication(prf: Prf, secret: bytes, octets: bytes) -> Authentication:
    return Authentication(AuthMethod.SHARED_KEY, prf(prf(secret, _KEY_PAD), octets))


def check_psk(prf: Prf, secret: bytes, octets: bytes, auth: Authentication) -> None:
    """Raises ProtocolError unless the peer has the same secret."""
    if auth.method != AuthMethod.SHARED_KEY:
        raise failed(f"the peer authenticates by method {auth.method}, not by pre-shared key", Failure.AUTH_METHOD)
    if not hmac.compare_digest(auth.data, psk_authentication(prf, secret, octets).data):
        raise failed("the peer's pre-shared key is another one", Failure.WRONG_SECRET)


# -- signatures (RFC 7427 §3) -------------------------------------------------------------------------------------

_HASHES: Final[dict[int, _Hash]] = {2: hashes.SHA256(), 3: hashes.SHA384(), 4: hashes.SHA512()}
_IDENTITY: Final = 5  # Ed25519 hashes by itself (RFC 8420)
_NULL: Final = b"\5\0"
_SHA2_OID: Final = bytes.fromhex("0609608648016503040200")
_SHA2_LAST: Final = {2: 1, 3: 2, 4: 3}
_ECDSA: Final = {number: bytes.fromhex("300a06082a8648ce3d0403") + bytes([number]) for number in _HASHES}
_ED25519: Final = bytes.fromhex("300506032b6570")


def _tlv(tag: int, *parts: bytes) -> bytes:
    """DER of up to 127 octets."""
    body = b"".join(parts)
    return bytes([tag, len(body)]) + body


def _pss(number: int, *, null: bool = True, mask_null: bool = True) -> bytes:
    """AlgorithmIdentifier of RSASSA-PSS with one hash everywhere and a salt of its length (RFC 7427 A.4)."""
    oid = _SHA2_OID[:-1] + bytes([_SHA2_LAST[number]])
    digest = _tlv(0x30, oid, _NULL if null else b"")
    mask = _tlv(0x30, bytes.fromhex("06092a864886f70d010108"), _tlv(0x30, oid, _NULL if mask_null else b""))
    salt = _tlv(0x02, bytes([_HASHES[number].digest_size]))
    parameters = _tlv(0x30, _tlv(0xA0, digest), _tlv(0xA1, mask), _tlv(0xA2, salt))
    return _tlv(0x30, bytes.fromhex("06092a864886f70d01010a"), parameters)


# AlgorithmIdentifier → kind of key, hash. NULL parameters of a hash may be there or not (RFC 4055 §2.1).
_SIGNATURES: Final[dict[bytes, tuple[type, int]]] = {
    **{der: (ec.EllipticCurvePublicKey, number) for number, der in _ECDSA.items()},
    _ED25519: (ed25519.Ed25519PublicKey, _IDENTITY),
    **{
        _pss(number, null=one, mask_null=other): (rsa.RSAPublicKey, number)
        for number in _HASHES
        for one in (True, False)
        for other in (True, False)
    },
}


def sign(key: PrivateKey, octets: bytes, peer_hashes: bytes) -> Authentication:
    """An AUTH payload by signature. `peer_hashes`: what the peer's SIGNATURE_HASH_ALGORITHMS named."""
    known = {int.from_bytes(peer_hashes[at : at + 2], "big") for at in range(0, len(peer_hashes) - 1, 2)}
    if isinstance(key, ed25519.Ed25519PrivateKey):
        wanted = [_IDENTITY]
    else:
        wanted = {521: [4, 3, 2], 384: [3, 4, 2]}.get(key.key_size, [2, 3, 4])
    number = next((number for number in wanted if number in known), None)
    if number is None:
        raise failed("the peer knows no signature hash that fwd has (RFC 7427)", Failure.AUTH_METHOD)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return _authentication(_ED25519, key.sign(octets))
    digest = _HASHES[number]
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return _authentication(_ECDSA[number], key.sign(octets, ec.ECDSA(digest)))
    scheme = padding.PSS(padding.MGF1(digest), digest.digest_size)
    return _authentication(_pss(number), key.sign(octets, scheme, digest))


def _authentication(algorithm: bytes, signature: bytes) -> Authentication:
    return Authentication(AuthMethod.SIGNATURE, bytes([len(algorithm)]) + algorithm + signature)


def check_method(auth: Authentication) -> None:
    """Raises ProtocolError unless the peer authenticates by a signature of RFC 7427."""
    if auth.method != AuthMethod.SIGNATURE:
        reason = f"the peer authenticates by method {auth.method}, not by a signature of RFC 7427"
        raise failed(reason, Failure.AUTH_METHOD)


@refusing
def check_signature(certificate: x509.Certificate, octets: bytes, auth: Authentication) -> None:
    """Raises ProtocolError unless the key in `certificate` has signed."""
    check_method(auth)
    length = auth.data[0]
    algorithm, signature = auth.data[1 : 1 + length], auth.data[1 + length :]
    kind, number = _SIGNATURES.get(algorithm, (type(None), 0))

    # The key must be one that fwd takes, and of the kind that the algorithm names.
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise failed(f"the key in the peer's certificate cannot be used: {error}") from None
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < RSA_BITS_MIN:
        raise failed(f"the peer's RSA key has {key.key_size} bits, fewer than {RSA_BITS_MIN}")

    if not isinstance(key, kind):
        reason = f"the peer's signature is of a kind that fwd does not take: {algorithm.hex()}"
        raise failed(reason, Failure.AUTH_METHOD)
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, octets)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, octets, ec.ECDSA(_HASHES[number]))
        elif isinstance(key, rsa.RSAPublicKey):
            digest = _HASHES[number]
            key.verify(signature, octets, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
    except InvalidSignature:
        raise failed("the peer's signature is wrong", Failure.WRONG_SIGNATURE) from None


# -- credentials --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Psk:
    """Both sides have the same secret."""

    secret: bytes = field(repr=False)


@dataclass(frozen=True)
class Certificates:
    """This side's key with its chain, the leaf first; the CAs that the peer's chain must end in, and what else of it is
    asked for."""

    key: PrivateKey = field(repr=False)
    chain: tuple[x509.Certificate, ...]
    authorities: tuple[x509.Certificate, ...]
    rules: Rules = field(default_factory=Rules)


Credentials = Psk | Certificates


def certificate_payloads(credentials: Credentials) -> list[Certificate]:
    """CERT payloads that go along with our AUTH."""
    if isinstance(credentials, Psk):
        return []
    return [
        Certificate(CertEncoding.X509_SIGNATURE, certificate.public_bytes(Encoding.DER))
        for certificate in credentials.chain
    ]


def certificate_request(credentials: Credentials) -> list[CertificateRequest]:
    """CERTREQ: which CAs we trust (RFC 7296 §3.7)."""
    if isinstance(credentials, Psk) or not credentials.authorities:
        return []
    keys = [
        ca.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for ca in credentials.authorities
    ]
    return [
        CertificateRequest(CertEncoding.X509_SIGNATURE, b"".join(sha1(k, usedforsecurity=False).digest() for k in keys))
    ]


def authenticate(credentials: Credentials, prf: Prf, octets: bytes, peer_hashes: bytes) -> Authentication:
    """Our AUTH payload."""
    if isinstance(credentials, Psk):
        return psk_authentication(prf, credentials.secret, octets)
    return sign(credentials.key, octets, peer_hashes)


def check(
    credentials: Credentials,
    prf: Prf,
    octets: bytes,
    auth: Authentication,
    who: Identity,
    certificates: Sequence[Certificate],
    time: datetime,
    grace: timedelta = NO_GRACE,
) -> Trusted | None:
    """Raises ProtocolError unless the peer is `who` it says it is; returns the certificate that says so, if any.

    `grace`: for how long after its end a certificate still does.
    """
    if isinstance(credentials, Psk):
        check_psk(prf, credentials.secret, octets, auth)
        return None
    check_method(auth)  # before anything of a certificate costs anything
    trusted = judge(certificates, credentials.authorities, time, credentials.rules, grace)
    check_name(trusted.leaf, who)
    check_signature(trusted.leaf, octets, auth)
    return trusted


def certified(who: Identity, credentials: Credentials) -> Identity:
    """An identity of this side as its certificate writes it: there are peers who compare distinguished names by octets
    (RFC 4945 §3.1.5)."""
    if isinstance(credentials, Certificates) and who.kind == IdType.DER_ASN1_DN:
        subject = Identity(who.type, who.kind, credentials.chain[0].subject.public_bytes())
        return subject if same(subject, who) else who
    return who


def time_of(now: float) -> datetime:
    """Seconds since 1970 as the time that certificates are held against."""
    return datetime.fromtimestamp(now, UTC)

"""Which of a peer's certificates are worth a signature check, decided before any is made.

Anybody at the peer's address can send certificates in IKE_AUTH, and what it costs to check one is chosen by whoever
made its issuer's key. So at most CERTIFICATES_MAX are read, their keys are of kinds and sizes with a known price, and
of them only a single path is kept: from the peer's own certificate, by the names and key identifiers of issuers, to a
configured CA. Nothing here says that a certificate is valid: auth.py verifies that path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from fwd.proto.ike.causes import Failure
from fwd.proto.ike.numbers import Notify, ProtocolError

CERTIFICATES_MAX: Final = 4  # RFC 7296 §3.6: what everybody can send and accept
RSA_BITS: Final = range(2048, 4097)  # RFC 8247 §4.1; a check of 4,096 bits takes 0.1 ms
RSA_EXPONENT_BITS_MAX: Final = 33  # 65,537 is common; one of 3,000 bits makes a check 100 times as long
CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)

# What `cryptography` raises for certificates and extensions that it cannot read.
UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


def affordable(certificates: Sequence[bytes], authorities: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """The path from the first of `certificates` (DER) towards one of `authorities`, which is not itself in it.

    Raises ProtocolError if there is none, or its keys cost too much.
    """
    if not 1 <= len(certificates) <= CERTIFICATES_MAX:
        raise _failed(f"the peer sent {len(certificates)} certificates, not 1 to {CERTIFICATES_MAX}")
    try:
        leaf, *others = [x509.load_der_x509_certificate(data) for data in certificates]
        path = _path(leaf, others, authorities)
        if path is None:
            raise _failed(
                "the peer's certificate is not trusted: its issuer is no configured CA", Failure.CERT_UNTRUSTED
            )
        for certificate in path:
            _check_price(certificate)
    except UNREADABLE as error:
        raise _failed(f"the peer's certificate cannot be read: {error}") from None
    return path


def _path(
    certificate: x509.Certificate, others: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate]
) -> list[x509.Certificate] | None:
    """`certificate` and those of `others` that lead from it to an authority, each issuer once."""
    if _issuers(certificate, authorities):
        return [certificate]
    # One that names itself as its issuer leads nowhere unless it is configured.
    left = [one for one in others if one.issuer != one.subject and one.subject != certificate.subject]
    for issuer in _issuers(certificate, left):
        path = _path(issuer, [one for one in left if one.subject != issuer.subject], authorities)
        if path is not None:
            return [certificate, *path]
    return None


def _issuers(certificate: x509.Certificate, others: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """Those whose name and key identifier fit (RFC 5280 §4.2.1.1, §7.1): that costs nothing to speak of."""
    name, key = _comparable(certificate.issuer), _authority_key(certificate)
    return [
        one for one in others if _comparable(one.subject) == name and (key is None or _subject_key(one) in (key, None))
    ]


def _comparable(name: x509.Name) -> list[frozenset[tuple[str, str]]]:
    """A name without what RFC 5280 §7.1 says not to compare: case, runs of spaces, the kind of string."""
    return [
        frozenset((one.oid.dotted_string, " ".join(str(one.value).casefold().split())) for one in part)
        for part in name.rdns
    ]


def _authority_key(certificate: x509.Certificate) -> bytes | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        return None


def _subject_key(certificate: x509.Certificate) -> bytes | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return None


def _check_price(certificate: x509.Certificate) -> None:
    """Raises ProtocolError unless a check with the key in it takes a time that is known beforehand."""
    match certificate.public_key():
        case rsa.RSAPublicKey() as key:
            exponent_bits = key.public_numbers().e.bit_length()
            if key.key_size not in RSA_BITS:
                allowed = f"fewer than {RSA_BITS[0]}" if key.key_size < RSA_BITS[0] else f"more than {RSA_BITS[-1]}"
                raise _failed(f"an RSA key in the peer's certificates has {key.key_size} bits, {allowed}")
            if exponent_bits > RSA_EXPONENT_BITS_MAX:
                raise _failed(f"an RSA exponent in the peer's certificates has {exponent_bits} bits")
        case ec.EllipticCurvePublicKey() as key:
            if not isinstance(key.curve, CURVES):
                raise _failed(f"a key in the peer's certificates is on curve {key.curve.name}")
        case ed25519.Ed25519PublicKey():
            pass
        case _:
            raise _failed("a key in the peer's certificates is of a kind that fwd does not take")


def _failed(reason: str, failure: Failure = Failure.CERT_REFUSED) -> ProtocolError:
    error = ProtocolError(Notify.AUTHENTICATION_FAILED, reason)
    error.failure = failure
    return error

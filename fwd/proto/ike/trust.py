"""Whether a certificate is believed: chain, dates, purposes, revocation, pinning, names (RFC 5280, RFC 4945).

Paths and signatures are verified by `cryptography`, under RFC 5280's rules for CAs and not the Web PKI's: a CA must say
that it is one (§6.1.4 k), its key usage counts if there is any (n), and no extension's criticality is asked for.
Critical extensions that are not understood are refused, name constraints are kept to. CRLs are those that were handed
over: nothing is fetched. Refused, as ProtocolError with AUTHENTICATION_FAILED: what is not believed, and whatever of a
peer's certificate `cryptography` cannot read.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from typing import Final, ParamSpec, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from fwd.proto.ike.causes import Failure
from fwd.proto.ike.chain import affordable
from fwd.proto.ike.names import name_of, same_name, shown
from fwd.proto.ike.numbers import CertEncoding, IdType, Notify, ProtocolError
from fwd.proto.ike.payloads import Certificate, Identity

NO_GRACE: Final = timedelta()
_P = ParamSpec("_P")
_R = TypeVar("_R")


def failed(reason: str, failure: Failure = Failure.CERT_REFUSED) -> ProtocolError:
    """Make the refusal of a peer, whose reason only this side is told, and what it counts as."""
    error = ProtocolError(Notify.AUTHENTICATION_FAILED, reason)
    error.failure = failure
    return error


def refusing(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Have a function that looks at a peer's certificate refuse what `cryptography` cannot read, whatever it raises."""

    @functools.wraps(function)
    def refuse(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except ProtocolError:
            raise
        except Exception as error:  # noqa: BLE001 - ValueError, UnsupportedGeneralNameType, InvalidVersion, …
            raise failed(f"the peer's certificate cannot be read: {_one_line(error)}") from None

    return refuse


# -- certificate revocation lists ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Crl:
    """A certificate revocation list, not verified yet: which serial numbers an issuer has revoked, and until when it
    says so."""

    data: x509.CertificateRevocationList = field(repr=False)
    issuer: bytes = field(repr=False)  # its distinguished name in DER
    next_update: datetime
    revoked: frozenset[int] = field(repr=False)

    @classmethod
    def of(cls, data: x509.CertificateRevocationList) -> Crl:
        """Read a list. Raises ValueError for one that RFC 5280 §5.2 forbids to use."""
        for extension in data.extensions:
            if extension.critical:
                raise ValueError(f"critical extension {extension.oid.dotted_string}: only whole, direct CRLs are taken")
        if data.next_update_utc is None:
            raise ValueError("it does not say when the next one is due (nextUpdate)")
        return cls(data, data.issuer.public_bytes(), data.next_update_utc, frozenset(one.serial_number for one in data))

    @property
    def name(self) -> str:
        """Its issuer, for people."""
        return shown(self.issuer)

    @functools.lru_cache(maxsize=64)  # noqa: B019 - lists live as long as their peering
    def is_of(self, issuer: x509.Certificate) -> bool:
        """Tell whether this CA has signed the list, and may."""
        usage = extension(issuer, x509.KeyUsage)
        return (usage is None or usage.crl_sign) and self.data.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]


@dataclass(frozen=True)
class Rules:
    """What a peer's certificate must fulfil besides a chain that ends in a configured CA."""

    crls: tuple[Crl, ...] = ()
    strict: bool = False  # no chain without a CRL of every CA in it
    pinned: x509.Certificate | None = None  # the only one whose key is taken
    tls_purposes: bool = False  # extended key usage may be TLS's


def check_revocation(chain: Sequence[x509.Certificate], rules: Rules, time: datetime) -> None:
    """Hold a chain, leaf first, against the CRLs. Raises ProtocolError.

    A CA's list that is there must be good, whatever the policy: one that is over says nothing of today.
    """
    if reason := why_revoked(chain, rules):
        raise failed(reason, Failure.CERT_REVOKED)
    for issuer in chain[1:]:
        subject = issuer.subject.public_bytes()
        lists = [crl for crl in rules.crls if same_name(crl.issuer, subject)]
        if not lists and not rules.strict:
            continue
        signed = [crl for crl in lists if crl.is_of(issuer)]
        if not any(time < crl.next_update for crl in signed):
            what = "is over: install the next one" if signed else "is not signed by it" if lists else "is missing"
            raise failed(f"the CRL of {shown(subject)} {what}", Failure.CERT_CRL)


def why_revoked(chain: Sequence[x509.Certificate], rules: Rules) -> str:
    """Say which certificate of a chain, leaf first, a CRL names, be that list over or not; empty: none."""
    for certificate, issuer in itertools.pairwise(chain):
        subject = issuer.subject.public_bytes()
        lists = (crl for crl in rules.crls if certificate.serial_number in crl.revoked)
        if any(same_name(crl.issuer, subject) and crl.is_of(issuer) for crl in lists):
            return f"the certificate {describe(certificate)} is revoked by the CRL of {shown(subject)}"
    return ""


# -- chains -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trusted:
    """A certificate that is believed. `valid_until`: the first end of a certificate in its chain, leaf first."""

    leaf: x509.Certificate
    valid_until: datetime
    chain: tuple[x509.Certificate, ...] = ()


@refusing
def judge(
    certificates: Sequence[Certificate],
    authorities: Sequence[x509.Certificate],
    time: datetime,
    rules: Rules,
    grace: timedelta = NO_GRACE,
) -> Trusted:
    """Decide whether the first of a peer's certificates is believed. Raises ProtocolError.

    `grace`: for how long after its end it still is; what a CRL names never is, and a CRL has no grace.
    """
    found = [one.data for one in certificates if one.encoding == CertEncoding.X509_SIGNATURE]

    # A pinned certificate is known by its key, which the peer may have had certified anew, or not sent at all.
    if rules.pinned is not None:
        leaf = x509.load_der_x509_certificate(found[0]) if found else rules.pinned
        if _public(leaf) != _public(rules.pinned):
            raise failed(
                f"the peer's certificate {describe(leaf)} is another one than remote_cert", Failure.CERT_UNTRUSTED
            )
        if not authorities:
            _check_dates(rules.pinned, time, grace)
            return Trusted(rules.pinned, rules.pinned.not_valid_after_utc, (rules.pinned,))
        found = found or [leaf.public_bytes(Encoding.DER)]

    chain = affordable(found, authorities)
    try:
        verified = _verify_late(chain, authorities, time, grace, tls_purposes=rules.tls_purposes)
    except ValueError as error:
        reason = f"the peer's certificate {describe(chain[0])} is not trusted: {error}"
        raise failed(reason, _failure(str(error))) from None
    check_revocation(verified, rules, time)
    return Trusted(chain[0], min(one.not_valid_after_utc for one in verified), tuple(verified))


def check_chain(
    certificates: Sequence[Certificate],
    authorities: Sequence[x509.Certificate],
    time: datetime,
    rules: Rules | None = None,
) -> x509.Certificate:
    """The peer's own certificate, the first one, once its chain ends in one of `authorities`. Raises ProtocolError."""
    return judge(certificates, authorities, time, rules or Rules()).leaf


def verify(
    chain: Sequence[x509.Certificate],
    authorities: Sequence[x509.Certificate],
    time: datetime,
    *,
    tls_purposes: bool = False,
) -> list[x509.Certificate]:
    """Build a path from the first of `chain` to one of `authorities`. Raises ValueError, saying why there is none."""
    leaf_policy = (
        ExtensionPolicy.permit_all()
        .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _leaf_usage)
        .may_be_present(x509.BasicConstraints, Criticality.AGNOSTIC, _leaf_constraints)
        .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _tls_purposes if tls_purposes else _ike_purposes)
    )
    policy = PolicyBuilder().store(Store(list(authorities))).time(time)
    policy = policy.extension_policies(ca_policy=_CA_POLICY, ee_policy=leaf_policy)
    try:
        return policy.build_client_verifier().verify(chain[0], list(chain[1:])).chain
    except VerificationError as error:
        raise ValueError(_one_line(error)) from None


def _verify_late(
    chain: Sequence[x509.Certificate],
    authorities: Sequence[x509.Certificate],
    time: datetime,
    grace: timedelta,
    *,
    tls_purposes: bool,
) -> list[x509.Certificate]:
    """Build a path that is valid now, or was until at most `grace` ago. Raises ValueError, saying why there is none."""
    try:
        return verify(chain, authorities, time, tls_purposes=tls_purposes)
    except ValueError as error:
        if _NOT_NOW not in str(error):
            raise
        why = error

    # Only when something ends does a path cease to be valid.
    ends = {one.not_valid_after_utc for one in (*chain, *authorities)}
    for end in sorted((end for end in ends if time - grace <= end < time), reverse=True):
        with contextlib.suppress(ValueError):
            return verify(chain, authorities, end, tls_purposes=tls_purposes)
    raise why


def _ca_usage(policy: Policy, certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError(f"the key usage of {describe(certificate)} does not allow to issue certificates")


_CA_POLICY: Final = (
    ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)
    .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _ca_usage)
)


def _leaf_usage(policy: object, certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    """RFC 4945 §5.1.3.2: either bit will do."""
    if usage is not None and not (usage.digital_signature or usage.content_commitment):
        raise ValueError("its key usage allows neither digitalSignature nor nonRepudiation")


def _leaf_constraints(policy: object, certificate: x509.Certificate, constraints: x509.BasicConstraints | None) -> None:
    if constraints is not None and constraints.ca:
        raise ValueError("it is a CA's (basicConstraints), and no gateway's")


_IKE_PURPOSES: Final = {ExtendedKeyUsageOID.IPSEC_IKE, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
_TLS_PURPOSES: Final = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}


def _ike_purposes(policy: object, certificate: x509.Certificate, purposes: x509.ExtendedKeyUsage | None) -> None:
    """RFC 4945 §5.1.3.12: none at all, or IKE's, or any."""
    _check_purposes(purposes, _IKE_PURPOSES)


def _tls_purposes(policy: object, certificate: x509.Certificate, purposes: x509.ExtendedKeyUsage | None) -> None:
    """The same, or TLS's."""
    _check_purposes(purposes, _IKE_PURPOSES | _TLS_PURPOSES)


def _check_purposes(purposes: x509.ExtendedKeyUsage | None, allowed: set[x509.ObjectIdentifier]) -> None:
    if purposes is not None and allowed.isdisjoint(purposes):
        names = ", ".join(_PURPOSE_NAMES.get(one, one.dotted_string) for one in purposes)
        raise ValueError(f"its extended key usage is {names}, and not ipsecIKE (1.3.6.1.5.5.7.3.17)")


_PURPOSE_NAMES: Final = {
    ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth", ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth",
    ExtendedKeyUsageOID.CODE_SIGNING: "codeSigning", ExtendedKeyUsageOID.EMAIL_PROTECTION: "emailProtection",
    ExtendedKeyUsageOID.TIME_STAMPING: "timeStamping", ExtendedKeyUsageOID.OCSP_SIGNING: "OCSPSigning",
}  # fmt: skip


# -- names --------------------------------------------------------------------------------------------------------


@refusing
def check_name(certificate: x509.Certificate, who: Identity) -> None:
    """Raises ProtocolError unless the certificate is for this identity (RFC 4945 §3.1)."""
    if not is_for(certificate, who):
        raise failed(f"the peer's certificate {describe(certificate)} is not for {name_of(who)}", Failure.CERT_NAME)


def is_for(certificate: x509.Certificate, who: Identity) -> bool:
    """Tell whether a certificate names an identity. Raises whatever `cryptography` does."""
    if who.kind == IdType.DER_ASN1_DN:
        return same_name(certificate.subject.public_bytes(), who.data)
    names = extension(certificate, x509.SubjectAlternativeName)
    return names is not None and name_of(who).lower() in _names(names, who.kind)


def _names(names: x509.SubjectAlternativeName, kind: int) -> set[str]:
    found: list[str | IPv4Address | IPv6Address] = []
    if kind == IdType.FQDN:
        found += names.get_values_for_type(x509.DNSName)
    elif kind == IdType.RFC822_ADDR:
        found += names.get_values_for_type(x509.RFC822Name)
    elif kind in (IdType.IPV4_ADDR, IdType.IPV6_ADDR):
        found += [a for a in names.get_values_for_type(x509.IPAddress) if isinstance(a, IPv4Address | IPv6Address)]
    return {str(name).lower() for name in found}


# -- parts --------------------------------------------------------------------------------------------------------

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


def extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    """Find an extension of a certificate. Raises whatever `cryptography` does for one that cannot be read."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _public(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _check_dates(certificate: x509.Certificate, time: datetime, grace: timedelta) -> None:
    if not certificate.not_valid_before_utc <= time <= certificate.not_valid_after_utc + grace:
        raise failed(f"remote_cert {describe(certificate)} is valid {_dates(certificate)}", Failure.CERT_EXPIRED)


def _dates(certificate: x509.Certificate) -> str:
    return f"from {certificate.not_valid_before_utc:%Y-%m-%d} to {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"


def describe(certificate: x509.Certificate) -> str:
    """Show a certificate in a few words: its subject, or failing that its serial number."""
    try:
        subject = shown(certificate.subject.public_bytes())
    except Exception:  # noqa: BLE001 - a name that is none: see `refusing`
        subject = ""
    return f"({subject or f'serial number {certificate.serial_number:x}'})"


NO_ISSUER: Final = "no configured CA has issued it"
_NOT_NOW: Final = "it, or a CA above it, is over or not yet valid"
_WRONG_USE: Final = ("its key usage", "its extended key usage", "it is a CA's")
# What `cryptography` says, and what that means to who reads a log.
_WORDS: Final = (
    ("all candidates exhausted with no interior errors", NO_ISSUER),
    ("cert is not valid at validation time", _NOT_NOW),
    ("certificate must be an X509v3 certificate", "it is of X.509 version 1: give it extensions (openssl: -extfile)"),
    ("invalid extension: 2.5.29.32: certificate contains unaccounted-for critical extensions",
     "its certificate policies are critical, which fwd does not take"),
    ("certificate contains unaccounted-for critical extensions", "critical, and fwd does not know it"),
    ("basicConstraints.cA must be asserted in a CA certificate", "who has issued it is no CA (basicConstraints)"),
    ("missing required extension: CA certificate has no basicConstraints", "who has issued it does not say to be a CA"),
)  # fmt: skip
_NOISE: Final = re.compile(
    r"validation failed: |candidates exhausted: |fatal error: |Python extension validator failed: |ValueError: "
    r"| \(encountered processing .*|, see https?://\S+"
)


def _failure(text: str) -> Failure:
    """What it counts as that no path could be verified."""
    if _NOT_NOW in text:
        return Failure.CERT_EXPIRED
    return Failure.CERT_PURPOSE if any(words in text for words in _WRONG_USE) else Failure.CERT_UNTRUSTED


def _one_line(error: Exception) -> str:
    """Say why, without the library's own matters."""
    text = " ".join(_NOISE.sub("", str(error)).split()) or type(error).__name__
    for theirs, ours in _WORDS:
        text = text.replace(theirs, ours)
    key = re.search(r"Forbidden (public key|signature) algorithm", text)
    return f"{key[1]} algorithm of a CA that is not taken: use ECDSA or RSA, with SHA-2" if key else text[:300]

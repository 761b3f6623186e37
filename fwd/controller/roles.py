"""Who asks, and whether they may: pure. People and programs by a bearer token, hosts by their link's certificate.

A host's certificate is checked here and not in the handshake, which lets expired ones pass: a host that was away for
long is told why it is refused, and has a grace in which it renews. Refused are certificates that do not hold yet, that
ended longer ago than the grace, that were revoked, and those of hosts that the fleet does not have.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from fwd.controller.tokens import Token, TokenError, bearer_of

GRACE_S: Final = 7 * 86400
NAME_CHARS_MAX: Final = 64
WRITES: Final = frozenset({"admin"})
_SCHEME: Final = "fwd:"
_BEARER: Final = "bearer "


class DeniedError(Exception):
    """One who may not; its text is one line. `unknown`: it has not said who it is, or nobody knows it. `stray`: the
    name of a host with a good certificate that the fleet does not have.
    """

    def __init__(self, text: str, *, unknown: bool = False, stray: str = "") -> None:
        super().__init__(text)
        self.unknown, self.stray = unknown, stray


@dataclass(frozen=True)
class Host:
    """Whose link it is, by a certificate that holds. `ends_at`: of the certificate."""

    kind: str
    name: str
    serial: int
    ends_at: float


def person(authorization: str | None, tokens: Iterable[Token], *, writes: bool) -> Token:
    """Return whose token an `Authorization` header has. Raises DeniedError."""
    if not authorization or authorization[: len(_BEARER)].lower() != _BEARER:
        raise DeniedError("a bearer token is needed: Authorization: Bearer fwdb.…", unknown=True)
    try:
        found = bearer_of(authorization[len(_BEARER) :].strip(), tokens)
    except TokenError as error:
        raise DeniedError(str(error), unknown=True) from None
    if writes and found.role not in WRITES:
        raise DeniedError(f"token {found.name} is a {found.role}'s: an admin's is needed to change anything")
    return found


def host(der: bytes | None, now: float, revoked: Collection[int], hosts: Collection[tuple[str, str]]) -> Host:
    """Return whose link a certificate is that the handshake has found to be this CA's. Raises DeniedError."""
    if der is None:
        raise DeniedError("a link's certificate is needed: `fwd join` gets one", unknown=True)
    try:
        certificate = x509.load_der_x509_certificate(der)
        kind, name = _whose(certificate)
        starts_at, ends_at = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    except ValueError:
        raise DeniedError("this certificate cannot be read") from None

    # What a clock may be to blame for is told with the time here.
    if certificate.serial_number in revoked:
        raise DeniedError(f"the certificate of {kind} {name} is revoked: it was deleted, or joined anew")
    if now < starts_at:
        raise DeniedError(
            f"the certificate of {name} holds in {starts_at - now:.0f} s; here it is {now:.0f}: whose clock is wrong?"
        )
    if now > ends_at + GRACE_S:
        over_s = now - ends_at
        raise DeniedError(
            f"the certificate of {name} ended {over_s:.0f} s ago, and its grace of {GRACE_S} s is over; here it is"
            f" {now:.0f}: join it anew"
        )
    if (kind, name) not in hosts:
        text = f"there is no {kind} {name} in this controller's store: was it deleted, or is the store another one?"
        raise DeniedError(text, stray=name[:NAME_CHARS_MAX])
    return Host(kind, name, certificate.serial_number, ends_at)


def _whose(certificate: x509.Certificate) -> tuple[str, str]:
    """Read kind and name in the certificate's URI."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    for uri in uris:
        parts = uri.removeprefix(_SCHEME).split("/")
        if uri.startswith(_SCHEME) and len(parts) == 3:
            return parts[1], parts[2]
    raise DeniedError("this certificate is no link's")

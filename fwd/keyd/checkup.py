"""What an operator should know of a peering's certificates before a peer refuses them, or is refused.

Looks at the own certificate as the far gateway will, and at CAs, CRLs and a pinned certificate as this side will, at
one moment. Each finding is one line: which file, what is wrong, what to do. A *fault* keeps the two sides apart for
certain; the others may be meant. Needs nothing but what was read (secrets.py), so keyd does it at its start, and the
command line without a gateway.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from fwd.keyd import secrets
from fwd.model.config import Peering
from fwd.model.keys import CertificateKeys
from fwd.proto.ike import auth, trust
from fwd.proto.ike.auth import Certificates, Credentials
from fwd.proto.ike.chain import CERTIFICATES_MAX
from fwd.proto.ike.names import name_of
from fwd.proto.ike.numbers import Payload
from fwd.proto.ike.payloads import Identity
from fwd.proto.ike.trust import Trusted
from fwd.proto.logged import event

SOON_DAYS: Final = 14  # before its end a certificate is spoken of
_EVERY_S: Final = 3600.0
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finding:
    """One line for the operator. `fault`: the two sides cannot come together."""

    text: str
    fault: bool = True


class Checkup:
    """Looks at a peering's certificates every hour while keyd runs, and tells how many days they have left."""

    def __init__(self, peering: Peering, credentials: Credentials) -> None:
        self._peering, self._credentials = peering, credentials
        self._found: list[Finding] = []
        self._due_at = float("-inf")
        self._peer: Trusted | None = None  # what the far gateway has proved itself by

    def change(self, peering: Peering, credentials: Credentials) -> None:
        """Look at others, at the next tick."""
        self._peering, self._credentials = peering, credentials
        self._due_at = float("-inf")

    def proved(self, peer: Trusted | None) -> None:
        """Take note of the certificate by which the far gateway has proved itself, and look at all at the next tick."""
        self._peer = peer
        self._due_at = float("-inf")

    def tick(self, now: float) -> None:
        """Look at them if it is time, and log what is new."""
        if now < self._due_at:
            return
        time = datetime.now(UTC)
        self._due_at = now + min([_EVERY_S, *self._left_s(time)])
        before, self._found = self._found, findings(self._peering, self._credentials, time, self._peer)
        for one in self._found:
            if one not in before:
                told = event("ike.certificate", peering=self._peering.name, fault=one.fault)
                level = logging.ERROR if one.fault else logging.WARNING
                log.log(level, "%s: %s", self._peering.name, one.text, extra=told)

    def _left_s(self, time: datetime) -> list[float]:
        """Return after how many seconds this side's certificate, and the far one's, are over, if they are not."""
        own = self._credentials.chain[0].not_valid_after_utc if isinstance(self._credentials, Certificates) else None
        ends = [own, self._peer.valid_until if self._peer else None]
        left = [(end - time).total_seconds() for end in ends if end is not None]
        return [one + 1 for one in left if one > -1]

    def told(self) -> dict[str, Any]:
        """What there is to see of them: empty with a pre-shared key."""
        if not isinstance(self._credentials, Certificates):
            return {}
        time, peer = datetime.now(UTC), self._peer
        return {
            "local_days": round(days_left(self._credentials.chain[0].not_valid_after_utc, time), 2),
            "remote": trust.describe(peer.leaf).strip("()") if peer else None,
            "remote_days": round(days_left(peer.valid_until, time), 2) if peer else None,
            "findings": [one.text for one in self._found],
        }


def audit(chain: Sequence[x509.Certificate]) -> dict[str, str]:
    """Name the certificate that a peer has proved itself by, for the log; nothing with a pre-shared key."""
    if not chain:
        return {}
    return {
        "certificate": trust.describe(chain[0]).strip("()"),
        "serial": f"{chain[0].serial_number:x}",
        "not_after": f"{chain[0].not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
    }


def examine(peering: Peering) -> list[Finding]:
    """Open and read what a peering's keys name, and look at it, now. The lab's secret is left alone."""
    if peering.ike is None:
        return []
    try:
        fds = secrets.open_all(peering.keys)
        try:
            known = secrets.credentials(peering.keys, fds)
        finally:
            for fd in fds.values():
                os.close(fd)
    except secrets.SecretError as error:
        return [Finding(str(error))]
    return findings(peering, known, datetime.now(UTC))


def findings(peering: Peering, credentials: Credentials, time: datetime, peer: Trusted | None = None) -> list[Finding]:
    """Look at everything that a peering's certificates say; nothing, if all is well or there are none.

    `peer`: what the far gateway has proved itself by, if it has.
    """
    keys = peering.keys
    if not isinstance(credentials, Certificates) or not isinstance(keys, CertificateKeys):
        return []
    local = auth.identity(keys.local_id or str(peering.local_addrs), Payload.IDI)
    remote = auth.identity(peering.remote_id, Payload.IDR)
    parts: tuple[Callable[[], Iterator[Finding]], ...] = (
        partial(_own, keys, credentials, local, time),
        partial(_authorities, keys, credentials, time),
        partial(_crls, keys, credentials, time),
        partial(_pinned, keys, credentials, remote, time),
        partial(_far, keys, peer, time),
    )
    found: list[Finding] = []
    for part in parts:
        try:
            found += part()
        except Exception as error:  # noqa: BLE001 - an odd name is no ValueError
            found.append(Finding(f"{keys.certificate}, or what belongs to it, cannot be read: {error}"))
    return found


def days_left(end: datetime, time: datetime) -> float:
    """Count the days until an end; below zero if it is past."""
    return (end - time).total_seconds() / 86400


def _own(keys: CertificateKeys, mine: Certificates, local: Identity, time: datetime) -> Iterator[Finding]:
    leaf, where = mine.chain[0], f"{keys.certificate}: this gateway's certificate {trust.describe(mine.chain[0])}"
    dates, is_over = _dates(leaf, time), time > leaf.not_valid_after_utc
    if dates and is_over and time <= leaf.not_valid_after_utc + _grace(keys):
        until = f"{leaf.not_valid_after_utc + _grace(keys):%Y-%m-%d %H:%M} UTC"
        yield Finding(
            f"{where} {dates.text}: who has the same cert_grace takes it until {until}; install one that is valid",
            fault=False,
        )
    elif dates:
        yield Finding(f"{where} {dates.text}: install one that is valid", dates.fault)
    if not trust.is_for(leaf, local):
        yield Finding(f"{where} is not for {name_of(local)}: set keys.local_id to what it names, {_names(leaf)}")
    if len(mine.chain) > CERTIFICATES_MAX:
        yield Finding(f"{where} comes with {len(mine.chain) - 1} others: {CERTIFICATES_MAX} in all are sent at most")

    # The far gateway's CAs may be others than those that this side believes, or it may have pinned this one.
    if not mine.authorities or all(_why_no_ca(ca) for ca in mine.authorities) or (dates and dates.fault):
        return  # what is over is verified by nobody
    try:
        trust.verify(mine.chain, mine.authorities, time, tls_purposes=mine.rules.tls_purposes)
    except ValueError as error:
        if trust.NO_ISSUER not in str(error):
            yield Finding(f"{where} will not be trusted: {error}")
        else:
            text = "comes from none of the CAs there: fine only if the far gateway has others"
            yield Finding(f"{where} and {keys.authorities}: it {text}", fault=False)


def _authorities(keys: CertificateKeys, mine: Certificates, time: datetime) -> Iterator[Finding]:
    unusable, alone = 0, len(mine.authorities) == 1
    for ca in mine.authorities:
        where = f"{keys.authorities}: the CA {trust.describe(ca)}"
        dates, why = _dates(ca, time), _why_no_ca(ca)
        if why:
            yield Finding(f"{where} {why}", fault=alone)
        elif dates:
            yield Finding(f"{where} {dates.text}: install its successor", fault=alone and dates.fault)
        unusable += bool(why or (dates and dates.fault))
    if unusable == len(mine.authorities) > 1:
        yield Finding(f"{keys.authorities}: none of the CAs there can be used, so every peer is refused")


def _why_no_ca(ca: x509.Certificate) -> str:
    constraints = trust.extension(ca, x509.BasicConstraints)
    usage = trust.extension(ca, x509.KeyUsage)
    if constraints is None or not constraints.ca:
        return "is no CA (basicConstraints): name one, or if it is the far gateway's own, make it remote_cert"
    if usage is not None and not usage.key_cert_sign:
        return "may not issue certificates (keyUsage): name one that may"
    if not isinstance(ca.public_key(), ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        return "has a key of a kind that is not taken for CAs: use ECDSA or RSA"
    return ""


def _crls(keys: CertificateKeys, mine: Certificates, time: datetime) -> Iterator[Finding]:
    rules, cas = mine.rules, [*mine.authorities, *mine.chain[1:]]
    for crl in rules.crls:
        where = f"crls: that of {crl.name}"
        if not any(crl.is_of(ca) for ca in cas):
            yield Finding(
                f"{where} is signed by no CA in {keys.authorities}: for a CA below those it counts", fault=False
            )
        if time >= crl.next_update:
            yield Finding(f"{where} is over since {crl.next_update:%Y-%m-%d %H:%M} UTC: install the next one")
    if rules.strict:
        for ca in mine.authorities:
            if not any(crl.is_of(ca) for crl in rules.crls):
                yield Finding(f'crls: none is that of {trust.describe(ca)}, and crl_policy is "strict": add it')


def _pinned(keys: CertificateKeys, mine: Certificates, remote: Identity, time: datetime) -> Iterator[Finding]:
    pinned = mine.rules.pinned
    if pinned is None:
        return
    where = f"{keys.remote_cert}: the far gateway's certificate {trust.describe(pinned)}"
    if dates := _dates(pinned, time):
        yield Finding(f"{where} {dates.text}: install its successor", dates.fault)
    if not trust.is_for(pinned, remote):
        yield Finding(f"{where} is not for {name_of(remote)}: set keys.remote_id to what it names, {_names(pinned)}")


def _far(keys: CertificateKeys, peer: Trusted | None, time: datetime) -> Iterator[Finding]:
    """Tell of the far gateway's certificate that is over, and counts for a while yet."""
    if peer is not None and time > peer.valid_until:
        until = peer.valid_until + _grace(keys)
        left = f"it is taken until {until:%Y-%m-%d %H:%M} UTC (cert_grace)" if time <= until else "it is refused"
        over = f"is over since {peer.valid_until:%Y-%m-%d %H:%M} UTC"
        where = f"the far gateway's certificate {trust.describe(peer.leaf)}, or a CA above it,"
        yield Finding(f"{where} {over}: {left}; give it one that is valid", fault=time > until)


def _grace(keys: CertificateKeys) -> timedelta:
    return timedelta(seconds=float(keys.cert_grace))


def _dates(certificate: x509.Certificate, time: datetime) -> Finding | None:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    days = days_left(end, time)
    if days < 0:
        return Finding(f"is over since {end:%Y-%m-%d %H:%M} UTC")
    if time < start:
        return Finding(f"is not valid before {start:%Y-%m-%d %H:%M} UTC (is this host's clock right?)")
    return Finding(f"ends in {days:.0f} days", fault=False) if days < SOON_DAYS else None


def _names(certificate: x509.Certificate) -> str:
    names = trust.extension(certificate, x509.SubjectAlternativeName)
    found = [str(one.value) for one in names or () if isinstance(one, x509.DNSName | x509.RFC822Name | x509.IPAddress)]
    return " or ".join([*found, trust.describe(certificate).strip("()")])

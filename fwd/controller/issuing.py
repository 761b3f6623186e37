"""What a host is issued when it joins and when it renews: pure.

A host has two keys for as long as it is joined, and certificates of these alone: who takes its link over can have none
for another key. Who has several that hold is given the newest again while it is fresh, so however often a host asks, it
has few.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fwd.controller import ca
from fwd.controller.keys import Keys
from fwd.controller.place import identity_of
from fwd.controller.records import Certificate, Use

HOLDING_MAX: Final = 8  # of a use: from then on one is made only if none is fresh
FRESH_SHARE: Final = 0.75  # of its life left


@dataclass(frozen=True)
class HostKeys:
    """A host's public keys by use, of which it has shown that it has them."""

    keys: Mapping[Use, CertificatePublicKeyTypes]

    @property
    def fingerprints(self) -> dict[Use, str]:
        """What tells each of them from all others."""
        return {use: ca.fingerprint(key) for use, key in self.keys.items()}


def keys_in(kind: str, link_csr: str, ike_csr: str | None) -> HostKeys:
    """Take the keys out of a host's requests. Raises RequestError."""
    if (kind == "gateway") != (ike_csr is not None):
        raise ca.RequestError(f"a {kind} {'needs an' if kind == 'gateway' else 'has no'} ike_csr")
    keys: dict[Use, CertificatePublicKeyTypes] = {"link": ca.key_in(link_csr)}
    if ike_csr is not None:
        keys["ike"] = ca.key_in(ike_csr)
    return HostKeys(keys)


@dataclass(frozen=True)
class Issuer:
    """Who issues: the controller's keys, its store, and for how long a certificate holds."""

    keys: Keys
    cluster_id: str
    lifetime_s: float

    def issue(
        self, kind: str, name: str, asked: HostKeys, there: Sequence[Certificate], now: float
    ) -> tuple[list[Certificate], dict[str, Any]]:
        """Give a host a certificate for each of its keys: the records of those that were made, and what it is told."""
        made: list[Certificate] = []
        given: dict[str, str | None] = {"link": None, "ike": None}
        for use, key in asked.keys.items():
            one = self._fresh(there, use, ca.fingerprint(key), now)
            if one is None:
                one = self._made(kind, name, use, key, now)
                made.append(one)
            given[use] = one.pem

        raw = self.keys.document.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return made, {
            "cluster_id": self.cluster_id,
            "name": name,
            "kind": kind,
            "link_certificate": given["link"],
            "ike_certificate": given["ike"],
            "ca_bundle": ca.bundle(self.keys.trusted()).decode(),
            "document_key": base64.b64encode(raw).decode(),
            "identity": identity_of(name),
        }

    def _fresh(self, there: Sequence[Certificate], use: Use, key: str, now: float) -> Certificate | None:
        """Of several that hold one that was issued lately, for the same key, and as it would be issued now."""
        if len([one for one in there if one.use == use and one.ends_at > now]) < HOLDING_MAX:
            return None
        issuer, least_s = ca.pin(self.keys.authority.certificate), FRESH_SHARE * self.lifetime_s
        wanted = (use, key, issuer, self.cluster_id)
        same = [one for one in there if (one.use, one.key, one.issuer, one.cluster_id) == wanted and one.pem]
        return next((one for one in reversed(same) if least_s < one.ends_at - now <= self.lifetime_s), None)

    def _made(self, kind: str, name: str, use: Use, key: CertificatePublicKeyTypes, now: float) -> Certificate:
        authority, ends_at = self.keys.authority, now + self.lifetime_s
        if use == "link":
            issued = ca.link_certificate(authority, key, (self.cluster_id, kind, name), now, self.lifetime_s)
        else:
            issued = ca.ike_certificate(authority, key, identity_of(name), now, self.lifetime_s)
        return Certificate(
            issued.serial_number, kind, name, use, ends_at, None, ca.fingerprint(key), ca.pin(authority.certificate),
            self.cluster_id, ca.pem(issued).decode(),
        )  # fmt: skip


def lists_of(keys: Keys, revoked: Sequence[Certificate], now: float) -> bytes:
    """Write each CA's list of the certificates of its own that are revoked."""
    lists = []
    for one in (keys.authority, keys.other):
        if one is not None:
            pin = ca.pin(one.certificate)
            serials = [(cert.serial, cert.revoked_at or now) for cert in revoked if cert.issuer == pin]
            lists.append(ca.revocation_list(one, serials, int(now), now))
    return b"".join(lists)

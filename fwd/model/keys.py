"""How a peering's two gateways authenticate each other: the table `[peering.keys]`.

Nothing here reads a secret: `secret` and `key` are paths, which the supervisor opens (keyd/secrets.py).
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticKnownError

from fwd.model.words import FilePath, Live, Restart, Seconds, Strict
from fwd.proto.ike import auth, proposals
from fwd.proto.ike.numbers import Payload as IkePayload
from fwd.proto.ike.numbers import Protocol

IKE_PORT: Final = 500

StartAction = Literal["start", "none"]


class LabKeys(Strict):
    """Keys derived from one shared secret: for the lab only. The file is unlinked once read."""

    source: Restart[Literal["lab"]]
    secret: Restart[FilePath] = Field(
        description="file of 32 or more random bytes, mode 0600, owned by the user who runs fwd"
    )


def _proposals(protocol: Protocol) -> Any:
    """Proposals in swanctl's words, checked."""

    def check(words: list[str]) -> list[str]:
        for one in words:
            proposals.parse(one, protocol)
        return words

    return Annotated[list[str], Field(min_length=1, max_length=16), AfterValidator(check)]


def _identity(text: str) -> str:
    if "*" in text or text.startswith("%"):
        raise ValueError(f"identity {text!r}: there are no wildcards: write the one identity that is meant")
    auth.identity(text, IkePayload.IDI)
    return text


def _identities(value: object) -> object:
    """One identity, or a list of them."""
    found = value if isinstance(value, list) else [] if value is None else [value]
    for one in found:
        if not isinstance(one, str):
            raise PydanticKnownError("string_type")
        _identity(one)
    if value == []:
        raise ValueError("has no entries: leave it out, or give each far gateway its own")
    return value


Identity = Annotated[str, AfterValidator(_identity)]
Identities = Annotated[str | list[str] | None, BeforeValidator(_identities)]


class IkeKeys(Strict):
    """What both ways to authenticate by IKEv2 share."""

    local_id: Live[Identity | None] = Field(default=None, description="this gateway's identity; default: its address")
    remote_id: Live[Identities] = Field(
        default=None, description="the far gateway's, or a list of as many as remote_addrs; default: its address"
    )
    ike_proposals: Live[_proposals(Protocol.IKE)] = Field(  # type: ignore[valid-type]
        default=["aes256gcm16-prfsha384-x25519-ecp384", "aes256gcm16-aes128gcm16-prfsha256-x25519-ecp256"],
        description="for IKE, in swanctl's words, the best first",
    )
    esp_proposals: Live[_proposals(Protocol.ESP)] = Field(  # type: ignore[valid-type]
        default=["aes256gcm16-x25519-ecp384-esn-noesn", "aes128gcm16-x25519-ecp256-esn-noesn"],
        description="for ESP; a group here makes rekeying exchange keys anew",
    )
    ike_rekey_time: Live[Seconds] = Field(
        default=4 * 3600, ge=0, le=7 * 86400, description="of the IKE SA, which ends at 1.1 times that; 0: never"
    )
    reauth_time: Live[Seconds] = Field(default=0, ge=0, le=365 * 86400, description="both authenticate anew; 0: never")
    grace: Live[Seconds] = Field(
        default=60, ge=0, le=86400, description="for which SAs go on whose secret, CA or identity SIGHUP has changed"
    )
    dpd_delay: Live[Seconds] = Field(
        default=10, ge=0, le=3600, description="silence before the peer is asked; 0: never"
    )
    start_action: Live[StartAction] = Field(default="start", description="none: wait for the far gateway")
    mobility: Live[Literal["port", "address", "none"]] = Field(
        default="port",
        description="what of the far gateway's address may change; behind a NAT, port lets the address, too",
    )
    ike_port: Restart[int] = Field(default=IKE_PORT, ge=1, le=65535, description="UDP port of IKE, on both sides")


# Who both sides are, and so what belongs to secrets and certificates; all else that IkeKeys has does not.
_IDENTITIES: Final = ("local_id", "remote_id", "ike_port")


def with_proof_of(kept: IkeKeys, wanted: IkeKeys) -> IkeKeys:
    """Return what is wanted, but with the secrets, certificates and identities of `kept`."""
    others = [key for key in IkeKeys.model_fields if key not in _IDENTITIES]
    return kept.model_copy(update={key: getattr(wanted, key) for key in others})


class PskKeys(IkeKeys):
    """IKEv2 with a pre-shared key."""

    source: Live[Literal["psk"]]
    secret: Live[FilePath] = Field(description="file with the pre-shared key, mode 0600, of the user who runs fwd")


class CertificateKeys(IkeKeys):
    """IKEv2 with X.509 certificates, all files PEM."""

    source: Live[Literal["cert"]]
    certificate: Live[FilePath] = Field(description="this gateway's; CAs between it and the root may follow")
    key: Live[FilePath] = Field(description="its private key, mode 0600, owned by the user who runs fwd")
    authorities: Live[FilePath | None] = Field(
        default=None, description="CAs that the far gateway's certificate must come from"
    )
    remote_cert: Live[FilePath | None] = Field(
        default=None, description="the far gateway's certificate: no other key is taken, and no CA is needed"
    )
    crls: Live[list[FilePath]] = Field(
        default=[], max_length=64, description="lists of what the CAs have revoked, PEM or DER"
    )
    crl_policy: Live[Literal["ifpresent", "strict"]] = Field(
        default="ifpresent", description="strict: no peer without a CRL of every CA above its certificate"
    )
    tls_certificates: Live[bool] = Field(
        default=False, description="take certificates whose extended key usage is for TLS servers or clients alone"
    )
    cert_grace: Live[Seconds] = Field(
        default=0,
        ge=0,
        le=30 * 86400,
        description="for which the peer's certificate is taken after its end, unless a CRL names it",
    )

    @model_validator(mode="after")
    def _anchored(self) -> CertificateKeys:
        if self.authorities is None and self.remote_cert is None:
            raise ValueError("authorities is missing: name the far gateway's CAs, or its certificate (remote_cert)")
        if self.authorities is None and self.crls:
            raise ValueError("crls are CAs' lists: they need authorities")
        if self.crl_policy == "strict" and not self.crls:
            raise ValueError('crl_policy = "strict" takes no peer at all without crls')
        return self


Keys = Annotated[LabKeys | PskKeys | CertificateKeys, Field(discriminator="source")]
SOURCES: Final = ("lab", "psk", "cert")

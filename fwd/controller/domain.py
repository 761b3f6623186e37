"""What the routers and gateways of a controller share, and nobody else is to have: pure.

Both are worked out of the key that signs documents, so they are in no store and in no backup of one; controllers that
have that key in common have these, too. A VPC has another probe key when its `probe_number` is another.
"""

from __future__ import annotations

from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fwd.controller.place import Placement
from fwd.model.fleet import Fleet
from fwd.proto.probe import KEY_BYTES

_SEED_BYTES: Final = 8


def probe_key(document: Ed25519PrivateKey, vpc: str, number: int) -> str:
    """Return the key of a VPC's probes, in hexadecimal."""
    return _derived(document, f"fwd probe key {vpc} {number}", KEY_BYTES).hex()


def hash_seed(document: Ed25519PrivateKey) -> int:
    """Return the seed by which all routers' kernels hash flows; never 0, which is none."""
    return 1 + int.from_bytes(_derived(document, "fwd hash seed", _SEED_BYTES), "big") % (2**32 - 1)


def content(
    placed: Placement, fleet: Fleet, host: str, document: Ed25519PrivateKey, trusted: str, crl: str
) -> dict[str, Any]:
    """Return what a host is to do, with what it is to believe (`trusted`, `crl`), and what it shares with others."""
    routers = {one.name: one for one in fleet.routers}
    vpc = fleet.vpc[(routers.get(host) or fleet.gateway[host]).vpc]
    shared = {"probe_key": probe_key(document, vpc.name, vpc.probe_number), "ca_bundle": trusted}
    if host in routers:
        return {**placed.routers[host], **shared, "hash_seed": hash_seed(document)}
    return {**placed.gateways[host], **shared, "crl": crl}


def _derived(document: Ed25519PrivateKey, what: str, octets: int) -> bytes:
    return HKDF(hashes.SHA256(), octets, None, what.encode()).derive(document.private_bytes_raw())

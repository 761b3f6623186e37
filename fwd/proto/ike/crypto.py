"""The arithmetic of IKEv2: groups, PRFs, the key schedule, and the protection of SK payloads.

RFC 7296 §2.13 to §2.18; RFC 8031 (X25519), RFC 5903 (P-256, P-384), RFC 4868 (HMAC-SHA-2), RFC 5282 (AES-GCM in SK
payloads). Refused, as ProtocolError: public values that are no point of their group or give nothing but zeros. Random
octets come from the caller.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, HashAlgorithm
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fwd.proto.ike.numbers import TransformType, syntax
from fwd.proto.ike.proposals import ECP256, ECP384, PRF_SHA256, PRF_SHA384, X25519, Proposal

Random = Callable[[int], bytes]  # so many random octets
SALT_BYTES: Final = 4
IV_BYTES: Final = 8
ICV_BYTES: Final = 16
_HASHES: Final[dict[int, type[HashAlgorithm]]] = {PRF_SHA256: SHA256, PRF_SHA384: SHA384}
_CURVES: Final[dict[int, ec.EllipticCurve]] = {ECP256: ec.SECP256R1(), ECP384: ec.SECP384R1()}


class DiffieHellman:
    """A private key of one group, made of the octets that `random` gives. `public` goes to the peer."""

    def __init__(self, group: int, random: Random) -> None:
        self.group = group
        self._private: Any
        if group == X25519:
            self._private = X25519PrivateKey.from_private_bytes(random(32))
            self.public = self._private.public_key().public_bytes_raw()
        else:
            curve = _CURVES[group]
            # 8 octets more than the order has: what the reduction favours is not to be noticed (FIPS 186-5 A.2.1).
            number = int.from_bytes(random(curve.key_size // 8 + 8), "big") % (_ORDERS[group] - 1) + 1
            self._private = ec.derive_private_key(number, curve)
            point = self._private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
            self.public = point[1:]  # RFC 5903 §7: x and y, without the octet that says so

    def shared(self, public: bytes) -> bytes:
        """g^ir. Raises ProtocolError for what is no public value of this group."""
        try:
            if self.group == X25519:
                return bytes(self._private.exchange(X25519PublicKey.from_public_bytes(public)))
            point = ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[self.group], b"\4" + public)
            return bytes(self._private.exchange(ec.ECDH(), point))
        except ValueError:
            raise syntax(f"KE: no public value of group {self.group}") from None


_ORDERS: Final = {
    ECP256: 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    ECP384: 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
}


class Prf:
    """HMAC with SHA-256 or SHA-384 (transform ids 5 and 6)."""

    def __init__(self, number: int) -> None:
        self._hash = _HASHES[number]()
        self.octets = self._hash.digest_size

    def __call__(self, key: bytes, data: bytes) -> bytes:
        return hmac.digest(key, data, self._hash.name)

    def plus(self, key: bytes, seed: bytes, octets: int) -> bytes:
        """prf+ (RFC 7296 §2.13), which HKDF's expansion is."""
        return HKDFExpand(self._hash, octets, seed).derive(key)

    def check_nonces(self, *nonces: bytes) -> None:
        """Raises ProtocolError unless each has at least half as many octets as a key (RFC 7296 §2.10)."""
        for nonce in nonces:
            if 2 * len(nonce) < self.octets:
                raise syntax(f"nonce of {len(nonce)} octets: the PRF needs {self.octets // 2}")


@dataclass(frozen=True)
class Suite:
    """What an IKE SA is protected with, once chosen."""

    prf: int
    group: int
    key_bits: int
    words: str = ""  # as swanctl has them

    @classmethod
    def of(cls, chosen: Proposal) -> Suite:
        """From a proposal with one transform of each type."""
        encr, prf, group = (chosen.one(kind) for kind in (TransformType.ENCR, TransformType.PRF, TransformType.KE))
        assert encr is not None
        assert prf is not None
        assert group is not None
        return cls(prf.id, group.id, encr.key_bits, str(chosen))

    def __str__(self) -> str:
        return self.words

    @property
    def key_octets(self) -> int:
        """Of one direction's cipher, salt included."""
        return self.key_bits // 8 + SALT_BYTES


class Sealer:
    """One direction of an IKE SA's cipher; the IV of each message must be one that was never used before."""

    def __init__(self, material: bytes) -> None:
        self._aead = AESGCM(material[:-SALT_BYTES])
        self._salt = material[-SALT_BYTES:]

    def seal(self, iv: int, plain: bytes, aad: bytes) -> bytes:
        """IV, ciphertext and ICV."""
        octets = iv.to_bytes(IV_BYTES, "big")
        return octets + self._aead.encrypt(self._salt + octets, plain, aad)

    def unseal(self, data: bytes, aad: bytes) -> bytes | None:
        """What was sealed, or None if it does not authenticate."""
        if len(data) < IV_BYTES + ICV_BYTES:
            return None
        try:
            return self._aead.decrypt(self._salt + data[:IV_BYTES], data[IV_BYTES:], aad)
        except InvalidTag:
            return None


@dataclass(frozen=True)
class IkeKeys:
    """The keys of one IKE SA (RFC 7296 §2.14); `i` and `r` are its original initiator and responder."""

    prf: Prf
    d: bytes = field(repr=False)
    ei: bytes = field(repr=False)
    er: bytes = field(repr=False)
    pi: bytes = field(repr=False)
    pr: bytes = field(repr=False)

    @classmethod
    def initial(cls, suite: Suite, secret: bytes, ni: bytes, nr: bytes, spis: bytes) -> IkeKeys:
        """From IKE_SA_INIT: SKEYSEED = prf(Ni | Nr, g^ir); `spis` are the initiator's and the responder's."""
        prf = Prf(suite.prf)
        prf.check_nonces(ni, nr)
        return cls._derive(prf, suite, prf(ni + nr, secret), ni + nr + spis)

    @classmethod
    def rekeyed(cls, old: IkeKeys, suite: Suite, secret: bytes, ni: bytes, nr: bytes, spis: bytes) -> IkeKeys:
        """From the SA that it replaces, whose PRF makes SKEYSEED = prf(SK_d, g^ir | Ni | Nr) (RFC 7296 §2.18)."""
        old.prf.check_nonces(ni, nr)
        Prf(suite.prf).check_nonces(ni, nr)
        return cls._derive(Prf(suite.prf), suite, old.prf(old.d, secret + ni + nr), ni + nr + spis)

    @classmethod
    def _derive(cls, prf: Prf, suite: Suite, seed: bytes, octets: bytes) -> IkeKeys:
        sizes = [prf.octets, suite.key_octets, suite.key_octets, prf.octets, prf.octets]
        stream = prf.plus(seed, octets, sum(sizes))
        parts, at = [], 0
        for size in sizes:
            parts.append(stream[at : at + size])
            at += size
        return cls(prf, *parts)

    def child(self, ni: bytes, nr: bytes, octets: int, secret: bytes = b"") -> tuple[bytes, bytes]:
        """KEYMAT of a Child SA (RFC 7296 §2.17): from the exchange's initiator to its responder, and back."""
        self.prf.check_nonces(ni, nr)
        stream = self.prf.plus(self.d, secret + ni + nr, 2 * octets)
        return stream[:octets], stream[octets:]

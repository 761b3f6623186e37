"""The numbers of IKEv2, as IANA has them: RFC 7296 §3, RFC 7383, RFC 7427, RFC 8019, RFC 9611; and our own.

`ProtocolError` is what every part of this package raises for a message that it refuses: what is wrong in words, and the
error notify that answers it.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from hashlib import sha256
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fwd.proto.ike.causes import Failure

VERSION: Final = 0x20  # 2.0
SPI_BYTES: Final = 8  # of an IKE SA
ESP_SPI_BYTES: Final = 4


class Exchange(IntEnum):
    """RFC 7296 §3.1."""

    IKE_SA_INIT = 34
    IKE_AUTH = 35
    CREATE_CHILD_SA = 36
    INFORMATIONAL = 37


class Flag(IntFlag):
    """RFC 7296 §3.1."""

    INITIATOR = 0x08
    VERSION = 0x10
    RESPONSE = 0x20


class Payload(IntEnum):
    """RFC 7296 §3.2."""

    NONE = 0
    SA = 33
    KE = 34
    IDI = 35
    IDR = 36
    CERT = 37
    CERTREQ = 38
    AUTH = 39
    NONCE = 40
    NOTIFY = 41
    DELETE = 42
    VENDOR = 43
    TSI = 44
    TSR = 45
    SK = 46
    SKF = 53


class Protocol(IntEnum):
    """RFC 7296 §3.3.1."""

    NONE = 0
    IKE = 1
    ESP = 3


class Status(IntFlag):
    """What a FWD_STATUS tells of its sender."""

    DRAINS = 1  # it is being drained
    ENDED = 2  # its peering has ended, or a user has ended it: nothing is accepted any more
    LEAVES = 4  # its peering is about to be closed: routers are to look elsewhere


class Notify(IntEnum):
    """RFC 7296 §3.10.1: below 16384 an error, all of which a log names, else a status, of which fwd knows these."""

    UNSUPPORTED_CRITICAL_PAYLOAD = 1
    INVALID_IKE_SPI = 4
    INVALID_MAJOR_VERSION = 5
    INVALID_SYNTAX = 7
    INVALID_MESSAGE_ID = 9
    INVALID_SPI = 11
    NO_PROPOSAL_CHOSEN = 14
    INVALID_KE_PAYLOAD = 17
    AUTHENTICATION_FAILED = 24
    SINGLE_PAIR_REQUIRED = 34
    NO_ADDITIONAL_SAS = 35
    INTERNAL_ADDRESS_FAILURE = 36
    FAILED_CP_REQUIRED = 37
    TS_UNACCEPTABLE = 38
    INVALID_SELECTORS = 39
    TEMPORARY_FAILURE = 43
    CHILD_SA_NOT_FOUND = 44
    TS_MAX_QUEUE = 48  # RFC 9611

    INITIAL_CONTACT = 16384
    NAT_DETECTION_SOURCE_IP = 16388
    NAT_DETECTION_DESTINATION_IP = 16389
    COOKIE = 16390
    REKEY_SA = 16393
    COOKIE2 = 16401  # RFC 4555
    FRAGMENTATION_SUPPORTED = 16430  # RFC 7383
    SIGNATURE_HASH_ALGORITHMS = 16431  # RFC 7427
    SA_RESOURCE_INFO = 16444  # RFC 9611

    # Private use: between two fwd gateways.
    FWD_PEERING = 41200  # version, payload, offloads, UDP ports (keyd.agreement)
    FWD_MEMBER = 41201  # the member that a Child SA is for
    FWD_STATUS = 41202  # one octet; its bits (Status) tell of the sender


PRIVATE_STATUS_FIRST: Final = 40960  # RFC 7296 §3.10.1
VENDOR_ID: Final = sha256(b"fwd: FWD_PEERING, FWD_MEMBER").digest()[:16]  # who sends it knows our notifies (§3.12)
STATUS_FIRST: Final = 16384  # notifies from here on are no errors


class TransformType(IntEnum):
    """RFC 7296 §3.3.2."""

    ENCR = 1
    PRF = 2
    INTEG = 3
    KE = 4
    ESN = 5


class IdType(IntEnum):
    """RFC 7296 §3.5."""

    IPV4_ADDR = 1
    FQDN = 2
    RFC822_ADDR = 3
    IPV6_ADDR = 5
    DER_ASN1_DN = 9
    DER_ASN1_GN = 10
    KEY_ID = 11


class AuthMethod(IntEnum):
    """RFC 7296 §3.8, RFC 7427."""

    RSA = 1
    SHARED_KEY = 2
    ECDSA_256 = 9
    SIGNATURE = 14


class CertEncoding(IntEnum):
    """RFC 7296 §3.6."""

    X509_SIGNATURE = 4


REASON_MAX: Final = 300


class ProtocolError(Exception):
    """A message is refused. `notify` answers it, with `data`; `spi`: of the Child SA that it is about.

    Its text is for log and status, and may quote the peer: so it has REASON_MAX characters, all of them printable.
    `member`: whose Child SA was asked for, once that is known; `about_ike`: a new IKE SA was. `failure`: what
    it counts as, if `notify` does not say enough.
    """

    member: int | None = None
    about_ike = False
    failure: Failure | None = None

    def __init__(self, notify: Notify, reason: str, data: bytes = b"", spi: bytes = b"") -> None:
        super().__init__("".join(one if one.isprintable() else "?" for one in reason[:REASON_MAX]))
        self.notify = notify
        self.data = data
        self.spi = spi


def notify_name(kind: int) -> str:
    """What a log calls a notify, whether fwd knows it or not."""
    return Notify(kind).name if kind in Notify._value2member_map_ else f"notify {kind}"


def syntax(reason: str) -> ProtocolError:
    """A message that breaks the format (RFC 7296 §2.21): INVALID_SYNTAX."""
    return ProtocolError(Notify.INVALID_SYNTAX, reason)

"""Why an IKE SA or a Child SA is made, replaced or ended, and why a peer fails: two closed sets for log and metrics."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from fwd.proto.ike.numbers import Notify

if TYPE_CHECKING:
    from fwd.proto.ike.numbers import ProtocolError

# Why there is no IKE SA, if the peer, another fwd, has said so (numbers.Status).
HAS_ENDED: Final = "the far gateway has ended the peering: it was terminated, taken away or stopped there"


class By(Enum):
    """By whom, or by what."""

    START = "start"  # the peering is to be joined, or a member lacks SAs
    USER = "user"
    TIMER = "timer"  # its time to be replaced, or to end; the peer's certificate's end
    COUNT = "count"  # of packets, octets or messages
    PEER = "peer"
    RELOAD = "reload"  # keyd has begun anew: SIGHUP, or its own death
    DEATH = "member_death"
    REPLACED = "replaced"  # its successor is there
    REFUSED = "refused"  # the peer refuses what is needed, or its answer cannot be used
    SILENCE = "silence"  # the peer does not answer
    FAULT = "fault"  # of fwd's own
    STOP = "stop"  # fwd ends


class Failure(Enum):
    """What an attempt to authenticate, or to make an SA, has failed by."""

    WRONG_SECRET = "wrong_secret"
    UNKNOWN_IDENTITY = "unknown_identity"
    AUTH_METHOD = "auth_method"
    WRONG_SIGNATURE = "wrong_signature"
    CERT_EXPIRED = "cert_expired"
    CERT_REVOKED = "cert_revoked"
    CERT_CRL = "cert_crl"
    CERT_UNTRUSTED = "cert_untrusted"
    CERT_PURPOSE = "cert_purpose"
    CERT_NAME = "cert_name"
    CERT_REFUSED = "cert_refused"
    REFUSED_BY_PEER = "refused_by_peer"
    NO_PROPOSAL = "no_proposal"
    TS_UNACCEPTABLE = "ts_unacceptable"
    NO_ADDITIONAL_SAS = "no_additional_sas"
    MALFORMED = "malformed"
    NO_ANSWER = "no_answer"
    COOKIE_ASKED = "cookie_asked"
    RATE_LIMITED = "rate_limited"
    HALF_OPEN_DROPPED = "half_open_dropped"
    HALF_OPEN_TIMED_OUT = "half_open_timed_out"
    OTHER = "other"


_BY_NOTIFY: Final[dict[int, Failure | None]] = {
    Notify.UNSUPPORTED_CRITICAL_PAYLOAD: Failure.MALFORMED,
    Notify.INVALID_SYNTAX: Failure.MALFORMED,
    Notify.NO_PROPOSAL_CHOSEN: Failure.NO_PROPOSAL,
    Notify.AUTHENTICATION_FAILED: Failure.OTHER,
    Notify.NO_ADDITIONAL_SAS: Failure.NO_ADDITIONAL_SAS,
    Notify.TS_MAX_QUEUE: Failure.NO_ADDITIONAL_SAS,
    Notify.TS_UNACCEPTABLE: Failure.TS_UNACCEPTABLE,
    # What belongs to two sides that begin at once, or to a group that is tried again: nothing has failed.
    Notify.INVALID_KE_PAYLOAD: None,
    Notify.TEMPORARY_FAILURE: None,
    Notify.CHILD_SA_NOT_FOUND: None,
}


def failure_of(error: ProtocolError) -> Failure | None:
    """Classify a refusal of ours; None: it is no failure."""
    return error.failure or by_notify(error.notify)


def by_notify(kind: int) -> Failure | None:
    """Classify a refusal by the notify that tells it; None: it is no failure."""
    return _BY_NOTIFY.get(kind, Failure.OTHER)

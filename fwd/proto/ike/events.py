"""What an endpoint tells whoever runs it, and the parameters of a connection that it is given."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from cryptography import x509

from fwd.proto.ike.agreed import Agreed, AgreedSets
from fwd.proto.ike.auth import Credentials, same
from fwd.proto.ike.causes import By, Failure
from fwd.proto.ike.crypto import Random
from fwd.proto.ike.numbers import PRIVATE_STATUS_FIRST, ProtocolError, Status
from fwd.proto.ike.payloads import Identity, Notification
from fwd.proto.ike.proposals import Proposal
from fwd.proto.ike.rate import Budget
from fwd.proto.ike.selectors import Network, Selector
from fwd.proto.ike.trust import Trusted
from fwd.proto.sa import SaKeys

Address = tuple[str, int]  # IP address and UDP port
FIRST_MEMBER: Final = 0


@dataclass(frozen=True)
class Connection:
    """One peering, as IKE sees it. Times are in seconds; 0: never."""

    name: str
    local: Address
    remote: Address
    local_id: Identity
    remote_id: Identity
    credentials: Credentials = field(repr=False)
    ike_proposals: tuple[Proposal, ...]
    esp_proposals: tuple[Proposal, ...]
    local_ts: tuple[Network, ...]
    remote_ts: tuple[Network, ...]
    notifies: tuple[Notification, ...] = ()  # sent along in IKE_AUTH: what both sides may agree on
    members: int = 1
    rekey_s: float = 3 * 3600.0
    cert_grace_s: float = 0.0  # for which the peer's certificate is taken after its end
    liveness_s: float = 10.0
    fragment_bytes: int = 1200
    float_port: int = 0  # where IKE goes on behind a NAT; 0: where it began
    mobility: Literal["none", "port", "address"] = "port"  # what of the peer's address may change (mobility.py)
    drains: bool = False  # what another fwd is told of us
    leaves: bool = False  # likewise: the peering is about to be closed
    stopped: bool = False  # a user has ended it: a peer that begins it is refused, once it has proved who it is

    @property
    def status(self) -> Status:
        """What another fwd is to be told of us."""
        return (Status.DRAINS if self.drains else Status(0)) | (Status.LEAVES if self.leaves else Status(0))

    def is_between(self, wanted: Identity | None, peer: Identity) -> bool:
        """Whether it is that of a peer who is `peer` and wants to talk to `wanted`, or does not say to whom."""
        return same(peer, self.remote_id) and (wanted is None or same(wanted, self.local_id))


@dataclass(frozen=True)
class ChildKeys:
    """A Child SA: one SA each way, for a member."""

    member: int
    inbound: SaKeys
    outbound: SaKeys
    agreed: Agreed
    proposal: str
    initiated: bool  # by this side
    notifies: tuple[Notification, ...] = ()  # the peer's, about this Child SA
    outdated: bool = False  # the subnets that were offered for it are not those that are configured by now

    @property
    def local_ts(self) -> tuple[Selector, ...]:
        """Its traffic selectors on this side."""
        return self.agreed.local_ts

    @property
    def remote_ts(self) -> tuple[Selector, ...]:
        """Those on the far side."""
        return self.agreed.remote_ts


@dataclass
class PeerFacts:
    """What is known of one authenticated peer: the same for every IKE SA that comes of the first by rekeying."""

    fragments: bool = False  # it knows RFC 7383
    is_fwd: bool = False  # it knows our private notifies
    spreads: bool = False  # it knows RFC 9611: it sends by resource, not all on its newest Child SA
    hashes: bytes = b""  # that it takes in signatures (RFC 7427 §4)
    behind_nat: bool = False  # we see it at another address than it does
    sees_nat: bool = False  # it sees us at another address than we do
    drains: bool = False  # by its own word
    told: Status = field(default=Status(0))  # what it was told of us
    has_ended: bool = False  # by its own word it accepts nothing any more

    def understood(self, notifies: Sequence[Notification]) -> list[Notification]:
        """Those that it has said to know; standard ones go to everybody (RFC 7296 §3.12)."""
        return [one for one in notifies if self.is_fwd or one.kind < PRIVATE_STATUS_FIRST]

    def receiver_of(self, member: int) -> int:
        """Which member is to receive on the inbound half of a member's Child SA (ARCHITECTURE, "Keys")."""
        return member if self.spreads else FIRST_MEMBER


@dataclass(frozen=True)
class Standing:
    """What the peer's proof of who it is is good for, which goes along through every rekeying.

    `authentication`: its number, later ones are higher; `initiated`: we have begun that IKE SA. `ends_at`: when nothing
    may rest on it any more, on the endpoint's clock, whatever is done to the wall clock meanwhile; `grace_s`: for how
    long before that the peer's certificate is over. `chain`: of the peer's certificates, its own first.
    """

    authentication: int = 0
    begun_at: float = 0.0
    authenticated_at: float = 0.0
    initiated: bool = False
    ends_at: float = float("inf")
    grace_s: float = 0.0
    ends_why: str = "the peer's certificate has ended"
    chain: tuple[x509.Certificate, ...] = ()


@dataclass(frozen=True)
class Established:
    """The peer has proved who it is. `notifies`: its status notifies in IKE_AUTH; `certificate`: by what, if not by a
    secret; `standing`: what that is good for.
    """

    connection: str
    peer: Identity
    notifies: tuple[Notification, ...]
    certificate: Trusted | None = None
    standing: Standing = Standing()


@dataclass(frozen=True)
class IkeUp:
    """An IKE SA is there, of SPIs `spis`. `replaces`: those of the one that it takes over from."""

    connection: str
    spis: tuple[bytes, bytes]
    remote: Address
    proposal: str
    initiated: bool  # by this side
    by: By
    standing: Standing
    replaces: tuple[bytes, bytes] | None = None


@dataclass(frozen=True)
class IkeDown:
    """An IKE SA that was there is none any more. `reason`: in words, unless it was wanted."""

    connection: str
    spis: tuple[bytes, bytes]
    by: By
    reason: str


@dataclass(frozen=True)
class ChildUp:
    """A Child SA is there: both its SAs may be used. `replaces`: our inbound SPI of the one it takes over from.

    `standing`: of the IKE SA that it was made on.
    """

    connection: str
    child: ChildKeys
    replaces: int | None = None
    standing: Standing = Standing()
    by: By = By.PEER


@dataclass(frozen=True)
class ChildConfirmed:
    """The peer has our answer by which it made a Child SA: it accepts what we send on the pair of our inbound `spi`."""

    connection: str
    member: int
    spi: int


@dataclass(frozen=True)
class ChildDown:
    """The peer will not send on our inbound `spi` any more, nor accept on its pair.

    `at_once`: it accepts nothing from now on; another fwd that has deleted it does for a while (pairs.py).
    """

    connection: str
    member: int
    spi: int
    by: By = By.PEER
    at_once: bool = False


@dataclass(frozen=True)
class ChildRefused:
    """A Child SA that was asked for will not be. `notify`: the peer's reason."""

    connection: str
    member: int
    notify: int


@dataclass(frozen=True)
class ExchangeRefused:
    """A CREATE_CHILD_SA exchange came to nothing, perhaps for now. `member` None: it is not known whose it was."""

    connection: str
    by_peer: bool
    reason: str
    member: int | None = None
    about_ike: bool = False  # it was to replace the IKE SA

    @classmethod
    def by_us(cls, connection: str, error: ProtocolError) -> ExchangeRefused:
        """A request that we have refused."""
        reason = f"{error.notify.name}: {error}"
        return cls(connection, by_peer=False, reason=reason, member=error.member, about_ike=error.about_ike)


@dataclass(frozen=True)
class Informed:
    """The peer, another fwd, tells anew what it has told in IKE_AUTH."""

    connection: str
    notify: Notification


@dataclass(frozen=True)
class Moved:
    """The peer's packets, authenticated, come from another address now (RFC 7296 §2.23)."""

    connection: str
    remote: Address


@dataclass(frozen=True)
class Strayed:
    """A message of the peer's, authenticated, has come from `remote`, where it is not followed, and why."""

    connection: str
    remote: Address
    reason: str


@dataclass(frozen=True)
class Rejected:
    """Somebody at `remote` has begun an IKE SA and was refused, or gave up, before it was established."""

    connection: str
    remote: Address
    error: str


@dataclass(frozen=True)
class Closed:
    """The connection's last IKE SA is gone, and all its Child SAs with it. `error`: why, unless it was wanted.

    `has_ended`: the peer has said that it accepts nothing any more.
    """

    connection: str
    error: str
    has_ended: bool = False


@dataclass(frozen=True)
class Fault:
    """A fault of fwd's own, met while a message or a command was worked on; it has ended what it was met in."""

    connection: str
    error: Exception


Event = (
    Established
    | IkeUp
    | IkeDown
    | ChildUp
    | ChildConfirmed
    | ChildDown
    | ChildRefused
    | ExchangeRefused
    | Informed
    | Moved
    | Strayed
    | Rejected
    | Closed
    | Fault
)


@dataclass(frozen=True)
class Datagram:
    """One to send."""

    data: bytes
    local: Address
    remote: Address


@dataclass
class World:
    """What an IKE SA needs of its surroundings: randomness, unused SPIs, and where to put what it has to say."""

    random: Random
    unused_spi: Callable[[int], int]  # by the member that is to receive on it
    unused_ike_spi: Callable[[], bytes]
    wall_clock: Callable[[], float]  # seconds since 1970: for certificates
    send: Callable[[Datagram], None]
    tell: Callable[[Event], None]
    adopt: Callable[[Any], None]  # an IKE SA, whose messages find it from then on
    admits: Callable[[Address, float], bool]  # whether a stranger's IKE_AUTH is looked at
    fragments: Budget  # of peers' messages
    strangers_fragments: Budget
    reveal: Callable[[Any], None] | None = None  # told of every IKE SA that has keys: for debugging
    authentications: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    failures: Counter[Failure] = field(default_factory=Counter)
    agreed: AgreedSets = field(default_factory=AgreedSets)

    def fail(self, failure: Failure | None) -> None:
        """Count what something has failed by, if it is a failure."""
        if failure is not None:
            self.failures[failure] += 1

    def next_authentication(self) -> int:
        """Number a peer's proof of who it is."""
        return next(self.authentications)

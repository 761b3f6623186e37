"""What a gateway says of itself: frozen, typed, and the one place where each key's meaning stands.

JSON (`fwd status --json`), `fwd status`, the metrics, docs/status.md and docs/status.schema.json come from these
classes (model/shown.py says how). A key that comes later has a default, so that an older gateway's status can be read;
SCHEMA is raised when a key changes its meaning or goes. Who fills it: agent/status.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from fwd.model.reasons import Reason
from fwd.model.shown import STRICT, counter, gauge

SCHEMA: Final = 1

State = Literal["stopped", "running", "backoff", "failed"]
PathState = Literal["up", "down"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """The four keys of every process."""

    __pydantic_config__ = STRICT

    state: Annotated[
        State,
        "`running`; `backoff`: dead, to be started again soon; `failed`: died too often; `stopped`.",
        gauge("fwd_process_up", one="running"),
    ]
    pid: Annotated[int, "Its process number; 0: none."]
    restarts: Annotated[int, "How often it was replaced.", counter("fwd_process_restarts")]
    heartbeat_age_ms: Annotated[
        int | None,
        "Milliseconds since the last turn of its own loop, 0 while it rests; null: none yet.",
        gauge("fwd_process_heartbeat_age_seconds", divisor=1000),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedProcess(Process):
    """A process that belongs to no peering: keyd, the agent, and the beacon and link if there are any."""

    name: Annotated[str, "`keyd`, `agent`, `beacon` or `link`."]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demux(Process):
    """The process that reads a peering's TUN device, with the keys of every process."""

    records: Annotated[int, "Records read from the TUN device.", counter("fwd_demux_records")]
    bytes: Annotated[int, "Bytes of those records.", counter("fwd_demux_bytes")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What a member has carried in one direction."""

    __pydantic_config__ = STRICT

    records: Annotated[int, "Records: sealed (`out`), or written to the TUN device (`in`).", counter("fwd_records")]
    bytes: Annotated[int, "Bytes of those records.", counter("fwd_bytes")]
    esp_packets: Annotated[
        int, "ESP packets sent (`out`), or received, whatever became of them (`in`).", counter("fwd_esp_packets")
    ]
    esp_bytes: Annotated[int, "Bytes of those ESP packets, without outer IP and UDP headers.", counter("fwd_esp_bytes")]


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """Which sequence numbers one life of a member has claimed on one SA."""

    __pydantic_config__ = STRICT

    incarnation: Annotated[int, "Which life of the member; 1 is the first."]
    spi: Annotated[str, "SPI of the SA."]
    first: Annotated[int, "The first sequence number claimed."]
    last: Annotated[int, "The last one; less than `first`: none."]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member(Process):
    """A process that owns one ESP tunnel, with the keys of every process."""

    index: Annotated[int, "Its number, from 0."]
    incarnation: Annotated[int, "Which life of the member this is; 1 is the first."]
    port: Annotated[int, "Its UDP port."]
    peer: Annotated[
        str | None,
        "The far address and port, learned from authenticated packets; null: nothing but the configured one.",
    ]
    path: Annotated[
        PathState, "`up`, or `down`: the far member does not answer its echoes.", gauge("fwd_member_path_up", one="up")
    ]
    path_mtu: Annotated[int, "Largest outer packet it sends, in bytes.", gauge("fwd_member_path_mtu_bytes")]
    row_bytes: Annotated[int, "Bytes of data in a full row: what one ESP packet carries at most."] = 0
    spi_out: Annotated[str | None, "SPI of the SA it sends on; null: none."]
    spis_in: Annotated[dict[str, int], "SPIs of inbound SAs that have accepted anything → highest sequence number."]
    buckets: Annotated[int, "Buckets of the flow table that it owns, of 65,536.", gauge("fwd_member_buckets")]
    draining: Annotated[
        bool,
        "It is to leave, or the far side has no partner for it: it gets no more buckets.",
        gauge("fwd_member_draining"),
    ] = False
    loss: Annotated[
        float,
        "Share of its last echoes, 0 to 1, that went unanswered while later ones were answered.",
        gauge("fwd_member_path_loss_ratio"),
    ] = 0.0
    rtt_ms: Annotated[
        float | None,
        "The longest time, in milliseconds, that an answer to its echoes took lately; null: not known, or its path is "
        "down. Where nothing is sent it is of before.",
        gauge("fwd_member_path_rtt_seconds", divisor=1000),
    ] = None
    ring_waiting: Annotated[
        int, "Segments in its ring that it has not finished.", gauge("fwd_member_ring_segments_waiting")
    ]
    echoes_sent: Annotated[int, "Echo requests sent to find whether the path answers.", counter("fwd_echoes_sent")] = 0
    echoes_answered: Annotated[
        int, "Echo requests of the far member that it has answered.", counter("fwd_echoes_answered")
    ] = 0
    out: Annotated[Traffic, "What it has sent."]
    in_: Annotated[Traffic, "What it has received."]
    ledger: Annotated[list[LedgerEntry], "Sequence numbers claimed, oldest first; the last 256 entries."]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSa:
    """A Child SA, as keyd has it."""

    __pydantic_config__ = STRICT

    member: Annotated[int, "The member that it is for."]
    state: Annotated[str, "What it is used for; ike.md has the states."]
    spi_in: Annotated[str, "SPI of what is received on it."]
    spi_out: Annotated[str, "SPI of what is sent on it."]
    proposal: Annotated[str, "The algorithms."]
    age_s: Annotated[int | None, "Seconds since it was negotiated; null: not in use."]
    ends_s: Annotated[int | None, "Seconds until its life is over; null: no end."]


@dataclass(frozen=True, slots=True, kw_only=True)
class IkeSa:
    """An IKE SA, as keyd has it; up to half a second old; while nothing happens ages go on by the clock."""

    __pydantic_config__ = STRICT

    state: Annotated[str, "Where it is in its life; ike.md has the states."]
    spi_i: Annotated[str, "SPI of the initiator."]
    spi_r: Annotated[str, "SPI of the responder."]
    initiator: Annotated[bool, "Whether this gateway is the initiator."]
    behind_nat: Annotated[bool, "Whether a NAT is before this gateway."]
    peer_behind_nat: Annotated[bool, "Whether a NAT is before the peer."] = False
    remote: Annotated[str, "The peer's address and port."]
    remote_id: Annotated[str, "The peer's identity."]
    established_s: Annotated[int | None, "Seconds since it was established; null: it is not."]
    authenticated_s: Annotated[int | None, "Seconds since both sides authenticated; null: they have not."] = None
    ends_s: Annotated[int | None, "Seconds until its life is over; null: no end."] = None
    children: Annotated[list[ChildSa], "Its Child SAs."]


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """The certificates of a peering; of one whose keys are not `cert`, all is null."""

    __pydantic_config__ = STRICT

    local_days: Annotated[float | None, "Days until this gateway's certificate ends; null: it has none."] = None
    remote: Annotated[str | None, "Subject of the far gateway's; null: it has not proved itself yet."] = None
    remote_days: Annotated[float | None, "Days until the first one in the far gateway's chain ends."] = None
    findings: Annotated[list[str], "What is wrong with them; also in `warnings`."] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrower:
    """What a member's SA carries, where that is less than is configured; what it does not carry is dropped."""

    __pydantic_config__ = STRICT

    local: Annotated[list[str], "Subnets, or ranges of addresses, on this side that it carries: the first few."]
    remote: Annotated[list[str], "The same on the far side."]
    not_wholly: Annotated[list[str], "Pairs of configured subnets of which not all passes: the first few."]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offloads:
    """Segmentation and checksum offloads of a peering."""

    __pydantic_config__ = STRICT

    in_force: Annotated[list[str], "Names of offloads in force."]
    refused: Annotated[dict[str, str], "Names of those that are not → why."]


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """Both sides of the identities below, summed over the members of a peering."""

    __pydantic_config__ = STRICT

    out_records_in: Annotated[int, "Records read from the TUN device."]
    out_records_out: Annotated[int, "Records sealed."]
    out_drops: Annotated[int, "Records dropped on the way out."]
    out_waiting: Annotated[int, "Records that wait in the rings."]
    out_esp_sent: Annotated[int, "ESP packets sent."]
    in_esp_in: Annotated[int, "ESP packets received."]
    in_esp_ok: Annotated[int, "ESP packets opened and understood."]
    in_esp_drops: Annotated[int, "ESP packets dropped."]
    in_esp_waiting: Annotated[int, "ESP packets taken from the sockets and being opened."]
    in_records_in: Annotated[int, "Records found whole in ESP packets."]
    in_records_out: Annotated[int, "Records written to the TUN device."]
    in_drops: Annotated[int, "Records dropped on the way in."]


@dataclass(frozen=True, slots=True, kw_only=True)
class FarGateway:
    """One of the far gateways of a peering."""

    __pydantic_config__ = STRICT

    address: Annotated[str, "Its outer address, as configured."]
    members: Annotated[list[int], "The members that are paired with it."]
    state: Annotated[
        Literal["up", "down"],
        "`up`: one of these members, at least, has an SA to send on, and its path is up.",
        gauge("fwd_far_gateway_up", one="up"),
    ]
    established: Annotated[
        bool | None,
        "Whether there is an IKE SA with it; null: with `lab` keys there is none.",
        gauge("fwd_far_gateway_established"),
    ]
    error: Annotated[str, "Why there is no IKE SA; empty: there is one, or none was wanted."]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peering:
    """The encrypted connection to a far side, by one far gateway or several."""

    __pydantic_config__ = STRICT

    name: Annotated[str, "As configured, like `payload`, `tun`, addresses and subnets."]
    payload: Annotated[Literal["superpacket", "esp"], "What ESP packets carry."]
    keys: Annotated[Literal["psk", "cert", "lab"], "Where keys come from."]
    tun: Annotated[str, "Name of the TUN device."]
    tun_mtu: Annotated[int, "MTU of the TUN device now, in bytes."]
    local_addrs: Annotated[str, "This gateway's outer address."]
    remote_addrs: Annotated[str, "The far gateways' outer addresses, with commas between them."]
    local_ts: Annotated[list[str], "Subnets on this side."]
    remote_ts: Annotated[list[str], "Subnets on the far side."]
    offloads: Annotated[Offloads, "Segmentation and checksum offloads."]
    demux: Annotated[Demux, "The demux."]
    members: Annotated[list[Member], "The members, in order."]
    far: Annotated[list[FarGateway], "The far gateways, in the order of the configuration."] = field(
        default_factory=list
    )
    ike_sas: Annotated[list[IkeSa], "IKE SAs; none with `lab` keys."]
    ike_half_open: Annotated[
        int, "Attempts of the peer, or of who writes its address, that have not come to anything yet."
    ]
    ike_error: Annotated[
        str, "Why there is no connection, or what keeps it from being shown; empty: there is one, or none was wanted."
    ]
    ike_faults: Annotated[
        int,
        "How often a fault of fwd's own has ended an IKE SA, or the peering's IKE, since keyd began; the log has more.",
        gauge("fwd_ike_faults"),
    ]
    ike_failures: Annotated[
        dict[str, int],
        "What attempts to authenticate, or to make an SA, have failed by since keyd began: every reason → count.",
        counter("fwd_ike_failures", "reason"),
    ]
    ike_concern: Annotated[
        str, "Why members will soon have nothing to send on, or have nothing now; also in `warnings` and `reasons`."
    ]
    certificates: Annotated[Certificates, "The certificates of both gateways."]
    members_refused: Annotated[dict[str, str], "Members that the far side gives no Child SA → its reason."]
    narrower: Annotated[dict[str, Narrower], "Members whose SAs carry less than is configured → what they carry."]
    icmp_errors: Annotated[
        dict[str, int],
        "ICMP errors of routers outside the selectors that passed, since the packet that they quote is the peering's: "
        "`out` and `in` → count.",
        counter("fwd_icmp_errors", "direction"),
    ] = field(default_factory=dict)
    drops: Annotated[
        dict[str, int], "What was dropped, by reason: every reason → count.", counter("fwd_drops", "reason")
    ]
    books: Annotated[Books, "The books."]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """What holds for the whole process tree."""

    __pydantic_config__ = STRICT

    pid: Annotated[int, "The supervisor's process number."]
    uptime_s: Annotated[float, "Seconds since the gateway started.", gauge("fwd_uptime_seconds")]
    control: Annotated[str, "The control socket."]
    users: Annotated[dict[str, int], "Number of the user that each kind of process runs as."] = field(
        default_factory=dict
    )
    trial_until: Annotated[
        int | None,
        "When the configuration on trial goes unless `fwd confirm` comes, in seconds since 1970; null: there is none.",
        gauge("fwd_trial_until_seconds"),
    ] = None
    core: Annotated[
        Literal["compiled", "pure"],
        "What members seal and open packets with: `compiled`, the core, or `pure` Python: no core was built, it does "
        "not load, or `FWD_PURE=1` is set.",
        gauge("fwd_core_compiled", one="compiled"),
    ] = "pure"
    cipher: Annotated[
        str,
        "The library that does AES-GCM for members, and its version: ipsec-mb, with the CPU's instructions that it "
        "uses, or OpenSSL.",
    ] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beacon:
    """What the beacon has been asked by routers of this VPC."""

    __pydantic_config__ = STRICT

    answered: Annotated[int, "Probes of routers that were answered.", counter("fwd_beacon_answered")]
    refused: Annotated[
        int, "Datagrams that were not answered: no probes, or not made with the key.", counter("fwd_beacon_refused")
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Which of the controller's documents it is; what is higher is newer."""

    __pydantic_config__ = STRICT

    term: Annotated[int, "Goes up with each leader of the controllers, and each start of one that is alone."]
    generation: Annotated[int, "Goes up with each change."]


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller:
    """How the gateway stands with the controller that it has joined (`fwd join`)."""

    __pydantic_config__ = STRICT

    url: Annotated[str, "Where it is."]
    name: Annotated[str, "What this gateway is called there."]
    connected: Annotated[bool, "Whether it answers.", gauge("fwd_controller_connected")]
    connected_s: Annotated[float | None, "Seconds since it answers without a break; null: it does not."]
    heard_s: Annotated[
        float | None,
        "Seconds since its last answer; null: none since link began.",
        gauge("fwd_controller_heard_age_seconds"),
    ]
    error: Annotated[str, "What went wrong last with the connection; empty: all is well."]
    clock_s: Annotated[float, "How far this host's clock is behind the controller's, in seconds."]
    applied: Annotated[Order | None, "The document in force; null: none yet."]
    newest: Annotated[Order | None, "The newest one that the controller has; null: not known."]
    held: Annotated[Order | None, "The one that waits for `fwd apply --accept-shrink`; null: none does."]
    held_why: Annotated[str, "Why it is held."]
    refused: Annotated[str, "What was refused last, and why; empty: nothing since a document was taken."]
    link_until: Annotated[
        int | None,
        "When the certificate ends by which link connects, in seconds since 1970; null: not known.",
        gauge("fwd_controller_certificate_until_seconds"),
    ]
    ike_until: Annotated[
        int | None, "When that ends by which IKE authenticates to far gateways of the controller's; null: not known."
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """All that a gateway says of itself, at one moment."""

    __pydantic_config__ = STRICT

    schema: Annotated[int, "Raised when a key changes its meaning or goes; new keys may come without that."] = SCHEMA
    version: Annotated[str, "Version of fwd."]
    gateway: Annotated[Gateway, "The supervisor."]
    ready: Annotated[
        bool,
        "Whether a packet of every pair of subnets would pass, as far as this gateway can know.",
        gauge("fwd_ready"),
    ]
    not_ready: Annotated[list[str], "What `ready` waits for, one line each: the texts of `reasons`."]
    reasons: Annotated[list[Reason], "Why it is not ready, for programs, and what to do."] = field(default_factory=list)
    warnings: Annotated[
        list[str],
        "What was found wrong at the start and could be lived with; what of the configuration is not in force, and why "
        "(secrets of before that stay, members that cannot come), or has no effect on this host (low_latency); what "
        "went wrong in the last 15 s and is tried again.",
    ]
    processes: Annotated[list[SharedProcess], "keyd, the agent, and the beacon and link if there are any."]
    beacon: Annotated[Beacon | None, "What routers have asked; null: there is no beacon."] = None
    controller: Annotated[Controller | None, "The controller; null: this gateway has none."] = None
    peerings: Annotated[list[Peering], "The peerings, in the order of the configuration."]

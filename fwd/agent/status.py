"""The gateway's status (model/status.py), filled from shared memory.

Reads and nothing else: it works whatever state the other processes are in, and it takes no locks. Members are read
before the demux, so that on a busy gateway the books err towards records that are still waiting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fwd import __version__
from fwd.agent import ike, readiness
from fwd.agent.controller import controller_of, is_joined
from fwd.agent.view import GatewayView, PeeringView, TunLink
from fwd.datapath.clock import boot_s
from fwd.datapath.counters import BeaconCounter, DemuxCounter, MemberCounter
from fwd.datapath.ring import SEGMENTS, RingWords
from fwd.datapath.shared import LinkWord, MaskWord, MemberShared, ProcessState, ProcessWords
from fwd.datapath.tun import TUN_FLAGS
from fwd.model.pairing import Far
from fwd.model.shown import as_json
from fwd.model.status import (
    Beacon,
    Books,
    Certificates,
    ChildSa,
    Demux,
    FarGateway,
    Gateway,
    IkeSa,
    LedgerEntry,
    Member,
    Narrower,
    Offloads,
    Peering,
    SharedProcess,
    Status,
    Traffic,
)
from fwd.proto import core
from fwd.proto.drops import KERNEL_COUNTED, DropReason, Stage, Unit

Json = dict[str, Any]
_RTT_US_MAX = 10**9


def collect(view: GatewayView, now_ns: int, tuns: Mapping[str, TunLink] | None = None) -> Json:
    """Return the status as JSON has it; arguments as of `status_of`."""
    told: Json = as_json(status_of(view, now_ns, tuns))
    return told


def status_of(view: GatewayView, now_ns: int, tuns: Mapping[str, TunLink] | None = None) -> Status:
    """Return the status at `now_ns` (monotonic); `tuns`: the TUN devices, if not as the supervisor tells them."""
    news, told = readiness.news_of(view), readiness.told_of(view)
    if tuns is None:
        tuns = {name: TunLink(*seen) for name, seen in news.get("tuns", {}).items()}
    reasons = readiness.reasons(view, news, told, now_ns / 1e9)
    beacon = _beacon(view)

    # Why it is not ready is said once, and read from there by all.
    return Status(
        version=__version__,
        gateway=Gateway(
            pid=view.pid,
            uptime_s=round((now_ns - view.started_ns) / 1e9, 3),
            control=str(view.gateway.control),
            users=dict(view.users),
            trial_until=news.get("trial_until"),
            core=core.name(),
            cipher=core.library_name(),
        ),
        ready=not reasons,
        not_ready=[one.line for one in reasons],
        reasons=reasons,
        warnings=[
            *(warning for one in view.peerings for warning in one.warnings),
            *_concerns(told),
            *([str(news["concern"])] if news.get("concern") else []),
            *(f"{name}: {why}" for name, why in news.get("behind", {}).items()),
            *(f"{name}: {why}" for name, why in news.get("troubles", {}).items() if not _is_told(name, why, news)),
        ],
        processes=[
            SharedProcess(name="keyd", **_process(view.shared.keyd, now_ns)),
            SharedProcess(name="agent", **_process(view.shared.agent, now_ns)),
            *([SharedProcess(name="beacon", **_process(view.shared.beacon, now_ns))] if beacon else []),
            *([SharedProcess(name="link", **_process(view.shared.link, now_ns))] if is_joined(view) else []),
        ],
        beacon=beacon,
        controller=controller_of(view.shared, news, now_ns / 1e9),
        peerings=[
            _peering(one, now_ns, tuns.get(one.config.tun), told.get(one.config.name, ike.Told()))
            for one in view.peerings
        ],
    )


def _concerns(told: Mapping[str, ike.Told]) -> Iterator[str]:
    """Yield what keyd warns of, certificates first."""
    for name, of in told.items():
        yield from (f"{name}: {finding}" for finding in (of.certificates.findings if of.certificates else ()))
    yield from (f"{name}: {of.concern}" for name, of in told.items() if of.concern)


def _is_told(name: str, why: str, news: Mapping[str, Any]) -> bool:
    """Whether a trouble is the reason why a peering is open otherwise than is wanted, and so told by that."""
    return str(news.get("behind", {}).get(name, "")).endswith(why)


def _beacon(view: GatewayView) -> Beacon | None:
    if view.shared.beacon.state is ProcessState.STOPPED:
        return None
    counted = view.shared.beacon_counters.read()
    return Beacon(answered=counted[BeaconCounter.ANSWERED], refused=counted[BeaconCounter.REFUSED])


# -- a peering ----------------------------------------------------------------------------------------------------


def _peering(view: PeeringView, now_ns: int, tun: TunLink | None, told: ike.Told) -> Peering:
    config, shared = view.config, view.shared
    tun = tun or TunLink(view.inner_mtu_bytes, 0)

    # Members before the demux: see the module.
    n = len(members_of(view))
    counted = [member.counters.read() for member in shared.members[:n]]
    demux = shared.demux_counters.read()
    buckets = np.bincount(shared.owners, minlength=n)[:n].tolist()

    # Sums never go back: members that have left are in them.
    everybody = [*counted, shared.left.read()[0]]
    drops = {reason: sum(counters[reason] for counters in (demux, *everybody)) for reason in DropReason}
    drops[DropReason.TUN_QUEUE_FULL] += tun.queue_drops

    return Peering(
        name=config.name,
        payload=config.payload,
        keys=config.keys.source,
        tun=config.tun,
        tun_mtu=tun.mtu_bytes,
        local_addrs=str(config.local_addrs),
        remote_addrs=config.where,
        local_ts=[str(subnet) for subnet in config.local_ts],
        remote_ts=[str(subnet) for subnet in config.remote_ts],
        offloads=_offloads(view),
        demux=Demux(
            **_process(shared.demux, now_ns),
            records=demux[DemuxCounter.RECORDS] + _sum(everybody, MemberCounter.READ_RECORDS),
            bytes=demux[DemuxCounter.BYTES] + _sum(everybody, MemberCounter.READ_BYTES),
        ),
        members=[_member(view, i, counted[i], buckets[i], now_ns) for i in range(n)],
        far=[_far(view, far, told, now_ns / 1e9) for far in config.fars],
        icmp_errors={
            "out": demux[DemuxCounter.ICMP_ERRORS] + _sum(everybody, MemberCounter.READ_ICMP_ERRORS),
            "in": _sum(everybody, MemberCounter.IN_ICMP_ERRORS),
        },
        drops={reason.label: count for reason, count in drops.items()},
        books=_books(view, demux, everybody, drops),
        **_ike(told, lab=config.ike is None),
    )


def _far(view: PeeringView, far: Far, told: ike.Told, now: float) -> FarGateway:
    members = far.members(len(view.shared.members))
    of_keyd = next((one for one in told.far if one.number == far.number), ike.FarTold())
    carries = any(readiness.carries(view.shared.members[i], now) for i in members)
    return FarGateway(
        address=str(far.address),
        members=list(members),
        state="up" if carries else "down",
        established=None if view.config.ike is None else of_keyd.established,
        error=of_keyd.error,
    )


def _ike(told: ike.Told, *, lab: bool) -> dict[str, Any]:
    """What keyd tells of a peering, as the keys of the same names."""
    return {
        "ike_sas": [_ike_sa(sa) for sa in told.sas],
        "ike_half_open": told.half_open,
        "ike_error": told.error,
        "ike_faults": told.faults,
        "ike_failures": {} if lab else told.failures_by_reason,
        "ike_concern": told.concern,
        "certificates": Certificates(**dict(told.certificates or ())),
        "members_refused": told.refused,
        "narrower": {index: Narrower(**dict(held)) for index, held in told.narrower.items()},
    }


def _ike_sa(sa: ike.IkeSa) -> IkeSa:
    shown = sa.shown(boot_s())
    return IkeSa(**{**shown, "children": [ChildSa(**child) for child in shown["children"]]})


def _offloads(view: PeeringView) -> Offloads:
    """Return what is in force; an egress may refuse segmentation only once packets are sent, to some members."""
    in_force, refused = view.offloads.in_force, dict(view.offloads.refused)
    far = view.shared.far_offloads
    if far is not None:
        declined = [name for name in in_force if TUN_FLAGS.get(name, far) & far == 0]
        in_force = [name for name in in_force if name not in declined]
        refused |= dict.fromkeys(declined, "the far gateway does not take it")

    members = view.shared.members
    refusers = [i for i, member in enumerate(members) if member.link[LinkWord.GSO_REFUSED]]
    if refusers:
        refused["udp-gso"] = f"refused on sending, to member {', '.join(map(str, refusers))}"
    if len(refusers) == len(members):
        in_force = [name for name in in_force if name != "udp-gso"]
    return Offloads(in_force=in_force, refused=refused)


def members_of(view: PeeringView) -> list[MemberShared]:
    """Return the members that there are: of one that has just left, the sums say so first."""
    there = view.shared.left.read()[1]
    return view.shared.members[: there or None]


# -- a member -----------------------------------------------------------------------------------------------------


def _member(view: PeeringView, index: int, counters: list[int], buckets: int, now_ns: int) -> Member:
    member, ring = view.shared.members[index], view.rings[index]
    link, c = member.link, MemberCounter

    # In the order of its fields: the process, its path and SAs, its ring, and what it has counted.
    return Member(
        index=index,
        **_process(member.process, now_ns),
        incarnation=member.process.incarnation,
        port=view.config.port_of(index),
        peer=_endpoint(member.peer.get()),
        path="down" if member.path_down else "up",
        path_mtu=member.path_mtu,
        row_bytes=link[LinkWord.CHUNK],
        spi_out=_spi(link[LinkWord.SPI_OUT]) if link[LinkWord.SPI_OUT] else None,
        spis_in={_spi(spi): highest for spi, highest in member.slots.heard().items()},
        buckets=buckets,
        draining=_drains(view, index, buckets),
        loss=member.loss,
        rtt_ms=_rtt_ms(member),
        ring_waiting=max(0, ring.head - ring.done),
        echoes_sent=counters[c.ECHOES_SENT],
        echoes_answered=counters[c.ECHOES_ANSWERED],
        out=_traffic(counters, c.OUT_RECORDS, c.OUT_BYTES, c.OUT_ESP, c.OUT_ESP_BYTES),
        in_=_traffic(counters, c.IN_RECORDS_OK, c.IN_BYTES, c.IN_ESP, c.IN_ESP_BYTES),
        ledger=_ledger(member),
    )


def _rtt_ms(member: MemberShared) -> float | None:
    """Return how long answers took lately, whatever the member says; None: it is not known, or holds no more."""
    rtt_us: int = min(member.link[LinkWord.RTT_US], _RTT_US_MAX)
    return None if member.path_down or not rtt_us else round(rtt_us / 1000, 3)


def _drains(view: PeeringView, index: int, buckets: int) -> bool:
    """Return whether a member gets no more buckets; one that has none for want of a partner only waits."""
    told: int = view.shared.live[MaskWord.DRAINING]
    return bool(told >> index & 1) and (buckets > 0 or index not in view.config.staying)


def _traffic(counters: list[int], records: int, octets: int, esp: int, esp_octets: int) -> Traffic:
    return Traffic(
        records=counters[records],
        bytes=counters[octets],
        esp_packets=counters[esp],
        esp_bytes=counters[esp_octets],
    )


def _ledger(member: MemberShared) -> list[LedgerEntry]:
    return [
        LedgerEntry(incarnation=entry.incarnation, spi=_spi(entry.spi), first=entry.first, last=entry.last)
        for entry in member.ledger.entries()
    ]


def _process(words: ProcessWords, now_ns: int) -> dict[str, Any]:
    """Return the keys of every process."""
    row = words.get()
    age_ms = max(0, now_ns - row.heartbeat_ns) // 1_000_000 if row.heartbeat_ns else None
    return {"state": readiness.STATES[row.state], "pid": row.pid, "restarts": row.restarts, "heartbeat_age_ms": age_ms}


def _endpoint(address: tuple[str, int] | None) -> str | None:
    """Return the far address as learned; None while it is the configured one."""
    if address is None:
        return None
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _spi(spi: int) -> str:
    return f"{spi:#010x}"


# -- the books ----------------------------------------------------------------------------------------------------


def _books(view: PeeringView, demux: list[int], members: Sequence[list[int]], drops: Mapping[DropReason, int]) -> Books:
    """Return both sides of the identities of rule 5; equal when nothing is under way.

    `members`: what they have counted, and after them what those that have left had.
    """
    # What is on its way within members: taken from the socket, or read from a queue of their own, and not counted yet.
    there = list(zip(view.rings, view.shared.members, members[:-1], strict=False))
    under_way = (member.link[LinkWord.RX_TAKEN] - counters[MemberCounter.IN_ESP] for _, member, counters in there)
    held = sum(
        max(0, member.link[LinkWord.QUEUE_READ] - counters[MemberCounter.READ_RECORDS]) for _, member, counters in there
    )

    # What is held has come in, and waits.
    return Books(
        out_records_in=demux[DemuxCounter.RECORDS] + _sum(members, MemberCounter.READ_RECORDS) + held,
        out_records_out=_sum(members, MemberCounter.OUT_RECORDS),
        out_drops=_lost(drops, "record", "demux", "outbound"),
        out_waiting=sum(
            _waiting(ring, counters[MemberCounter.DONE], demux[DemuxCounter.HEADS + i])
            for i, (ring, _, counters) in enumerate(there)
        )
        + held,
        out_esp_sent=_sum(members, MemberCounter.OUT_ESP),
        in_esp_in=_sum(members, MemberCounter.IN_ESP),
        in_esp_ok=_sum(members, MemberCounter.IN_ESP_OK),
        in_esp_drops=_lost(drops, "esp", "inbound"),
        in_esp_waiting=max(0, sum(under_way)),
        in_records_in=_sum(members, MemberCounter.IN_RECORDS),
        in_records_out=_sum(members, MemberCounter.IN_RECORDS_OK),
        in_drops=_lost(drops, "record", "inbound"),
    )


def _sum(members: Sequence[list[int]], counter: MemberCounter) -> int:
    return sum(counters[counter] for counters in members)


def _lost(drops: Mapping[DropReason, int], unit: Unit, *stages: Stage) -> int:
    """Sum what fwd itself has dropped, of one unit, in `stages`."""
    return sum(
        count
        for reason, count in drops.items()
        if reason.unit == unit and reason.stage in stages and reason not in KERNEL_COUNTED
    )


def _waiting(ring: RingWords, done: int, head: int) -> int:
    """Count the records in segments that the demux has counted and the member has not."""
    return sum(ring.records(number) for number in range(max(done, head - SEGMENTS), head))

"""The gateway's status as one JSON object, collected from shared memory; docs/status.md explains every key.

Reads and nothing else: it works whatever state the other processes are in, and it takes no locks. Members are read
before the demux, so that on a busy gateway the books err towards records that are still waiting.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fwd import __version__
from fwd.agent import ike
from fwd.agent.client import SCHEMA
from fwd.agent.view import GatewayView, PeeringView, TunLink
from fwd.datapath.counters import DemuxCounter, MemberCounter
from fwd.datapath.ring import SEGMENTS, RingWords
from fwd.datapath.shared import LinkWord, MemberShared, ProcessRow, ProcessState, ProcessWords
from fwd.datapath.tun import TUN_FLAGS
from fwd.model.reasons import Code, Reason, from_json
from fwd.proto.drops import KERNEL_COUNTED, DropReason, Stage, Unit

Json = dict[str, Any]


def collect(view: GatewayView, now_ns: int, tuns: Mapping[str, TunLink] | None = None) -> Json:
    """The status at `now_ns` (monotonic); `tuns`: the TUN devices, if not as the supervisor tells them."""
    news = json.loads(view.shared.troubles.get() or b"{}")
    if tuns is None:
        tuns = {name: TunLink(*seen) for name, seen in news.get("tuns", {}).items()}
    peerings = [_peering(peering, now_ns, tuns.get(peering.config.tun)) for peering in view.peerings]
    told = ike.read(view.shared.ike.get(), [p.config.name for p in view.peerings if p.config.ike])
    for peering in peerings:
        of = told.get(peering["name"], ike.Told())
        peering["ike_sas"] = [sa.model_dump() for sa in of.sas]
        peering["ike_half_open"] = of.half_open
        peering["ike_error"] = of.error
        peering["ike_faults"] = of.faults
        peering["ike_failures"] = of.failures_by_reason if peering["keys"] != "lab" else {}
        peering["certificates"] = of.certificates.model_dump() if of.certificates else {}
        peering["ike_concern"] = of.concern
        peering["members_refused"] = of.refused
        peering["narrower"] = {index: held.model_dump() for index, held in of.narrower.items()}
    processes = [
        {"name": "keyd", **_process(view.shared.keyd, now_ns)},
        {"name": "agent", **_process(view.shared.agent, now_ns)},
    ]
    reasons = [
        *_not_running(processes[:1], ""),
        *(Reason.of(Code.NOT_SET_UP, name, why=why) for name, why in news.get("waiting", {}).items()),
        *(from_json(one) for one in news.get("reasons", ())),
        *(one for p in peerings for one in _peering_not_ready(p)),
    ]
    return {
        "schema": SCHEMA,
        "version": __version__,
        "gateway": {
            "pid": view.pid,
            "uptime_s": round((now_ns - view.started_ns) / 1e9, 3),
            "control": str(view.gateway.control),
            "users": dict(view.users),
        },
        "ready": not reasons,
        "not_ready": [one.line for one in reasons],
        "reasons": [one.as_json() for one in reasons],
        "warnings": [
            *view.warnings,
            *_of_certificates(peerings),
            *(f"{p['name']}: {p['ike_concern']}" for p in peerings if p["ike_concern"]),
            *(f"{name}: {reason}" for name, reason in news.get("troubles", {}).items()),
        ],
        "processes": processes,
        "peerings": peerings,
    }


def _of_certificates(peerings: Iterable[Json]) -> list[str]:
    return [f"{p['name']}: {finding}" for p in peerings for finding in p["certificates"].get("findings", ())]


def _peering(view: PeeringView, now_ns: int, tun: TunLink | None) -> Json:
    config, shared = view.config, view.shared
    tun = tun or TunLink(view.inner_mtu_bytes, 0)
    counted = [member.counters.read() for member in shared.members]
    demux = shared.demux_counters.read()
    n = len(shared.members)
    buckets = np.bincount(shared.owners, minlength=n)[:n].tolist()
    drops = {reason: sum(counters[reason] for counters in (demux, *counted)) for reason in DropReason}
    drops[DropReason.TUN_QUEUE_FULL] += tun.queue_drops
    return {
        "name": config.name,
        "payload": config.payload,
        "keys": config.keys.source,
        "tun": config.tun,
        "tun_mtu": tun.mtu_bytes,
        "local_addrs": str(config.local_addrs),
        "remote_addrs": str(config.remote_addrs),
        "local_ts": [str(subnet) for subnet in config.local_ts],
        "remote_ts": [str(subnet) for subnet in config.remote_ts],
        "offloads": _offloads(view),
        "demux": {
            **_process(shared.demux, now_ns),
            "records": demux[DemuxCounter.RECORDS],
            "bytes": demux[DemuxCounter.BYTES],
        },
        "members": [_member(view, i, counted[i], buckets[i], now_ns) for i in range(n)],
        "icmp_errors": {
            "out": demux[DemuxCounter.ICMP_ERRORS],
            "in": sum(counters[MemberCounter.IN_ICMP_ERRORS] for counters in counted),
        },
        "drops": {reason.label: count for reason, count in drops.items()},
        "books": _books(view, demux, counted, drops),
    }


def _member(view: PeeringView, index: int, counters: list[int], buckets: int, now_ns: int) -> Json:
    member, ring = view.shared.members[index], view.rings[index]
    link, c = member.link, MemberCounter
    return {
        "index": index,
        **_process(member.process, now_ns),
        "incarnation": member.process.incarnation,
        "port": view.config.port_of(index),
        "peer": _endpoint(member.peer.get()),
        "path": "down" if member.path_down else "up",
        "path_mtu": member.path_mtu,
        "spi_out": _spi(link[LinkWord.SPI_OUT]) if link[LinkWord.SPI_OUT] else None,
        "spis_in": {_spi(spi): highest for spi, highest in member.slots.heard().items()},
        "buckets": buckets,
        "ring_waiting": max(0, ring.head - ring.done),
        "out": _traffic(counters, c.OUT_RECORDS, c.OUT_BYTES, c.OUT_ESP, c.OUT_ESP_BYTES),
        "in": _traffic(counters, c.IN_RECORDS_OK, c.IN_BYTES, c.IN_ESP, c.IN_ESP_BYTES),
        "ledger": _ledger(member),
    }


def _traffic(counters: list[int], records: int, octets: int, esp: int, esp_octets: int) -> Json:
    return {
        "records": counters[records],
        "bytes": counters[octets],
        "esp_packets": counters[esp],
        "esp_bytes": counters[esp_octets],
    }


def _ledger(member: MemberShared) -> list[Json]:
    return [
        {"incarnation": entry.incarnation, "spi": _spi(entry.spi), "first": entry.first, "last": entry.last}
        for entry in member.ledger.entries()
    ]


def _books(view: PeeringView, demux: list[int], members: list[list[int]], drops: Mapping[DropReason, int]) -> Json:
    """Both sides of the identities of design rule 5, one way after the other; equal when nothing is under way."""

    def total(counter: MemberCounter) -> int:
        return sum(counters[counter] for counters in members)

    def lost(unit: Unit, *stages: Stage) -> int:
        return sum(
            count
            for reason, count in drops.items()
            if reason.unit == unit and reason.stage in stages and reason not in KERNEL_COUNTED
        )

    taken = sum(member.link[LinkWord.RX_TAKEN] for member in view.shared.members)
    return {
        "out_records_in": demux[DemuxCounter.RECORDS],
        "out_records_out": total(MemberCounter.OUT_RECORDS),
        "out_drops": lost("record", "demux", "outbound"),
        "out_waiting": sum(
            _waiting(ring, counters[MemberCounter.DONE], demux[DemuxCounter.HEADS + i])
            for i, (ring, counters) in enumerate(zip(view.rings, members, strict=True))
        ),
        "out_esp_sent": total(MemberCounter.OUT_ESP),
        "in_esp_in": total(MemberCounter.IN_ESP),
        "in_esp_ok": total(MemberCounter.IN_ESP_OK),
        "in_esp_drops": lost("esp", "inbound"),
        "in_esp_waiting": max(0, taken - total(MemberCounter.IN_ESP)),
        "in_records_in": total(MemberCounter.IN_RECORDS),
        "in_records_out": total(MemberCounter.IN_RECORDS_OK),
        "in_drops": lost("record", "inbound"),
    }


def _waiting(ring: RingWords, done: int, head: int) -> int:
    """Records in segments that the demux has counted and the member has not."""
    return sum(ring.records(number) for number in range(max(done, head - SEGMENTS), head))


def _offloads(view: PeeringView) -> Json:
    """What is in force; an egress may refuse segmentation only once packets are sent, to some members."""
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
    return {"in_force": in_force, "refused": refused}


def _process(words: ProcessWords, now_ns: int) -> Json:
    row: ProcessRow = words.get()
    age_ms = max(0, now_ns - row.heartbeat_ns) // 1_000_000 if row.heartbeat_ns else None
    return {
        "state": row.state.name.lower(),
        "pid": row.pid,
        "restarts": row.restarts,
        "heartbeat_age_ms": age_ms,
    }


def _endpoint(address: tuple[str, int] | None) -> str | None:
    """The far address as learned; None while it is the configured one."""
    if address is None:
        return None
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _spi(spi: int) -> str:
    return f"{spi:#010x}"


def _not_running(processes: Iterable[Json], peering: str) -> list[Reason]:
    running = ProcessState.RUNNING.name.lower()
    return [
        Reason.of(Code.PROCESS, peering, what=p["name"], state=p["state"]) for p in processes if p["state"] != running
    ]


def _peering_not_ready(peering: Json) -> list[Reason]:
    name, running = peering["name"], ProcessState.RUNNING.name.lower()
    refused = peering["members_refused"]  # the far side has fewer: no fault of theirs, unless it is so with all
    if all(m["spi_out"] is None for m in peering["members"]):
        refused = {}
    error = peering["ike_error"] if peering["ike_error"] not in (ike.NOTHING, ike.UNREADABLE) else ""
    why = peering["ike_concern"] or error
    members = [{"name": f"member {m['index']}", **m} for m in peering["members"] if str(m["index"]) not in refused]
    bare = [m["name"] for m in members if m["spi_out"] is None and m["state"] == running]
    return [
        *_not_running([{"name": "demux", **peering["demux"]}, *members], name),
        *(Reason.of(Code.NO_CHILD_SA, name, what=one, why=f": {why}" if why else "") for one in bare),
        *_narrower(name, peering["narrower"]),
    ]


def _narrower(peering: str, members: Json) -> list[Reason]:
    """Which subnets do not wholly pass, one reason for all members that carry the same."""
    alike: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for index, held in members.items():
        carried = " - ".join(", ".join(held[key]) for key in ("local", "remote"))
        alike.setdefault((tuple(held["not_wholly"]), carried), []).append(index)
    return [
        Reason.of(
            Code.NARROWER,
            peering,
            pairs,
            what=f"member {', '.join(indices)}",
            not_wholly=", ".join(pairs),
            carried=carried,
        )
        for (pairs, carried), indices in alike.items()
    ]

"""One made-up full result of every part, whole, sane, and good enough for every target."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fwd.bench import paper, sanity
from fwd.bench.result import SCHEMA, figure

Json = dict[str, Any]
PARTS = ("peers", "scale", "micro", "costs", "failover", "profile")
_UNITS = {"tcp": "Mbit/s", "udp": "packets/s", "ping": "ms", "loss": "share", "http": "requests/s", "cpu": "s/GB"}
_GOOD = {"tcp": 2000.0, "udp": 90e3, "ping": 0.5, "loss": 0.9, "http": 5000.0, "cpu": 3.0}
_WORSE = {"tcp": 7.0, "udp": 3.0, "ping": 1.0, "loss": 1.5, "http": 2.0, "cpu": 2.0}  # how much worse every peer is


def spread(median: float, unit: str) -> Json:
    return figure([median * 0.95, median, median * 1.05], unit)


def results() -> dict[str, Json]:
    """By part; the caller may change them."""
    made: dict[str, Json] = json.loads(json.dumps({part: {**_head(part), **body()} for part, body in _BODIES.items()}))
    return made


def store(out: Path, **changed: Json) -> None:
    """Write all parts, some of them changed, as a bench would have."""
    out.mkdir(parents=True, exist_ok=True)
    for part, result in {**results(), **changed}.items():
        (out / f"{part}.json").write_text(json.dumps(result))


def _head(part: str) -> Json:
    where = {
        "cpu": "Some CPU", "cores": 2, "kernel": "6.18", "machine": "x86_64", "python": "3.11.2",
        "libraries": {"numpy": "2.0"}, "fwd": "0.1.0", "commit": "abcdef012345",
    }  # fmt: skip
    return {"schema": SCHEMA, "part": part, "quick": False, "environment": where, "seconds": 12.3}


def _peers() -> Json:
    versions = ("openvpn-2.6", "openvpn-2.7", "wireguard-go-2022", "wireguard-go-2025")
    measurements: dict[str, Json] = {}
    ratios: dict[str, Json] = {}
    for kind in sanity.KINDS:
        what = kind.partition("-")[0]
        ours, unit = _GOOD[what], _UNITS[what]
        theirs = ours * _WORSE[what] if what in ("ping", "cpu") else ours / _WORSE[what]
        measurements[kind] = {"fwd": spread(ours, unit)}
        measurements[kind] |= {peer: spread(theirs, unit) for peer in ("strongswan", *versions)}
        ratios[kind] = {p: spread(ours / theirs, "ratio") for p in ("strongswan", *versions)}
        if what == "tcp":
            measurements[kind] |= {"fwd-esp": spread(900, unit), "plain": spread(18e3, unit)}
            for more in ("esp", "pure"):
                ratios[f"{more}-{kind}"] = dict.fromkeys(("strongswan", "wireguard-go-2025"), spread(3, "ratio"))
    measurements["ping-idle-p50"]["fwd-low-latency"] = spread(0.4, "ms")
    names = ("fwd", "fwd-esp", "fwd-pure", "strongswan", *versions, "plain")
    return {
        "rounds": 3,
        "peers": {name: {"version": "1", "settings": "AES-256-GCM", "source": "installed"} for name in names},
        "unfetched": "",
        "measurements": measurements,
        "ratios": ratios,
        "retransmits": {f"tcp-{n}": {name: figure([0, 17, 3], "segments") for name in names} for n in (1, 4, 16)},
        "unanswered": {
            f"ping-{load}": {name: figure([0.0], "share lost") for name in names} for load in ("idle", "loaded")
        },
        "cpu": {name: {"gw1 daemon": spread(5, "s/GB"), "gw1 idle": figure([0.0], "s/GB")} for name in names},
    }


def _scale() -> Json:
    line = [
        {"members": n, "mbps": spread(99.0 * min(n, 5), "Mbit/s"), "ideal_mbps": 100 * min(n, 5),
         "share_of_ideal": spread(0.99, "share"),
         "busy": {"mbps": spread(98.0 * min(n, 5), "Mbit/s"), "share_of_ideal": spread(0.98, "share")}}
        for n in range(1, 9)
    ]  # fmt: skip
    pairs = [
        {"pairs": n, "mbps": spread(99.0 * n, "Mbit/s"), "ideal_mbps": 100 * n, "share_of_ideal": spread(0.99, "share"),
         "delivered_mbps": spread(91.0 * n, "Mbit/s")}
        for n in range(1, 6)
    ]  # fmt: skip
    keys = {"gbps_sealed": "Gbit/s", "gbps_opened": "Gbit/s"}
    cores = [
        {"members": n, **{key: spread(5.0 * n, unit) for key, unit in keys.items()},
         "efficiency_sealed": spread(0.9, "share"), "efficiency_opened": spread(0.9, "share"),
         "demux_share": spread(0.1, "share")}
        for n in (1, 2)
    ]  # fmt: skip
    return {
        "line": {"cap_mbps": 100, "line_mbps": 500, "streams": 64, "points": line},
        "cores": {"points": cores},
        "pairs": {"cap_mbps": 100, "line_mbps": 500, "streams": 64, "payload": "superpacket", "points": pairs},
    }


def _micro() -> Json:
    names = ("seal", "open", "ring", "pin", "assemble", "replay")
    pair = {"ours_us": spread(50, "us"), "floor_us": spread(45, "us"), "of_floor": spread(0.9, "ratio"), "what": "bare"}
    return {"pairs": dict.fromkeys(names, pair)}


def _costs() -> Json:
    sizes = {"small_us": spread(2, "us"), "large_us": spread(15, "us")}
    point = {way: {"gbps": 12.3, "full": full} for way, full in (("demux", "demux"), ("kernel", "sending members"))}
    held = {"computed_gbps": spread(8, "Gbit/s"), "gbps": spread(8, "Gbit/s"), "of_computed": spread(1, "ratio")}
    form = {
        "steps": dict.fromkeys(paper.STEPS, sizes),
        "fit": {step: {"record_us": 2.0, "octet_ns": 0.2} for step in paper.STEPS},
        "points": [{"cores": cores, **point} for cores in paper.CORES],
        "shared": [{"cores": cores, "sealed": held, "opened": held} for cores in (1, 2)],
    }
    return {"acks_per_record": 0.67, "forms": {"compiled": form, "pure": form}}


def _failover() -> Json:
    def gaps(values: list[float]) -> Json:
        return {"p50": values[1], "p90": values[2], "p99": values[2], "max": values[2], "values": values}

    return {
        "members": 4, "streams": 8, "kill_every_s": 1.0, "kills": 3, "gaps_ms": gaps([60.0, 80.0, 120.0]),
        "quiet_gaps_ms": gaps([10.0, 20.0, 30.0]), "tcp_resets": 0, "retransmits": 17, "sent_probes": 1000,
        "lost_probes": 3, "received_mbps": 1500.0,
    }  # fmt: skip


def _profile() -> Json:
    stage = {"stage": "seal", "where": "user", "direction": "out", "share": 0.6, "us_per_record": 30.0}
    process = {"cores": 0.5, "user": 0.7, "system": 0.3, "record_bytes": 30000}
    sampled = {"samples": 900, "waiting": 0.2, "stages": [stage]}
    return {
        "members": 2, "streams": 16, "delivered_mbps": spread(2000, "Mbit/s"), "sampler": "py-spy",
        "processes": {
            f"{host} {name}": {**process, **sampled} for host in ("gw1", "gw2") for name in ("demux", "member 0")
        },
        "demux_share": spread(0.15, "share"),
        "jumbo": {
            "members": 2, "streams": 4, "ratio": spread(1.7, "ratio"),
            "mbps": {"9000": spread(3400, "Mbit/s"), "1500": spread(2000, "Mbit/s")},
        },
    }  # fmt: skip


_BODIES = {
    "peers": _peers,
    "scale": _scale,
    "micro": _micro,
    "costs": _costs,
    "failover": _failover,
    "profile": _profile,
}

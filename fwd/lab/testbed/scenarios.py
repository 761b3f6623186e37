"""What the testbed must show, scenario after scenario, in order: they share one bed, and the last ones replace its
gateways. A scenario is given the `Bed`, returns its figures, and fails by an exception whose text is the reason.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Final

from fwd.lab import traffic
from fwd.lab.scenario import Failed, Figures, Scenario
from fwd.lab.testbed import logs, observe
from fwd.lab.testbed.bed import GATEWAYS, IPV6, OUTER, Bed, Felt
from fwd.lab.testbed.containers import PEERING
from fwd.lab.testbed.engine import PROJECT
from fwd.lab.verdict import GAP_LIMIT_MS
from fwd.lab.waiting import until

READY_S: Final = 5.0  # of both gateways after `up`
SILENCE_S: Final = 15.0  # while gw1 is started anew, on a busy machine; TCP waits up to twice as long as it takes
_RESTART_LOAD_S: Final = 20  # longer than that
IMAGE_MIB: Final = 200  # over its base
_STREAMS = 4
_LOSS_PERCENT = 5.0
_PAUSE_S = 10.0
_AWAY_S = 3.0
_BRIDGE_NF = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")  # 1: bridged frames pass iptables, too


def _starts(bed: Bed) -> Figures:
    """`up` has just returned: both gateways answer on /readyz; the clients' own tools work; nothing in the clear."""
    after_up_s = bed.await_ready(*GATEWAYS)
    now = time.time()
    started = [logs.moment(bed.engine.inspect(bed.container(g))["State"]["StartedAt"]) for g in GATEWAYS]
    figures: Figures = {"after_up_s": round(after_up_s, 2), "after_start_s": round(now - min(started), 2)}
    figures["bridge_nf_call_iptables"] = int(_BRIDGE_NF.read_text()) if _BRIDGE_NF.exists() else None
    if figures["after_start_s"] > READY_S:
        raise Failed(f"ready {figures['after_start_s']} s after the start, must be within {READY_S:g} s")
    with bed.encrypted() as wire:
        for address in (bed.address("client2"), IPV6["client2"]):
            bed.execute("client1", "ping", "-c", "2", "-i", "0.2", "-W", "2", address)
        bed.engine.docker("exec", "--detach", bed.container("client2"), "iperf3", "-s", "-1")
        until(lambda: "5201" in bed.execute("client2", "ss", "-Hltn"), "iperf3 listens in client2")
        bed.execute("client1", "iperf3", "-c", bed.address("client2"), "-t", "1")
    return figures | wire


def _confined(bed: Bed) -> Figures:
    """What the containers may, by the engine's word; what fwd's processes may, by the kernel's."""
    for gateway in GATEWAYS:
        host = bed.engine.inspect(bed.container(gateway))["HostConfig"]
        if host["Privileged"] or not host["ReadonlyRootfs"] or host["CapDrop"] != ["ALL"] or not host["Init"]:
            raise Failed(f"{gateway} is not confined: {host['CapAdd']}, privileged {host['Privileged']}")
        until(functools.partial(bed.healthy, gateway), f"{gateway} healthy by its image's own check")
    processes = 0
    for gateway in GATEWAYS:
        for name, (pid, _) in bed.lives(gateway).items():
            text = bed.execute(gateway, "cat", f"/proc/{pid}/status")
            about = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
            for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
                if int(about[kind], 16):
                    raise Failed(f"{gateway}, {name}: {kind} {about[kind]}")
            if "0" in about["Uid"].split() or about["NoNewPrivs"] != "1":
                raise Failed(f"{gateway}, {name}: Uid {about['Uid']}, NoNewPrivs {about['NoNewPrivs']}")
            processes += 1
    return {"processes": processes, "capabilities": 0}


def _leak_would_show(bed: Bed) -> Figures:
    """Every guard of gw1 taken away: its default route leads over `peering`, and the capture sees what goes there.

    The supervisor is stopped meanwhile: it would put the guards back within a tenth of a second.
    """
    supervisor = bed.status("gw1")["gateway"]["pid"]
    bed.execute("gw1", "sh", "-c", f"kill -STOP {supervisor}")
    bed.execute("gw1", "sh", "-c", "nft flush ruleset; ip route flush 10.2.0.0/16; ip route flush type unreachable")
    with bed.wire() as seen:
        bed.ping()
    bed.execute("gw1", "sh", "-c", f"kill -CONT {supervisor}")
    bed.engine.docker("restart", "--time", "5", bed.container("gw1"))
    bed.await_ready("gw1")
    until(bed.ping, "a ping")
    if not seen["plaintext_packets"]:
        raise Failed("the ping went in the clear, and the capture did not see it")
    return {"plaintext_packets": seen["plaintext_packets"]}


def _tcp(bed: Bed, address: str) -> Figures:
    with bed.encrypted() as wire:
        there = traffic.run(bed, streams=_STREAMS, seconds=2, address=address)
        back = traffic.run(bed, streams=_STREAMS, seconds=2, address=address, reverse=True)
        both = traffic.run(bed, streams=_STREAMS, seconds=2, address=address, both=True)
    figures = {"streams": there.streams}
    for name, result in (("there", there), ("back", back), ("both", both)):
        figures[f"{name}_mbps"] = round(result.received_mbps)
        if result.received_mbps < 1:
            raise Failed(f"TCP {name}: {result.received_mbps:.1f} Mbit/s")
    return figures | wire


def _udp(bed: Bed, address: str) -> Figures:
    with bed.encrypted() as wire:
        mbps, lost_percent = bed.udp(address)
    if lost_percent > _LOSS_PERCENT or mbps < 1:
        raise Failed(f"UDP: {mbps} Mbit/s, {lost_percent} % lost")
    return {"mbps": mbps, "lost_percent": lost_percent, **wire}


def _undisturbed(felt: Felt, silence_s: float) -> Figures:
    if felt.tcp_resets or felt.tcp_silence_s >= silence_s or felt.probe_silence_ms >= silence_s * 1000:
        raise Failed(f"must be silent for less than {silence_s:g} s, with no reset: {felt.figures()}")
    return felt.figures()


def _member_killed(bed: Bed) -> Figures:
    """The member that carries the probes."""
    pid, restarts = bed.lives("gw1")["member-0"]
    with bed.encrypted() as wire, bed.load(5) as felt:
        bed.execute("gw1", "sh", "-c", f"kill -KILL {pid}")
    new_pid, new_restarts = bed.lives("gw1")["member-0"]
    if new_pid == pid or new_restarts != restarts + 1:
        raise Failed(f"member 0 had pid {pid} and {restarts} restarts, has {new_pid} and {new_restarts}")
    return _undisturbed(felt[0], GAP_LIMIT_MS / 1000) | wire


def _gateway_killed(bed: Bed) -> Figures:
    """The whole container at once, and started again."""
    gateway = bed.container("gw1")
    with bed.encrypted() as wire, bed.load(_RESTART_LOAD_S) as felt:
        start_s = time.monotonic()
        bed.engine.docker("kill", "--signal", "KILL", gateway)
        bed.engine.docker("start", gateway)
        bed.await_ready("gw1")
        ready_s = time.monotonic() - start_s
    return {"ready_s": round(ready_s, 2), **_undisturbed(felt[0], SILENCE_S), **wire}


def _gateway_recreated(bed: Bed) -> Figures:
    """An upgrade: Compose puts a new container in the old one's place."""
    old = bed.container("gw1")
    bed.keep_logs()
    with bed.encrypted() as wire, bed.load(_RESTART_LOAD_S) as felt:
        start_s = time.monotonic()
        bed.engine.compose("up", "--detach", "--no-build", "--no-deps", "--force-recreate", "gw1")
        bed.await_ready("gw1")
        ready_s = time.monotonic() - start_s
    if bed.container("gw1") == old:
        raise Failed("it is the same container")
    return {"ready_s": round(ready_s, 2), **_undisturbed(felt[0], SILENCE_S), **wire}


def _paused(bed: Bed) -> Figures:
    """All of gw2 stands still: neither gateway kills anybody for it."""
    before = {g: bed.lives(g) for g in GATEWAYS}
    gateway = bed.container("gw2")
    with bed.encrypted() as wire:
        bed.engine.docker("pause", gateway)
        try:
            time.sleep(_PAUSE_S)
        finally:
            bed.engine.docker("unpause", gateway)
        back_s = bed.await_ping()
        time.sleep(1.0)
    if before != (after := {g: bed.lives(g) for g in GATEWAYS}):
        raise Failed(f"somebody was replaced: {before}; {after}")
    return {"paused_s": _PAUSE_S, "back_after_s": round(back_s, 2), **wire}


def _disconnected(bed: Bed) -> Figures:
    """gw1's interface to `peering` goes, and comes back."""
    gateway, before = bed.container("gw1"), bed.lives("gw1")
    with bed.encrypted() as wire:
        bed.engine.docker("network", "disconnect", PEERING, gateway)
        away_s = time.monotonic() + _AWAY_S
        while time.monotonic() < away_s:
            if bed.ping():
                raise Failed("a ping passes without `peering`")
        bed.engine.docker("network", "connect", "--ip", OUTER["gw1"], PEERING, gateway)
        back_s = bed.await_ping()
    if before != bed.lives("gw1"):
        raise Failed(f"somebody was replaced: {before}; {bed.lives('gw1')}")
    return {"away_s": _AWAY_S, "back_after_s": round(back_s, 2), **wire}


def _logs_are_clean(bed: Bed) -> Figures:
    """One line an event, no key."""
    bed.keep_logs()
    lines, aborted = logs.without_dumps("".join(bed.logs).splitlines())
    if odd := logs.odd_lines(lines):
        raise Failed(f"{len(odd)} lines are none of the log's: {odd[0]}")
    if bare := logs.with_keys(lines, bed.secret):
        raise Failed(f"{len(bare)} lines may hold a key: {bare[0]}")
    shown = bed.engine.compose("logs", "--no-color", *GATEWAYS)
    if any(gateway not in shown for gateway in GATEWAYS):
        raise Failed("`compose logs` does not show both gateways")
    return {"lines": len(lines), "aborted": aborted}


def _observed(bed: Bed) -> Figures:
    """Prometheus scrapes both gateways; each expression of the dashboard and the rules finds something to say."""
    bed.engine.compose("up", "--detach", "--no-build", "--no-deps", "prometheus")
    bed.execute("prometheus", "promtool", "check", "config", "/etc/prometheus/prometheus.yml")
    networks = bed.engine.inspect(bed.container("prometheus"))["NetworkSettings"]["Networks"]
    prometheus = observe.Prometheus(networks[f"{PROJECT}_vpc1"]["IPAddress"])
    until(lambda: len(prometheus.query("fwd_ready == 1")) == len(GATEWAYS), "both gateways scraped", 30.0)
    return observe.check(prometheus, bed.engine.directory)


def _interoperates(bed: Bed) -> Figures:
    """strongSwan in gw2's place."""
    bed.engine.compose("rm", "--stop", "--force", *GATEWAYS)
    bed.engine.compose("up", "--detach", "--no-build", "--no-deps", "gw1-esp", "gw2-strongswan")
    with bed.encrypted() as wire:
        until(bed.ping, "a ping through strongSwan")
        there = traffic.run(bed, streams=2, seconds=1)
        back = traffic.run(bed, streams=2, seconds=1, reverse=True)
    return {"there_mbps": round(there.received_mbps), "back_mbps": round(back.received_mbps), **wire}


SCENARIOS: Final[tuple[Scenario[Bed], ...]] = (
    Scenario("both gateways ready, client1 reaches client2", _starts),
    Scenario("gateways confined, members without capabilities", _confined),
    Scenario("a leak would show", _leak_would_show),
    Scenario("TCP, both ways", lambda bed: _tcp(bed, bed.address("client2"))),
    Scenario("TCP over IPv6, both ways", lambda bed: _tcp(bed, IPV6["client2"])),
    Scenario("UDP", lambda bed: _udp(bed, bed.address("client2"))),
    Scenario("UDP over IPv6", lambda bed: _udp(bed, IPV6["client2"])),
    Scenario("a member of gw1 killed under load", _member_killed),
    Scenario("gw1 killed and started again", _gateway_killed),
    Scenario("gw2 paused", _paused),
    Scenario("peering disconnected and reconnected", _disconnected),
    Scenario("gw1 recreated: an upgrade", _gateway_recreated),
    Scenario("logs: one clean line an event, no key", _logs_are_clean),
    Scenario("observability: Prometheus, dashboard, alert rules", _observed),
    Scenario("interop: strongSwan as gw2", _interoperates),
)

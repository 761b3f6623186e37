"""The checks of `fwd diagnose`, as a table: one fact that is wrong, one finding."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from codekit import nodes
from statuskit import NOW_NS, ready_view

from fwd.agent.status import status_of
from fwd.diagnose import checks
from fwd.diagnose.checks import CHECKS, RESTARTS_MANY, findings
from fwd.diagnose.command import lines
from fwd.diagnose.facts import Around, Echo, Facts, Limits, Port, Way
from fwd.keyd.checkup import Finding as KeyFinding
from fwd.model import config
from fwd.model.example import EXAMPLE
from fwd.model.keys import CertificateKeys
from fwd.model.reasons import Code, Reason
from fwd.model.status import FarGateway, Status
from fwd.supervise.guards import Found, Table

CONFIG = config.parse(EXAMPLE.replace("members = 4", "members = 2"), "example")
PEERING = CONFIG.peering[0]
CERTIFIED = PEERING.model_copy(
    update={
        "keys": CertificateKeys(
            source="cert", certificate=Path("/c.pem"), key=Path("/k.pem"), authorities=Path("/ca.pem")
        )
    }
)
LOCAL, REMOTE = str(PEERING.local_ts[0]), str(PEERING.remote_ts[0])
AROUND = Around(
    PEERING,
    outer_device="wan",
    outer=Way("wan", 1500, str(PEERING.local_addrs)),
    inner={REMOTE: Way(PEERING.tun, 1500, str(PEERING.local_ts[0][1]))},
    own=frozenset(str(subnet) for subnet in PEERING.local_ts),
    echo=Echo(answers=True, largest_bytes=1500),
    ports=[Port(4500, "member 0"), Port(500, "IKE")],
)
FINE = Facts(
    config=CONFIG,
    peerings=[AROUND],
    sysctls={"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1", "net.ipv4.conf.all.rp_filter": "1"},
    clock_synchronised=True,
    limits=Limits(1024, 8 << 30),
)


def ready() -> Status:
    with ready_view() as view:
        return replace(status_of(view, NOW_NS), warnings=[])


def around(**more: Any) -> Callable[[Facts], Facts]:
    return lambda facts: replace(facts, peerings=[replace(facts.peerings[0], **more)])


def host(**more: Any) -> Callable[[Facts], Facts]:
    return lambda facts: replace(facts, **more)


def running(change: Callable[[Status], Status] = lambda status: status, **more: Any) -> Callable[[Facts], Facts]:
    return lambda facts: around(**more)(replace(facts, status=change(ready())))


def told(**more: Any) -> Callable[[Facts], Facts]:
    """The gateway runs, and its first peering says this."""
    return running(lambda status: replace(status, peerings=[replace(status.peerings[0], **more)]))


def with_drops(**counts: int) -> Callable[[Facts], Facts]:
    return lambda facts: told(drops={**ready().peerings[0].drops, **counts})(facts)


def with_restarts(count: int) -> Callable[[Facts], Facts]:
    def change(status: Status) -> Status:
        return replace(status, processes=[replace(one, restarts=count) for one in status.processes[:1]])

    return running(change)


def not_ready(status: Status) -> Status:
    reason = Reason.of(Code.PROCESS, what="keyd", state="failed")
    return replace(status, ready=False, reasons=[reason], not_ready=[reason.line])


INNER_V6 = PEERING.model_copy(update={"local_ts": [*PEERING.local_ts, ip_network("fd00:1::/64")]})
OWN_V6 = AROUND.own | {"fd00:1::/64"}
ELSEWHERE = Way("lan", 1500, str(PEERING.local_addrs))
LEFT = Found({"fwd_y": Table(202, (ip_network("10.3.0.0/24"),))}, {ip_network("10.3.0.0/24"): 202})
STRICT = {"net.ipv4.conf.all.rp_filter": "1", "net.ipv4.conf.wan.rp_filter": "0", "net.ipv4.ip_forward": "1"}
OUTSIDE = {REMOTE: Way(PEERING.tun, 1500, "198.51.100.7")}


FAR = FarGateway(address="192.0.2.2", members=[0, 1], state="up", established=True, error="")


def lossy(loss: float) -> Callable[[Facts], Facts]:
    """The gateway runs, and its first member's echoes are lost."""

    def change(status: Status) -> Status:
        first = status.peerings[0]
        members = [replace(one, loss=loss if one.index == 0 else 0.0) for one in first.members]
        return replace(status, peerings=[replace(first, members=members, far=[FAR])])

    return running(change)


WRONG: list[tuple[Callable[[Facts], Facts], str, str, str]] = [
    (host(absent="nobody answers at /c (No such file)"), "not_running", "fault", "nobody answers at /c (No such"),
    (host(absent="nobody answers", others=1), "not_running", "fault", "has gateway.control changed?"),
    (host(unheard="the gateway: timed out"), "not_running", "fault", "timed out"),
    (host(left=LEFT), "left_guards", "warning", "nft delete table inet fwd_y; ip -4 route del"),
    (host(lacks=["nft is missing: install the package nftables"]), "host", "fault", "install the package"),
    (host(walls=["no Landlock: this kernel has none"]), "kernel", "warning", "no Landlock"),
    (host(sysctls={"net.ipv4.ip_forward": "0"}), "forwarding_off", "fault", "net.ipv4.ip_forward=1"),
    (host(sysctls={"net.ipv4.ip_forward": "1", "net.ipv4.conf.fwd0.forwarding": "0"}), "forwarding_off", "fault",
     "conf.fwd0"),
    (around(filters=["ip filter FORWARD"]), "filter_drops", "fault", "ip filter FORWARD"),
    (host(limits=Limits(100, 8 << 30)), "descriptors", "fault", "the hard limit is 100"),
    (host(limits=Limits(1024, 100 << 20)), "memory", "warning", "100 MiB"),
    (host(nameless={PEERING.name: "no such name"}), "name", "fault", "no such name"),
    (around(outer_device=""), "address", "fault", str(PEERING.local_addrs)),
    (around(outer=None), "route", "fault", str(PEERING.far)),
    (around(own=frozenset()), "own_source", "warning", LOCAL),
    (around(keys=[KeyFinding("/s: empty")]), "keys", "fault", "/s: empty"),
    (around(keys=[KeyFinding("/c: ends in 3 days", fault=False)]), "keys", "warning", "3 days"),
    (host(probe_key="/p: probe key is not hexadecimal"), "keys", "fault", "/p: probe key"),
    (around(ports=[Port(500, "IKE", "taken", "charon (pid 7)")]), "port", "fault", "stop charon (pid 7)"),
    (around(ports=[Port(500, "IKE", "not permitted")]), "port", "fault", "as root"),
    (around(echo=Echo(True, 1400)), "path_mtu", "warning", "path_mtu = 1400"),
    (around(echo=Echo(True, 900)), "path_mtu", "fault", "900 octets"),
    (around(peering=INNER_V6, own=OWN_V6, big={"lan": 185000}), "big_tcp", "warning", "dev lan gro_max_size 65536"),
    (
        lambda f: around(outer=ELSEWHERE)(replace(f, sysctls=STRICT)),
        "rp_filter", "warning", "net.ipv4.conf.wan.rp_filter=2",
    ),
    (
        lambda f: around(peering=CERTIFIED)(replace(f, clock_synchronised=False)),
        "clock", "warning", "NTP",
    ),
    (running(not_ready), "process", "fault", "keyd is failed"),
    (running(lambda s: replace(s, warnings=["odd"])), "status", "warning", "odd"),
    (running(inner={REMOTE: ELSEWHERE}), "route_missing", "fault", REMOTE),
    (running(inner={REMOTE: None}), "route_missing", "fault", "no route"),
    (running(inner=OUTSIDE), "route_source", "warning", "198.51.100.7"),
    (with_drops(internal_error=1), "drops", "warning", "traceback"),
    (with_drops(ring_full=101), "drops", "warning", "101 dropped"),
    (told(ike_failures={"no_answer": 3}), "far_gateway", "fault", "no answer 3 times; it answers echo requests"),
    (told(far=[replace(FAR, state="down", error="peer is gone")]), "pair", "warning", "peer is gone"),
    (told(far=[replace(FAR, state="down")]), "pair", "warning", "has an SA to send on"),
    (lossy(0.05), "pair_loss", "warning", "5% of member 0's echoes"),
    (running(past=7), "past_the_tunnel", "warning", "has dropped 7"),
    (with_restarts(RESTARTS_MANY), "restarts", "warning", f"replaced {RESTARTS_MANY} times"),
    (
        lambda f: running()(replace(f, limits=Limits(1024, 8 << 30, used=1000))),
        "descriptors", "warning", "1000 of 1024",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("change", "check", "severity", "words"), WRONG)
def test_what_is_wrong_is_one_finding(change: Callable[[Facts], Facts], check: str, severity: str, words: str) -> None:
    (found,) = findings(change(FINE))
    assert (found.check, found.severity) == (check, severity)
    assert words in f"{found.what} {found.evidence} {found.remedy}"
    assert found.what
    assert found.evidence
    assert found.remedy


def test_each_check_is_made_and_each_finding_has_a_case_here() -> None:
    functions = {name for name, one in vars(checks).items() if getattr(one, "__module__", "") == checks.__name__}
    judging = {
        name for name in functions if "Iterator[Finding]" in getattr(checks, name).__annotations__.get("return", "")
    }
    assert judging == {one.__name__ for one in CHECKS} | {"readiness"}

    made = [
        one for one in nodes(Path(checks.__file__)) if isinstance(one, ast.Call) and "Finding" in ast.dump(one.func)
    ]
    named = {one.args[0].value for one in made if isinstance(one.args[0], ast.Constant)}
    assert named == {check for _, check, _, _ in WRONG} - {"process"}, "a reason of the gateway's own, by `readiness`"


@pytest.mark.parametrize(
    "change",
    [
        host(),
        running(),
        # A host's own address as the only local subnet needs no forwarding.
        lambda f: around(
            peering=PEERING.model_copy(update={"local_ts": [ip_network("10.1.0.1/32")]}),
            own=frozenset({"10.1.0.1/32"}),
        )(replace(f, sysctls={"net.ipv4.ip_forward": "0"})),
        # What is not known is no finding.
        host(sysctls={}, clock_synchronised=None, limits=None),
        around(echo=None),
        around(echo=Echo(answers=False)),
        # Without certificates the clock decides nothing; a route elsewhere only under strict filtering.
        host(clock_synchronised=False),
        lambda f: around(outer=ELSEWHERE)(replace(f, sysctls={**STRICT, "net.ipv4.conf.wan.rp_filter": "2"})),
        with_drops(ring_full=99),
        with_restarts(RESTARTS_MANY - 1),
        # Whose memory is in use already does not want it again.
        lambda f: running()(replace(f, limits=Limits(1024, 100 << 20, used=100))),
    ],
)
def test_what_is_fine_is_no_finding(change: Callable[[Facts], Facts]) -> None:
    assert findings(change(FINE)) == []


def test_faults_come_first_and_each_finding_once() -> None:
    facts = around(own=frozenset(), outer_device="")(replace(FINE, walls=["no Landlock", "no Landlock"]))
    assert [one.severity for one in findings(facts)] == ["fault", "warning", "warning"]


def test_what_the_gateway_says_is_not_found_once_more() -> None:
    reason = Reason.of(Code.FORWARDING_OFF, PEERING.name, sysctl="net.ipv4.ip_forward")
    facts = running(lambda status: replace(status, ready=False, reasons=[reason]))(FINE)
    (found,) = findings(replace(facts, sysctls={"net.ipv4.ip_forward": "0"}))
    assert (found.check, found.evidence) == ("forwarding_off", "the gateway's status")


def test_lines_have_evidence_and_remedy_and_what_was_not_seen() -> None:
    text = "\n".join(lines(findings(replace(FINE, walls=["no Landlock"])), ["filters: needs root"]))
    assert "warning: no Landlock [kernel]" in text
    assert "evidence:" in text
    assert "remedy:" in text
    assert "not looked at: filters: needs root" in text
    assert text.endswith(f"{len(CHECKS) + 1} checks: 0 faults, 1 warnings")

"""The checks of `fwd diagnose`: each a pure function from facts to findings.

A finding says what is wrong, by what evidence, and what to do. What a running gateway says of itself comes first; the
rest is looked at whether it runs or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Final, Literal

from fwd.diagnose.facts import Around, Facts
from fwd.model.keys import CertificateKeys
from fwd.proto.drops import DropReason
from fwd.supervise.guards import removal

_OUTER_MIN_BYTES: Final = 1280
RESTARTS_MANY: Final = 3
_DROPS_MANY, _DROPS_SHARE = 100, 0.001  # more than both is a finding
_DESCRIPTORS_BASE, _OF_PEERING, _OF_MEMBER = 64, 16, 20
_USED_SHARE: Final = 0.8
_LOSS_MUCH: Final = 0.02  # of a pair: from here on routers send it less
_SHOWN: Final = 4  # names in a sentence
_BYTES_OF_MEMBER, _BYTES_BASE = 48 << 20, 160 << 20
_FORWARDING: Final = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}

_SLOW = "more members, or more cores: one cannot keep up"
_REMEDY_OF_DROPS: Final = {
    DropReason.RING_FULL: _SLOW,
    DropReason.QUEUE_STANDS: _SLOW,
    DropReason.TUN_QUEUE_FULL: _SLOW,
    DropReason.SOCKET_OVERFLOW: _SLOW,
    DropReason.BAD_ICV: "see the log (audit.bad_icv) for who sends it; the two gateways' keys differ, or it is forged",
    DropReason.UNKNOWN_SPI: "see the log (audit.no_sa) for who sends it; a peer that has restarted stops by itself",
    DropReason.SELECTOR_OUT: "route only remote_ts to the TUN device, or add the subnet on both sides",
    DropReason.SELECTOR_IN: "see the log (audit.selectors); make local_ts and remote_ts alike on both sides",
    DropReason.TUN_REFUSED: "try `offload = false` in the peering, and report it",
    DropReason.INTERNAL_ERROR: "the log has a traceback (datapath.internal_error): report it",
    DropReason.INTERNAL_ERROR_IN: "the log has a traceback (datapath.internal_error): report it",
    DropReason.INTERNAL_ERROR_DELIVERY: "the log has a traceback (datapath.internal_error): report it",
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong (`fault`: packets do not pass, or fwd cannot start), or that soon may be (`warning`)."""

    check: str
    severity: Literal["fault", "warning"]
    peering: str  # empty: the whole host
    what: str
    evidence: str
    remedy: str


def findings(facts: Facts) -> list[Finding]:
    """Return what every check has found, faults first; what the gateway itself says is not found once more."""
    told = [(reason.code, reason.peering) for reason in facts.status.reasons] if facts.status else []
    found = list(readiness(facts))
    for check in CHECKS:
        found += [one for one in check(facts) if not any(_is_of(one, *reason) for reason in told)]
    return sorted(dict.fromkeys(found), key=lambda one: one.severity != "fault")


def _is_of(found: Finding, code: str, peering: str) -> bool:
    """Whether a finding is a reason that the gateway gives for the same peering, or for all."""
    return found.check == code and (found.peering == peering or "" in (found.peering, peering))


# -- what a running gateway says ----------------------------------------------------------------------------------


def readiness(facts: Facts) -> Iterator[Finding]:
    """Yield what the gateway itself says."""
    if facts.status is None:
        return
    for reason in facts.status.reasons:
        yield Finding(reason.code, "fault", reason.peering, reason.text, "the gateway's status", reason.remedy)
    for warning in facts.status.warnings:
        yield Finding("status", "warning", "", warning, "the gateway's status", "see what it names, and the log")


def running(facts: Facts) -> Iterator[Finding]:
    """Yield that it does not run, or says nothing; then it is not known to pass anything, whatever else is well."""
    if facts.unheard:
        remedy = "see its log; if it hangs, `systemctl restart fwd`: its leak guards stand meanwhile"
        yield Finding("not_running", "fault", "", "fwd does not say how it is", facts.unheard, remedy)
    if facts.absent:
        others = f"; {facts.others} on this host answer elsewhere: has gateway.control changed?" if facts.others else ""
        remedy = "mend the other faults first, then start it: `systemctl start fwd`, or `fwd demux`"
        yield Finding("not_running", "fault", "", "fwd does not run", f"{facts.absent}{others}", remedy)


def left_guards(facts: Facts) -> Iterator[Finding]:
    """Yield leak guards of a fwd that died, with another configuration: they drop until it comes back, or for ever."""
    if facts.left.tables or facts.left.routes:
        names = sorted({*facts.left.tables, *map(str, facts.left.routes)})
        what = f"leak guards of another fwd, which does not run, drop packets: {_some(names)}"
        remedy = f"start it again; if it never will come back: {removal(facts.left)}"
        yield Finding("left_guards", "warning", "", what, "nftables and routes of a number that nobody has", remedy)


def _some(names: Sequence[str]) -> str:
    """Return a list in words, shortened."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def restarts(facts: Facts) -> Iterator[Finding]:
    """Yield processes that were replaced again and again."""
    if facts.status is None:
        return
    processes = [(one.name, "", one.restarts) for one in facts.status.processes]
    for peering in facts.status.peerings:
        processes.append(("demux", peering.name, peering.demux.restarts))
        processes += [(f"member {one.index}", peering.name, one.restarts) for one in peering.members]
    for name, of, count in processes:
        if count >= RESTARTS_MANY:
            what, evidence = f"{name} does not live long", f"replaced {count} times since the gateway started"
            yield Finding("restarts", "warning", of, what, evidence, "the log says why (process.ended, process.failed)")


def drops(facts: Facts) -> Iterator[Finding]:
    """Yield reasons for which much is dropped, and every fault of fwd's own."""
    for peering in facts.status.peerings if facts.status else ():
        carried = {
            "record": peering.books.out_records_in + peering.books.in_records_in,
            "esp": peering.books.in_esp_in + peering.books.out_esp_sent,
        }
        for reason, remedy in _REMEDY_OF_DROPS.items():
            count = peering.drops.get(reason.label, 0)
            own = reason.label.startswith("internal_error")
            if count > (0 if own else max(_DROPS_MANY, _DROPS_SHARE * carried[reason.unit])):
                what = f"{reason.label}: {reason.sentence}"
                evidence = f"{count:,} dropped, beside {carried[reason.unit]:,} carried"
                yield Finding("drops", "warning", peering.name, what, evidence, remedy)


# -- the host -----------------------------------------------------------------------------------------------------


def host(facts: Facts) -> Iterator[Finding]:
    """Yield what a host must give fwd and does not: capabilities, users, /dev/net/tun, nft, a directory."""
    for lack in facts.lacks:
        what, _, remedy = lack.partition(": ")
        yield Finding("host", "fault", "", what, "looked at as `fwd demux` does", remedy or "give it to fwd")


def walls(facts: Facts) -> Iterator[Finding]:
    """Yield what the kernel cannot take away from the child processes."""
    for lack in facts.walls:
        remedy = "a newer kernel has it; without it a process that is taken over can do more (docs/security.md)"
        yield Finding("kernel", "warning", "", lack, "asked of the kernel", remedy)


def forwarding(facts: Facts) -> Iterator[Finding]:
    """Yield IP versions that the host does not forward, though a peering has subnets of them."""
    for around in facts.peerings:
        wanted = {s.version for s in around.peering.local_ts if s.num_addresses > 1 or str(s) not in around.own}
        for version in sorted(wanted):
            for sysctl in _not_forwarding(facts, around, version):
                what, remedy = f"this host does not forward IPv{version}", f"sysctl -w {sysctl}=1, and in /etc/sysctl.d"
                yield Finding("forwarding_off", "fault", around.peering.name, what, f"{sysctl} = 0", remedy)


def _not_forwarding(facts: Facts, around: Around, version: int) -> list[str]:
    """The sysctls that are 0. Of IPv4 each device's own decides, where there are devices; the common one sets all."""
    common = _FORWARDING[version]
    own = [f"net.ipv4.conf.{one}.forwarding" for one in (around.peering.tun, *sorted(around.lans))]
    known = [sysctl for sysctl in own if version == 4 and sysctl in facts.sysctls]
    off = [sysctl for sysctl in known or [common] if facts.sysctls.get(sysctl) == "0"]
    return [common] if off and facts.sysctls.get(common) == "0" else off


def filters(facts: Facts) -> Iterator[Finding]:
    """Yield chains that drop whatever is forwarded to or from a TUN device."""
    for around in facts.peerings:
        for chain in around.filters:
            tun, name = around.peering.tun, around.peering.name
            evidence = f"{chain}: by its rules and its policy nothing of some subnet pair passes"
            remedy = f"accept what comes from {tun} and what goes to it there"
            yield Finding("filter_drops", "fault", name, "a filter drops all that is forwarded", evidence, remedy)


def reverse_path(facts: Facts) -> Iterator[Finding]:
    """Yield devices on which strict reverse path filtering drops what the far gateway sends."""
    for around in facts.peerings:
        device = around.outer_device
        if not device or around.outer is None or around.outer.device == device:
            continue
        values = {name: facts.sysctls.get(f"net.ipv4.conf.{name}.rp_filter", "0") for name in ("all", device)}
        if max(values.values()) == "1" and around.peering.local_addrs.version == 4:
            what = f"what comes from {around.far} on {device} may be dropped: it is routed elsewhere"
            evidence = f"rp_filter of {device} is strict; the way back is {around.outer.device}"
            remedy = f"sysctl -w net.ipv4.conf.{device}.rp_filter=2 (and all), or route it by {device}"
            yield Finding("rp_filter", "warning", around.peering.name, what, evidence, remedy)


def clock(facts: Facts) -> Iterator[Finding]:
    """Yield a clock that nothing sets, where certificates depend on it."""
    with_dates = [a.peering.name for a in facts.peerings if isinstance(a.peering.keys, CertificateKeys)]
    if facts.clock_synchronised is False and with_dates:
        what = "this host's clock is not synchronised; certificates and CRLs are held against it"
        remedy = "run an NTP client (systemd-timesyncd, chrony), on both gateways"
        yield Finding(
            "clock", "warning", "", what, f"the kernel says so; certificates: {', '.join(with_dates)}", remedy
        )


def limits(facts: Facts) -> Iterator[Finding]:
    """Yield too few descriptors, and too little memory."""
    if facts.limits is None:
        return
    most, used = facts.limits.descriptors, facts.limits.used
    peerings = facts.config.peering
    members = sum(peering.members for peering in peerings)
    wanted = _DESCRIPTORS_BASE + _OF_PEERING * len(peerings) + _OF_MEMBER * members
    raise_it = "raise it (ulimit -Hn, systemd's LimitNOFILE=, docker's --ulimit nofile=)"
    if used is None and wanted > most:
        evidence = f"the hard limit is {most}, and {members} members want about {wanted}"
        yield Finding("descriptors", "fault", "", "too few file descriptors are allowed", evidence, raise_it)
    elif used is not None and used > most * _USED_SHARE:
        evidence = f"{used} of {most} are in use"
        yield Finding("descriptors", "warning", "", "file descriptors run out", evidence, raise_it)

    memory, needed = facts.limits.memory_bytes, _BYTES_BASE + _BYTES_OF_MEMBER * members
    if facts.status is None and memory is not None and memory < needed:
        evidence = f"{memory >> 20} MiB are available, and {members} members want about {needed >> 20}"
        yield Finding("memory", "warning", "", "memory may run out", evidence, "fewer members, or more memory")


# -- a peering ----------------------------------------------------------------------------------------------------


def keys(facts: Facts) -> Iterator[Finding]:
    """Yield what is wrong with secrets, certificates and CRLs, and the probe key."""
    remedy = "mend the file that it names, then `fwd config check --secrets`, and reload"
    if facts.probe_key:
        yield Finding("keys", "fault", "", facts.probe_key, "read as the beacon does", remedy)
    for around in facts.peerings:
        for one in around.keys:
            severity: Literal["fault", "warning"] = "fault" if one.fault else "warning"
            yield Finding("keys", severity, around.peering.name, one.text, "read as keyd does", remedy)


def names(facts: Facts) -> Iterator[Finding]:
    """Yield far gateways whose name has no address that can be taken."""
    named = {peering.name: " or ".join(peering.names) for peering in facts.config.peering}
    for peering, why in facts.nameless.items():
        remedy = "see `getent ahosts NAME`, or write the IP address; the name server is asked without the tunnel"
        yield Finding("name", "fault", peering, f"no address of {named[peering]} (remote_addrs)", why, remedy)


def addresses(facts: Facts) -> Iterator[Finding]:
    """Yield outer addresses that are not there, and local subnets without an address for the gateway's own packets."""
    for around in facts.peerings:
        peering, name = around.peering, around.peering.name
        if not around.outer_device:
            what, remedy = f"this host has no address {peering.local_addrs}", "add it, or change local_addrs"
            yield Finding("address", "fault", name, what, "no device has it", remedy)
        if around.outer is None:
            remedy = "add a route, or see whether its device is up"
            yield Finding("route", "fault", name, f"no route to {around.far}", "asked of the kernel", remedy)
        for version in sorted({subnet.version for subnet in peering.local_ts}):
            subnets = [str(subnet) for subnet in peering.local_ts if subnet.version == version]
            if not around.own.intersection(subnets):
                what = "the gateway's own packets, ICMP errors too, have no source that the far side takes"
                evidence = f"no address of this host is in {', '.join(subnets)}"
                remedy = "give the LAN's device an address in local_ts; clients' packets pass without, too"
                yield Finding("own_source", "warning", name, what, evidence, remedy)


def routes(facts: Facts) -> Iterator[Finding]:
    """Yield remote subnets that go elsewhere than to the TUN device, or from a source that is in no local subnet."""
    for around in facts.peerings if facts.status else ():
        peering = around.peering
        for subnet, way in around.inner.items():
            seen = "no route" if way is None else f"by {way.device}, from {way.source or 'no source'}"
            if way is None or way.device != peering.tun:
                remedy = "fwd sets it again by itself; if it does not last, see what else sets routes"
                what = f"{subnet} is not routed to {peering.tun}"
                yield Finding("route_missing", "fault", peering.name, what, seen, remedy)
            elif way.source and not any(_holds(net, way.source) for net in map(str, peering.local_ts)):
                what = f"the gateway's own packets to {subnet} have a source outside local_ts"
                remedy = "give the LAN's device an address in local_ts; clients' packets pass without, too"
                yield Finding("route_source", "warning", peering.name, what, seen, remedy)


def path_mtu(facts: Facts) -> Iterator[Finding]:
    """Yield paths that take less than fwd sends, by echo."""
    told = {peering.name: peering for peering in facts.status.peerings} if facts.status else {}
    for around in facts.peerings:
        peering, echo, way = around.peering, around.echo, around.outer
        if echo is None or way is None or not echo.answers:
            continue
        used = peering.path_mtu or way.mtu_bytes
        if peering.name in told:  # what the members have found since
            used = max([member.path_mtu for member in told[peering.name].members] or [used])
        if echo.largest_bytes < used:
            what = f"the path to {around.far} takes {echo.largest_bytes} octets, and fwd sends up to {used}"
            evidence = f"the largest echo that was answered; {way.device} takes {way.mtu_bytes}"
            remedy = f"let ICMP 'fragmentation needed' pass on the way, or set path_mtu = {echo.largest_bytes}"
            severity: Literal["fault", "warning"] = "fault" if echo.largest_bytes < _OUTER_MIN_BYTES else "warning"
            yield Finding("path_mtu", severity, peering.name, what, evidence, remedy)


def big_tcp(facts: Facts) -> Iterator[Finding]:
    """Yield LAN devices that join IPv6 packets to more than a TUN device takes: the kernel cuts each of them again."""
    for around in facts.peerings:
        for device, most in around.big.items() if any(s.version == 6 for s in around.peering.local_ts) else ():
            what = f"{device} joins IPv6 packets to more than 64 KiB (BIG TCP), and they pass several times slower"
            evidence = f"gro_max_size of {device} is {most}; a TUN device takes 65536"
            remedy = f"ip link set dev {device} gro_max_size 65536; on the LAN's hosts gso_max_size as well"
            yield Finding("big_tcp", "warning", around.peering.name, what, evidence, remedy)


def ports(facts: Facts) -> Iterator[Finding]:
    """Yield UDP ports that fwd could not have."""
    for around in facts.peerings:
        for port in around.ports:
            if port.error in ("taken", "not permitted"):
                what = f"UDP port {port.number} of {around.peering.local_addrs} ({port.of}) is {port.error}"
                stop = f"stop {port.holder}" if port.holder else "stop who has it (ss -ulpn)"
                remedy = f"{stop}, or choose another port on both sides" if port.error == "taken" else "run it as root"
                evidence = f"held by {port.holder or 'somebody'}" if port.error == "taken" else "bind was refused"
                yield Finding("port", "fault", around.peering.name, what, evidence, remedy)


def far_gateway(facts: Facts) -> Iterator[Finding]:
    """Yield far gateways that have answered nothing to IKE."""
    told = {peering.name: peering for peering in facts.status.peerings} if facts.status else {}
    for around in facts.peerings:
        peering, address = told.get(around.peering.name), str(around.far)
        silent = peering.ike_failures.get("no_answer", 0) if peering else 0
        if peering is None or not silent or any(far.established for far in peering.far if far.address == address):
            continue
        answers = around.echo is not None and around.echo.answers
        echo = "it answers echo requests" if answers else "it answers no echo request either, or was not asked"
        ike_port = around.peering.ike.ike_port if around.peering.ike else 0
        what = f"{address} does not answer IKE"
        remedy = f"see whether it runs, and what drops UDP to port {ike_port} on the way, both directions"
        yield Finding("far_gateway", "fault", peering.name, what, f"no answer {silent} times; {echo}", remedy)


def pairs(facts: Facts) -> Iterator[Finding]:
    """Yield pairs that are down, while others of the peering may carry, and those that lose much."""
    remedy = "see `fwd diagnose` there; `fwd verify` sends packets over each pair"
    for peering in facts.status.peerings if facts.status else ():
        silent = peering.ike_failures.get("no_answer", 0)
        for far in peering.far:
            if far.state == "down" and (far.established or not silent):  # else far_gateway says so
                evidence = far.error or "none of its members has an SA to send on and a path that is up"
                yield Finding("pair", "warning", peering.name, f"the pair with {far.address} is down", evidence, remedy)
            lossy = [one for one in peering.members if one.index in far.members and one.loss >= _LOSS_MUCH]
            if lossy:
                what = f"packets are lost on the way to {far.address}"
                told = ", ".join(f"{one.loss:.0%} of member {one.index}'s echoes" for one in lossy[:_SHOWN])
                more = "see the path between the gateways, and the load of both; routers in front send less this way"
                yield Finding("pair_loss", "warning", peering.name, what, f"unanswered lately: {told}", more)


def past_the_tunnel(facts: Facts) -> Iterator[Finding]:
    """Yield remote subnets whose packets come by another way than the tunnel: somebody routes them directly."""
    for around in facts.peerings:
        if around.past and facts.status is not None:
            subnets = _some([str(one) for one in around.peering.remote_ts])
            what = f"packets from {subnets} come past the tunnel, in the clear, and are dropped"
            evidence = f"the leak guard has dropped {around.past:,} that did not come out of {around.peering.tun}"
            remedy = "find the direct route on the far side, or between (`tcpdump -ni DEVICE net SUBNET` shows by whom)"
            yield Finding("past_the_tunnel", "warning", around.peering.name, what, evidence, remedy)


def _holds(subnet: str, address: str) -> bool:
    net, one = ip_network(subnet), ip_address(address)
    return net.version == one.version and one in net


CHECKS: Final[tuple[Callable[[Facts], Iterator[Finding]], ...]] = (
    running, host, keys, names, addresses, ports, forwarding, filters, routes, reverse_path, path_mtu, big_tcp,
    far_gateway, pairs, past_the_tunnel, clock, limits, walls, left_guards, restarts, drops,
)  # fmt: skip

"""The scenarios of fwd and strongSwan as each other's IPsec peers, each in a lab of its own.

`fwd lab interop` runs them all and writes one row a scenario: name, who began, whether it passed, figures. A scenario
is a function that is given a `Meeting` and returns its figures; it fails by an exception, whose text is its reason.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from fwd.lab import certificates, scenario, tools, traffic
from fwd.lab.meeting import FAR, Meeting, Setting, hide, meeting
from fwd.lab.scenario import Failed, Figures, Row
from fwd.lab.waiting import until

_MEMBERS: Final = 4


# -- scenarios ----------------------------------------------------------------------------------------------------


def _carries(m: Meeting) -> Figures:
    return m.both_ways()


def _refused(words: str) -> Callable[[Meeting], Figures]:
    """No tunnel, and one of the two says so."""

    def check(m: Meeting) -> Figures:
        until(lambda: words in m.fwd_log() + m.charon.log(), words)
        if m.ping(1):
            raise Failed("a ping passes")
        return {"said": words}

    return check


def _fwd_rekeys_children(m: Meeting) -> Figures:
    m.carries()
    before = m.member()["spi_out"]
    with m.pinging() as figures:
        until(lambda: len(m.member()["ledger"]) >= 4, "three more SAs")
    if m.member()["spi_out"] == before:
        raise Failed("still the same SA")
    return figures


def _strongswan_rekeys_children(m: Meeting) -> Figures:
    m.carries()
    with m.pinging() as figures:
        for _ in range(3):
            m.charon.swanctl("--rekey", "--child", "net")
            time.sleep(0.7)
    return figures


def _ike_spi(m: Meeting) -> str:
    return next((line.split(",")[3] for line in m.sas().splitlines() if "ESTABLISHED" in line), "")


def _ike_rekeyed(m: Meeting, *tell: str) -> Figures:
    """By fwd, whose lifetime is short, or by strongSwan, if told to."""
    m.carries()
    before = _ike_spi(m)
    with m.pinging() as figures:
        if tell:
            m.charon.swanctl(*tell)
        until(lambda: _ike_spi(m) not in ("", before), "another IKE SA")
        time.sleep(1.0)
    m.carries()
    return figures


def _subnets_grow(m: Meeting, *, ours_first: bool) -> Figures:
    """Both have one more on strongSwan's side, one after the other. fwd asks when it changes, or is told to."""
    more, ours = "10.12.0.0/24", m.directory / "gw1.toml"
    theirs = (m.directory / "gw2.connections").read_text()
    m.topology.run("gw2", ["ip", "addr", "add", "10.12.0.1/24", "dev", "lan"])  # by which strongSwan routes it
    m.carries()

    def change_ours() -> None:
        ours.write_text(ours.read_text().replace(f'"{FAR}"', f'"{FAR}", "{more}"'))
        m.fwd.send_signal(signal.SIGHUP)

    with m.pinging() as figures:
        if ours_first:
            change_ours()
            until(lambda: m.peering()["narrower"], "fwd has been given less than it asks for")
        m.charon.load(theirs.replace(f"local_ts = {FAR}", f"local_ts = {FAR},{more}"))
        if ours_first:
            m.fwd_command("rekey", "strongswan")
        else:
            change_ours()
        until(lambda: more in m.sas() and not m.peering()["narrower"], "both have agreed to it")
        until(lambda: f"{FAR}\n" not in m.sas(), "the Child SAs of before are gone", 30.0)
    return figures


def _outlives_its_sas(m: Meeting) -> Figures:
    """No Child SA but that of IKE_AUTH is to be had: one IKE SA after another brings it."""
    m.carries()
    seen = set()

    def three_more() -> bool:
        seen.add(m.member()["spi_out"])
        return len(seen - {None}) > 3

    with m.pinging() as figures:
        until(three_more, "three more SAs", 40.0)
    m.carries()
    return figures


def _strongswan_deletes(m: Meeting) -> Figures:
    """fwd begins anew."""
    m.carries()
    m.charon.swanctl("--terminate", "--ike", "peer")
    until(lambda: "IKE SA is closed" in m.fwd_log(), "fwd notices")
    until(lambda: "ESTABLISHED" in m.sas(), "another IKE SA")
    m.carries()
    return {}


def _fwd_ends(m: Meeting) -> Figures:
    m.carries()
    m.fwd.terminate()
    until(lambda: "ESTABLISHED" not in m.sas(), "strongSwan has no IKE SA")
    return {}


def _member_dies(m: Meeting) -> Figures:
    """Its successor sends on a spare: another of strongSwan's Child SAs."""
    m.carries()
    time.sleep(0.5)
    before = m.member()
    os.kill(before["pid"], signal.SIGKILL)
    until(lambda: m.member()["spi_out"] not in (None, before["spi_out"]), "another SA")
    m.carries()
    return {}


def _strongswan_dies(m: Meeting) -> Figures:
    m.carries()
    start = time.monotonic()
    m.charon.process.kill()
    until(lambda: "the peer does not answer" in m.fwd_log(), "fwd notices", 60.0)
    return {"noticed_after_s": round(time.monotonic() - start)}


def _narrowed(m: Meeting) -> Figures:
    """strongSwan allows less than fwd asks for."""
    figures = m.both_ways()
    if "10.2.0.0/28" not in m.sas():
        raise Failed("not narrowed to 10.2.0.0/28")
    return figures


def _fragmented(m: Meeting) -> Figures:
    figures = m.both_ways()
    if "EF(1/" not in m.charon.log():
        raise Failed("nothing was fragmented")
    return figures


def _many_members(m: Meeting) -> Figures:
    """All of fwd's members send; whatever strongSwan sends comes on one SA, and so to one of them."""
    m.carries()
    until(lambda: m.sas().count("INSTALLED") >= 3 * _MEMBERS, "a Child SA and two spares for each member")
    with m.pinging() as figures:
        time.sleep(2.0)
    there = traffic.run(m.topology, streams=8, seconds=2)
    back = traffic.run(m.topology, streams=8, seconds=2, reverse=True)
    if m.faults():
        raise Failed(f"dropped: {m.faults()}")
    members = m.peering()["members"]
    sent, heard = ([one[way]["esp_packets"] for one in members] for way in ("out", "in"))
    if min(sent) == 0 or heard[0] == 0 or any(heard[1:]) or any(one["path"] != "up" for one in members):
        raise Failed(f"ESP packets sent by the members {sent}, received {heard}")
    return figures | {"there_mbps": round(there.received_mbps), "back_mbps": round(back.received_mbps), "sent": sent}


def _behind_nat(m: Meeting) -> Figures:
    """One of the two is hidden behind a router, which gives it another port when it has forgotten it."""
    figures = m.both_ways()
    before = m.peering()["ike_sas"][0]
    if m.hidden == "fwd":
        if not before["behind_nat"]:
            raise Failed("fwd does not see that a NAT is before it")
        return figures
    hide(m.topology, m.hidden, "40000-50000")
    until(lambda: m.ping(2, back=True), "pings from behind the NAT")
    until(lambda: m.ping(2), "pings to where they came from")
    moved = m.member()["peer"]
    if not re.search(r":4\d{4}$", moved):
        raise Failed(f"the peer is still thought to be at {moved}")
    return figures | {"was": before["remote"], "is": moved}


def _cookies(m: Meeting) -> Figures:
    """The responder has so many half-open IKE SAs that it asks for a cookie first."""
    figures = m.both_ways()
    if "N(COOKIE)" not in m.charon.log():
        raise Failed("nobody asked for a cookie")
    return figures


def _on_command(m: Meeting) -> Figures:
    """fwd rekey, terminate, initiate."""
    m.carries()
    with m.pinging() as figures:
        said = m.fwd_command("rekey", "strongswan")
    m.fwd_command("terminate", "strongswan")
    until(lambda: "ESTABLISHED" not in m.sas(), "strongSwan has no IKE SA")
    time.sleep(1.5)
    if "ESTABLISHED" in m.sas():
        raise Failed("fwd has begun again by itself")
    m.fwd_command("initiate", "strongswan")
    m.carries()
    return figures | {"said": said}


def _decoded(m: Meeting) -> Figures:
    """tshark reads IKE and ESP with the keys that fwd has saved."""
    m.carries()
    capture = m.directory / "wan.pcap"
    argv = ["tshark", "-q", "-i", "wan", "-f", "udp", "-w", str(capture)]
    with tools.ended(m.topology.popen("gw1", argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)) as process:
        until(capture.exists, "tshark's capture")
        m.fwd_command("rekey", "strongswan")
        m.ping(5)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        process.wait(10)

    # The file is for its owner alone, and is enough to read all of it.
    mode = m.key_file.stat().st_mode & 0o777
    if mode != 0o600:
        raise Failed(f"the file of keys has mode {mode:o}")
    keys = [word for line in m.key_file.read_text().splitlines() for word in ("-o", line)]
    reading = ["tshark", "-r", str(capture), "-o", "esp.enable_encryption_decode:TRUE", *keys, "-Y"]
    found = {
        name: len(m.topology.run("gw1", [*reading, shown]).stdout.splitlines())
        for name, shown in (("pings", "icmp && esp"), ("rekeyings", "isakmp.exchangetype == 36 && isakmp.nonce"))
    }

    if found["pings"] < 10 or found["rekeyings"] < 4:
        raise Failed(f"tshark reads {found}")
    return found


def _by_distinguished_name(m: Meeting) -> Figures:
    """Both are named as swanctl writes it, and as the certificates have it."""
    figures = m.both_ways()
    far = certificates.SUBJECT.format("gw2")
    if m.peering()["certificates"]["remote"] != far or far not in m.sas():
        raise Failed(f"the peers are not called {far}")
    return figures


@dataclass(frozen=True)
class Scenario:
    """One row: a name, how the two are set up, what must happen."""

    name: str
    setting: Setting
    check: Callable[[Meeting], Figures]


def scenarios() -> list[Scenario]:
    """Return all, in order: those that each side begins in turn, then those that are the same whoever begins."""
    by_each = [one for who in ("fwd", "strongSwan") for one in (*_agreed(who), *_refusals(who), *_of_other_makers(who))]
    return by_each + _whoever_begins()


def _agreed(who: str) -> list[Scenario]:
    """List what both sides can agree on when `who` begins."""
    small = {"fragment_size": "600"}
    return [
        Scenario("pre-shared key", Setting(who), _carries),
        Scenario("certificates", Setting(who, "certificates"), _carries),
        Scenario("P-384, AES-128 in ESP", Setting(
            who, fwd_keys={"ike_proposals": ["aes256gcm16-prfsha384-ecp384"],
                           "esp_proposals": ["aes128gcm16-ecp384-esn-noesn"]},
            strongswan={"ike": "aes256gcm16-prfsha384-ecp384", "esp": "aes128gcm16-ecp384"}), _carries),
        Scenario("another group is asked for", Setting(
            who, fwd_keys={"ike_proposals": ["aes256gcm16-prfsha256-x25519-ecp256"
                                             if who == "fwd" else "aes256gcm16-prfsha256-ecp256"]},
            strongswan={"ike": "aes256gcm16-prfsha256-ecp256" if who == "fwd"
                        else "aes256gcm16-prfsha256-x25519-ecp256"}), _carries),
        Scenario("cookies", Setting(who, half_open=20, charon={"block_threshold": "50"}), _cookies),
        Scenario("behind a NAT", Setting(who, nat=who), _behind_nat),
        Scenario("four members", Setting(who, fwd_peering={"members": _MEMBERS}), _many_members),
        Scenario("fragmentation", Setting(who, "certificates", charon=small), _fragmented),
    ]  # fmt: skip


def _refusals(who: str) -> list[Scenario]:
    """List what one of the two refuses when `who` begins."""
    return [
        Scenario("wrong pre-shared key", Setting(who, strongswan={"secret": "another"}),
                 _refused("AUTHENTICATION_FAILED" if who == "fwd" else "another one")),
        Scenario("wrong identity", Setting(who, strongswan={"id": "gw3.example"}),
                 _refused("AUTHENTICATION_FAILED" if who == "fwd" else "AUTH_FAILED")),
        Scenario("no common proposal", Setting(who, strongswan={"ike": "aes256gcm16-prfsha512-ecp521"}),
                 _refused("NO_PROPOSAL_CHOSEN" if who == "fwd" else "NO_PROP")),
        Scenario("expired certificate", Setting(who, "certificates", certificate="expired"),
                 _refused("N(AUTH_FAILED)")),
        Scenario("certificate of a foreign CA", Setting(who, "certificates", certificate="foreign"),
                 _refused("N(AUTH_FAILED)")),
    ]  # fmt: skip


def _whoever_begins() -> list[Scenario]:
    """List what happens alike whoever began."""
    quick = {"rekey_time": 1}
    return [
        Scenario("Child SAs rekeyed by fwd", Setting(fwd_peering=quick), _fwd_rekeys_children),
        Scenario("Child SAs rekeyed by strongSwan", Setting("strongSwan"), _strongswan_rekeys_children),
        Scenario("IKE SA rekeyed by fwd", Setting(fwd_keys={"ike_rekey_time": 2}), _ike_rekeyed),
        Scenario(
            "IKE SA rekeyed by strongSwan", Setting("strongSwan"), lambda m: _ike_rekeyed(m, "--rekey", "--ike", "peer")
        ),
        Scenario(
            "no PFS at strongSwan",
            Setting(fwd_peering={"rekey_time": 3, "life_time": 8}, strongswan={"esp": "aes256gcm16"}),
            _outlives_its_sas,
        ),
        Scenario("fwd authenticates anew", Setting(fwd_keys={"reauth_time": 3}), _ike_rekeyed),
        Scenario(
            "strongSwan authenticates anew, the new IKE SA first",
            # Unless told, its hard limit for the old one is a tenth later, which of 3 s is none: it would break first.
            Setting(
                "strongSwan",
                strongswan={"more": "reauth_time = 3s\nover_time = 5s\nrand_time = 0s"},
                charon={"make_before_break": "yes"},
            ),
            _ike_rekeyed,
        ),
        Scenario("a subnet more, at fwd first", Setting(), partial(_subnets_grow, ours_first=True)),
        Scenario("a subnet more, at strongSwan first", Setting(), partial(_subnets_grow, ours_first=False)),
        Scenario("fwd rekeys, terminates, initiates on command", Setting(), _on_command),
        Scenario("tshark with saved keys", Setting(save_keys=True), _decoded),
        Scenario("narrowed selectors", Setting(strongswan={"local_ts": "10.2.0.0/28"}), _narrowed),
        Scenario("strongSwan deletes the IKE SA", Setting(), _strongswan_deletes),
        Scenario("fwd ends", Setting(), _fwd_ends),
        Scenario("fwd's member dies", Setting(), _member_dies),
        Scenario("strongSwan dies", Setting(fwd_keys={"dpd_delay": 1}), _strongswan_dies),
    ]


def _of_other_makers(who: str) -> list[Scenario]:
    """Certificates with each tool's own defaults, held against its CRL."""
    ours, theirs = (certificates.SUBJECT.format(host) for host in ("gw1", "gw2"))
    names = {"local_id": ours, "remote_id": theirs}
    their_names = {"id": f'"{theirs}"', "peer_id": f'"{ours}"'}
    # easy-rsa's are for TLS servers, and of RSA, with which strongSwan signs as PKCS #1 v1.5 has it unless told.
    tls, pss = {"tls_certificates": True}, {"rsa_pss": "yes"}
    return [
        Scenario("certificates of openssl, distinguished names", Setting(
            who, "certificates", maker="openssl", fwd_keys=names, strongswan=their_names), _by_distinguished_name),
        Scenario("certificates of easy-rsa", Setting(
            who, "certificates", maker="easy-rsa", fwd_keys=tls, charon=pss), _carries),
        Scenario("certificates of strongSwan's pki", Setting(who, "certificates", maker="pki"), _carries),
        Scenario("revoked certificate", Setting(
            who, "certificates", maker="pki", certificate="revoked"), _refused("is revoked by")),
    ]  # fmt: skip


def run(out: Path, only: str = "") -> Iterator[Row]:
    """A row for each scenario whose name has `only` in it, as it ends; writes them all to `out`.

    Raises LabError where there is none.
    """
    rows = []
    for one in scenario.chosen(scenarios(), only):
        with (
            scenario.row(one.name, initiator=one.setting.initiator) as row,
            meeting(one.setting) as met,
            scenario.logged(row, met.logs),
        ):
            row["figures"] = one.check(met)
        rows.append(row)
        yield row
    scenario.write(out, rows)

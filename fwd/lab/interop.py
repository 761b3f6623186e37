"""fwd and strongSwan as each other's IPsec peers: every scenario in a lab of its own, fwd on gw1, strongSwan on gw2.

`fwd lab interop` runs them all and writes one row a scenario: name, who began, whether it passed, figures. A scenario
is a function that is given a `Meeting` and returns its figures; it fails by an exception, whose text is its reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fwd.agent.client import query
from fwd.lab import certificates, tools, traffic
from fwd.lab.charon import Charon
from fwd.lab.topology import SUBNETS, LabError, Topology

SCHEMA: Final = 1
Figures = dict[str, Any]
Names = Mapping[str, str]
NEAR, FAR = SUBNETS["gw1"][0], SUBNETS["gw2"][0]
_WAIT_S = 8.0
_POLL_S = 0.05
_PING_EVERY_S = 0.01
_CHILDREN = 3
_NEVER: Final = (
    "unknown_spi", "not_esp", "replayed", "too_old", "bad_icv", "bad_padding", "bad_next_header", "bad_record",
    "selector_in", "sa_exhausted",
)  # fmt: skip
_STRONGSWAN: Final = """connections {{
  peer {{
    version = 2
    proposals = {ike}
    local_addrs = {near}
    remote_addrs = {far}
    fragmentation = yes
    local {{
      auth = {auth}
      id = {id}
      {certs}
    }}
    remote {{
      auth = {auth}
      id = {peer_id}
    }}
    children {{
      net {{
        esp_proposals = {esp}
        local_ts = {local_ts}
        remote_ts = {remote_ts}
      }}
    }}
  }}
}}
secrets {{
  ike-peer {{
    id-near = {id}
    id-far = {peer_id}
    secret = {secret}
  }}
}}
"""


class Failed(Exception):
    """A scenario did not go as it must."""


@dataclass(frozen=True)
class Setting:
    """How both are configured, where it is not as usual; `auth`: psk or certificates."""

    initiator: str = "fwd"
    auth: str = "psk"
    fwd_peering: Names = field(default_factory=dict)  # TOML values by key
    fwd_keys: Names = field(default_factory=dict)
    strongswan: Names = field(default_factory=dict)  # fields of its connection
    charon: Names = field(default_factory=dict)  # options of the daemon
    certificate: str = ""  # what is wrong with fwd's: expired, foreign


class Meeting:
    """Both gateways, started; what a scenario asks of them."""

    def __init__(self, topology: Topology, charon: Charon, control: Path, process: subprocess.Popen[Any], log: Path):
        self.topology, self.charon = topology, charon
        self._control, self.fwd, self._log = control, process, log

    def fwd_log(self) -> str:
        return self._log.read_text(errors="replace")

    def member(self) -> dict[str, Any]:
        """fwd's only member, as `fwd status --json` has it."""
        found: dict[str, Any] = query(self._control)["peerings"][0]["members"][0]
        return found

    def drops(self) -> dict[str, int]:
        """What should never happen; queues may be full."""
        drops: dict[str, int] = query(self._control)["peerings"][0]["drops"]
        return {name: drops[name] for name in _NEVER if drops[name]}

    def sas(self) -> str:
        """What strongSwan has."""
        return self.charon.swanctl("--list-sas")

    def ping(self, count: int = 3) -> bool:
        argv = ["ping", "-n", "-c", str(count), "-i", "0.05", "-W", "1", self.topology.address("client2")]
        return self.topology.run("client1", argv, check=False).returncode == 0

    def _sends(self) -> bool:
        try:
            return self.member()["spi_out"] is not None
        except OSError:  # its agent is not there yet
            return False

    def until(self, condition: Callable[[], object], what: str, seconds: float = _WAIT_S) -> None:
        deadline_s = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline_s:
                raise Failed(f"not within {seconds:g} s: {what}")
            time.sleep(_POLL_S)

    def carries(self) -> None:
        """A ping passes, and not because nobody keeps it off the wire yet."""
        self.until(self._sends, "fwd has an SA to send on")
        self.until(lambda: self.ping(1), "a ping")
        # strongSwan sends on its newest SA at once, even before its answer has come.
        self.until(lambda: self.sas().count("INSTALLED") >= _CHILDREN, "spare Child SAs")

    def both_ways(self) -> Figures:
        """Pings and TCP in both directions."""
        self.carries()
        there = traffic.run(self.topology, streams=2, seconds=1)
        back = traffic.run(self.topology, streams=2, seconds=1, reverse=True)
        for name, result in (("there", there), ("back", back)):
            if result.received_mbps < 1:
                raise Failed(f"TCP {name}: {result.received_mbps:.1f} Mbit/s")
        if self.drops():
            raise Failed(f"dropped: {self.drops()}")
        return {"there_mbps": round(there.received_mbps), "back_mbps": round(back.received_mbps)}

    @contextlib.contextmanager
    def pinging(self) -> Iterator[Figures]:
        """Pings every 10 ms while the block runs; none may be lost. Fills in how many there were."""
        figures: Figures = {}
        argv = ["ping", "-n", "-q", "-i", str(_PING_EVERY_S), self.topology.address("client2")]
        process = self.topology.popen("client1", argv, stdout=subprocess.PIPE, text=True)
        with tools.ended(process):
            yield figures
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            summary = next(line for line in process.communicate()[0].splitlines() if "transmitted" in line).split()
        sent, got = int(summary[0]), int(summary[3])
        figures |= {"pings": sent, "lost": sent - got}
        # The last one may still be under way.
        if sent - got > 1 or self.drops():
            raise Failed(f"{sent - got} of {sent} pings lost; dropped: {self.drops()}")


@contextlib.contextmanager
def meeting(setting: Setting) -> Iterator[Meeting]:
    """A lab with both, the initiator told to begin; gone when the block ends."""
    topology = Topology("interop")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fwd-interop-")))
        topology.down()
        stack.callback(topology.down)
        topology.up()
        secret = secrets.token_hex(32)
        if setting.auth != "psk":
            certificates.make(directory, setting.certificate)
        charon = Charon(stack, topology, "gw2", directory, setting.charon)
        charon.load(_strongswan(topology, setting, secret))
        control, log = directory / "gw1.sock", directory / "gw1-fwd.log"
        config = _fwd(topology, setting, secret, directory, control)
        with log.open("wb") as output:
            argv = [sys.executable, "-P", "-m", "fwd", "demux", "--config", str(config)]
            process = stack.enter_context(tools.ended(topology.popen("gw1", argv, stdout=output, stderr=output)))
        found = Meeting(topology, charon, control, process, log)
        found.until(control.is_socket, "fwd's control socket")
        if setting.initiator == "strongSwan":
            time.sleep(0.3)
            charon.swanctl("--initiate", "--child", "net", "--timeout", "5", check=False)
        try:
            yield found
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)


def _strongswan(topology: Topology, setting: Setting, secret: str) -> str:
    return _STRONGSWAN.format(**{
        "ike": "aes256gcm16-prfsha384-x25519-ecp384-ecp256", "esp": "aes256gcm16-x25519-ecp384-ecp256",
        "near": topology.outer("gw2"), "far": topology.outer("gw1"),
        "auth": "psk" if setting.auth == "psk" else "pubkey",
        "certs": "" if setting.auth == "psk" else "certs = gw2.pem",
        "id": "gw2.example", "peer_id": "gw1.example", "local_ts": FAR, "remote_ts": NEAR, "secret": secret,
        **setting.strongswan,
    })  # fmt: skip


def _fwd(topology: Topology, setting: Setting, secret: str, directory: Path, control: Path) -> Path:
    peering = {
        "name": '"strongswan"', "local_addrs": f'"{topology.outer("gw1")}"',
        "remote_addrs": f'"{topology.outer("gw2")}"', "local_ts": f'["{NEAR}"]', "remote_ts": f'["{FAR}"]',
        "members": "1", "payload": '"esp"', "shared_port": "true", **setting.fwd_peering,
    }  # fmt: skip
    keys = {
        "local_id": '"gw1.example"', "remote_id": '"gw2.example"',
        "start_action": '"start"' if setting.initiator == "fwd" else '"none"',
    }  # fmt: skip
    if setting.auth == "psk":
        path = directory / "gw1.psk"
        path.write_text(secret)
        keys |= {"source": '"psk"', "secret": f'"{path}"'}
        path.chmod(0o600)
    else:
        keys |= {"source": '"cert"', "certificate": f'"{directory}/gw1.pem"', "key": f'"{directory}/gw1.key"',
                 "authorities": f'"{directory}/x509ca/ca.pem"'}  # fmt: skip
    tables = {
        "[gateway]": {"control": f'"{control}"'},
        "[[peering]]": peering,
        "[peering.keys]": {**keys, **setting.fwd_keys},
    }
    text = "\n".join(
        "\n".join([head, *(f"{key} = {value}" for key, value in table.items())]) for head, table in tables.items()
    )
    config = directory / "gw1.toml"
    config.write_text(text + "\n")
    return config


# -- scenarios ----------------------------------------------------------------------------------------------------


def _carries(m: Meeting) -> Figures:
    return m.both_ways()


def _refused(words: str) -> Callable[[Meeting], Figures]:
    """No tunnel, and one of the two says so."""

    def check(m: Meeting) -> Figures:
        m.until(lambda: words in m.fwd_log() + m.charon.log(), words)
        if m.ping(1):
            raise Failed("a ping passes")
        return {"said": words}

    return check


def _fwd_rekeys_children(m: Meeting) -> Figures:
    m.carries()
    before = m.member()["spi_out"]
    with m.pinging() as figures:
        m.until(lambda: len(m.member()["ledger"]) >= 4, "three more SAs")
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
        m.until(lambda: _ike_spi(m) not in ("", before), "another IKE SA")
        time.sleep(1.0)
    m.carries()
    return figures


def _strongswan_deletes(m: Meeting) -> Figures:
    """fwd begins anew."""
    m.carries()
    m.charon.swanctl("--terminate", "--ike", "peer")
    m.until(lambda: "IKE SA is closed" in m.fwd_log(), "fwd notices")
    m.until(lambda: "ESTABLISHED" in m.sas(), "another IKE SA")
    m.carries()
    return {}


def _fwd_ends(m: Meeting) -> Figures:
    m.carries()
    m.fwd.terminate()
    m.until(lambda: "ESTABLISHED" not in m.sas(), "strongSwan has no IKE SA")
    return {}


def _member_dies(m: Meeting) -> Figures:
    """Its successor sends on a spare: another of strongSwan's Child SAs."""
    m.carries()
    time.sleep(0.5)
    before = m.member()
    os.kill(before["pid"], signal.SIGKILL)
    m.until(lambda: m.member()["spi_out"] not in (None, before["spi_out"]), "another SA")
    m.carries()
    return {}


def _strongswan_dies(m: Meeting) -> Figures:
    m.carries()
    start = time.monotonic()
    m.charon.process.kill()
    m.until(lambda: "the peer does not answer" in m.fwd_log(), "fwd notices", 60.0)
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


@dataclass(frozen=True)
class Scenario:
    """One row: a name, how the two are set up, what must happen."""

    name: str
    setting: Setting
    check: Callable[[Meeting], Figures]


def scenarios() -> list[Scenario]:
    """All, in order."""
    found: list[Scenario] = []
    for who in ("fwd", "strongSwan"):
        small = {"fragment_size": "600"}
        found += [
            Scenario("pre-shared key", Setting(who), _carries),
            Scenario("certificates", Setting(who, "certificates"), _carries),
            Scenario("P-384, AES-128 in ESP", Setting(
                who, fwd_keys={"ike_proposals": '["aes256gcm16-prfsha384-ecp384"]',
                               "esp_proposals": '["aes128gcm16-ecp384-esn-noesn"]'},
                strongswan={"ike": "aes256gcm16-prfsha384-ecp384", "esp": "aes128gcm16-ecp384"}), _carries),
            Scenario("another group is asked for", Setting(
                who, fwd_keys={"ike_proposals": '["aes256gcm16-prfsha256-x25519-ecp256"]'
                               if who == "fwd" else '["aes256gcm16-prfsha256-ecp256"]'},
                strongswan={"ike": "aes256gcm16-prfsha256-ecp256" if who == "fwd"
                            else "aes256gcm16-prfsha256-x25519-ecp256"}), _carries),
            Scenario("fragmentation", Setting(who, "certificates", charon=small), _fragmented),
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
    quick = {"rekey_time": "1"}
    found += [
        Scenario("Child SAs rekeyed by fwd", Setting(fwd_peering=quick), _fwd_rekeys_children),
        Scenario("Child SAs rekeyed by strongSwan", Setting("strongSwan"), _strongswan_rekeys_children),
        Scenario("IKE SA rekeyed by fwd", Setting(fwd_keys={"ike_rekey_time": "2"}), _ike_rekeyed),
        Scenario(
            "IKE SA rekeyed by strongSwan", Setting("strongSwan"), lambda m: _ike_rekeyed(m, "--rekey", "--ike", "peer")
        ),
        Scenario("narrowed selectors", Setting(strongswan={"local_ts": "10.2.0.0/28"}), _narrowed),
        Scenario("strongSwan deletes the IKE SA", Setting(), _strongswan_deletes),
        Scenario("fwd ends", Setting(), _fwd_ends),
        Scenario("fwd's member dies", Setting(), _member_dies),
        Scenario("strongSwan dies", Setting(fwd_keys={"dpd_delay": "1"}), _strongswan_dies),
    ]
    return found


def run(out: Path, only: str = "") -> Iterator[dict[str, Any]]:
    """A row for each scenario whose name has `only` in it, as it ends; writes them all to `out`.

    Raises LabError where there is none.
    """
    chosen = [one for one in scenarios() if only in one.name]
    if not chosen:
        raise LabError(f"no scenario has {only!r} in its name")
    rows = []
    for one in chosen:
        rows.append(_row(one))
        yield rows[-1]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"schema": SCHEMA, "scenarios": rows}, indent=1) + "\n")


def _row(one: Scenario) -> dict[str, Any]:
    row: dict[str, Any] = {"name": one.name, "initiator": one.setting.initiator, "passed": True, "figures": {}}
    start = time.monotonic()
    try:
        with meeting(one.setting) as met:
            try:
                row["figures"] = one.check(met)
            except (Failed, LabError, OSError) as error:
                row |= {"passed": False, "reason": str(error), "fwd": met.fwd_log()[-3000:],
                        "strongswan": met.charon.log()[-3000:]}  # fmt: skip
    except (LabError, Failed) as error:
        row |= {"passed": False, "reason": str(error)}
    row["seconds"] = round(time.monotonic() - start, 1)
    return row

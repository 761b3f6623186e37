"""fwd on gw1 and strongSwan on gw2 of a lab of their own, as each other's IPsec peers, and what one asks of them.

`meeting(setting)` brings both up, tells the initiator to begin, and is gone when its block ends. Refuses: programs that
are missing or do not start (`LabError`). What does not go as it must is `Failed`, with its reason.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fwd.lab import certificates, told, tools, traffic
from fwd.lab.charon import Charon, connection
from fwd.lab.gateway import Gateway, peering
from fwd.lab.scenario import Failed, Figures
from fwd.lab.told import Told
from fwd.lab.topology import SUBNETS, Topology
from fwd.lab.waiting import Daemon, until
from fwd.lab.world import LabError

Names = Mapping[str, str]
NEAR, FAR = SUBNETS["gw1"][0], SUBNETS["gw2"][0]
_START_S = 30.0  # on a busy machine
_PING_EVERY_S = 0.01
_KEYS = "gw1.keys"
_NEVER: Final = (
    "unknown_spi", "not_esp", "replayed", "too_old", "bad_icv", "bad_padding", "bad_next_header", "bad_record",
    "selector_in", "sa_exhausted",
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """How both are configured, where it is not as usual; `auth`: psk or certificates."""

    initiator: str = "fwd"
    auth: str = "psk"
    fwd_peering: Mapping[str, Any] = field(default_factory=dict)
    fwd_keys: Mapping[str, Any] = field(default_factory=dict)
    strongswan: Names = field(default_factory=dict)  # fields of its connection
    charon: Names = field(default_factory=dict)  # options of the daemon
    certificate: str = ""  # what is wrong with fwd's: expired, foreign; or with strongSwan's: revoked
    maker: str = "fwd"  # what makes the certificates (certificates.py); other tools' come with a CRL
    nat: str = ""  # whom a router in between hides behind its own address: fwd, strongSwan
    half_open: int = 0  # attempts of others that the responder has to do with when the initiator begins
    save_keys: bool = False


class Meeting(Told):
    """Both gateways, started; what a scenario asks of them."""

    def __init__(
        self, topology: Topology, charon: Charon, gateway: Gateway, process: subprocess.Popen[Any], hidden: str
    ) -> None:
        self.topology, self.charon, self.directory = topology, charon, gateway.directory
        self.hidden = hidden  # who is behind a NAT
        self._gateway, self.fwd = gateway, process
        self.key_file = self.directory / _KEYS

    def control(self, host: str) -> Path:
        """Where fwd is asked; strongSwan is not."""
        assert host == "gw1"
        return self._gateway.control

    def fwd_log(self) -> str:
        return self._gateway.logged()

    def logs(self) -> Names:
        """Return what both have logged."""
        return {"fwd": self.fwd_log(), "strongswan": self.charon.log()}

    def fwd_command(self, *words: str) -> str:
        """A command of fwd's, such as rekey; what it prints. Raises LabError when it fails."""
        argv = [sys.executable, "-P", "-m", "fwd", *words, "--control", str(self._gateway.control)]
        done = self.topology.run("gw1", argv, check=False)
        if done.returncode:
            raise LabError(f"fwd {words[0]}: {done.stderr.strip()}")
        return done.stdout.strip()

    def faults(self) -> dict[str, int]:
        """Drops that should never happen; queues may be full."""
        drops = self.drops()
        return {name: drops[name] for name in _NEVER if drops[name]}

    def sas(self) -> str:
        """What strongSwan has."""
        return self.charon.swanctl("--list-sas")

    def ping(self, count: int = 3, *, back: bool = False) -> bool:
        """From fwd's client to strongSwan's, or `back`."""
        return self.topology.ping(host="client2" if back else "client1", count=count)

    def _sends(self) -> bool:
        status = told.asked(self._gateway.control)  # its agent may not be there yet
        return status is not None and all(member["spi_out"] is not None for member in status["peerings"][0]["members"])

    def carries(self) -> None:
        """A ping passes, and not because nobody keeps it off the wire yet."""
        until(self._sends, "fwd has an SA to send on")
        until(lambda: self.ping(1), "a ping")

    def both_ways(self) -> Figures:
        """Pings and TCP in both directions."""
        self.carries()
        there = traffic.run(self.topology, streams=2, seconds=1)
        back = traffic.run(self.topology, streams=2, seconds=1, reverse=True)
        for name, result in (("there", there), ("back", back)):
            if result.received_mbps < 1:
                raise Failed(f"TCP {name}: {result.received_mbps:.1f} Mbit/s")
        if self.faults():
            raise Failed(f"dropped: {self.faults()}")
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
        if sent - got > 1 or self.faults():
            raise Failed(f"{sent - got} of {sent} pings lost; dropped: {self.faults()}")


@contextlib.contextmanager
def meeting(setting: Setting) -> Iterator[Meeting]:
    """A lab with both, the initiator told to begin; gone when the block ends."""
    topology = Topology("interop", router=bool(setting.nat))
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fwd-interop-")))
        topology.down()
        stack.callback(topology.down)
        topology.up()
        if setting.nat:
            hide(topology, setting.nat)

        # Credentials, and strongSwan before fwd, so that it can answer.
        secret = secrets.token_hex(32)
        if setting.auth != "psk":
            certificates.make(directory, setting.certificate, setting.maker)
        charon = Charon(stack, topology, "gw2", directory, setting.charon)
        charon.load(_strongswan(topology, setting, secret))
        if setting.half_open and setting.initiator == "fwd":
            crowd(topology, "gw1", "gw2", setting.half_open)

        # fwd, as a user runs it.
        gateway = Gateway(directory, "gw1")
        _configure(gateway, topology, setting, secret)
        arguments = ["--save-keys", str(directory / _KEYS)] if setting.save_keys else []
        with gateway.log.open("wb") as output:
            argv = gateway.command(*arguments)
            process = stack.enter_context(tools.ended(topology.popen("gw1", argv, stdout=output, stderr=output)))
        found = Meeting(topology, charon, gateway, process, setting.nat)
        needed = [Daemon.of("fwd", process, gateway.log)]
        until(gateway.control.is_socket, "fwd's control socket", _START_S, needed)

        if setting.initiator == "strongSwan":
            time.sleep(0.3)
            if setting.half_open:
                crowd(topology, "gw2", "gw1", setting.half_open)
            charon.swanctl("--initiate", "--child", "net", "--timeout", "5", check=False)

        try:
            yield found
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)


def crowd(topology: Topology, host: str, to: str, count: int) -> None:
    """Attempts from a host's address to begin IKE, that nobody goes on with."""
    argv = [sys.executable, "-P", "-m", "fwd.lab.flood", "begin", "--to", topology.outer(to), "--count", str(count)]
    topology.run(host, [*argv, "--sources", topology.outer(host)])


def hide(topology: Topology, who: str, ports: str = "20000-30000") -> None:
    """The router translates whatever comes from one of the two to its own address and other ports; what it had
    translated before it forgets.
    """
    rules = f"""flush ruleset
        table ip lab {{
          chain hide {{
            type nat hook postrouting priority srcnat;
            oifname "{"wan2" if who == "fwd" else "wan1"}" meta l4proto udp masquerade to :{ports}
          }}
        }}
        """
    topology.run("router", ["nft", "-f", "-"], input=rules)
    forget = "from pyroute2 import NFCTSocket; NFCTSocket().flush()"
    topology.run("router", [sys.executable, "-P", "-c", forget])


def _seen(topology: Topology, setting: Setting, host: str) -> str:
    """Where the far side sees a host."""
    if setting.nat == {"gw1": "fwd", "gw2": "strongSwan"}[host]:
        return topology.address("router", "wan2" if host == "gw1" else "wan1")
    return topology.outer(host)


def _strongswan(topology: Topology, setting: Setting, secret: str) -> str:
    return connection(**{
        "ike": "aes256gcm16-prfsha384-x25519-ecp384-ecp256", "esp": "aes256gcm16-x25519-ecp384-ecp256",
        "near": topology.outer("gw2"), "far": _seen(topology, setting, "gw1"),
        "auth": "psk" if setting.auth == "psk" else "pubkey",
        "certs": "" if setting.auth == "psk" else "certs = gw2.pem",
        "id": "gw2.example", "peer_id": "gw1.example", "local_ts": FAR, "remote_ts": NEAR, "secret": secret,
        **setting.strongswan,
    })  # fmt: skip


def _configure(gateway: Gateway, topology: Topology, setting: Setting, secret: str) -> None:
    """Write fwd's configuration and credentials."""
    settings: dict[str, Any] = {
        "name": "strongswan", "remote_addrs": _seen(topology, setting, "gw2"), "local_ts": [NEAR], "remote_ts": [FAR],
        "members": 1, "payload": "esp", "shared_port": True, **setting.fwd_peering,
    }  # fmt: skip
    keys: dict[str, Any] = {
        "local_id": "gw1.example", "remote_id": "gw2.example",
        "start_action": "start" if setting.initiator == "fwd" else "none",
    }  # fmt: skip

    # Credentials: a secret, or files as the maker of certificates has written them.
    if setting.auth == "psk":
        gateway.write_secret(secret.encode())
        keys |= {"source": "psk", "secret": str(gateway.secret)}
    else:
        directory = gateway.directory
        keys |= {"source": "cert", "certificate": f"{directory}/gw1.pem", "key": f"{directory}/gw1.key",
                 "authorities": f"{directory}/x509ca/ca.pem"}  # fmt: skip
        if setting.maker != "fwd":
            keys |= {"crls": [f"{directory}/ca.crl"], "crl_policy": "strict"}

    # The scenario's own settings come last.
    (pairing,) = topology.pairings("gw1")
    gateway.configure([peering(topology, "gw1", pairing, {**keys, **setting.fwd_keys}, **settings)], {})

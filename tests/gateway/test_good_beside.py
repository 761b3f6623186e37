"""Peerings whose keys end, each for another reason, on gateways with a good peering beside; with short lives.

Each of them carries until then, ends by itself, and says why in status and log. The good one loses nothing.
"""

from __future__ import annotations

import datetime
import os
import re
import secrets
import signal
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from gwkit import Json, MakePair, Pair, until

from fwd.keyd import generate
from fwd.lab.topology import GATEWAYS

HERE = Path(__file__).parent
NAMES = ("good", "changed", "revoked", "silent", "refusing", "no-pfs")
LIFE = {"rekey_time": 3, "life_time": 6}


def index(name: str) -> int:
    return NAMES.index(name)


def address(host: str, name: str, last: int) -> str:
    return f"10.{host[-1]}.{index(name)}.{last}"


def ike_port(name: str) -> int:
    """One of its own, so that peerings between the same addresses are told apart by it."""
    return 501 + index(name)


def path(pair: Pair, name: str) -> Path:
    return pair.topology.run_dir / name


def write(where: Path, data: bytes) -> None:
    where.unlink(missing_ok=True)
    where.touch(mode=0o600)
    where.write_bytes(data)


def crl(ca: generate.Pair, *revoked: generate.Pair) -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.certificate.subject).last_update(now - day)
    for pair in revoked:
        one = x509.RevokedCertificateBuilder().serial_number(pair.certificate.serial_number).revocation_date(now - day)
        builder = builder.add_revoked_certificate(one.build())
    return builder.next_update(now + day).sign(ca.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def keys(pair: Pair, name: str) -> Json:
    """What the peering's keys have on each host, of which all files are written."""
    found: Json = {host: {"ike_port": ike_port(name)} for host in GATEWAYS}
    if name == "changed":
        for host in GATEWAYS:
            write(path(pair, f"changed-{host}"), b"before-%s" % pair.secret.hex().encode())
            found[host] |= {"secret": str(path(pair, f"changed-{host}")), "grace": 3}
    if name == "no-pfs":
        found["gw2"] |= {"esp_proposals": ["aes256gcm16-noesn"]}
    if name == "revoked":
        for host, far in (GATEWAYS, GATEWAYS[::-1]):
            found[host] |= {
                "source": "cert", "secret": None, "local_id": f"{host}.example", "remote_id": f"{far}.example",
                "certificate": str(path(pair, f"{host}.pem")), "key": str(path(pair, f"{host}.key")),
                "authorities": str(path(pair, "ca.pem")), "crls": [str(path(pair, "ca.crl"))],
            }  # fmt: skip
    return found


class Beside:
    """The gateways, and what becomes of each peering."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.ca = generate.authority()
        self.certified = {host: generate.issue(self.ca, f"{host}.example", 1) for host in GATEWAYS}
        self.outlived = False
        self.lost = -1  # of the good one's probes, once all has ended
        self.said: dict[str, str] = {}  # by the status, of each that has ended

    def start(self) -> None:
        pair = self.pair
        pair.secret = os.urandom(32)
        write(path(pair, "refuse"), b"\0")
        write(path(pair, "ca.pem"), self.ca.certificate_pem())
        write(path(pair, "ca.crl"), crl(self.ca))
        for host, one in self.certified.items():
            write(path(pair, f"{host}.pem"), one.certificate_pem())
            write(path(pair, f"{host}.key"), one.key_pem())
        for name in NAMES[1:]:
            for gateway, client in (("gw1", "client1"), ("gw2", "client2")):
                pair.topology.run(client, ["ip", "addr", "add", f"{address(gateway, name, 10)}/24", "dev", "eth0"])
                pair.topology.run(gateway, ["ip", "addr", "add", f"{address(gateway, name, 1)}/24", "dev", "lan"])
        pair.peerings = [
            {
                "name": name,
                "subnets": {host: [f"{address(host, name, 0)}/24"] for host in GATEWAYS},
                "tun": f"fwd{i}", "port": 4500 + 10 * i, "members": 1 if i else 2,
                "keys": keys(pair, name),
                **(LIFE if i else {}),
            }
            for i, name in enumerate(NAMES)
        ]  # fmt: skip
        for host in GATEWAYS:
            if host == "gw2":
                pair.program = [str(HERE / "refusing.py"), str(path(pair, "refuse")), "refusing"]
            pair.launch(host)
        pair.wait_ready(seconds=30.0)
        for name in NAMES:
            until(lambda name=name: self.carries(name), 20.0, f"{name} carries")  # type: ignore[misc]

    def carries(self, name: str) -> bool:
        source, to = address("gw1", name, 10), address("gw2", name, 10)
        return self.pair.ping("-I", source, "-W", "0.5", to=to)

    def end_all(self) -> None:
        """Two whose far keyd is of no help any more, then two by what SIGHUP reads; one goes on."""
        pair = self.pair
        first = self.spi_out("no-pfs")
        with pair.probes(pair.flow_ports(2), seconds=150.0) as got:
            with path(pair, "refuse").open("r+b") as flag:
                flag.write(b"\1")
            port = ike_port("silent")
            rules = f"udp dport {port} drop; udp sport {port} drop;"
            hooks = "".join(
                f"chain {hook} {{ type filter hook {hook} priority -350; {rules} }}\n" for hook in ("input", "output")
            )
            pair.nft("gw2", f"table inet silent {{ {hooks} }}\n")
            self.see_end("silent", "refusing")

            write(path(pair, "changed-gw1"), b"after-%s" % secrets.token_hex(32).encode())
            write(path(pair, "ca.crl"), crl(self.ca, self.certified["gw2"]))
            pair.running["gw1"].send_signal(signal.SIGHUP)
            self.see_end("changed", "revoked")
            until(lambda: self.spi_out("no-pfs") not in (None, first), 20.0, "another SA without PFS")
            self.outlived = self.carries("no-pfs")
        self.lost = sum(arrived.lost for arrived in got.values())

    def spi_out(self, name: str) -> Any:
        return self.pair.peering("gw1", index(name))["members"][0]["spi_out"]

    def see_end(self, *names: str) -> None:
        for name in names:
            until(lambda name=name: not self.carries(name), 25.0, f"the end of {name}")  # type: ignore[misc]
            self.said[name] = until(lambda name=name: self.not_ready(name), 10.0, f"{name} to be not ready, and why")  # type: ignore[misc]

    def not_ready(self, name: str) -> str:
        """Why a peering has no SA to send on, once keyd has told."""
        lines = self.pair.status("gw1")["not_ready"]
        return next((line for line in lines if line.startswith(f"{name}: member 0 has no SA to send on: ")), "")


@pytest.fixture(scope="module")
def beside(module_pairs: MakePair) -> Beside:
    found = Beside(module_pairs(start=False, keys={"source": "psk"}))
    found.start()
    found.end_all()
    return found


def test_the_good_one_loses_nothing(beside: Beside) -> None:
    assert beside.lost == 0


@pytest.mark.parametrize(
    ("name", "status", "log"),
    [
        ("silent", r"the peer does not answer, for \d+ s now", "the peer does not answer"),
        (
            "refusing",
            r"the peer refuses every rekeying \(NO_ADDITIONAL_SAS\)",
            "refused by the peer: NO_ADDITIONAL_SAS",
        ),
        ("changed", "the secret, CAs or identities have changed", "the secret, CAs or identities have changed"),
        ("revoked", r"\(CN=gw2.example\) is revoked by the CRL", "(CN=gw2.example) is revoked by the CRL"),
    ],
)
def test_one_whose_keys_have_ended_says_why(beside: Beside, name: str, status: str, log: str) -> None:
    assert re.fullmatch(rf"{name}: member 0 has no SA to send on: .*{status}.*", beside.said[name])
    assert any(f"{name}: " in line and log in line for line in beside.pair.log("gw1").splitlines())


def test_one_without_pfs_outlives_its_sas(beside: Beside) -> None:
    assert beside.outlived

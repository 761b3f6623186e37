"""fwd beside OpenVPN: the same lab, the same traffic, in turns, so that drift cancels. Needs root and Debian's openvpn.

    python bench/openvpn.py [ROUNDS] [SECONDS]

Each round runs 4 iperf3 TCP streams through fwd (superpacket, 4 members) and through OpenVPN (AES-256-GCM, no kernel
offload). The result, in build/bench/openvpn.json, is the ratio of each round, with median and spread.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fwd.lab import gateways, traffic
from fwd.lab.topology import GATEWAYS, Topology, why_not

STREAMS = 4
MEMBERS = 4
AT_LEAST = 2.5
OUT = Path("build/bench/openvpn.json")
_UP_S = 20.0
_FAR = {"gw1": ("gw2", "10.2.0.0"), "gw2": ("gw1", "10.1.0.0")}


def self_signed(directory: Path, name: str) -> str:
    """A key and a certificate as NAME.key and NAME.crt; returns the certificate's SHA-256 fingerprint."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (directory / f"{name}.key").write_bytes(key.private_bytes(pem, form, plain))
    (directory / f"{name}.crt").write_bytes(certificate.public_bytes(pem))
    return certificate.fingerprint(hashes.SHA256()).hex(":")


@contextlib.contextmanager
def openvpn(topology: Topology) -> Iterator[None]:
    """Both ends of an OpenVPN tunnel that routes the two subnets; gone when the block ends."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as undo:
        directory = Path(name)
        prints = {host: self_signed(directory, host) for host in GATEWAYS}
        for place, host in enumerate(GATEWAYS, 1):
            far, subnet = _FAR[host]
            role = ["--tls-server", "--dh", "none"] if place == 1 else ["--tls-client"]
            argv = [
                *("openvpn", "--dev", "tun0", "--proto", "udp", "--lport", "1194"),
                *("--remote", topology.outer(far), "1194", "--ifconfig", f"10.9.0.{place}", f"10.9.0.{3 - place}"),
                *("--cert", f"{host}.crt", "--key", f"{host}.key", "--peer-fingerprint", prints[far]),
                *("--data-ciphers", "AES-256-GCM", "--disable-dco", "--sndbuf", "4194304", "--rcvbuf", "4194304"),
                *("--route", subnet, "255.255.255.0", *role, "--verb", "1"),
            ]
            process = topology.popen(host, argv, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            undo.callback(process.wait)
            undo.callback(process.terminate)
        wait_reachable(topology)
        yield


@contextlib.contextmanager
def fwd(topology: Topology) -> Iterator[None]:
    """Both fwd gateways; gone when the block ends."""
    gateways.start(topology, members=MEMBERS)
    try:
        wait_reachable(topology)
        yield
    finally:
        gateways.stop(topology)


def wait_reachable(topology: Topology) -> None:
    """Until client2 answers client1 through the tunnel, which both gateways' routes must show."""
    deadline_s = time.monotonic() + _UP_S
    to = topology.address("client2")
    while True:
        route = topology.run("gw1", ["ip", "route", "get", to]).stdout
        tunnelled = "dev tun0" in route or "dev fwd0" in route
        if tunnelled and topology.run("client1", ["ping", "-c1", "-W1", to], check=False).returncode == 0:
            return
        if time.monotonic() > deadline_s:
            raise SystemExit("openvpn.py: the tunnel does not come up")
        time.sleep(0.1)


def measure(rounds: int, seconds: float) -> dict[str, Any]:
    """Alternate; returns what goes into the result."""
    topology = Topology("fwd-vs")
    topology.up()
    figures: dict[str, list[float]] = {"fwd": [], "openvpn": []}
    try:
        for number in range(rounds):
            for tunnel in (fwd, openvpn) if number % 2 == 0 else (openvpn, fwd):
                with tunnel(topology):
                    mbps = traffic.run(topology, streams=STREAMS, seconds=seconds).received_mbps
                figures[tunnel.__name__].append(mbps)
                print(f"round {number + 1}: {tunnel.__name__:8} {mbps:7.0f} Mbit/s", flush=True)
    finally:
        gateways.stop(topology)
        topology.down()
    ratios = [a / b for a, b in zip(figures["fwd"], figures["openvpn"], strict=True)]
    return {
        "schema": 1,
        "streams": STREAMS,
        "members": MEMBERS,
        "seconds": seconds,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "mbps": figures,
        "ratios": ratios,
        "ratio_median": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
    }


def main() -> int:
    """Exit status 1 if the median ratio falls short, 2 if this machine cannot run it."""
    if reason := why_not():
        print(f"openvpn.py: {reason}", file=sys.stderr)
        return 2
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    result = measure(rounds, float(sys.argv[2]) if len(sys.argv) > 2 else 5.0)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    median, low, high = (result[f"ratio_{which}"] for which in ("median", "low", "high"))
    print(f"fwd / OpenVPN: {median:.2f} ({low:.2f} to {high:.2f}), wanted {AT_LEAST}; {OUT}")
    return 0 if median >= AT_LEAST else 1


if __name__ == "__main__":
    sys.exit(main())

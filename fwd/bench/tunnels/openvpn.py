"""OpenVPN over UDP: TLS with two self-signed certificates, AES-256-GCM, large socket buffers, no kernel offload.

Debian's as it is installed, or another version; each has a name of its own, such as `openvpn-2.6`.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fwd.bench.tunnels.peer import FAR, SUBNET, Peer, Program, first_line, named, require, start, wait_reachable
from fwd.lab.topology import GATEWAYS, Topology
from fwd.lab.waiting import Daemon

_PORT = "1194"
_INSIDE = {"gw1": "10.9.0.1", "gw2": "10.9.0.2"}
_BUFFER_BYTES = str(4 << 20)
VERSION: Final = r"OpenVPN (\d+\.\d+)"  # what the name says of it
_INSTALLED = Program(("openvpn",))
_LIFE = datetime.timedelta(days=1)


def peer(program: Program = _INSTALLED) -> Peer:
    if program == _INSTALLED:
        require("openvpn", "openvpn")
    version = " ".join(first_line([*program.argv, "--version"]).split()[:2])
    name = named("openvpn", version, VERSION)
    settings = "AES-256-GCM, UDP, no DCO, socket buffers of 4 MiB"
    return Peer(name, version, settings, partial(tunnel, argv=program.argv), program.source)


@contextlib.contextmanager
def tunnel(topology: Topology, argv: Sequence[str]) -> Iterator[None]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fwd-bench-")))
        prints = {host: _self_signed(directory, host) for host in GATEWAYS}
        daemons: list[Daemon] = []
        for host in GATEWAYS:
            words = [*argv, *_options(topology, host, prints[FAR[host]])]
            daemons.append(start(stack, topology, host, words, directory, cwd=directory))
        wait_reachable(topology, daemons, "openvpn")
        yield


def _options(topology: Topology, host: str, fingerprint: str) -> list[str]:
    far = FAR[host]
    subnet = ipaddress.IPv4Network(SUBNET[far])
    role = ["--tls-server", "--dh", "none"] if host == "gw1" else ["--tls-client"]
    return [
        *("--dev", "tun0", "--proto", "udp", "--lport", _PORT),
        *("--remote", topology.outer(far), _PORT, "--ifconfig", _INSIDE[host], _INSIDE[far]),
        *("--cert", f"{host}.crt", "--key", f"{host}.key", "--peer-fingerprint", fingerprint),
        *("--data-ciphers", "AES-256-GCM", "--disable-dco", "--sndbuf", _BUFFER_BYTES, "--rcvbuf", _BUFFER_BYTES),
        *("--route", str(subnet.network_address), str(subnet.netmask), *role, "--verb", "1"),
    ]


def _self_signed(directory: Path, name: str) -> str:
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
        .not_valid_before(now - _LIFE)
        .not_valid_after(now + _LIFE)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (directory / f"{name}.key").write_bytes(key.private_bytes(pem, form, plain))
    (directory / f"{name}.crt").write_bytes(certificate.public_bytes(pem))
    return certificate.fingerprint(hashes.SHA256()).hex(":")

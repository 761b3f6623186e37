"""Certificates for both gateways of the lab, in a directory: fwd's on gw1, strongSwan's on gw2.

    x509ca/ca.pem, x509/gw2.pem, private/gw2.key     where swanctl looks for them
    gw1.pem, gw1.key                                 fwd's

`fault` makes fwd's certificate wrong: "expired", or "foreign" (of a CA that nobody knows).
"""

from __future__ import annotations

from pathlib import Path

from fwd.keyd import generate


def make(directory: Path, fault: str = "") -> None:
    """Write them all."""
    ca = generate.authority()
    for name in ("x509ca", "x509", "private"):
        (directory / name).mkdir(exist_ok=True)
    (directory / "x509ca/ca.pem").write_bytes(ca.certificate_pem())
    ours = generate.issue(
        generate.authority() if fault == "foreign" else ca, "gw1.example", -1 if fault == "expired" else 1
    )
    theirs = generate.issue(ca, "gw2.example", 1)
    for pair, certificate, key in (
        (ours, directory / "gw1.pem", directory / "gw1.key"),
        (theirs, directory / "x509/gw2.pem", directory / "private/gw2.key"),
    ):
        certificate.write_bytes(pair.certificate_pem())
        key.touch(mode=0o600)
        key.write_bytes(pair.key_pem())

"""Certificates for both gateways of the lab, in a directory: fwd's on gw1, strongSwan's on gw2.

    x509ca/ca.pem, x509/gw2.pem, private/gw2.key     where swanctl looks for them
    gw1.pem, gw1.key, ca.crl                         fwd's

`maker` is the tool that makes them, with its own defaults: fwd, openssl, easy-rsa, or strongSwan's pki. `fault` makes
fwd's certificate wrong: "expired", or "foreign" (of a CA that nobody knows); or "revoked": strongSwan's, in the CRL.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from fwd.keyd import generate
from fwd.lab.world import LabError

EASYRSA: Final = "/usr/share/easy-rsa/easyrsa"
SUBJECT: Final = "C=DE, O=Example, CN={}"  # of what openssl and pki make
_CA, _CERTIFICATES, _KEYS = "x509ca/ca.pem", {"gw1": "gw1.pem", "gw2": "x509/gw2.pem"}, {
    "gw1": "gw1.key", "gw2": "private/gw2.key"
}  # fmt: skip

# What a user would type. $REVOKED is gw2 if its certificate is revoked, else empty.
_OPENSSL: Final = """
EC="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
openssl req -x509 $EC -keyout ca.key -subj "/C=DE/O=Example/CN=CA" -days 30 -out ca.pem
for gw in gw1 gw2; do
  openssl req -new $EC -keyout $gw.key -subj "/C=DE/O=Example/CN=$gw" -out $gw.csr
  echo "subjectAltName = DNS:$gw.example" > $gw.ext
  openssl x509 -req -in $gw.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile $gw.ext -out $gw.pem
done
touch index.txt; echo 01 > crlnumber
printf '[ca]\\ndefault_ca = c\\n[c]\\ndatabase = index.txt\\ncrlnumber = crlnumber\\ndefault_md = sha256\\n' > ca.cnf
CA="openssl ca -config ca.cnf -cert ca.pem -keyfile ca.key"
[ -z "$REVOKED" ] || $CA -revoke $REVOKED.pem
$CA -gencrl -crldays 7 -out ca.crl
"""
_EASYRSA: Final = """
RSA="$EASYRSA --batch --pki-dir=$PWD/pki"
$RSA init-pki
$RSA --req-cn="Easy-RSA CA" build-ca nopass
for gw in gw1 gw2; do
  $RSA --subject-alt-name=DNS:$gw.example build-server-full $gw nopass
  cp pki/private/$gw.key . && cp pki/issued/$gw.crt $gw.pem
done
[ -z "$REVOKED" ] || $RSA revoke $REVOKED
$RSA gen-crl
cp pki/ca.crt ca.pem && cp pki/crl.pem ca.crl
"""
_PKI: Final = """
pki --gen --type rsa --size 3072 --outform pem > ca.key
pki --self --ca --lifetime 30 --in ca.key --dn "C=DE, O=Example, CN=CA" --outform pem > ca.pem
for gw in gw1 gw2; do
  pki --gen --type ecdsa --size 384 --outform pem > $gw.key
  pki --pub --in $gw.key --type ecdsa > $gw.pub
  pki --issue --lifetime 30 --cacert ca.pem --cakey ca.key --in $gw.pub --dn "C=DE, O=Example, CN=$gw" \\
    --san $gw.example --outform pem > $gw.pem
done
pki --signcrl --cacert ca.pem --cakey ca.key ${REVOKED:+--cert $REVOKED.pem} --lifetime 7 --outform pem > ca.crl
"""
_MAKERS: Final = {
    "openssl": (_OPENSSL, "openssl", "openssl"),
    "easy-rsa": (_EASYRSA, EASYRSA, "easy-rsa"),
    "pki": (_PKI, "pki", "strongswan-pki"),
}


def require() -> None:
    """Raises LabError if a tool that makes certificates is not there."""
    for _, command, package in _MAKERS.values():
        if shutil.which(command) is None:
            raise LabError(f"the command {command} is missing: install {package}")


def make(directory: Path, fault: str = "", maker: str = "fwd") -> None:
    """Write them all. Raises LabError when the tool fails."""
    for name in ("x509ca", "x509", "private"):
        (directory / name).mkdir(exist_ok=True)
    if maker == "fwd":
        _by_fwd(directory, fault)
    else:
        _by_tool(directory, fault, maker)


def _by_fwd(directory: Path, fault: str) -> None:
    ca = generate.authority()
    (directory / _CA).write_bytes(ca.certificate_pem())
    ours = generate.issue(
        generate.authority() if fault == "foreign" else ca, "gw1.example", -1 if fault == "expired" else 1
    )
    for host, pair in (("gw1", ours), ("gw2", generate.issue(ca, "gw2.example", 1))):
        (directory / _CERTIFICATES[host]).write_bytes(pair.certificate_pem())
        _write_key(directory / _KEYS[host], pair.key_pem())


def _by_tool(directory: Path, fault: str, maker: str) -> None:
    place = directory / maker
    place.mkdir()
    revoked = "gw2" if fault == "revoked" else ""
    environment = {**os.environ, "EASYRSA": EASYRSA, "REVOKED": revoked}
    done = subprocess.run(
        ["sh", "-ec", _MAKERS[maker][0]], check=False, cwd=place, env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    if done.returncode:
        raise LabError(f"certificates of {maker}: {done.stdout.strip().rpartition(chr(10))[2]}")
    for source, target in (("ca.pem", _CA), ("ca.crl", "ca.crl"), *((f"{h}.pem", p) for h, p in _CERTIFICATES.items())):
        (directory / target).write_bytes((place / source).read_bytes())
    for host, target in _KEYS.items():
        _write_key(directory / target, (place / f"{host}.key").read_bytes())


def _write_key(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)

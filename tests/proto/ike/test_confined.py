"""IKE under keyd's system call filter: whatever keys and certificates are for, no file is opened for it.

Each in an interpreter of its own that has imported what a gateway imports, and no more.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from certkit import KEYS, Ca, credentials
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fwd.supervise import sandbox

HERE = Path(__file__).parent
SCRIPT = """
import ctypes, faulthandler, os, sys
import fwd.cli, fwd.supervise.supervisor
there = set(sys.modules)
from ikekit import IKE, PSK, Net, connection
from fwd.model.keys import CertificateKeys
from fwd.keyd import secrets
from fwd.supervise import sandbox
extra = [name for name in set(sys.modules) - there if name.startswith("cryptography")]
assert not extra, extra

directory, proposal = sys.argv[1:]
keys, fds = {}, {}
for side in "ab" if directory else "":
    files = {name: f"{directory}/{side}.{name}" for name in ("key", "certificate", "authorities")}
    keys[side] = CertificateKeys(source="cert", **files)
    fds[side] = secrets.open_all(keys[side])
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
sandbox.enter("keyd")

known = {side: secrets.credentials(keys[side], fds[side]) if directory else PSK for side in "ab"}
a, b = (connection(side, credentials=known[side], ike=(proposal,)) for side in "ab")
net = Net(a=a, b=b)
net.a.endpoint.initiate("to-peer", net.now)
net.run(0.5)
if not net.a.live():
    os.write(2, repr(net.a.events + net.b.events).encode())
    os._exit(1)
net.check_agreement()
os.write(1, b"connected")
os._exit(0)
"""

pytestmark = pytest.mark.skipif(bool(sandbox.missing()), reason="; ".join(sandbox.missing()))


def connects(directory: str, proposal: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, directory, proposal],
        capture_output=True, text=True, check=False, timeout=60, env={"PYTHONPATH": f"{HERE}:{HERE.parents[2]}"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "connected"), done.stderr


@pytest.mark.parametrize("kind", sorted(KEYS))
def test_certificates_of_every_kind(kind: str, tmp_path: Path) -> None:
    ca = Ca()
    for side in "ab":
        made = credentials(ca, f"{side}.example", kind)
        private = made.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        texts = {
            "key": private,
            "certificate": made.chain[0].public_bytes(Encoding.PEM),
            "authorities": ca.certificate.public_bytes(Encoding.PEM),
        }
        for name, text in texts.items():
            file = tmp_path / f"{side}.{name}"
            file.touch(mode=0o600)
            file.write_bytes(text)
    connects(str(tmp_path), "aes256gcm16-prfsha384-x25519")


@pytest.mark.parametrize("group", ["x25519", "ecp256", "ecp384"])
def test_a_pre_shared_key_with_every_group(group: str) -> None:
    connects("", f"aes256gcm16-prfsha384-{group}")

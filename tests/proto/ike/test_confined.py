"""IKE under keyd's system call filter: whatever keys and certificates are for, no file is opened for it.

Each in a fork of an interpreter that has imported what a gateway imports, and no more.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE

import pytest
from certkit import KEYS, Ca, credentials
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fwd.supervise import sandbox

HERE = Path(__file__).parent
SCRIPT = """
import ctypes, faulthandler, os, sys, traceback
import fwd.cli, fwd.supervise.supervisor
there = set(sys.modules)
from ikekit import IKE, PSK, Net, connection
from fwd.model.keys import CertificateKeys
from fwd.keyd import secrets
from fwd.supervise import sandbox
extra = [name for name in set(sys.modules) - there if name.startswith("cryptography")]
assert not extra, extra

def connect(directory, proposal):
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
    os._exit(0)

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        try:
            connect(*line.rstrip("\\n").split("\\t"))
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(2)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""

pytestmark = pytest.mark.skipif(bool(sandbox.missing()), reason="; ".join(sandbox.missing()))


Connect = Callable[[str, str], None]


@pytest.fixture(scope="module")
def connects() -> Iterator[Connect]:
    """Assert that two of them connect, by the credentials in a directory or else by a pre-shared key."""
    argv, path = [sys.executable, "-c", SCRIPT], {"PYTHONPATH": f"{HERE}:{HERE.parents[2]}"}
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(argv, stdin=PIPE, stdout=PIPE, stderr=errors, text=True, env=path) as interpreter,
    ):
        assert interpreter.stdin
        assert interpreter.stdout
        tell, told = interpreter.stdin, interpreter.stdout

        def check(directory: str, proposal: str) -> None:
            print(directory, proposal, sep="\t", file=tell, flush=True)
            status = told.readline()
            errors.seek(0)
            assert status == "0\n", errors.read()

        yield check
        tell.close()


@pytest.mark.parametrize("kind", sorted(KEYS))
def test_certificates_of_every_kind(connects: Connect, kind: str, tmp_path: Path) -> None:
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
def test_a_pre_shared_key_with_every_group(connects: Connect, group: str) -> None:
    connects("", f"aes256gcm16-prfsha384-{group}")

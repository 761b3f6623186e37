"""Records what fwd's endpoint and strongSwan say to one another, as vectors for test_strongswan_vectors.py.

    make ike-vectors        or, as root: .venv/bin/python tests/proto/ike/record_strongswan.py

Needs root, network namespaces, and strongSwan with kernel-libipsec. To be done anew whenever the endpoint sends other
octets than before, or draws its randomness in another order: the vectors of before no longer replay then, and nobody
but strongSwan can say whether what it sends now is right. Both vectors are written only if all went well, and if
strongSwan's own log has every key that fwd's endpoint came to.

strongSwan runs in namespace gw2 of a lab of its own. The endpoint runs here, with UDP sockets that were opened in gw1,
seeded randomness, and a clock that starts at 0. The secrets are made for this and of no use to anybody.
"""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import recording
from certkit import Ca, credentials
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pyroute2 import netns
from recording import Recording

from fwd.lab.charon import Charon
from fwd.lab.topology import Topology
from fwd.lab.world import LabError
from fwd.proto.ike.endpoint import Endpoint
from fwd.proto.ike.events import Address

PORTS = (500, 4500)
MARKER = bytes(4)  # before IKE on every port but 500 (RFC 3948 §2.2)
WAIT_S = 8.0
QUIET_S = 0.3
PSK = "throwaway: everybody may know this secret"
LEVELS = "default = 1\n      ike = 4\n      chd = 4"  # 4: keys, too
CONNECTIONS = """connections {{
  peer {{
    version = 2
    proposals = {ike}
    local_addrs = {near}
    remote_addrs = {far}
    fragmentation = yes
    dpd_delay = {dpd_s}s
    local {{
      auth = {auth}
      id = gw2.example
      {certs}
    }}
    remote {{
      auth = {auth}
      id = gw1.example
    }}
    children {{
      net {{
        esp_proposals = {esp}
        local_ts = 10.2.0.0/24
        remote_ts = 10.1.0.0/24
      }}
    }}
  }}
}}
secrets {{
  ike-peer {{
    id-near = gw2.example
    id-far = gw1.example
    secret = "{psk}"
  }}
}}
"""
COMMON = {
    "local_id": "gw1.example", "remote_id": "gw2.example", "esp": ["aes256gcm16-x25519-esn-noesn"],
    "local_ts": ["10.1.0.0/24"], "remote_ts": ["10.2.0.0/24"], "liveness_s": 0.0, "fragment_bytes": 1200,
    "float_port": 4500,
}  # fmt: skip


class Recorder:
    """The endpoint with its sockets, and all that was done with it."""

    def __init__(self, stack: ExitStack, topology: Topology, charon: Charon, made: Recording) -> None:
        self.charon, self.made = charon, made
        self.endpoint: Endpoint = recording.endpoint_of(made)
        self._start_s = time.monotonic()
        self._pool = stack.enter_context(ThreadPoolExecutor(1))
        self._selector = stack.enter_context(selectors.DefaultSelector())
        self._sockets = {port: stack.enter_context(sock) for port, sock in _sockets(topology)}
        for sock in self._sockets.values():
            self._selector.register(sock, selectors.EVENT_READ)

    def do(self, command: str, **arguments: Any) -> None:
        """One step; what it has to say goes out."""
        step: dict[str, Any] = {"at": self._now(), "do": command, **({"with": arguments} if arguments else {})}
        step |= recording.take(self.endpoint, step)
        self.made["steps"].append(step)
        for datagram in step["sends"]:
            self._send(bytes.fromhex(datagram["data"]), datagram["local"][1], tuple(datagram["remote"]))
        known = {(keys["spi_i"], keys["spi_r"]) for keys in self.made["keys"]}
        self.made["keys"] += [
            keys for keys in recording.keys_of(self.endpoint) if (keys["spi_i"], keys["spi_r"]) not in known
        ]

    def stranger(self, ike: str) -> None:
        """Somebody else begins from here with this proposal, and leaves it at that."""
        connection = {**self.made["connection"], "ike": [ike]}
        other = recording.endpoint_of({**self.made, "connection": connection, "seed": self.made["seed"] + 1})
        other.initiate(recording.NAME, 0.0)
        for datagram in other.datagrams_to_send():
            self._send(datagram.data, datagram.local[1], datagram.remote)
        self.quiet()

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Let both talk until this is so."""
        deadline_s = time.monotonic() + WAIT_S
        while not condition():
            if time.monotonic() > deadline_s:
                raise LabError(f"not within {WAIT_S:g} s: {what}")
            self._turn()

    def quiet(self) -> None:
        """Let both finish what they are at."""
        until_s = time.monotonic() + QUIET_S
        while time.monotonic() < until_s:
            if self._turn():
                until_s = time.monotonic() + QUIET_S

    def swanctl(self, *words: str) -> None:
        """strongSwan does something, and both talk until it is done."""
        done = self._pool.submit(self.charon.swanctl, *words)
        self.until(done.done, f"swanctl {' '.join(words)}")
        done.result()
        self.quiet()

    def told(self, kind: str) -> list[dict[str, Any]]:
        """All events of this kind."""
        return [event for step in self.made["steps"] for event in step["tells"] if event["event"] == kind]

    def children(self) -> dict[int, str]:
        """strongSwan's number for each Child SA, by the SPI that fwd receives on."""
        each = self.charon.swanctl("--list-sas").split("net: #")
        found = (re.match(r"(\d+), [^\n]*INSTALLED.* out +([0-9a-f]{8})", one, re.DOTALL) for one in each)
        return {int(one[2], 16): one[1] for one in found if one}

    def _send(self, data: bytes, port: int, remote: Address) -> None:
        marker = b"" if port == PORTS[0] else MARKER
        self._sockets[port].sendto(marker + data, remote)

    def _now(self) -> float:
        return round(time.monotonic() - self._start_s, 3)

    def _turn(self) -> bool:
        """What comes next, if anything does soon; whether it did."""
        due = self.endpoint.next_timeout()
        if due is not None and self._now() >= due:
            self.do("handle_timeout")
            return True
        ready = self._selector.select(0.05 if due is None else max(0.0, min(0.05, due - self._now())))
        for key, _ in ready:
            sock: Any = key.fileobj
            data, remote = sock.recvfrom(65535)
            local = sock.getsockname()
            if local[1] != PORTS[0]:
                if data[: len(MARKER)] != MARKER:
                    continue  # ESP, or a keepalive
                data = data[len(MARKER) :]
            self.do("receive", data=data.hex(), local=list(local), remote=list(remote))
        return bool(ready)


def _sockets(topology: Topology) -> Iterator[tuple[int, socket.socket]]:
    """Opened in gw1; a socket stays where it was opened."""
    for port in PORTS:
        netns.pushns(topology.ns("gw1"))
        try:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        finally:
            netns.popns()
        sock.bind((topology.outer("gw1"), port))
        yield port, sock


@contextlib.contextmanager
def lab(connection: Mapping[str, Any], strongswan: Mapping[str, Any], **options: str) -> Iterator[Recorder]:
    """Both, ready to begin. Takes `connection` and what it adds to it into the recording."""
    topology = Topology("record")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fwd-record-")))
        topology.down()
        stack.callback(topology.down)
        topology.up()
        made = {**COMMON, **connection, "local": topology.outer("gw1"), "remote": topology.outer("gw2")}
        certs = ""
        if "psk" not in made:
            made |= certificates(directory)
            certs = "certs = gw2.pem"
        charon = Charon(stack, topology, "gw2", directory, options, LEVELS)
        charon.load(CONNECTIONS.format(
            near=made["remote"], far=made["local"], auth="pubkey" if certs else "psk", certs=certs, psk=PSK,
            **strongswan,
        ))  # fmt: skip
        about = (
            f"fwd and {version(charon)} with kernel-libipsec, by tests/proto/ike/record_strongswan.py; "
            "all keys and secrets were made for it and are of no use to anybody"
        )
        started = {"about": about, "seed": 20, "wall_clock": int(time.time()), "connection": made, "steps": []}
        yield Recorder(stack, topology, charon, {**started, "keys": []})


def certificates(directory: Path) -> dict[str, Any]:
    """strongSwan's, of ECDSA, into its directories; fwd's own as a recording has them."""
    ca = Ca("throwaway CA", now=datetime.now(UTC))
    theirs = credentials(ca, "gw2.example")
    for place, data in (
        ("x509ca/ca.pem", ca.certificate.public_bytes(Encoding.PEM)),
        ("x509/gw2.pem", theirs.chain[0].public_bytes(Encoding.PEM)),
        ("private/gw2.key", theirs.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())),
    ):
        (directory / place).parent.mkdir(exist_ok=True)
        (directory / place).write_bytes(data)
    return recording.described(credentials(ca, "gw1.example", "Ed25519"))


def version(charon: Charon) -> str:
    found = re.search(r"strongSwan [\d.]+", charon.log())
    return found[0] if found else "a strongSwan that does not say its version"


# -- what is said -------------------------------------------------------------------------------------------------


def by_psk() -> Recording:
    """fwd begins; strongSwan wants a cookie and another group. Afterwards everything that either side can ask for."""
    ours = {"psk": PSK, "ike": ["aes256gcm16-prfsha384-x25519-ecp384"], "liveness_s": 1.0}
    theirs: dict[str, Any] = {"ike": "aes256gcm16-prfsha384-ecp384", "esp": "aes256gcm16-x25519", "dpd_s": 0}
    with lab(ours, theirs, cookie_threshold="1") as r:
        r.stranger(theirs["ike"])
        r.do("initiate")
        r.until(lambda: r.told("ChildUp"), "a first Child SA")
        r.do("create_child", member=1)
        r.until(lambda: len(r.told("ChildUp")) == 2, "a second Child SA")
        first, second = (event["child"]["inbound"]["spi"] for event in r.told("ChildUp"))
        r.do("rekey_child", spi=first)
        r.quiet()
        r.swanctl("--rekey", "--child-id", r.children()[second])
        ask_whether_alive(r)
        r.do("rekey_ike")
        r.quiet()
        r.swanctl("--rekey", "--ike", "peer")
        third, fourth = r.children()
        r.do("delete_child", spi=third)
        r.quiet()
        r.swanctl("--terminate", "--child-id", r.children()[fourth])
        r.do("terminate")
        r.until(lambda: r.told("Closed"), "the end")
        return finished(r, {"Established": 1, "ChildUp": 4, "ChildDown": 4, "Closed": 1})


def ask_whether_alive(r: Recorder) -> None:
    """An empty INFORMATIONAL, as after a time of silence."""
    steps = len(r.made["steps"])
    r.until(lambda: any(step["sends"] for step in r.made["steps"][steps:]), "a question whether the peer is alive")
    r.quiet()


def by_certificates() -> Recording:
    """strongSwan begins, in a group that fwd does not want; long messages go in fragments."""
    ours = {"ike": ["aes128gcm16-prfsha256-ecp256"], "fragment_bytes": 400}
    theirs = {"ike": "aes128gcm16-prfsha256-x25519-ecp256", "esp": "aes128gcm16-ecp256-esn-noesn", "dpd_s": 1}
    with lab({**ours, "esp": ["aes128gcm16-ecp256-noesn"]}, theirs, fragment_size="600") as r:
        r.swanctl("--initiate", "--child", "net")
        r.until(lambda: r.told("ChildUp"), "a first Child SA")
        steps = len(r.made["steps"])
        r.until(lambda: len(r.made["steps"]) > steps, "strongSwan asks whether fwd is alive")
        (child,) = r.children()
        r.do("rekey_child", spi=child)
        r.quiet()
        r.do("rekey_ike")
        r.quiet()
        r.swanctl("--terminate", "--ike", "peer")
        r.until(lambda: r.told("Closed"), "the end")
        return finished(r, {"Established": 1, "ChildUp": 2, "ChildDown": 2, "Closed": 1})


def finished(r: Recorder, wanted: Mapping[str, int]) -> Recording:
    """The recording. Raises LabError unless these events were told, and strongSwan came to the same keys."""
    told = {kind: len(r.told(kind)) for kind in wanted}
    if told != wanted or r.told("ChildRefused"):
        raise LabError(f"told was {told}, not {dict(wanted)}")
    theirs = octets_logged(r.charon.log())
    ours = [keys[way] for keys in r.made["keys"] for way in ("ei", "er")]
    for event in r.told("ChildUp"):
        ours += [event["child"][way]["key"] + event["child"][way]["salt"] for way in ("inbound", "outbound")]
    if missing := [key for key in ours if key not in theirs]:
        raise LabError(f"strongSwan knows {len(missing)} of {len(ours)} keys not")
    return r.made


def octets_logged(log: str) -> set[str]:
    """Every hex dump in strongSwan's log."""
    dumps = re.findall(r" => \d+ bytes @ .*\n((?:.*\] +\d+: .*\n)+)", log)
    rows = (re.findall(r"\] +\d+: ((?:[0-9A-F]{2} )+)", dump) for dump in dumps)
    return {"".join(found).replace(" ", "").lower() for found in rows}


def main() -> None:
    try:
        made = dict(zip(recording.NAMES, (by_psk(), by_certificates()), strict=True))
    except LabError as error:
        sys.exit(f"record_strongswan: {error}")
    for name, one in made.items():
        recording.save(name, one)
        sent = sum(len(step["sends"]) for step in one["steps"])
        print(f"{name}: {len(one['steps'])} steps, {sent} datagrams sent")


if __name__ == "__main__":
    main()

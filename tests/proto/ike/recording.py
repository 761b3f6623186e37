"""An exchange with another implementation as a file: what an `Endpoint` was given, step by step, and what came of it.

    about      how it was made, and with whom
    seed       of the endpoint's randomness
    wall_clock seconds since 1970 at time 0
    connection its configuration, throwaway secrets included
    steps      at, do and its arguments; sends: datagrams, tells: events
    keys       of each IKE SA: SPIs, and each direction's cipher key with its salt

The recorder and the test take every step by the same `take`, so whatever differs is the endpoint's doing. Octets are
hex throughout. A recording holds for a version of the endpoint that draws its randomness in the same order.
"""

from __future__ import annotations

import json
import random
from dataclasses import fields, is_dataclass
from enum import Enum
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from fwd.proto.ike import auth
from fwd.proto.ike.auth import Certificates, Credentials, Psk
from fwd.proto.ike.crypto import Sealer
from fwd.proto.ike.endpoint import Endpoint
from fwd.proto.ike.events import Connection
from fwd.proto.ike.message import Assembly, Fragment, Header, open_message
from fwd.proto.ike.numbers import Exchange, Payload, Protocol
from fwd.proto.ike.proposals import parse

VECTORS = Path(__file__).parent / "vectors"
NAME = "strongswan"
NAMES = ("strongswan-psk", "strongswan-certificates")
Recording = dict[str, Any]
Step = dict[str, Any]


def load(name: str) -> Recording:
    found: Recording = json.loads((VECTORS / f"{name}.json").read_text())
    return found


def save(name: str, recording: Recording) -> None:
    """One line a step, so that a difference can be read."""
    parts = []
    for key, value in recording.items():
        text = json.dumps(value)
        if key in ("steps", "keys"):
            text = "[\n  " + ",\n  ".join(json.dumps(one) for one in value) + "\n ]"
        parts.append(f" {json.dumps(key)}: {text}")
    VECTORS.mkdir(exist_ok=True)
    (VECTORS / f"{name}.json").write_text("{\n" + ",\n".join(parts) + "\n}\n")


def endpoint_of(recording: Recording) -> Endpoint:
    """A fresh one, as it was when the recording began. Its clock stands: certificates are held against `wall_clock`."""
    dice = random.Random(recording["seed"])
    return Endpoint([connection_of(recording["connection"])], dice.randbytes, lambda: recording["wall_clock"])


def connection_of(made: dict[str, Any]) -> Connection:
    return Connection(
        NAME, (made["local"], 500), (made["remote"], 500),
        auth.identity(made["local_id"], Payload.IDI), auth.identity(made["remote_id"], Payload.IDR),
        _credentials(made),
        tuple(parse(words, Protocol.IKE) for words in made["ike"]),
        tuple(parse(words, Protocol.ESP) for words in made["esp"]),
        tuple(map(ip_network, made["local_ts"])), tuple(map(ip_network, made["remote_ts"])),
        rekey_s=0.0, liveness_s=made["liveness_s"], fragment_bytes=made["fragment_bytes"],
        float_port=made["float_port"],
    )  # fmt: skip


def _credentials(made: dict[str, Any]) -> Credentials:
    if "psk" in made:
        return Psk(made["psk"].encode())
    chain, authorities = (
        tuple(x509.load_der_x509_certificate(bytes.fromhex(one)) for one in made[key])
        for key in ("chain", "authorities")
    )
    # Ed25519 alone signs the same octets alike every time.
    return Certificates(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(made["key"])), chain, authorities)


def described(credentials: Certificates) -> dict[str, Any]:
    """Certificates as a recording's `connection` has them."""
    assert isinstance(credentials.key, Ed25519PrivateKey)
    return {
        "key": credentials.key.private_bytes_raw().hex(),
        "chain": [one.public_bytes(Encoding.DER).hex() for one in credentials.chain],
        "authorities": [one.public_bytes(Encoding.DER).hex() for one in credentials.authorities],
    }


def take(endpoint: Endpoint, step: Step) -> dict[str, Any]:
    """Do what a step says; what came of it."""
    now, arguments = step["at"], step.get("with", {})
    match step["do"]:
        case "receive":
            local, remote = tuple(arguments["local"]), tuple(arguments["remote"])
            endpoint.receive(bytes.fromhex(arguments["data"]), local, remote, now)
        case "handle_timeout":
            endpoint.handle_timeout(now)
        case "create_child":
            endpoint.create_child(NAME, arguments["member"], (), now)
        case command:
            getattr(endpoint, command)(NAME, *arguments.values(), now)
    sends = [plain(datagram) for datagram in endpoint.datagrams_to_send()]
    tells = []
    while (event := endpoint.next_event()) is not None:
        tells.append({"event": type(event).__name__, **plain(event)})
    return {"sends": sends, "tells": tells}


def keys_of(endpoint: Endpoint) -> list[dict[str, str]]:
    """Of every IKE SA that has some now."""
    return [
        {"spi_i": sa.spi_i.hex(), "spi_r": sa.spi_r.hex(), "ei": sa.keys.ei.hex(), "er": sa.keys.er.hex()}
        for sa in endpoint.sas(NAME)
        if sa.keys is not None
    ]


_NOT_TOLD_THEN = {"IkeUp", "IkeDown"}


def with_the_fields_of(value: Any, then: Any) -> Any:
    """What is told today, without what nobody told when `then` was recorded."""
    if isinstance(value, dict) and isinstance(then, dict):
        return {key: with_the_fields_of(one, then[key]) for key, one in value.items() if key in then}
    if isinstance(value, list) and isinstance(then, list):
        value = [one for one in value if not (isinstance(one, dict) and one.get("event") in _NOT_TOLD_THEN)]
    if isinstance(value, list) and isinstance(then, list) and len(value) == len(then):
        return [with_the_fields_of(one, old) for one, old in zip(value, then, strict=True)]
    return value


def plain(value: Any) -> Any:
    """A dataclass as what JSON has."""
    if is_dataclass(value):
        found = {field.name: plain(getattr(value, field.name)) for field in fields(value)}
        return found | found.pop("agreed", {})  # a Child SA's selectors are shared, and said with it
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    return value if isinstance(value, int | float | str | None) else str(value)


# -- what was said ---------------------------------------------------------------------------------------------------


def datagrams(recorded: Recording) -> list[bytes]:
    """All of them, both ways, in order."""
    found = []
    for step in recorded["steps"]:
        found += [step["with"]["data"]] if step["do"] == "receive" else []
        found += [datagram["data"] for datagram in step["sends"]]
    return [bytes.fromhex(data) for data in found]


def sealer_of(recorded: Recording, header: Header) -> Sealer:
    """Of the IKE SA and the direction that a message belongs to."""
    spis = header.spi_i.hex(), header.spi_r.hex()
    (keys,) = [one for one in recorded["keys"] if (one["spi_i"], one["spi_r"]) == spis]
    return Sealer(bytes.fromhex(keys["ei" if header.by_initiator else "er"]))


def opened(recorded: Recording) -> list[tuple[Header, bytes, Fragment]]:
    """Every datagram that is encrypted."""
    found = []
    for data in datagrams(recorded):
        header = Header.decode(data)
        if header.exchange != Exchange.IKE_SA_INIT:
            fragment = open_message(header, data, sealer_of(recorded, header))
            assert fragment is not None
            found.append((header, data, fragment))
    return found


def messages(recorded: Recording) -> list[tuple[Header, int, bytes]]:
    """Every message that is encrypted: the type of its first payload, and its whole plaintext."""
    found, assembly = [], Assembly()
    for header, _, fragment in opened(recorded):
        whole = assembly.add(fragment)
        if whole is not None:
            found.append((header, *whole))
            assembly = Assembly()
    return found

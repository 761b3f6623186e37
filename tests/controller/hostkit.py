"""Gateways that a test makes up: what joins a controller that runs, and says of itself what gateways say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
from cakit import new_key, request
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from runkit import Running

from fwd.controller.place import identity_of


def joined(one: Running, client: httpx.Client, vpc: str, name: str, number: int, members: int) -> Path:
    """Have the gateway of this number join VPC a or b: the file of its link's key and certificate."""
    key = new_key()
    token = client.post("/v1/tokens", json={"vpc": vpc}).json()["token"]
    body = {
        "token": token.split(".")[1], "kind": "gateway", "name": name, "link_csr": request(key),
        "ike_csr": request(new_key()), "inner": [f"10.{'ab'.index(vpc) + 1}.0.{number}"],
        "outer": [f"192.0.2.{number}"], "members": members,
    }  # fmt: skip
    answer = client.post("/v1/join", json=body)
    assert answer.status_code == 201, answer.text
    path = one.state.parent / f"{name}.pem"
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(plain + answer.json()["link_certificate"].encode())
    return path


def member(number: int, partner: str) -> dict[str, Any]:
    """What a gateway says of a member that is paired with another gateway's."""
    return {
        "index": number, "state": "running", "path": "up", "far": identity_of(partner), "mtu": 1500, "restarts": 0,
        "out": 0, "in": 0, "buckets": 32768, "spi_out": f"0x0000aa{number:02x}", "spis_in": [f"0x0000bb{number:02x}"],
        "age_s": 60, "rekey_s": 3540, "ends_s": 3900,
    }  # fmt: skip


def peering(partner: str, members: list[dict[str, Any]]) -> dict[str, Any]:
    """What it says of its peering a-b, all of whose members are paired with one other gateway."""
    far = [{"identity": identity_of(partner), "up": True, "loss": 0.0}]
    carried = sum(one["out"] + one["in"] for one in members)
    return {
        "name": "a-b", "ready": True, "members": len(members), "loss": 0.0, "bytes": carried, "far": far,
        "each": members, "drops": {"replayed": 3},
    }  # fmt: skip

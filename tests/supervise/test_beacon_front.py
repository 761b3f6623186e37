"""The socket and the key that the beacon inherits: opened, kept, replaced and refused."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fwd.model.gateway import Gateway
from fwd.proto.errors import UserError
from fwd.supervise.beacon import Front, renewed

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="who examines the key gives up root")
USER = (65534, 65534)
KEYS = (b"01" * 32, b"23" * 32)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "probe.key"
    path.touch(0o600)
    path.write_bytes(KEYS[0] + b"\n")
    return path


@pytest.fixture
def front(key: Path) -> Iterator[Front]:
    with Opened(renewed(None, wanted(key), USER)) as front:
        yield front


class Opened:
    """Closes a front, unless that was done."""

    def __init__(self, front: Front | None) -> None:
        assert front is not None
        self.front = front

    def __enter__(self) -> Front:
        return self.front

    def __exit__(self, *_: object) -> None:
        if self.front.sock.fileno() >= 0:
            self.front.close()


def free(host: str = "127.0.0.1") -> str:
    """An address that nobody has."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind((host, 0))
        port = one.getsockname()[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def wanted(key: Path, address: str = "") -> Gateway:
    return Gateway(beacon=address or free(), probe_key=key)


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_a_gateway_without_beacon_opens_nothing_and_closes_what_was_open(key: Path) -> None:
    before = open_descriptors()
    assert renewed(None, Gateway(), USER) is None
    assert renewed(renewed(None, wanted(key), USER), Gateway(), USER) is None
    assert open_descriptors() == before


def test_a_new_key_is_taken_and_the_socket_goes_on(front: Front, key: Path) -> None:
    assert not front.is_renewed
    key.write_bytes(KEYS[1])
    assert front.is_renewed
    assert front.key() == bytes.fromhex(KEYS[0].decode())  # a copy
    at = front.sock.getsockname()
    with Opened(renewed(front, wanted(key, front.address), USER)) as after:
        assert after.sock.getsockname() == at
        assert after.key() == bytes.fromhex(KEYS[1].decode())
        assert not after.is_renewed


def test_another_address_is_another_socket(front: Front, key: Path) -> None:
    at = front.sock.getsockname()
    with Opened(renewed(front, wanted(key, free("::1")), USER)) as after:
        assert after.sock.family == socket.AF_INET6
        with socket.socket(type=socket.SOCK_DGRAM) as one:
            one.bind(at)  # nobody has it any more


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"zz" * 32, "is not hexadecimal: make one by `openssl rand -hex 32`"),
        (b"01" * 33, "has 33 octets, and 32 are wanted"),
        (b"01" * 8, "holds 16 bytes, needs 64 or more"),
    ],
)
def test_a_key_that_cannot_be_used_is_refused_and_the_one_before_stays(
    front: Front, key: Path, text: bytes, reason: str
) -> None:
    key.write_bytes(text)
    before = open_descriptors()
    with pytest.raises(UserError, match=reason) as error:
        renewed(front, wanted(key, front.address), USER)
    assert text.decode() not in str(error.value)
    assert open_descriptors() == before
    assert front.key() == bytes.fromhex(KEYS[0].decode())


def test_a_key_that_others_may_read_is_refused(key: Path) -> None:
    key.chmod(0o644)
    with pytest.raises(UserError, match=str(key)):
        renewed(None, wanted(key), USER)


def test_an_address_that_cannot_be_had_is_refused_and_the_one_before_stays(front: Front, key: Path) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        host, port = other.getsockname()
        before = open_descriptors()
        for address, reason in ((f"{host}:{port}", "in use"), ("192.0.2.77:4790", "assign")):
            with pytest.raises(UserError, match=rf"^gateway.beacon {address}: .*{reason}"):
                renewed(front, wanted(key, address), USER)
        assert open_descriptors() == before

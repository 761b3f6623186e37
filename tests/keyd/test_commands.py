"""What comes to keyd as a user's command, by way of an agent that may have been taken over."""

from __future__ import annotations

import json
import pickle

import pytest

from fwd.keyd.service import COMMANDS, _command


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command: str) -> None:
    assert _command(json.dumps({"command": command, "peering": "vpc2"}).encode()) == (command, "vpc2")


@pytest.mark.parametrize(
    "data",
    [
        b"", b"x", b"\xff" * 4096, b"[" * 4096, b"[]", b"{}", b"7", b"null", pickle.dumps("x"),
        b'{"command": "rekey"}', b'{"peering": "vpc2"}', b'{"command": "stop", "peering": "vpc2"}',
        b'{"command": [], "peering": "vpc2"}', b'{"command": {}, "peering": []}', b'{"command": "rekey", "peering": 7}',
    ],
)  # fmt: skip
def test_anything_else_is_none_and_raises_nothing(data: bytes) -> None:
    assert _command(data) == ("", "")

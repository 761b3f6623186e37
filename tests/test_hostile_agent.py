"""What an agent that was taken over answers neither commands the terminal of who asks nor ends in a traceback."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from fwd.agent.client import ask
from fwd.proto.errors import UserError


def answered(path: Path, answer: bytes) -> dict[str, Any]:
    """What a user gets for `answer`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.bind(str(path))
        door.listen()

        def serve() -> None:
            guest, _ = door.accept()
            with guest:
                guest.recv(4096)
                guest.sendall(answer + b"\n")

        serving = threading.Thread(target=serve)
        serving.start()
        try:
            return ask(path, "ping")
        finally:
            serving.join()


ORDERS = "a\x1b]0;t\x07\x1b[2J\x9b2J\r\u202eb"


def test_nothing_commands_the_terminal(tmp_path: Path) -> None:
    answer = {"peerings": [{ORDERS: ORDERS, "name": "vpc2 ↔ ü"}], "n": 1, "none": None}
    (peering,) = answered(tmp_path / "s", json.dumps(answer).encode())["peerings"]
    assert all(text.isprintable() for pair in peering.items() for text in pair)
    assert peering["name"] == "vpc2 ↔ ü"


def test_nor_does_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        answered(tmp_path / "s", json.dumps({"error": ORDERS}).encode())
    assert str(error.value).isprintable()


def test_what_is_nested_without_end_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nobody answers .*not JSON"):
        answered(tmp_path / "s", b"[" * 100_000)

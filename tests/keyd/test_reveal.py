"""Keys for Wireshark: the lines are written only where the user wants them. That tshark reads them, interop shows."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from test_pairs import World

from fwd.keyd.reveal import KeyLog, esp_line
from fwd.proto.sa import SaKeys


def test_an_esp_line_names_spi_key_and_salt() -> None:
    line = esp_line(SaKeys(0x0A0B0C0D, True, bytes(range(32)), b"salt"))
    assert line.startswith('uat:esp_sa:"IPv4","*","*","0x0a0b0c0d",')
    assert bytes(range(32)).hex() + b"salt".hex() in line


def test_every_ike_sa_and_child_sa_is_told_once(undo: contextlib.ExitStack, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    undo.callback(os.close, fd)
    world = World(undo, reveal=KeyLog(fd), theirs={"reveal": None})
    world.run(2.0)
    lines = path.read_text().splitlines()
    assert len(lines) == len(set(lines))
    keyd = world.sides[0].keyd
    assert keyd is not None
    [sa] = keyd.told(world.now)["sas"]
    assert sum(line.startswith(f"uat:ikev2_decryption_table:{sa['spi_i']},{sa['spi_r']},") for line in lines) == 1
    for child in sa["children"]:
        for spi in (child["spi_in"], child["spi_out"]):
            assert sum(f'"{spi}"' in line for line in lines) == 1


def test_a_full_disk_costs_lines_and_nothing_else(undo: contextlib.ExitStack) -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    undo.callback(os.close, fd)
    world = World(undo, reveal=KeyLog(fd))
    world.run(2.0)
    world.check_sends()

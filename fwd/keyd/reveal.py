"""The keys of IKE SAs and Child SAs as Wireshark's decryption tables, for whoever debugs (`fwd demux --save-keys`).

A line is what `tshark -o` takes, for its tables ikev2_decryption_table and esp_sa. Whoever reads the file can read all
traffic that it is about: it is written only when the user has asked for it, opened by the supervisor with mode 0600.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from fwd.proto.ike.events import ChildUp
from fwd.proto.ike.sa import IkeSa
from fwd.proto.sa import SaKeys

_NO_INTEGRITY: Final = "NONE [RFC4306]"


class KeyLog:
    """Appends to a file that is open already."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __call__(self, what: IkeSa | ChildUp) -> None:
        """Keys that came into being. A disk that is full costs lines, and nothing else."""
        if isinstance(what, IkeSa):
            lines = [ike_line(what)]
        else:
            lines = [esp_line(what.child.inbound), esp_line(what.child.outbound)]
        with contextlib.suppress(OSError):
            os.write(self._fd, "".join(f"{line}\n" for line in lines).encode())


def ike_line(sa: IkeSa) -> str:
    """SPIs, SK_ei, SK_er (each with its salt), and that there is no integrity algorithm beside AES-GCM."""
    assert sa.keys is not None
    assert sa.suite is not None
    cipher = f"AES-GCM-{sa.suite.key_bits} with 16 octet ICV [RFC5282]"
    spis, keys = f"{sa.spi_i.hex()},{sa.spi_r.hex()}", f"{sa.keys.ei.hex()},{sa.keys.er.hex()}"
    return f'uat:ikev2_decryption_table:{spis},{keys},"{cipher}",,,"{_NO_INTEGRITY}"'


def esp_line(keys: SaKeys) -> str:
    """SPI, key and salt, whatever the addresses."""
    secret = (keys.key + keys.salt).hex()
    return f'uat:esp_sa:"IPv4","*","*","{keys.spi:#010x}","AES-GCM with 16 octet ICV [RFC4106]","0x{secret}","NULL",""'

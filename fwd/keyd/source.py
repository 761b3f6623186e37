"""Where SAs come from. `LabSource` derives them from one secret, for the lab.

Each gateway numbers the SAs of each member that it sends on by *epoch*: 0, 1, 2, … An epoch is used by one sending
process in its whole life (rule 1); the far side derives the same SA to receive on. The SPI names direction,
epoch and member, with the member in the low byte.
"""

from __future__ import annotations

import os
from typing import Final, Protocol

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fwd.model.config import Peering
from fwd.model.words import Address
from fwd.proto.sa import KEY_BYTES, SALT_BYTES, SLOTS, SaKeys

EPOCHS_MAX: Final = 2**22


class SaSource(Protocol):
    """SAs of a peering's members, by epoch."""

    def outbound(self, member: int, epoch: int) -> SaKeys:
        """What this gateway's member sends on."""

    def inbound(self, member: int, epoch: int) -> SaKeys:
        """What the far gateway's member sends on."""

    def inbound_epoch(self, member: int, spi: int) -> int | None:
        """Which epoch an inbound SPI stands for, or None if it is none of this member's."""


class LabSource:
    """HKDF-SHA-256 (RFC 5869) over direction, the member's UDP port and epoch.

    Addresses and port tell one member of one peering from every other, even where peerings share a secret.
    """

    def __init__(self, secret_fd: int, peering: Peering) -> None:
        self._secret = os.pread(secret_fd, 4096, 0)
        self._local = peering.local_addrs
        self._remote = peering.far
        self._port = peering.port
        self._esn = peering.esn

    def outbound(self, member: int, epoch: int) -> SaKeys:
        """See SaSource."""
        return self._derive(self._local, self._remote, member, epoch)

    def inbound(self, member: int, epoch: int) -> SaKeys:
        """See SaSource."""
        return self._derive(self._remote, self._local, member, epoch)

    def inbound_epoch(self, member: int, spi: int) -> int | None:
        """See SaSource."""
        epoch = (spi >> 8 & EPOCHS_MAX - 1) - 1
        return epoch if epoch >= 0 and spi == _spi(self._remote, self._local, member, epoch) else None

    def _derive(self, sender: Address, receiver: Address, member: int, epoch: int) -> SaKeys:
        pair = sender.packed + b"|" + receiver.packed
        info = b"fwd lab 2|" + pair + (self._port + member).to_bytes(2, "big") + epoch.to_bytes(4, "big")
        material = HKDF(SHA256(), KEY_BYTES + SALT_BYTES, None, info).derive(self._secret)
        spi = _spi(sender, receiver, member, epoch)
        return SaKeys(spi, self._esn, material[:KEY_BYTES], material[KEY_BYTES:], epoch % SLOTS)


def _spi(sender: Address, receiver: Address, member: int, epoch: int) -> int:
    """Bit 31: direction. Then the epoch, from 1 on so that no SPI is reserved. Low byte: the member."""
    if epoch >= EPOCHS_MAX - 1:
        raise OverflowError("lab source: out of epochs")
    return (sender.packed > receiver.packed) << 31 | (epoch + 1) << 8 | member

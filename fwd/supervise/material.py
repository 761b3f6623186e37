"""A peering's secret files, and with the lab's keys what must outlive a peering that is set up anew.

Files are open and not read: who needs them reads them (keyd.secrets).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from fwd.datapath.shared import MemberShared
from fwd.keyd.source import EPOCHS_MAX
from fwd.model.config import Peering
from fwd.model.words import Address

_KeyName = tuple[Address, tuple[Address, ...], int]


@dataclass
class KeyMaterial:
    """A peering's secret files; with the lab's, which epochs are used and how far each SA was heard.

    It outlives a peering that is set up anew with the same secret: no nonce and no packet is taken twice. What is
    remembered belongs to what the keys are derived from (keyd.source.LabSource): both addresses and the member's port.
    """

    fds: dict[str, int]  # by the configuration's word (keyd.secrets)
    seen: tuple[object, ...] = ()  # what tells whether the files are others by now (standing.py)
    version: int = 0  # goes up when they are others
    _next_epochs: dict[_KeyName, int] = field(default_factory=dict)
    _heard: dict[_KeyName, list[int]] = field(default_factory=dict)

    def remember(self, peering: Peering, members: list[MemberShared]) -> None:
        """Take over what the members' shared words say, before they go."""
        for i, shared in enumerate(members):
            name = _key_name(peering, i)
            self._next_epochs[name] = min(shared.next_epoch[0], EPOCHS_MAX)
            self._heard[name] = shared.slots.words.tolist()

    def recall(self, peering: Peering, index: int, shared: MemberShared) -> None:
        """Give a new member's shared words what was remembered."""
        name = _key_name(peering, index)
        if name in self._heard:
            shared.next_epoch[0] = self._next_epochs[name]
            for at, value in enumerate(self._heard[name]):
                shared.slots.words[at] = value


def _key_name(peering: Peering, index: int) -> _KeyName:
    return peering.local_addrs, peering.addresses, peering.port + index


def close_material(material: KeyMaterial) -> None:
    """Forget the secrets."""
    for fd in material.fds.values():
        os.close(fd)

"""What of a peering's configuration its demux and members follow while they run.

The supervisor puts it on a board in shared memory (shared.py), whole and as JSON. The demux looks for another version
once a turn, a member once a tick; both are forked with the configuration in force, so what they find first may be that.
"""

from __future__ import annotations

import logging
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from fwd.datapath.board import Board
from fwd.model.config import Peering
from fwd.model.gateway import Gateway
from fwd.model.words import Network
from fwd.proto.sa import Life

KEYS: Final = frozenset(
    {
        "local_ts", "remote_ts", "replay_window", "reorder_packets", "reorder_ms", "audit",
        "rekey_packets", "rekey_bytes", "life_packets", "life_bytes",
    }
)  # fmt: skip


class Tuning(BaseModel):
    """One peering's. `life` and `replay_window` hold for SAs to come, all else at once."""

    model_config = ConfigDict(frozen=True)

    local_ts: list[Network]
    remote_ts: list[Network]
    replay_window: int
    reorder_packets: int
    reorder_ms: float
    audit: bool
    rekey_packets: int
    rekey_bytes: int
    life: Life
    mobility: str
    log_level: str

    @classmethod
    def of(cls, peering: Peering, log_level: str = Gateway().log_level) -> Tuning:
        """Return what a configuration says."""
        same = {key: getattr(peering, key) for key in KEYS if key in cls.model_fields}
        mobility = peering.ike.mobility if peering.ike else "port"
        return cls(**same, life=peering.life, mobility=mobility, log_level=log_level)


class Follower:
    """Reads a board, and tells of what is new on it."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._seen = 0

    def news(self) -> Tuning | None:
        """Return what is in force, if it may be another than at the last call; sets the level of this process's log."""
        if self._board.version == self._seen:
            return None
        self._seen = self._board.version
        try:
            tuning = Tuning.model_validate_json(self._board.get())
        except ValidationError:  # written to meanwhile: the next look finds it whole
            self._seen = 0
            return None
        logging.getLogger().setLevel(tuning.log_level.upper())
        return tuning

    def look_again(self) -> None:
        """Tell of it once more at the next call: what was done with it has failed."""
        self._seen = 0


def publish(board: Board, tuning: Tuning) -> None:
    """Show what is in force, if it is not shown already. Supervisor only."""
    text = tuning.model_dump_json().encode()
    if board.get() != text:
        board.put(text)

"""What keyd shows of its IKE SAs: no keys."""

from __future__ import annotations

from typing import Any

from fwd.proto.ike import auth
from fwd.proto.ike.sa import IkeSa


def shown(sa: IkeSa, now: float) -> dict[str, Any]:
    """What there is to see of an IKE SA, as `swanctl --list-sas` has it."""
    return {
        "state": sa.state.name.lower(),
        "spi_i": sa.spi_i.hex(),
        "spi_r": sa.spi_r.hex(),
        "initiator": sa.initiator,
        "behind_nat": sa.behind_nat,
        "peer_behind_nat": sa.peer_behind_nat,
        "remote": f"[{sa.remote[0]}]:{sa.remote[1]}" if ":" in sa.remote[0] else f"{sa.remote[0]}:{sa.remote[1]}",
        "remote_id": auth.name_of(sa.connection.remote_id),
        "established_s": round(now - sa.established_at) if sa.established_at else None,
        "children": [
            {
                "member": child.keys.member,
                "state": child.use.name.lower(),
                "spi_in": f"{child.spi_in:#010x}",
                "spi_out": f"{child.spi_out:#010x}",
                "proposal": child.keys.proposal,
            }
            for child in sa.children.values()
        ],
    }

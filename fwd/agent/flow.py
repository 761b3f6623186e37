"""Which member takes a flow: the demux's own hash, over the bucket table that it works by. For `fwd path`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fwd.agent.view import GatewayView
from fwd.proto.flow import PARKED
from fwd.proto.ip import Selectors
from fwd.proto.sample import Flow


def answer(view: GatewayView, request: Mapping[str, Any]) -> dict[str, Any]:
    """Say of each peering whether a flow is within its subnets, and whose its bucket is; null: nobody's."""
    try:
        flow = Flow.read(dict(request))
    except ValueError as error:
        return {"error": f"no flow: {error}"}

    # The owner is a word of the demux's: what is no member of the peering is nobody.
    found = []
    for one in view.peerings:
        bucket = flow.steered_bucket if one.offloads.steered else flow.bucket
        owner = int(one.shared.owners[bucket])
        found.append(
            {
                "name": one.config.name,
                "tun": one.config.tun,
                "within": Selectors(one.config.local_ts, one.config.remote_ts).allow(flow.pair),
                "bucket": bucket,
                "member": owner if owner < len(one.shared.members) else None,
                "parked": owner == PARKED,
            }
        )
    return {"flow": flow.as_json(), "peerings": found}

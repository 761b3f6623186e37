"""A flow at a gateway: bucket, member and SA, as the gateway that runs tells them; and what would stop it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fwd.model.trace import Trace
from fwd.proto.sample import Flow


def follow(found: Trace, flow: Flow, told: Mapping[str, Any], status: Mapping[str, Any]) -> None:
    """Add the way through the peering that `told` is of. `status`: the gateway's."""
    peering = next((one for one in status["peerings"] if one["name"] == told["name"]), None)
    if peering is None:
        found.breaks.append(f"peering {told['name']} has just gone")
        return
    found.here = "gateway"
    found.facts |= {"peering": told["name"], "bucket": told["bucket"], "member": told["member"]}
    found.there.append(f"peering {told['name']}, device {told['tun']}, bucket {told['bucket']}")
    if not told["within"]:
        near, far = ", ".join(peering["local_ts"]), ", ".join(peering["remote_ts"])
        found.breaks.append(f"outside the peering's subnets, {near} to {far}: it is dropped")
    found.breaks += [one["text"] for one in status.get("reasons", ()) if one["peering"] in ("", told["name"])]
    if told["member"] is None:
        why = "it waits until the member that leaves has sent its own" if told["parked"] else "no member is live"
        found.breaks.append(f"its bucket has no member: {why}")
        return

    member = next((one for one in peering["members"] if one["index"] == told["member"]), None)
    if member is None:
        found.breaks.append(f"member {told['member']} has just gone")
        return
    _member(found, peering, member)
    found.back.append(f"by the member that the far side chooses, out of {told['tun']}")
    there = f"`fwd path --from {flow.destination} --to {flow.source}`"
    found.notes.append(f"what the far side chooses is told on its gateway by {there}")


def _member(found: Trace, peering: Mapping[str, Any], member: Mapping[str, Any]) -> None:
    """The member, its SA and its path."""
    index, spi = member["index"], member["spi_out"]
    far = _far_of(peering, index)
    where = member["peer"] or (far or {}).get("address") or peering["remote_addrs"]
    found.facts |= {"spi_out": spi, "far": (far or {}).get("address", peering["remote_addrs"]), "peer": member["peer"]}
    children = [child for one in peering["ike_sas"] for child in one["children"] if child["spi_out"] == spi]
    ends_s = next((child["ends_s"] for child in children), None)
    life = f", ends in {ends_s} s" if ends_s is not None else ""
    found.there.append(f"member {index}, port {member['port']}, its path is {member['path']}")
    found.there.append(f"SA {spi or 'none'} to {where}{life}")

    if member["state"] != "running":
        found.breaks.append(f"member {index} is in {member['state']}")
    if spi is None:
        found.breaks.append(f"member {index} has no SA to send on")
    if member["path"] != "up":
        found.breaks.append(f"the far member does not answer member {index}'s echoes")
    if narrower := peering["narrower"].get(str(index)):
        said = f"{', '.join(narrower['local'])} to {', '.join(narrower['remote'])}"
        found.notes.append(f"the SA of member {index} carries less than the configuration: {said}")


def _far_of(peering: Mapping[str, Any], member: int) -> Mapping[str, Any] | None:
    return next((one for one in peering.get("far", ()) if member in one["members"]), None)

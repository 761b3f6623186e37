"""Members that come and leave while their peering is open, and which far gateways they are paired with."""

from __future__ import annotations

import logging
from dataclasses import replace

from fwd.model.config import Peering
from fwd.model.distinct import unpaired
from fwd.model.keys import LabKeys
from fwd.model.pairing import numbered
from fwd.proto.errors import UserError
from fwd.proto.logged import event
from fwd.supervise.peering import PeeringParts
from fwd.supervise.sockets import IkeSockets

log = logging.getLogger(__name__)


def resize(parts: PeeringParts, members: int, ike_sockets: IkeSockets) -> None:
    """Open what more members need, or let the last ones leave, which takes its time (members.py)."""
    _add_members(parts, members, ike_sockets)
    before, parts.peering = parts.peering.members, parts.peering.model_copy(update={"members": members})
    told = event("peering.resized", peering=parts.peering.name, before=before, members=members)
    log.info("peering %s: members change from %d to %d", parts.peering.name, before, members, extra=told)


def spread(parts: PeeringParts, wanted: Peering, ike_sockets: IkeSockets) -> None:
    """Pair members with other far gateways; `wanted` says which have which (plan.py). Raises UserError."""
    keys, before = parts.peering.ike, parts.peering
    assert keys is not None
    assert wanted.ike is not None
    after = before.paired_as(wanted)
    after = after.model_copy(update={"keys": keys.model_copy(update={"remote_id": wanted.ike.remote_id})})
    if reason := unpaired(after, len(after.addresses)):
        raise UserError(f"peering {before.name}: {reason}")

    _add_members(parts, after.there, ike_sockets)
    parts.peering = after
    far = {str(one.address): list(one.staying(after.there)) for one in after.fars}
    told = event("peering.spread", peering=after.name, before=before.where, remote_addrs=after.where, members=far)
    log.info("peering %s: members by far gateway are now %s", after.name, far, extra=told)


def with_keys(peering: Peering, wanted: Peering) -> Peering:
    """The same peering with other keys; the identities of other far gateways come together with these (`spread`)."""
    keys = wanted.keys
    if not isinstance(keys, LabKeys) and peering.ike is not None and wanted.remote_addrs != peering.remote_addrs:
        keys = keys.model_copy(update={"remote_id": peering.ike.remote_id})
    return peering.model_copy(update={"keys": keys})


def without(peering: Peering, member: int) -> Peering:
    """The same peering once the last member of a far gateway has left it; with its last one that far gateway goes."""
    left = []
    for far in peering.fars:
        seats = far.members(peering.there)
        if seats and seats[-1] == member:
            seats = seats[:-1]
        if seats:
            left.append(replace(far, seats=seats))
    return peering.seated(numbered(left))


def _add_members(parts: PeeringParts, members: int, ike_sockets: IkeSockets) -> None:
    """Open what members need until there are so many, all or none of them: those that nobody wants yet would be given
    keys and flows, and leave again.
    """
    there = parts.count
    try:
        for _ in range(there, members):
            parts.add_member()
    except BaseException:
        while parts.count > there:
            parts.drop_member()
        raise
    finally:
        if parts.peering.shared_port:
            ike_sockets.open(parts.peering.model_copy(update={"members": parts.count}))

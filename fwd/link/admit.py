"""What a controller may set on a gateway, by the word of the gateway's own file: pure.

    local configuration, a document's content ──admit──▶ the peerings that are wanted beside it, or a refusal

From outside come peerings alone, of keys that are named here: where far gateways are, subnets, members, ports within a
range, identities, timers. Each subnet must lie in those that the local file gives away. What names a file, a user, a
socket, a device of another's, or what weakens keys, cannot be said at all; secrets and certificates are the local
file's. Peerings of the local file stay as they are, and none of another origin may take their names or what is theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from pydantic import ValidationError

from fwd.link.document import DocumentError
from fwd.model.config import Config, Peering
from fwd.model.controller import Controller
from fwd.model.keys import CertificateKeys
from fwd.model.mistakes import first_reason
from fwd.model.words import Network

PEERING_KEYS: Final = frozenset(
    {
        "name", "local_addrs", "remote_addrs", "local_ts", "remote_ts", "members", "payload", "port", "tun", "native",
        "rekey_time", "life_time", "drain_deadline", "reorder_packets", "reorder_ms",
    }
)  # fmt: skip
IKE_KEYS: Final = frozenset({"local_id", "remote_id", "ike_rekey_time", "dpd_delay", "grace"})
TABLES: Final = frozenset(  # of a gateway's content
    {"peering", "draining", "probe_key", "probe_number", "rekeys", "crl", "ca_bundle"}
)
_KEPT: Final = "-kept"  # of a name that is taken, to guard its subnets all the same
_TUN: Final = "fwd"  # with which a device begins that may be made


def admit(local: Config, keys: CertificateKeys, content: Mapping[str, Any]) -> list[Peering]:
    """Return the peerings that the content asks for, with files as in `keys`. Raises DocumentError, one line."""
    assert local.controller is not None
    if strange := sorted(content.keys() - TABLES):
        raise DocumentError(f"it sets {str(strange[0])[:64]!r}, which is the local file's alone")
    tables = content.get("peering", [])
    if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
        raise DocumentError("peering is no list of tables")
    admitted = [_peering(_translated(table, local.controller), keys) for table in tables]
    for one in admitted:
        if why := why_outside(one, local.controller):
            raise DocumentError(why)
    check_members(admitted, local.controller)
    beside(local, admitted)
    return admitted


def check_members(admitted: Iterable[Peering], allowed: Controller) -> None:
    """Raise DocumentError if all peerings together have more members than the local file gives away."""
    members, most = sum(one.members for one in admitted), allowed.members_max
    if members > most:
        raise DocumentError(f"{members} members over all peerings, and {most} are allowed (controller.members_max)")


def beside(local: Config, admitted: Sequence[Peering]) -> Config:
    """Return the local file's configuration and peerings from outside as one. Raises DocumentError, one line."""
    try:
        return Config(gateway=local.gateway, controller=local.controller, peering=[*local.peering, *admitted])
    except ValidationError as error:
        raise DocumentError(f"beside what is here: {first_reason(error, {'peering': Peering})}") from None


def understood(keys: CertificateKeys, content: Mapping[str, Any]) -> list[Peering]:
    """Return those peerings of a content that are some by themselves, whatever is given away."""
    found = []
    for table in content.get("peering", []):
        with suppress(DocumentError):
            found.append(_peering(table, keys))
    return found


def guarded(local: Config, kept: Iterable[Peering]) -> list[Peering]:
    """Return of peerings that cannot be in force what can be guarded beside the local file's: its names, and its
    subnets, are its own.
    """
    names = {one.name for one in local.peering}
    subnets = [subnet for one in local.peering for subnet in (*one.local_ts, *one.remote_ts)]
    found = []
    for one in kept:
        free = [subnet for subnet in one.remote_ts if not any(_overlap(subnet, other) for other in subnets)]
        if free:
            name = f"{one.name}{_KEPT}" if one.name in names else one.name
            found.append(one.model_copy(update={"name": name, "remote_ts": free}))
            subnets += free
            names.add(name)
    return found


def _translated(table: Mapping[str, Any], allowed: Controller) -> Mapping[str, Any]:
    """Have a peering over the internet at the gateway's own address, if a NAT gives it the one that others know."""
    if allowed.local_addrs is None or table.get("native"):
        return table
    return {**table, "local_addrs": str(allowed.local_addrs)}


def _peering(table: Mapping[str, Any], files: CertificateKeys) -> Peering:
    """One peering, its keys as they are here but for what may be set."""
    name = str(table.get("name", "?"))[:64]
    if strange := sorted(map(str, table.keys() - PEERING_KEYS - IKE_KEYS)):
        raise DocumentError(f"peering {name!r}: it sets {strange[0]!r}, which is the local file's alone")
    own = {key: value for key, value in table.items() if key in PEERING_KEYS}
    ike = {key: value for key, value in table.items() if key in IKE_KEYS}
    try:
        keys = CertificateKeys.model_validate({**files.model_dump(exclude_unset=True), **ike})
        peering = Peering.model_validate({**own, "keys": keys})
    except ValidationError as error:
        raise DocumentError(f"peering {name!r}: {first_reason(error, {'peering': Peering})}") from None
    lives = {"rekey_time": peering.rekey_time, "life_time": peering.life_time, "ike_rekey_time": keys.ike_rekey_time}
    if endless := sorted(key for key in lives.keys() & table.keys() if lives[key] == 0):
        raise DocumentError(f"peering {name!r}: {endless[0]} is 0, and keys from outside end")
    return peering


def why_outside(peering: Peering, allowed: Controller) -> str:
    """Say why a peering is more than the local file gives away; empty if it is not."""
    for key, subnets in (("local_ts", peering.local_ts), ("remote_ts", peering.remote_ts)):
        if outside := first_outside(subnets, allowed.subnets):
            return f"peering {peering.name}: {key} {outside} is in none of controller.subnets"
    if peering.port < allowed.port_min:
        return f"peering {peering.name}: port {peering.port} is below {allowed.port_min}"
    if not peering.tun.startswith(_TUN):
        return f"peering {peering.name}: its device must begin with {_TUN}, and is {peering.tun}"
    return ""


def first_outside(subnets: Sequence[Network], allowed: Sequence[Network]) -> Network | None:
    """Return the first that lies in none of those that are allowed."""
    return next((one for one in subnets if not any(_is_in(one, other) for other in allowed)), None)


def _is_in(one: Network, other: Network) -> bool:
    return one.version == other.version and one.subnet_of(other)  # type: ignore[arg-type]


def _overlap(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)

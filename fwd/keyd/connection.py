"""What a peering's configuration says to IKE, and to another fwd."""

from __future__ import annotations

from fwd.keyd.agreement import Terms
from fwd.model.config import Peering
from fwd.model.keys import CertificateKeys
from fwd.model.pairing import Far
from fwd.proto.ike import auth
from fwd.proto.ike.auth import Credentials
from fwd.proto.ike.events import Connection
from fwd.proto.ike.exchanges import resource
from fwd.proto.ike.numbers import Notify, Payload, Protocol
from fwd.proto.ike.payloads import Notification
from fwd.proto.ike.proposals import parse


def terms_of(peering: Peering, offloads: int, far: Far) -> Terms:
    """What this side says of a peering to one far gateway; `offloads`: what its TUN device takes."""
    port = peering.port_of(far.member(0))
    address = str(peering.local_addrs)
    return Terms(
        peering.payload, offloads, port, peering.shared_port, address, far.seats.step,
        echoes=True, members=peering.members, drain_s=peering.drain_deadline,
    )  # fmt: skip


def connection_of(peering: Peering, credentials: Credentials, terms: Terms) -> Connection:
    """The connection that a peering's configuration describes; it has one far gateway."""
    keys = peering.ike
    assert keys is not None
    port = keys.ike_port

    return Connection(
        name=peering.name,
        local=(str(peering.local_addrs), port),
        remote=(str(peering.far), port),
        local_id=auth.certified(auth.identity(keys.local_id or str(peering.local_addrs), Payload.IDI), credentials),
        remote_id=auth.identity(peering.remote_id, Payload.IDR),
        credentials=credentials,
        ike_proposals=tuple(parse(words, Protocol.IKE) for words in keys.ike_proposals),
        esp_proposals=tuple(parse(words, Protocol.ESP) for words in keys.esp_proposals),
        local_ts=tuple(peering.local_ts),
        remote_ts=tuple(peering.remote_ts),
        notifies=(terms.notification(), resource(0)),
        members=peering.members,
        rekey_s=float(keys.ike_rekey_time),
        cert_grace_s=float(keys.cert_grace) if isinstance(keys, CertificateKeys) else 0.0,
        liveness_s=float(keys.dpd_delay),
        mobility=keys.mobility,
        float_port=peering.port if peering.shared_port else 0,
    )


def for_member(index: int) -> Notification:
    """Tell another fwd whose Child SA it is."""
    return Notification(Notify.FWD_MEMBER, bytes([index]))

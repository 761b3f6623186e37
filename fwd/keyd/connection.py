"""What a peering's configuration says to IKE, and to another fwd."""

from __future__ import annotations

from fwd.keyd.agreement import Terms
from fwd.model.config import Peering
from fwd.model.keys import CertificateKeys
from fwd.proto.ike import auth
from fwd.proto.ike.auth import Credentials
from fwd.proto.ike.events import Connection
from fwd.proto.ike.exchanges import resource
from fwd.proto.ike.numbers import Notify, Payload, Protocol
from fwd.proto.ike.payloads import Notification
from fwd.proto.ike.proposals import parse


def terms_of(peering: Peering, offloads: int) -> Terms:
    """What this side says of a peering; `offloads`: what its TUN device takes."""
    return Terms(peering.payload, offloads, peering.port, peering.shared_port, str(peering.local_addrs))


def connection_of(peering: Peering, credentials: Credentials, terms: Terms) -> Connection:
    """The connection that a peering's configuration describes."""
    keys = peering.ike
    assert keys is not None
    port = keys.ike_port

    return Connection(
        name=peering.name,
        local=(str(peering.local_addrs), port),
        remote=(str(peering.far), port),
        local_id=auth.certified(auth.identity(keys.local_id or str(peering.local_addrs), Payload.IDI), credentials),
        remote_id=auth.identity(keys.remote_id or str(peering.far), Payload.IDR),
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

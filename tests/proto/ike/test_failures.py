"""What has failed is counted by a closed set of reasons, on the side that knows."""

from __future__ import annotations

from typing import Any

import pytest
from certkit import DAY, KEYS, NOW, Ca, credentials
from cryptography.x509.oid import ExtendedKeyUsageOID
from ikekit import NAME, A, B, Net, connection
from test_exchanges import half_open

from fwd.proto.ike import auth
from fwd.proto.ike.auth import Certificates
from fwd.proto.ike.causes import By, Failure, by_notify
from fwd.proto.ike.events import Established, IkeDown, IkeUp
from fwd.proto.ike.limits import HALF_OPEN_COOKIES, HALF_OPEN_MAX, HALF_OPEN_S
from fwd.proto.ike.numbers import Notify, Payload
from fwd.proto.ike.trust import Crl, Rules

OURS, FOREIGN = Ca(), Ca("somebody else's")
SERVER = [ExtendedKeyUsageOID.SERVER_AUTH]
REVOKED = credentials(OURS, "a.example")


def tried(net: Net) -> tuple[dict[Failure, int], dict[Failure, int]]:
    """What both sides have counted once `a` has begun and it came to something or nothing."""
    net.a.endpoint.initiate(NAME, net.now)
    net.run(60)
    return dict(net.a.endpoint.failures), dict(net.b.endpoint.failures)


def test_who_connects_has_failed_by_nothing() -> None:
    assert tried(Net()) == ({}, {})


def test_a_wrong_secret_is_counted_by_both() -> None:
    net = Net(1, connection("a", credentials=auth.Psk(b"another one")))
    assert tried(net) == ({Failure.REFUSED_BY_PEER: 1}, {Failure.WRONG_SECRET: 1})


@pytest.mark.parametrize("kind", [Payload.IDI, Payload.IDR])
def test_an_identity_that_is_not_known(kind: Payload) -> None:
    """The initiator's, or that of whom it wants to talk to."""
    change = {"local_id" if kind is Payload.IDI else "remote_id": auth.identity("c.example", kind)}
    assert tried(Net(1, connection("a", **change)))[1] == {Failure.UNKNOWN_IDENTITY: 1}


def test_a_responder_that_is_somebody_else_is_counted_by_both() -> None:
    net = Net(1, b=connection("b", local_id=auth.identity("c.example", Payload.IDI)))
    net.a.endpoint.connections[NAME] = connection("a")
    mine, theirs = tried(net)
    assert theirs in ({Failure.UNKNOWN_IDENTITY: 1}, {Failure.REFUSED_BY_PEER: 1})
    assert mine


def test_another_way_to_authenticate() -> None:
    mine = credentials(OURS, "b.example")
    assert tried(Net(1, b=connection("b", credentials=mine)))[1] == {Failure.AUTH_METHOD: 1}


@pytest.mark.parametrize(
    ("theirs", "rules", "reason"),
    [
        (credentials(OURS, "a.example", start=NOW - 3 * DAY, end=NOW - DAY), Rules(), Failure.CERT_EXPIRED),
        (credentials(OURS, "a.example", start=NOW + DAY, end=NOW + 3 * DAY), Rules(), Failure.CERT_EXPIRED),
        (REVOKED, Rules((Crl.of(OURS.crl(REVOKED.chain[0])),)), Failure.CERT_REVOKED),
        (REVOKED, Rules((Crl.of(OURS.crl(end=NOW - DAY / 2)),)), Failure.CERT_CRL),
        (REVOKED, Rules(strict=True), Failure.CERT_CRL),
        (credentials(FOREIGN, "a.example", trusts=OURS), Rules(), Failure.CERT_UNTRUSTED),
        (credentials(Ca(), "a.example", trusts=OURS), Rules(), Failure.CERT_UNTRUSTED),
        (REVOKED, Rules(pinned=credentials(OURS, "a.example").chain[0]), Failure.CERT_UNTRUSTED),
        (credentials(OURS, "a.example", purposes=SERVER), Rules(), Failure.CERT_PURPOSE),
        (credentials(OURS, "c.example"), Rules(), Failure.CERT_NAME),
        (Certificates(KEYS["P-256"](), REVOKED.chain, REVOKED.authorities), Rules(), Failure.WRONG_SIGNATURE),
    ],
)
def test_what_is_wrong_with_a_certificate(theirs: Certificates, rules: Rules, reason: Failure) -> None:
    mine = credentials(OURS, "b.example")
    mine = Certificates(mine.key, mine.chain, mine.authorities, rules)
    net = Net(1, connection("a", credentials=theirs), connection("b", credentials=mine))
    assert tried(net) == ({Failure.REFUSED_BY_PEER: 1}, {reason: 1})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ike": ("aes128gcm16-prfsha256-ecp256",)}, Failure.NO_PROPOSAL),
        ({"esp": ("aes128gcm16-ecp256-noesn",)}, Failure.NO_PROPOSAL),
        ({"remote_ts": ()}, Failure.TS_UNACCEPTABLE),
    ],
)
def test_nothing_in_common_is_counted_by_both(changes: dict[str, Any], reason: Failure) -> None:
    mine, theirs = tried(Net(1, b=connection("b", **changes)))
    assert set(mine) == set(theirs) == {reason}


def test_another_group_is_no_failure() -> None:
    net = Net(1, connection("a", ike=("aes256gcm16-prfsha384-ecp256-x25519",)))
    assert tried(net) == ({}, {})
    assert net.a.of(Established)


def test_a_peer_that_does_not_answer() -> None:
    net = Net()
    net.judge = lambda datagram: []
    assert tried(net)[0] == {Failure.NO_ANSWER: 1}


def test_strangers_are_counted_by_what_was_done_about_them() -> None:
    net = Net()
    half_open(net, 3 * HALF_OPEN_COOKIES)
    assert net.b.endpoint.failures[Failure.COOKIE_ASKED] == 2 * HALF_OPEN_COOKIES
    net.run(HALF_OPEN_S + 1)
    assert net.b.endpoint.failures[Failure.HALF_OPEN_TIMED_OUT] == HALF_OPEN_COOKIES


def test_the_oldest_half_open_one_that_goes_for_a_newer_one_is_counted() -> None:
    net = Net()
    half_open(net, HALF_OPEN_COOKIES)
    net.b.endpoint.datagrams_to_send()
    for number in range(HALF_OPEN_MAX - HALF_OPEN_COOKIES + 5):  # each from a port of its own, and with a cookie
        first, port = net.a_again(), (A[0], 1000 + number)
        first.initiate(NAME, net.now)
        (asks,) = first.datagrams_to_send()
        net.b.endpoint.receive(asks.data, B, port, net.now)
        (cookie,) = net.b.endpoint.datagrams_to_send()
        first.receive(cookie.data, A, B, net.now)
        (shows,) = first.datagrams_to_send()
        net.b.endpoint.receive(shows.data, B, port, net.now)
        net.b.endpoint.datagrams_to_send()
        net.now += 0.02
    assert net.b.endpoint.failures[Failure.HALF_OPEN_DROPPED] == 5


def test_every_error_that_a_peer_may_send_counts_as_something_or_is_known_to_be_none() -> None:
    none = {kind for kind in range(1, 16384) if by_notify(kind) is None}
    assert none == {Notify.INVALID_KE_PAYLOAD, Notify.TEMPORARY_FAILURE, Notify.CHILD_SA_NOT_FOUND}


# -- by whom ------------------------------------------------------------------------------------------------------


def test_every_ike_sa_that_comes_also_goes_and_says_by_whom() -> None:
    net = Net().connect()
    net.a.endpoint.rekey_ike(NAME, net.now, By.COUNT)
    net.run(2)
    net.b.endpoint.terminate(NAME, net.now, by=By.USER)
    net.run(2)
    ups, downs = net.a.of(IkeUp), net.a.of(IkeDown)
    assert [(up.by, up.initiated, up.replaces is None) for up in ups] == [
        (By.START, True, True),
        (By.COUNT, True, False),
    ]
    assert ups[1].replaces == ups[0].spis
    assert [(down.spis, down.by) for down in downs] == [(ups[0].spis, By.REPLACED), (ups[1].spis, By.PEER)]
    assert [up.by for up in net.b.of(IkeUp)] == [By.PEER, By.PEER]
    assert [down.by for down in net.b.of(IkeDown)] == [By.PEER, By.USER]


def test_an_attempt_that_came_to_nothing_is_no_ike_sa() -> None:
    net = Net(1, connection("a", credentials=auth.Psk(b"another one")))
    tried(net)
    assert not net.a.of(IkeUp) + net.a.of(IkeDown) + net.b.of(IkeUp) + net.b.of(IkeDown)


def test_a_peer_that_is_silent_has_its_ike_sa_ended_by_that() -> None:
    net = Net().connect()
    net.judge = lambda datagram: []
    net.run(120)
    assert [down.by for down in net.a.of(IkeDown)] == [By.SILENCE]

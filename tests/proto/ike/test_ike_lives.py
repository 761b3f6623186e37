"""The end of an IKE SA: with the certificate that it rests on, through rekeyings, and whatever the wall clock does."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from certkit import NOW, Ca, credentials
from ikekit import NAME, WALL, Net, connection

from fwd.keyd.proof import Note, Proof
from fwd.proto.ike import auth, upkeep
from fwd.proto.ike.events import Closed, Established
from fwd.proto.ike.numbers import Payload
from fwd.proto.ike.trust import Crl, Rules

SECOND = datetime.timedelta(seconds=1)
ONE = auth.identity("gw1.example", Payload.IDI)
TWO = auth.identity("gw2.example", Payload.IDR)


def with_certificates(end_s: float, **changes: Any) -> tuple[Net, Ca]:
    """Side b's certificate ends `end_s` after side a's clock said 0."""
    ca = Ca()
    mine = credentials(ca, "gw1.example")
    theirs = credentials(ca, "gw2.example", end=NOW + end_s * SECOND)
    names = {"local_id": ONE, "remote_id": TWO}
    others = {
        "local_id": auth.identity("gw2.example", Payload.IDI),
        "remote_id": auth.identity("gw1.example", Payload.IDR),
    }
    net = Net(a=connection("a", credentials=mine, **names, **changes), b=connection("b", credentials=theirs, **others))
    net.a.endpoint.initiate(NAME, net.now)
    net.run(1.0)
    return net, ca


@pytest.mark.parametrize("grace_s", [0.0, 50.0])
def test_an_ike_sa_ends_with_the_certificate_that_it_rests_on(grace_s: float) -> None:
    net, _ = with_certificates(1100.0, cert_grace_s=grace_s)
    (sa,) = net.a.live()
    assert sa.standing.ends_at == pytest.approx(1100.0 + grace_s, abs=1.0)
    net.run(95.0 + grace_s)
    assert net.a.of(Closed) == []
    net.run(5.0)
    assert [event.error for event in net.a.of(Closed)] == ["the peer's certificate has ended"]


def test_within_the_grace_an_ike_sa_may_begin_that_rests_on_a_certificate_that_has_ended() -> None:
    net, _ = with_certificates(900.0, cert_grace_s=200.0)  # the clock says 1,000 by now
    (sa,) = net.a.live()
    assert sa.standing.ends_at == pytest.approx(1100.0, abs=1.0)
    (told,) = net.a.of(Established)
    assert told.certificate.valid_until == NOW + 900 * SECOND
    net.run(110.0)
    assert [event.error for event in net.a.of(Closed)] == ["the peer's certificate has ended"]


def test_after_the_grace_none_begins() -> None:
    net, _ = with_certificates(900.0, cert_grace_s=99.0)
    assert net.a.live() == []
    assert net.a.of(Established) == []


def test_a_rekeyed_ike_sa_ends_when_the_first_one_would_have() -> None:
    net, _ = with_certificates(1100.0)
    net.a.endpoint.rekey_ike(NAME, net.now)
    net.run(1.0)
    (sa,) = net.a.live()
    assert sa.standing.ends_at == pytest.approx(1100.0, abs=1.0)
    assert {up.standing for up in net.a.children().values()} == {sa.standing}


def test_a_jump_of_the_wall_clock_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net, _ = with_certificates(1100.0)
    monkeypatch.setattr(net.a.endpoint._world, "wall_clock", lambda: WALL + 10**9)
    net.run(50.0)
    assert net.a.of(Closed) == []


def test_the_first_of_what_is_due_goes_first() -> None:
    net, _ = with_certificates(1100.0)
    (sa,) = net.a.live()
    assert upkeep.what_is_due(sa, [sa], sa.standing.ends_at) is upkeep.Due.END
    assert upkeep.what_is_due(sa, [sa], net.now) is None


# -- what SAs rest on (keyd/proof.py) ------------------------------------------------------------------------------


def note_of(proof: Proof, chain: Any = ()) -> Note:
    found = Note.decode(proof.note([chain]).encode())
    assert found is not None
    return found


def test_a_renewed_certificate_of_the_same_issuer_changes_nothing() -> None:
    ca = Ca()
    before = note_of(Proof(credentials(ca, "gw1.example"), ONE, TWO))
    assert Proof(credentials(ca, "gw1.example"), ONE, TWO).is_that_of(before)


def test_another_ca_identity_or_kind_of_proof_is_another() -> None:
    ca = Ca()
    before = note_of(Proof(credentials(ca, "gw1.example"), ONE, TWO))
    other = auth.identity("gw3.example", Payload.IDR)
    for now in (
        Proof(credentials(Ca("another CA"), "gw1.example"), ONE, TWO),
        Proof(credentials(ca, "gw1.example"), ONE, other),
        Proof(auth.Psk(b"a secret"), ONE, TWO),
    ):
        assert not now.is_that_of(before)


def test_what_a_crl_names_is_found_in_the_note() -> None:
    ca = Ca()
    mine, theirs = credentials(ca, "gw1.example"), credentials(ca, "gw2.example")
    note = note_of(Proof(mine, ONE, TWO), (theirs.chain[0], ca.certificate))
    assert not Proof(mine, ONE, TWO).why_revoked(note)
    revoking = auth.Certificates(mine.key, mine.chain, mine.authorities, Rules((Crl.of(ca.crl(theirs.chain[0])),)))
    proof = Proof(revoking, ONE, TWO)
    assert proof.is_that_of(note)
    assert "revoked" in proof.why_revoked(note)


def test_no_note_is_none() -> None:
    assert Note.decode(b"") is None

"""What a stranger's certificates may cost: all of it is known before a signature is checked."""

from __future__ import annotations

from typing import Any

import pytest
from certkit import DAY, KEYS, MERSENNE, NOW, Ca, costly_key, credentials, hash_of, rsa_key
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import ClientVerifier
from ikekit import NAME, Net, connection

from fwd.proto.ike import auth, trust
from fwd.proto.ike.chain import CERTIFICATES_MAX, RSA_EXPONENT_BITS_MAX, affordable
from fwd.proto.ike.events import Rejected
from fwd.proto.ike.numbers import Notify, ProtocolError


def der(*certificates: x509.Certificate) -> list[bytes]:
    return [one.public_bytes(Encoding.DER) for one in certificates]


def test_a_path_is_kept_and_nothing_beside_it() -> None:
    root = Ca("root")
    middle = Ca("middle", parent=root)
    low = Ca("low", parent=middle)
    leaf = low.issue("a.example", KEYS["P-256"]())
    wanted = [leaf, low.certificate, middle.certificate]
    for sent in ([*wanted, root.certificate], [leaf, middle.certificate, root.certificate, low.certificate]):
        assert affordable(der(*sent), (Ca("other").certificate, root.certificate)) == wanted
    assert affordable(der(*wanted), (low.certificate,)) == [leaf], "a configured CA ends it, wherever it stands"


def test_the_peers_own_certificate_may_be_a_configured_one() -> None:
    own = Ca("self")
    assert affordable(der(own.certificate), (own.certificate,)) == [own.certificate]


def test_each_issuer_is_there_once() -> None:
    """Else every order of them would be tried, each with signatures to check."""
    root = Ca("root")
    leaf = root.issue("a.example", KEYS["P-256"]())
    evil = [Ca("evil", parent=root, key=root.key) for _ in range(3)]
    assert affordable(der(leaf, *(one.certificate for one in evil)), (root.certificate,)) == [leaf]
    under = evil[0].issue("a.example", KEYS["P-256"]())
    assert len(affordable(der(under, *(one.certificate for one in evil)), (root.certificate,))) == 2


def test_two_that_have_issued_each_other_lead_nowhere_and_not_round_and_round() -> None:
    one, other = Ca("one"), Ca("other")
    circle = [other.issue("one", one.key), one.issue("other", other.key)]
    assert [(of.issuer, of.subject) for of in circle] == [(other.name, one.name), (one.name, other.name)]
    leaf = one.issue("a.example", KEYS["P-256"]())
    assert "no configured CA" in refusal(der(leaf, *circle), Ca("root").certificate)


def refusal(sent: list[bytes], *authorities: x509.Certificate) -> str:
    with pytest.raises(ProtocolError) as refused:
        affordable(sent, authorities)
    assert refused.value.notify is Notify.AUTHENTICATION_FAILED
    return str(refused.value)


def test_so_many_certificates_and_no_more() -> None:
    ca = Ca()
    leaf = ca.issue("a.example", KEYS["P-256"]())
    assert affordable(der(leaf) * CERTIFICATES_MAX, (ca.certificate,)) == [leaf]
    assert "5 certificates" in refusal(der(leaf) * 5, ca.certificate)
    assert "0 certificates" in refusal([], ca.certificate)


def test_what_no_configured_ca_is_named_as_issuer_of_is_not_verified() -> None:
    ours, theirs = Ca("ours"), Ca("theirs")
    leaf = theirs.issue("a.example", KEYS["P-256"]())
    assert "no configured CA" in refusal(der(leaf, theirs.certificate), ours.certificate)
    namesake = Ca("ours")
    leaf = namesake.issue("a.example", KEYS["P-256"]())
    assert "no configured CA" in refusal(der(leaf, namesake.certificate), ours.certificate), "of another key"


KEYS_THAT_COST = {
    "exponent": (lambda: costly_key(), "exponent"),
    "exponent of 34 bits": (lambda: costly_key(RSA_EXPONENT_BITS_MAX + 1), "exponent"),
    "modulus": (lambda: rsa_key(MERSENNE[2203], MERSENNE[2281]), "4484 bits, more than 4096"),
    "short modulus": (lambda: rsa_key(MERSENNE[607], MERSENNE[1279]), "1886 bits, fewer than 2048"),
    "curve": (lambda: ec.generate_private_key(ec.SECP256K1()), "curve secp256k1"),
    "Brainpool curve": (lambda: ec.generate_private_key(ec.BrainpoolP256R1()), "curve brainpoolP256r1"),
    "kind": (lambda: dsa.generate_private_key(1024), "kind"),
}


@pytest.mark.parametrize("what", KEYS_THAT_COST)
def test_a_key_that_costs_too_much_is_refused_wherever_it_is(what: str) -> None:
    make, reason = KEYS_THAT_COST[what]
    root, key = Ca("root"), make()
    assert reason in refusal(der(root.issue("a.example", key)), root.certificate)
    between = _certificate_of(root, "between", key)
    leaf = _issued_by("between", key)
    assert reason in refusal(der(leaf, between), root.certificate)


def test_an_exponent_of_33_bits_is_taken() -> None:
    root = Ca("root")
    assert affordable(der(root.issue("a.example", costly_key(RSA_EXPONENT_BITS_MAX))), (root.certificate,))


def _certificate_of(ca: Ca, name: str, key: Any) -> x509.Certificate:
    return ca.issue(name, key)


def _issued_by(issuer: str, key: Any) -> x509.Certificate:
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, one)]) for one in ("a.example", issuer)]
    builder = (
        x509.CertificateBuilder().subject_name(names[0]).issuer_name(names[1]).public_key(KEYS["P-256"]().public_key())
        .serial_number(1).not_valid_before(NOW - DAY).not_valid_after(NOW + DAY)
    )  # fmt: skip
    return builder.sign(key, hash_of(key) or hashes.SHA256())


def test_an_odd_name_in_a_certificate_of_the_ca_is_a_refusal() -> None:
    ca, key = Ca(), KEYS["P-256"]()
    odd = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), bytes.fromhex("3004a300a500"))
    name = x509.Name([])
    leaf = (
        x509.CertificateBuilder().subject_name(name).issuer_name(ca.name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(NOW - DAY).not_valid_after(NOW + DAY).add_extension(odd, critical=False)
        .sign(ca.key, hashes.SHA256())
    )  # fmt: skip
    mine = auth.Certificates(key, (leaf,), (ca.certificate,))
    net = Net(a=connection("a", credentials=mine), b=connection("b", credentials=credentials(ca, "b.example")))
    net.a.endpoint.initiate(NAME, net.now)
    net.run(3)
    assert "certificate" in net.b.of(Rejected)[0].error


def test_a_strangers_chain_of_costly_keys_is_never_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """RSA with an exponent of 3,000 bits, seven self-issued CAs of one name: 1.2 s of signature checks."""
    real, key = Ca("real CA"), costly_key()
    evil = [Ca("evil", key) for _ in range(7)]
    leaf_key = KEYS["P-256"]()
    leaf = evil[0].issue("a.example", leaf_key)
    mine = auth.Certificates(leaf_key, (leaf, *(ca.certificate for ca in evil)), (real.certificate,))
    verified: list[object] = []
    monkeypatch.setattr(trust, "PolicyBuilder", lambda: verified.append(ClientVerifier))
    net = Net(a=connection("a", credentials=mine), b=connection("b", credentials=credentials(real, "b.example")))
    net.a.endpoint.initiate(NAME, net.now)
    net.run(3)
    assert net.b.of(Rejected)
    assert not verified

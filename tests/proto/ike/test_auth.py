"""Who is who: certificates of every kind of key, and every way in which they must not be believed."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from certkit import DAY, KEYS, NOW, RSA, Ca, credentials, key_usage, signed
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from ikekit import NAME, Net, connection

from fwd.proto.ike import auth
from fwd.proto.ike.auth import Certificates
from fwd.proto.ike.crypto import Prf
from fwd.proto.ike.events import Closed, Established, Rejected
from fwd.proto.ike.numbers import AuthMethod, CertEncoding, IdType, Notify, Payload, ProtocolError
from fwd.proto.ike.payloads import Authentication, Certificate, Identity
from fwd.proto.ike.proposals import PRF_SHA256


def meet(a: Certificates, b: Certificates, **changes: Any) -> Net:
    net = Net(1, connection("a", credentials=a, **changes), connection("b", credentials=b))
    net.a.endpoint.initiate(NAME, net.now)
    net.run(60)
    return net


@pytest.mark.parametrize("kind", KEYS)
def test_every_kind_of_key(kind: str) -> None:
    ca = Ca()
    net = meet(credentials(ca, "a.example", kind), credentials(ca, "b.example", kind))
    net.check_agreement()
    assert net.a.of(Established)
    assert net.b.of(Established)


def test_a_chain_with_a_ca_between() -> None:
    root = Ca("root")
    between = Ca("between", parent=root)
    key = KEYS["P-256"]()
    long = Certificates(key, (between.issue("a.example", key), between.certificate), (root.certificate,))
    assert meet(long, credentials(root, "b.example")).b.of(Established)


def test_four_certificates_are_sent_and_accepted() -> None:
    """RFC 7296 §3.6."""
    root = above = Ca("root")
    between: list[x509.Certificate] = []
    for number in range(3):
        above = Ca(f"between {number}", parent=above)
        between.insert(0, above.certificate)
    key = KEYS["P-256"]()
    long = Certificates(key, (above.issue("a.example", key), *between), (root.certificate,))
    assert meet(long, credentials(root, "b.example")).b.of(Established)


def test_key_usage_for_signatures_and_purposes_for_ike_are_fine() -> None:
    ca = Ca()
    mine = credentials(
        ca, "a.example", usage=key_usage(digital_signature=True),
        purposes=[ExtendedKeyUsageOID.IPSEC_IKE, ExtendedKeyUsageOID.SERVER_AUTH],
    )  # fmt: skip
    assert meet(mine, credentials(ca, "b.example")).b.of(Established)


BAD: dict[str, dict[str, Any]] = {
    "expired": {"end": NOW - DAY / 2},
    "not yet valid": {"start": NOW + DAY / 2},
    "another name": {"names": [x509.DNSName("c.example")]},
    "a common name alone": {"names": []},
    "not for signatures": {"usage": key_usage(key_agreement=True)},
}


@pytest.mark.parametrize("what", BAD)
def test_a_certificate_that_must_not_be_believed(what: str) -> None:
    ca = Ca()
    for bad in ("a", "b"):
        sides = {side: credentials(ca, f"{side}.example", **(BAD[what] if side == bad else {})) for side in "ab"}
        net = meet(sides["a"], sides["b"])
        assert not net.a.live()
        assert not net.b.live()
        assert len(net.a.of(Closed)) == 1
        assert not net.a.of(Established) or bad == "a"


ODD = {
    "a version that there is not": ("a003020102", "a003020103"),
    "a key of no known kind": ("06072a8648ce3d0201", "06072a8648ce3d027f"),
    "a curve of no known name": ("06082a8648ce3d030107", "06082a8648ce3d03017f"),
    "a name that is no text": ("0c09612e6578616d706c65", "0c09ff2e6578616d706c65"),
}


@pytest.mark.parametrize("what", ODD)
def test_a_certificate_of_odd_content_is_refused_though_the_ca_has_signed_it(what: str) -> None:
    ca = Ca()
    good, bad = (bytes.fromhex(octets) for octets in ODD[what])
    tbs = credentials(ca, "a.example").chain[0].tbs_certificate_bytes
    assert good in tbs
    odd = Certificate(CertEncoding.X509_SIGNATURE, signed(ca, tbs.replace(good, bad, 1)))
    proof = Authentication(AuthMethod.SIGNATURE, b"x" * 64)
    who = auth.identity("CN=a.example" if "name" in what.split() else "a.example", Payload.IDI)
    with pytest.raises(ProtocolError) as refused:
        auth.check(credentials(ca, "b.example"), Prf(PRF_SHA256), b"octets", proof, who, [odd], NOW)
    assert refused.value.notify is Notify.AUTHENTICATION_FAILED


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("192.0.2.1", x509.IPAddress(ip_address("192.0.2.1"))), ("a.example", x509.DNSName("a.example")),
        ("2001:db8::1", x509.IPAddress(ip_address("2001:db8::1"))), ("w@a.example", x509.RFC822Name("w@a.example")),
    ],
)  # fmt: skip
def test_a_name_counts_as_what_it_is(text: str, name: x509.GeneralName) -> None:
    """RFC 4945 §3.1: an address is not a host name that reads like one."""
    certificate = credentials(Ca(), "a.example", names=[name]).chain[0]
    who = auth.identity(text, Payload.IDI)
    auth.check_name(certificate, who)
    for kind in {IdType.IPV4_ADDR, IdType.FQDN, IdType.RFC822_ADDR, IdType.KEY_ID} - {IdType(who.kind)}:
        with pytest.raises(ProtocolError, match="is not for"):
            auth.check_name(certificate, Identity(Payload.IDI, kind, text.encode()))


def test_a_certificate_of_a_foreign_ca() -> None:
    ours, foreign = Ca(), Ca()
    net = meet(credentials(foreign, "a.example", trusts=ours), credentials(ours, "b.example"))
    assert not net.b.of(Established)
    assert "AUTHENTICATION_FAILED" in net.a.of(Closed)[0].error


def test_a_certificate_whose_key_somebody_else_has() -> None:
    ca = Ca()
    good = credentials(ca, "a.example")
    net = meet(Certificates(KEYS["P-256"](), good.chain, good.authorities), credentials(ca, "b.example"))
    assert not net.b.of(Established)


@pytest.mark.parametrize("kind", KEYS)
def test_a_signature_is_of_these_octets_and_no_others(kind: str) -> None:
    ca = Ca()
    mine = credentials(ca, "a.example", kind)
    proof = auth.sign(mine.key, b"octets", auth.HASH_ALGORITHMS)
    auth.check_signature(mine.chain[0], b"octets", proof)
    for octets, data in ((b"other", proof.data), (b"octets", proof.data[:-1]), (b"octets", proof.data[:20])):
        with pytest.raises(ProtocolError) as refused:
            auth.check_signature(mine.chain[0], octets, Authentication(proof.method, data))
        assert refused.value.notify is Notify.AUTHENTICATION_FAILED


def test_a_secret_instead_of_a_certificate() -> None:
    net = Net(1, connection("a"), connection("b", credentials=credentials(Ca(), "b.example")))
    net.a.endpoint.initiate(NAME, net.now)
    net.run(60)
    assert not net.b.of(Established)


@pytest.mark.parametrize(
    "method", [AuthMethod.RSA, AuthMethod.ECDSA_256, AuthMethod.SHARED_KEY, 200], ids=["RSA", "ECDSA", "PSK", "200"]
)
def test_older_methods_are_refused(method: int) -> None:
    certificate = credentials(Ca(), "a.example").chain[0]
    with pytest.raises(ProtocolError) as refused:
        auth.check_signature(certificate, b"octets", Authentication(method, b"x" * 64))
    assert refused.value.notify is Notify.AUTHENTICATION_FAILED


def test_what_rsa_signs_with_is_named_as_certificates_name_it() -> None:
    """RFC 7427 §3: the AlgorithmIdentifier of RSASSA-PSS is the one that X.509 has."""
    scheme = padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size)
    name = x509.Name([])
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(RSA.public_key()).serial_number(1)
        .not_valid_before(NOW).not_valid_after(NOW + DAY).sign(RSA, hashes.SHA256(), rsa_padding=scheme)
    )  # fmt: skip
    data = auth.sign(RSA, b"octets", auth.HASH_ALGORITHMS).data
    assert data[1 : 1 + data[0]] in certificate.tbs_certificate_bytes


@pytest.mark.parametrize("null", ["0500", ""])
@pytest.mark.parametrize("mask_null", ["0500", ""])
def test_parameters_of_a_hash_may_be_null_or_left_out(null: str, mask_null: str) -> None:
    """RFC 4055 §2.1: both are correct."""

    def tlv(tag: int, *parts: str) -> str:
        body = "".join(parts)
        return f"{tag:02x}{len(body) // 2:02x}{body}"

    sha384 = "0609608648016503040202"
    mask = tlv(0xA1, tlv(0x30, "06092a864886f70d010108", tlv(0x30, sha384, mask_null)))
    parameters = tlv(0x30, tlv(0xA0, tlv(0x30, sha384, null)), mask, tlv(0xA2, "020130"))
    algorithm = bytes.fromhex(tlv(0x30, "06092a864886f70d01010a", parameters))
    signature = RSA.sign(b"octets", padding.PSS(padding.MGF1(hashes.SHA384()), 48), hashes.SHA384())
    certificate = credentials(Ca(), "a.example", "RSA").chain[0]
    auth.check_signature(certificate, b"octets", Authentication(14, bytes([len(algorithm)]) + algorithm + signature))


def test_pkcs1_signatures_are_refused() -> None:
    """RFC 7427's sha256WithRSAEncryption."""
    certificate = credentials(Ca(), "a.example", "RSA").chain[0]
    algorithm = bytes.fromhex("300d06092a864886f70d01010b0500")
    signature = RSA.sign(b"octets", padding.PKCS1v15(), hashes.SHA256())
    with pytest.raises(ProtocolError, match="of a kind"):
        auth.check_signature(certificate, b"octets", Authentication(14, bytes([15]) + algorithm + signature))


def test_a_peer_without_our_hashes_is_told() -> None:
    with pytest.raises(ProtocolError, match="no signature hash"):
        auth.sign(KEYS["P-256"](), b"octets", b"\0\1")
    with pytest.raises(ProtocolError, match="no signature hash"):
        auth.sign(KEYS["Ed25519"](), b"octets", b"\0\2\0\3\0\4")  # RFC 8420 §2: 5 stands for it


@pytest.mark.parametrize(
    ("text", "kind", "data"),
    [
        ("192.0.2.1", 1, bytes([192, 0, 2, 1])), ("2001:db8::1", 5, bytes.fromhex("20010db8" + "0" * 23 + "1")),
        ("gw1.example", 2, b"gw1.example"), ("@gw1", 2, b"gw1"), ("who@example", 3, b"who@example"),
        ("@#0aff", 11, b"\x0a\xff"),
    ],
)  # fmt: skip
def test_identities(text: str, kind: int, data: bytes) -> None:
    who = auth.identity(text, Payload.IDI)
    assert (who.kind, who.data) == (kind, data)
    assert auth.same(who, auth.identity(text.upper() if kind in (2, 3) else text, Payload.IDR))


@pytest.mark.parametrize("text", ["", "@", "gw1.example\n", "who\0@example", "gü.example", "@#abc", "CN=", "="])
def test_what_is_no_identity(text: str) -> None:
    """RFC 7296 §3.5: names and addresses are ASCII, without terminators."""
    with pytest.raises(ValueError, match="identity"):
        auth.identity(text, Payload.IDI)


def test_a_distinguished_name() -> None:
    ca = Ca()
    certificate = credentials(ca, "a.example", names=[]).chain[0]
    auth.check_name(certificate, auth.identity("CN=a.example", Payload.IDI))
    with pytest.raises(ProtocolError, match="is not for"):
        auth.check_name(certificate, auth.identity("CN=b.example", Payload.IDI))


def test_a_short_rsa_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 8247 §4.1."""
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    monkeypatch.setitem(KEYS, "short", lambda: short)
    ca = Ca()
    net = meet(credentials(ca, "a.example", "short"), credentials(ca, "b.example"))
    assert not net.b.of(Established)
    assert "1024 bits" in net.b.of(Rejected)[0].error

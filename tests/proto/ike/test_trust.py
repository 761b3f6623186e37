"""Which certificates are believed: CAs of every tool, purposes, names, lists of what is revoked, pinned ones."""

from __future__ import annotations

from typing import Any

import pytest
from certkit import DAY, IS_CA, KEYS, NOW, Ca, _der, credentials, key_usage
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from ikekit import NAME, Net, connection

from fwd.proto.ike import auth, trust
from fwd.proto.ike.auth import Certificates
from fwd.proto.ike.events import Established, Rejected
from fwd.proto.ike.numbers import Notify, Payload, ProtocolError
from fwd.proto.ike.trust import Crl, Rules

SIGNS = key_usage(key_cert_sign=True, crl_sign=True)
SIGNS_ALL = key_usage(digital_signature=True, key_cert_sign=True, crl_sign=True)
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")
MICROSOFT = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.311.21.1"), b"\2\1\0")


def believed(
    mine: Certificates,
    *authorities: x509.Certificate,
    rules: Rules | None = None,
    time: Any = NOW,
    grace: Any = 0 * DAY,
) -> Any:
    theirs = auth.certificate_payloads(mine)
    return trust.judge(theirs, authorities or mine.authorities, time, rules or Rules(), grace)


def refused(reason: str, mine: Certificates, *authorities: x509.Certificate, **how: Any) -> None:
    with pytest.raises(ProtocolError, match=reason) as error:
        believed(mine, *authorities, **how)
    assert error.value.notify is Notify.AUTHENTICATION_FAILED
    assert "\n" not in str(error.value)
    assert "http" not in str(error.value)


# -- CAs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "extensions",
    [
        pytest.param([(IS_CA, True)], id="openssl req -x509"),
        pytest.param([(IS_CA, False), (SIGNS, False)], id="easy-rsa"),
        pytest.param([(IS_CA, True), (SIGNS, True)], id="strongSwan's pki"),
        pytest.param([(SIGNS_ALL, False), (IS_CA, True), (MICROSOFT, False)], id="Microsoft"),
    ],
)  # fmt: skip
def test_a_private_ca_is_held_to_rfc_5280_and_not_to_the_web_pki(extensions: Any) -> None:
    ca = Ca(extensions=extensions)
    between = Ca("between", parent=ca, extensions=extensions)
    assert believed(credentials(ca, "a.example")).leaf
    key = KEYS["P-256"]()
    assert believed(Certificates(key, (between.issue("a.example", key), between.certificate), (ca.certificate,))).leaf


@pytest.mark.parametrize(
    ("extensions", "reason"),
    [
        ([(SIGNS, True)], "does not say to be a CA"),
        ([(x509.BasicConstraints(False, None), True)], "is no CA"),
        ([(IS_CA, True), (key_usage(crl_sign=True), True)], "does not allow to issue"),
        ([(IS_CA, True), (UNKNOWN, True)], "1.2.3.4: critical, and fwd does not know it"),
    ],
)
def test_what_is_no_ca_issues_nothing(extensions: Any, reason: str) -> None:
    refused(reason, credentials(Ca(extensions=extensions), "a.example"))


def test_name_constraints_are_kept_to() -> None:
    permitted = x509.NameConstraints([x509.DNSName("example")], None)
    ca = Ca(extensions=[(IS_CA, True), (permitted, True)])
    assert believed(credentials(ca, "a.example")).leaf
    refused("not trusted", credentials(ca, "a.other"))


def test_a_path_is_no_longer_than_its_ca_allows() -> None:
    root = Ca(extensions=[(x509.BasicConstraints(True, 0), True)])
    between, key = Ca("between", parent=root), KEYS["P-256"]()
    refused(
        "path length", Certificates(key, (between.issue("a.example", key), between.certificate), (root.certificate,))
    )


# -- what a certificate is for ------------------------------------------------------------------------------------

E = ExtendedKeyUsageOID


@pytest.mark.parametrize(
    ("purposes", "by_default", "with_option"),
    [
        ([E.IPSEC_IKE], True, True), ([E.ANY_EXTENDED_KEY_USAGE], True, True),
        ([E.CODE_SIGNING, E.IPSEC_IKE], True, True),
        ([E.SERVER_AUTH], False, True), ([E.CLIENT_AUTH], False, True), ([E.CODE_SIGNING], False, False),
        ([E.EMAIL_PROTECTION, E.TIME_STAMPING], False, False), ([E.OCSP_SIGNING], False, False),
    ],
)  # fmt: skip
def test_extended_key_usage_must_allow_ike(purposes: Any, by_default: bool, with_option: bool) -> None:
    """RFC 4945 §5.1.3.12; a company's web server is no gateway, unless the operator says so."""
    mine = credentials(Ca(), "a.example", purposes=purposes)
    for taken, rules in ((by_default, Rules()), (with_option, Rules(tls_purposes=True))):
        if taken:
            assert believed(mine, rules=rules).leaf
        else:
            refused("extended key usage is .*, and not ipsecIKE", mine, rules=rules)


@pytest.mark.parametrize("bit", ["digital_signature", "content_commitment"])
def test_key_usage_allows_signatures_by_either_bit(bit: str) -> None:
    """RFC 4945 §5.1.3.2."""
    assert believed(credentials(Ca(), "a.example", usage=key_usage(**{bit: True}))).leaf
    refused("allows neither", credentials(Ca(), "a.example", usage=key_usage(key_cert_sign=True)))


def test_a_ca_is_no_gateway() -> None:
    refused("is a CA's", credentials(Ca(), "a.example", extensions=[(IS_CA, True)]))


def test_what_a_certificate_demands_and_fwd_does_not_know_is_told() -> None:
    policies = x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("1.2.3"), None)])
    refused("1.2.3.4: critical", credentials(Ca(), "a.example", extensions=[(UNKNOWN, True)]))
    refused("certificate policies are critical", credentials(Ca(), "a.example", extensions=[(policies, True)]))


SAN = x509.ObjectIdentifier("2.5.29.17")


@pytest.mark.parametrize(
    "names",
    [
        _der(0x30, _der(0x82, b"a.example"), _der(0xA3, b"")),
        _der(0x30, _der(0xA5, _der(0xA1, _der(0x0C, b"x")))),
        b"\xff",
    ],
    ids=["x400Address", "ediPartyName", "junk"],
)
def test_whatever_cryptography_raises_is_a_refusal_and_leaves_no_endpoint(names: bytes) -> None:
    ca = Ca()
    odd = credentials(ca, "a.example", names=[], extensions=[(x509.UnrecognizedExtension(SAN, names), False)])
    net = Net(1, connection("a", credentials=odd), connection("b", credentials=credentials(ca, "b.example")))
    net.a.endpoint.initiate(NAME, net.now)
    net.run(60)
    assert not net.b.of(Established)
    assert "the peer's certificate" in net.b.of(Rejected)[0].error


def test_a_name_that_cannot_be_read_is_no_name() -> None:
    odd = x509.UnrecognizedExtension(SAN, _der(0x30, _der(0x82, b"a.example"), _der(0xA3, b"")))
    leaf = credentials(Ca(), "a.example", names=[], extensions=[(odd, False)]).chain[0]
    with pytest.raises(ProtocolError, match="cannot be read: x400Address"):
        auth.check_name(leaf, auth.identity("a.example", Payload.IDI))


@pytest.mark.parametrize("error", [x509.DuplicateExtension("odd", SAN), KeyError("odd"), OverflowError()])
def test_an_exception_that_nobody_has_thought_of_is_a_refusal(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verify(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(trust, "verify", verify)
    refused("cannot be read", credentials(Ca(), "a.example"))


# -- revocation ---------------------------------------------------------------------------------------------------


def rules(*crls: x509.CertificateRevocationList, strict: bool = False) -> Rules:
    return Rules(tuple(Crl.of(one) for one in crls), strict)


def test_a_revoked_certificate_is_refused_and_no_other() -> None:
    ca = Ca()
    good, bad = credentials(ca, "a.example"), credentials(ca, "a.example")
    crl = ca.crl(bad.chain[0])
    refused("is revoked", bad, rules=rules(crl))
    assert believed(good, rules=rules(crl)).leaf


def test_a_ca_between_may_be_revoked() -> None:
    root, key = Ca("root"), KEYS["P-256"]()
    between = Ca("between", parent=root)
    chain = Certificates(key, (between.issue("a.example", key), between.certificate), (root.certificate,))
    refused(r"\(CN=between\) is revoked", chain, rules=rules(root.crl(between.certificate)))


@pytest.mark.parametrize("strict", [False, True])
def test_a_list_that_is_over_says_nothing_of_today_but_what_it_revoked_stays_revoked(strict: bool) -> None:
    ca = Ca()
    mine, other = credentials(ca, "a.example"), credentials(ca, "a.example")
    over = rules(ca.crl(other.chain[0], end=NOW - DAY / 2), strict=strict)
    refused("the CRL of CN=fwd test CA is over", mine, rules=over)
    refused("is revoked", other, rules=over)


def test_a_newer_list_takes_over_from_one_that_is_over() -> None:
    ca = Ca()
    assert believed(credentials(ca, "a.example"), rules=rules(ca.crl(end=NOW - DAY / 2), ca.crl(), strict=True)).leaf


def test_without_a_list_it_is_the_policy_that_decides() -> None:
    root, key = Ca("root"), KEYS["P-256"]()
    between = Ca("between", parent=root)
    chain = Certificates(key, (between.issue("a.example", key), between.certificate), (root.certificate,))
    assert believed(chain).leaf
    refused("the CRL of CN=between is missing", chain, rules=rules(root.crl(), strict=True))
    refused("the CRL of CN=root is missing", chain, rules=rules(between.crl(), strict=True))
    assert believed(chain, rules=rules(root.crl(), between.crl(), strict=True)).leaf


def test_a_list_counts_if_its_ca_has_signed_it_and_may() -> None:
    ca, namesake = Ca(), Ca()
    mine = credentials(ca, "a.example")
    refused("is not signed by it", mine, rules=rules(namesake.crl()))
    mute = Ca(extensions=[(IS_CA, True), (key_usage(key_cert_sign=True), True)])
    refused("is not signed by it", credentials(mute, "a.example"), rules=rules(mute.crl()))
    assert believed(mine, rules=rules(Ca("another").crl())).leaf


def test_a_list_with_a_critical_extension_is_not_taken() -> None:
    """RFC 5280 §5.2: a delta, or a list of some certificates only, is no list of all that are revoked."""
    with pytest.raises(ValueError, match=r"critical extension 2\.5\.29\.27"):
        Crl.of(Ca().crl(extensions=[(x509.DeltaCRLIndicator(1), True)]))
    assert Crl.of(Ca().crl(extensions=[(x509.CRLNumber(7), False)]))


# -- pinned -------------------------------------------------------------------------------------------------------


def test_a_pinned_certificate_needs_no_ca_and_may_be_left_unsent() -> None:
    mine = credentials(Ca(), "a.example")
    for sent in (mine, Certificates(mine.key, (), ())):
        found = trust.judge(auth.certificate_payloads(sent), (), NOW, Rules(pinned=mine.chain[0]))
        assert found.leaf == mine.chain[0]
        assert found.valid_until == mine.chain[0].not_valid_after_utc


def test_two_that_have_pinned_each_other_are_joined_though_openssl_made_them_cas() -> None:
    """`openssl req -x509` says of each certificate that it is a CA's."""
    a, b = (Ca(side, extensions=[(IS_CA, True)]) for side in "ab")
    sides = {
        side: connection(
            side, local_id=auth.identity(f"CN={side}", Payload.IDI),
            remote_id=auth.identity(f"CN={far}", Payload.IDR),
            credentials=Certificates(mine.key, (mine.certificate,), (), Rules(pinned=other.certificate)),
        )
        for side, far, mine, other in (("a", "b", a, b), ("b", "a", b, a))
    }  # fmt: skip
    net = Net(1, sides["a"], sides["b"])
    net.a.endpoint.initiate(NAME, net.now)
    net.run(60)
    assert net.a.of(Established)
    assert net.b.of(Established)


def test_a_pinned_certificate_may_be_certified_anew() -> None:
    ca, key = Ca(), KEYS["P-256"]()
    old, new = (Certificates(key, (ca.issue("a.example", key),), ()) for _ in range(2))
    assert trust.judge(auth.certificate_payloads(new), (), NOW, Rules(pinned=old.chain[0])).leaf == old.chain[0]


def test_another_certificate_than_the_pinned_one_is_refused_though_a_ca_has_issued_it() -> None:
    ca = Ca()
    mine, other = credentials(ca, "a.example"), credentials(ca, "a.example")
    refused("another one than remote_cert", other, rules=Rules(pinned=mine.chain[0]))
    assert believed(mine, rules=Rules(pinned=mine.chain[0])).leaf


def test_a_pinned_certificate_ends_too() -> None:
    mine = credentials(Ca(), "a.example")
    with pytest.raises(ProtocolError, match=r"remote_cert .* is valid from"):
        trust.judge(auth.certificate_payloads(mine), (), NOW + 2 * DAY, Rules(pinned=mine.chain[0]))


# -- ends ---------------------------------------------------------------------------------------------------------


def test_it_is_believed_until_the_first_of_its_chain_is_over() -> None:
    ca = Ca()
    assert believed(credentials(ca, "a.example")).valid_until == NOW + DAY
    assert believed(credentials(ca, "a.example", end=NOW + 30 * DAY)).valid_until == NOW + 10 * DAY


def test_within_the_grace_it_is_believed_after_its_end_and_no_longer() -> None:
    ca, later = Ca(), NOW + 3 * DAY
    over = credentials(ca, "a.example")
    refused("is over or not yet valid", over, time=later)
    refused("is over or not yet valid", over, time=later, grace=1.9 * DAY)
    assert believed(over, time=later, grace=2 * DAY).valid_until == NOW + DAY
    pinned = Rules(pinned=over.chain[0])
    theirs = auth.certificate_payloads(over)
    assert trust.judge(theirs, (), later, pinned, 2 * DAY).valid_until == NOW + DAY
    with pytest.raises(ProtocolError, match="is valid from"):
        trust.judge(theirs, (), later, pinned, 1.9 * DAY)


def test_of_a_chain_each_may_have_ended_within_the_grace() -> None:
    mine = credentials(Ca(), "a.example", end=NOW + 12 * DAY)
    older = Ca("another that has ended", now=NOW + 3 * DAY).certificate
    both = (*mine.authorities, older)
    assert believed(mine, *both, time=NOW + 14 * DAY, grace=4 * DAY).valid_until == NOW + 10 * DAY
    refused("is over or not yet valid", mine, *both, time=NOW + 14 * DAY, grace=3 * DAY)


def test_no_grace_is_for_what_is_not_valid_yet_or_revoked_or_by_a_list_that_is_over() -> None:
    ca, later = Ca(), NOW + 3 * DAY
    over, early = credentials(ca, "a.example"), credentials(ca, "a.example", start=later + DAY, end=later + 2 * DAY)
    refused("is over or not yet valid", early, time=later, grace=9 * DAY)
    listed = rules(ca.crl(over.chain[0], end=later + DAY))
    refused("is revoked", over, rules=listed, time=later, grace=9 * DAY)
    refused("the CRL of CN=fwd test CA is over", over, rules=rules(ca.crl()), time=later, grace=9 * DAY)


def test_our_identity_is_sent_as_our_certificate_writes_it() -> None:
    """There are peers who compare octets."""
    mine = credentials(Ca(), "A Gateway")
    meant = auth.identity("CN=a gateway", Payload.IDI)
    assert auth.certified(meant, mine).data == mine.chain[0].subject.public_bytes() != meant.data
    for text in ("CN=b", "a.example"):
        assert auth.certified(auth.identity(text, Payload.IDI), mine) == auth.identity(text, Payload.IDI)

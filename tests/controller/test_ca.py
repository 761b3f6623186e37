"""What the controller's CA vouches for: what a host asks for is a key, and all else is the controller's."""

from __future__ import annotations

import pytest
from cakit import DAY_S, MONTH_S, NOW, new_key, request
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID as Use
from cryptography.x509.oid import NameOID

from fwd.controller import ca
from fwd.model.linked import BACKDATED_S

CA = ca.new_authority("fwd", NOW)
HOST = ("c1", "gateway", "a1")


def common_name(certificate: x509.Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def names(certificate: x509.Certificate) -> list[str]:
    return [str(one.value) for one in certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value]


def uses(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_of_a_request_the_key_alone_is_taken() -> None:
    key = new_key()
    certificate = ca.link_certificate(CA, ca.key_in(request(key, "admin")), HOST, NOW, MONTH_S)
    certificate.verify_directly_issued_by(CA.certificate)

    assert certificate.public_key() == key.public_key()
    assert (common_name(certificate), names(certificate)) == ("a1", ["fwd:c1/gateway/a1"])
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_each_certificate_is_good_for_one_use() -> None:
    key = new_key().public_key()
    assert uses(ca.link_certificate(CA, key, HOST, NOW, MONTH_S)) == [Use.CLIENT_AUTH]
    assert uses(ca.ike_certificate(CA, key, "a1.gateway.fwd", NOW, MONTH_S)) == [Use.IPSEC_IKE]
    assert uses(ca.server_certificate(CA, key, ["c.example"], NOW, MONTH_S)) == [Use.SERVER_AUTH]


def test_a_certificate_begins_5_minutes_ago_and_lasts_as_long_as_said() -> None:
    certificate = ca.ike_certificate(CA, new_key().public_key(), "a1.gateway.fwd", NOW, 60)
    assert certificate.not_valid_before_utc.timestamp() == NOW - 300
    assert certificate.not_valid_after_utc.timestamp() == NOW + 60
    assert names(certificate) == ["a1.gateway.fwd"]


def test_the_controllers_own_certificate_began_a_day_ago_or_with_its_ca() -> None:
    """It is made anew at each start, by a clock that may be ahead of hosts'."""
    for later_s, before_s in ((0, BACKDATED_S), (3600, 3600 + BACKDATED_S), (9 * 86400, 86400)):
        now = NOW + later_s
        certificate = ca.server_certificate(CA, new_key().public_key(), ["c.example"], now, MONTH_S)
        assert now - certificate.not_valid_before_utc.timestamp() == before_s
        assert certificate.not_valid_after_utc.timestamp() == now + MONTH_S


def test_the_controllers_own_names_host_names_and_addresses() -> None:
    certificate = ca.server_certificate(CA, new_key().public_key(), ["c.example", "192.0.2.1", "::1"], NOW, MONTH_S)
    assert names(certificate) == ["c.example", "192.0.2.1", "::1"]


def unsigned(pem: str) -> str:
    """The request with another signature."""
    der = bytearray(x509.load_pem_x509_csr(pem.encode()).public_bytes(Encoding.DER))
    der[-1] ^= 1
    import base64

    body = base64.encodebytes(bytes(der)).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"


def of_rsa() -> str:
    key = rsa.generate_private_key(65537, 2048)
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return csr.public_bytes(Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("csr", "why"),
    [
        ("", "no request"),
        ("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "no request"),
        ("x" * (ca.CSR_BYTES_MAX + 1), "octets"),
        (unsigned(request(new_key())), "not signed"),
        (of_rsa(), "another kind"),
    ],
)
def test_what_is_no_good_request_is_refused_in_one_line(csr: str, why: str) -> None:
    with pytest.raises(ca.RequestError, match=why) as refused:
        ca.key_in(csr)
    assert "\n" not in str(refused.value)


def test_the_list_of_the_revoked_is_the_cas_and_names_serials() -> None:
    crl = x509.load_pem_x509_crl(ca.revocation_list(CA, [(7, NOW - 10), (3, NOW)], 5, NOW))
    key = CA.certificate.public_key()

    assert crl.is_signature_valid(key)  # type: ignore[arg-type]
    assert [one.serial_number for one in crl] == [3, 7]
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 5
    assert crl.next_update_utc is not None
    assert crl.next_update_utc.timestamp() > NOW + 6 * DAY_S


def test_a_ca_that_was_written_is_read_again_and_another_key_is_not_its() -> None:
    again = ca.load_authority(CA.key_pem(), ca.pem(CA.certificate))
    assert ca.pin(again.certificate) == ca.pin(CA.certificate)
    with pytest.raises(ValueError, match="another key"):
        ca.load_authority(ca.new_authority("other", NOW).key_pem(), ca.pem(CA.certificate))


def test_a_bundle_has_both_cas_while_one_replaces_the_other() -> None:
    other = ca.new_authority("next", NOW)
    found = x509.load_pem_x509_certificates(ca.bundle([CA.certificate, other.certificate]))
    assert found == [CA.certificate, other.certificate]

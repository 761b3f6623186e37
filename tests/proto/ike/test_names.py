"""Distinguished names: as swanctl writes them, and when two of them are the same."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from fwd.proto.ike import names
from fwd.proto.ike.numbers import IdType, Payload
from fwd.proto.ike.payloads import Identity

GW1 = "C=DE, O=Example, CN=gw1"
UTF8, PRINTABLE, T61, BMP = _ASN1Type.UTF8String, _ASN1Type.PrintableString, _ASN1Type.T61String, _ASN1Type.BMPString


def name(kind: _ASN1Type = UTF8, **attributes: str) -> bytes:
    """A distinguished name in DER, its attributes of one kind of string, but for the country."""
    oids = {"C": NameOID.COUNTRY_NAME, "O": NameOID.ORGANIZATION_NAME, "CN": NameOID.COMMON_NAME}
    made = [x509.NameAttribute(oids[w], v, PRINTABLE if w == "C" else kind) for w, v in attributes.items()]
    return x509.Name(made).public_bytes()


@pytest.mark.parametrize(
    "text",
    [
        GW1,
        "C=DE,O=Example,CN=gw1",
        "c=DE , o=Example,  cn=gw1 ",
        "/C=DE/O=Example/CN=gw1",
        "2.5.4.6=DE, O=Example, CN=gw1",
    ],
)
def test_a_name_is_in_the_certificates_order_with_blanks_or_without(text: str) -> None:
    who = names.identity(text, Payload.IDI)
    assert who.kind == IdType.DER_ASN1_DN
    assert who.data == name(C="DE", O="Example", CN="gw1")
    assert names.name_of(who) == GW1


@pytest.mark.parametrize("kind", [UTF8, PRINTABLE, T61, BMP], ids=lambda kind: kind.name)
@pytest.mark.parametrize("text", [GW1, "C=de, O=EXAMPLE, CN=GW1"])
def test_kind_of_string_and_case_make_no_difference(kind: _ASN1Type, text: str) -> None:
    """RFC 5280 §7.1."""
    sent = Identity(Payload.IDR, IdType.DER_ASN1_DN, name(kind, C="DE", O="Example", CN="gw1"))
    assert names.same(sent, names.identity(text, Payload.IDI))
    assert names.name_of(sent) == GW1


def test_blanks_within_a_value_count_as_one() -> None:
    assert names.same_name(name(O=" An   Example "), name(PRINTABLE, O="an example"))
    assert not names.same_name(name(O="An Example"), name(O="AnExample"))


@pytest.mark.parametrize(
    "other",
    ["CN=gw1, O=Example, C=DE", "C=DE, O=Example", "C=DE, O=Example, CN=gw1, CN=gw1", "C=DE, O=Example, CN=gw2",
     "C=DE, OU=Example, CN=gw1"],
)  # fmt: skip
def test_order_number_and_types_of_attributes_do(other: str) -> None:
    assert not names.same(names.identity(GW1, Payload.IDI), names.identity(other, Payload.IDI))


def test_the_attributes_of_one_rdn_are_in_no_order() -> None:
    cn, o = x509.NameAttribute(NameOID.COMMON_NAME, "gw1"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example")
    one, other = (x509.Name([x509.RelativeDistinguishedName(rdn)]).public_bytes() for rdn in ([cn, o], [o, cn]))
    assert names.same_name(one, other)
    assert not names.same_name(one, x509.Name([cn, o]).public_bytes())


def test_a_name_with_what_cannot_be_printed_is_itself_alone() -> None:
    """A NUL or a line end in it could be taken for the end of another name."""
    odd = name(CN="gw1\0")
    assert names.same_name(odd, odd)
    assert not names.same_name(odd, name(CN="gw1"))
    assert not names.same_name(name(CN="gw1\n"), name(CN="gw1 "))
    assert names.shown(odd).isprintable()


def test_what_is_shown_is_read_as_the_same_name() -> None:
    odd = name(O="Example, Inc.", CN="a\\b")
    assert names.shown(odd) == r"O=Example\, Inc., CN=a\\b"
    assert names.same_name(names.parse(names.shown(odd)).public_bytes(), odd)


@pytest.mark.parametrize("octets", [b"", b"\x30", b"\x30\x01", name(CN="gw1")[:-1], name(CN="gw1") + b"x", b"0" * 5000])
def test_octets_that_are_no_name_are_the_same_as_nothing_else(octets: bytes) -> None:
    who = Identity(Payload.IDI, IdType.DER_ASN1_DN, octets)
    assert not names.same(who, names.identity(GW1, Payload.IDI))
    assert names.name_of(who) == f"DER_ASN1_DN:{octets.hex()}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("CN=", "write TYPE=value"), ("C=DE, gw1", "write TYPE=value"), ("XY=gw1", "write its OID"),
        ('CN="gw1"', "quotes"), ("SN=1", "surname or serialNumber"), ("S=Bavaria", "surname or ST"),
        ("C=Germany", "length"),
    ],
)  # fmt: skip
def test_what_is_no_distinguished_name_is_told(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        names.identity(text, Payload.IDI)

"""Identities, and the distinguished names among them (RFC 7296 §3.5, RFC 4945 §3.1, RFC 5280 §7.1).

An identity is written as swanctl reads it: an address, an e-mail address, a host name, `@#…` for a key id in hex, or a
distinguished name in the certificate's own order: `C=DE, O=Example, CN=gw1`. Distinguished names are compared attribute
by attribute, whatever kind of string the attribute is, without regard to case and to how many blanks there are.
Refused, as ValueError: anything else.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.x509.oid import NameOID

from fwd.proto.ike.numbers import IdType, Payload
from fwd.proto.ike.payloads import Identity

# What swanctl and openssl both mean by a word. S and SN are left out: one's surname is the other's serial number.
_WORDS: Final = {
    "C": NameOID.COUNTRY_NAME, "ST": NameOID.STATE_OR_PROVINCE_NAME, "L": NameOID.LOCALITY_NAME,
    "O": NameOID.ORGANIZATION_NAME, "OU": NameOID.ORGANIZATIONAL_UNIT_NAME, "CN": NameOID.COMMON_NAME,
    "DC": NameOID.DOMAIN_COMPONENT, "UID": NameOID.USER_ID, "emailAddress": NameOID.EMAIL_ADDRESS,
    "serialNumber": NameOID.SERIAL_NUMBER, "T": NameOID.TITLE, "G": NameOID.GIVEN_NAME,
    "I": NameOID.INITIALS, "surname": NameOID.SURNAME, "street": NameOID.STREET_ADDRESS,
    "dnQualifier": NameOID.DN_QUALIFIER, "organizationIdentifier": NameOID.ORGANIZATION_IDENTIFIER,
}  # fmt: skip
_OIDS: Final = {word.lower(): oid for word, oid in _WORDS.items()} | {
    "e": NameOID.EMAIL_ADDRESS, "email": NameOID.EMAIL_ADDRESS, "title": NameOID.TITLE, "gn": NameOID.GIVEN_NAME,
}  # fmt: skip
_SHOWN: Final = {oid.dotted_string: word for word, oid in _WORDS.items()}
_AMBIGUOUS: Final = {"s": "surname or ST", "sn": "surname or serialNumber"}
# The kinds of string that attributes come in, by DER's tag (RFC 5280 §4.1.2.4).
_ENCODINGS: Final = {
    0x0C: "utf-8", 0x12: "ascii", 0x13: "ascii", 0x14: "latin-1", 0x16: "ascii", 0x1A: "ascii", 0x1C: "utf-32-be",
    0x1E: "utf-16-be",
}  # fmt: skip
_NAME_BYTES_MAX: Final = 1024
_Attribute = tuple[str, str | bytes]  # its type's OID; its text, or where that is none, its DER


@asn1.sequence
@dataclass(frozen=True)
class _TypeAndValue:
    type: x509.ObjectIdentifier
    value: asn1.TLV


@asn1.sequence
@dataclass(frozen=True)
class _Wrapped:
    """A distinguished name inside of one more SEQUENCE, as the decoder wants a class."""

    rdns: list[asn1.SetOf[_TypeAndValue]]


# -- identities ---------------------------------------------------------------------------------------------------


def identity(text: str, kind: Payload) -> Identity:
    """Make an identity from its text. Raises ValueError."""
    try:
        address = ip_address(text)
    except ValueError:
        pass
    else:
        return Identity(kind, IdType.IPV4_ADDR if address.version == 4 else IdType.IPV6_ADDR, address.packed)
    try:
        if text.startswith("@#"):
            return Identity(kind, IdType.KEY_ID, bytes.fromhex(text[2:]))
        if "=" in text:
            return Identity(kind, IdType.DER_ASN1_DN, parse(text).public_bytes())
    except ValueError as error:
        raise ValueError(f"identity {text!r}: {error}") from None
    name = text.removeprefix("@")
    if not (name and name.isascii() and name.isprintable()):
        raise ValueError(f"identity {text!r} is no name: printable ASCII is")
    return Identity(kind, IdType.RFC822_ADDR if "@" in text[1:] else IdType.FQDN, name.encode())


def name_of(who: Identity) -> str:
    """Show an identity as text, for people."""
    if who.kind in (IdType.FQDN, IdType.RFC822_ADDR):
        return who.data.decode("ascii", "backslashreplace")
    if (who.kind, len(who.data)) in ((IdType.IPV4_ADDR, 4), (IdType.IPV6_ADDR, 16)):
        return str(ip_address(who.data))
    if who.kind == IdType.DER_ASN1_DN:
        try:
            return shown(who.data)
        except ValueError:
            pass
    return f"{IdType(who.kind).name if who.kind in IdType._value2member_map_ else who.kind}:{who.data.hex()}"


def same(one: Identity, other: Identity) -> bool:
    """Tell whether two identities are one and the same, whichever of the two payloads they come from."""
    if one.kind in (IdType.FQDN, IdType.RFC822_ADDR):
        return one.kind == other.kind and one.data.lower() == other.data.lower()
    if one.kind == other.kind == IdType.DER_ASN1_DN:
        return same_name(one.data, other.data)
    return (one.kind, one.data) == (other.kind, other.data)


# -- distinguished names ------------------------------------------------------------------------------------------


def parse(text: str) -> x509.Name:
    """Read a distinguished name as swanctl does: `C=DE, O=Example, CN=gw1`, or openssl's `/C=DE/O=Example/CN=gw1`.

    A comma within a value has a backslash before it. Raises ValueError.
    """
    parts = text[1:].split("/") if text.startswith("/") else re.split(r"(?<!\\),", text)
    return x509.Name([_attribute(part) for part in parts])


def _attribute(part: str) -> x509.NameAttribute[str]:
    word, equals, value = (piece.strip() for piece in part.partition("="))
    value = re.sub(r"\\(.)", r"\1", value)
    if not equals or not value:
        raise ValueError(f"{part.strip()!r} is no attribute of a distinguished name: write TYPE=value")
    if value.startswith('"'):
        raise ValueError("quotes do not belong there: a comma within a value has a backslash before it")
    if better := _AMBIGUOUS.get(word.lower()):
        raise ValueError(f"{word} means one thing to openssl and another to strongSwan: write {better}")
    oid = _OIDS.get(word.lower())
    if oid is None:
        if not re.fullmatch(r"\d+(\.\d+)+", word):
            raise ValueError(f"{word!r} is no attribute that fwd knows: write its OID")
        oid = x509.ObjectIdentifier(word)
    return x509.NameAttribute(oid, value)


def same_name(one: bytes, other: bytes) -> bool:
    """Tell whether two distinguished names in DER are the same by RFC 5280 §7.1."""
    if one == other:
        return True
    try:
        mine, theirs = _read(one), _read(other)
    except ValueError:
        return False
    return [_folded(rdn) for rdn in mine] == [_folded(rdn) for rdn in theirs]


def shown(name: bytes) -> str:
    """Show a distinguished name in DER as swanctl writes it. Raises ValueError."""
    return ", ".join("+".join(_shown(*attribute) for attribute in rdn) for rdn in _read(name))


def _shown(oid: str, value: str | bytes) -> str:
    text = f"#{value.hex()}" if isinstance(value, bytes) else re.sub(r"([\\,])", r"\\\1", value)
    return f"{_SHOWN.get(oid, oid)}={text}"


def _read(name: bytes) -> list[list[_Attribute]]:
    """Take a distinguished name in DER apart. Raises ValueError."""
    if len(name) > _NAME_BYTES_MAX:
        raise ValueError("a distinguished name of more octets than there may be")
    wrapped = asn1.decode_der(_Wrapped, _sequence(name))
    return [[_value(one) for one in rdn.as_list()] for rdn in wrapped.rdns]


def _sequence(body: bytes) -> bytes:
    """DER's SEQUENCE of up to 65,535 octets."""
    octets = len(body)
    if octets < 0x80:
        return bytes([0x30, octets]) + body
    return (bytes([0x30, 0x81, octets]) if octets < 0x100 else b"\x30\x82" + octets.to_bytes(2, "big")) + body


def _value(one: _TypeAndValue) -> _Attribute:
    """An attribute's text; one that cannot be printed stays as it is, and is the same as its like alone."""
    tag, data = one.value.tag_bytes, bytes(one.value.data)
    oid = one.type.dotted_string
    try:
        text = data.decode(_ENCODINGS[tag[0]]) if len(tag) == 1 else ""
    except (KeyError, UnicodeDecodeError):
        text = ""
    return (oid, text) if text and text.isprintable() else (oid, tag + data)


def _folded(rdn: list[_Attribute]) -> list[_Attribute]:
    """An RDN as it is compared: prepared strings, in no order."""
    folded = [(oid, value if isinstance(value, bytes) else _prepared(value)) for oid, value in rdn]
    return sorted(folded, key=repr)


def _prepared(text: str) -> str:
    """RFC 4518: compatibility forms and case folded, blanks at the ends gone and those within made one."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())

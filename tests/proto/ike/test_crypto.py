"""Groups, PRFs and the key schedule against published vectors, and against the RFC's formulas written plainly."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwd.proto.ike.crypto import DiffieHellman, IkeKeys, Prf, Sealer, Suite
from fwd.proto.ike.numbers import Notify, ProtocolError
from fwd.proto.ike.proposals import ECP256, ECP384, PRF_SHA256, PRF_SHA384, X25519

# RFC 5903 §8.1 and §8.2: private key i, public values of i and r, shared secret.
RFC5903 = {
    ECP256: (
        "C88F01F510D9AC3F70A292DAA2316DE544E9AAB8AFE84049C62A9C57862D1433",
        "DAD0B65394221CF9B051E1FECA5787D098DFE637FC90B9EF945D0C3772581180"
        "5271A0461CDB8252D61F1C456FA3E59AB1F45B33ACCF5F58389E0577B8990BB3",
        "D12DFB5289C8D4F81208B70270398C342296970A0BCCB74C736FC7554494BF63"
        "56FBF3CA366CC23E8157854C13C58D6AAC23F046ADA30F8353E74F33039872AB",
        "D6840F6B42F6EDAFD13116E0E12565202FEF8E9ECE7DCE03812464D04B9442DE",
    ),
    ECP384: (
        "099F3C7034D4A2C699884D73A375A67F7624EF7C6B3C0F160647B67414DCE655E35B538041E649EE3FAEF896783AB194",
        "667842D7D180AC2CDE6F74F37551F55755C7645C20EF73E31634FE72B4C55EE6DE3AC808ACB4BDB4C88732AEE95F41AA"
        "9482ED1FC0EEB9CAFC4984625CCFC23F65032149E0E144ADA024181535A0F38EEB9FCFF3C2C947DAE69B4C634573A81C",
        "E558DBEF53EECDE3D3FCCFC1AEA08A89A987475D12FD950D83CFA41732BC509D0D1AC43A0336DEF96FDA41D0774A3571"
        "DCFBEC7AACF3196472169E838430367F66EEBE3C6E70C416DD5F0C68759DD1FFF83FA40142209DFF5EAAD96DB9E6386C",
        "11187331C279962D93D604243FD592CB9D0A926F422E47187521287E7156C5C4D603135569B9E9D09CF5D4A270F59746",
    ),
}


def with_private(group: int, private: bytes) -> DiffieHellman:
    """A key of which the private value is known."""
    if group == X25519:
        return DiffieHellman(group, lambda octets: private)
    number = int.from_bytes(private, "big") - 1  # 1 is added, so that it is never zero
    return DiffieHellman(group, lambda octets: number.to_bytes(octets, "big"))


@pytest.mark.parametrize("group", RFC5903)
def test_rfc_5903(group: int) -> None:
    private, public, theirs, shared = (bytes.fromhex(part) for part in RFC5903[group])
    secret = with_private(group, private)
    assert secret.public == public
    assert secret.shared(theirs) == shared


def test_rfc_7748_iterated() -> None:
    """§5.2: k and u from one another, again and again."""
    k = u = (9).to_bytes(32, "little")
    for count in range(1, 1001):
        k, u = with_private(X25519, k).shared(u), k
        if count == 1:
            assert k.hex() == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    assert k.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


@pytest.mark.parametrize(
    ("group", "public"),
    [(X25519, bytes(32)), (X25519, bytes(31)), (ECP256, bytes(64)), (ECP256, b"\1" * 64), (ECP384, b"\2" * 95)],
)
def test_what_is_no_public_value_is_refused(group: int, public: bytes) -> None:
    with pytest.raises(ProtocolError) as refused:
        DiffieHellman(group, lambda octets: b"\7" * octets).shared(public)
    assert refused.value.notify is Notify.INVALID_SYNTAX


# RFC 4231, test cases 1, 2 and 6: key, data, HMAC-SHA-256, HMAC-SHA-384.
RFC4231 = [
    (b"\x0b" * 20, b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
     "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59cfaea9ea9076ede7f4af152e8b2fa9cb6"),
    (b"Jefe", b"what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
     "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649"),
    (b"\xaa" * 131, b"Test Using Larger Than Block-Size Key - Hash Key First",
     "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
     "4ece084485813e9088d2c63a041bc5b44f9ef1012a2b588f3cd11f05033ac4c60c2ef6ab4030fe8296248df163f44952"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "data", "sha256", "sha384"), RFC4231, ids=["1", "2", "6"])
def test_rfc_4231(key: bytes, data: bytes, sha256: str, sha384: str) -> None:
    assert Prf(PRF_SHA256)(key, data).hex() == sha256
    assert Prf(PRF_SHA384)(key, data).hex() == sha384


@given(st.binary(min_size=1, max_size=100), st.binary(max_size=200), st.integers(1, 400))
@pytest.mark.parametrize(("number", "name"), [(PRF_SHA256, "sha256"), (PRF_SHA384, "sha384")])
def test_prf_plus_is_the_rfcs_iteration(number: int, name: str, key: bytes, seed: bytes, octets: int) -> None:
    """RFC 7296 §2.13: T1 = prf(K, S | 1), T2 = prf(K, T1 | S | 2), …"""
    stream, last, count = b"", b"", 1
    while len(stream) < octets:
        last = hmac.digest(key, last + seed + bytes([count]), name)
        stream, count = stream + last, count + 1
    assert Prf(number).plus(key, seed, octets) == stream[:octets]


def test_the_key_schedule_is_the_rfcs() -> None:
    """RFC 7296 §2.14, §2.17 and §2.18, RFC 5282 §7.1: no SK_a; SK_e has the salt behind the key."""
    suite = Suite(PRF_SHA384, X25519, 256)
    ni, nr, secret, spis = b"i" * 32, b"r" * 40, b"s" * 32, b"12345678abcdefgh"
    prf = Prf(PRF_SHA384)
    keys = IkeKeys.initial(suite, secret, ni, nr, spis)
    stream = prf.plus(hmac.digest(ni + nr, secret, "sha384"), ni + nr + spis, 48 + 36 + 36 + 48 + 48)
    assert keys.d + keys.ei + keys.er + keys.pi + keys.pr == stream
    assert [len(part) for part in (keys.d, keys.ei, keys.er, keys.pi, keys.pr)] == [48, 36, 36, 48, 48]
    out, back = keys.child(ni, nr, 36, b"shared")
    assert out + back == prf.plus(keys.d, b"shared" + ni + nr, 72)
    new = IkeKeys.rekeyed(keys, Suite(PRF_SHA256, X25519, 128), secret, ni, nr, spis)
    skeyseed = hmac.digest(keys.d, secret + ni + nr, "sha384")  # the old SA's PRF
    assert new.d == Prf(PRF_SHA256).plus(skeyseed, ni + nr + spis, 32)
    assert len(new.ei) == 20


def test_what_is_changed_does_not_open() -> None:
    sealer = Sealer(hashlib.sha384(b"x").digest()[:36])
    data = sealer.seal(7, b"plain", b"aad")
    assert sealer.unseal(data, b"aad") == b"plain"
    assert sealer.unseal(data, b"aae") is None
    for at in range(len(data)):
        assert sealer.unseal(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], b"aad") is None
        assert sealer.unseal(data[:at], b"aad") is None

"""ESP and its AEAD against published vectors.

* draft-mcgrew-gcm-test-01 §4, https://datatracker.ietf.org/doc/html/draft-mcgrew-gcm-test-01: whole ESP packets;
  the four of AES-256
* NIST CAVP GCM, from the package cryptography-vectors: 256-bit key, 96-bit IV, 128-bit tag
* Project Wycheproof, aes_gcm_test.json: the same profile; with 8 octets of AAD as whole ESP packets
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cryptography_vectors
import pytest
from cryptography.exceptions import InvalidTag
from espkit import ROWS, WINDOW, open_all

from fwd.proto.drops import N_REASONS, DropReason
from fwd.proto.esp import OVERHEAD_BYTES, InboundSa, OutboundSa, open_one, payload_length
from fwd.proto.sa import SaKeys

pytestmark = pytest.mark.usefixtures("form")

WYCHEPROOF = Path(__file__).parents[3] / "shared" / "vectors" / "wycheproof_aes_gcm.json"


@dataclass(frozen=True)
class EspVector:
    """One whole packet of the draft: `number` is its 64-bit sequence number with ESN, else its 32-bit one."""

    key: str
    salt: str
    esn: bool
    number: int
    plain: str
    packet: str

    def keys(self) -> SaKeys:
        return SaKeys(int(self.packet[:8], 16), self.esn, bytes.fromhex(self.key), bytes.fromhex(self.salt))

    def receiver(self) -> InboundSa:
        """An SA that has seen everything before this packet."""
        return InboundSa(self.keys(), ROWS, WINDOW, floor=self.number - 1)


DRAFT = {
    "TCP SYN, 32-bit number": EspVector(
        key="abbccddef00112233445566778899aab" * 2,
        salt="11223344",
        esn=False,
        number=2,
        plain="4500003069a6400080062690c0a801029389155e0a9e008b2dc57ee000000000"
        "7002400020bf0000020405b40101040201020201",
        packet="4a2cbfe3000000020102030405060708"
        "ff425c9b724599df7a3bcd510194e00d6a78107f1b0b1cbf06efae9d65a5d763"
        "748a637985771d347f0545659f14e99def842d8eb335f4eecfdbf831824b4c4915956c96",
    ),
    "TCP ACK, ESN, no padding": EspVector(
        key="abbccddef00112233445566778899aab" * 2,
        salt="73616c74",
        esn=True,
        number=0x156F3126DD0DB99B,
        plain="45080028732c00004006e9f90a0106120a01038f06b88023dd6bafbecb71260250101f646d540001",
        packet="17405e67dd0db99b616e640169766563"
        "f2d69ecdbd5a0d5b8d5ef38bad4da58d1f278fde98ef67549d524a3018d9a57f"
        "f4d3a31ce673119e451626c2415771e3b7eebca614c89b35",
    ),
    "text, ESN": EspVector(
        key="abbccddef00112233445566778899aab" * 2,
        salt="73616c74",
        esn=True,
        number=0x156F3126DD0DB99B,
        plain="636973636f0172756c657301746865016e6574776501646566696e6501746865"
        "746563686e6f6c6f67696573017468617477696c6c01646566696e65746f6d6f72726f7701020201",
        packet="17405e67dd0db99b616e640169766563"
        "d4b7ed86a1777f2ea13d6973d324c69e7b43f826fb56831226508bebd2dceb18"
        "d0a6df10e5487df074113e14c641024e3e6773d91a62ee429b043a10e3efe6b0"
        "12a49363412364f8c0cac587f249e56b11e24f30e44ccc76",
    ),
    "ICMP, the last ESN there is": EspVector(
        key="6c6567616c697a656d6172696a75616e61616e64646f69746265666f72656961",
        salt="7475726e",
        esn=True,
        number=2**64 - 1,
        plain="45000030da3a00008001df3bc0a80005c0a800010800c6cd02000700616263646566676869"
        "6a6b6c6d6e6f707172737401020201",
        packet="796b6963ffffffff333021696765746d"
        "f97ab2aa356d8edce17644ac8c78e25dd24dedbb29ebf1b64a274b39b49c3a86"
        "4cd3d78ca4ae68a32b42458fb57dbe821dcc63b9d0937ba2945f669368661a329fb4c053",
    ),
}

draft = pytest.mark.parametrize("vector", DRAFT.values(), ids=DRAFT.keys())


@draft
def test_open_one_opens_the_drafts_packet(vector: EspVector) -> None:
    packet, plain = bytes.fromhex(vector.packet), bytes.fromhex(vector.plain)
    row = bytearray(len(packet) - OVERHEAD_BYTES)
    drops = [0] * N_REASONS
    assert open_one(vector.receiver(), memoryview(packet), memoryview(row), drops) == vector.number
    assert row == plain
    assert not any(drops)


@draft
def test_open_burst_opens_the_drafts_packet(vector: EspVector) -> None:
    opened = open_all(vector.receiver(), [bytes.fromhex(vector.packet)])
    assert opened.numbers == [vector.number]
    assert opened.rows == [bytes.fromhex(vector.plain)]


@draft
def test_one_flipped_bit_anywhere_is_refused(vector: EspVector) -> None:
    good = bytes.fromhex(vector.packet)
    for octet in (0, 4, 8, 16, len(good) - 1):
        packet = bytearray(good)
        packet[octet] ^= 0x01
        keys = dataclasses.replace(vector.keys(), spi=int.from_bytes(packet[:4], "big"))
        opened = open_all(InboundSa(keys, ROWS, WINDOW, floor=vector.number - 1), [bytes(packet)])
        assert opened.numbers == [0]
        assert sum(opened.drops.values()) == 1


@draft
def test_the_sending_sa_builds_the_drafts_nonce_and_aad(vector: EspVector) -> None:
    sa, packet, plain = OutboundSa(vector.keys(), ROWS), bytes.fromhex(vector.packet), bytes.fromhex(vector.plain)
    sealed = bytearray(len(plain) + 16)
    sa.aead.encrypt_into(sa.salt + packet[8:16], plain, sa.aad(vector.number), sealed)
    assert sealed == packet[16:]


@pytest.mark.parametrize(
    ("name", "pad"), [("TCP SYN, 32-bit number", 2), ("TCP ACK, ESN, no padding", 0), ("text, ESN", 2)]
)
def test_the_drafts_padding_is_found(name: str, pad: int) -> None:
    plain = bytes.fromhex(DRAFT[name].plain)
    assert payload_length(memoryview(plain)) == len(plain) - 2 - pad


# -- the AEAD --------------------------------------------------------------------------------------------------


def _nist(file: str) -> Iterator[dict[str, str]]:
    """Tests of a CAVP response file that have a 96-bit IV and a 128-bit tag."""
    path = Path(cryptography_vectors.__file__).parent / "ciphers" / "AES" / "GCM" / file
    group: dict[str, str] = {}
    test: dict[str, str] = {}
    for line in [*path.read_text().splitlines(), "Count = end"]:
        name, _, value = (part.strip() for part in line.strip("[]").partition("="))
        if line.startswith("["):
            group[name] = value
        elif name == "Count":
            if test and test["IVlen"] == "96" and test["Taglen"] == "128":
                yield test
            test = dict(group)
        elif line == "FAIL":
            test["FAIL"] = ""
        elif line and not line.startswith("#"):
            test[name] = value


def _aead(key: str) -> Any:
    """The cipher as an SA holds it."""
    return OutboundSa(SaKeys(256, True, bytes.fromhex(key), bytes(4)), 1).aead


def test_nist_encrypt() -> None:
    tests = list(_nist("gcmEncryptExtIV256.rsp"))
    assert len(tests) >= 300
    for test in tests:
        out = bytearray(len(test["PT"]) // 2 + 16)
        _aead(test["Key"]).encrypt_into(*(bytes.fromhex(test[field]) for field in ("IV", "PT", "AAD")), out)
        assert out.hex() == test["CT"] + test["Tag"]


def test_nist_decrypt() -> None:
    tests = list(_nist("gcmDecrypt256.rsp"))
    assert any("FAIL" in test for test in tests)
    assert any("PT" in test for test in tests)
    for test in tests:
        sealed = bytes.fromhex(test["CT"] + test["Tag"])
        out = bytearray(len(sealed) - 16)
        arguments = (bytes.fromhex(test["IV"]), sealed, bytes.fromhex(test["AAD"]), out)
        if "FAIL" in test:
            with pytest.raises(InvalidTag):
                _aead(test["Key"]).decrypt_into(*arguments)
        else:
            _aead(test["Key"]).decrypt_into(*arguments)
            assert out.hex() == test["PT"]


def _wycheproof() -> list[dict[str, Any]]:
    if not WYCHEPROOF.exists():
        pytest.skip("Wycheproof's aes_gcm_test.json is not there")
    return [
        test
        for group in json.loads(WYCHEPROOF.read_text())["testGroups"]
        if (group["keySize"], group["ivSize"], group["tagSize"]) == (256, 96, 128)
        for test in group["tests"]
    ]


def test_wycheproof_through_the_aead() -> None:
    tests = _wycheproof()
    assert {test["result"] for test in tests} == {"valid", "invalid"}
    for test in tests:
        sealed = bytes.fromhex(test["ct"] + test["tag"])
        out = bytearray(len(sealed) - 16)
        arguments = (bytes.fromhex(test["iv"]), sealed, bytes.fromhex(test["aad"]), out)
        if test["result"] == "valid":
            _aead(test["key"]).decrypt_into(*arguments)
            assert out.hex() == test["msg"], test["tcId"]
        else:
            with pytest.raises(InvalidTag):
                _aead(test["key"]).decrypt_into(*arguments)


def test_wycheproof_with_eight_octets_of_aad_as_esp_packets() -> None:
    tests = [test for test in _wycheproof() if len(test["aad"]) == 16]
    assert tests
    for test in tests:
        spi, number = int(test["aad"][:8], 16), int(test["aad"][8:], 16)
        salt, iv = test["iv"][:8], test["iv"][8:]
        keys = SaKeys(spi, False, bytes.fromhex(test["key"]), bytes.fromhex(salt))
        packet = bytes.fromhex(test["aad"] + iv + test["ct"] + test["tag"])
        opened = open_all(InboundSa(keys, ROWS, WINDOW, number - 1), [packet])
        if test["result"] == "valid":
            assert (opened.numbers, opened.rows[0].hex()) == ([number], test["msg"]), test["tcId"]
        else:
            assert opened.drops == {DropReason.BAD_ICV: 1}, test["tcId"]

"""What strongSwan once said (record_strongswan.py): the endpoint answers as it did then; the codec loses nothing."""

from __future__ import annotations

import pytest
import recording
from recording import Recording

from fwd.proto.ike.crypto import IV_BYTES, Sealer
from fwd.proto.ike.message import (
    HEADER_BYTES,
    Assembly,
    Fragment,
    Header,
    decode_clear,
    encode_clear,
    open_message,
    seal_message,
)
from fwd.proto.ike.numbers import Exchange, Payload
from fwd.proto.ike.payloads import AnyPayload, decode_chain, encode_chain

NAMES = ["strongswan-psk", "strongswan-certificates"]


@pytest.fixture(params=NAMES)
def recorded(request: pytest.FixtureRequest) -> Recording:
    return recording.load(request.param)


def datagrams(recorded: Recording) -> list[bytes]:
    """All of them, both ways, in order."""
    found = []
    for step in recorded["steps"]:
        found += [step["with"]["data"]] if step["do"] == "receive" else []
        found += [datagram["data"] for datagram in step["sends"]]
    return [bytes.fromhex(data) for data in found]


def sealer_of(recorded: Recording, header: Header) -> Sealer:
    """Of the IKE SA and the direction that a message belongs to."""
    spis = header.spi_i.hex(), header.spi_r.hex()
    (keys,) = [one for one in recorded["keys"] if (one["spi_i"], one["spi_r"]) == spis]
    return Sealer(bytes.fromhex(keys["ei" if header.by_initiator else "er"]))


def opened(recorded: Recording) -> list[tuple[Header, bytes, Fragment]]:
    """Every datagram that is encrypted."""
    found = []
    for data in datagrams(recorded):
        header = Header.decode(data)
        if header.exchange != Exchange.IKE_SA_INIT:
            fragment = open_message(header, data, sealer_of(recorded, header))
            assert fragment is not None
            found.append((header, data, fragment))
    return found


def messages(recorded: Recording) -> list[tuple[Header, int, bytes]]:
    """Every message that is encrypted: the type of its first payload, and its whole plaintext."""
    found, assembly = [], Assembly()
    for header, _, fragment in opened(recorded):
        whole = assembly.add(fragment)
        if whole is not None:
            found.append((header, *whole))
            assembly = Assembly()
    return found


def test_the_endpoint_says_the_same_as_then(recorded: Recording) -> None:
    """Byte by byte, at the same times, and tells the same, keys included; its own randomness is seeded."""
    endpoint, keys = recording.endpoint_of(recorded), []
    for number, step in enumerate(recorded["steps"]):
        came = recording.take(endpoint, step)
        assert came == {key: step[key] for key in ("sends", "tells")}, f"step {number}: {step['do']}"
        keys += [one for one in recording.keys_of(endpoint) if one not in keys]
    assert keys == recorded["keys"]


def test_clear_messages_are_encoded_to_what_they_were(recorded: Recording) -> None:
    clear = [data for data in datagrams(recorded) if Header.decode(data).exchange == Exchange.IKE_SA_INIT]
    assert len(clear) >= 4
    for data in clear:
        header = Header.decode(data)
        assert encode_clear(header, decode_clear(header, data)) == data


def test_payloads_within_sk_are_encoded_to_what_they_were(recorded: Recording) -> None:
    for header, first, plain in messages(recorded):
        assert encode_chain(decode_chain(first, plain)) == (first, plain), header


def test_sealed_with_the_same_iv_a_message_is_what_it_was(recorded: Recording) -> None:
    for header, data, fragment in opened(recorded):
        fragmented = header.first_payload == Payload.SKF
        iv_at = HEADER_BYTES + (8 if fragmented else 4)
        iv = int.from_bytes(data[iv_at : iv_at + IV_BYTES], "big") - (fragment.number - 1)
        sent = seal_message(
            header, payloads_of(recorded, header), sealer_of(recorded, header), iv, size_of(recorded, header)
        )
        assert sent[fragment.number - 1] == data


def payloads_of(recorded: Recording, wanted: Header) -> list[AnyPayload]:
    (found,) = [decode_chain(first, plain) for header, first, plain in messages(recorded) if same(header, wanted)]
    return found


def size_of(recorded: Recording, wanted: Header) -> int:
    """The longest datagram of a message: that of all fragments but the last."""
    return max(len(data) for header, data, _ in opened(recorded) if same(header, wanted))


def same(one: Header, other: Header) -> bool:
    """Whether they are of one message; fragments of it differ in their length."""
    return (one.spi_i, one.flags, one.message_id) == (other.spi_i, other.flags, other.message_id)


def test_both_recordings_together_have_what_there_is_to_say() -> None:
    both = [recording.load(name) for name in NAMES]
    heads = [header for one in both for header, _, _ in messages(one)]
    # Both sides ask, on IKE SAs that either began.
    assert {(h.exchange, h.by_initiator, h.is_response) for h in heads} >= {
        (exchange, initiator, response)
        for exchange in (Exchange.CREATE_CHILD_SA, Exchange.INFORMATIONAL)
        for initiator in (True, False)
        for response in (True, False)
    }
    held = {payload.TYPE for one in both for _, first, plain in messages(one) for payload in decode_chain(first, plain)}
    assert held >= {
        Payload.SA, Payload.KE, Payload.IDI, Payload.IDR, Payload.CERT, Payload.CERTREQ, Payload.AUTH, Payload.NONCE,
        Payload.NOTIFY, Payload.DELETE, Payload.TSI, Payload.TSR,
    }  # fmt: skip
    assert [len(one["keys"]) for one in both] == [3, 2]
    fragmented = {header.is_response for header, _, fragment in opened(both[1]) if fragment.total > 1}
    assert fragmented == {True, False}

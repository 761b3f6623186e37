"""What strongSwan once said (record_strongswan.py): the endpoint answers as it did then; the codec loses nothing."""

from __future__ import annotations

import pytest
import recording
from recording import Recording, datagrams, messages, opened, sealer_of

from fwd.proto.ike.crypto import IV_BYTES
from fwd.proto.ike.message import (
    HEADER_BYTES,
    Header,
    decode_clear,
    encode_clear,
    seal_message,
)
from fwd.proto.ike.numbers import Exchange, Payload
from fwd.proto.ike.payloads import AnyPayload, decode_chain, encode_chain


@pytest.fixture(params=recording.NAMES)
def recorded(request: pytest.FixtureRequest) -> Recording:
    return recording.load(request.param)


def test_the_endpoint_says_the_same_as_then(recorded: Recording) -> None:
    """Byte by byte, at the same times, and tells the same, keys included; its own randomness is seeded."""
    endpoint, keys = recording.endpoint_of(recorded), []
    for number, step in enumerate(recorded["steps"]):
        came = recording.with_the_fields_of(recording.take(endpoint, step), step)
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
    both = [recording.load(name) for name in recording.NAMES]
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

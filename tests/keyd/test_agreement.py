"""What two gateways say of a peering, and what follows from it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwd.keyd.agreement import Terms, disagreement
from fwd.proto.ike.numbers import Notify
from fwd.proto.ip import CSUM, TSO4, TSO6, USO4, USO6

TAKEN = [0, CSUM, CSUM | TSO4 | TSO6, CSUM | TSO4 | TSO6 | USO4 | USO6]  # by TUN devices, as kernels are
TERMS = st.builds(
    Terms, st.sampled_from(["superpacket", "esp"]), st.sampled_from(TAKEN), st.integers(1, 0xFFFF), st.booleans(),
    st.one_of(st.none(), st.ip_addresses(network="192.0.0.0/8").map(str), st.ip_addresses(network="2000::/3").map(str)),
    st.integers(1, 64), st.booleans(),
)  # fmt: skip
SUPER, ESP = Terms("superpacket", 7, 4500, False), Terms("esp", 7, 4500, True)


@given(TERMS)
def test_what_is_said_is_understood(terms: Terms) -> None:
    said = terms.notification()
    assert said.kind == Notify.FWD_PEERING
    assert Terms.decode(said.data) == terms


@given(TERMS, st.binary(min_size=1, max_size=9))
def test_what_a_later_version_adds_is_passed_over(terms: Terms, more: bytes) -> None:
    assert Terms.decode(terms.notification().data + more) == terms


@given(st.binary(max_size=12))
def test_any_octets_are_terms_or_refused(data: bytes) -> None:
    try:
        terms = Terms.decode(data)
    except ValueError:
        return
    assert terms.port > 0


@pytest.mark.parametrize("own", ["192.0.2.1", "2001:db8::1"])
def test_a_sender_that_is_seen_at_another_address_than_its_own_is_behind_a_nat(own: str) -> None:
    terms = Terms.decode(Terms("esp", 7, 4500, True, own).notification().data)
    assert not terms.behind_nat(own)
    assert terms.behind_nat("203.0.113.9")
    assert not ESP.behind_nat("203.0.113.9"), "it has not told"


def test_the_first_version_says_nothing_of_an_address() -> None:
    data = b"\1" + Terms("esp", 7, 4500, True, "192.0.2.1").notification().data[1:]
    assert Terms.decode(data) == ESP


@pytest.mark.parametrize("cut", range(8))
def test_terms_that_are_cut_short_are_refused(cut: int) -> None:
    with pytest.raises(ValueError, match=f"notify of {cut} octets"):
        Terms.decode(SUPER.notification().data[:cut])


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (TSO4 | TSO6, 0),
        (USO4 | USO6, 0),
        (CSUM | TSO4, CSUM | TSO4),
        (CSUM | TSO4 | USO4, CSUM | TSO4),
        (0xFFFF, CSUM | TSO4 | TSO6 | USO4 | USO6),
    ],
)
def test_offloads_that_no_tun_device_can_have_together_are_not_taken_for_the_peers(said: int, heard: int) -> None:
    """TUNSETOFFLOAD refuses them: the supervisor asks for what both sides take."""
    assert Terms.decode(Terms("superpacket", said, 4500, False).notification().data).offloads == heard


def test_members_listen_on_ports_one_after_another_or_on_one() -> None:
    assert [SUPER.port_of(i) for i in range(3)] == [4500, 4501, 4502]
    assert [ESP.port_of(i) for i in range(3)] == [4500] * 3


def test_a_peer_whose_ports_would_pass_the_last_one_is_not_sent_to_beyond_it() -> None:
    """It has no such members; a port of more than 16 bits would end ours."""
    assert [Terms("superpacket", 0, 65534, False).port_of(i) for i in range(4)] == [65534, 65535, 65535, 65535]


def test_superpacket_needs_a_peer_that_speaks_it() -> None:
    assert 'set payload = "esp"' in disagreement(SUPER, None)
    assert "set both sides alike" in disagreement(SUPER, ESP)
    assert "set both sides alike" in disagreement(ESP, SUPER)


def test_esp_is_for_anybody() -> None:
    assert disagreement(ESP, None) == disagreement(ESP, ESP) == disagreement(SUPER, SUPER) == ""


def test_members_that_are_paired_with_one_of_several_far_gateways_have_ports_further_apart() -> None:
    terms = Terms.decode(Terms("esp", 7, 4501, False, apart=3).notification().data)
    assert [terms.port_of(i) for i in range(3)] == [4501, 4504, 4507]
    assert [Terms("esp", 7, 4500, True, apart=3).port_of(i) for i in range(3)] == [4500, 4500, 4500]


def test_who_does_not_say_that_it_answers_echoes_in_payload_esp_is_not_asked() -> None:
    assert not Terms.decode(ESP.notification().data).echoes

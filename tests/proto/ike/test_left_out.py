"""What newer peers offer that fwd does not have: key exchanges that may be left out (RFC 7296 §3.3.2, RFC 9370).

strongSwan 6 offers KE_NONE for ESP by default, and `ke1_mlkem768-ke1_none` where it is told to.
"""

from __future__ import annotations

from typing import Any

import pytest
from ikekit import ESP, IKE, NAME, Net, ask, connection, for_member

from fwd.proto.ike import payloads as p
from fwd.proto.ike.events import ChildRefused
from fwd.proto.ike.numbers import Exchange, Notify, Payload, Protocol
from fwd.proto.ike.proposals import Proposal, Transform, choose, is_choice_of, parse

KE, KE1, KE7 = 4, 6, 12  # transform types
X25519, ML_KEM_768, NONE = 31, 36, 0
WITHOUT = "aes256gcm16-esn-noesn"
WITH = "aes256gcm16-x25519-esn-noesn"
EITHER = "aes256gcm16-x25519-none-esn-noesn"


def esp(words: str, *more: tuple[int, int]) -> Proposal:
    return with_more(parse(words, Protocol.ESP), *more)


def with_more(proposal: Proposal, *more: tuple[int, int]) -> Proposal:
    return Proposal(proposal.protocol, (*proposal.transforms, *(Transform(*one) for one in more)), 1, b"spi4")


def types(proposal: Proposal | None) -> dict[int, int]:
    return {one.type: one.id for one in proposal.transforms} if proposal else {}


@pytest.mark.parametrize(
    ("ours", "offered", "group"),
    [
        (WITHOUT, esp(WITHOUT, (KE, X25519), (KE, NONE)), NONE),
        (WITHOUT, esp(WITHOUT, (KE, NONE)), NONE),
        (WITHOUT, esp(WITHOUT), None),
        (WITHOUT, esp(WITHOUT, (KE, X25519)), "refused"),
        (WITH, esp(WITHOUT, (KE, NONE), (KE, X25519)), X25519),
        (WITH, esp(WITHOUT, (KE, NONE)), "refused"),
        (WITH, esp(WITHOUT), "refused"),
        (EITHER, esp(WITHOUT), None),
        (EITHER, esp(WITHOUT, (KE, NONE)), NONE),
        (EITHER, esp(WITHOUT, (KE, NONE), (KE, X25519)), X25519),
    ],
)
def test_a_key_exchange_that_may_be_left_out_is_chosen_as_the_configuration_says(
    ours: str, offered: Proposal, group: int | str | None
) -> None:
    """One transform of each type that was offered is in the answer, so NONE, too; and none of a type that was not."""
    chosen = choose([parse(ours, Protocol.ESP)], [offered])
    if group == "refused":
        assert chosen is None
    else:
        assert chosen is not None
        assert types(chosen).get(KE) == group
        assert is_choice_of(chosen, [offered])


@pytest.mark.parametrize("kind", [KE1, KE7])
@pytest.mark.parametrize("ours", [parse(IKE[0], Protocol.IKE), parse(ESP[0], Protocol.ESP)])
def test_a_further_key_exchange_is_passed_over_if_it_may_be(ours: Proposal, kind: int) -> None:
    optional = with_more(ours, (kind, ML_KEM_768), (kind, NONE))
    chosen = choose([ours], [optional])
    assert types(chosen)[kind] == NONE
    assert chosen is not None
    assert is_choice_of(chosen, [optional])
    assert choose([ours], [with_more(ours, (kind, ML_KEM_768))]) is None


@pytest.mark.parametrize("kind", [5 + 8, 3])
def test_no_other_type_that_is_not_known_is_passed_over(kind: int) -> None:
    """RFC 7296 §3.3.6. Integrity, type 3, may be NONE and nothing else."""
    ours = parse(IKE[0], Protocol.IKE)
    assert choose([ours], [with_more(ours, (kind, 12))]) is None


def test_a_key_exchange_of_the_ike_sa_itself_cannot_be_left_out() -> None:
    ours = parse(IKE[0], Protocol.IKE)
    without = Proposal(ours.protocol, tuple(one for one in ours.transforms if one.type != KE))
    assert choose([ours], [without]) is None
    assert choose([ours], [with_more(without, (KE, NONE))]) is None
    with pytest.raises(ValueError, match="'none' is not for IKE"):
        parse("aes256gcm16-prfsha256-x25519-none", Protocol.IKE)


@pytest.mark.parametrize("words", [WITHOUT, WITH, EITHER])
@pytest.mark.parametrize("begins", ["a", "b"])
def test_a_peer_with_the_defaults_of_strongswan_6_is_joined(words: str, begins: str) -> None:
    """Whoever begins: IKE SA, first Child SA, further ones, and both kinds of rekeying."""
    newer = connection("a")
    newer = connection(
        "a",
        ike_proposals=(with_more(newer.ike_proposals[0], (KE1, ML_KEM_768), (KE1, NONE)),),
        esp_proposals=(esp(EITHER, (KE1, ML_KEM_768), (KE1, NONE)),),
    )
    net = Net(1, newer, connection("b", esp=[words]))
    getattr(net, begins).endpoint.initiate(NAME, net.now)
    net.run(0.5)
    for side in (net.a, net.b):
        side.endpoint.create_child(NAME, 1, for_member(1), net.now)
        net.run(1)
        for spi in list(side.children()):
            side.endpoint.rekey_child(NAME, spi, net.now)
        side.endpoint.rekey_ike(NAME, net.now)
        net.run(3)
        side.endpoint.rekey_ike(NAME, net.now)
        net.run(3)
    net.check_agreement()
    assert sorted(up.child.member for up in net.a.children().values()) == [0, 1, 1]
    assert not net.a.of(ChildRefused) + net.b.of(ChildRefused)
    assert all("6:" not in up.child.proposal for up in net.b.children().values())


def test_a_further_key_exchange_that_is_mandatory_is_refused_cleanly() -> None:
    """In IKE_SA_INIT nothing is kept; in CREATE_CHILD_SA what there is stays."""
    newer = connection("a")
    net = Net(1, connection("a", ike_proposals=(with_more(newer.ike_proposals[0], (KE1, ML_KEM_768)),)))
    net.a.endpoint.initiate(NAME, net.now)
    net.run(3.1)
    assert not net.a.endpoint.sas(NAME) + net.b.endpoint.sas(NAME)
    net = Net(2, connection("a")).connect()
    offer: list[p.AnyPayload] = [
        p.SecurityAssociation((with_more(parse(WITHOUT, Protocol.ESP), (KE, X25519), (KE1, ML_KEM_768)),)),
        p.Nonce(bytes(32)),
        p.KeyExchange(X25519, bytes([9] * 32)),
        *[p.TrafficSelectors(kind, ts) for kind, ts in _selectors(net)],
    ]
    (reply,) = ask(net, net.b, Exchange.CREATE_CHILD_SA, offer)
    assert isinstance(reply, p.Notification)
    assert reply.kind == Notify.NO_PROPOSAL_CHOSEN
    net.check_agreement()


def _selectors(net: Net) -> list[tuple[Payload, tuple[Any, ...]]]:
    (up,) = net.a.children().values()
    return [(Payload.TSI, up.child.local_ts), (Payload.TSR, up.child.remote_ts)]

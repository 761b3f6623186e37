"""What a peer may not say though it has proved who it is, and what fwd itself may not say when it ends."""

from __future__ import annotations

from typing import Any

import pytest
from ikekit import NAME, A, Net, ask, connection, for_member

from fwd.proto.ike import child, exchanges
from fwd.proto.ike.causes import By
from fwd.proto.ike.child import Offer
from fwd.proto.ike.message import Header
from fwd.proto.ike.numbers import Exchange, Notify, Protocol
from fwd.proto.ike.payloads import Notification, SecurityAssociation, only
from fwd.proto.ike.proposals import WORDS, Proposal

TWO_GROUPS = ("aes256gcm16-x25519-ecp384-noesn",)


def test_an_answer_whose_key_exchange_is_not_of_the_group_that_it_chooses_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """RFC 7296 §3.4: status and log would say a group in which there was no exchange."""
    net = Net(1, connection("a", esp=TWO_GROUPS), connection("b", esp=TWO_GROUPS)).connect()
    answer = child.answer

    def lying(*args: Any, **words: Any) -> Any:
        keys, reply, nonce = answer(*args, **words)
        (sa,) = only(reply, SecurityAssociation).proposals
        transforms = tuple(WORDS["ecp384"] if one == WORDS["x25519"] else one for one in sa.transforms)
        return keys, [SecurityAssociation((Proposal(sa.protocol, transforms, sa.number, sa.spi),)), *reply[1:]], nonce

    monkeypatch.setattr(exchanges, "answer", lying)
    net.a.endpoint.create_child(NAME, 1, for_member(1), net.now)
    net.run(1)
    assert not any("ecp384" in up.child.proposal for up in net.a.children().values())


@pytest.mark.parametrize("protocol", [Protocol.NONE, Protocol.IKE, 2, Protocol.ESP])
@pytest.mark.parametrize("more", [b"", bytes(4)])
def test_a_rekeying_names_the_child_sa_by_four_octets_of_esp(protocol: int, more: bytes) -> None:
    """RFC 7296 §3.10."""
    net = Net().connect()
    (ours,), (theirs,) = net.a.live(), net.b.live()
    (spi,) = ours.children
    offer = Offer.make(ours.connection, ours.world, 0, 0, None, first=False)
    rekey = Notification(Notify.REKEY_SA, b"", protocol, more + spi.to_bytes(4, "big"))
    (refused,) = ask(net, net.b, Exchange.CREATE_CHILD_SA, [rekey, *offer.payloads()])[:1]
    is_right = protocol == Protocol.ESP and not more
    assert (refused == Notification(Notify.INVALID_SYNTAX)) != is_right
    assert (len(theirs.children) == 2) == is_right


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_farewell_comes_after_what_is_under_way_and_no_number_has_two_messages(*, is_lost: bool) -> None:
    """RFC 7296 §2.1: the peer takes both in turn, whether it has had the first or not."""
    net = Net().connect()
    (sa,) = net.a.live()
    before = len(net.sent)
    net.a.endpoint.create_child(NAME, 1, for_member(1), net.now)
    net.judge = lambda datagram: [] if is_lost else [0.01]
    net.flush()

    net.judge = lambda datagram: [0.01]
    net.a.endpoint.say_farewell(NAME)
    sa.die("", By.USER)
    net.run(1)
    sent = [one.data for one in net.sent[before:] if one.local == A and not Header.decode(one.data).is_response]
    numbers = {data: Header.decode(data).message_id for data in sent}
    assert len(set(numbers.values())) == len(numbers) == 2
    assert not net.b.live()


def test_a_farewell_while_the_delete_is_under_way_is_the_delete_again() -> None:
    net = Net().connect()
    before = len(net.sent)
    net.judge = lambda datagram: []
    net.a.endpoint.terminate(NAME, net.now)
    net.flush()
    net.a.endpoint.say_farewell(NAME)
    net.flush()
    assert len(net.sent) == before + 2
    assert len({one.data for one in net.sent[before:]}) == 1

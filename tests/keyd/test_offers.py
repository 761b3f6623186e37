"""What several far gateways' TUN devices take, together."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from fwd.datapath.shared import PeeringShared
from fwd.keyd.offers import Offers
from fwd.proto.ip import CSUM, TSO4, TSO6, USO4, USO6

ALL = CSUM | TSO4 | TSO6 | USO4 | USO6
TCP = CSUM | TSO4 | TSO6


@pytest.mark.parametrize(
    ("before", "told", "common"),
    [
        (None, [(0, ALL)], ALL),
        (None, [(0, ALL), (1, TCP)], TCP),
        (None, [(0, TCP), (1, ALL)], TCP),
        (None, [(0, TCP), (1, TCP), (0, ALL), (1, ALL)], ALL),
        # An earlier keyd has told more of who has not told again yet than anybody else can know.
        (TCP, [(0, ALL)], TCP),
        (TCP, [(0, ALL), (1, ALL)], ALL),
        (0, [(1, ALL)], 0),
    ],
)
def test_ours_gives_what_all_of_them_take(before: int | None, told: list[tuple[int, int]], common: int) -> None:
    shared = PeeringShared(1)
    shared.far_offloads = before
    fars = [ip_address("192.0.2.2"), ip_address("192.0.2.3")]
    offers = Offers(shared, fars)
    for number, offloads in told:
        offers.put(fars[number], offloads)
    assert shared.far_offloads == common


def test_what_a_far_gateway_took_counts_no_more_once_it_is_gone() -> None:
    shared = PeeringShared(1)
    fars = [ip_address("192.0.2.2"), ip_address("192.0.2.3")]
    offers = Offers(shared, fars)
    for address, offloads in zip(fars, (ALL, TCP), strict=True):
        offers.put(address, offloads)
    offers.of(fars[:1])
    assert shared.far_offloads == ALL

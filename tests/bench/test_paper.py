"""What costs let expect of so many cores: a table, and what is full in it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from fwd.bench import paper
from fwd.bench.paper import LARGE, Cost, Costs, Steering, project

FREE = Cost(0.0, 0.0)
PLAIN = Costs(*[FREE] * len(paper.STEPS))


def costs(**given: float) -> Costs:
    """Microseconds of each record, whatever its length; what is not given costs nothing."""
    return dataclasses.replace(PLAIN, **{step: Cost(us, 0.0) for step, us in given.items()})


def gbps(record_us: float) -> float:
    return LARGE * 8 / 1000 / record_us


@pytest.mark.parametrize(
    ("given", "cores", "steering", "record_us", "full"),
    [
        # A core of each side is the demux's; what members do is shared by the others.
        ({"tun_read": 10, "seal": 20}, 2, "demux", 20, "sending members"),
        ({"tun_read": 10, "seal": 20}, 4, "demux", 10, "demux"),
        ({"tun_read": 10, "seal": 20}, 32, "demux", 10, "demux"),
        ({"tun_read": 4, "demux": 6, "seal": 20, "send": 40}, 4, "demux", 20, "sending members"),
        ({"receive": 5, "open": 20, "tun_write": 5}, 4, "demux", 10, "receiving members"),
        # Without a demux its work is the members', and grows with them.
        ({"tun_read": 10, "seal": 20}, 2, "kernel", 15, "sending members"),
        ({"tun_read": 10, "seal": 20}, 32, "kernel", 30 / 32, "sending members"),
        ({"receive": 20, "open": 40, "tun_write": 20}, 8, "kernel", 10, "receiving members"),
        # Two acknowledgements come back for three records: the sender opens them, and the receiver's demux reads them.
        ({"seal": 10, "open": 3}, 2, "demux", 12, "sending members"),
        ({"demux": 3, "seal": 1}, 2, "demux", 3, "demux"),
    ],
)
def test_what_so_many_cores_carry(
    given: dict[str, float], cores: int, steering: Steering, record_us: float, full: str
) -> None:
    point = project(costs(**given), cores, steering)
    assert point.gbps == pytest.approx(gbps(record_us))
    assert point.full == full


def test_more_cores_carry_more_until_the_demux_is_full_and_with_the_kernel_always() -> None:
    table = paper.points(costs(tun_read=5, demux=15, seal=40, send=10, receive=10, open=60, tun_write=5))
    assert [row["cores"] for row in table] == [2, 4, 8, 16, 32]
    by_demux, by_kernel = ([row[way]["gbps"] for row in table] for way in ("demux", "kernel"))
    assert by_kernel == pytest.approx([by_kernel[0] * factor for factor in (1, 2, 4, 8, 16)])
    assert by_demux == sorted(by_demux)
    assert [row["demux"]["full"] for row in table][-2:] == ["demux", "demux"]
    assert by_demux[-1] == by_demux[-2] == pytest.approx(gbps(20))


def test_one_core_is_no_gateway() -> None:
    with pytest.raises(ValueError, match="1 cores: a demux and a member need two"):
        project(PLAIN, 1, "demux")


@pytest.mark.parametrize(
    ("small_us", "large_us", "octets", "us"),
    [(2.0, 15.0, paper.SMALL, 2.0), (2.0, 15.0, LARGE, 15.0), (2.0, 2.0, 30_000, 2.0), (2.0, 1.0, LARGE, 2.0)],
)
def test_a_cost_goes_through_what_was_measured(small_us: float, large_us: float, octets: int, us: float) -> None:
    assert Cost.through(small_us, large_us).of(octets) == pytest.approx(us)


def test_costs_are_the_medians_of_what_was_measured() -> None:
    figures: dict[str, Any] = {
        step: {"small_us": {"median": 1.0 + n}, "large_us": {"median": 10.0 + n}} for n, step in enumerate(paper.STEPS)
    }
    measured = Costs.measured(figures)
    assert [cost.of(LARGE) for cost in paper.by_step(measured).values()] == pytest.approx([10.0 + n for n in range(7)])


def test_what_shares_cores_in_memory_pays_for_all_steps_but_the_kernels() -> None:
    given = costs(tun_read=100, demux=15, seal=25, send=100, receive=100, open=30, tun_write=100)
    assert paper.shared_gbps(given, 1, 5.0, opens=False) == pytest.approx(gbps(40))
    assert paper.shared_gbps(given, 2, 5.0, opens=True) == pytest.approx(2 * gbps(75))

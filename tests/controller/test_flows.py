"""How much goes through gateways and peerings, by their counters, and the last hour as a line."""

from __future__ import annotations

from typing import Any

import pytest

from fwd.controller.flows import HOUR_S, Flows
from fwd.controller.page.plot import plot_of


def told(number: Any, name: str = "a-b") -> dict[str, Any]:
    return {"peerings": [{"name": name, "bytes": number}]}


def heard(*numbers: Any) -> Flows:
    """A gateway's counter, once a second."""
    flows = Flows()
    for n, number in enumerate(numbers):
        flows.hear("a1", told(number), float(n), 1000.0 + n)
    return flows


@pytest.mark.parametrize(
    ("numbers", "bits_s"),
    [
        ([0], None),
        ([0, 0, 0, 0], 0.0),
        ([1000, 2000, 2000], 8000.0),  # the same told again, and not that nothing goes through
        ([1000, 2000, 2000, 4000], 8000.0),
        ([1000, 2000, 2000, 2000, 2000], 0.0),
        ([1000, 2000], 8000.0),
        ([1000, 2000, 2500], 4000.0),
        ([5000, 10], None),  # it has begun anew
        ([5000, 10, 20], 80.0),
        ([0, "x"], None),
        ([0, True], None),
        ([0, -1], None),
        ([0, 2**80], None),
        ([0, 2**62], 1e14),
    ],
)
def test_a_rate_is_what_a_counter_has_risen_by(numbers: list[Any], bits_s: float | None) -> None:
    assert heard(*numbers).of_host("a1", float(len(numbers))) == bits_s


def test_a_peerings_rate_is_that_of_the_side_that_sees_more() -> None:
    flows = Flows()
    for host, bytes_s in (("a1", 1000), ("a2", 500), ("b1", 1400)):
        for n in range(2):
            flows.hear(host, told(bytes_s * n), float(n), 1000.0 + n)
    assert flows.of_peering("a-b", ({"a1", "a2"}, {"b1"}), 1.0) == 12000.0
    assert flows.of_peering("a-b", (set(), {"b1"}), 1.0) == 11200.0
    assert flows.of_peering("other", ({"a1"}, {"b1"}), 1.0) is None
    assert flows.of_peering("a-b", ({"a1"}, {"b1"}), 60.0) is None


@pytest.mark.parametrize("status", [{}, {"peerings": 3}, {"peerings": [None, 3, {}]}, {"peerings": [{"bytes": 1}]}])
def test_a_status_of_any_form_is_heard(status: dict[str, Any]) -> None:
    flows = Flows()
    for n in range(3):
        flows.hear("a1", status, float(n), 1000.0 + n)
    assert flows.of_peering("a-b", ({"a1"}, set()), 2.0) is None


def test_the_last_hour_is_kept_and_no_more() -> None:
    flows = Flows()
    for n in range(2 * int(HOUR_S)):
        flows.hear("a1", told(125 * n), float(n), float(n))
    past = flows.past_of("a1", 2 * HOUR_S)
    assert 700 <= len(past) <= 720
    assert {value for _, value in past} == {1000.0}
    flows.forget(set())
    assert flows.past_of("a1", 2 * HOUR_S) == ()


def test_a_line_ends_where_nothing_was_heard() -> None:
    assert plot_of([(0.0, 1.0)], 0.0) is None
    drawn = plot_of([(0.0, 5.0), (5.0, 30.0), (1000.0, 30.0), (1005.0, 0.0)], HOUR_S)
    assert drawn is not None
    assert (drawn.path.count("M"), drawn.path.count("L"), drawn.most) == (2, 2, 50.0)
    assert drawn.path.startswith("M0.0 108.0L1.0 48.0")
    flat = plot_of([(0.0, 0.0), (5.0, 0.0)], HOUR_S)
    assert flat is not None
    assert flat.path == "M0.0 120.0L1.0 120.0"

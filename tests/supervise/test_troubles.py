"""Trouble is kept with what it befell, told in measure, and forgotten when it has not come again."""

from __future__ import annotations

import json
import time

import pytest

from fwd.datapath.board import Board
from fwd.model.reasons import Code, Reason, folded
from fwd.proto.errors import UserError
from fwd.supervise import troubles
from fwd.supervise.troubles import Troubles, report


def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), ValueError("x"), MemoryError(), UserError("x")])
def test_no_exception_goes_further(error: Exception) -> None:
    kept = Troubles()
    assert not kept.apart("a/member-0", fail, error)
    assert kept.apart("b", lambda: None)
    assert list(kept.current(time.monotonic())) == ["a/member-0"]
    assert kept.fresh


def test_a_stop_goes_further() -> None:
    with pytest.raises(KeyboardInterrupt):
        Troubles().apart("a", fail, KeyboardInterrupt())


def test_the_log_has_one_traceback_a_second(caplog: pytest.LogCaptureFixture) -> None:
    kept = Troubles()
    for _ in range(100):
        kept.apart("a", fail, RuntimeError("again"))
    assert caplog.text.count("Traceback") == 1
    assert "a: RuntimeError: again; it is tried again" in caplog.messages[0]


def test_what_does_not_come_again_is_forgotten() -> None:
    kept = Troubles()
    kept.apart("a", fail, RuntimeError("once"))
    now = time.monotonic()
    assert kept.current(now) == {"a": "RuntimeError: once"}
    assert kept.current(now + troubles.KEPT_S) == {}


def test_a_reason_is_one_line_of_bounded_length() -> None:
    assert troubles.reason(UserError("a\n b")) == "a b"
    assert len(troubles.reason(ValueError("x" * 10_000))) <= 300


def taken(peering: str, subnet: str) -> Reason:
    return Reason.of(Code.ROUTE_TAKEN, peering, [subnet], address=subnet, device="fwd0", why="a rule takes it")


def test_reasons_of_many_subnets_are_one_after_the_first_few() -> None:
    shown = folded([taken("far", f"10.2.{i}.0/24") for i in range(255)])
    assert len(shown) == 8
    assert "and 247 more" in shown[-1].text
    assert {subnet for one in shown for subnet in one.subnets} == {f"10.2.{i}.0/24" for i in range(255)}
    assert folded(shown) == shown


@pytest.mark.parametrize(("peerings", "subnets"), [(2, 255), (64, 255), (3000, 9)])
def test_what_the_agent_is_told_always_fits_and_says_that_there_are_reasons(peerings: int, subnets: int) -> None:
    reasons = [taken(f"peering-{i}", f"fd00:2:{i:x}:{n:x}::/64") for i in range(peerings) for n in range(subnets)]
    told = json.loads(report({"waiting": {}}, reasons, Board.SIZE))
    assert {one["code"] for one in told["reasons"]} <= {Code.ROUTE_TAKEN, Code.KERNEL}
    assert told["reasons"]
    assert json.loads(report({"waiting": {"far": "x" * Board.SIZE}}, reasons, Board.SIZE))["reasons"]
    assert json.loads(report({"waiting": {}}, [], Board.SIZE)) == {"waiting": {}, "reasons": []}

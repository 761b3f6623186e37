"""Trouble is kept with what it befell, told in measure, and forgotten when it has not come again."""

from __future__ import annotations

import time

import pytest

from fwd.proto.errors import UserError
from fwd.supervise import troubles
from fwd.supervise.troubles import Troubles


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

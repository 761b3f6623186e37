"""SIGHUP while the supervisor is short of something: what is no fault of the file's is tried again."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import pytest

from fwd.proto.errors import UserError
from fwd.supervise.supervisor import Supervisor
from fwd.supervise.troubles import Troubles


def supervisor(*outcomes: object) -> Any:
    """One that reads these, one after the other, and keeps in `wanted` what it then has in force."""
    left, wanted = list(outcomes), list[object]()

    def read() -> object:
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return SimpleNamespace(
        _read=read, _steps_to=lambda config: [], _want=wanted.append, wanted=wanted, _troubles=Troubles(),
        _applying=SimpleNamespace(give_way=lambda: None), _reload=True, _reload_at=0.0,
    )  # fmt: skip


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), MemoryError(), ValueError("odd")])
def test_what_is_no_fault_of_the_files_is_tried_again(error: Exception) -> None:
    one = supervisor(error, "new")
    Supervisor._re_read(one)
    assert one.wanted == []
    assert one._reload
    assert one._reload_at > 0.0
    assert "configuration" in one._troubles.current(one._reload_at - 3.0)

    Supervisor._re_read(one)
    assert one.wanted == ["new"]
    assert not one._reload


def test_a_file_that_cannot_be_used_changes_nothing_and_is_not_read_again() -> None:
    one = supervisor(UserError("fwd.toml: no such key"))
    Supervisor._re_read(one)
    assert one.wanted == []
    assert not one._reload

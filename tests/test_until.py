"""Waiting: for the first true value, for so long, and no longer than it can come about."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fwd.lab.waiting import Daemon, until
from fwd.lab.world import LabError


def test_it_gives_the_first_true_value() -> None:
    values = iter([0, 7])
    assert until(lambda: next(values), "a number") == 7


def test_what_does_not_come_is_told_with_the_last_words_of_who_was_needed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(LabError, match=r"^not within 0 s: a ping$"):
        until(lambda: False, "a ping", 0.0)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as cat:
        log.write_text("first\nno route\n\n")
        with pytest.raises(LabError, match=r"^not within 0 s: a ping; gw1: no route$"):
            until(lambda: False, "a ping", 0.0, [Daemon.of("gw1", cat, log)])


@pytest.mark.parametrize("reaped", [True, False])
def test_it_is_in_vain_once_who_is_needed_has_ended(tmp_path: Path, reaped: bool) -> None:
    (tmp_path / "log").touch()
    with subprocess.Popen(["true"]) as ended:
        if reaped:
            ended.wait()
        daemon = Daemon.of("gw1", ended, tmp_path / "log")
        with pytest.raises(LabError, match=r"^gw1 has ended: it logged nothing; waited for: a ping$"):
            until(lambda: False, "a ping", 60.0, [daemon])

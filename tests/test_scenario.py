"""What becomes of a scenario: its row, its reason, its logs; and how one is chosen and waited for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from fwd.lab import scenario
from fwd.lab.scenario import Failed
from fwd.lab.world import LabError


class Called(NamedTuple):
    name: str


def test_a_scenario_that_ends_has_passed_with_its_figures() -> None:
    with scenario.row("one", initiator="fwd") as row:
        row["figures"] = {"pings": 3}
    assert row.pop("seconds") >= 0
    assert row == {"name": "one", "initiator": "fwd", "passed": True, "figures": {"pings": 3}}


@pytest.mark.parametrize("error", [Failed("late"), LabError("late"), OSError("late")])
def test_an_exception_is_the_reason_and_the_ends_of_the_logs_are_kept(error: Exception) -> None:
    with scenario.row("one") as row, scenario.logged(row, lambda: {"fwd": "x" * 5000 + "end"}):
        raise error
    assert (row["passed"], row["reason"]) == (False, "late")
    assert len(row["logs"]["fwd"]) == 3000
    assert row["logs"]["fwd"].endswith("end")


def test_logs_that_cannot_be_read_do_not_hide_the_reason() -> None:
    def unreadable() -> dict[str, str]:
        raise LabError("no engine")

    with scenario.row("one") as row, scenario.logged(row, unreadable):
        raise Failed("late")
    assert row["reason"] == "late"
    assert "logs" not in row


def test_what_a_row_is_not_told_to_expect_passes_through() -> None:
    with pytest.raises(LabError), scenario.row("built", (Failed,)):
        raise LabError("no engine")


def test_words_choose_the_scenarios_with_them_in_their_name() -> None:
    both = [Called("behind a NAT"), Called("cookies")]
    assert scenario.chosen(both, "NAT") == [both[0]]
    assert scenario.chosen(both, "") == both
    with pytest.raises(LabError, match="no scenario has 'none' in its name"):
        scenario.chosen(both, "none")


def test_rows_are_written_with_what_they_are_about(tmp_path: Path) -> None:
    out = tmp_path / "new" / "rows.json"
    scenario.write(out, [{"name": "one"}], base="debian")
    assert json.loads(out.read_text()) == {"schema": 1, "base": "debian", "scenarios": [{"name": "one"}]}

"""A process of each kind that is taken over harms nobody: what it tries is refused or ends it; the gateway goes on."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
import taken_over
from gwkit import MakePair, Pair, until

CHILDREN = ["demux", "member-1", "keyd", "beacon", "agent"]  # the agent last: it tells of the others
LIVES = len(taken_over.ATTACKS)


@pytest.fixture(scope="module")
def pair(module_pairs: MakePair) -> Pair:
    """gw1 after all attacks of all kinds, which all ran at the same time."""
    pair = module_pairs(start=False)
    pair.answer_routers()
    pair.program = [str(Path(taken_over.__file__))]
    pair.start()
    assert pair.ping()
    before = pair.pids("gw1")
    for name in CHILDREN:
        pair.kill("gw1", name)
    filtered = len(taken_over.ENDED) * len(CHILDREN)
    until(lambda: pair.log("gw1").count("event=process.filtered") >= filtered, 120.0, "every attack tried")
    pair.wait_ready("gw1", seconds=30.0)
    assert all(pair.pids("gw1")[name] != before[name] for name in CHILDREN)
    return pair


def lines(pair: Pair, child: str) -> list[str]:
    """What one process logged, and the supervisor of it."""
    return [line for line in pair.log("gw1").splitlines() if re.search(rf"\b{child}\b", line)]


@pytest.mark.parametrize("child", CHILDREN)
@pytest.mark.parametrize("attempt", taken_over.ENDED)
def test_what_it_tries_ends_it_and_one_line_says_so(child: str, attempt: str, pair: Pair) -> None:
    told = lines(pair, child)
    (at,) = [i for i, line in enumerate(told) if line.endswith(f"tries: {attempt}")]
    after = next(line for line in told[at + 1 :] if "ended" in line or "tries:" in line)
    assert "killed by SIGSYS: its system call filter forbids what it tried" in after
    assert "event=process.filtered" in after
    assert not any(f"survived: {attempt}" in line for line in told)


@pytest.mark.parametrize("child", CHILDREN)
def test_no_line_of_anothers_is_forged(child: str, pair: Pair) -> None:
    """Its own name stands before whatever it wrote."""
    forged = [line for line in pair.log("gw1").splitlines() if taken_over.FORGED in line]
    assert any(re.search(rf" ERROR \S*{child}: ", line) for line in forged)
    for line in forged:
        assert line.startswith("  ") or re.search(rf" ERROR \S*({'|'.join(CHILDREN)}): ", line), line


def test_nothing_is_unpickled(pair: Pair) -> None:
    assert not any(line.startswith(taken_over.FORGED) for line in pair.log("gw1").splitlines())


@pytest.mark.parametrize("child", CHILDREN)
def test_a_flood_is_bounded_and_what_is_lost_is_said(child: str, pair: Pair) -> None:
    until(lambda: any("event=log.lost" in line for line in lines(pair, child)), 60.0, "what is lost is said")
    assert sum(" flood " in line for line in lines(pair, child)) < taken_over.FLOOD / 2


def test_the_gateway_carries_on(pair: Pair) -> None:
    assert pair.running["gw1"].poll() is None
    assert pair.ping(count=5)
    assert pair.tcp() > 0
    log = pair.log("gw1").splitlines()
    assert not [line for line in log if "event=supervisor.trouble" in line or "event=process.failed" in line]
    assert "Traceback" not in pair.log("gw1")


def test_another_member_lost_nothing(pair: Pair) -> None:
    """member-0 was never replaced."""
    assert pair.member("gw1", 0)["restarts"] == 0


def test_an_abort_still_leaves_a_traceback(pair: Pair) -> None:
    pid = pair.kill("gw1", "agent", signal.SIGABRT)
    pair.wait_replaced("gw1", "agent", pid)
    assert "Fatal Python error: Aborted" in pair.log("gw1")

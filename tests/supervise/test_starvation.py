"""The watchdog on a machine whose cores are stolen: what merely gets no CPU is left alone, what hangs is gone at once.

The supervisor's own loop and real processes, all on one core, with more load of nice 0 than it can carry: the other
cores are other tests'. A child is starved outright: the load is before it whenever it wants to run.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from fwd.datapath.shared import GatewayShared, ProcessState
from fwd.model import config
from fwd.model.example import EXAMPLE
from fwd.supervise import policy, vitals
from fwd.supervise.children import Child
from fwd.supervise.supervisor import Supervisor

LONG = [pytest.mark.long, pytest.mark.timeout(600)]
SPIN_CPU_S_MAX = 1.0
STOPPED_S_MAX = 1.5
WARM_UP_S = 0.3
_fork = multiprocessing.get_context("fork")


@dataclass
class Watched(Child):
    """A child that remembers its ends: CPU time used, and when it was."""

    ends: list[tuple[float, float]] = field(default_factory=list)

    def reap(self, now: float) -> None:
        if self.process is not None and self.process.pid is not None:
            self.ends.append((vitals.cpu_s(self.process.pid), now))
        super().reap(now)


def turn_for(child: Child, seconds: float) -> None:
    """Work a little, turn, and wait, as every loop of fwd's does."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        child.words.heartbeat[0] = time.monotonic_ns()
        sum(range(10_000))
        time.sleep(0.05)


def carry_on(child: Child) -> None:
    turn_for(child, 1e9)


def work_on(child: Child) -> None:
    """Turn after some 40 ms of work, which is seconds where a hundredth of a core is to be had."""
    while True:
        child.words.heartbeat[0] = time.monotonic_ns()
        sum(range(2_000_000))


def spin(child: Child) -> None:
    turn_for(child, WARM_UP_S)
    while True:
        pass


def spin_at_once(child: Child) -> None:
    while True:
        pass


def block(child: Child) -> None:
    turn_for(child, WARM_UP_S)
    time.sleep(1e6)


def burn() -> None:
    while True:
        pass


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    """One without peerings, whose children are the test's."""
    parsed = config.parse(EXAMPLE.replace("/run/fwd", str(tmp_path)), "example")
    made = Supervisor(parsed, lambda: parsed)
    made._turned_at = time.monotonic()
    yield made
    made._stop_all()


@pytest.fixture
def stolen_cores() -> Iterator[None]:
    """One core for the test and all that it starts, and two processes that want all of it: it takes seconds of it."""
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(all_cores)})
    load = [_fork.Process(target=burn) for _ in range(2)]
    for process in load:
        process.start()
    yield
    for process in load:
        process.kill()
        process.join()
    os.sched_setaffinity(0, all_cores)


def starve(child: Child) -> None:
    """Put a child behind all load. It has a session of its own, and so a share of its own (autogroup)."""
    assert child.process is not None
    assert child.process.pid is not None
    os.setpriority(os.PRIO_PROCESS, child.process.pid, 19)
    with contextlib.suppress(OSError):
        Path(f"/proc/{child.process.pid}/autogroup").write_text("19")


def watch(supervisor: Supervisor, name: str, main: Callable[[Child], None]) -> Watched:
    child = Watched(name, GatewayShared().keyd, set, lambda child: partial(main, child))
    supervisor._tree.add(name, lambda: child)
    child.life.state = ProcessState.BACKOFF
    return child


def turn_until(supervisor: Supervisor, done: Callable[[], bool], seconds: float) -> float:
    """Let the supervisor turn; the longest time that a child which still runs was silent."""
    ends, longest_s = time.monotonic() + seconds, 0.0
    while not done() and time.monotonic() < ends:
        supervisor._turn()
        now = time.monotonic()
        lives = [c.life for c in supervisor._tree.children.values() if c.life.state is ProcessState.RUNNING]
        longest_s = max([longest_s, *(policy.silent_s(life, 0.0, now) for life in lives)])
    return longest_s


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [3.0, pytest.param(300.0, marks=LONG)])
def test_what_gets_no_cpu_is_left_alone(supervisor: Supervisor, stolen_cores: None, seconds: float) -> None:
    children = [watch(supervisor, "keyd", carry_on), watch(supervisor, "agent", work_on)]
    turn_until(supervisor, lambda: all(child.words.heartbeat[0] for child in children), 30.0)
    starve(children[1])
    rounds = (turn_until(supervisor, lambda: False, seconds) for _ in range(10))
    assert any(longest_s > policy.HANG_S for longest_s in rounds), "none was starved"
    assert [child.life.incarnation for child in children] == [1, 1]
    assert not [child.ends for child in children if child.ends]


@pytest.mark.slow
@pytest.mark.parametrize("main", [spin, spin_at_once])
def test_what_spins_is_gone_before_it_has_used_a_second(
    supervisor: Supervisor, stolen_cores: None, main: Callable[[Child], None]
) -> None:
    child = watch(supervisor, "keyd", main)
    turn_until(supervisor, lambda: len(child.ends) >= 2, 30.0)
    assert len(child.ends) >= 2, "it still spins"
    assert all(cpu_s < SPIN_CPU_S_MAX for cpu_s, _ in child.ends), child.ends


@pytest.mark.slow
@pytest.mark.parametrize("state_hidden", [False, True], ids=["", "its state hidden"])
def test_what_is_stopped_is_gone_within_a_second_and_a_half(
    supervisor: Supervisor, stolen_cores: None, monkeypatch: pytest.MonkeyPatch, state_hidden: bool
) -> None:
    """SIGABRT does not reach it. Where /proc is hidden, waitid tells of the stop."""
    if state_hidden:
        monkeypatch.setattr(vitals, "open_state", lambda pid: -1)
    child = watch(supervisor, "keyd", carry_on)
    turn_until(supervisor, lambda: bool(child.words.heartbeat[0]), 30.0)
    child.signal(signal.SIGSTOP)
    started_at = child.life.started_at
    turn_until(supervisor, lambda: bool(child.ends), 30.0)
    ((_, ended_at),) = child.ends
    last_turn_at = child.life.turned_at
    assert ended_at - max(last_turn_at, started_at) < STOPPED_S_MAX


@pytest.mark.slow
def test_what_sleeps_in_the_middle_of_a_turn_is_gone(supervisor: Supervisor, stolen_cores: None) -> None:
    child = watch(supervisor, "keyd", block)
    turn_until(supervisor, lambda: bool(child.ends), 30.0)
    ((_, ended_at),) = child.ends
    assert policy.HANG_S <= ended_at - child.life.turned_at < STOPPED_S_MAX


def test_a_change_that_fails_again_and_again_does_not_end_the_supervisor(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each turn attempts it, and that is no turn that fails as a whole."""
    monkeypatch.setattr("fwd.supervise.supervisor.GIVE_UP_S", -1.0)
    monkeypatch.setattr("fwd.supervise.supervisor.RETRY_S", 0.0)
    turns = 0

    def fail() -> None:
        nonlocal turns
        turns += 1
        supervisor._stopping = turns == 3
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(supervisor, "_settle", fail)
    supervisor._unsettled = True
    supervisor._loop()
    assert turns == 3
    assert "configuration" in supervisor._troubles.current(time.monotonic())

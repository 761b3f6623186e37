"""A process that kills itself between two lines of the product's code: every point at which a death can fall.

`sys.settrace` gives an event before each line; at the `nth` one in the given files the process sends itself SIGKILL,
so nothing is flushed, closed or caught, just as when somebody else kills it there. Of a line in a loop the first few
times count: what is new at the fifth is not the line. That is the long form; the short one takes each line once, and
one in SHARE of the times after.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import propkit

POINTS_MAX = 5000
TIMES = 4
SHARE = 12


def dies_at(nth: int, scenario: Callable[[], object], *files: str) -> bool:
    """Run `scenario` in a fork that dies before the `nth` line of `files`; False: it ended before that."""
    pid = os.fork()
    if pid == 0:
        _be_killed(nth, scenario, tuple(os.sep + f for f in files))
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.waitstatus_to_exitcode(status) == 0, f"the scenario failed before point {nth}: see its traceback"
    return False


_every_time = True  # set by every_point, in the processes that check


def every_point(check: Callable[[int], bool], *, every_time: bool) -> int:
    """Call `check(nth)` for 1, 2, … until it says that nobody died; how many points there were.

    `every_time`: the long form. One point in as many as propkit.py says is tried. The points are shared out over a
    process for each core: what `check` remembers stays there.
    """
    apart = propkit.one_place_in
    step = apart * (os.cpu_count() or 1)
    ends = [_check_some(check, first, step, every_time) for first in range(1, step + 1, apart)]
    reached = []
    for pid, pipe in ends:
        with os.fdopen(pipe) as told:
            last = told.read()
        _, status = os.waitpid(pid, 0)
        reached.append(int(last) if os.waitstatus_to_exitcode(status) == 0 and last else None)
    assert None not in reached, "a check failed: see its traceback"
    return min(last for last in reached if last is not None) - 1


def counts(place: int, time: int, every_time: bool) -> bool:
    """Tell whether this time that a place in the code is reached is a point to try."""
    return time <= TIMES and (every_time or time == 1 or (place + time) % SHARE == 0)


def _check_some(check: Callable[[int], bool], first: int, step: int, every_time: bool) -> tuple[int, int]:
    """A process that checks every `step`th point; it writes the first one at which nobody died into the pipe."""
    global _every_time
    near, far = os.pipe()
    pid = os.fork()
    if pid:
        os.close(far)
        return pid, near
    _every_time = every_time
    gc.disable()
    gc.freeze()  # what was there before is not looked through each time
    status = 1
    try:
        last = next(nth for nth in range(first, POINTS_MAX, step) if not _check_and_forget(check, nth))
        os.write(far, str(last).encode())
        status = 0
    finally:
        if status:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(status)


def _check_and_forget(check: Callable[[int], bool], nth: int) -> bool:
    """Check a point, and free what it had mapped: each fork would copy the page tables of all that came before."""
    died = check(nth)
    gc.collect()
    return died


def _be_killed(nth: int, scenario: Callable[[], object], files: tuple[str, ...]) -> None:
    left = nth
    times: Counter[tuple[CodeType, int]] = Counter()

    def on_call(frame: FrameType, event: str, arg: Any) -> Any:
        return on_line if frame.f_code.co_filename.endswith(files) else None

    def on_line(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal left
        if event == "line":
            at = frame.f_code, frame.f_lineno
            times[at] += 1
            left -= counts(frame.f_lineno, times[at], _every_time)
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return on_line

    gc.disable()  # a collection would copy the parent's pages, a thousand times over
    status = 1
    try:
        sys.settrace(on_call)
        scenario()
        sys.settrace(None)
        status = 0
    finally:
        sys.settrace(None)
        if status:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(status)

"""How a child begins and ends: every signal has a name or a number, and nothing is left half started."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest

from fwd.datapath.shared import GatewayShared, PeeringShared, ProcessState
from fwd.proto.errors import UserError
from fwd.supervise import children, policy, privileges, vitals
from fwd.supervise.children import Child
from fwd.supervise.tree import Tree

NOBODY = (65534, 65534)
Make = Callable[[Callable[[Child], int | None]], Child]


def sleep_on(child: Child) -> None:
    while True:
        signal.pause()


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes children of this process; none may be left."""
    before = {process.pid for process in psutil.Process().children()}
    made = []

    def child(main: Callable[[Child], int | None]) -> Child:
        made.append(Child("x/member-0", GatewayShared().keyd, set, lambda child: partial(main, child)))
        made[-1].life.state = ProcessState.BACKOFF
        return made[-1]

    yield child
    for one in made:
        if one.process is not None:
            one.signal(signal.SIGKILL)
            one.reap(time.monotonic())
            one.forget()
        one.close()
    assert {process.pid for process in psutil.Process().children()} <= before


def start(child: Child) -> None:
    child.start(NOBODY, time.monotonic(), lambda pidfd: None)


def end(child: Child) -> None:
    child.reap(time.monotonic())
    child.forget()


def test_every_signal_can_end_a_child(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Those from 35 to 63 have no names; an unprivileged process may send any."""
    fatal = [n for n in range(1, 65) if n not in (32, 33)]  # the C library's own
    for number in fatal:
        child = make(sleep_on)
        start(child)
        assert child.process is not None
        assert child.process.pid is not None
        os.kill(child.process.pid, number)
        os.kill(child.process.pid, signal.SIGKILL)
        end(child)
        assert child.life.state is not ProcessState.RUNNING


@pytest.mark.parametrize("number", range(1, 65))
def test_an_end_by_a_signal_is_told(number: int) -> None:
    told = children._ending(-number).removesuffix(": its system call filter forbids what it tried")
    assert told in (f"killed by signal {number}", f"killed by {signal.Signals(number).name}" if number < 32 else told)
    assert told.startswith("killed by ")


@pytest.mark.parametrize(
    ("code", "told"), [(0, "exit status 0"), (70, "exit status 70"), (None, "exit status unknown")]
)
def test_an_end_by_itself_is_told(code: int | None, told: str) -> None:
    assert children._ending(code) == told


REFUSED = [
    (os, "fork", OSError(errno.EAGAIN, "pids limit")),
    (os, "fork", OSError(errno.ENOMEM, "no memory")),
    (os, "pidfd_open", OSError(errno.EMFILE, "no descriptor")),
    (vitals, "open_state", MemoryError()),
    (children, "_Process", RuntimeError("whatever")),
]


@pytest.mark.parametrize(("module", "name", "error"), REFUSED, ids=lambda v: str(v)[:30])
def test_a_start_that_is_refused_is_a_short_life(
    make: Make, monkeypatch: pytest.MonkeyPatch, module: object, name: str, error: Exception
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    child = make(sleep_on)
    descriptors = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patched:
        patched.setattr(module, name, refuse)
        for tries in range(1, policy.STORM + 1):
            with pytest.raises(type(error)):
                start(child)
            assert (child.process, child.pidfd, child.state_fd) == (None, -1, -1)
            assert child.life.state is (ProcessState.FAILED if tries == policy.STORM else ProcessState.BACKOFF)
            assert child.words.get().state is child.life.state
    assert len(os.listdir("/proc/self/fd")) == descriptors
    start(child)
    assert child.life.state is ProcessState.RUNNING


def test_a_child_that_cannot_be_watched_is_ended(make: Make) -> None:
    def refuse(pidfd: int) -> None:
        raise OSError(errno.ENOSPC, "no more watches")

    child = make(sleep_on)
    with pytest.raises(OSError, match="no more watches"):
        child.start(NOBODY, time.monotonic(), refuse)
    assert (child.process, child.life.state) == (None, ProcessState.BACKOFF)


def test_a_child_that_has_ended_is_observed_without_trouble(make: Make) -> None:
    """Until it is reaped its clock cannot be asked."""
    child = make(lambda child: 3)
    start(child)
    assert select.select([child.pidfd], [], [], 10)[0]
    child.observe(time.monotonic())
    end(child)


def test_a_child_is_reaped_once(make: Make) -> None:
    child = make(lambda child: 3)
    start(child)
    end(child)
    before = child.life.short_lives, child.life.state
    end(child)
    assert (child.life.short_lives, child.life.state) == before == (1, ProcessState.BACKOFF)


def test_a_successor_does_not_live_on_its_predecessors_word(make: Make) -> None:
    child = make(sleep_on)
    child.words.heartbeat[0] = 2**63
    start(child)
    child.observe(time.monotonic())
    assert child.life.turned_at == 0


@pytest.mark.parametrize(("module", "name"), [(os, "sched_setscheduler"), (privileges, "drop")])
def test_a_child_that_cannot_give_up_what_it_must_fails_in_one_record(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, module: object, name: str
) -> None:
    """It does no work, and nothing of the supervisor's that it has inherited is finalized in it."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "on purpose")

    child = make(lambda child: 3)
    with monkeypatch.context() as patched:
        patched.setattr(module, name, refuse)
        start(child)
    assert child.process is not None
    child.process.join()
    code = child.process.exitcode
    child.log.finish(time.monotonic())
    told = [(getattr(record, "event", ""), record.message.splitlines()[-1]) for record in caplog.records]
    assert (code, told) == (1, [("process.failed", "PermissionError: [Errno 1] on purpose")])
    end(child)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_children_that_cannot_become_another_user_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    children.try_users({"keyd": NOBODY})

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(privileges, "drop", refuse)
    with pytest.raises(UserError, match=r"user 65534, group 65534: Operation not permitted; give fwd CAP_SETUID"):
        children.try_users({"keyd": NOBODY})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_who_has_kept_a_privilege_goes_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the calls have said, the kernel is asked."""
    if privileges._status()["NoNewPrivs"] == "1":
        pytest.skip("this process has no new privileges itself")
    parent, real = os.getpid(), privileges._libc

    def prctl(what: int, *rest: int) -> int:
        return 0 if what == privileges._PR_SET_NO_NEW_PRIVS else int(real.prctl(what, *rest))

    monkeypatch.setattr(privileges, "_libc", SimpleNamespace(prctl=prctl, capset=real.capset))
    with pytest.raises(UserError, match="privileges are not given up: NoNewPrivs is 0;"):
        privileges.rehearse(*NOBODY, lambda: privileges.drop(*NOBODY, parent))


def test_a_member_that_reads_the_tun_device_is_ended(make: Make) -> None:
    """It has it to write: what is read there is for all members, in the clear. Here a socket stands for it."""
    near, far = socket.socketpair()
    parts = SimpleNamespace(
        tun=SimpleNamespace(fd=near.fileno()),
        queues=SimpleNamespace(steered=False),
        shared=PeeringShared(1),
        peering=SimpleNamespace(name="p"),
        member_inputs=set,
    )
    unread = Tree._member(cast(Any, None), cast(Any, parts), 0).unread

    def read(child: Child) -> int:
        near.send(b"written")
        os.read(near.fileno(), 9)
        return 0

    child = make(read)
    child.keep = lambda: {near.fileno()}
    child.unread = unread
    with near, far:
        far.send(b"of another member")
        start(child)
        select.select([child.pidfd], [], [], 30.0)
        assert child.process is not None
        child.process.join()
        assert child.process.exitcode == -signal.SIGSYS
        assert far.recv(9) == b"written"
        end(child)

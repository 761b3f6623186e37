"""One supervised process: how it is forked, what it keeps, how its end is seen.

multiprocessing's fork, from the main thread; a pidfd tells of the end without a race. In the child, before anything
else: signals back to default, every descriptor closed that is not its own, all privileges dropped.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fwd.datapath.member import NO_KEYS
from fwd.datapath.shared import ProcessWords
from fwd.proto.logged import event
from fwd.supervise import logs, policy, privileges
from fwd.supervise.policy import Life

log = logging.getLogger(__name__)

Main = Callable[["Child"], int | None]


@dataclass
class Child:
    """A process slot. `keep` gives the descriptors that its process may have; `main` is what it does."""

    name: str
    words: ProcessWords
    keep: Callable[[], set[int]]
    main: Main
    log_pair: tuple[socket.socket, socket.socket] | None = None  # of processes that may be killed at any moment
    life: Life = field(default_factory=Life)
    process: multiprocessing.Process | None = None
    pidfd: int = -1

    def start(self, user: tuple[int, int], now: float) -> None:
        """Fork. The predecessor has been reaped."""
        policy.started(self.life, now)
        self.words.heartbeat[0] = time.monotonic_ns()
        self.publish(0)
        process = multiprocessing.Process(target=_child, args=(self, user, os.getpid()), name=self.name)
        process.start()
        assert process.pid is not None
        self.process = process
        self.pidfd = os.pidfd_open(process.pid)
        self.publish(process.pid)
        told = event("process.started", name=self.name, pid=process.pid, incarnation=self.life.incarnation)
        log.info("%s started, pid %d%s", self.name, process.pid, _again(self.life), extra=told)

    def reap(self, now: float) -> None:
        """The pidfd is readable: wait, decide what state that makes."""
        assert self.process is not None
        self.process.join()
        code = self.process.exitcode
        os.close(self.pidfd)
        self.process.close()
        self.process, self.pidfd = None, -1
        policy.exited(self.life, now, keyless=code == NO_KEYS)
        self.publish(0)
        how = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit status {code}"
        state = self.life.state.name.lower()
        told = event("process.ended", name=self.name, exit_code=code, state=state)
        log.warning("%s ended: %s; %s", self.name, how, state, extra=told)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this very process."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def publish(self, pid: int) -> None:
        """Show the slot's state in the process table."""
        life = self.life
        started_ns = int(life.started_at * 1e9)
        self.words.put(life.state, pid, life.restarts, started_ns, life.incarnation)

    def close(self) -> None:
        """The slot is not needed any more."""
        for sock in self.log_pair or ():
            sock.close()


def _child(child: Child, user: tuple[int, int], parent_pid: int) -> None:
    """The forked process, from its first instruction on."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    privileges.set_title(child.name)
    log_fds = {child.log_pair[1].fileno()} if child.log_pair else logs.queue_fds()
    privileges.close_others(child.keep() | log_fds)
    privileges.drop(*user, parent_pid)
    faulthandler.enable()
    if child.log_pair:
        logs.log_to(child.log_pair[1])
        # One that wakes up does not push another off its core: bursts grow under load, nothing waits when idle.
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        code = child.main(child)
    except Exception:
        log.exception("%s failed", child.name, extra=event("process.failed", name=child.name))
        code = 1
    # Not sys.exit: finalizers of objects whose descriptors are closed must not run.
    for handler in logging.getLogger().handlers:
        handler.flush()
    os._exit(code or 0)


def _again(life: Life) -> str:
    if not life.restarts:
        return ""
    gap_ms = (life.started_at - life.ended_at) * 1000
    return f", incarnation {life.incarnation}, {gap_ms:.1f} ms after the last"

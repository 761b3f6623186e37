"""One supervised process: how it is forked, what it keeps, how its end is seen.

multiprocessing's fork, from the main thread; a pidfd tells of the end without a race. In the child, before anything
else: signals back to default, its shared memory mapped, a session of its own, every descriptor closed that is not its
own, all privileges dropped. What cannot be had is one record, `process.failed`, and the process's end.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import logging
import os
import signal
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.context import ForkProcess
from multiprocessing.popen_fork import Popen

from fwd.datapath.shared import ProcessWords
from fwd.proto.logged import event
from fwd.supervise import logs, policy, privileges, sandbox, vitals
from fwd.supervise.policy import Action, Life
from fwd.supervise.users import Users

log = logging.getLogger(__name__)

Main = Callable[[], int | None]
_HOT = ("demux", "member")
_BYTES_MORE_MAX = 512 << 20
_DESCRIPTORS_MORE_MAX = 64  # the agent's 32 guests, an epoll, a socket for a moment


@dataclass
class Child:
    """A process slot. `keep` gives the descriptors that its process may have, `inputs` those of them that are readable
    when work waits for it while it rests, unless it cannot do any (`can_work`); `unread` those that it may only write.

    `prepare` maps the shared memory that it may have, in the process itself, and returns what the process then does.
    """

    name: str
    words: ProcessWords
    keep: Callable[[], set[int]]
    prepare: Callable[[Child], Main]
    inputs: Callable[[], set[int]] = set
    can_work: Callable[[], bool] = lambda: True
    unread: Callable[[], set[int]] = set
    life: Life = field(default_factory=Life)
    process: ForkProcess | None = None
    pidfd: int = -1
    state_fd: int = -1

    def __post_init__(self) -> None:
        self.log = logs.ChildLog(self.name)

    @property
    def kind(self) -> str:
        """What its process is: "demux", "member", "keyd", "agent" or "beacon"."""
        return self.name.rpartition("/")[2].partition("-")[0]

    @property
    def peering(self) -> str:
        """The name of its peering; empty: it is of none."""
        return self.name.rpartition("/")[0]

    def start(self, user: tuple[int, int], now: float, watch: Callable[[int], object]) -> None:
        """Fork; the predecessor has been reaped. `watch` is given the pidfd.

        Raises whatever it was refused with; nothing is left of the attempt then but a short life.
        """
        policy.started(self.life, now)
        try:
            self.publish(0)
            self.process = _Process(target=_child, args=(self, user, os.getpid()), name=self.name)
            self.process.start()
            pid = self.process.pid
            assert pid is not None
            self.log.pid = pid
            self.state_fd = vitals.open_state(pid)
            self.pidfd = os.pidfd_open(pid)
            self.publish(pid)
            watch(self.pidfd)
        except BaseException:
            self._abandon(now)
            raise
        told = event("process.started", name=self.name, pid=pid, incarnation=self.life.incarnation)
        log.info("%s started, pid %d%s", self.name, pid, _again(self.life), extra=told)

    def _abandon(self, now: float) -> None:
        """End what was half started, and count it as a life."""
        process, self.process = self.process, None
        policy.exited(self.life, now)
        if process is not None and process.pid is not None:
            process.kill()
            process.join()
        self.forget()
        self.publish(0)

    def rests(self, now: float) -> bool:
        """Whether the process, for which no work waits, has said that it rests: then all is well."""
        life = self.life
        if self.process is None or life.aborted_at is not None:
            return False
        return policy.rests(life, self.words.beat_at(life.started_at), now)

    def says_it_rests(self, now: float) -> bool:
        """Whether there is a process that has said so, be it right or not."""
        return self.process is not None and self.words.beat_at(self.life.started_at) > now

    def observe(self, now: float) -> None:
        """Take note of what a running process does that does not rest, or should not."""
        assert self.process is not None
        assert self.process.pid is not None
        late = now - self.life.turned_at >= policy.LATE_S
        wants_cpu = late and vitals.wants_cpu(self.state_fd, self.pidfd)
        try:
            cpu_s = vitals.cpu_s(self.process.pid)
        except OSError:
            return  # it has just ended, as the pidfd will tell
        policy.observed(self.life, self.words.beat_at(self.life.started_at), cpu_s, now, wants_cpu=wants_cpu)

    def tend(self, forgiven_at: float, now: float) -> bool:
        """Look after it: abort it if it hangs, kill it if that has not helped; whether it is to be started now."""
        if self.process is not None:
            self.observe(now)
        action, life = policy.decide(self.life, forgiven_at, now), self.life
        if action is Action.ABORT:
            life.aborted_at = now
            self.signal(signal.SIGABRT)
            silent_s, told = policy.silent_s(life, 0.0, now), event("process.hangs", name=self.name)
            log.error(
                "%s hangs: no turn for %.1f s, and %.2f s of CPU used since; aborting it",
                self.name, silent_s, life.spun_s, extra=told,
            )  # fmt: skip
        elif action is Action.KILL:
            self.signal(signal.SIGKILL)
        return action is Action.START

    def reap(self, now: float) -> None:
        """The pidfd is readable: wait, decide what state that makes. What was reaped already is left alone."""
        if self.process is None:
            return
        self.process.join()
        code = self.process.exitcode
        policy.exited(self.life, now)
        self.process = None
        self.publish(0)
        state = self.life.state.name.lower()
        fields = {"name": self.name, "exit_code": code, "state": state}
        filtered = code == -signal.SIGSYS
        told = event("process.filtered", **fields) if filtered else event("process.ended", **fields)
        log.warning("%s ended: %s; %s", self.name, _ending(code), state, extra=told)

    def forget(self) -> None:
        """Close the descriptors of a process that is gone."""
        fds, self.pidfd, self.state_fd = (self.pidfd, self.state_fd), -1, -1
        for fd in fds:
            if fd >= 0:
                os.close(fd)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this very process."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def replace(self, now: float) -> None:
        """Kill its process, if there is one, and let the next start at once."""
        policy.at_once(self.life, now)
        if self.process is not None:
            self.signal(signal.SIGKILL)

    def publish(self, pid: int) -> None:
        """Show the slot's state in the process table."""
        life = self.life
        started_ns = int(life.started_at * 1e9)
        self.words.put(life.state, pid, life.restarts, started_ns, life.incarnation)

    def close(self) -> None:
        """The slot is not needed any more."""
        self.log.close()


class _Fork(Popen):
    """multiprocessing's fork without its pipes, which it leaves open when the kernel refuses to fork.

    The pidfd tells of the child's end, PR_SET_PDEATHSIG of the parent's.
    """

    sentinel = -1

    def _launch(self, process_obj: ForkProcess) -> None:
        code = 1
        self.pid = os.fork()
        if self.pid == 0:
            try:
                code = process_obj._bootstrap()  # type: ignore[attr-defined]
            finally:
                os._exit(code)


class _Process(ForkProcess):
    def start(self) -> None:
        """Fork. multiprocessing's own asks the kernel first, for each child that there is, whether it has ended."""
        self._popen = self._Popen(self)

    @staticmethod
    def _Popen(process_obj: ForkProcess) -> _Fork:  # type: ignore[override]  # noqa: N802
        return _Fork(process_obj)


def try_users(users: Users) -> None:
    """Let one process of each kind give up what it must, and do no more. Raises UserError if it cannot."""
    parent = os.getpid()
    for kind, user in users.items():

        def give_up(kind: str = kind, user: tuple[int, int] = user) -> None:
            _give_up_rights(kind, user, parent)

        privileges.rehearse(*user, give_up)


def _child(child: Child, user: tuple[int, int], parent_pid: int) -> None:
    """The forked process, from its first instruction on."""
    code: int | None = 1
    logs.log_to(child.log.far)
    try:
        main = _give_up(child, user, parent_pid)
        code = main()
    except Exception:
        log.exception("%s failed", child.name, extra=event("process.failed", name=child.name))
    # Not sys.exit: finalizers of objects whose descriptors are closed must not run.
    os._exit(code or 0)


def _give_up(child: Child, user: tuple[int, int], parent_pid: int) -> Main:
    """Part with all that is the supervisor's, once the shared memory is mapped; returns what the process then does."""
    # Garbage of the supervisor's may have maps that are not inherited: to unmap them here would unmap others.
    gc.freeze()
    kept = partial(_kept, child)
    main = privileges.shed(child.name, kept, partial(child.prepare, child), child.log.stderr)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable(2)  # a number: of sys.stderr nobody knows where it writes
    _give_up_rights(child.kind, user, parent_pid, child.unread())
    return main


def _kept(child: Child) -> set[int]:
    return child.keep() | {child.log.far.fileno()}


def _give_up_rights(kind: str, user: tuple[int, int], parent_pid: int, unread: Collection[int] = ()) -> None:
    """Become `user`, with nothing left but what a process of `kind` needs. Raises OSError."""
    if kind in _HOT:
        # One that wakes up does not push another off its core: bursts grow under load, nothing waits when idle.
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    # keyd is given those of peerings that come later, of which the supervisor has as many.
    privileges.limit(_BYTES_MORE_MAX, None if kind == "keyd" else _DESCRIPTORS_MORE_MAX)
    privileges.drop(*user, parent_pid)
    sandbox.enter(kind, unread)


def _ending(code: int | None) -> str:
    """How a process ended; signals between SIGRTMIN and SIGRTMAX have no names."""
    if code is None or code >= 0:
        return "exit status unknown" if code is None else f"exit status {code}"
    if code == -signal.SIGSYS:
        return "killed by SIGSYS: its system call filter forbids what it tried"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"


def _again(life: Life) -> str:
    if not life.restarts:
        return ""
    gap_ms = (life.started_at - life.ended_at) * 1000
    return f", incarnation {life.incarnation}, {gap_ms:.1f} ms after the last"

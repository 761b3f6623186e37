"""The supervisor of a gateway: owns every descriptor, forks every process (tree.py), watches, respawns. No packet and
no key passes through it.

A turn of its loop: feed the log, reap, decide (policy.py), act, publish the live mask. Three small idempotent steps,
whatever woke it. SIGTERM and SIGINT stop cleanly, SIGHUP re-reads the configuration; a bad file changes nothing.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import selectors
import signal
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from fwd.datapath.board import Board
from fwd.model.config import Config
from fwd.model.reasons import Reason
from fwd.model.router import PROBE_KEY
from fwd.proto.errors import UserError
from fwd.proto.logged import event
from fwd.supervise import applying, host, logs, plan, policy
from fwd.supervise.admin import Admin, Visitor
from fwd.supervise.aside import Aside
from fwd.supervise.children import Child, try_users
from fwd.supervise.examine import examined, open_all_examined, open_examined
from fwd.supervise.following import behind, follow, late, summary_of
from fwd.supervise.guards import Guards
from fwd.supervise.link import controller_of
from fwd.supervise.notify import ServiceManager
from fwd.supervise.orders import Orders
from fwd.supervise.standing import RETRY_S, Standing
from fwd.supervise.telling import Teller, Tellers
from fwd.supervise.tree import Tree
from fwd.supervise.trial import Store
from fwd.supervise.troubles import Troubles, reason, report
from fwd.supervise.users import find_users

log = logging.getLogger(__name__)
GIVE_UP_S: Final = 10.0  # of turns that all fail as a whole


class Supervisor:
    """A gateway's process tree."""

    def __init__(
        self,
        config: Config,
        read: Callable[[], Config],
        save_keys: Path | None = None,
        path: Path = Path("fwd.toml"),
        amend: Callable[[Config], Config] = lambda config: config,
    ) -> None:
        self._read = read
        self._save_keys = save_keys

        # What this host lacks is said before anything is opened.
        self._users = find_users(config.gateway.user, joined=config.controller is not None)
        host.check(config, self._users)
        try_users(self._users)
        self._local = self._config = config  # what the file says; and with what the controller wants beside it

        # What is open outlives the processes; each of these watches a part of it.
        self._standing = Standing(
            config.gateway, partial(open_examined, user=self._users["keyd"]), self._users["agent"], path,
            partial(open_all_examined, user=self._users["keyd"]),
            config.controller.directory / PROBE_KEY if config.controller is not None else None,
        )  # fmt: skip
        self._selector = selectors.DefaultSelector()
        self._logs = logs.Inbox()
        self._selector.register(self._logs, selectors.EVENT_READ, self._logs)
        self._selector.register(self._standing.kernel.fd, selectors.EVENT_READ, self._standing.kernel)
        self._standing.kernel.tell = self._tell_troubles
        self._tellers = Tellers(self._standing, self._selector)
        memory, users = self._standing.memory, self._users
        self._controller = controller_of(config, lambda: self._local, self._follow_controller, memory, users)
        joined = self._controller.directory
        self._aside = Aside(self._standing)
        self._tree = Tree(self._standing, self._tellers, self._selector, self._logs, users, joined)
        self._wait_s = policy.TICK_S
        self._whole_at = 0.0  # when all is looked at, though nothing stirs

        # What has been told, and what is under way of a change.
        self._troubles = Troubles(self._standing.shared.beat)
        self._told_troubles: tuple[dict[str, Any], list[Reason]] = {}, []
        self._waiting: dict[str, str] = {}  # as the agent is told
        self._has_begun = self._stopping = self._reload = False
        self._reload_at = self._forgiven_at = 0.0  # after an attempt that went wrong
        self._unsettled = False  # what is open may not be what the configuration wants
        self._is_read = False  # it is another, and not everybody has been told
        self._changed = 0  # peerings closed for it so far
        self._secrets_due = False
        self._manager = ServiceManager()
        self._applying = self._applier(path, amend)
        self._admin: Admin | None = None

    def _applier(self, path: Path, amend: Callable[[Config], Config]) -> applying.Applying:
        gateway = applying.Gateway(
            lambda: self._local, self._steps_to, self._want, self._is_settled, partial(late, self._standing), amend,
            partial(examined, user=self._users["keyd"]),
        )  # fmt: skip
        return applying.Applying(gateway, Store(path), self._users["keyd"])

    def run(self) -> int:
        """Set up, loop, undo. The leak guards go if SIGTERM or SIGINT was taken, and in no other case."""
        try:
            self._install_signals()
            self._standing.open_front(self._save_keys)
            self._serve_admin()
            self._controller.begin()
            self._config = self._controller.beside(self._local)
            later, closed = self._config.peering[len(self._local.peering) :], self._controller.closed
            self._standing.start(self._local.peering, later, closed, tidies=self._controller.has_begun)
            self._tree.grow()
            self._troubles.apart("admin", self._applying.resume)
            host.tell_rights(self._users)
            gc.freeze()  # what the children inherit stays shared: the collector writes no headers
            self._has_begun = True
            self._loop()
        finally:
            self._manager.stopping()
            self._stop_all()
            self._manager.close()
        return 0

    def _serve_admin(self) -> None:
        assert self._standing.admin is not None
        self._orders = Orders(self._standing, self._tellers, self._applying, self._controller)
        self._admin = Admin(self._standing.admin, self._selector, self._orders.obey)

    def _install_signals(self) -> None:
        """A signal makes the loop turn; what it means is decided there."""
        near, far = socket.socketpair()
        for sock in (near, far):
            sock.setblocking(False)
        self._wake = (near, far)
        signal.set_wakeup_fd(far.fileno(), warn_on_full_buffer=False)
        self._selector.register(near, selectors.EVENT_READ, None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_reload)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})

    def _on_stop(self, *_: object) -> None:
        self._stopping = True

    def _on_reload(self, *_: object) -> None:
        self._reload = True

    # -- the loop ---------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        """Turn until told to stop. A turn that fails as a whole is tried again; when all do for GIVE_UP_S, it ends."""
        well_at = self._turned_at = time.monotonic()
        while not self._stopping or self._aside.waits(dict.fromkeys(self._standing.peerings), time.monotonic()):
            try:
                self._turn()
                well_at = self._turned_at
            except Exception as error:
                if time.monotonic() - well_at > GIVE_UP_S:
                    raise
                self._troubles.note("supervisor", error)

    def _turn(self) -> None:
        if self._troubles.fresh:
            self._troubles.fresh, self._whole_at = False, 0.0
            time.sleep(policy.TICK_S)  # what is ready and cannot be dealt with must not spin
        now = time.monotonic()
        if now - self._turned_at > policy.OVERSLEPT_S:
            self._forgiven_at = now
        self._turned_at = now

        # Each child and each peering for itself: trouble stays with it.
        stirred = self._look(now)
        is_whole = self._wait_s < policy.LOOK_S or now >= min(self._whole_at, self._standing.kernel.look_at)
        if is_whole:
            self._whole_at = now + policy.WHOLE_S
        self._follow_peerings(stirred, now, is_whole=is_whole)
        if is_whole:
            self._troubles.apart("kernel", self._keep_kernel, now)
            self._troubles.apart("agent", self._tell_troubles)
        self._troubles.apart("supervisor", self._manager.turn, now, partial(summary_of, self._standing))
        for key, _ in self._selector.select(min(self._wait_s, max(0.0, self._standing.kernel.look_at - now))):
            self._whole_at = 0.0  # it may concern any of them
            if key.data not in (self._logs, self._standing.kernel):
                self._troubles.apart(key.data.name if key.data else "supervisor", self._wakened, key)
        self._troubles.apart("log", self._logs.read, now)
        if self._admin is not None:
            self._troubles.apart("admin", self._admin.turn, now)
            self._troubles.apart("admin", self._applying.turn)
            self._troubles.apart("controller", self._orders.turn, now)

        self._troubles.apart("controller", self._controller.turn, now)
        self._unsettled |= self._standing.look_up_names(self._config.peering, now)
        if self._reload and now >= self._reload_at:
            self._manager.reloading()
            self._re_read()
        # A change that fails is no turn that fails: it may do so again and again, and the peerings go on.
        told = self._tell_others()
        if (
            told
            and not self._stopping
            and (self._unsettled or self._standing.waiting)
            and now >= self._standing.retry_at
        ):
            self._troubles.apart("configuration", self._settle)
            self._tree.work.changed()
            self._whole_at = 0.0
            told = self._tell_others()
        if told:
            self._note_read()

    def _tell_others(self) -> bool:
        return self._troubles.apart("supervisor", self._tellers.tell, self._tree.children) and self._tellers.done

    def _follow_peerings(self, stirred: set[str], now: float, *, is_whole: bool) -> None:
        """Do what follows from what members say, in those peerings that have stirred, or in all; of one that rests
        nothing is new. While something is under way, all are looked at.
        """
        peerings = self._standing.peerings
        for name in list(peerings) if is_whole else stirred & peerings.keys():
            parts = peerings[name]
            if name not in stirred and not parts.mtu_waits and self._tree.members.is_settled(parts):
                continue
            turn = partial(self._tree.members.turn, stirred=name in stirred)
            self._troubles.apart(name, turn, parts, self._forgiven_at, now)
            if name in stirred or parts.mtu_waits:
                self._troubles.apart(name, parts.follow_path_mtu, now)
            if name in stirred:
                self._troubles.apart(name, parts.follow_far_offloads)
            if parts.mtu_waits or not self._tree.members.is_settled(parts):
                self._whole_at = 0.0

    def _look(self, now: float) -> set[str]:
        """Manage every child that does not rest; returns the peerings of which something may be new."""
        work = self._tree.work
        self._troubles.apart("supervisor", work.look, self._tree.children)
        stirred, all_rest = set[str](), True
        for child in work.astir(self._tree.children, now):
            # One that rests is watched from now on, and left alone if it has not turned since it was looked at last.
            before, beat_ns = child.life.beat_at, child.words.heartbeat[0]
            if not (child.name in work.waits and child.can_work()) and child.rests(now):
                is_well = self._troubles.apart(child.name, work.watch if child.can_work() else work.unwatch, child)
                if is_well and child.life.beat_at == beat_ns / 1e9 and now - child.life.ended_at > 2 * policy.ABSENT_S:
                    work.rests(child, beat_ns)
                    if child.life.beat_at == before:
                        continue
            else:
                all_rest = False
                self._troubles.apart(child.name, work.stirs, child, child.says_it_rests(now))
                self._troubles.apart(child.name, self._manage, child, now)
            stirred.add(child.peering)
        is_busy = self._admin is not None and self._admin.is_busy
        self._wait_s = policy.LOOK_S if all_rest and not is_busy else policy.TICK_S
        return stirred

    def _wakened(self, key: selectors.SelectorKey) -> None:
        child = key.data
        if child is None:
            with contextlib.suppress(BlockingIOError):
                self._wake[0].recv(4096)
        elif isinstance(child, Admin | Visitor | Teller):
            child.wake()
        elif key.fd == child.pidfd:
            self._reap(child)
        else:  # a predecessor's that could not be unregistered
            self._selector.unregister(key.fd)

    def _reap(self, child: Child) -> None:
        """The pidfd stays registered until all is done: what goes wrong is begun again at the next turn."""
        now = time.monotonic()
        child.log.finish(now)
        child.reap(now)
        self._tree.unwatch(child)

    def _manage(self, child: Child, now: float) -> None:
        if child.tend(self._forgiven_at, now):
            self._tree.start(child, now)

    def _keep_kernel(self, now: float) -> None:
        """Restore what others took; processes whose TUN device is another now are replaced."""
        for name in self._standing.kernel.turn(now):
            self._tree.work.changed()
            for child in self._tree.of(name):
                child.replace(now)

    def _tell_troubles(self) -> None:
        """For the agent's status. What was waiting still does until the agent has been told that it is set up."""
        now = time.monotonic()
        self._waiting = {**({} if self._tellers.done else self._waiting), **self._standing.waiting}
        news = {
            "waiting": self._waiting,
            "troubles": self._troubles.current(now),
            "behind": behind(self._standing),
            "concern": self._standing.awake.concern,
            "tuns": dict(self._standing.kernel.seen),
            "trial_until": self._applying.trial_until,
            "controller": self._controller.told,
        }
        reasons = [*self._standing.drained(), *self._controller.reasons(), *self._standing.kernel.reasons()]
        if (news, reasons) != self._told_troubles:
            self._standing.shared.troubles.put(report(news, reasons, Board.SIZE))
            self._told_troubles = news, reasons

    # -- the end, and changes ---------------------------------------------------------------------------------

    def _stop_all(self) -> None:
        """The beacon first, so that routers look elsewhere; keyd, since what it talks to is closed with the peerings.

        The agent answers until the end.
        """
        apart = self._troubles.apart
        for first in ("beacon", "link", "keyd"):
            apart(first, self._tree.end, [self._tree.children[n] for n in (first,) if n in self._tree.children])
        for name in self._standing.peerings:
            apart(name, self._tree.end_peering, name)
        apart("agent", self._tree.end, list(self._tree.children.values()))
        guards = Guards.REMOVED if self._stopping else Guards.STAND if self._has_begun else Guards.AS_BEFORE
        self._standing.close_all(self._troubles, guards)
        if self._admin is not None:
            self._admin.close()
        apart("controller", self._controller.close)
        self._tellers.close()
        self._tree.members.close()
        self._tree.work.close()

    def _re_read(self) -> None:
        """SIGHUP: a file that cannot be used changes nothing, and where nothing has changed nothing happens.

        What is no fault of the file's, such as a want of descriptors, is for another attempt.
        """
        self._reload, self._reload_at = False, 0.0
        try:
            config = self._read()
            self._steps_to(config)
            self._applying.give_way()
            self._want(config)
        except UserError as error:
            told = event("config.refused")
            log.error("configuration not re-read, the running one stays in force: %s", reason(error), extra=told)
        except Exception as error:  # noqa: BLE001
            self._troubles.note("configuration", error)
            self._reload, self._reload_at = True, time.monotonic() + RETRY_S

    def _steps_to(self, config: Config) -> list[plan.Step]:
        """Return what is to be done for a configuration. Raises UserError if fwd must be restarted, or if what is new
        in it is for another host: what is in force would have to go for what can never be.
        """
        before = {one.name: one.remote_ts for one in self._local.peering}
        new = [one for one in config.peering if before.get(one.name) != one.remote_ts]
        for name, why in self._standing.kernel.misplaced(new).items():
            raise UserError(f"peering {name}: {why}")
        config = self._controller.beside(config)
        return plan.plan(self._standing.in_force(config.peering), self._standing.names.resolved(config))

    def _follow_controller(self, certified: bool) -> None:
        """Have what the controller wants in force; `certified`: link has another certificate."""
        self._want(self._local)
        if certified:
            self._tree.renew_link(time.monotonic())

    def _want(self, config: Config) -> None:
        """Have another configuration in force, as soon as may be."""
        if config != self._local:
            self._controller.look_again()
        self._local, self._config = config, self._controller.beside(config)
        self._standing.look_up_again(self._config.peering)
        self._unsettled = self._secrets_due = True
        self._standing.retry_at = 0.0

    def _is_settled(self) -> bool:
        """Whether what is wanted is in force, but for what waits, and everybody knows."""
        return not self._unsettled and not self._is_read and self._tellers.done

    def _settle(self) -> None:
        """Bring what is open to what the configuration wants.

        New guards stand before anything goes, and old ones go when all that is wanted is guarded. Every step can be
        taken again: an exception leaves the rest to the next attempt.
        """
        standing, wanted = self._standing, self._standing.names.resolved(self._config)
        standing.retry_at = time.monotonic() + RETRY_S
        self._unsettled = True
        if self._secrets_due:
            standing.renew_lab_secrets(wanted.peering)
            self._is_read = True
        steps = plan.plan(standing.in_force(wanted.peering), wanted)
        gone = [step.name for step in steps if isinstance(step, plan.Close)]
        fewer = {step.name: step.leaving for step in steps if isinstance(step, plan.Spread) and step.leaving}
        if self._aside.waits({**fewer, **dict.fromkeys(gone)}, time.monotonic()):
            standing.retry_at = 0.0
            return
        standing.want([step.peering for step in steps if isinstance(step, plan.Open)], gone)
        failed = self._follow(steps)
        self._secrets_due = bool(failed)
        self._tell_troubles()

        # keyd and the agent let go of what is to be closed, its ports above all, before that is done: at a later turn.
        if not self._tellers.tell(self._tree.children):
            standing.retry_at = 0.0
            return
        coming = standing.guard([step.peering for step in steps if isinstance(step, plan.Open)])
        standing.closed.keep(self._controller.closed)
        for name in gone:
            self._tree.end_peering(name)
            self._tree.members.forget(name)
            standing.close(name)
            self._changed += 1
        standing.drop_unused(gone)

        for peering in coming:
            standing.open(peering)
        self._tree.grow()
        if not failed and self._controller.has_begun:  # else guards of before may be needed still
            standing.tidy(wanted.peering)
        self._unsettled = bool(failed)

    def _follow(self, steps: Sequence[plan.Step]) -> set[str]:
        """Carry out what ends no process of a peering; returns the peerings for which something went wrong."""
        served_at, probed_at = self._standing.metrics, self._standing.beacon
        for step in steps:
            if isinstance(step, plan.Grow | plan.Spread):  # what is on its way out makes room for what comes
                parts = self._standing.peerings[step.name]
                self._troubles.apart(step.name, self._tree.members.close_retired, parts)
        followed, failed = follow(self._standing, steps, self._troubles, secrets_due=self._secrets_due)
        self._tree.grow()
        self._changed += len(followed - {plan.GATEWAY} - set(self._standing.leaving))
        self._tree.follow_front(served_at, probed_at, time.monotonic())
        return failed

    def _note_read(self) -> None:
        """Log that the configuration has been re-read, once everybody has been told."""
        if self._is_read and not self._unsettled:
            changed, in_force, self._is_read, self._changed = self._changed, len(self._standing.peerings), False, 0
            told = event("config.read", changed=changed, in_force=in_force)
            log.info("configuration re-read: %d changed, %d in force", changed, in_force, extra=told)

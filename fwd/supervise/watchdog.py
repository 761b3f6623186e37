"""The supervisor of a gateway: owns every descriptor, forks every process, watches, respawns. No packet and no key
passes through it.

A turn of its loop: feed the log, reap, decide (policy.py), act, publish the live mask. Three small idempotent steps,
whatever woke it. SIGTERM and SIGINT stop cleanly, SIGHUP re-reads the configuration; a bad file changes nothing.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import logging
import multiprocessing
import os
import selectors
import signal
import socket
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from fwd.agent import service as agent
from fwd.agent.view import GatewayView, PeeringView
from fwd.config import Config, LabKeys, Peering, load, with_members, without_offload
from fwd.datapath import member, udp
from fwd.datapath.demux import Demux
from fwd.datapath.shared import GatewayShared, LinkWord, ProcessState
from fwd.keyd import secrets
from fwd.keyd import service as keyd
from fwd.proto.errors import UserError
from fwd.proto.logged import event
from fwd.supervise import logs, network, policy, privileges
from fwd.supervise.children import Child
from fwd.supervise.loglines import Form
from fwd.supervise.notify import ServiceManager, summary
from fwd.supervise.peering import KeyMaterial, PeeringParts, close_material
from fwd.supervise.policy import Action

log = logging.getLogger(__name__)
_STOP_WAIT_S = 2.0


def run(
    config_path: Path,
    members: int | None = None,
    no_offload: bool = False,
    save_keys: Path | None = None,
    log_format: Form = "text",
) -> int:
    """`fwd demux`: run a gateway until it is told to stop; returns the exit status. Raises UserError."""

    def read() -> Config:
        config = load(config_path)
        if members is not None:
            config = with_members(config, members)
        return without_offload(config) if no_offload else config

    config = read()
    if os.geteuid() != 0:
        raise UserError("fwd demux needs root: it opens TUN devices, sets routes and nftables rules")
    multiprocessing.set_start_method("fork", force=True)
    privileges.set_title("supervisor")
    multiprocessing.current_process().name = "supervisor"  # in the log
    faulthandler.enable()
    logs.set_up(config.gateway.log_level, log_format)
    try:
        return Supervisor(config, read, save_keys).run()
    finally:
        logs.tear_down()


class Supervisor:
    """A gateway's process tree."""

    def __init__(self, config: Config, read: Callable[[], Config], save_keys: Path | None = None) -> None:
        self._read = read
        self._save_keys = save_keys
        self._key_log: int | None = None
        self._user = privileges.find_user(config.gateway.user)
        self._selector = selectors.DefaultSelector()
        self._shared = GatewayShared()
        self._materials: dict[Path | str, KeyMaterial] = {}
        self._ike_sockets: dict[tuple[str, int], socket.socket] = {}
        self._commands = _pair()  # from the agent to keyd
        self._peerings: dict[str, PeeringParts] = {}
        self._guarded: dict[str, Peering] = {}  # closed, to be set up anew: their guards stand
        self._children: dict[str, Child] = {}
        self._config = config
        self._started_ns = time.monotonic_ns()
        self._stopping = False
        self._reload = False
        self._forgiven_at = 0.0
        self._control: socket.socket | None = None
        self._metrics: socket.socket | None = None
        self._manager = ServiceManager()

    def run(self) -> int:
        """Set up, loop, undo."""
        try:
            self._open_front()
            for peering in self._config.peering:
                self._open_peering(peering)
            self._install_signals()
            self._add_shared_children()
            gc.freeze()  # what the children inherit stays shared: the collector writes no headers
            self._loop()
        finally:
            self._manager.stopping()
            self._stop_all()
            self._manager.close()
        return 0

    # -- set-up -----------------------------------------------------------------------------------------------

    def _open_front(self) -> None:
        """The agent's sockets, its way to keyd, and the file for keys if the user wants one."""
        gateway = self._config.gateway
        if self._save_keys is not None:
            self._key_log = _open_key_log(self._save_keys)
        self._control = _listen_unix(gateway.control)
        if gateway.metrics:
            self._metrics = _listen_tcp(gateway.metrics)

    def _open_peering(self, peering: Peering) -> None:
        self._open_ike_socket(peering)
        parts = PeeringParts(peering, self._material(peering))
        try:
            parts.connect()
        except UserError:
            parts.close(guards_stay=peering.name in self._guarded)
            raise
        self._peerings[peering.name] = parts
        for warning in parts.warnings:
            log.warning("%s", warning, extra=event("peering.warning", peering=peering.name))
        shared = parts.shared
        self._add(
            Child(
                f"{peering.name}/demux",
                shared.demux,
                lambda: {parts.tun.fd, *(r.bell for r in parts.rings)},
                lambda child: Demux(peering, parts.tun.fd, parts.rings, shared, parts.scores).run(),
                _pair(),
            )
        )
        for i in range(peering.members):
            self._add(self._member(parts, i))

    def _open_ike_socket(self, peering: Peering) -> None:
        """Peerings with one outer address share it."""
        for address, port in _ike_endpoints(peering):
            shared = port == peering.port
            if (address, port) not in self._ike_sockets:
                self._ike_sockets[address, port] = _bind_udp(address, port, shared=shared)
            if shared:
                udp.split(self._ike_sockets[address, port], peering.members)

    def _close_ike_sockets(self) -> None:
        """Those that no peering in force has: what is set up anew may want their ports, or bind them in another way."""
        wanted = {one for parts in self._peerings.values() for one in _ike_endpoints(parts.peering)}
        for unused in self._ike_sockets.keys() - wanted:
            self._ike_sockets.pop(unused).close()

    def _material(self, peering: Peering) -> KeyMaterial:
        """A peering's secrets. The lab's may be shared by peerings, and can be opened once only."""
        name: Path | str = peering.keys.secret if isinstance(peering.keys, LabKeys) else peering.name
        if name not in self._materials:
            self._materials[name] = KeyMaterial(secrets.open_all(peering.keys))
        return self._materials[name]

    def _drop_material(self, name: str) -> None:
        """An IKE peering's own; the lab's must outlive it."""
        if name in self._materials:
            close_material(self._materials.pop(name))

    def _member(self, parts: PeeringParts, index: int) -> Child:
        own = parts.member(index)

        def keep() -> set[int]:
            return {own.tun_fd, own.sock.fileno(), own.boot.fileno(), own.control.fileno(), own.ring.bell}

        def main(child: Child) -> int:
            return member.run(own, skip=child.life.failed)

        return Child(f"{parts.peering.name}/member-{index}", own.shared.process, keep, main, _pair())

    def _add_shared_children(self) -> None:
        self._add(Child("keyd", self._shared.keyd, self._keyd_fds, self._keyd_main))
        self._add(Child("agent", self._shared.agent, self._agent_fds, self._agent_main))

    def _keyd_fds(self) -> set[int]:
        fds = set()
        for parts in self._peerings.values():
            fds |= set(parts.material.fds.values())
            for pair in parts.pairs:
                fds |= pair.keyd_fds()
        fds |= {self._key_log} if self._key_log is not None else set()
        return fds | {self._commands[1].fileno(), *(sock.fileno() for sock in self._ike_sockets.values())}

    def _keyd_main(self, child: Child) -> None:
        peerings = [parts.keyd() for parts in self._peerings.values()]
        sockets = list(self._ike_sockets.values())
        keyd.run(keyd.KeydParts(self._shared, peerings, sockets, self._commands[1], self._key_log))

    def _agent_fds(self) -> set[int]:
        return {s.fileno() for s in (self._control, self._metrics, self._commands[0]) if s}

    def _agent_main(self, child: Child) -> None:
        assert self._control is not None
        peerings = [PeeringView(p.peering, p.shared, p.rings, p.offloads, p.inner_mtu) for p in self._peerings.values()]
        warnings = [w for p in self._peerings.values() for w in p.warnings]
        view = GatewayView(self._config.gateway, self._shared, peerings, os.getppid(), self._started_ns, warnings)
        agent.run(view, self._control, self._metrics, self._commands[0])

    def _add(self, child: Child) -> None:
        self._children[child.name] = child
        child.life.state = ProcessState.BACKOFF
        if child.log_pair:
            child.log_pair[0].setblocking(False)
            self._selector.register(child.log_pair[0], selectors.EVENT_READ, child)

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

    def _on_stop(self, *_: object) -> None:
        self._stopping = True

    def _on_reload(self, *_: object) -> None:
        self._reload = True

    # -- the loop ---------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        turned_at = time.monotonic()
        while not self._stopping:
            now = time.monotonic()
            if now - turned_at > policy.OVERSLEPT_S:
                self._forgiven_at = now
            turned_at = now
            self._manage(now)
            self._publish_live(now)
            self._manager.turn(now, self._told)
            for key, _ in self._selector.select(policy.TICK_S):
                self._wakened(key)
            if self._reload:
                self._reload = False
                self._manager.reloading()
                self._re_read()

    def _told(self) -> str:
        return summary({name: parts.shared for name, parts in self._peerings.items()})

    def _wakened(self, key: selectors.SelectorKey) -> None:
        child = key.data
        if child is None:
            with contextlib.suppress(BlockingIOError):
                self._wake[0].recv(4096)
        elif key.fd == child.pidfd:
            self._reap(child)
        else:
            logs.feed(child.log_pair[0])

    def _reap(self, child: Child) -> None:
        self._selector.unregister(child.pidfd)
        if child.log_pair:
            logs.feed(child.log_pair[0])
        child.reap(time.monotonic())

    def _manage(self, now: float) -> None:
        for child in list(self._children.values()):
            heartbeat_at = child.words.heartbeat[0] / 1e9
            action = policy.decide(child.life, heartbeat_at, self._forgiven_at, now)
            if action is Action.START:
                child.start(self._user, now)
                self._selector.register(child.pidfd, selectors.EVENT_READ, child)
            elif action is Action.ABORT:
                told = event("process.hangs", name=child.name)
                log.error("%s hangs: no heartbeat for %.1f s; aborting it", child.name, now - heartbeat_at, extra=told)
                child.life.aborted_at = now
                child.signal(signal.SIGABRT)
            elif action is Action.KILL:
                child.signal(signal.SIGKILL)

    def _publish_live(self, now: float) -> None:
        for name, parts in self._peerings.items():
            lives = [self._children[f"{name}/member-{i}"].life for i in range(parts.peering.members)]
            down = [bool(m.link[LinkWord.PATH_DOWN]) for m in parts.shared.members]
            mask = policy.live_mask(lives, down, now)
            if mask != parts.shared.live[0]:
                parts.shared.live[0] = mask
                alive = [i for i in range(len(lives)) if mask >> i & 1]
                told = event("peering.members", peering=name, members=alive)
                log.info("peering %s: buckets are shared by members %s", name, alive or "none", extra=told)
            parts.follow_path_mtu()
            parts.follow_far_offloads()

    # -- the end, and changes ---------------------------------------------------------------------------------

    def _end(self, children: list[Child], number: signal.Signals = signal.SIGTERM) -> None:
        """SIGTERM, wait, SIGKILL, reap; their slots go."""
        running = [c for c in children if c.process is not None]
        for child in running:
            child.signal(number)
        deadline = time.monotonic() + _STOP_WAIT_S
        for child in running:
            assert child.process is not None
            child.process.join(max(0.0, deadline - time.monotonic()))
            if child.process.is_alive():
                child.signal(signal.SIGKILL)
                child.process.join()
            self._selector.unregister(child.pidfd)
            os.close(child.pidfd)
            child.process.close()
            child.process = None
        for child in children:
            if child.log_pair:
                logs.feed(child.log_pair[0])
                self._selector.unregister(child.log_pair[0])
            child.close()
            del self._children[child.name]

    def _close_peering(self, name: str, *, guards_stay: bool = False) -> None:
        self._end([c for c in self._children.values() if c.name.startswith(name + "/")])
        parts = self._peerings.pop(name)
        parts.close(guards_stay=guards_stay)
        if guards_stay:
            self._guarded[name] = parts.peering
        log.info("peering %s is down", name, extra=event("peering.down", peering=name))

    def _stop_all(self) -> None:
        """keyd first, since what it talks to is closed with the peerings; the agent answers until the end."""
        self._end([self._children[n] for n in ("keyd",) if n in self._children])
        for name in list(self._peerings):
            self._close_peering(name)
        for peering in self._guarded.values():
            network.remove_guards(peering)
        self._end(list(self._children.values()))
        for material in self._materials.values():
            close_material(material)
        for sock in (*self._ike_sockets.values(), *self._commands):
            sock.close()
        if self._key_log is not None:
            os.close(self._key_log)
        if self._control is not None:
            self._control.close()
            self._config.gateway.control.unlink(missing_ok=True)
        if self._metrics is not None:
            self._metrics.close()

    def _re_read(self) -> None:
        """SIGHUP: peerings that changed are set up anew; of the others keyd has the secrets that are there now."""
        try:
            config = self._read()
            if config.gateway != self._config.gateway:
                raise UserError("[gateway] cannot change while running; restart fwd")
        except UserError as error:
            told = event("config.refused")
            log.error("configuration not re-read, the running one stays in force: %s", error, extra=told)
            return
        wanted = {p.name: p for p in config.peering}
        changed = [n for n, parts in self._peerings.items() if wanted.get(n) != parts.peering]
        # Not SIGTERM: keyd would tell its peers that all is over.
        self._end([self._children[n] for n in ("keyd", "agent") if n in self._children], signal.SIGKILL)
        for name in changed:
            self._close_peering(name, guards_stay=name in wanted)
            self._drop_material(name)
        self._close_ike_sockets()
        for parts in self._peerings.values():
            _reopen(parts)
        for name, peering in wanted.items():
            if name not in self._peerings:
                try:
                    self._open_peering(peering)
                except UserError as error:
                    log.error("peering %s is not set up: %s", name, error, extra=event("peering.refused", peering=name))
                    self._drop_material(name)
        self._remove_old_guards(wanted)
        self._config = config
        self._add_shared_children()
        told = event("config.read", changed=len(changed), in_force=len(self._peerings))
        log.info("configuration re-read: %d changed, %d in force", len(changed), len(self._peerings), extra=told)

    def _remove_old_guards(self, wanted: Mapping[str, Peering]) -> None:
        """What stood while peerings were set up anew, and was not replaced by new guards of theirs or of others."""
        guarded = {subnet for parts in self._peerings.values() for subnet in parts.peering.remote_ts}
        for name, old in list(self._guarded.items()):
            unused = [subnet for subnet in old.remote_ts if subnet not in guarded]
            if name not in wanted:
                network.remove_guards(old.model_copy(update={"remote_ts": unused}))
            elif name in self._peerings:
                network.remove_guard_routes(unused)
            else:  # it could not be set up
                continue
            del self._guarded[name]


def _reopen(parts: PeeringParts) -> None:
    """An IKE peering's secret files, which may be others by now; if they are not good, those of before stay."""
    peering, material = parts.peering, parts.material
    if peering.ike is None:
        return
    try:
        fds = secrets.open_all(peering.keys)
    except UserError as error:
        told = event("peering.secrets_refused", peering=peering.name)
        log.error("peering %s keeps the secrets of before: %s", peering.name, error, extra=told)
        return
    close_material(material)
    material.fds = fds


def _ike_endpoints(peering: Peering) -> list[tuple[str, int]]:
    """Addresses and ports at which a peering's IKE listens."""
    ports = [peering.ike.ike_port, *([peering.port] if peering.shared_port else [])] if peering.ike else []
    return [(str(peering.local_addrs), port) for port in ports]


def _open_key_log(path: Path) -> int:
    """Raises UserError. What is there already is added to, if nobody else can read it."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UserError(f"{path}: file for keys (--save-keys): {error.strerror}") from None
    about = os.fstat(fd)
    if about.st_mode & 0o077 or not stat.S_ISREG(about.st_mode):
        os.close(fd)
        raise UserError(f"{path}: file for keys (--save-keys): others could read it: chmod 600 it, or name another")
    log.warning("ALL KEYS ARE WRITTEN TO %s: who reads it can read the traffic. For debugging only", path)
    return fd


def _pair() -> tuple[socket.socket, socket.socket]:
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for sock in pair:
        sock.setblocking(False)
    return pair


def _listen_unix(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
                if other.connect_ex(str(path)) == 0:
                    raise UserError(f"{path}: another fwd answers there; stop it, or choose another gateway.control")
            path.unlink()
        sock.bind(str(path))
        path.chmod(0o660)
    except OSError as error:
        sock.close()
        raise UserError(f"{path}: control socket (gateway.control): {error.strerror}") from None
    sock.listen(32)
    sock.setblocking(False)
    return sock


def _bind_udp(address: str, port: int, *, shared: bool) -> socket.socket:
    """A socket for IKE; `shared`: members will be bound to the same port, and have its ESP."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((address, port))
    except OSError as error:
        sock.close()
        raise UserError(f"UDP {address} port {port} (IKE): {error.strerror}; is another IKE daemon running?") from None
    sock.setblocking(False)
    return sock


def _listen_tcp(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host.strip("[]"), int(port)))
    except (OSError, OverflowError) as error:
        sock.close()
        raise UserError(f"gateway.metrics {address}: {getattr(error, 'strerror', None) or error}") from None
    sock.listen(32)
    sock.setblocking(False)
    return sock

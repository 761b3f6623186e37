"""What a gateway has open that outlives every process: its peerings, guards, sockets and secrets.

The supervisor's children inherit it. A peering that cannot be set up takes no other down: it waits, guarded, and is
tried again. At the start what cannot work is refused instead (UserError), and the guards are left as they were.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from fwd.datapath.memory import Memory
from fwd.datapath.shared import GatewayShared
from fwd.files import stamp_of
from fwd.keyd import secrets
from fwd.model.config import Peering, admin_path
from fwd.model.gateway import Gateway
from fwd.model.keys import Keys, LabKeys, StartAction, with_proof_of
from fwd.model.reasons import Code, Reason
from fwd.proto.errors import UserError
from fwd.proto.logged import event
from fwd.supervise import beacon, network, plan, sockets, spreading
from fwd.supervise.awake import Awake
from fwd.supervise.closed import Closed
from fwd.supervise.guards import Guards
from fwd.supervise.hindrances import NamelessError, NotYetError, is_final
from fwd.supervise.keeper import Keeper
from fwd.supervise.material import KeyMaterial, close_material
from fwd.supervise.names import Names
from fwd.supervise.netlink import Kernel
from fwd.supervise.owner import Owner
from fwd.supervise.peering import PeeringParts
from fwd.supervise.plan import Follow, InForce
from fwd.supervise.troubles import Troubles, reason
from fwd.supervise.users import User

log = logging.getLogger(__name__)
RETRY_S: Final = 3.0  # between two attempts to set up what could not be


class Standing:
    """Opens, guards and closes. Nothing here forks, but what opens secrets (examine.py) and `names` may."""

    def __init__(
        self,
        gateway: Gateway,
        open_secrets: Callable[[Keys], dict[str, int]] = secrets.open_all,
        looks_up: User | None = None,
        file: Path | None = None,
        open_all_secrets: Callable[[Sequence[Keys]], Sequence[dict[str, int]]] = lambda each: (),
        given_key: Path | None = None,
    ) -> None:
        self.memory = Memory(GatewayShared.SIZES)
        self.shared = GatewayShared(self.memory.map("supervisor"))
        self.peerings: dict[str, PeeringParts] = {}
        self.waiting: dict[str, str] = {}  # peering → why it is not set up
        self.leaving: list[str] = []  # open, and about to be closed
        self.unfollowed: dict[str, str] = {}  # peering → what of the configuration is not in force yet, and why
        self.kept_secrets: dict[str, str] = {}  # peering → why those of before stay
        self.version = 0  # goes up whenever `served` may give something else
        self.retry_at = 0.0

        # What the gateway itself has open, beside its peerings.
        self.ike_sockets = sockets.IkeSockets()
        self.awake = Awake()
        self.control: socket.socket | None = None
        self.admin: socket.socket | None = None
        self.metrics: socket.socket | None = None
        self.beacon: beacon.Front | None = None
        self.key_log: int | None = None
        self.gateway = gateway  # as it is in force
        self._given_key = given_key  # a controller's probe key
        self._agents = looks_up or (os.getuid(), os.getgid())
        self.names = Names(self._agents)
        self._open_secrets, self._open_all_secrets = open_secrets, open_all_secrets
        self._materials: dict[Path | str, KeyMaterial] = {}
        self._start_actions: dict[str, StartAction] = {}  # that users want, and not the configuration
        self._asks = Kernel()
        standing = network.look(self._asks).tables.values()
        self._owner = Owner(gateway.control, [(one.owner, one.mark) for one in standing], file)
        self.kernel = Keeper(self._owner.number, self._owner.mark, self._asks)
        self.closed = Closed(self.kernel, self._owner)

    # -- the start --------------------------------------------------------------------------------------------

    def open_front(self, save_keys: Path | None) -> None:
        """Open the agent's sockets, the admin socket, and the file for keys if the user wants one. Raises UserError."""
        if save_keys is not None:
            self.key_log = sockets.open_key_log(save_keys)
        self.control = sockets.listen_unix(self.gateway.control)
        self.admin = sockets.listen_admin(admin_path(self.gateway.control))
        if self.gateway.metrics:
            self.metrics = sockets.listen_tcp(self.gateway.metrics)
        self.serve_beacon(self.gateway)
        self.awake.want(self.gateway.low_latency)

    def start(
        self, peerings: Sequence[Peering], later: Sequence[Peering] = (), closed: Sequence[Peering] = (), *,
        tidies: bool = True,
    ) -> None:  # fmt: skip
        """Set up what can be; a peering whose address is not there yet waits, unless all do. Raises UserError.

        `later`: those that wait in any case, guarded, so that nothing of theirs keeps the gateway from starting;
        `closed`: those that are guarded alone. `tidies`: whether all that is wanted is known.
        """
        with contextlib.ExitStack() as undo:
            # All is opened before any guard is touched.
            opened: dict[str, PeeringParts] = {}
            self._open_materials(peerings)
            for peering in peerings:
                try:
                    opened[peering.name] = self._prepare(peering)
                    undo.callback(opened[peering.name].close)
                except Exception as error:
                    alone = len(self.waiting) == len(peerings) - 1 and not isinstance(error, NamelessError)
                    if is_final(error) or alone:
                        raise
                    self.wait(peering.name, error)
                    self._drop_material(peering.name)  # it is opened again when its time comes

            with self._owner.alone():
                for name, why in self.kernel.refusals(peerings, self._owner.others()).items():
                    raise UserError(f"peering {name}: {why}")
                undo.callback(self.kernel.undo)
                self.kernel.set_all((peering, peering.name in self.waiting) for peering in peerings)
            self.kernel.connect(opened.values())
            self.waiting |= dict.fromkeys((one.name for one in later), "")
            self.guard(later)
            self.closed.keep(closed)
            if tidies:
                self.tidy([*peerings, *later])
            undo.pop_all()
        self.peerings = opened
        self.retry_at = 0.0 if later else time.monotonic() + RETRY_S
        for parts in opened.values():
            _warn(parts)

    # -- changes ----------------------------------------------------------------------------------------------

    def look_up_names(self, peerings: Sequence[Peering], now: float) -> bool:
        """Go on looking up far gateways' names; True: one has another address, which is a change like others."""
        changed = self.names.turn(peerings, lambda name: name in self.peerings and self.peerings[name].is_joined, now)
        if changed:
            self.retry_at = 0.0
        return changed

    def look_up_again(self, peerings: Sequence[Peering]) -> None:
        """Look up the names of a configuration that is new."""
        self.names.again(peerings, {name: parts.peering.addresses for name, parts in self.peerings.items()})

    def in_force(self, peerings: Iterable[Peering]) -> InForce:
        """What holds now; and of those that are wanted, whose secret files are others by now."""
        renewed = [one.name for one in peerings if one.name in self.peerings and self._is_renewed(one)]
        in_force = {n: parts.peering for n, parts in self.peerings.items()}
        key_renewed = self.beacon is not None and self.beacon.is_renewed
        key_renewed |= self.beacon is None and beacon.key_path(self.gateway, self._given_key) is not None
        idle = [name for name, parts in self.peerings.items() if not parts.is_joined]
        return InForce(self.gateway, in_force, frozenset(renewed), key_renewed, frozenset(idle))

    def want(self, coming: Iterable[Peering], gone: Iterable[str]) -> None:
        """Let those wait that are to be set up, and those leave that are to be closed."""
        self.leaving = list(gone)
        self.version += 1
        self.waiting = {one.name: self.waiting.get(one.name, "") for one in coming}

    def guard(self, absent: Sequence[Peering]) -> list[Peering]:
        """Set the guards of those that wait, before anything else of theirs; gives those that may be opened."""
        if not absent:
            return []
        with self._owner.alone():
            refused = self.kernel.refusals(absent, self._owner.others())
            for name, why in refused.items():
                self.wait(name, UserError(why))
            return [p for p in absent if p.name not in refused and self._attempt(self._close_guards, p)]

    def reguard(self, peering: Peering) -> None:
        """Set the guards of a peering that is open. Raises UserError."""
        peering = peering.paired_as(self.peerings[peering.name].peering)
        with self._owner.alone():
            for why in self.kernel.refusals([peering], self._owner.others()).values():
                raise UserError(f"peering {peering.name} keeps its subnets: {why}")
            self.kernel.set(peering, closed=False)

    def follow(self, step: Follow) -> None:
        """Let a peering that is open follow keys that are live."""
        parts = self.peerings[step.peering.name]
        # Secrets that were refused are not followed: those of before stay.
        wanted = step.peering.model_copy(update={"keys": parts.peering.keys}).paired_as(parts.peering)
        refused = set(plan.differing_keys(step.peering.keys, wanted.keys))
        keys = [key for key in step.keys if key not in refused]
        if {"local_ts", "remote_ts"} & set(keys):
            if not step.unroutes:
                self.kernel.set(wanted, closed=False)
            self.kernel.reroute(wanted, step.unroutes)
        parts.follow(wanted)
        self.version += 1
        if keys:
            told = event("peering.follows", peering=wanted.name, keys=keys)
            log.info("peering %s follows %s", wanted.name, ", ".join(keys), extra=told)

    def has_changed(self) -> None:
        """Have keyd and the agent told of what is open by now."""
        self.version += 1

    def resize(self, peering: Peering, *, spreads: bool) -> None:
        """Have members come and leave; `spreads`: far gateways, too."""
        parts = self.peerings[peering.name]
        try:
            if spreads:
                spreading.spread(parts, peering, self.ike_sockets)
                self.kernel.set(parts.peering, closed=False)
            else:
                spreading.resize(parts, peering.members, self.ike_sockets)
        finally:
            self.version += 1

    def begin_or_wait(self, name: str, start_action: StartAction) -> None:
        """Let keyd begin a peering's IKE, or leave that to the peer, whatever the configuration says."""
        self._start_actions[name] = self.peerings[name].start_action = start_action
        self.version += 1

    def drained(self) -> list[Reason]:
        """Return why the gateway is not ready, if a user wants it out of service."""
        return [Reason.of(Code.DRAINING)] if self.shared.drains[0] else []

    def log_from(self, level: str) -> None:
        """Let every process log from this level on."""
        logging.getLogger().setLevel(level.upper())
        self.shared.log_level[0] = logging.getLogger().level
        for parts in self.peerings.values():
            parts.tell()
        self.gateway = self.gateway.model_copy(update={"log_level": level})

    def keep_awake(self, wanted: bool) -> None:
        """Keep the host's CPUs out of deep sleep, or no more."""
        self.awake.want(wanted)
        self.gateway = self.gateway.model_copy(update={"low_latency": wanted})

    def serve_metrics(self, address: str | None) -> None:
        """Listen at another address. Raises UserError; then that of before is served."""
        listening = sockets.listen_tcp(address) if address else None
        if self.metrics is not None:
            self.metrics.close()
        self.metrics = listening
        self.gateway = self.gateway.model_copy(update={"metrics": address})

    def serve_beacon(self, wanted: Gateway) -> None:
        """Have routers' probes answered at another address, or with another key. Raises UserError."""
        self.beacon = beacon.renewed(self.beacon, wanted, self._agents, self._given_key)
        of_it = {"beacon": wanted.beacon, "probe_key": wanted.probe_key}
        self.gateway = self.gateway.model_copy(update=of_it)

    def open(self, peering: Peering) -> None:
        """Set up a peering while others run; if that fails it waits, and its guards are closed."""
        self._attempt(self._open, peering)

    def close(self, name: str) -> None:
        """Close a peering whose processes have ended; its guards stand."""
        self.kernel.release(name)
        self.peerings[name].close()
        del self.peerings[name]
        self.kept_secrets.pop(name, None)
        self.leaving = [other for other in self.leaving if other != name]
        self.version += 1
        log.info("peering %s is down", name, extra=event("peering.down", peering=name))

    def served(self) -> dict[str, PeeringParts]:
        """Return the peerings that keyd and the agent are to know: those that are open, and not about to be closed."""
        return {name: parts for name, parts in self.peerings.items() if name not in self.leaving}

    def ike_served(self) -> dict[sockets.Endpoint, socket.socket]:
        """Return IKE's sockets that those need."""
        return self.ike_sockets.needed(parts.peering for parts in self.served().values())

    def drop_unused(self, names: Iterable[str]) -> None:
        """Close sockets that no peering needs any more, and the secrets of peerings that are closed."""
        self.ike_sockets.close_unused(parts.peering for parts in self.peerings.values())
        for name in names:
            self._drop_material(name)

    def renew_lab_secrets(self, peerings: Iterable[Peering]) -> None:
        """Open the lab's secrets that lie at their paths again; what is not good changes nothing."""
        for keys in {one.keys.secret: one.keys for one in peerings if isinstance(one.keys, LabKeys)}.values():
            if keys.secret in self._materials and keys.secret.exists():
                try:
                    material = KeyMaterial(self._open_secrets(keys))
                except (UserError, OSError) as error:
                    log.error("the lab's secret of before stays: %s", error, extra=event("peering.secrets_refused"))
                    continue
                close_material(self._materials[keys.secret])
                self._materials[keys.secret] = material

    def _is_renewed(self, wanted: Peering) -> bool:
        """Whether the secret files of an open peering are others by now; the lab's, once they are opened again."""
        parts = self.peerings[wanted.name]
        if isinstance(wanted.keys, LabKeys):
            return self._materials.get(wanted.keys.secret) is not parts.material
        return _seen(wanted.keys) != parts.material.seen

    def tidy(self, wanted: Sequence[Peering]) -> None:
        """Remove the guards that nobody wants, and forget what was asked for of peerings that are gone."""
        names = {one.name for one in wanted}
        self._start_actions = {name: one for name, one in self._start_actions.items() if name in names}
        self.kernel.tidy(wanted, self._owner.others())

    def wait(self, name: str, error: Exception) -> None:
        """Keep why a peering is not set up; it is told once."""
        why = reason(error)
        if self.waiting.get(name) != why and not isinstance(error, NamelessError):  # which names.py tells
            log.error("peering %s is not set up: %s", name, why, extra=event("peering.refused", peering=name))
        self.waiting[name] = why

    # -- the end ----------------------------------------------------------------------------------------------

    def close_all(self, troubles: Troubles, guards: Guards) -> None:
        """Close it all, whatever goes wrong with some of it."""
        for name in list(self.peerings):
            troubles.apart(name, self.close, name)
        if guards is not Guards.STAND:
            troubles.apart("guards", self.kernel.remove if guards is Guards.REMOVED else self.kernel.undo)
        for material in self._materials.values():
            troubles.apart("secrets", close_material, material)
        for sock in (*self.ike_sockets.all(), self.control, self.admin, self.metrics, self.beacon):
            if sock is not None:
                sock.close()
        if self.key_log is not None:
            os.close(self.key_log)
        self.awake.close()
        if self.control is not None:
            troubles.apart("agent", self.gateway.control.unlink, True)
            troubles.apart("admin", admin_path(self.gateway.control).unlink, True)
        self.names.close()
        self.kernel.close()
        self.memory.close()
        self._owner.close()

    # -- one peering ------------------------------------------------------------------------------------------

    def _prepare(self, peering: Peering) -> PeeringParts:
        """Open what a peering needs; nothing of it is seen outside yet. Raises UserError."""
        if peering.names:
            what = f"{' or '.join(peering.names)} (remote_addrs) has no address yet"
            raise NamelessError(f"peering {peering.name}: {what}; the log says why (name.unresolved)")
        if not network.has_address(self._asks, peering.local_addrs):
            raise NotYetError(f"peering {peering.name}: this host has no address {peering.local_addrs} (local_addrs)")
        with contextlib.ExitStack() as undo:
            self._undo_later(undo, peering)
            self.ike_sockets.open(peering)
            parts = PeeringParts(peering, self._material(peering))
            parts.start_action = self._start_actions.get(peering.name)
            undo.pop_all()
        return parts

    def _undo_later(self, undo: contextlib.ExitStack, peering: Peering) -> None:
        """If an attempt fails, nothing of it is open when the next child is forked.

        What keyd inherits keeps its port taken, and the next attempt would find it so.
        """
        undo.callback(self.ike_sockets.close_but, self.ike_sockets.endpoints())
        undo.callback(self._drop_material, peering.name)

    def _open(self, peering: Peering) -> None:
        with contextlib.ExitStack() as undo:
            self._undo_later(undo, peering)
            parts = self._prepare(peering)
            undo.callback(parts.close)
            undo.callback(self._close_guards, peering)
            undo.callback(self.kernel.release, peering.name)
            self.kernel.set(peering, closed=False)
            self.kernel.connect([parts])
            undo.pop_all()
        self.peerings[peering.name] = parts
        self.version += 1
        del self.waiting[peering.name]
        _warn(parts)

    def _close_guards(self, peering: Peering) -> None:
        self.kernel.set(peering, closed=True)

    def _attempt(self, act: Callable[[Peering], None], peering: Peering) -> bool:
        self.shared.beat()
        try:
            act(peering)
        except Exception as error:  # noqa: BLE001
            self.wait(peering.name, error)
            return False
        return True

    def _open_materials(self, peerings: Sequence[Peering]) -> None:
        """Open the secrets of all together, if all are good; else each is opened, and refused, in its turn."""
        some = [(one, _seen(one.keys)) for one in peerings if not isinstance(one.keys, LabKeys)]
        opened = self._open_all_secrets([one.keys for one, _ in some])
        self._materials |= {one.name: KeyMaterial(fds, seen) for (one, seen), fds in zip(some, opened, strict=False)}

    def _material(self, peering: Peering) -> KeyMaterial:
        """A peering's secrets. The lab's may be shared by peerings, and can be opened once only."""
        name: Path | str = peering.keys.secret if isinstance(peering.keys, LabKeys) else peering.name
        if name not in self._materials:
            seen = _seen(peering.keys)
            self._materials[name] = KeyMaterial(self._open_secrets(peering.keys), seen)
        return self._materials[name]

    def reopen_secrets(self, wanted: Peering) -> None:
        """Open an IKE peering's secret files again, for keyd. If they are not good, those of before stay."""
        parts = self.peerings[wanted.name]
        material, seen = parts.material, _seen(wanted.keys)
        try:
            fds = self._open_secrets(wanted.keys)
        except (UserError, OSError) as error:
            told = event("peering.secrets_refused", peering=wanted.name)
            log.error("peering %s keeps the secrets of before: %s", wanted.name, error, extra=told)
            self.kept_secrets[wanted.name] = f"keeps the secrets of before: {reason(error)}"
            kept = parts.peering.ike
            if kept is not None and wanted.ike is not None:  # what else the table says holds all the same
                parts.peering = parts.peering.model_copy(update={"keys": with_proof_of(kept, wanted.ike)})
            return
        self.kept_secrets.pop(wanted.name, None)
        close_material(material)
        material.fds, material.seen, material.version = fds, seen, material.version + 1
        parts.peering = spreading.with_keys(parts.peering, wanted)
        self.version += 1

    def _drop_material(self, name: str) -> None:
        """An IKE peering's own; the lab's must outlive it."""
        if name in self._materials:
            close_material(self._materials.pop(name))


def _warn(parts: PeeringParts) -> None:
    for warning in parts.warnings:
        log.warning("%s", warning, extra=event("peering.warning", peering=parts.peering.name))


def _seen(keys: Keys) -> tuple[object, ...]:
    """What tells whether a file was written or replaced since, without reading it."""
    named = [value for _, value in keys if isinstance(value, Path)]
    named += [path for _, value in keys if isinstance(value, list) for path in value if isinstance(path, Path)]
    return tuple(stamp_of(path) for path in named)

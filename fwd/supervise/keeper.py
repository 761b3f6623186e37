"""Keeps the kernel to what the peerings want of it (kernel.py): leak guards, TUN devices, routes.

What sets them first restores them later: a network manager, a firewall's restart or a hand may take them at any time.
It is woken by the kernel's own news and looks every second besides. What is missing is told before it is restored, and
for CONFIRM_S after, as reasons of not being ready. Guards go by `remove`, `tidy` and `undo` alone, never because an
object is closed or the process ends. It never waits for anybody but nft.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Final

from fwd.model.config import Peering
from fwd.model.reasons import Code, Reason
from fwd.model.words import Network
from fwd.proto.errors import UserError
from fwd.proto.logged import event
from fwd.supervise import guards, kernel, network, obstacles, surroundings
from fwd.supervise.guards import Found
from fwd.supervise.kept import Kept
from fwd.supervise.kernel import Device, Do, Has, Step, Wanted
from fwd.supervise.netlink import Changes, Kernel, News
from fwd.supervise.peering import PeeringParts
from fwd.supervise.surroundings import Surroundings

log = logging.getLogger(__name__)
EVERY_S: Final = 1.0
CONFIRM_S: Final = 0.25  # what was restored must stand so long before it counts
_ROUNDS = 3  # of looking and restoring at one time: a device that is new needs all
_SHARE = 0.05  # of a core, which looks may use in the long run
_AT_ONCE_S = 5.0  # of it that they may use at once
_LONGEST_S = 30.0  # between two looks
_SOME: Final = 4  # subnets that a line names


class Keeper:
    """The kernel's state of this fwd, which is marked with its number (owner.py). `tell`: reasons have changed."""

    def __init__(self, number: int, mark: str, asks: Kernel) -> None:
        self._number = number
        self._mark = mark
        self._kernel = asks
        self._changes = Changes()
        self._kept: dict[str, Kept] = {}
        self._before: Found | None = None
        self._left = Found({}, {})  # by others, as was told
        self._tables: dict[str, str] = {}
        self._generation = -1
        self._around = Surroundings(number, asks)
        self._trouble = ""
        self.look_at = 0.0  # when it is time, without news
        self._pending = False
        self._spent_s, self._spent_at = 0.0, 0.0
        self.seen: dict[str, tuple[int, int]] = {}  # MTU and packets that found the queue full, by TUN device
        self.fd = self._changes.fd
        self.tell: Callable[[], None] = lambda: None

    # -- guards that are wanted -------------------------------------------------------------------------------

    def refusals(self, peerings: Iterable[Peering], living: Collection[int]) -> dict[str, str]:
        """Peering → why it cannot have its guards: another fwd that lives has them, or this host is there itself."""
        peerings = list(peerings)
        standing, here = network.look(self._kernel), self.misplaced(peerings)
        self._before = self._before or standing
        found = {one.name: guards.refusal(one, standing, living) for one in peerings}
        return here | {name: why for name, why in found.items() if why}

    def misplaced(self, peerings: Iterable[Peering]) -> dict[str, str]:
        """Peering → why it is for another host: this one is itself where the far hosts are said to be."""
        addresses = self._kernel.addresses()
        found = {one.name: kernel.refusal(one.remote_ts, addresses) for one in peerings}
        return {name: why for name, why in found.items() if why}

    def set(self, peering: Peering, *, closed: bool) -> None:
        """Set both guards, in the place of what stands there; `closed`: not even the TUN device may be used.

        Raises UserError.
        """
        self.set_all([(peering, closed)])

    def set_all(self, wanted: Iterable[tuple[Peering, bool]]) -> None:
        """Set the guards of many, as one transaction; of each whether they are closed. Raises UserError."""
        due: list[Kept] = []
        for peering, closed in wanted:
            kept = self._kept.get(peering.name)
            outside = kept.outside if kept else {}
            if not closed:
                outside = self._around.first(self._wants(peering), outside)
            rules = guards.ruleset(peering, self._number, self._mark, outside, closed=closed)
            if kept and kept.rules == rules:
                kept.peering = peering
                continue
            due.append(Kept(peering, rules, outside=outside, parts=kept.parts if kept else None))

        # All tables stand before the first route does, and it is known that they do.
        if due:
            network.set_tables(one.rules for one in due)
            network.set_guard_routes([subnet for one in due for subnet in one.peering.remote_ts], self._number)
            self._kept |= {one.peering.name: one for one in due}
            self._generation = -1

    def connect(self, opened: Iterable[PeeringParts]) -> None:
        """Set up the devices of peerings that are guarded, and the routes to them. Raises UserError."""
        new = [(self._kept[parts.peering.name], parts) for parts in opened]
        for kept, parts in new:
            kept.parts = parts
        try:
            self._set_devices([kept for kept, _ in new])
        except Exception:
            for kept, _ in new:
                kept.parts = None
            raise
        self._around.look_anew()

    def reroute(self, peering: Peering, unroutes: Iterable[Network]) -> None:
        """Set what is missing of a peering's device and of the routes to it, then remove routes. Raises UserError."""
        self._set_devices([replace(self._kept[peering.name], peering=peering)])  # its guards may be of more

        # The guard of a part would refuse what goes by the route of the whole from then on; the whole has its own.
        parts = [one for one in unroutes if any(kernel.holds(other, one) for other in peering.remote_ts)]
        network.remove_guard_routes(parts)
        network.drop_routes(peering.tun, unroutes)

    def _set_devices(self, kept: Collection[Kept]) -> None:
        for _ in range(_ROUNDS):
            has, todo = self._has(kept), list[tuple[Step, Device]]()
            for wanted in map(self._wanted, kept):
                assert wanted.device is not None
                steps = [step for step in kernel.steps(wanted, has) if step.do not in kernel.GUARDS]
                todo += [(step, wanted.device) for step in steps]
            network.carry_out(todo, self._number)

    def release(self, name: str) -> None:
        """The device is about to be closed; the guards stand."""
        if name in self._kept:
            self._kept[name].parts = None
            self._drop_outer()

    def _drop_outer(self) -> None:
        """Remove ways past tunnels that are none any more."""
        there = [self._wanted(kept) for kept in self._kept.values() if kept.parts]
        network.drop_outer_routes(kernel.unwanted_past(there, self._kernel.routes(self._number)))

    def tidy(self, wanted: Collection[Peering], living: Collection[int]) -> None:
        """Remove those that none of `wanted` needs, and a dead one's in their way; not before all of them stand."""
        if all(peering.name in self._kept for peering in wanted):
            standing = network.look(self._kernel)
            self._remove(*guards.leftovers(standing, wanted, self._number, living, self._mark))
            self._tell_left(guards.strangers_left(standing, wanted, {self._number, *living}, self._mark))
            names = {peering.name for peering in wanted}
            self._kept = {name: kept for name, kept in self._kept.items() if name in names}
            self._drop_outer()

    def undo(self) -> None:
        """After a start that failed: remove what did not stand before it."""
        if self._before is not None:
            tables, subnets = guards.leftovers(network.look(self._kernel), (), self._number)
            self._remove(set(tables) - set(self._before.tables), set(subnets) - set(self._before.routes))

    def remove(self) -> None:
        """Remove all of ours: the clean stop's part."""
        self._kept.clear()
        self._drop_outer()
        self._remove(*guards.leftovers(network.look(self._kernel), (), self._number))

    def close(self) -> None:
        """Keep nothing any more."""
        self._changes.close()
        self._kernel.close()

    def _remove(self, tables: Iterable[str], subnets: Iterable[Network]) -> None:
        network.remove_tables(tables)
        network.remove_guard_routes(subnets)

    # -- the loop ---------------------------------------------------------------------------------------------

    def turn(self, now: float) -> list[str]:
        """Look if there is news or it is time, and restore what is missing.

        Gives the peerings whose device was made anew: their processes hold the old one.
        """
        news = self._changes.heard()
        self._note(news)
        if not (self._pending or now >= self.look_at):
            return []
        self._spent_s = max(0.0, self._spent_s - (now - self._spent_at) * _SHARE)
        self._spent_at = now
        if self._spent_s > _AT_ONCE_S and now < self.look_at:
            self._changes.listen(wanted=False)  # or every piece of news would wake the loop
            return []

        # What comes while this is done is looked at in the next turn.
        self._changes.listen(wanted=True)
        around = self._pending or now >= self._around.look_at
        self._pending = False
        self._trouble, began = "", time.monotonic()
        try:
            renewed = self._keep(now, around=around)
        except (UserError, OSError) as error:
            renewed, self._trouble = [], str(error)
        took_s = time.monotonic() - began
        self._spent_s += took_s
        soon = any(kept.restored for kept in self._kept.values()) and self._spent_s <= _AT_ONCE_S
        self.look_at = now + (CONFIRM_S if soon else min(max(EVERY_S, took_s / _SHARE), _LONGEST_S))
        return renewed

    def reasons(self) -> list[Reason]:
        """Why packets of some peering do not pass, or may leave in the clear."""
        found = [Reason.of(Code.KERNEL, why=self._trouble)] if self._trouble else []
        for name, kept in self._kept.items():
            if not (
                kept.failed
                or kept.restored
                or kept.obstacles
                or kept.patience[True].knows_any
                or kept.patience[False].knows_any
            ):
                continue
            fought = {step: n for patience in kept.patience.values() for step, n in patience.fought_over().items()}
            for step in dict.fromkeys([*kept.failed, *kept.restored, *fought]):
                why = kept.failed.get(step, "restored just now")
                if step in fought:
                    why = f"something removes it again and again; fwd has restored it {fought[step]} times"
                if step.matters:
                    found.append(kernel.reason(step, name, why))
            found += kept.obstacles
        return found

    def _note(self, news: News) -> None:
        """Take note of what is to be looked at."""
        if news.any:
            self._pending = True
            for kept in self._kept.values():
                for patience in kept.patience.values():
                    patience.hope()
        self._around.note(news)
        if news.ours or (news.rules and not news.generation):
            self._generation = -1
        elif news.generation and self._generation >= 0:
            self._generation = news.generation  # whatever it was, it was not ours

    def _keep(self, now: float, *, around: bool) -> list[str]:
        """Restore what is missing, and see whether it is there; gives whose device was made anew."""
        renewed: list[str] = []
        done: dict[str, list[str]] = {}
        for _ in range(_ROUNDS):
            has = self._has(self._kept.values())
            missing = {name: self._missing(kept, has) for name, kept in self._kept.items()}
            due = self._due(missing, now)
            if not any(due.values()):
                break
            self.tell()
            self._restore(due, now, done, renewed)

        for name, kept in self._kept.items():
            if done.get(name):
                self._tell_restored(kept, done[name], now)
            if kept.restored:
                kept.restored = {step: at for step, at in kept.restored.items() if now - at < CONFIRM_S}
            for patience in kept.patience.values():
                if patience.knows_any:
                    patience.forget(missing[name], now)
        devices = {kept.tun for kept in self._kept.values() if kept.parts}
        self.seen = {name: seen for name, seen in self.seen.items() if name in devices}
        # What was taken at the same time may be seen at the next turn only, which must not be late.
        if around and done and now < self._around.look_at + surroundings.EVERY_S:
            self._around.look_at = min(self._around.look_at, now)
        elif around:
            self._look_around(has, now)
        return renewed

    def _missing(self, kept: Kept, has: Has) -> list[Step]:
        """What is to be done for one peering; nothing, while all is as it was when nothing was."""
        parts, table = kept.parts, has.tables.get(kept.table)
        own = (parts.peering, parts.tun, parts.inner_mtu) if parts else ()  # of which the device as it is to be is made
        of_kernel = has.links.get(kept.tun), table, has.routes, has.addresses, has.others
        looked_at = (kept.peering, kept.listing, own, *of_kernel)
        if looked_at == kept.well:
            return []
        found = kernel.steps(self._wanted(kept), has)
        kept.well = () if found else looked_at
        return found

    def _due(self, missing: dict[str, list[Step]], now: float) -> dict[str, list[Step]]:
        """What of that which is missing is to be restored now; all of it is kept as reasons."""
        due: dict[str, list[Step]] = {}
        for name, todo in missing.items():
            kept = self._kept[name]
            kept.failed = {step: kept.failed.get(step, "") for step in todo}
            due[name] = [s for s in todo if kept.patience[s.do in kernel.GUARDS].may_restore(s, now)]
        return due

    def _restore(self, due: dict[str, list[Step]], now: float, done: dict[str, list[str]], renewed: list[str]) -> None:
        """All guards first, both layers at the same time; then each peering's device and routes."""
        subnets = [s.subnet for todo in due.values() for s in todo if s.do is Do.GUARD_ROUTE and s.subnet]
        tables = {name for name, todo in due.items() if any(s.do is Do.GUARD_TABLE for s in todo)}
        whys = {Do.GUARD_ROUTE: "", Do.GUARD_TABLE: ""}
        setting = network.begin_tables(self._kept[name].rules for name in tables) if tables else None
        if subnets:
            whys[Do.GUARD_ROUTE] = _why_not(network.set_guard_routes, subnets, self._number)
        if setting:
            whys[Do.GUARD_TABLE] = _why_not(setting)
            self._generation = -1
            for name in tables:
                self._kept[name].listing = ""

        for name, todo in due.items():
            kept = self._kept[name]
            for step in todo:
                why = whys[step.do] if step.do in kernel.GUARDS else self._restore_device(kept, step, renewed)
                patience = kept.patience[step.do in kernel.GUARDS]
                if why:
                    patience.refused(step)
                    self._tell_refusal(kept, step, why, now)
                    continue
                patience.restored(step, now)
                kept.restored[step] = now
                kept.failed.pop(step, None)
                done.setdefault(name, []).append(str(step))

    def _restore_device(self, kept: Kept, step: Step, renewed: list[str]) -> str:
        """What is missing of one device; why it cannot be restored, or nothing."""
        assert kept.parts is not None
        if step.do is Do.DEVICE:
            why = _why_not(kept.parts.renew_tun)
            renewed += [] if why else [kept.peering.name]
            return why
        return _why_not(network.carry_out, [(step, kept.parts.device())], self._number)

    def _tell_restored(self, kept: Kept, done: list[str], now: float) -> None:
        if kept.lines.may_tell(now):
            name, times, kept.lines.kept_back = kept.peering.name, kept.lines.kept_back, 0
            told = event("kernel.restored", peering=name, what=done, suppressed=times)
            more = f" ({times} more times since the last such line)" if times else ""
            log.warning("peering %s: restored in the kernel: %s%s", name, ", ".join(done), more, extra=told)

    def _tell_refusal(self, kept: Kept, step: Step, why: str, now: float) -> None:
        news = kept.failed.get(step) != why
        kept.failed[step] = why
        if news and kept.lines.may_tell(now):
            name = kept.peering.name
            told = event("kernel.not_restored", peering=name, what=str(step), reason=why)
            log.error("peering %s: cannot restore %s: %s", name, step, why, extra=told)

    def _tell_obstacles(self, kept: Kept, found: list[Reason], now: float) -> None:
        for one in found:
            if one not in kept.obstacles and kept.obstacle_lines.may_tell(now):
                told = event("kernel.obstacle", peering=one.peering, code=one.code)
                log.warning("peering %s: %s: %s", one.peering, one.text, one.remedy, extra=told)
        kept.obstacles = found

    def _tell_left(self, left: Found) -> None:
        """Say once which guards of a dead fwd drop packets, and stay."""
        if (left.tables or left.routes) and left != self._left:
            tables, subnets = sorted(left.tables), sorted(map(str, left.routes))
            told = event("guards.left", tables=tables[:_SOME], subnets=subnets[:_SOME])
            log.warning(
                "leak guards of another fwd stand, which does not run: they drop what is for its subnets until it comes"
                " back; if it never will: %s", guards.removal(left), extra=told,
            )  # fmt: skip
        self._left = left

    def _tell_beside(self, kept: Kept, found: frozenset[Network]) -> None:
        """Say once of each subnet that the host has a route of its own to it."""
        if news := sorted(map(str, found - kept.beside)):
            kept.beside |= found
            name, told = kept.peering.name, event("kernel.route_beside", peering=kept.peering.name, subnets=news)
            some = ", ".join(news[:_SOME]) + (f" and {len(news) - _SOME} more" if len(news) > _SOME else "")
            log.warning(
                "peering %s: this host has a route of its own to %s: fwd's comes before it, and it holds again when "
                "fwd has ended; remove it if nothing needs it", name, some, extra=told,
            )  # fmt: skip

    # -- what the kernel has ----------------------------------------------------------------------------------

    def _wanted(self, kept: Kept) -> Wanted:
        return self._wants(kept.peering, kept.listing, kept.parts.device() if kept.parts else None)

    def _wants(self, peering: Peering, listing: str = "", device: Device | None = None) -> Wanted:
        return Wanted(
            peering=peering.name, table=guards.table_name(peering), listing=listing, owner=self._number,
            local_ts=tuple(peering.local_ts), remote_ts=tuple(peering.remote_ts),
            local=peering.local_addrs, remotes=peering.reached, device=device,
        )  # fmt: skip

    def _keep_inside(self, kept: Kept, outside: dict[str, tuple[Network, ...]]) -> None:
        """Let the guards know where decrypted packets must not go. Raises UserError."""
        if kept.parts and outside != kept.outside:
            rules = guards.ruleset(kept.peering, self._number, self._mark, outside)
            network.set_tables([rules])
            kept.rules, kept.listing, kept.outside, self._generation = rules, "", outside, -1

    def _has(self, kept: Collection[Kept]) -> Has:
        """Look; at nftables only if rules have changed since. A table that was just set is known by its listing."""
        links = self._kernel.links([one.tun for one in kept if one.parts])
        self.seen.update({name: (link.mtu_bytes, link.queue_drops) for name, link in links.items() if link})
        generation = self._kernel.generation()
        if generation != self._generation:
            try:
                self._tables = network.tables(self._kernel, {one.table for one in self._kept.values()})
                self._generation = generation
            except UserError as error:
                self._trouble = str(error)
            for one in self._kept.values():
                listing = self._tables.get(one.table, "")
                if not one.listing and guards.stands(listing, one.rules):
                    one.listing = listing
        every = self._kernel.some_routes() if any(one.peering.native for one in kept) else ()
        others = tuple(one for one in every if one.owner != self._number)
        return Has(links, self._kernel.routes(self._number), self._tables, self._kernel.addresses(), others)

    def _look_around(self, has: Has, now: float) -> None:
        """Look for what is not fwd's, and in the way of packets."""
        self._around.begin(now)
        for kept in self._kept.values():
            if kept.parts:
                wanted = self._wanted(kept)
                around, outside = self._around.of(wanted, has, kept.outside)
                self._keep_inside(kept, outside)
                self._tell_obstacles(kept, obstacles.obstacles(wanted, has, around), now)
                self._tell_beside(kept, around.beside)
        self._around.end(now)


def _why_not(act: Callable[..., object], *arguments: object) -> str:
    """Do it; why it could not be done, or nothing."""
    try:
        act(*arguments)
    except (UserError, OSError) as error:
        return str(error)
    return ""

"""`fwd apply` and `fwd confirm`: a configuration that comes over the admin socket, its plan, its trial, its end.

    file ──reading.py──▶ checked ──plan.py──▶ steps ──▶ in force ──confirm──▶ the configuration file
                                                           └──time over──▶ what was in force before

Without `--confirm` the file is replaced first. With it the trial is on disk first (trial.py), and nothing else is
applied until it is over. SIGHUP ends a trial: what the file says holds then.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from fwd.files import why_not_believed
from fwd.model.config import Config, parse
from fwd.proto.errors import UserError
from fwd.proto.logged import event
from fwd.supervise import plan
from fwd.supervise.admin import RefusedError, Request
from fwd.supervise.reading import Reading
from fwd.supervise.trial import CONFIRM_S_MAX, Store, Trial, now
from fwd.supervise.users import User

log = logging.getLogger(__name__)
SETTLED_S: Final = 8.0  # for what is applied to be in force, before who asked is told what is not
_LATE: Final = "it was not confirmed in time"
COMMANDS: Final = ("apply", "confirm")
Json = dict[str, Any]


@dataclass(frozen=True)
class Gateway:
    """What applying needs of the supervisor."""

    wanted: Callable[[], Config]
    steps_to: Callable[[Config], Sequence[plan.Step]]  # raises UserError if fwd must be restarted for it
    want: Callable[[Config], None]
    is_settled: Callable[[], bool]
    waiting: Callable[[], Mapping[str, str]]  # peerings that cannot be set up yet, and why
    amend: Callable[[Config], Config]  # by the command line of `fwd demux`
    examined: Callable[[Config], Iterator[None]]  # its secrets, bit by bit; raises UserError


class Applying:
    """One configuration at a time; `reader` is whom the processes run as that read it."""

    def __init__(self, gateway: Gateway, store: Store, reader: User) -> None:
        self._gateway = gateway
        self._store = store
        self._reader = reader
        self._trial: Trial | None = None
        self._before: Config | None = None  # in force until the trial began
        self._reading: Reading | None = None

    @property
    def trial_until(self) -> int | None:
        """Return when a trial ends, in seconds of the day's clock since 1970; None: nothing is on trial."""
        return round(self._trial.began.of_day_s + self._trial.seconds) if self._trial else None

    # -- by itself ----------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Go on with a trial that a supervisor before this one has begun, if there is time left; at the start."""
        trial = self._store.load()
        if trial is None:
            return
        self._trial, self._before = trial, self._gateway.wanted()
        if trial.left_after_restart_s(now()):
            try:
                config = self._gateway.amend(parse(trial.text, "the configuration on trial"))
                self._gateway.steps_to(config)
            except UserError as error:
                self._end_trial(str(error))
                return
            self._gateway.want(config)
            self._tell_trial(trial)
        else:
            self._end_trial(_LATE)

    def turn(self) -> None:
        """End a trial whose time is over, and what is left of a process that has read."""
        if self._trial is not None and not self._trial.left_s(now()):
            self._end_trial(_LATE)
        if self._reading is not None and self._reading.has_ended and self._reading.is_gone():
            self._reading = None

    def give_way(self) -> None:
        """End a trial because the file was read anew, and what it says holds."""
        self._store.note_in_force()
        if self._trial is not None:
            self._before = None
            self._end_trial("SIGHUP has the configuration file read")

    def _end_trial(self, reason: str) -> None:
        """Go back to what was in force before. What is on disk goes last: who dies before that begins here again."""
        if self._before is not None:
            self._gateway.want(self._before)
        self._trial = self._before = None
        self._drop()
        log.warning("configuration on trial is gone: %s", reason, extra=event("config.reverted", reason=reason))

    def _drop(self) -> None:
        """Take what was on trial from the disk. What cannot be taken away has no time left soon."""
        try:
            self._store.drop()
        except OSError as error:
            log.warning("a trial that is over stays on disk: %s", error, extra=event("config.trial_left"))

    def _tell_trial(self, trial: Trial) -> None:
        left_s = round(trial.left_s(now()))
        told = event("config.on_trial", seconds=left_s)
        log.warning("configuration on trial: it goes in %d s unless `fwd confirm` comes", left_s, extra=told)

    # -- as a user wants ----------------------------------------------------------------------------------------------

    def confirm(self) -> Json:
        """Keep what is on trial. Raises RefusedError."""
        trial = self._trial
        if trial is None or not trial.left_s(now()):
            raise RefusedError("there is nothing to confirm: no configuration is on trial")
        self._replace(trial.text)
        self._trial = self._before = None
        self._drop()
        log.info("configuration confirmed", extra=event("config.confirmed"))
        return {"confirmed": str(self._store.path)}

    def apply(self, request: Request) -> Iterator[Json | None]:
        """Begin to read the file that came along; what is given is what to say, or None to wait. Raises RefusedError.

        Who closes the iterator has nothing applied, if it has not been by then.
        """
        dry_run, confirm_s = request.words.get("dry_run", False), request.words.get("confirm_s", 0)
        if not isinstance(dry_run, bool) or not isinstance(confirm_s, int) or not 0 <= confirm_s <= CONFIRM_S_MAX:
            raise RefusedError(f"expected dry_run as true or false, and confirm_s from 0 to {CONFIRM_S_MAX}")
        if request.file is None:
            raise RefusedError("no file came along")
        if self._reading is not None:
            raise RefusedError("another configuration is being applied: try again in a moment")
        source = request.text("name") or "configuration"
        if why := why_not_believed(os.fstat(request.file)):
            raise RefusedError(f"{source}: {why}")
        try:
            self._reading = Reading(request.file, source, self._reader, time.monotonic())
        except OSError as error:
            raise RefusedError(f"it cannot be read now: {error.strerror}") from None
        answers = self._apply(self._reading, partial(self._take, dry_run=dry_run, confirm_s=confirm_s))
        next(answers)  # from here on, closing it ends the reading
        return answers

    def _apply(self, reading: Reading, take: Callable[[Config, str], Json]) -> Iterator[Json | None]:
        try:
            yield None
            while (found := reading.heard(time.monotonic())) is None:
                yield None
            for _ in self._gateway.examined(found[0]):
                yield None
        except UserError as error:
            raise RefusedError(str(error)) from None
        finally:
            reading.end()
        said = take(*found)
        yield said
        if "done" in said:
            return

        # In force is what everybody has been told.
        until = time.monotonic() + SETTLED_S
        while time.monotonic() < until and not self._gateway.is_settled():
            yield None
        late = {} if self._gateway.is_settled() else {"gateway": "not everybody has been told yet"}
        yield {"done": True, "waiting": {**self._gateway.waiting(), **late}}

    def _take(self, config: Config, text: str, *, dry_run: bool, confirm_s: int) -> Json:
        """Have it in force, but for a dry run; returns the plan. Raises RefusedError; then nothing has changed."""
        try:
            config = self._gateway.amend(config)
            steps = [str(step) for step in self._gateway.steps_to(config)]
        except UserError as error:
            raise RefusedError(str(error)) from None
        if dry_run:
            return {"plan": steps, "done": True}
        if self._trial is not None:
            raise RefusedError("another configuration is on trial: `fwd confirm` it, or wait until it is gone")

        if confirm_s:
            trial = Trial(text, confirm_s, now())
            try:
                self._store.keep(trial)
            except OSError as error:
                raise RefusedError(_cannot_write(error)) from None
            self._trial, self._before = trial, self._gateway.wanted()
            self._tell_trial(trial)
        else:
            self._replace(text)
        self._gateway.want(config)
        log.info("configuration applied: %s", "; ".join(steps) or "nothing differs", extra=event("config.applied"))
        return {"plan": steps, "confirm_s": confirm_s}

    def _replace(self, text: str) -> None:
        try:
            self._store.replace(text)
        except OSError as error:
            raise RefusedError(_cannot_write(error)) from None


def _cannot_write(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return (
        f"{where}what is applied is to be kept there, and it cannot be written: {error.strerror}; nothing has changed"
    )

"""One peering's IKE behind a barrier: what goes wrong in it ends there, and no other peering notices.

A fault that belongs to one IKE SA ends that IKE SA (fwd.proto.ike.endpoint). Any other exception ends the peering's
IKE as the death of keyd would: it is begun anew after a pause, with what its members hold. The data plane goes on.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, TypeVar

from fwd.datapath.shared import REST_MAX_S, REST_S
from fwd.keyd.ike import IkePeering
from fwd.keyd.inbox import Message
from fwd.keyd.patience import TICK_S, together_at
from fwd.keyd.shown import outline
from fwd.model.pairing import ALONE, Far
from fwd.proto.ike.limits import TIME_S, TIME_SHARE
from fwd.proto.ike.rate import Rate
from fwd.proto.logged import event

AGAIN_S: Final = 1.0  # before it is begun anew; doubles up to AGAIN_MAX_S
AGAIN_MAX_S: Final = 60.0
CALM_S: Final = 60.0  # after so long without a fault the pause is a short one again
LOGGED_EVERY_S: Final = 1.0
BUSY_EVERY_S: Final = 60.0
TOLD_EVERY_S: Final = 0.5  # while something is under way
_T = TypeVar("_T")
log = logging.getLogger(__name__)


class Barrier:
    """Keeps exceptions: a traceback in the log once a second, and a count."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.faults = 0
        self._logged_at = float("-inf")

    def fault(self, error: Exception, now: float) -> None:
        """An exception has come out of what should have none."""
        self.faults += 1
        if now >= self._logged_at + LOGGED_EVERY_S:
            self._logged_at = now
            told = event("ike.fault", peering=self.name, error=type(error).__name__)
            log.error("%s: a fault of fwd's: %s", self.name, error, exc_info=error, extra=told)

    def call(self, act: Callable[[], object], now: float) -> None:
        """Do this, whatever comes of it."""
        try:
            act()
        except Exception as error:  # noqa: BLE001  other peerings are not to pay for it
            self.fault(error, now)


class Guarded(Barrier):
    """See the module; of a peering with several far gateways each has one.

    `make` gives the peering's IKE at a time, or None if it can have none.
    `due`: when something is to be done, and `wakes_at`: when keyd is to wake up for that, if it does not wake up
    earlier for another. `calm_until`: when `tick` is wanted; before that only IKE's own timers are.
    `restless`: something is under way in it. `touched`: something has been done with it since the last `settle`.
    """

    def __init__(self, name: str, make: Callable[[float], IkePeering | None], now: float, far: Far = ALONE) -> None:
        super().__init__(name)
        self.far = far
        self.leaves: memoryview | None = None  # the word that says so, of one of its members: all of them do, or none
        self.peering: IkePeering | None = None
        self.due = self.wakes_at = self.calm_until = now
        self.touched = self._changed = True  # `_changed`: by which `calm_until` may be another
        self.restless = True
        self.told: dict[str, Any] = {}
        self._shown: dict[str, Any] = {}
        self._outline: tuple[object, ...] = ()  # of what was told
        self._ends_at = float("inf")
        self._failures: Counter[str] = Counter()  # of those that have ended
        self._make = make
        self._again_at: float | None = now
        self._pause_s = AGAIN_S
        self._fault_at = self._busy_at = self._told_at = float("-inf")
        self._time = Rate(TIME_SHARE, TIME_S)
        self._was_asked = False  # by its peer, since the last tick
        self.begin(now)

    def begin(self, now: float) -> bool:
        """Make the peering's IKE, if there is none and its time has come; returns whether it has done so."""
        if self._again_at is None or now < self._again_at:
            return False
        self._again_at = None
        try:
            self.peering = self._make(now)
        except Exception as error:  # noqa: BLE001  other peerings are not to pay for it
            self._end(error, now)
        self.touched = self._changed = True
        return self.peering is not None

    def has_news(self) -> bool:
        """Whether its members' words say anything else than they did at the last tick."""
        return self.peering is not None and self.peering.glance.is_new()

    def retry(self, now: float) -> None:
        """Begin at once, if there is no IKE: what was in its way may have gone."""
        if self.peering is None:
            self._again_at = self.due = self.wakes_at = self.calm_until = now

    def close(self, now: float) -> None:
        """End the peering's IKE for good."""
        self.use(IkePeering.close, now, None)
        self.peering = self._again_at = None

    def use(self, act: Callable[[IkePeering], _T], now: float, otherwise: _T, *, light: bool = False) -> _T:
        """What `act` returns; `otherwise` if there is no IKE, or none any more.

        `light`: of what it changes the peering tells (`stirred`, `news`), but for IKE's own timers.
        """
        if self.peering is None:
            return otherwise
        self.touched = True
        try:
            found = act(self.peering)
        except Exception as error:  # noqa: BLE001  other peerings are not to pay for it
            self._end(error, now)
            return otherwise
        self._changed = self._changed or not light or self.peering.stirred or self.peering.news
        return found

    def hear(self, message: Message, now: float) -> None:
        """Give it a message; if its peer has had its share of keyd's time, that is as good as lost, and comes again."""
        if self.peering is None or not self.peering.endpoint.is_peers(message.header):
            self.use(lambda peering: _deliver(peering, message, now), now, None, light=True)
        elif self._time.allows(now, 0.0):
            began = time.thread_time()
            self.use(lambda peering: _deliver(peering, message, now), now, None, light=True)
            self._time.charge(time.thread_time() - began)
            self._was_asked = True
        elif now >= self._busy_at + BUSY_EVERY_S:
            self._busy_at = now
            text = "%s: the peer asks for more than its share of keyd's time: not all that it sends is heard"
            log.warning(text, self.name, extra=event("ike.busy", peering=self.name))

    def tick(self, act: Callable[[IkePeering], None], now: float, *, light: bool) -> None:
        """Do what is due in it. What its peer has stirred is of its peer's share of keyd's time, too."""
        began = time.thread_time()
        self.use(act, now, None, light=light)
        if self._was_asked:
            self._time.charge(time.thread_time() - began)
            self._was_asked = False

    def settle(self, now: float) -> None:
        """Look up anew when it wants something."""
        if self._changed or self.calm_until <= now or (self.peering is not None and self.peering.news):
            patience_s = self.use(lambda peering: peering.patience_s(now), now, REST_MAX_S)
            self.restless = patience_s <= TICK_S
            self._ends_at = self.use(IkePeering.next_end, now, float("inf"))
            self.calm_until = min(now + patience_s, self._ends_at)
        timeout = self.use(_next_timeout, now, float("inf"), light=True)
        self.due = min(timeout, self.calm_until)

        # Peerings at rest are looked at together: keyd wakes up for its glance at members anyhow.
        self.wakes_at = self.due if self.restless else together_at(min(timeout, self._ends_at), now)
        if self._again_at is not None:
            self.due = self.wakes_at = self.calm_until = self._again_at
        self.touched = self._changed = False

    def tell(self, now: float) -> dict[str, Any]:
        """What there is to see of it: the same object as before, unless it was asked anew.

        One that rests is asked when it has news, or REST_S later if it may say something else by then, and at last
        REST_MAX_S later: the agent knows how old it is. One in which something is under way is asked twice a second.
        """
        every_s = TOLD_EVERY_S if self.restless else REST_S if self._outlined(now) != self._outline else REST_MAX_S
        if self.peering is None or self.peering.news or now >= self._told_at + every_s:
            self._ask(now)
            self._shown = self._counted()
        return self._shown

    def _counted(self) -> dict[str, Any]:
        """Return what IKE has told last, with what has failed in those before it."""
        if self.peering is None and self.faults:
            error = "a fault of fwd's has ended IKE here (see the log); it is begun anew"
            told = {"sas": [], "half_open": 0, "error": error, "refused": {}, "faults": self.faults}
            return {**told, "failures": dict(self._failures)}
        if not self.told:
            return {}
        failures = self._failures + Counter(self.told.get("failures", {}))
        return {**self.told, "faults": self.told.get("faults", 0) + self.faults, "failures": dict(failures)}

    def _ask(self, now: float) -> None:
        """Take note of what there is to see; that it was asked is nothing that is done with it."""
        touched, nothing = self.touched, dict[str, Any]()
        if self.peering is not None:
            self.peering.news = False
        self.told = self.use(lambda peering: peering.told(now), now, nothing, light=True) or self.told
        self._outline = () if self.told.get("concern") else self._outlined(now)
        self.touched = touched or self.peering is None
        self._told_at = now

    def _outlined(self, now: float) -> tuple[object, ...]:
        """Look at what shows for little whether another thing is to be told than before."""
        touched = self.touched
        none: tuple[object, ...] = ()
        found = self.use(lambda of: outline(of.endpoint.sas(of.name), of.endpoint.failures, now), now, none, light=True)
        self.touched = touched or self.peering is None
        return found

    def _end(self, error: Exception, now: float) -> None:
        self.fault(error, now)
        ended, self.peering = self.peering, None
        if ended is not None:
            self._failures += ended.failures()
            Barrier(self.name).call(ended.close, now)
        self._pause_s = AGAIN_S if now >= self._fault_at + CALM_S else min(2 * self._pause_s, AGAIN_MAX_S)
        self._fault_at = now
        self._again_at = self.due = self.wakes_at = self.calm_until = now + self._pause_s


def _deliver(peering: IkePeering, message: Message, now: float) -> None:
    peering.receive(message.data, message.local, message.remote, now, message.header)


def _next_timeout(peering: IkePeering) -> float:
    at = peering.endpoint.next_timeout()
    return float("inf") if at is None else at

"""A member's path checks: echoes, answered by the far member inside the SA, and what they tell supervisor and demux.

The pulse (proto/pulse.py) asks whether the path works, the path monitor (proto/path.py) how large a packet it takes,
and a check (proto/check.py) counts, when a user wants it. In payload esp no size is tried, and nothing is asked or
answered unless the peer has said that it knows echoes.
"""

from __future__ import annotations

from array import array
from typing import Final

from fwd.datapath.counters import CheckWord, MemberCounter
from fwd.datapath.geometry import Geometry
from fwd.datapath.outbound import Outbound
from fwd.datapath.shared import LinkWord, MemberShared
from fwd.proto.aggfrag import FRAMING_BYTES, SUBTYPE_ECHO, SUBTYPE_ECHO_REPLY
from fwd.proto.check import Check
from fwd.proto.drops import DropReason
from fwd.proto.echo import MOVED, in_dummy, in_stream
from fwd.proto.esp import NEXT_AGGFRAG, NEXT_DUMMY
from fwd.proto.heads import TOLD
from fwd.proto.path import PathMonitor
from fwd.proto.pulse import Pulse

_MISSES_S: Final = 2.0  # after the far member's word that it misses packets, it is told of headers twice
_MISSES_OF: Final = 256  # it says so if one packet in so many is missing: below, to tell twice costs more than it saves
_MOVED_AGAIN: Final = 2  # of a path that loses one packet in a hundred, one word in a million is lost then


class Echoes:
    """Of one member. `sizes` is its path monitor."""

    def __init__(
        self,
        shared: MemberShared,
        geometry: Geometry,
        outbound: Outbound,
        counters: array[int],
        sizes: PathMonitor,
        *,
        esp: bool,
    ) -> None:
        self._shared = shared
        self._geometry = geometry
        self._outbound = outbound
        self._counters = counters
        self._esp = esp
        self.sizes = sizes
        self.pulse = Pulse()
        self._check = Check(shared.checks[0])
        self._checked = shared.check.attach()
        self._holes, self._came = counters[DropReason.HOLE], counters[MemberCounter.IN_ESP_OK]
        self._far_missed = 0.0

    def sent(self, now: float) -> bool:
        """Records were sent; returns whether an echo may be due sooner by it."""
        self.sizes.sent(now)
        return self.pulse.sent()

    def followed(self, sent_before: float, heard: float, sent: float) -> bool:
        """Records were sent first, heard last, and sent first since then, at these times (0: not); as `sent` does."""
        if sent_before:
            self.sizes.sent(sent_before)
        if heard:
            self.sizes.heard(heard)
        if sent:
            self.sizes.sent(sent)
        return bool(sent_before or sent) and self.pulse.sent()

    @property
    def are_answered(self) -> bool:
        """Whether the far member knows echoes."""
        return not self._esp or self._shared.echoes[0] != 0

    def look(self, now: float) -> None:
        """Send what is due."""
        if self._outbound.sa is None:
            return
        if not self.are_answered:
            if not self.pulse.up:
                self.pulse.trust()
                self.publish()
            return

        self._tell_misses(now)
        if self._check.follow(self._shared.checks[0], now):
            self._tell_check()
        if (number := self._check.poll(now)) is not None:
            self._send(SUBTYPE_ECHO, number)
            self._tell_check()
        number = self.pulse.poll(now)
        if number is not None:
            self._send(SUBTYPE_ECHO, number)
        if number is not None or self._shared.link[LinkWord.LOSS]:  # which passes, if nothing is asked any more
            self._shared.link[LinkWord.LOSS] = round(1000 * self.pulse.loss(now))
        due = self.sizes.poll(now) if self.pulse.up and not self._esp else []
        for echo in due:
            full = FRAMING_BYTES + self._geometry.chunk_for(echo.mtu_bytes) if echo.mtu_bytes else 0
            self._send(SUBTYPE_ECHO, echo.number, full)
        if number is not None or due:
            self.publish()

    def next_timeout(self, now: float) -> float:
        """Seconds until `look` may have something to send; infinite: it will not, unless records are sent."""
        if self._outbound.sa is None or not self.are_answered:
            return float("inf")
        pulse_s = min(self.pulse.next_timeout(now), self._check.next_timeout(now))
        return pulse_s if self._esp or not self.pulse.up else min(pulse_s, self.sizes.next_timeout(now))

    def take(self, subtype: int, number: int, now: float) -> None:
        """An echo has come, or an answer to one."""
        if subtype == SUBTYPE_ECHO_REPLY and number == TOLD:
            self._far_missed, self._outbound.tells_heads = now, not self._esp
        elif subtype == SUBTYPE_ECHO_REPLY and self._check.answered(number, now):
            self._tell_check()
        elif subtype == SUBTYPE_ECHO_REPLY:
            if self.pulse.answered(number, now):
                self.sizes.check(now)
            self.sizes.answered(number, now)
            self.publish()
        elif self.are_answered:
            self._counters[MemberCounter.ECHOES_ANSWERED] += 1
            self._send(SUBTYPE_ECHO_REPLY, number)

    def _tell_misses(self, now: float) -> None:
        """Tell the far member that packets of its own are missing here, if many are; and heed its word."""
        holes, came = self._counters[DropReason.HOLE], self._counters[MemberCounter.IN_ESP_OK]
        if (holes - self._holes) * _MISSES_OF > came - self._came and not self._esp:
            self._send(SUBTYPE_ECHO_REPLY, TOLD)
        self._holes, self._came = holes, came
        if now - self._far_missed > _MISSES_S:
            self._outbound.tells_heads = False

    def tell_moved(self) -> bool:
        """Tell the far member that flows of what it was sent before go on with others; False: it could not be sent.

        It is not answered, so it is said a few times at once: later it would be about flows that have come since.
        """
        if not self.are_answered:
            return True
        is_sent = self._send(SUBTYPE_ECHO, MOVED)
        for _ in range(_MOVED_AGAIN if is_sent else 0):
            self._send(SUBTYPE_ECHO, MOVED)
        return is_sent

    def publish(self) -> None:
        """Show the supervisor and the demux what is in force."""
        link, mtu = self._shared.link, self.sizes.mtu_bytes
        link[LinkWord.PATH_DOWN] = not self.pulse.up
        link[LinkWord.RTT_US] = round(1e6 * self.pulse.rtt_s)
        link[LinkWord.PATH_MTU] = mtu
        link[LinkWord.CHUNK] = self._geometry.chunk_for(mtu)

    def _tell_check(self) -> None:
        """Show the agent how the check goes that a user asked for."""
        told, check, sa = self._checked, self._check, self._outbound.sa
        told[CheckWord.RUN], told[CheckWord.SENT], told[CheckWord.BACK] = check.run, check.sent, check.back
        told[CheckWord.SPI] = sa.spi if sa is not None else 0
        told[CheckWord.RTT_US] = round(1e6 * sum(check.rtts_s) / max(1, check.back))
        self._shared.check.publish()

    def _send(self, subtype: int, number: int, octets: int = 0) -> bool:
        if subtype == SUBTYPE_ECHO:
            self._counters[MemberCounter.ECHOES_SENT] += 1
        if self._esp:
            return self._outbound.send_control(in_dummy(subtype, number), NEXT_DUMMY)
        return self._outbound.send_control(in_stream(subtype, number, octets), NEXT_AGGFRAG)

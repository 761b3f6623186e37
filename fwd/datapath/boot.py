"""A member's boot record: the SAs that it begins with. Without one it rests until keyd has written one."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import time
from typing import Final

from fwd.datapath.clock import boot_ms
from fwd.datapath.shared import REST_MAX_S, LinkWord, MemberShared
from fwd.proto.logged import event
from fwd.proto.sa import SET_BYTES_MAX, SaSet

_WAITS_S: Final = 1.0  # without keys, before the log is told: a start takes so long
_WAITS_EVERY_S: Final = 3600.0  # and told again

log = logging.getLogger(__name__)


def take_boot_record(sock: socket.socket) -> SaSet | None:
    """Take the first boot record that can be used, each by one receive, so that no other process has it."""
    with contextlib.suppress(BlockingIOError):
        while True:
            boot = SaSet.decode(sock.recv(SET_BYTES_MAX))
            if boot.outbound is not None and not 0 < boot.outbound.deadline_ms <= boot_ms():
                return boot
            if boot.outbound is not None:
                told = event("member.sa_expired", spi=f"{boot.outbound.spi:#010x}", way="out")
                log.warning("SPI %#010x has waited until its end, and is not sent on", boot.outbound.spi, extra=told)
    return None


def wait_for_keys(boot_sock: socket.socket, control: socket.socket, shared: MemberShared) -> SaSet:
    """Rest until there is a boot record; the log is told once, and every hour.

    What a predecessor sent on is sent on no more. What keyd tells one that has no keys is in its boot record, too.
    """
    shared.link[LinkWord.SPI_OUT] = 0
    poll = select.poll()
    for sock in (boot_sock, control):
        poll.register(sock, select.POLLIN)
    tell_at = time.monotonic() + _WAITS_S

    # What keyd says meanwhile is in the boot record, too, and must not fill the queue.
    while True:
        with contextlib.suppress(BlockingIOError):
            while True:
                control.recv(SET_BYTES_MAX)
        now = time.monotonic()
        boot = take_boot_record(boot_sock)
        if boot is not None:
            shared.process.heartbeat[0] = int(now * 1e9)
            return boot

        # Its heartbeat tells until when it rests, so that nobody takes it for hung.
        if now >= tell_at:
            tell_at = now + _WAITS_EVERY_S
            log.warning("waits for keys: there is no SA to send on yet", extra=event("member.waits"))
        wait_s = min(REST_MAX_S, tell_at - now)
        shared.process.heartbeat[0] = int((now + wait_s) * 1e9)
        poll.poll(wait_s * 1000)

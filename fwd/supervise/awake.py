"""Keeps the host's CPUs out of deep sleep on request (`gateway.low_latency`): /dev/cpu_dma_latency, held open at 0.

As long as it is held, Linux takes no idle state that needs time to be left (its PM QoS interface). It is a wish: where
the device is missing, or the kernel leaves idling to the hypervisor (most virtual machines have no cpuidle driver),
nothing comes of it, and `concern` says so. The kernel takes the wish back when the descriptor is closed, also by a
crash.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

from fwd.proto.logged import event

log = logging.getLogger(__name__)
_DEVICE: Final = Path("/dev/cpu_dma_latency")
_DRIVER: Final = Path("/sys/devices/system/cpu/cpuidle/current_driver")
_NO_LATENCY_US: Final = (0).to_bytes(4, "little")


class Awake:
    """The host's CPUs, kept awake or not."""

    def __init__(self, device: Path = _DEVICE, driver: Path = _DRIVER) -> None:
        self._device, self._driver = device, driver
        self._fd: int | None = None
        self.concern = ""  # why what is wanted has no effect; empty: it has, or nothing is wanted

    def want(self, wanted: bool) -> None:
        """Keep the CPUs awake from now on, or let them sleep again; why that has no effect is told, not raised."""
        if not wanted:
            self.close()
            return
        if self._fd is not None:
            return
        try:
            self._fd = os.open(self._device, os.O_WRONLY | os.O_CLOEXEC)
            os.write(self._fd, _NO_LATENCY_US)
        except OSError as error:
            self.close()
            self.concern = f"low_latency has no effect: {self._device}: {error.strerror}; {_remedy(error)}"
        else:
            self.concern = self._undriven()
        if self.concern:
            log.warning("%s", self.concern, extra=event("gateway.low_latency", reason=self.concern))

    def close(self) -> None:
        """Let the CPUs sleep again."""
        self.concern = ""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _undriven(self) -> str:
        """Why the kernel, which has taken the wish, cannot follow it."""
        try:
            driver = self._driver.read_text(encoding="ascii", errors="replace").strip()
        except OSError:
            driver = "none"
        if driver not in ("none", ""):
            return ""
        return (
            "low_latency has no effect: this kernel has no cpuidle driver, so the hypervisor decides how CPUs sleep; "
            "leave it out here, or boot with cpuidle_haltpoll"
        )


def _remedy(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "leave it out here, or pass the device to the container"
    return "allow the device (systemd: DeviceAllow=/dev/cpu_dma_latency rw), or leave it out"

"""What is held so that the host's CPUs do not sleep deeply, and what is said where nothing comes of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fwd.supervise.awake import Awake


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "cpu_dma_latency"
    path.touch()
    return path


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    path = tmp_path / "current_driver"
    path.write_text("intel_idle\n")
    return path


@pytest.fixture
def awake(device: Path, driver: Path) -> Iterator[Awake]:
    made = Awake(device, driver)
    yield made
    made.close()


def times_held(device: Path) -> int:
    """How many descriptors of this process are of the device."""
    links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
    return sum(os.path.exists(link) and os.path.samefile(link, device) for link in links)


def test_no_latency_is_asked_for_and_the_device_stays_open(awake: Awake, device: Path) -> None:
    for _ in range(2):
        awake.want(True)
        assert (times_held(device), device.read_bytes(), awake.concern) == (1, bytes(4), "")


def test_it_is_let_go_when_nobody_wants_it_any_more_and_at_the_end(awake: Awake, device: Path) -> None:
    for end in (lambda: awake.want(False), awake.close):
        awake.want(True)
        assert times_held(device) == 1
        end()
        assert times_held(device) == 0


def test_what_nobody_wants_is_not_opened(awake: Awake, device: Path) -> None:
    awake.want(False)
    assert (times_held(device), device.read_bytes(), awake.concern) == (0, b"", "")


def test_a_device_that_is_not_there_is_a_concern_until_it_is_or_nobody_wants_it(awake: Awake, device: Path) -> None:
    device.unlink()
    awake.want(True)
    assert awake.concern == (
        f"low_latency has no effect: {device}: No such file or directory; leave it out here, or pass the device to the "
        "container"
    )
    awake.want(False)
    assert not awake.concern

    awake.want(True)
    device.touch()
    awake.want(True)
    assert not awake.concern


def test_a_device_that_may_not_be_opened_is_a_concern(device: Path, driver: Path) -> None:
    awake = Awake(device.parent, driver)  # a directory: nobody may write it
    awake.want(True)
    assert "has no effect" in awake.concern
    assert "DeviceAllow=/dev/cpu_dma_latency rw" in awake.concern


@pytest.mark.parametrize("text", ["none\n", "", None])
def test_a_kernel_that_does_not_decide_how_cpus_sleep_is_a_concern(
    text: str | None, awake: Awake, device: Path, driver: Path
) -> None:
    driver.unlink()
    if text is not None:
        driver.write_text(text)
    awake.want(True)
    assert "has no cpuidle driver" in awake.concern
    assert times_held(device) == 1

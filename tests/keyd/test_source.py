"""The lab source: both sides derive the same keys, no two uses share one, bad secrets are refused in one line."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fwd.keyd.secrets import SecretError, open_secret
from fwd.keyd.source import EPOCHS_MAX, LabSource
from fwd.model.config import Peering
from fwd.model.keys import LabKeys
from fwd.proto.sa import SLOTS

SECRET = bytes(range(48))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    path.chmod(0o600)
    return path


def peering(side: int, *, esn: bool = True) -> Peering:
    mine, theirs = (1, 2) if side == 1 else (2, 1)
    values = {
        "name": "p", "local_addrs": f"192.0.2.{mine}", "remote_addrs": f"192.0.2.{theirs}",
        "local_ts": [f"10.{mine}.0.0/16"], "remote_ts": [f"10.{theirs}.0.0/16"],
        "keys": LabKeys(source="lab", secret=Path("x")), "esn": esn,
    }  # fmt: skip
    return Peering.model_validate(values)


@pytest.fixture
def sources(secret: Path) -> Iterator[tuple[LabSource, LabSource]]:
    fd = open_secret(secret)
    yield LabSource(fd, peering(1)), LabSource(fd, peering(2))
    os.close(fd)


def test_what_one_side_sends_on_the_other_receives_on(sources: tuple[LabSource, LabSource]) -> None:
    one, two = sources
    for member, epoch in itertools.product(range(3), (0, 1, 2, 17, 4000)):
        assert one.outbound(member, epoch) == two.inbound(member, epoch)
        assert two.outbound(member, epoch) == one.inbound(member, epoch)
        assert one.outbound(member, epoch).key != two.outbound(member, epoch).key


def test_no_key_is_used_twice(sources: tuple[LabSource, LabSource]) -> None:
    sas = [s.outbound(m, e) for s in sources for m in range(4) for e in range(40)]
    assert (
        len({sa.key for sa in sas}) == len({sa.key + sa.salt for sa in sas}) == len({sa.spi for sa in sas}) == len(sas)
    )
    assert all(sa.spi >= 256 and sa.slot < SLOTS for sa in sas)


def test_peerings_that_share_a_secret_share_no_key(sources: tuple[LabSource, LabSource], secret: Path) -> None:
    """Two peerings of the same gateways differ in their ports at least, whatever else is alike."""
    secret.write_bytes(SECRET)
    secret.chmod(0o600)
    fd = open_secret(secret)
    other = LabSource(fd, peering(1).model_copy(update={"port": 4600}))
    os.close(fd)
    keys = [s.outbound(m, e).key for s in (sources[0], other) for m in range(4) for e in range(10)]
    assert len(set(keys)) == len(keys)


def test_another_secret_gives_other_keys(sources: tuple[LabSource, LabSource], tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(SECRET[::-1])
    path.chmod(0o600)
    fd = open_secret(path)
    assert LabSource(fd, peering(1)).outbound(0, 0).key != sources[0].outbound(0, 0).key
    os.close(fd)


def test_an_spi_names_its_epoch_to_its_own_member_alone(sources: tuple[LabSource, LabSource]) -> None:
    one, two = sources
    for member, epoch in itertools.product(range(3), (0, 5, 900)):
        spi = two.outbound(member, epoch).spi
        assert one.inbound_epoch(member, spi) == epoch
        assert one.inbound_epoch(member + 1, spi) is None
        assert two.inbound_epoch(member, spi) is None
        assert spi & 0xFF == member
    for spi in (0, 1, 255, 2**32 - 1, 0x7F000000):
        assert one.inbound_epoch(0, spi) is None or one.inbound(0, one.inbound_epoch(0, spi) or 0).spi == spi


def test_epochs_end(sources: tuple[LabSource, LabSource]) -> None:
    with pytest.raises(OverflowError):
        sources[0].outbound(0, EPOCHS_MAX - 1)


def test_a_key_is_not_in_what_is_printed(sources: tuple[LabSource, LabSource]) -> None:
    sa = sources[0].outbound(0, 0)
    assert repr(sa.key)[2:10] not in repr(sa)
    assert "salt" not in repr(sa)


# -- secrets ----------------------------------------------------------------------------------------------------


def test_a_good_secret_is_opened_and_unlinked(secret: Path) -> None:
    fd = open_secret(secret)
    assert os.pread(fd, 100, 0) == SECRET
    assert not secret.exists()
    assert not os.get_inheritable(fd)
    os.close(fd)


def refused(path: Path) -> str:
    fds = set(os.listdir("/proc/self/fd"))
    with pytest.raises(SecretError) as error:
        open_secret(path)
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith(str(path))
    assert set(os.listdir("/proc/self/fd")) == fds, "a descriptor was left open"
    return text


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610, 0o601])
def test_a_secret_that_others_may_read_is_refused(secret: Path, mode: int) -> None:
    secret.chmod(mode)
    assert f"{mode:04o}" in refused(secret)
    assert secret.exists()


def test_a_short_secret_is_refused(secret: Path) -> None:
    secret.write_bytes(bytes(31))
    assert "31 bytes" in refused(secret)


def test_a_missing_secret_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "none")


def test_a_symlink_is_refused(secret: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(secret)
    refused(link)
    assert secret.exists()


def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert "regular file" in refused(tmp_path)


def test_a_fifo_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    assert "regular file" in refused(tmp_path / "fifo")


def test_somebody_elses_secret_is_refused(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert f"belongs to user {owner}" in refused(secret)


def test_a_secret_that_cannot_be_unlinked_is_refused(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert "Read-only" in refused(secret)

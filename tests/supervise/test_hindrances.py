"""What keeps a peering from being set up, and what is to be told of it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fwd import files
from fwd.proto.errors import UserError
from fwd.supervise.hindrances import NotYetError, is_final, is_short_of_descriptors

FINAL: list[tuple[Exception, bool]] = [
    (UserError("a path"), True),
    (NotYetError("an address"), False),
    (OSError(errno.EMFILE, "too many"), True),
    (OSError(errno.ENFILE, "too many"), True),
    (OSError(errno.ENODEV, "no device"), False),
    (ValueError(), False),
]


@pytest.mark.parametrize(("error", "final"), FINAL, ids=repr)
def test_what_time_does_not_mend_is_for_the_user(error: Exception, final: bool) -> None:
    assert is_final(error) is final


def test_a_file_that_is_not_copied_for_want_of_descriptors_is_no_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 32)
    secret.chmod(0o600)

    def fails(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "memfd_create", fails)
    with pytest.raises(UserError) as told:
        os.close(files.open_secret(secret, "secret", 64))
    assert is_short_of_descriptors(told.value)
    assert not is_short_of_descriptors(UserError("of another reason"))

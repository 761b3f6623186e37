"""Whom the children run as: whom the configuration names, else the package's own user, else nobody."""

from __future__ import annotations

import pwd
from types import SimpleNamespace

import pytest

from fwd.proto.errors import UserError
from fwd.supervise.privileges import find_user


@pytest.fixture
def users(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The users that there are; a test may add some."""
    known = {"nobody": 65534, "daemon": 1}
    monkeypatch.setattr(pwd, "getpwnam", lambda name: SimpleNamespace(pw_uid=known[name], pw_gid=known[name] + 1))
    return known


def test_the_user_that_is_named(users: dict[str, int]) -> None:
    users["fwd"] = 997
    assert find_user("daemon") == (1, 2)


def test_the_packages_user_if_none_is_named(users: dict[str, int]) -> None:
    users["fwd"] = 997
    assert find_user(None) == (997, 998)


def test_nobody_if_there_is_no_such_user(users: dict[str, int]) -> None:
    assert find_user(None) == (65534, 65535)


def test_a_named_user_is_never_replaced_by_another(users: dict[str, int]) -> None:
    with pytest.raises(UserError, match="no such user: fwdd"):
        find_user("fwdd")

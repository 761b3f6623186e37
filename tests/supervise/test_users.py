"""Whom the children run as: three users that the configuration names, the package's, or numbers that are free."""

from __future__ import annotations

import os
import pwd
from types import SimpleNamespace

import pytest

from fwd.proto.errors import UserError
from fwd.supervise import users as module
from fwd.supervise.users import find_users, free_numbers

PACKAGED = {"fwd": 997, "fwd-keyd": 996, "fwd-agent": 995}


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The users that there are; a test may add some. Groups are one higher."""
    known = {"root": 0, "daemon": 1, "nobody": 65534}
    monkeypatch.setattr(pwd, "getpwnam", lambda name: SimpleNamespace(pw_uid=known[name], pw_gid=known[name] + 1))
    return known


def test_the_packages_users_if_none_is_named(known: dict[str, int]) -> None:
    known.update(PACKAGED)
    users = find_users(None)
    assert users == {
        "demux": (997, 998), "member": (997, 998), "keyd": (996, 997), "agent": (995, 996),
        "beacon": (995, 996),
    }  # fmt: skip


def test_users_of_a_name(known: dict[str, int]) -> None:
    known.update({"vpn": 1, "vpn-keyd": 2, "vpn-agent": 3})
    assert {kind: uid for kind, (uid, _) in find_users("vpn").items()} == {
        "demux": 1, "member": 1, "keyd": 2, "agent": 3, "beacon": 3,
    }  # fmt: skip


@pytest.mark.parametrize("wanted", [60000, "60000"])
def test_users_of_a_number_need_no_names(wanted: str | int, known: dict[str, int]) -> None:
    users = find_users(wanted)
    assert users == {
        "demux": (60000, 60000), "member": (60000, 60000), "keyd": (60001, 60001), "agent": (60002, 60002),
        "beacon": (60002, 60002),
    }  # fmt: skip


def test_a_gateway_with_a_controller_has_a_fourth_for_link(known: dict[str, int]) -> None:
    known.update({**PACKAGED, "fwd-link": 994})
    assert find_users(None, joined=True)["link"] == (994, 995)
    assert "link" not in find_users(None)
    assert find_users(60000, joined=True)["link"] == (60003, 60003)
    known.update({"vpn": 1, "vpn-keyd": 2, "vpn-agent": 3})
    with pytest.raises(UserError, match="no such user: vpn-link; fwd runs as four"):
        find_users("vpn", joined=True)


@pytest.mark.parametrize("there", [[], ["fwd"], ["fwd", "fwd-keyd"]])
def test_free_numbers_where_the_packages_users_are_not_all_there(there: list[str], known: dict[str, int]) -> None:
    known.update({name: PACKAGED[name] for name in there})
    uids = {uid for uid, _ in find_users(None).values()}
    assert len(uids) == 3
    assert uids <= set(module.FREE)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("fwdd", "no such user: fwdd"),
        ("daemon", "no such user: daemon-keyd"),
        ("nobody", "nobody"),
        (65534, "nobody"),
        ("65532", "65534 is nobody"),
        (0, "0 is root"),
        ("root", "root"),
        (2**32 - 3, "no number"),
        ("-1", "no such user"),
    ],
)
def test_what_is_no_user_for_this_is_refused_in_one_line(wanted: str | int, words: str, known: dict[str, int]) -> None:
    known.update({f"{name}{end}": 70 + i for i, end in enumerate(("-keyd", "-agent")) for name in ("nobody", "root")})
    with pytest.raises(UserError, match=f"gateway.user: .*{words}") as refusal:
        find_users(wanted)
    assert "\n" not in str(refusal.value)


def test_three_names_of_one_number_are_refused(known: dict[str, int]) -> None:
    known.update({"vpn": 1, "vpn-keyd": 1, "vpn-agent": 3})
    with pytest.raises(UserError, match="must differ"):
        find_users("vpn")


def test_numbers_with_a_process_are_not_free() -> None:
    near, far = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setresuid(60601, 60600, 60600)
        os.write(far, b"x")
        os.read(os.pipe()[0], 1)
    try:
        assert os.read(near, 1)
        assert 60601 in module._in_use() or os.geteuid() != 0
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(near)
        os.close(far)


@pytest.mark.parametrize(
    ("start", "taken", "found"),
    [(0, [], [10, 11, 12]), (1, [], [13, 14, 15]), (3, [], [10, 11, 12]), (0, [12], [13, 14, 15]),
     (2, [16], [10, 11, 12])],
)  # fmt: skip
def test_which_numbers_are_free(start: int, taken: list[int], found: list[int]) -> None:
    assert free_numbers(range(10, 19), start, taken) == found


def test_no_free_numbers() -> None:
    with pytest.raises(UserError, match=r"no three free .* gateway\.user"):
        free_numbers(range(10, 19), 0, [10, 14, 18])

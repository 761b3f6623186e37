"""What a user asks of the supervisor of a gateway that runs."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from gwkit import MakePair, Pair, until

from fwd.control import admin, ike
from fwd.keyd.shown import DRAINS
from fwd.model.config import admin_path
from fwd.proto.errors import UserError


@pytest.fixture(scope="module")
def pair(module_pairs: MakePair) -> Pair:
    """The second gateway waits for the first to begin."""
    return module_pairs(({"keys": {"gw1": {}, "gw2": {"start_action": "none"}}},), keys={"source": "psk"})


def test_a_peering_that_was_terminated_stays_so_when_keyd_is_replaced_until_it_is_initiated(pair: Pair) -> None:
    name, control = pair.peering("gw1")["name"], pair.control("gw1")
    ike.terminate(control, name)
    assert not pair.ping()
    until(lambda: codes(pair, "gw1") == ["terminated"], 15.0, "it says why")
    gone = pair.kill("gw1", "keyd")
    until(lambda: pair.pids("gw1")["keyd"] not in (0, gone), 20.0, "keyd is replaced")
    admin.tell(control, "rekey", peering=name)  # which shows that keyd's loop turns
    until(lambda: f"{name}: a user asks to rekey" in pair.log("gw1"), 15.0, "keyd turns")
    assert pair.log("gw1").count("event=ike.established") == 1
    until(lambda: codes(pair, "gw1") == ["terminated"], 15.0, "it still says why")
    assert not pair.ping()
    ike.initiate(control, name)
    pair.wait_ready("gw1")
    since = pair.log("gw1").partition(f"{name}: a user asks to initiate")[2]
    assert since.count("event=ike.established") == 1
    until(pair.ping, 15.0, "traffic passes again")
    assert "rekeyed" in ike.rekey(control, name)


def test_nobody_but_root_is_heard(pair: Pair) -> None:
    asks: list[Callable[[], object]] = [
        lambda: admin.tell(pair.control("gw1"), "rekey", peering="p"),
        lambda: ike.rekey(pair.control("gw1"), "p"),
    ]
    for ask in asks:
        os.seteuid(65534)
        try:
            with pytest.raises(UserError, match="root alone"):
                ask()
        finally:
            os.seteuid(0)
    assert os.stat(admin_path(pair.control("gw1"))).st_mode & 0o777 == 0o600


def test_a_peering_that_there_is_not_is_named_with_those_that_there_are(pair: Pair) -> None:
    with pytest.raises(UserError, match="no peering 'nowhere'"):
        ike.rekey(pair.control("gw1"), "nowhere")


def test_a_gateway_that_is_drained_says_so_here_and_there_and_carries_on(pair: Pair) -> None:
    admin.tell(pair.control("gw1"), "drain")
    until(lambda: codes(pair, "gw1") == ["draining"], 15.0, "not ready")
    until(lambda: any(DRAINS in one for one in pair.status("gw2")["warnings"]), 20.0, "the far side knows")
    assert pair.status("gw2")["ready"]
    assert pair.ping()

    # It outlives keyd, the agent and a reload.
    for name in ("agent", "keyd"):
        gone = pair.kill("gw1", name)
        until(lambda name=name, gone=gone: pair.pids("gw1")[name] not in (0, gone), 20.0, "replaced")  # type: ignore[misc]
    pair.reload("gw1")
    until(lambda: codes(pair, "gw1") == ["draining"], 20.0, "still not ready")
    until(lambda: any(DRAINS in one for one in pair.status("gw2")["warnings"]), 20.0, "the far side still knows")

    admin.tell(pair.control("gw1"), "undrain")
    until(lambda: not any(DRAINS in one for one in pair.status("gw2")["warnings"]), 20.0, "the far side knows its end")
    pair.wait_ready()


def codes(pair: Pair, host: str) -> list[str]:
    return [one["code"] for one in pair.status(host)["reasons"]]

"""What a user asks of the supervisor of a gateway that runs."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from gwkit import MakePair, Pair, until

from fwd.control import ike
from fwd.control.admin import tell
from fwd.model.config import admin_path
from fwd.proto.errors import UserError


@pytest.fixture(scope="module")
def pair(module_pairs: MakePair) -> Pair:
    """The second gateway waits for the first to begin."""
    return module_pairs(({"keys": {"gw1": {}, "gw2": {"start_action": "none"}}},), keys={"source": "psk"})


def test_a_peering_that_was_terminated_stays_so_when_keyd_is_replaced_until_it_is_initiated(pair: Pair) -> None:
    name, control = pair.peering("gw1")["name"], pair.control("gw1")
    ike.terminate(control, name)
    pair.wait_replaced("gw1", "keyd", pair.kill("gw1", "keyd"), 20.0)
    tell(control, "rekey", peering=name)  # which shows that keyd's loop turns
    until(lambda: f"{name}: a user asks to rekey" in pair.log("gw1"), 15.0, "keyd turns")
    assert pair.log("gw1").count("event=ike.established") == 1
    ike.initiate(control, name)
    pair.wait_ready("gw1")
    since = pair.log("gw1").partition(f"{name}: a user asks to initiate")[2]
    assert since.count("event=ike.established") == 1
    assert "rekeyed" in ike.rekey(control, name)


def test_nobody_but_root_is_heard(pair: Pair) -> None:
    asks: list[Callable[[], object]] = [
        lambda: tell(pair.control("gw1"), "rekey", peering="p"),
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

"""A gateway with the compiled core, and one in pure Python or with the core's other library: the wire is the same, and
each says what it is."""

from __future__ import annotations

import os

import pytest
from gwkit import MakePair

from fwd.proto import core


@pytest.mark.parametrize(
    ("payload", "setting"),
    [("superpacket", "FWD_PURE=1"), ("esp", "FWD_PURE=1"), ("superpacket", "FWD_CIPHER=openssl")],
)
def test_a_gateway_with_the_core_and_one_without_carry_traffic(
    pairs: MakePair, monkeypatch: pytest.MonkeyPatch, payload: str, setting: str
) -> None:
    pair = pairs([{"payload": payload}], start=False)
    pair.secret = os.urandom(32)
    pair.launch("gw1")

    # The second one by itself: what others fork from has decided already.
    monkeypatch.setenv(*setting.split("=", 1))
    pair.program = ["-B", *pair.program]
    pair.launch("gw2")
    pair.wait_ready()
    told = [pair.status(host)["gateway"] for host in ("gw1", "gw2")]
    assert [one["core"] for one in told] == [core.name(), "pure" if setting == "FWD_PURE=1" else core.name()]
    assert told[0]["cipher"] == core.library_name()
    assert told[1]["cipher"].startswith("OpenSSL ")

    assert pair.ping(count=3)
    for reverse in (False, True):
        assert pair.tcp(seconds=1.0, reverse=reverse) > 0
    assert not pair.key_drops()

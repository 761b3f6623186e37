"""A gateway's host that freezes is restarted by the controller's command, and is in use again; not past the limit."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from clusterkit import GAP_S_MAX, Cluster, Load, MakeFleet, until

from fwd.controller.mend import LIMIT
from fwd.lab.fleet.plan import CONTROLLER

SCRIPT = """\
exec >{directory}/$1.log 2>&1 </dev/null
ip netns pids {lab}-$1 | xargs -r kill -9
ip netns exec {lab}-$1 setsid {python} -P -m fwd demux --config {directory}/$1.toml &
"""


@pytest.mark.parametrize("limit", [1, pytest.param(LIMIT, marks=pytest.mark.long)])
@pytest.mark.timeout(480)
def test_a_host_that_freezes_is_restarted_and_in_use_again_and_past_the_limit_it_is_not(
    fleets: MakeFleet, tmp_path: Path, limit: int
) -> None:
    lab, script = fleets(2, 2, peered=True), tmp_path / "restart"
    script.write_text(SCRIPT.format(lab=lab.fleet.name, python=sys.executable, directory=lab.directory))
    keys = {} if limit == LIMIT else {"restart_limit": limit}
    lab.stop(CONTROLLER)
    lab.write_controller(restart_command=["/bin/sh", str(script), "{name}"], restart_wait=20, **keys)
    lab.start_controller()
    until(lab.is_whole, "all are up")
    for count in range(1, limit + 1):
        with lab.load() as load:
            frozen(lab)
            until(lambda count=count: len(restarts(lab)) == count, "it is restarted")  # type: ignore[misc]
            lab.until_uses("router1", gw1="up", gw2="up")
            lab.until_health("gw2", "up")
            one = restarts(lab)[0]
            assert (one["name"], one["who"]) == ("gw2", "controller")
            assert one["result"].startswith("done")
            assert "no heartbeat" in one["reason"]
            check(load)
    assert any("not once more" in one for one in told(lab)), "which was said when the last one began"

    # And once more than may be, under new flows: those of before stay where they are.
    with lab.load() as load:
        frozen(lab)
        until(lambda: any("down again" in one for one in told(lab)), "it is told that it is not restarted", 90.0)
        assert lab.health("gateways", "gw2") == "down"
        assert len(restarts(lab)) == limit
        lab.signal("gw2", signal.SIGCONT)
        lab.until_uses("router1", gw1="up", gw2="up")
        check(load)


def told(lab: Cluster) -> list[str]:
    """What is said of restarts that will not be."""
    return [str(one["text"]) for one in lab.api.items("events") if one["what"] == "host.not_restarted"]


def frozen(lab: Cluster) -> None:
    """Freeze gw2, once it has traffic."""
    sent = lab.records("gw2")
    until(lambda: lab.records("gw2") > sent + 200, "traffic")
    lab.signal("gw2", signal.SIGSTOP)


def restarts(lab: Cluster) -> list[dict[str, Any]]:
    """All restarts, the last one first."""
    return [one for one in lab.api.items("operations") if one["act"] == "restart"]


def check(load: Load) -> None:
    """End the flows: no one was silent for long, none was reset."""
    load.end()
    assert max(load.silence_s) < GAP_S_MAX, load.silence_s
    assert load.resets == 0

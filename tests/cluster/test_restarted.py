"""A gateway's host that freezes is restarted by the controller's command, and is in use again; not past the limit."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
from clusterkit import GAP_S_MAX, MakeFleet, until

from fwd.lab.fleet.plan import CONTROLLER

SCRIPT = """\
exec >{directory}/$1.log 2>&1 </dev/null
ip netns pids {lab}-$1 | xargs -r kill -9
ip netns exec {lab}-$1 setsid {python} -P -m fwd demux --config {directory}/$1.toml &
"""


@pytest.mark.timeout(240)
def test_a_host_that_freezes_is_restarted_and_in_use_again_and_past_the_limit_it_is_not(
    fleets: MakeFleet, tmp_path: Path
) -> None:
    lab, script = fleets(2, 2, peered=True), tmp_path / "restart"
    script.write_text(SCRIPT.format(lab=lab.fleet.name, python=sys.executable, directory=lab.directory))
    lab.stop(CONTROLLER)
    lab.write_controller(restart_command=["/bin/sh", str(script), "{name}"], restart_limit=1, restart_wait=20)
    lab.start_controller()
    until(lab.is_whole, "all are up")
    with lab.load() as first:
        until(lambda: lab.records("gw2") > 200, "traffic")

        # The first time.
        lab.signal("gw2", signal.SIGSTOP)
        until(lambda: "host.restart" in lab.events(), "it is restarted")
        lab.until_uses("router1", gw1="up", gw2="up")
        lab.until_health("gw2", "up")
        (one,) = [one for one in lab.api.items("operations") if one["act"] == "restart"]
        assert (one["name"], one["who"]) == ("gw2", "controller")
        assert one["result"].startswith("done")
        assert "no heartbeat" in one["reason"]
        first.end()

    # And once more than may be, under new flows: those of before stay where they are.
    with lab.load() as second:
        sent = lab.records("gw2")
        until(lambda: lab.records("gw2") > sent + 200, "traffic")
        lab.signal("gw2", signal.SIGSTOP)
        until(lambda: "host.not_restarted" in lab.events(), "it is told that it is not restarted", 90.0)
        assert lab.health("gateways", "gw2") == "down"
        lab.signal("gw2", signal.SIGCONT)
        lab.until_uses("router1", gw1="up", gw2="up")
        second.end()
    for load in (first, second):
        assert max(load.silence_s) < GAP_S_MAX, load.silence_s
        assert load.resets == 0

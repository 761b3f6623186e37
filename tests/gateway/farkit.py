"""One gateway and its two far gateways, gw2 and gw3, which share a LAN and know nothing of each other.

gw1 has one outer address for both. client2 answers by way of gw2, so what comes through gw3 is one way only.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import numpy as np
from gwkit import Json, Pair, inside, until

from fwd.proto.flow import owners, rendezvous_scores

MEMBERS = 4  # of gw1; the others have two each
FAR = 1  # gw3 is the second of gw1's far gateways
ITS_MEMBERS = (1, 3)
FORK: Json = {"lab": {"sites": {"vpc1": 1, "vpc2": 2}}, "keys": {"source": "psk", "dpd_delay": 1}}


class Fan(Pair):
    """gw1 with gw2 and gw3."""

    def wait_ready(self, *hosts: str, seconds: float = 60.0) -> None:
        """Wait until they are, and gw1 has both far gateways."""
        super().wait_ready(*hosts, seconds=seconds)
        until(lambda: [far["state"] for far in self.peering("gw1")["far"]] == ["up", "up"], 60.0, "both far up")
        self.wait_shared()

    def wait_shared(self) -> None:
        """Every bucket is with the member that it belongs to while all are there."""
        owned = np.bincount(owners(rendezvous_scores(MEMBERS), (1 << MEMBERS) - 1), minlength=MEMBERS).tolist()
        until(lambda: [m["buckets"] for m in self.peering("gw1")["members"]] == owned, 60.0, "every bucket at home")

    def far(self) -> Json:
        """What gw1 says of gw3."""
        found: Json = self.peering("gw1")["far"][FAR]
        return found

    def buckets(self) -> list[int]:
        """How many buckets the members of gw1 have that are paired with gw3."""
        members = self.peering("gw1")["members"]
        return [members[i]["buckets"] for i in ITS_MEMBERS]

    def kill_gw3(self) -> None:
        """All of its fwd, at once and without a word."""
        process = self.running.pop("gw3")
        for pid in [process.pid, *(one.pid for one in inside(self.topology, "gw3") if one.pid != process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    @contextlib.contextmanager
    def gw3_gone(self, how: str) -> Iterator[None]:
        """gw3 is killed, or its link is cut; at the end it is back, and begins."""
        if how == "killed":
            self.kill_gw3()
            yield
            self.launch("gw3")
        else:
            with self.rule("gw3", "prerouting", "iifname wan drop"):
                yield

"""Random disturbances of the kernel's state and of processes, from a seed, under pings and a capture: traffic comes
back by itself, nothing leaves in the clear, and while nothing passes the gateway is not ready and says why."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from gwkit import MakePair, Pair, until
from test_guards_stand import second
from test_supervisor import MARKER, crash, pinging

SEED = 20261125
LIMIT_S = 30.0  # on a machine that does other things, too
RETURN_S = 2.0  # at p99, on one that does not
BOTH_RETURN_S = 0.1
SILENT_S = 2.0  # after which a gateway that carries nothing must say so

GUARD_ROUTE = "ip route del unreachable 10.2.0.0/24 metric 1000000"
# Of the guards one layer at a time: what takes both at once is a test of its own.
GOES = [
    "ip link set fwd0 down; ip link set fwd0 up",
    "ip link set fwd0 down",
    "ip link set fwd0 mtu 1300",
    "ip link set fwd0 mtu 900",
    "ip link set fwd0 txqueuelen 3",
    "ip link del fwd0",
    "ip route del 10.2.0.0/24 dev fwd0",
    "ip route replace 10.2.0.0/24 via 192.0.2.2; ip route del 10.2.0.0/24 via 192.0.2.2",
    "ip -6 route flush fd00:2::/64",
    GUARD_ROUTE,
    "nft flush ruleset",
    "nft flush chain inet fwd_to_gw2_0 to_wire",
    "nft insert rule inet fwd_to_gw2_0 from_wire accept",
    "nft delete chain inet fwd_to_gw2_0 to_lan; nft delete table inet fwd_to_gw2_0",
    "ip addr add 10.2.0.99/24 dev lan; ip addr del 10.2.0.99/24 dev lan",
    "sysctl -qw net.ipv4.conf.fwd0.forwarding=0; sysctl -qw net.ipv4.conf.fwd0.forwarding=1",
    "ip route flush cache; ip neigh flush all",
]
# What fwd cannot restore, and how it is undone.
STAYS = [
    ("sysctl -qw net.ipv4.ip_forward=0", "sysctl -qw net.ipv4.ip_forward=1"),
    ("ip route add 10.2.0.10/32 via 192.0.2.2", "ip route del 10.2.0.10/32"),
    ("ip link set wan down", "ip link set wan up; ip route replace default via 192.0.2.2"),
    ("ip addr del 10.1.0.1/24 dev lan", "ip addr add 10.1.0.1/24 dev lan"),
    ("ip link set lan down", "ip link set lan up; ip -6 addr replace fd00:1::1/64 dev lan nodad"),
    ("ip addr del 192.0.2.1/24 dev wan",
     "ip addr add 192.0.2.1/24 dev wan; ip route replace default via 192.0.2.2"),
    ("ip rule add to 10.2.0.0/24 lookup 9; ip route add default via 192.0.2.2 table 9",
     "ip rule del to 10.2.0.0/24; ip route flush table 9"),
    ("nft add table ip fw; nft add chain ip fw f '{ type filter hook forward priority 0; policy drop; }'",
     "nft delete table ip fw 2>/dev/null || true"),
]  # fmt: skip
OTHER_KEYS = {"gw1": {"ike_port": 510}}
KILLED = ["demux", "member-0", "member-1", "keyd", "agent"]


@dataclass
class Disturber:
    """Disturbs gw1, and waits until it carries again; `returned_s`: how long that took, of each."""

    pair: Pair
    chance: random.Random
    returned_s: list[float]

    def once(self) -> None:
        kind = self.chance.choices(["goes", "stays", "killed", "crash", "another"], [12, 4, 4, 1, 1])[0]
        if kind == "crash":
            self._crash()
            what = "the supervisor dies"
        elif kind == "another":
            what = self._another()
        elif kind == "goes":
            what = self.chance.choice(GOES)
            self._shell(what)
        elif kind == "stays":
            what, undo = self.chance.choice(STAYS)
            self._shell(what)
            try:
                until(lambda: self.pair.status("gw1")["not_ready"], LIMIT_S, f"told: {what}")
            finally:
                self._shell(undo)
        else:
            what = self.chance.choice(KILLED)
            with contextlib.suppress(AssertionError, ProcessLookupError):  # it is being replaced already
                self.pair.kill("gw1", what)
        self._wait(what)

    def _crash(self) -> None:
        """Let fwd die, and start it again; what was disturbed before has been restored by then."""
        crash(self.pair, "gw1")
        time.sleep(self.chance.uniform(0.0, 0.5))
        self.pair.launch("gw1")
        until(lambda: self.pair.control("gw1").exists(), LIMIT_S, "it starts")
        self.pair.wait_ready("gw1", seconds=LIMIT_S)

    def _another(self) -> str:
        """Start a second fwd on the same host, which wants what the first has, or which has something else."""
        if self.chance.random() < 0.5:
            assert "another fwd on this host" in self.pair.refused("gw1", second(self.pair, "another", keys=OTHER_KEYS))
            return "another fwd that is refused"
        config = second(self.pair, "another", subnets={"gw1": ["10.1.0.0/24"], "gw2": ["10.9.0.0/24"]}, keys=OTHER_KEYS)
        argv = [sys.executable, "-m", "fwd", "demux", "--config", str(config)]
        process = self.pair.topology.popen("gw1", argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until(lambda: self.pair.topology.run_dir.joinpath("another.sock").exists(), LIMIT_S, "the second runs")
            assert self.pair.ping("-p", MARKER.hex())
        finally:
            process.send_signal(self.chance.choice([signal.SIGTERM, signal.SIGKILL]))
            process.wait(LIMIT_S)
        return "another fwd that goes again"

    def _shell(self, command: str) -> None:
        self.pair.topology.run("gw1", ["sh", "-c", command], check=False)

    def _wait(self, what: str) -> None:
        """Until a ping passes; while none does, status says why."""
        began = time.monotonic()
        while not self.pair.ping("-p", MARKER.hex()):
            silent_s = time.monotonic() - began
            assert silent_s < LIMIT_S, f"nothing passes any more: {what}"
            if silent_s > SILENT_S:
                status = self.pair.status("gw1")
                # Between the ping that failed and the status it may have come back.
                assert status["not_ready"] or self.pair.ping("-p", MARKER.hex()), f"ready, and nothing passes: {what}"
        self.returned_s.append(time.monotonic() - began)
        self.pair.wait_ready("gw1", seconds=LIMIT_S)


@contextlib.contextmanager
def disturbed(pair: Pair, seed: int) -> Iterator[Disturber]:
    """Nothing may leave in the clear, no nonce be used twice, while the block runs."""
    with pair.capture(marker=MARKER) as wire, pinging(pair):
        yield Disturber(pair, random.Random(seed), [])
    assert wire["plaintext_packets"] == 0, wire["plaintext_examples"]
    assert not wire["repeated_nonces"]


def remove_both_layers(pair: Pair) -> float:
    """Take both guards and the route away at once; seconds until both guards are back."""
    script = (
        f"nft flush ruleset; {GUARD_ROUTE}; ip route del 10.2.0.0/24 dev fwd0; s=$(date +%s%N);"
        "until ip route show type unreachable | grep -q 10.2.0.0/24 && nft list tables | grep -q fwd_;"
        "do :; done; echo $(($(date +%s%N) - s))"
    )
    done = pair.topology.run("gw1", ["sh", "-c", script], check=False, timeout=LIMIT_S)
    return int(done.stdout) / 1e9


def test_ten_disturbances(pairs: MakePair) -> None:
    pair = pairs(keys={"source": "psk"})
    with disturbed(pair, SEED) as disturber:
        for _ in range(10):
            disturber.once()


def test_both_guards_at_once(pairs: MakePair) -> None:
    pair = pairs()
    for _ in range(3):
        assert remove_both_layers(pair) < LIMIT_S
        pair.wait_ready("gw1", seconds=LIMIT_S)
    assert pair.log("gw1").count("event=kernel.restored") >= 3
    assert pair.ping()


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_five_hundred_disturbances(pairs: MakePair) -> None:
    pair = pairs(keys={"source": "psk"})
    with disturbed(pair, SEED + 1) as disturber:
        for _ in range(500):
            disturber.once()
    assert sorted(disturber.returned_s)[494] < RETURN_S, sorted(disturber.returned_s)[-10:]


@pytest.mark.long
def test_both_guards_at_once_and_quickly(pairs: MakePair) -> None:
    pair = pairs()
    took_s = []
    for _ in range(20):
        took_s.append(remove_both_layers(pair))
        assert not pair.status("gw1")["ready"]
        pair.wait_ready("gw1", seconds=LIMIT_S)
    assert max(took_s) < BOTH_RETURN_S, sorted(took_s)

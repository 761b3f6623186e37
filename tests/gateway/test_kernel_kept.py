"""What others take of fwd's devices, routes and guards comes back by itself; what fwd cannot restore is told."""

from __future__ import annotations

import signal
import subprocess

import pytest
from gwkit import MakePair, Pair, ended, network_of, nft_packets, until
from test_supervisor import MARKER, pinging

from fwd.model.reasons import Code

SECONDS = 20.0  # far more than it takes
TABLE, GW2_TABLE = "fwd_to_gw2_0", "fwd_to_gw1_0"
NUMBER = "number=$(ip route show type unreachable 10.2.0.0/24 | grep -o 'proto [0-9]*')"


@pytest.fixture(scope="module")
def pair(module_pairs: MakePair) -> Pair:
    return module_pairs(keys={"source": "psk"})


def shell(pair: Pair, command: str, *, check: bool = True) -> None:
    pair.topology.run("gw1", ["sh", "-c", command], check=check)


def codes(pair: Pair, host: str = "gw1") -> set[str]:
    return {one["code"] for one in pair.status(host)["reasons"]}


def restored(pair: Pair) -> int:
    return pair.log("gw1").count("event=kernel.restored")


TAKEN = {
    "the device went down and up": "ip link set fwd0 down; ip link set fwd0 up",
    "the device is down": "ip link set fwd0 down",
    "its MTU": "ip link set fwd0 mtu 1400",
    "its MTU, and IPv6 with it": "ip link set fwd0 mtu 1000",
    "the routes of fwd's number": f"{NUMBER}; ip route flush $number; ip -6 route flush $number",
    "the route has another source": "ip route replace 10.2.0.0/24 dev fwd0 src 192.0.2.1",
    "a guard's route": "ip -6 route del unreachable fd00:2::/64",
    "all of nftables": "nft flush ruleset",
    "the rules of a chain": f"nft flush chain inet {TABLE} from_wire",
    "a rule before the others": f"nft insert rule inet {TABLE} to_wire accept",
    "the table sleeps": f"nft add table inet {TABLE} '{{ flags dormant; }}'",
    "both guards, and routes": "nft flush ruleset; ip route flush 10.2.0.0/24",
}


@pytest.mark.parametrize("command", TAKEN.values(), ids=TAKEN)
def test_what_is_taken_comes_back(pair: Pair, command: str) -> None:
    pair.wait_ready("gw1", seconds=SECONDS)
    before = network_of(pair.topology, "gw1")
    shell(pair, command)
    until(lambda: network_of(pair.topology, "gw1") == before and pair.ready("gw1"), SECONDS, "as it was")
    until(lambda: pair.ping(), SECONDS, "carries")
    until(lambda: pair.ping(to=pair.topology.address("client2", version=6)), SECONDS, "carries IPv6")


def test_the_hosts_own_route_to_the_far_side_stays_and_holds_again_when_fwd_has_ended(pair: Pair) -> None:
    pair.wait_ready("gw1", seconds=SECONDS)
    shell(pair, "ip route replace 10.2.0.0/24 via 192.0.2.2")  # in place of fwd's
    try:
        until(lambda: "event=kernel.route_beside" in pair.log("gw1"), SECONDS, "told")
        pair.wait_ready("gw1", seconds=SECONDS)
        until(lambda: pair.ping(), SECONDS, "carries")

        # Not of fwd's doing alone that it is there: it also is when fwd finds it at its start.
        for _ in range(2):
            assert pair.stop("gw1") == 0
            shown = pair.topology.run("gw1", ["ip", "route", "show", "10.2.0.0/24"]).stdout
            assert "via 192.0.2.2" in shown
            assert "fwd0" not in shown
            pair.launch("gw1")
            pair.wait_ready("gw1", seconds=SECONDS)
            until(lambda: pair.ping(), SECONDS, "carries")
        assert pair.log("gw1").count("event=kernel.route_beside") == 1
    finally:
        shell(pair, "ip route del 10.2.0.0/24 via 192.0.2.2", check=False)


WAYS = [
    (Code.FORWARDING_OFF, "sysctl -qw net.ipv4.ip_forward=0", "sysctl -qw net.ipv4.ip_forward=1"),
    (
        Code.FILTER_DROPS,
        "nft add table ip fw; nft add chain ip fw f '{ type filter hook forward priority 0; policy drop; }'",
        "nft delete table ip fw",
    ),
    (Code.ROUTE_TAKEN, "ip route add 10.2.0.64/26 via 192.0.2.2", "ip route del 10.2.0.64/26"),
    (Code.ROUTE_TAKEN, "ip rule add to 10.2.0.0/24 lookup 9; ip route add default via 192.0.2.2 table 9",
     "ip rule del to 10.2.0.0/24; ip route flush table 9"),
    (Code.ROUTE_TAKEN, "ip rule add to 10.2.0.0/24 prohibit", "ip rule del to 10.2.0.0/24"),
    (Code.ROUTE_TAKEN, "ip route add blackhole 10.2.0.8/29", "ip route del blackhole 10.2.0.8/29"),
    (Code.ROUTE_TAKEN, "ip rule add from 10.1.0.0/24 lookup 9; ip route add default via 192.0.2.2 table 9",
     "ip rule del from 10.1.0.0/24; ip route flush table 9"),
    (Code.ROUTE_TAKEN, "ip -6 rule add iif lan lookup 9; ip -6 route add default via 2001:db8::2 table 9",
     "ip -6 rule del iif lan; ip -6 route flush table 9"),
    (Code.ROUTE_TAKEN, "ip rule add iif fwd0 prohibit", "ip rule del iif fwd0"),
    (Code.ROUTE_TAKEN, "ip route add blackhole 10.1.0.8/29", "ip route del blackhole 10.1.0.8/29"),
    (Code.ROUTE_TAKEN, "ip route add 10.1.0.8/29 via 192.0.2.2", "ip route del 10.1.0.8/29"),
    (Code.FORWARDING_OFF, "sysctl -qw net.ipv4.conf.lan.forwarding=0", "sysctl -qw net.ipv4.conf.lan.forwarding=1"),
    (Code.FORWARDING_OFF, "sysctl -qw net.ipv4.conf.fwd0.forwarding=0", "sysctl -qw net.ipv4.conf.fwd0.forwarding=1"),
    (
        Code.FILTER_DROPS,
        "nft add table inet fw; nft add chain inet fw f '{ type filter hook forward priority 0; }'; "
        "nft add rule inet fw f ct state established,related accept; nft add rule inet fw f counter reject",
        "nft delete table inet fw",
    ),
    (
        Code.FILTER_DROPS,
        "nft add table inet fw; nft add chain inet fw f '{ type filter hook prerouting priority 0; }'; "
        "nft add rule inet fw f ip saddr 10.1.0.0/16 drop",
        "nft delete table inet fw",
    ),
    (Code.NO_LAN_ADDRESS, "ip addr del 10.1.0.1/24 dev lan", "ip addr add 10.1.0.1/24 dev lan"),
    (Code.NO_OUTER_ADDRESS, "ip addr del 192.0.2.1/24 dev wan",
     "ip addr add 192.0.2.1/24 dev wan; ip route replace default via 192.0.2.2"),
    (Code.ROUTE_MISSING, "sysctl -qw net.ipv6.conf.fwd0.disable_ipv6=1",
     "sysctl -qw net.ipv6.conf.fwd0.disable_ipv6=0"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "do", "undo"), WAYS, ids=[row[1].split(";")[0] for row in WAYS])
def test_what_fwd_cannot_restore_is_a_reason_of_not_being_ready(pair: Pair, code: Code, do: str, undo: str) -> None:
    pair.wait_ready("gw1", seconds=SECONDS)
    shell(pair, do)
    try:
        until(lambda: code in codes(pair), SECONDS, code)
        assert not pair.status("gw1")["ready"]
    finally:
        shell(pair, undo)
    pair.wait_ready("gw1", seconds=SECONDS)
    until(lambda: pair.ping(), SECONDS, "carries")


def test_a_lan_without_carrier_is_a_reason_of_not_being_ready(pair: Pair) -> None:
    pair.wait_ready("gw1", seconds=SECONDS)
    try:
        pair.topology.run("client1", ["ip", "link", "set", "eth0", "down"])
        until(lambda: Code.NO_LAN_ADDRESS in codes(pair), SECONDS, "told")
        assert not pair.status("gw1")["ready"]
    finally:
        pair.topology.run(
            "client1",
            ["sh", "-c", "ip link set eth0 up; ip route replace default via 10.1.0.1; "
             "ip -6 addr replace fd00:1::10/64 dev eth0 nodad; ip -6 route replace default via fd00:1::1"],
        )  # fmt: skip
    pair.wait_ready("gw1", seconds=SECONDS)
    until(lambda: pair.ping(), SECONDS, "carries")


LAN_GOES = {
    "its address": ("ip addr del 10.2.0.1/24 dev lan", "ip addr add 10.2.0.1/24 dev lan"),
    "its device": (
        "ip link set lan down", "ip link set lan up; ip -6 addr replace fd00:2::1/64 dev lan nodad"
    ),
    "its route, and a wider one leads outside": (
        "ip route add 10.0.0.0/8 via 192.0.2.1; ip route del 10.2.0.0/24 dev lan",
        "ip route add 10.2.0.0/24 dev lan src 10.2.0.1 proto kernel scope link; ip route del 10.0.0.0/8",
    ),
}  # fmt: skip


def kept_in(pair: Pair) -> int:
    """Packets that came out of gw2's TUN device and would have left to the outside."""
    return sum(nft_packets(pair.topology.run("gw2", ["nft", "list", "chain", "inet", GW2_TABLE, "to_lan"]).stdout))


@pytest.mark.parametrize(("do", "undo"), LAN_GOES.values(), ids=LAN_GOES)
def test_what_was_decrypted_does_not_leave_in_the_clear_when_the_lan_goes(pair: Pair, do: str, undo: str) -> None:
    """gw2's default route leads back to gw1."""
    pair.wait_ready("gw2", seconds=SECONDS)
    with pair.capture("gw2", marker=MARKER) as wire, pinging(pair):
        until(lambda: pair.ping("-p", MARKER.hex()), SECONDS, "carries")
        before = kept_in(pair)
        pair.topology.run("gw2", ["sh", "-c", do])
        try:
            until(lambda: Code.NO_LAN_ADDRESS in codes(pair, "gw2"), SECONDS, "told")
            until(lambda: kept_in(pair) > before + 10, SECONDS, "kept in")
        finally:
            pair.topology.run("gw2", ["sh", "-c", undo])
        pair.wait_ready("gw2", seconds=SECONDS)
        until(lambda: pair.ping("-p", MARKER.hex()), SECONDS, "carries")
    assert wire["plaintext_packets"] == 0, wire["plaintext_examples"]


def test_errors_that_quote_a_packet_of_the_lan_do_not_leave_when_it_has_gone(pair: Pair) -> None:
    """gw1 has neither a LAN nor a TUN device: the kernel tells client1 so, by the default route, if it may."""
    pair.wait_ready("gw1", seconds=SECONDS)
    supervisor = pair.running["gw1"]
    with pair.capture(marker=MARKER) as wire, pinging(pair):
        supervisor.send_signal(signal.SIGSTOP)
        try:
            shell(pair, "ip addr del 10.1.0.1/24 dev lan; ip link set fwd0 down")
            listing = ["nft", "list", "chain", "inet", TABLE, "from_here"]
            until(lambda: sum(nft_packets(pair.topology.run("gw1", listing).stdout)), SECONDS, "kept in")
        finally:
            supervisor.send_signal(signal.SIGCONT)
            shell(pair, "ip addr add 10.1.0.1/24 dev lan")
        pair.wait_ready("gw1", seconds=SECONDS)
        until(lambda: pair.ping("-p", MARKER.hex()), SECONDS, "carries")
    assert wire["plaintext_packets"] == 0, wire["plaintext_examples"]


def test_the_source_of_the_gateways_own_packets_follows_the_lans_address(pair: Pair) -> None:
    far = pair.topology.address("client2")
    shell(
        pair,
        "ip addr add 10.1.0.7/24 dev lan; ip addr del 10.1.0.1/24 dev lan; ip addr add 10.1.0.7/24 dev lan",
        check=False,
    )
    until(lambda: pair.ping(host="gw1", to=far), SECONDS, "the gateway itself reaches the far side")
    shell(
        pair,
        "ip addr add 10.1.0.1/24 dev lan; ip addr del 10.1.0.7/24 dev lan; ip addr add 10.1.0.1/24 dev lan",
        check=False,
    )
    until(lambda: pair.ping(host="gw1", to=far), SECONDS, "again")
    pair.wait_ready("gw1", seconds=SECONDS)


def test_a_deleted_device_is_made_anew(pair: Pair) -> None:
    """Demux and members change over to it; keyd and IKE go on; no nonce is used twice, nothing leaves in the clear."""
    pair.wait_ready("gw1", seconds=SECONDS)
    before, pids = network_of(pair.topology, "gw1"), pair.pids("gw1")
    with pair.capture(marker=MARKER) as wire, pinging(pair):
        for _ in range(2):
            shell(pair, "ip link del fwd0")
            until(lambda: network_of(pair.topology, "gw1") == before and pair.ready("gw1"), SECONDS, "as it was")
            until(lambda: pair.ping("-p", MARKER.hex()), SECONDS, "carries")
    assert wire["plaintext_packets"] == 0, wire["plaintext_examples"]
    assert not wire["repeated_nonces"]
    now = pair.pids("gw1")
    assert now["keyd"] == pids["keyd"]
    assert all(now[name] != pids[name] for name in ("demux", "member-0", "member-1"))


def test_a_name_that_is_taken_meanwhile_is_told_and_had_back(pair: Pair) -> None:
    pair.wait_ready("gw1", seconds=SECONDS)
    supervisor = pair.running["gw1"]
    supervisor.send_signal(signal.SIGSTOP)
    shell(pair, "ip link del fwd0; ip link add fwd0 type veth peer name fwd0peer")
    supervisor.send_signal(signal.SIGCONT)
    until(lambda: Code.DEVICE_DOWN in codes(pair), SECONDS, "told")
    shell(pair, "ip link del fwd0")
    pair.wait_ready("gw1", seconds=SECONDS)
    until(lambda: pair.ping(), SECONDS, "carries")


def test_who_fights_over_a_route_is_told_of_and_nobody_spins(pair: Pair) -> None:
    pair.wait_ready("gw1", seconds=SECONDS)
    seen = restored(pair)
    loop = "while true; do ip route del 10.2.0.0/24 dev fwd0 2>/dev/null; sleep 0.05; done"
    with ended(pair.topology.popen("gw1", ["sh", "-c", loop], stderr=subprocess.DEVNULL)):
        until(lambda: "again and again" in str(pair.status("gw1")["not_ready"]), SECONDS, "told")
        assert not pair.status("gw1")["ready"]
    assert restored(pair) - seen <= 10
    pair.wait_ready("gw1", seconds=60)
    until(lambda: pair.ping(), SECONDS, "carries")

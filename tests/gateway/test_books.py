"""Every drop has a name (rule 5): in = out + drops in each gateway and between two, also after a kill."""

from __future__ import annotations

import signal

import pytest
from gwkit import TCP_MBPS_MIN, MakePair, Pair, assert_books_balance, until

MEMBERS = 2
ROWS = 92  # of a ring segment on a 1,500-byte path: what one death may leave in doubt, and some
RECEIVED_AT_ONCE = 64  # datagrams that GRO merges at most


def assert_wire_balances(pair: Pair, in_doubt: int = 0) -> None:
    """ESP packets sent = received + what overflowed the far sockets, but for what a member died with."""
    books = pair.wait_quiet()
    for here, there, far in ((0, 1, "gw2"), (1, 0, "gw1")):
        sent, got = books[here]["out_esp_sent"], books[there]["in_esp_in"]
        assert sent - in_doubt <= got + pair.drops(far)["socket_overflow"] <= sent


@pytest.mark.parametrize("payload", ["superpacket", "esp"])
def test_books_after_traffic(pairs: MakePair, payload: str) -> None:
    pair = pairs([{"payload": payload, "members": MEMBERS}])
    for host in ("gw1", "gw2"):  # one frame a packet: the kernel counts an overflow by frames
        pair.topology.ethtool(host, "wan", "tx-udp-segmentation", False)
    assert pair.tcp() > TCP_MBPS_MIN
    assert pair.tcp(reverse=True) > TCP_MBPS_MIN
    assert pair.ping("-s", "65000")
    for books in pair.wait_quiet():
        assert_books_balance(books)
        assert books["out_records_out"] > 100
        assert books["in_records_out"] > 100
    assert_wire_balances(pair)


@pytest.mark.parametrize("victim", ["gw1", "gw2"])
@pytest.mark.parametrize("payload", ["superpacket", "esp"])
def test_books_after_members_were_killed_under_load(pairs: MakePair, payload: str, victim: str) -> None:
    """What a member dies with in the kernel's hands is in doubt: the ESP packets of a segment that may or may not have
    left, and those of one receive that it had no time to count. All else is exact.
    """
    pair = pairs([{"payload": payload, "members": MEMBERS}])
    kills = 6
    ports = pair.flow_ports(MEMBERS)
    with pair.flood(60, 1200, ports[0]), pair.flood(60, 1200, ports[1]):
        for i in range(kills):
            name = f"member-{i % MEMBERS}"
            moved = pair.member("gw2", i % MEMBERS)["in"]["records"]
            until(
                lambda i=i, moved=moved: pair.member("gw2", i % MEMBERS)["in"]["records"] > moved + 200,  # type: ignore[misc]
                what="load on the member",
            )
            pair.wait_replaced(victim, name, pair.kill(victim, name))
    books = pair.wait_quiet()
    for one in books:
        assert_books_balance(one)
    sent, got = books[0]["out_esp_sent"], books[1]["in_esp_in"] + pair.drops("gw2")["socket_overflow"]
    if victim == "gw1":
        assert sent <= got <= sent + kills * (ROWS + 1)
    else:
        assert sent - kills * RECEIVED_AT_ONCE <= got <= sent
    records = books[1]["in_records_in"]
    assert books[0]["out_records_out"] + kills * 1024 >= records


def test_a_full_socket_is_counted(pairs: MakePair) -> None:
    """A stopped member of the receiver: what its socket cannot hold was dropped by the kernel, and shows."""
    pair = pairs([{"members": MEMBERS}])
    pair.topology.ethtool("gw1", "wan", "tx-udp-segmentation", False)
    port = pair.flow_ports(MEMBERS)[0]
    with pair.flood(1000, 60000, port):  # before its flows are moved away from a path that does not answer
        until(lambda: pair.member("gw2", 0)["in"]["records"] > 100, what="load")
        pid = pair.kill("gw2", "member-0", signal.SIGSTOP)  # the watchdog will replace it
        pair.wait_replaced("gw2", "member-0", pid)
        until(lambda: pair.drops("gw2")["socket_overflow"] > 0, what="overflow counted")
    for books in pair.wait_quiet():
        assert_books_balance(books)
    assert_wire_balances(pair, RECEIVED_AT_ONCE)


def test_a_full_tun_queue_is_counted(pairs: MakePair) -> None:
    """The demux is stopped: what its TUN device cannot hold was dropped by the kernel, and shows."""
    pair = pairs([{"members": MEMBERS}])
    with pair.flood(50, 1000, pair.flow_ports(MEMBERS)[0]):
        until(lambda: pair.member("gw2", 0)["in"]["records"] > 100, what="load")
        pid = pair.kill("gw1", "demux", signal.SIGSTOP)
        until(lambda: pair.drops("gw1")["tun_queue_full"] > 0, what="full queue counted")
        pair.wait_replaced("gw1", "demux", pid)
    for books in pair.wait_quiet():
        assert_books_balance(books)


def test_a_stopped_member_of_the_sender_fills_its_ring(pairs: MakePair) -> None:
    pair = pairs([{"members": MEMBERS}])
    with pair.flood(50, 1000, pair.flow_ports(MEMBERS)[0]):
        until(lambda: pair.member("gw2", 0)["in"]["records"] > 100, what="load")
        pid = pair.kill("gw1", "member-0", signal.SIGSTOP)
        until(lambda: pair.drops("gw1")["ring_full"] > 0, what="full ring counted")
        pair.wait_replaced("gw1", "member-0", pid)
    for books in pair.wait_quiet():
        assert_books_balance(books)

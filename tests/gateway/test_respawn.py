"""Processes that die, hang and keep dying: what is replaced, how long flows are silent, where they go meanwhile."""

from __future__ import annotations

import os
import signal

import pytest
from gwkit import PORT, MakePair, Pair, assert_books_balance, until

from fwd.lab import verdict
from fwd.proto.flow import owners, rendezvous_scores

pytestmark = pytest.mark.alone
MEMBERS = 3
GAP_MS_MAX = 1000.0


@pytest.fixture(scope="module")
def pair(module_pairs: MakePair) -> Pair:
    return module_pairs([{"members": MEMBERS}])


@pytest.fixture(autouse=True)
def settled(pair: Pair) -> None:
    """All buckets are back with those whom the hash names: of a test before they were busy with others."""
    named = owners(rendezvous_scores(MEMBERS), (1 << MEMBERS) - 1).tolist()
    shares = [named.count(member) for member in range(MEMBERS)]
    until(lambda: [pair.member("gw1", member)["buckets"] for member in range(MEMBERS)] == shares, what=f"{shares}")


@pytest.mark.parametrize("host", ["gw1", "gw2"])
def test_a_killed_member_is_replaced_at_once(pair: Pair, host: str) -> None:
    """On either side of its tunnel; the others' flows notice nothing, and nothing arrives out of order."""
    before = pair.member(host, 0)["restarts"]
    with pair.probes(pair.flow_ports(MEMBERS)) as arrived:
        pid = pair.kill(host, "member-0")
        pair.wait_replaced(host, "member-0", pid)
    assert pair.member(host, 0)["restarts"] == before + 1
    assert [flow.inversions for flow in arrived.values()] == [0] * MEMBERS
    assert [flow.duplicates for flow in arrived.values()] == [0] * MEMBERS
    assert all(flow.longest_gap_ms < GAP_MS_MAX for flow in arrived.values()), arrived
    for books in pair.wait_quiet():
        assert_books_balance(books)


def test_a_stopped_member_is_replaced_within_about_a_second(pair: Pair) -> None:
    """SIGABRT does not reach a stopped process, SIGKILL does."""
    with pair.probes(pair.flow_ports(MEMBERS)) as arrived:
        pid = pair.kill("gw1", "member-1", signal.SIGSTOP)
        pair.wait_replaced("gw1", "member-1", pid, 4.0)
    assert all(flow.longest_gap_ms < 2500 for flow in arrived.values()), arrived
    assert "member-1 hangs" in pair.log("gw1")
    assert "SIGKILL" in pair.log("gw1")


def test_a_hanging_member_leaves_a_traceback(pair: Pair) -> None:
    """SIGABRT reaches a process that only does nothing: faulthandler writes where it was."""
    pid = pair.kill("gw1", "member-1", signal.SIGABRT)
    pair.wait_replaced("gw1", "member-1", pid)
    assert "Fatal Python error: Aborted" in pair.log("gw1")
    assert "fwd/datapath/member.py" in pair.log("gw1")


def test_the_demux_is_replaced(pair: Pair) -> None:
    with pair.probes(pair.flow_ports(MEMBERS)) as arrived:
        pid = pair.kill("gw1", "demux")
        pair.wait_replaced("gw1", "demux", pid)
    assert all(flow.longest_gap_ms < GAP_MS_MAX for flow in arrived.values()), arrived
    assert all(flow.inversions == 0 for flow in arrived.values()), arrived


def test_traffic_needs_neither_keyd_nor_agent(pair: Pair) -> None:
    """Rule 7: both may be stopped or die."""
    with pair.probes(pair.flow_ports(MEMBERS)) as arrived:
        for name in ("keyd", "agent"):
            pid = pair.kill("gw1", name)
            pair.wait_replaced("gw1", name, pid)
    assert all(flow.lost == 0 for flow in arrived.values()), arrived


def test_a_member_boots_from_its_queued_record_while_keyd_is_dead(pair: Pair) -> None:
    spi = pair.member("gw1", 2)["spi_out"]
    with pair.probes(pair.flow_ports(MEMBERS)) as arrived:
        keyd = pair.kill("gw1", "keyd", signal.SIGSTOP)  # for as long as its hang is not noticed
        pid = pair.kill("gw1", "member-2")
        until(lambda: pair.member("gw1", 2)["spi_out"] != spi, what="a spare in use")
        pair.wait_replaced("gw1", "member-2", pid)
        pair.wait_replaced("gw1", "keyd", keyd)
    assert all(flow.longest_gap_ms < GAP_MS_MAX for flow in arrived.values()), arrived


def test_a_successor_sends_on_an_sa_of_its_own(pair: Pair) -> None:
    """Rule 1: no number of an SA is sent by two incarnations, on the wire and in the ledgers."""
    port = pair.flow_ports(MEMBERS)[2]
    with pair.capture() as wire, pair.probes([port]):
        for _ in range(3):
            records = pair.member("gw1", 2)["out"]["records"]
            until(lambda records=records: pair.member("gw1", 2)["out"]["records"] > records + 50)  # type: ignore[misc]
            pair.wait_replaced("gw1", "member-2", pair.kill("gw1", "member-2"))
    assert wire["repeated_nonces"] == 0
    for host in ("gw1", "gw2"):
        assert verdict.ledger_conflicts(pair.peering(host)["members"]) == 0


def test_a_far_member_that_freezes_turns_no_flow_around(pair: Pair) -> None:
    """Its flow goes on with another; what lay unread in its socket meanwhile is not delivered behind that."""
    before = pair.drops("gw2")["buckets_moved_in"]
    with pair.probes(pair.flow_ports(MEMBERS)) as arrived:
        pid = pair.kill("gw2", "member-0", signal.SIGSTOP)
        until(lambda: "shared by members [1, 2]" in pair.log("gw1"), what="gw1 gives the path up")
        pair.wait_replaced("gw2", "member-0", pid)  # its successor reads the same socket
    assert [flow.inversions for flow in arrived.values()] == [0] * MEMBERS
    assert pair.drops("gw2")["buckets_moved_in"] > before
    for books in pair.wait_quiet():
        assert_books_balance(books)


def test_a_crash_looping_member_gives_up_its_buckets_and_comes_back(pair: Pair) -> None:
    new_flows = f"for i in {{1..60}}; do echo >/dev/udp/{pair.topology.address('client2')}/9; done"
    with pair.probes(pair.flow_ports(MEMBERS)) as arrived:
        pids: set[int] = set()

        def kill_until_failed() -> bool:
            member = pair.member("gw1", 0)
            if member["pid"] > 1 and member["pid"] not in pids:
                pids.add(member["pid"])
                os.kill(member["pid"], signal.SIGSTOP)  # so that it dies while work waits for it
                pair.topology.run("client1", ["bash", "-c", new_flows])
                os.kill(member["pid"], signal.SIGKILL)
            return bool(member["state"] == "failed")

        until(kill_until_failed, 15.0, "member 0 failed")
        until(lambda: pair.member("gw1", 0)["buckets"] == 0, what="its buckets move")
        into = sum(m["in"]["records"] for m in pair.peering("gw2")["members"][1:])
        until(lambda: sum(m["in"]["records"] for m in pair.peering("gw2")["members"][1:]) > into + 500)
        assert not pair.ready("gw1")
        assert "member 0 is failed" in " ".join(pair.status("gw1")["not_ready"])
        until(lambda: pair.ready("gw1"), 20.0, "member 0 is back")
    until(lambda: pair.member("gw1", 0)["buckets"] > 0, what="idle buckets move back")
    assert pair.drops("gw1")["failed_skipped"] > 0
    assert all(flow.longest_gap_ms < 2000 for flow in arrived.values()), arrived
    for books in pair.wait_quiet():
        assert_books_balance(books)


def test_a_blocked_path_is_left_and_taken_again(pair: Pair) -> None:
    """One member's port is dropped on the wire: its flows recover within 2 s; probing goes on."""
    with pair.probes(pair.flow_ports(MEMBERS)) as arrived:
        with pair.rule("gw2", "prerouting", f"udp dport {PORT} drop"):
            until(lambda: pair.member("gw1", 0)["path"] == "down", 4.0, "path down")
            until(lambda: pair.member("gw1", 0)["buckets"] == 0, 4.0, "its buckets move")
            into = pair.peering("gw2")["members"][1]["in"]["records"]
            until(lambda: pair.peering("gw2")["members"][1]["in"]["records"] > into + 300)
        until(lambda: pair.member("gw1", 0)["path"] == "up", 4.0, "path up")
    assert all(flow.longest_gap_ms < 2000 for flow in arrived.values()), arrived
    until(lambda: pair.member("gw1", 0)["buckets"] > 0, what="idle buckets move back")

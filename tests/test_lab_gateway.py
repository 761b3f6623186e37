"""A gateway of the lab without a network: what is written for it, what it says of itself, and when a capture proves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fwd.lab import told, wire
from fwd.lab.gateway import Gateway, peering
from fwd.lab.topology import Topology
from fwd.model import config


def test_what_is_written_is_what_fwd_reads_and_settings_come_before_what_follows_from_the_lab(tmp_path: Path) -> None:
    topology, gateway = Topology(), Gateway(tmp_path, "gw1")
    (pairing,) = topology.pairings("gw1")
    gateway.write_secret(b"first")
    gateway.write_secret(b"0123456789abcdef")
    keys = {"source": "psk", "secret": str(gateway.secret), "remote_id": None}
    table = peering(topology, "gw1", pairing, keys, 3, name="other", local_ts=["10.9.0.0/24"])
    read = config.load(gateway.configure([table], {}))

    (one,) = read.peering
    assert (one.name, one.members, str(one.remote_addrs)) == ("other", 3, topology.outer("gw2"))
    assert [str(net) for net in one.local_ts] == ["10.9.0.0/24"]
    assert read.gateway.control == gateway.control
    assert gateway.secret.read_bytes() == b"0123456789abcdef"
    assert gateway.secret.stat().st_mode & 0o777 == 0o600


def test_a_peering_with_several_far_gateways_has_members_for_each() -> None:
    topology = Topology(sites={"vpc1": 1, "vpc2": 3})
    (pairing,) = topology.pairings("gw1")
    table = peering(topology, "gw1", pairing, {}, 2)
    assert table["members"] == 6
    assert table["remote_addrs"] == [topology.outer(host) for host in ("gw2", "gw3", "gw4")]


def test_every_child_has_a_name_and_those_of_further_peerings_their_peerings() -> None:
    def row(pid: int, **more: Any) -> dict[str, Any]:
        return {"pid": pid, **more}

    peerings = [
        {"name": name, "demux": row(first), "members": [row(first + 1, index=0)]}
        for name, first in (("a", 3), ("b", 5))
    ]
    status = {"processes": [row(1, name="keyd"), row(2, name="agent")], "peerings": peerings}
    found = {name: one["pid"] for name, one in told.processes(status).items()}
    assert found == {"keyd": 1, "agent": 2, "demux": 3, "member-0": 4, "b/demux": 5, "b/member-0": 6}


def test_nobody_at_the_socket_is_no_status(tmp_path: Path) -> None:
    assert told.asked(tmp_path / "gw1.sock") is None


def test_a_capture_that_missed_frames_proves_nothing() -> None:
    assert wire.missed({"capture_drops": 0}) == ""
    assert "missed 3 frames" in wire.missed({"capture_drops": 3})

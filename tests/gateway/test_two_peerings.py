"""Two peerings between the same two gateways with IKE: told apart by port or by identity, each with its own secret."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
from gwkit import MakePair, Pair, until
from test_reload import ONE, TWO, ping_both

from fwd.lab.topology import GATEWAYS

PORT = {"ike_port": 510}
IDENTITIES = {
    "gw1": {"local_id": "gw1.mgmt.example", "remote_id": "gw2.mgmt.example"},
    "gw2": {"local_id": "gw2.mgmt.example", "remote_id": "gw1.mgmt.example"},
}


@pytest.fixture(params=["a port of its own", "identities of its own"])
def pair(request: pytest.FixtureRequest, pairs: MakePair) -> Pair:
    """The second peering is told from the first one by this, and has another secret."""
    keys: dict[str, Any] = dict.fromkeys(GATEWAYS, PORT) if "port" in request.param else IDENTITIES
    pair = pairs(start=False, keys={"source": "psk"})
    topology = pair.topology
    pair.add_second_subnets()
    other = topology.run_dir / "other.secret"
    other.write_text(secrets.token_hex(32))
    other.chmod(0o600)
    second = {host: {**more, "secret": str(other)} for host, more in keys.items()}
    pair.peerings = [ONE, {**TWO, "payload": "superpacket", "keys": second}]
    return pair.start()


def test_both_come_up_and_carry_their_own_traffic(pair: Pair) -> None:
    until(lambda: ping_both(pair), 10.0, what="both peerings carry traffic")
    for host in GATEWAYS:
        for index in (0, 1):
            sas = until(lambda host=host, index=index: pair.peering(host, index)["ike_sas"])  # type: ignore[misc]
            assert [sa["state"] for sa in sas][:1] == ["established"]
        assert "refused" not in pair.log(host)
    for index in (0, 1):
        ours, theirs = ({sa["spi_i"] for sa in pair.peering(host, index)["ike_sas"]} for host in GATEWAYS)
        assert ours & theirs

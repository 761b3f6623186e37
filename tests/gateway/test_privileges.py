"""What the children of a gateway may do and hold: nothing that they do not need."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from pathlib import Path

import pytest
from gwkit import MakePair, Pair, until

from fwd.keyd.source import LabSource
from fwd.model.config import load

CHILDREN = ["demux", "member-0", "member-1", "keyd", "agent", "beacon"]
FIRST = 64000  # of three users
UIDS = {
    "demux": FIRST, "member-0": FIRST, "member-1": FIRST, "keyd": FIRST + 1, "agent": FIRST + 2, "beacon": FIRST + 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def pair(module_pairs: MakePair) -> Pair:
    pair = module_pairs(gateway={"user": FIRST}, start=False)
    pair.answer_routers()
    return pair.start()


@pytest.fixture
def proc(pair: Pair, request: pytest.FixtureRequest) -> Path:
    return Path(f"/proc/{pair.pids('gw1')[request.param]}")


def fields(proc: Path) -> dict[str, str]:
    lines = (proc / "status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def descriptors(proc: Path) -> Counter[str]:
    """What stands behind a process's descriptors but the standard ones, by kind."""
    targets = [os.readlink(entry) for entry in (proc / "fd").iterdir() if int(entry.name) > 2]
    return Counter(target.removeprefix("anon_inode:").strip("[]").partition(":[")[0] for target in targets)


@pytest.mark.parametrize("proc", CHILDREN, indirect=True)
def test_children_have_no_privileges(proc: Path, request: pytest.FixtureRequest) -> None:
    status = fields(proc)
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[capabilities], 16) == 0, capabilities
    user = str(UIDS[request.node.callspec.params["proc"]])
    assert set(status["Uid"].split()) == {user}
    assert set(status["Gid"].split()) == {user}
    assert status["Groups"] == ""
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


@pytest.mark.parametrize("proc", CHILDREN, indirect=True)
def test_children_cannot_be_dumped_or_traced(proc: Path) -> None:
    """The files of a process that is not dumpable belong to root, not to its user."""
    assert (proc / "environ").stat().st_uid == 0
    core = next(line for line in (proc / "limits").read_text().splitlines() if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]


@pytest.mark.parametrize("proc", CHILDREN, indirect=True)
def test_children_run_no_threads(proc: Path, request: pytest.FixtureRequest) -> None:
    """Hot processes have none; logging's stays in the supervisor."""
    assert fields(proc)["Threads"] == "1"


@pytest.mark.parametrize(
    ("proc", "kinds"),
    [
        ("demux", {"/dev/net/tun": 1, "eventfd": 3, "socket": 2}),
        ("member-0", {"/dev/net/tun": 1, "eventfd": 1, "eventpoll": 1, "socket": 4}),
        ("keyd", {"a secret": 1, "eventpoll": 1, "socket": 2 * 5 + 2}),
        ("agent", {"eventpoll": 1, "socket": 3}),
        ("beacon", {"socket": 3}),
    ],
    indirect=["proc"],
)
def test_processes_hold_their_own_descriptors_only(proc: Path, kinds: dict[str, int]) -> None:
    """demux: TUN, a bell for each member, one of its own, what it is told of rings. member: TUN, its bell, its epoll;
    UDP, boot, control. keyd: the lab's secret, its epoll; five of each member's, what it is told. agent: control, what
    it is told. beacon: the socket of probes, what it is told; of the key it has no file. And each its log.
    """

    def held() -> Counter[str]:
        return Counter({"a secret" if "secret" in kind else kind: n for kind, n in descriptors(proc).items()})

    with contextlib.suppress(AssertionError):
        until(lambda: held() == kinds, 2.0)  # the agent may still hold the connection by which its pid was asked
    assert held() == kinds


def test_standard_streams_are_nobodys_terminal(pair: Pair) -> None:
    """Input is /dev/null; what is written goes to the slot's own pipe, and so into the log under the slot's name."""
    pids = pair.pids("gw1")
    streams = {name: [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)] for name, pid in pids.items()}
    assert all(own[0] == "/dev/null" and own[1] == own[2] and own[1].startswith("pipe:") for own in streams.values())
    assert len({own[2] for own in streams.values()}) == len(pids)
    assert all(os.getsid(pid) == pid for pid in pids.values())


def test_the_supervisors_log_queue_is_its_own(pair: Pair) -> None:
    """It unpickles what comes there: no child has either end."""
    supervisor = Path(f"/proc/{pair.running['gw1'].pid}/fd")
    ends = Counter(link for fd in supervisor.iterdir() if (link := os.readlink(fd)).startswith("pipe:"))
    children = {os.readlink(f) for pid in pair.pids("gw1").values() for f in Path(f"/proc/{pid}/fd").iterdir()}
    queues = set(ends) - {os.readlink(f"/proc/{pid}/fd/2") for pid in pair.pids("gw1").values()}
    assert queues
    assert not queues & children


def test_members_share_no_socket(pair: Pair) -> None:
    def sockets(name: str) -> set[str]:
        entries = Path(f"/proc/{pair.pids('gw1')[name]}/fd").iterdir()
        return {target for entry in entries if (target := os.readlink(entry)).startswith("socket:")}

    assert not sockets("member-0") & sockets("member-1")
    assert not sockets("member-0") & sockets("demux")
    assert not sockets("agent") & sockets("keyd")


def test_no_key_in_arguments_environment_or_log(pair: Pair) -> None:
    """Nor the secret, whose file is gone; nor in the status."""
    assert not pair.secret_path("gw1").exists()
    peering = load(pair.config("gw1")).peering[0]
    fd = os.memfd_create("secret")
    os.write(fd, pair.secret)
    source = LabSource(fd, peering)
    os.close(fd)
    secrets = [pair.secret, pair.probe_key]
    for member in (0, 1):
        for epoch in range(6):
            secrets += [source.outbound(member, epoch).key, source.inbound(member, epoch).key]
    places = [pair.log("gw1").encode(), str(pair.status("gw1")).encode()]
    for pid in [*pair.pids("gw1").values(), pair.running["gw1"].pid]:
        places += [Path(f"/proc/{pid}/cmdline").read_bytes(), Path(f"/proc/{pid}/environ").read_bytes()]
    for secret in secrets:
        for form in (secret, secret.hex().encode(), repr(secret).encode()):
            assert not any(form in place for place in places)

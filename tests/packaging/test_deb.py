"""The Debian package in a small Debian that runs: installed, configured, started under its own unit, upgraded, removed.

Run by `make deb-test`. The tests are the steps of one life, in order. The far gateway is a second fwd in a network
namespace inside the container, run by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from container import Container, booted, make_root

from fwd.lab import told
from fwd.lab.waiting import until

pytestmark = [pytest.mark.deb, pytest.mark.timeout(900)]  # the first step may have to make the root

ROOT = Path(__file__).parents[2]
NEAR, FAR = "192.0.2.1", "192.0.2.2"
PSK = "a8Xq3vLw7Zp0RkTn5Ys2Jd9Gm4Bc6Hf1\n"
SHELL = """
ip netns add far
ip link add wan type veth peer name wan netns far
ip addr add 192.0.2.1/24 dev wan && ip link set wan up
ip -n far addr add 192.0.2.2/24 dev wan && ip -n far link set wan up && ip -n far link set lo up
ip addr add 10.1.0.1/32 dev lo && ip addr add fd01::1/128 dev lo
ip -n far addr add 10.2.0.1/32 dev lo && ip -n far addr add fd02::1/128 dev lo
"""


def configuration(here: str, there: str, mine: list[str], theirs: list[str], control: str) -> str:
    return f"""\
[gateway]
control = "{control}"
[[peering]]
name = "far"
local_addrs = "{here}"
remote_addrs = "{there}"
local_ts = {json.dumps(mine)}
remote_ts = {json.dumps(theirs)}
[peering.keys]
source = "psk"
secret = "/etc/fwd/far.psk"
"""


NET1, NET2 = ["10.1.0.0/16", "fd01::/16"], ["10.2.0.0/16", "fd02::/16"]
OURS = configuration(NEAR, FAR, NET1, NET2, "/run/fwd/fwd.sock")
THEIRS = configuration(FAR, NEAR, NET2, NET1, "/run/far.sock")


@pytest.fixture(scope="module")
def package() -> Path:
    (found,) = (ROOT / "dist").glob("fwd_*.deb")
    return found


@pytest.fixture(scope="module")
def host(package: Path) -> Iterator[Container]:
    make_root(ROOT / "build" / "deb" / "root")
    with booted(ROOT / "build" / "deb" / "root", ROOT / "build" / "deb" / "container.log") as container:
        container.copy_in(package, "/root/fwd.deb")
        yield container


@pytest.fixture(scope="module")
def before(host: Container) -> set[str]:
    """Every file of the system, before the package came."""
    return files(host)


def files(host: Container) -> set[str]:
    """Files below /etc, /usr, /lib and /var, but for the package manager's own and the log."""
    passed_over = ("/var/lib/dpkg/", "/var/lib/apt/", "/var/cache/", "/var/log/", "/var/lib/systemd/", "/var/tmp/")
    found = host.output("find", "/etc", "/usr", "/lib", "/var", "-xdev", "-not", "-type", "d").splitlines()
    return {path for path in found if not path.startswith(passed_over) and "__pycache__" not in path}


def show(host: Container, key: str) -> str:
    return host.output("systemctl", "show", "fwd", "--property", key, "--value")


def journal(host: Container) -> str:
    return host.output("journalctl", "--unit", "fwd", "--output", "cat", "--no-pager")


def all_send(host: Container) -> bool:
    return show(host, "StatusText") == "far: 4 of 4 members send"


def ping(host: Container) -> bool:
    return all(
        host.run("ping", "-c", "1", "-W", "1", to, check=False).returncode == 0 for to in ("10.2.0.1", "fd02::1")
    )


def test_it_installs_and_waits_for_a_configuration(host: Container, before: set[str]) -> None:
    host.run("apt-get", "install", "--yes", "--no-install-recommends", "/root/fwd.deb")
    assert before  # noted before this step
    assert show(host, "ActiveState") == "inactive"
    assert host.output("systemctl", "is-enabled", "fwd") == "enabled"
    for other in ("fwd-router", "fwd-controller"):
        assert host.run("systemctl", "is-enabled", other, check=False).stdout.strip() == "disabled"
    host.run("systemctl", "start", "fwd")
    assert show(host, "ConditionResult") == "no"
    assert host.output("getent", "passwd", "fwd").endswith("/usr/sbin/nologin")


def test_what_came_with_it(host: Container) -> None:
    assert re.fullmatch(r"fwd \d+\.\d+\.\d+", host.output("fwd", "--version"))
    example = "/usr/share/doc/fwd/examples/fwd.toml"
    assert ": OK: " in host.output("fwd", "config", "check", example)
    for path in ("/usr/share/man/man8/fwd.8.gz", "/usr/share/man/man5/fwd.toml.5.gz"):
        host.run("test", "-s", path)
    words = 'COMP_WORDS=(fwd dem); COMP_CWORD=1; _fwd_completion fwd; echo "${COMPREPLY[*]}"'
    source = ". /usr/share/bash-completion/completions/fwd"
    assert host.output("bash", "-c", f"{source}; {words}") == "demux"
    for path in ("/usr/share/zsh/vendor-completions/_fwd", "/usr/share/fish/vendor_completions.d/fwd.fish"):
        host.run("test", "-s", path)


def test_the_unit_is_in_order(host: Container) -> None:
    done = host.run(
        "systemd-analyze", "verify", "--man=no", "fwd.service", "fwd-router.service", "fwd-controller.service"
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_it_starts_and_says_so(host: Container) -> None:
    host.run("sh", "-ec", SHELL)
    host.write("/etc/fwd/far.psk", PSK)
    host.run("chmod", "600", "/etc/fwd/far.psk")
    host.write("/etc/fwd/fwd.toml", OURS)
    host.write("/etc/fwd/theirs.toml", THEIRS)
    host.run("systemctl", "start", "fwd")
    assert show(host, "ActiveState") == "active"
    assert show(host, "StatusText") == "far: 0 of 4 members send"


def test_it_reaches_the_far_gateway(host: Container) -> None:
    namespace = "--property=NetworkNamespacePath=/run/netns/far"
    host.run("systemd-run", "--unit=far", namespace, "fwd", "demux", "--config", "/etc/fwd/theirs.toml")
    until(lambda: all_send(host), "4 of 4 members")
    until(lambda: ping(host), "a ping through the tunnel")
    assert "far" in host.output("fwd", "status")
    status = json.loads(host.output("fwd", "status", "--json"))
    assert status["ready"]
    assert status["gateway"]["core"] == "compiled"
    assert status["peerings"][0]["demux"]["records"] > 0
    assert not status["peerings"][0]["offloads"]["refused"]


def test_the_log_is_in_the_journal_with_priorities(host: Container) -> None:
    lines = host.output("journalctl", "--unit", "fwd", "--output", "json", "--no-pager").splitlines()
    told = [(record["PRIORITY"], record["MESSAGE"]) for record in map(json.loads, lines)]
    assert any(priority == "6" and "event=process.started" in text for priority, text in told)
    assert not any(text.startswith("<") for _, text in told)


def status_of(host: Container, pid: int) -> dict[str, str]:
    lines = host.output("cat", f"/proc/{pid}/status").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_processes_have_what_the_unit_grants_and_no_more(host: Container) -> None:
    supervisor = status_of(host, int(show(host, "MainPID")))
    granted = sum(1 << n for n in (5, 6, 7, 8, 10, 12))  # KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_ADMIN
    assert int(supervisor["CapBnd"], 16) == granted
    assert (supervisor["Seccomp"], supervisor["NoNewPrivs"]) == ("2", "1")
    rows = told.processes(json.loads(host.output("fwd", "status", "--json")))
    users = {"demux": "fwd", "member-0": "fwd", "keyd": "fwd-keyd", "agent": "fwd-agent"}
    for kind, user in users.items():
        status = status_of(host, rows[kind]["pid"])
        assert set(status["Uid"].split()) == {host.output("id", "-u", user)}, kind
        assert int(status["Seccomp_filters"]) > int(supervisor["Seccomp_filters"]), kind
        assert all(int(status[key], 16) == 0 for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"))


def test_children_have_their_filters_under_the_unit(host: Container) -> None:
    """Landlock is not asked for: what runs the container may forbid it, too."""
    lacking = [line for line in journal(host).splitlines() if "gateway.unwalled" in line]
    assert not [line for line in lacking if "Landlock" not in line]


def test_a_reload_takes_a_good_file_and_refuses_a_bad_one(host: Container) -> None:
    pid = show(host, "MainPID")
    host.write("/etc/fwd/fwd.toml", OURS.replace("remote_ts", "remotes"))
    assert host.run("systemctl", "reload", "fwd", check=False).returncode != 0
    host.write("/etc/fwd/fwd.toml", OURS + 'ike_rekey_time = "2h"\n')
    host.run("systemctl", "reload", "fwd")
    # Keys and their times are keyd's affair: no other process is set up anew for them.
    until(lambda: "configuration re-read: 1 changed, 1 in force" in journal(host), "the file is read")
    until(lambda: ping(host), "a ping after the reload")
    assert (show(host, "MainPID"), show(host, "ActiveState")) == (pid, "active")


@pytest.mark.parametrize("act", ["restart", "crash", "hang"])
def test_nothing_is_in_the_clear_while_it_comes_back(host: Container, act: str) -> None:
    """The leak guards stay, whoever ends the supervisor; and pings pass again."""
    pid = show(host, "MainPID")
    watch = "while sleep 0.02; do nft list table inet fwd_far >/dev/null 2>&1 || echo gone; done"
    host.run("systemd-run", "--unit=watch", "--description=watch", "sh", "-c", watch)
    if act == "restart":
        host.run("systemctl", "restart", "fwd")
    elif act == "crash":
        host.run("kill", "-KILL", pid)
    else:
        host.run("kill", "-STOP", pid)
    until(lambda: show(host, "MainPID") not in ("0", pid) and all_send(host), f"back after {act}", 60.0)
    until(lambda: ping(host), "a ping")
    host.run("systemctl", "stop", "watch")
    assert host.output("journalctl", "--unit", "watch", "--output", "cat", "--no-pager").count("gone") == 0
    assert show(host, "Result") == "success"


def test_an_upgrade_restarts_it(host: Container) -> None:
    pid = show(host, "MainPID")
    host.run("apt-get", "install", "--yes", "--reinstall", "/root/fwd.deb")
    until(lambda: show(host, "MainPID") not in ("0", pid) and all_send(host), "back after the upgrade")
    until(lambda: ping(host), "a ping")


def test_a_router_that_joins_a_controller_runs_under_its_own_unit(host: Container) -> None:
    """Both on this host, as a trial has them."""
    host.write("/etc/fwd/controller.toml", '[controller]\nlisten = "127.0.0.1:8443"\nurl = "https://127.0.0.1:8443"\n')
    host.run("systemctl", "start", "fwd-controller")
    ask = ("runuser", "--user", "fwd-controller", "--", "fwd")
    until(lambda: host.run(*ask, "vpc", "list", check=False).returncode == 0, "the controller leads")
    host.run(*ask, "vpc", "create", "vpc1", "cidrs=10.8.0.0/16")
    host.run("sh", "-ec", "umask 077; runuser -u fwd-controller -- fwd token create vpc=vpc1 kind=router > /root/token")
    host.run("fwd", "join", "https://127.0.0.1:8443", "--token-file", "/root/token", "--kind", "router", "--name", "r1",
             "--inner", "10.8.0.2")  # fmt: skip
    host.write("/etc/fwd/router.toml", '[controller]\nsubnets = ["10.0.0.0/8"]\n')
    host.run("systemctl", "start", "fwd-router")
    until(lambda: '"generation"' in host.run("fwd", "router", "status", check=False).stdout, "what it wants")
    assert host.run("fwd", "router", "ready", check=False).stdout.strip() == "nothing to carry: no spread yet"
    shown = json.loads(host.output(*ask, "router", "show", "r1", "--json"))
    assert shown["health"]["state"] in ("joining", "degraded")
    for unit in ("fwd-router", "fwd-controller"):
        host.run("systemctl", "stop", unit)
        assert host.output("systemctl", "show", unit, "--property", "Result", "--value") == "success"


def test_it_stops_clean(host: Container) -> None:
    host.run("systemctl", "stop", "fwd")
    assert show(host, "Result") == "success"
    assert host.output("nft", "list", "tables") == ""
    assert "fwd0" not in host.output("ip", "link")
    assert "10.2.0.0" not in host.output("ip", "route")
    assert host.run("test", "-e", "/run/fwd", check=False).returncode != 0
    host.run("systemctl", "start", "fwd")


def test_it_is_removed_and_leaves_the_configuration(host: Container, before: set[str]) -> None:
    host.run("apt-get", "remove", "--yes", "fwd")
    host.run("systemctl", "stop", "far")
    assert host.output("nft", "list", "tables") == ""
    assert host.run("pgrep", "-f", "fwd demux", check=False).stdout == ""
    host.run("test", "-e", "/etc/fwd/fwd.toml")
    host.run("apt-get", "purge", "--yes", "fwd")
    left = files(host) - before
    own = {f"/etc/fwd/{name}" for name in ("fwd.toml", "far.psk", "theirs.toml", "router.toml", "controller.toml")}
    left = {path for path in left if not path.startswith(("/etc/fwd/controller/", "/var/lib/fwd/controller/"))}
    users = {f"/etc/{name}{end}" for name in ("passwd", "group", "shadow", "gshadow") for end in ("", "-")}
    assert left - users == own

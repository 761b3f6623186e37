"""Results against targets: what falls short is marked, for every kind of limit; and the checkout's own targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from samples import results, spread

from fwd.bench import sanity, targets
from fwd.bench.targets import Target, TargetsError

OWN = targets.load(Path(__file__).parents[2] / targets.PATH)


def states(found: dict[str, Any], *wanted: Target) -> list[str]:
    return [verdict.state for verdict in targets.judge(wanted, found)]


def at(found: dict[str, Any], path: str) -> tuple[Any, str]:
    """The dictionary that holds what is at a path, and its key there."""
    *parents, key = path.split("/")
    for parent in parents:
        if isinstance(found, list):
            found = next(entry for entry in found if parent in ("*", str(entry.get("members") or entry["pairs"])))
        else:
            found = found[parent]
    return found, key


def test_the_samples_are_whole_and_good_enough() -> None:
    assert not [fault for result in results().values() for fault in sanity.faults(result)]
    verdicts = targets.judge(OWN, results())
    assert {verdict.state for verdict in verdicts} == {"ok"}, targets.lines(verdicts)
    assert len(verdicts) == len(OWN) - 3 + 8 + 8 + 5  # each point has one


@pytest.mark.parametrize("target", OWN, ids=lambda target: target.figure)
def test_every_target_can_be_missed(target: Target) -> None:
    found = results()
    holder, key = at(found[target.part], target.figure)
    holder[key] = spread(0.0001 if target.at_least or target.at_least_best_of else 50.0, holder[key]["unit"])
    if target.or_more:
        holder, key = at(found[target.part], target.or_more.of)
        holder[key] = spread(5000.0, holder[key]["unit"])
    verdicts = targets.judge(OWN, found)
    assert [v.name for v in verdicts if v.state == "SHORT"] == [
        v.name for v in verdicts if v.name.startswith(target.name)
    ][:1]
    assert targets.short(verdicts)
    assert sum(line.endswith("SHORT") for line in targets.lines(verdicts)) == 1


@pytest.mark.parametrize("target", OWN, ids=lambda target: target.figure)
def test_a_missing_figure_falls_short(target: Target) -> None:
    found = results()
    holder, key = at(found[target.part], target.figure)
    if "*" in target.figure:
        found["scale"][target.figure.partition("/")[0]]["points"] = []
    else:
        del holder[key]
    assert states(found, target) == ["SHORT"]


def test_limits_are_met_at_the_limit_but_not_below_it() -> None:
    found = {"profile": {"quick": False, "demux_share": 0.2}}

    def state(**limit: Any) -> list[str]:
        return states(found, Target(name="x", part="profile", figure="demux_share", **limit))

    assert state(at_least=0.2) == state(at_most=0.2) == ["ok"]
    assert state(below=0.2) == state(at_least=0.21) == state(at_most=0.19) == ["SHORT"]
    assert state(at_least=0.1, at_most=0.15) == ["SHORT"]


def test_a_ping_may_be_slower_by_ratio_or_by_time() -> None:
    found = results()
    target = next(target for target in OWN if target.figure == "ratios/ping-idle-p50/openvpn-2.6")
    pings = found["peers"]["measurements"]["ping-idle-p50"]
    found["peers"]["ratios"]["ping-idle-p50"]["openvpn-2.6"] = spread(2.0, "ratio")
    pings["openvpn-2.6"] = spread(0.2, "ms")
    pings["fwd"] = spread(0.4, "ms")
    assert states(found, target) == ["ok"]
    pings["fwd"] = spread(0.6, "ms")
    assert states(found, target) == ["SHORT"]


def test_the_best_peer_counts_whoever_it_is() -> None:
    found = results()
    target = next(target for target in OWN if target.figure == "measurements/loss-1/fwd")
    shares = found["peers"]["measurements"]["loss-1"]
    shares["fwd"] = spread(0.89, "share")
    shares["plain"] = spread(0.99, "share")  # no peer
    shares["strongswan"] = spread(0.94, "share")
    assert states(found, target) == ["ok"]
    shares["wireguard-go:new"] = spread(0.95, "share")
    verdict = targets.judge([target], found)[0]
    assert verdict.state == "SHORT"
    assert "0.9 beside wireguard-go:new" in verdict.target


def test_a_limit_may_be_made_of_the_best_peers_and_be_one_of_two() -> None:
    found = results()
    names = ("openvpn-*", "strongswan")
    figure = "measurements/ping-loaded-p50/fwd"
    target = Target(name="x", part="peers", figure=figure, at_most=5, at_most_best_of=names, times=0.5)
    pings = found["peers"]["measurements"]["ping-loaded-p50"]
    for fwd_ms, openvpn_ms, state in ((5, 1, "ok"), (5.1, 1, "SHORT"), (5.1, 10.2, "ok"), (5.1, 10, "SHORT")):
        pings |= {"fwd": spread(fwd_ms, "ms"), "openvpn-2.6": spread(openvpn_ms, "ms")}
        pings |= {"openvpn-2.7": spread(50, "ms"), "strongswan": spread(99, "ms")}
        assert states(found, target) == [state]
    [verdict] = targets.judge([target], found)
    assert verdict.target == "at most 5, or 0.5 × the best peer's: 5 beside openvpn-2.6"
    for name in ("openvpn-2.6", "openvpn-2.7", "strongswan"):
        del pings[name]
    assert states(found, target) == ["SHORT"]


def test_segments_retransmitted_may_be_so_many_more_than_a_peers() -> None:
    found = results()
    target = next(target for target in OWN if target.figure == "retransmits/tcp-16/fwd")
    segments = found["peers"]["retransmits"]["tcp-16"]
    segments["wireguard-go-2025"] = spread(10, "segments")
    for count, state in ((110, "ok"), (111, "SHORT")):
        segments["fwd"] = spread(count, "segments")
        assert states(found, target) == [state]
    del found["peers"]["peers"]["wireguard-go-2025"]
    assert states(found, target) == ["not run"]


def test_beside_a_version_that_was_not_to_be_had_nothing_falls_short() -> None:
    found = results()
    target = Target(name="x", part="peers", figure="ratios/tcp-1/wireguard-go-2022", at_least=5)
    del found["peers"]["ratios"]["tcp-1"]["wireguard-go-2022"]
    assert states(found, target) == ["SHORT"]
    del found["peers"]["peers"]["wireguard-go-2022"]
    assert states(found, target) == ["not run"]


def test_quick_results_and_absent_parts_are_not_judged() -> None:
    found = results()
    found["profile"] |= {"quick": True, "demux_share": 0.9}
    del found["micro"], found["profile"]["jumbo"]
    of_part: dict[str, set[str]] = {}
    for verdict in targets.judge(OWN, found):
        of_part.setdefault(verdict.part, set()).add(verdict.state)
    assert of_part == {"peers": {"ok"}, "scale": {"ok"}, "micro": {"not run"}, "profile": {"not judged"}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("targets = [", "not TOML"),
        ("targets = [{ part = 'micro', figure = 'x', name = 'y' }]", "no limit"),
        ("targets = [{ part = 'macro', figure = 'x', name = 'y', at_least = 1 }]", "part"),
        ("targets = [{ part = 'micro', figure = 'x', name = 'y', at_leats = 1 }]", "at_leats"),
        ("", "targets"),
    ],
)
def test_bad_targets_are_one_line(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "t.toml"
    path.write_text(text)
    with pytest.raises(TargetsError, match=reason) as caught:
        targets.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)

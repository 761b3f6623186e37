"""Report and plots are made of whatever results there are; the same results give the same files."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from samples import PARTS, results

from fwd.bench import plots, report, targets

OWN = targets.load(Path(__file__).parents[2] / targets.PATH)


def test_the_report_has_every_part_and_its_figures(tmp_path: Path) -> None:
    found = results()
    found["profile"]["demux_share"]["median"] = 0.33
    path = report.write(tmp_path, found, targets.judge(OWN, found), ["peers", "scale"])
    text = path.read_text()
    for words in ("Some CPU, 2 cores, Linux 6.18", "abcdef012345", "numpy 2.0", "Rounds: 3"):
        assert words in text
    for part in PARTS:
        assert f"\n## {part}\n" in text
    assert "![peers](peers.svg)" in text
    assert "failover.svg" not in text
    assert "| demux's share of its gateway's CPU | 0.33 (0.142 to 0.158) | below 0.2 | **SHORT** |" in text
    assert "| tcp-4, Mbit/s | 2,000 (1,900 to 2,100) | 900 (855 to 945) |" in text
    assert "3 probes lost (0.30%)" in text
    widths = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert min(widths) >= 4, "a table lost its columns"


@pytest.mark.parametrize("part", PARTS)
def test_one_part_is_enough(part: str, tmp_path: Path) -> None:
    text = report.write(tmp_path, {part: results()[part]}, [], []).read_text()
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## Environment", f"## {part}"]


def test_it_says_where_peers_are_from_and_why_newer_ones_are_missing(tmp_path: Path) -> None:
    found = results()
    found["peers"]["peers"]["openvpn-2.7"]["source"] = "Debian sid: openvpn 2.7.8-1, SHA-256 29ff"
    assert "| Debian sid: openvpn 2.7.8-1, SHA-256 29ff |" in report.write(tmp_path, found, [], []).read_text()
    assert "not fetched" not in (tmp_path / report.FILE).read_text()
    found["peers"]["unfetched"] = "apt-get: no network"
    assert "not measured: apt-get: no network." in report.write(tmp_path, found, [], []).read_text()


def test_quick_and_mixed_results_say_so(tmp_path: Path) -> None:
    found = results()
    found["micro"]["quick"] = True
    found["scale"]["environment"]["commit"] = "fedcba"
    text = report.write(tmp_path, found, [], []).read_text()
    assert "quick run" in text
    assert "12 s (quick)" in text
    assert "different commits" in text


def test_a_profile_without_sampler_has_no_stages(tmp_path: Path) -> None:
    found = results()["profile"]
    found["sampler"] = "none: py-spy is not there"
    for process in found["processes"].values():
        del process["stages"], process["samples"], process["waiting"]
    text = report.write(tmp_path, {"profile": found}, [], []).read_text()
    assert "py-spy is not there" in text
    assert "seal" not in text


@pytest.mark.slow
def test_plots_are_drawn_and_drawn_alike(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for out in (first, second):
        out.mkdir()
        assert plots.draw(out, results()) == ["peers", "scale", "failover"]
    for path in sorted(first.iterdir()):
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name
        if path.suffix == ".svg":
            assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        else:
            assert path.read_bytes().startswith(b"\x89PNG")
    assert len(list(first.iterdir())) == 6


@pytest.mark.slow
def test_plots_of_a_quick_run_leave_out_what_it_left_out(tmp_path: Path) -> None:
    found = results()["peers"]
    found["quick"] = True
    for kind in ("tcp-16", "tcp-1", "udp-64"):
        del found["measurements"][kind]
    del found["measurements"]["tcp-4"]["plain"]
    found["measurements"]["tcp-4"]["wireguard-go:new"] = found["measurements"]["tcp-4"]["openvpn-2.6"]
    assert plots.draw(tmp_path, {"peers": found}) == ["peers"]
    assert "QUICK" in plots.footer(found, "")

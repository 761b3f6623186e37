"""A full run held against its targets: a line a figure, and what falls short is marked.

bench/targets.toml says what the words of a target mean. A quick result is never judged: it shows that all figures are
there, not how fast anything is. A figure that its part should have and has not falls short; one beside a version of a
peer that was not to be had was not run. Refuses: a file that is not as it must be (`TargetsError`, one line).
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from fwd.bench.result import Figure, Result, figure
from fwd.proto.errors import UserError

State = Literal["ok", "SHORT", "not run", "not judged"]
PATH: Final = Path("bench/targets.toml")  # in a checkout


class TargetsError(UserError):
    """Targets that cannot be used; one line for the user."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class More(_Strict):
    """A way out of a limit: no more than so much above a neighbour."""

    of: str
    than: str
    by: float


class Target(_Strict):
    name: str
    part: Literal["peers", "scale", "micro", "costs", "failover", "profile"]
    figure: str
    at_least: float | None = None
    at_most: float | None = None
    below: float | None = None
    at_least_best_of: tuple[str, ...] = ()
    at_most_best_of: tuple[str, ...] = ()
    times: float = 1
    plus: float = 0
    or_more: More | None = None

    @model_validator(mode="after")
    def _limited(self) -> Target:
        limited = any(limit is not None for limit in (self.at_least, self.at_most, self.below))
        if not (limited or self.at_least_best_of or self.at_most_best_of):
            raise ValueError("no limit: give at_least, at_most, below, at_least_best_of or at_most_best_of")
        return self


class _Targets(_Strict):
    targets: list[Target]


@dataclass(frozen=True)
class Verdict:
    """One figure, what it had to be, and whether it is."""

    part: str
    name: str
    measured: str
    target: str
    state: State


def default_path() -> Path | None:
    """bench/targets.toml of the checkout that this runs from; None outside one."""
    path = Path(__file__).parents[2] / PATH
    return path if path.is_file() else None


def load(path: Path) -> list[Target]:
    """Read and check a file of targets. Raises TargetsError."""
    try:
        return _Targets.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))).targets
    except OSError as error:
        raise TargetsError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TargetsError(f"{path}: not TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise TargetsError(f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}") from None


def judge(targets: Iterable[Target], results: Mapping[str, Result]) -> list[Verdict]:
    """The verdict on every target; `results` by part, those that have been run."""
    return [verdict for target in targets for verdict in _judge(target, results.get(target.part))]


def short(verdicts: Iterable[Verdict]) -> bool:
    """Does anything fall short?"""
    return any(verdict.state == "SHORT" for verdict in verdicts)


def lines(verdicts: Sequence[Verdict]) -> list[str]:
    """A line a figure, in columns."""
    rows = [(v.part, v.name, v.measured, v.target, v.state) for v in verdicts]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(5)]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _judge(target: Target, result: Result | None) -> Iterator[Verdict]:
    if result is None:
        yield Verdict(target.part, target.name, "–", _limit(target), "not run")
        return
    found = list(find(result, target.figure))
    if _is_absent(result, target.figure.rpartition("/")[2], target.or_more.than if target.or_more else ""):
        yield Verdict(target.part, target.name, "–", _limit(target), "not run")
        return
    if not found:
        state: State = "not judged" if result["quick"] else "SHORT"
        yield Verdict(target.part, target.name, "–" if result["quick"] else "missing", _limit(target), state)
    for label, value in found:
        name = f"{target.name}, {label}" if label else target.name
        ok, measured, limit = _compare(target, result, value)
        state = "not judged" if result["quick"] else "ok" if ok else "SHORT"
        yield Verdict(target.part, name, measured, limit, state)


def _is_absent(result: Result, *names: str) -> bool:
    """Whether one of these is a version of a peer that was not to be had where this was measured."""
    versions = [name for name in names if re.fullmatch(r"(openvpn|wireguard-go)-[\d.]+", name)]
    return any(name not in result["peers"] for name in versions)


def _compare(target: Target, result: Result, value: Figure) -> tuple[bool, str, str]:
    """Whether it is met, what was measured, and the limit, which may depend on what was."""
    median, measured, limit = value["median"], text(value), _limit(target)
    ok = target.at_least is None or median >= target.at_least
    ok = ok and (target.at_most is None or median <= target.at_most)
    ok = ok and (target.below is None or median < target.below)

    # The limit may be the best peer's figure.
    if target.at_least_best_of:
        best = max(_neighbours(result, target.figure, target.at_least_best_of), default=None)
        wanted = best[0] * target.times + target.plus if best else math.inf
        limit += f": {number(wanted)} beside {best[1]}" if best else ": none measured"
        ok = ok and median >= wanted
    if target.at_most_best_of:
        best = min(_neighbours(result, target.figure, target.at_most_best_of), default=None)
        wanted = best[0] * target.times + target.plus if best else -math.inf
        limit += f": {number(wanted)} beside {best[1]}" if best else ": none measured"
        ok = median <= wanted or (target.at_most is not None and ok)

    # What is missed by little is met, if little is allowed.
    if target.or_more:
        more = _more(result, target.or_more)
        if more is not None:
            measured += f", {more[0]:+.3g} {more[1]}"
            ok = ok or more[0] <= target.or_more.by
    return ok, measured, limit


def _limit(target: Target) -> str:
    if target.at_least is not None and target.at_most is not None:
        words = f"{target.at_least:g} to {target.at_most:g}"
    else:
        limits = (("at least", target.at_least), ("at most", target.at_most), ("below", target.below))
        words = ", ".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)
    if target.at_least_best_of:
        words = f"at least {_best(target)}"
    if target.at_most_best_of:
        words = f"{words or 'at most'}{', or ' if words else ' '}{_best(target)}"
    return words + (f", or {target.or_more.by:g} more than {target.or_more.than}" if target.or_more else "")


def _best(target: Target) -> str:
    """The limit that the best peer's figure is, or what is made of it."""
    times = f"{target.times:g} × " if target.times != 1 else ""
    return f"{times}the best peer's" + (f" {target.plus:+g}" if target.plus else "")


def _more(result: Result, more: More) -> tuple[float, str] | None:
    """How much the one exceeds the other, in the median, and the unit."""
    mine = next(find(result, more.of), None)
    theirs = next(find(result, _beside(more.of, more.than)), None)
    if mine is None or theirs is None:
        return None
    return mine[1]["median"] - theirs[1]["median"], mine[1]["unit"]


def _neighbours(result: Result, path: str, names: Iterable[str]) -> Iterator[tuple[float, str]]:
    """(median, key) of the figures beside one."""
    parent: Any = result
    for key in path.split("/")[:-1]:
        parent = parent.get(key, {}) if isinstance(parent, Mapping) else {}
    for key, value in parent.items():
        if any(fnmatchcase(key, name) for name in names):
            yield value["median"], key


def _beside(path: str, name: str) -> str:
    return "/".join([*path.split("/")[:-1], name])


def find(result: Any, path: str) -> Iterator[tuple[str, Figure]]:
    """Every figure at a path, with how many members or pairs the list's entry has if the path goes through one.

    A plain number is a figure measured once.
    """
    yield from _find(result, path.split("/"), "")


def _find(value: Any, keys: Sequence[str], label: str) -> Iterator[tuple[str, Figure]]:
    if not keys:
        if isinstance(value, Mapping) and "median" in value:
            yield label, dict(value)
        elif isinstance(value, int | float):
            yield label, figure([value], "")
    elif isinstance(value, list):
        for entry in value:
            counted = next((word for word in ("members", "pairs") if word in entry), "")
            number = str(entry.get(counted, ""))
            if keys[0] in ("*", number):
                yield from _find(entry, keys[1:], f"{number} {counted}".strip())
    elif isinstance(value, Mapping) and keys[0] in value:
        yield from _find(value[keys[0]], keys[1:], label)


def text(value: Figure) -> str:
    """Median and spread, as everything that is printed shows them."""
    unit = {"ratio": " ×", "share": "", "": ""}.get(value["unit"], f" {value['unit']}")
    spread = f" ({number(value['low'])} to {number(value['high'])})" if len(value["values"]) > 1 else ""
    return f"{number(value['median'])}{unit}{spread}"


def number(value: float) -> str:
    """Three digits that count, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"

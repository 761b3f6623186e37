"""What a member's pairs of SAs want of IKE, and on which to send: pure functions of what there is (pair.py)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from fwd.keyd.pair import Pair, Times
from fwd.keyd.pair_states import Life
from fwd.proto.ike.causes import By

BEREFT_S: Final = 0.3  # between attempts to replace what a dead incarnation has sent on


def missing(pairs: Collection[Pair], current: Pair | None, authentication: int, spares: int) -> int:
    """Return how many pairs more there should be, when one is in use and so many are spare."""
    have = sum(pair.life in (Life.WAITING, Life.SPARE) and pair.is_fresh(authentication) for pair in pairs)
    have += current is not None and current.is_fresh(authentication)
    return max(0, 1 + spares - have)


def spares_of(pairs: Collection[Pair], authentication: int) -> list[Pair]:
    """Those that may be sent on, fresh ones first."""
    return sorted((pair for pair in pairs if pair.spare), key=lambda pair: not pair.is_fresh(authentication))


def to_switch_to(
    pairs: Collection[Pair], current: Pair | None, authentication: int, times: Times, now: float
) -> Pair | None:
    """Return the pair to send on instead of `current`; None: there is no reason to, or no other.

    What is sent on is left when it is gone; when it is to be superseded; and when its end comes near and the far side
    does not replace it.
    """
    spares = spares_of(pairs, authentication)
    if current is None or current.gone:
        return next((one for one in spares if current and one.spi == current.successor), spares[0] if spares else None)
    if not current.is_fresh(authentication):
        return next((one for one in spares if one.is_fresh(authentication)), None)
    ends = current.is_left_to_end(times, now)
    return next((one for one in spares if ends and not one.is_old(times, now)), None)


def to_hurry(pairs: Collection[Pair], current: Pair | None, *, silent: bool) -> Pair | None:
    """Return the pair to send on though its peer may not have its half yet, as nothing is lost by it.

    The peer takes nothing on `current` any more, or a member that has sent before is `silent`: it has no SA.
    """
    lost = silent if current is None else current.deaf
    if not lost or any(pair.spare for pair in pairs):
        return None
    return next((pair for pair in reversed(list(pairs)) if pair.life is Life.WAITING), None)


def to_retire(pairs: Collection[Pair], current: Pair | None, authentication: int) -> list[Pair]:
    """Return the spares that carry other subnets than are configured, once others are sent on, and wait."""
    outdated = [pair for pair in pairs if pair.spare and pair.outdated]
    if not outdated or current is None or not current.is_fresh(authentication):
        return []
    return outdated if any(pair.spare and pair.is_fresh(authentication) for pair in pairs) else []


def to_rekey(
    pairs: Collection[Pair],
    current: Pair | None,
    renew: By | None,
    times: Times,
    now: float,
    *,
    bereft: bool,
    hold: bool,
    anew_at: float = float("-inf"),
) -> list[tuple[Pair, By]]:
    """Return the pairs whose successor is to be asked for now, and why.

    `renew`: why that in use is to be replaced before its time. `bereft`: the incarnation that sent on it is dead, and
    the next has nothing else. `hold`: the far side has just refused, and is not asked again yet. `anew_at`: when a user
    wanted new keys; a spare of before may have come into use since, as both sides replaced the same pair at once.
    """
    found = []
    for pair in pairs:
        in_use = pair is current and not pair.gone and pair.successor is None
        if pair.outdated or not (in_use or pair.spare):
            continue  # what succeeds a pair has its selectors (RFC 7296 §2.9.2): others are made beside it
        dead = in_use and bereft and now >= max(pair.taken_at, pair.asked_at) + BEREFT_S
        unwanted = in_use and pair.made_at < anew_at
        old = (unwanted or pair.is_old(times, now)) and pair.may_ask_again(times, now)
        if dead or (not hold and (old or (in_use and renew))):
            by = (renew if in_use else None) or (By.USER if unwanted else By.TIMER)
            found.append((pair, By.DEATH if dead else by))
    return found


def needs_more(pairs: Collection[Pair], current: Pair | None, times: Times, now: float, *, renews: bool) -> bool:
    """Whether what is sent on will end, or has, and nothing is there to take its place. `renews`: it is to be replaced
    before its time.
    """
    if any(pair.spare and not pair.is_old(times, now) for pair in pairs):
        return False
    if current is None or current.gone:
        return True
    return current.successor is None and (renews or current.is_old(times, now))

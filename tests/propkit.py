"""How many examples a property is tried with, a quarter unless told, all with `--hypothesis-profile full`; and at how
many of the places in the code something is broken, all unless told: `--one-place-in 8`."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# No clock: a busy machine is no finding.
FULL, QUICK, CHECK = "full", "quick", "check"
settings.register_profile(FULL, max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(QUICK, settings.get_profile(FULL), max_examples=25)
settings.register_profile(CHECK, settings.get_profile(FULL), max_examples=8)

one_place_in = 1  # conftest.py sets it


def examples(full: int) -> int:
    """Return how many examples stand for `full` of them in the profile that is in force."""
    return full * settings().max_examples // settings.get_profile(FULL).max_examples

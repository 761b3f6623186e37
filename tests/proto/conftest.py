"""The forms of a burst's stages: a test that asks for `form` runs in each that there is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from formkit import FORMS, in_form

from fwd.proto import core


@pytest.fixture(scope="module", params=list(FORMS))
def form(request: pytest.FixtureRequest) -> Iterator[str]:
    """SAs that are made meanwhile are worked on in this form."""
    with in_form(request.param):
        yield request.param


@pytest.fixture
def _core() -> None:
    """Where it is turned off, or nothing can build it, pure Python is all there is to test, elsewhere."""
    if not core.in_use:
        pytest.skip("there is no compiled core")

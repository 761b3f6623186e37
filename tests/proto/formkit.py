"""The forms that a burst's stages have here: pure Python, and the compiled core by each library that does AES-GCM."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from fwd.proto import core

# Of ipsec-mb also what it has for other CPUs, as far as this one can run it.
LIBRARIES = ("OPENSSL", "IPSEC_MB", "IPSEC_MB_SSE", "IPSEC_MB_AVX2", "IPSEC_MB_AVX512")
COMPILED: dict[str, int] = {name: number for name in LIBRARIES for number in core.usable([name])}
FORMS: dict[str, int | None] = {"pure": None, **COMPILED}

needs_core = pytest.mark.usefixtures("_core")


@contextlib.contextmanager
def in_form(name: str) -> Iterator[None]:
    """SAs that are made meanwhile are worked on in this form."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "in_use", FORMS[name] is not None)
        patch.setattr(core, "library", FORMS[name])
        yield

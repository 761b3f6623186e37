"""Describes the compiled core to cffi, for setup.py: fwd/proto/core.c over OpenSSL's libcrypto.

It is optional: where there is no compiler, or no header of OpenSSL 3, the build goes on without it, and fwd runs in
pure Python. The header that C includes is also what cffi reads.
"""

from __future__ import annotations

import os
from pathlib import Path

from cffi import FFI

SOURCE = Path(__file__).parents[1] / "fwd" / "proto"
# FWD_CORE_CFLAGS: more of them, such as a sanitizer's, or -Werror, which scripts/setup gives: elsewhere another
# compiler's new warning would leave fwd without the core, and nobody would see why.
FLAGS = [
    *("-O2", "-Wall", "-Wextra", "-fstack-protector-strong", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"),
    *os.environ.get("FWD_CORE_CFLAGS", "").split(),
]

ffi = FFI()
ffi.cdef((SOURCE / "core.h").read_text(encoding="utf-8"))
ffi.set_source(
    "fwd.proto._core",
    '#include "core.h"',
    sources=["fwd/proto/core.c"],
    include_dirs=["fwd/proto"],
    depends=["fwd/proto/core.h"],
    libraries=["crypto"],
    extra_compile_args=FLAGS,
    extra_link_args=["-Wl,-z,relro,-z,now", *os.environ.get("FWD_CORE_CFLAGS", "").split()],
    optional=True,
)

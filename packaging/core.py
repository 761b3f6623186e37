"""Describes the compiled core to cffi, for setup.py: fwd/proto/core.c over OpenSSL, and the stages beside it.

It is optional: where there is no compiler, or no header of OpenSSL 3, the build goes on without it, and fwd runs in
pure Python. Where there is a header of ipsec-mb, the core looks for that library, too, when it runs; it is not linked.
The header that C includes is also what cffi reads.
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
for header in ("core.h", "stages.h", "quick.h"):
    ffi.cdef((SOURCE / header).read_text(encoding="utf-8"))
ffi.set_source(
    "fwd.proto._core",
    '#include "core.h"\n#include "stages.h"\n#include "quick.h"',
    sources=[
        *(f"fwd/proto/{name}.c" for name in ("core", "gcm", "packets", "records")),
        *(f"fwd/datapath/{name}.c" for name in ("receive", "write", "quick")),
    ],
    include_dirs=["fwd/proto"],
    depends=[f"fwd/proto/{name}.h" for name in ("core", "gcm", "stages", "quick", "plan", "octets")],
    libraries=["crypto", "dl"],
    extra_compile_args=FLAGS,
    extra_link_args=["-Wl,-z,relro,-z,now", *os.environ.get("FWD_CORE_CFLAGS", "").split()],
    optional=True,
)

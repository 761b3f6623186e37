"""fwd: a userspace, scale-out IPsec gateway. docs/ARCHITECTURE.md says how it is built."""

import os

__version__ = "0.1.0"

# Nothing compiled is used, though it may be there (proto/core.py).
PURE = os.environ.get("FWD_PURE", "") not in ("", "0")
# `openssl`: of the compiled core's libraries no other is used.
CIPHER = os.environ.get("FWD_CIPHER", "")

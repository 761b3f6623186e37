"""The compiled core as cffi gives it, where it was built; core.h has its functions."""

from typing import Any

ffi: Any
lib: Any

"""What pyproject.toml has no word for: the compiled core, which packaging/core.py describes. All else stands there."""

from setuptools import setup

setup(cffi_modules=["packaging/core.py:ffi"])

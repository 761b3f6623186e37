"""fwd: a userspace, scale-out IPsec gateway. docs/ARCHITECTURE.md says how it is built."""

__version__ = "0.1.0"

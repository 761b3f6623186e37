"""`python -m fwd`: the same command line as the `fwd` script."""

from fwd.cli import main

main()

"""The `fwd` command, also as `python -m fwd`: the command line, and what is asked too often to load all of that."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line; without it `fwd router ready`, which keepalived asks of each router every two seconds."""
    match sys.argv[1:]:
        case ["router", "ready"]:
            _ready(None)
        case ["router", "ready", "--control", path]:
            _ready(path)
        case _:
            from fwd.cli import main as whole

            whole()


def _ready(control: str | None) -> NoReturn:
    from fwd.proto.errors import UserError
    from fwd.router.client import CONTROL, is_ready

    try:
        status = int(not is_ready(Path(control) if control else CONTROL))
    except UserError as error:
        print(f"fwd: {error}", file=sys.stderr)
        status = 2
    sys.exit(status)


if __name__ == "__main__":
    main()

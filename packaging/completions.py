"""Writes the completion scripts for bash, zsh and fish to a directory: `python completions.py DIRECTORY`.

The scripts ask `fwd` itself, so they know every command and option that it has.
"""

from __future__ import annotations

import sys
from pathlib import Path

from typer.completion import get_completion_script

NAMES = {"bash": "fwd", "zsh": "_fwd", "fish": "fwd.fish"}  # as the shells look for them

if __name__ == "__main__":
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for shell, name in NAMES.items():
        script = get_completion_script(prog_name="fwd", complete_var="_FWD_COMPLETE", shell=shell)
        (directory / name).write_text(script + "\n", encoding="utf-8")

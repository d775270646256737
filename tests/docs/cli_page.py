"""docs/reference/cli.md, out of the command line. `python -m tests.checks --write` renews it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from app.cli import app

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"
_HEAD: Final = """# Command line

This page is written from the program, and `make check` compares the two. Settings come from the environment: see
[Operations](../operations.md#settings). Exit codes: 0 done; 1 failed, and one line says why and what to do; 2 wrong
usage. With `--json` there is one object on stdout and nothing else.

"""


def page() -> str:
    """The whole page."""
    # It names the program that runs just now as well.
    text = re.sub(r" -m [\w.]+", "", app.generate_docs())
    lines = [line.rstrip() for line in text.splitlines()]
    while lines and (lines[0].startswith("# ") or not lines[0]):
        lines.pop(0)
    return _HEAD + "\n".join(lines).rstrip() + "\n"

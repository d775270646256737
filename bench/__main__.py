"""`make bench`: every benchmark in its short form, a table at the end, and the figures in bench/results/<date>.json.

`python -m bench ingest feed` runs some; `--long` takes the time that a figure to be quoted deserves.
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson
from rich.console import Console
from rich.table import Table

NAMES: Final = (
    "parse",
    "ingest",
    "feed",
    "outbound",
    "delivery",
    "claims",
    "faults",
    "day",
    "graphql",
    "backlog",
    "pages",
)
RESULTS: Final = Path(__file__).parent / "results"


def main(arguments: list[str]) -> int:
    """Run, show, write down; 2 for what is neither a benchmark nor `--long`, before anything runs."""
    if odd := [name for name in arguments if name.startswith("-") and name != "--long"]:
        print(f"There is no {', '.join(odd)}: python -m bench [NAME …] [--long].", file=sys.stderr)
        return 2
    names = [name for name in arguments if not name.startswith("-")] or list(NAMES)
    if unknown := set(names) - set(NAMES):
        print(f"There is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}.", file=sys.stderr)
        return 2
    short = "--long" not in arguments
    console = Console(stderr=True)
    rows: list[dict[str, Any]] = []
    for name in names:
        with console.status(f"{name} …"):
            found = importlib.import_module(f"bench.{name}").run(short)
        rows += [{"bench": name, **row} for row in (found if isinstance(found, list) else [found])]
    table = Table("bench", "what", "figure", "unit", "floor", "ratio", title="Ratios count; the machine is noisy")
    for row in rows:
        table.add_row(*(str(row.get(name, "")) for name in ("bench", "name", "figure", "unit", "floor", "ratio")))
    Console(width=160).print(table)
    _write(rows, short=short)
    return 0


def _write(rows: list[dict[str, Any]], *, short: bool) -> None:
    now = datetime.now(UTC)
    path = RESULTS / f"{now:%Y-%m-%d}.json"
    kept = orjson.loads(path.read_bytes()) if path.exists() else []
    kept.append(
        {
            "at": f"{now:%Y-%m-%dT%H:%M:%SZ}",
            "form": "short" if short else "long",
            "machine": {"cores": os.cpu_count(), "system": platform.machine(), "python": platform.python_version()},
            "rows": rows,
        }
    )
    RESULTS.mkdir(exist_ok=True)
    path.write_bytes(orjson.dumps(kept, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

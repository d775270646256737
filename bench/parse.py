"""How many ATTLOG lines one core reads in a second, beside merely splitting the same bytes into lines and columns.

The floor is `bytes.split` by LF and by TAB and nothing else, which no reader in this language can do without; it runs
in turn with the readers, so that a slow moment of the machine hits both. The headline is the ten-column form of today's
terminals in bodies of 100 lines; the other forms are there to show what the careful way costs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from protocol.adms.records import read_attlog

LINES = 100
ROUNDS = 5


def body(columns: str, end: str = "\n") -> bytes:
    """A body of 100 lines with the columns after the time as given."""
    lines = (
        f"{1000 + line}\t2026-03-{1 + line % 28:02} {line % 24:02}:{line % 60:02}:{line * 7 % 60:02}\t{columns}{end}"
        for line in range(LINES)
    )
    return "".join(lines).encode()


BODIES = {
    "ten columns": body("255\t15\t0\t0\t0\t0\t0\t0\t"),
    "seven columns": body("0\t1\t0\t0\t0"),
    "seven columns, CRLF": body("0\t1\t0\t0\t0", "\r\n"),
    "four columns": body("1\t0"),
    "ten columns, NUL at the end": body("255\t15\t0\t0\t0\t0\t0\t0\t", "\0\n"),
    "no line readable": body("in\tface"),
}


def floor(raw: bytes) -> None:
    """The least a reader must do."""
    for line in raw.split(b"\n"):
        line.split(b"\t")


def lines_per_second(read: Callable[[bytes], object], raw: bytes, seconds: float) -> float:
    """How fast `read` is, over about as long as asked."""
    bodies = 0
    started = time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds:
        for _ in range(10):
            read(raw)
        bodies += 10
    return bodies * LINES / spent


def run(short: bool) -> dict[str, Any]:
    """The headline as {name, figure, unit, floor, ratio}, the ratio being that to the floor; `others` by form."""
    seconds = 0.1 if short else 1.0
    figures: dict[str, list[float]] = {name: [] for name in BODIES}
    floors: dict[str, list[float]] = {name: [] for name in BODIES}
    for _ in range(ROUNDS):
        for name, raw in BODIES.items():
            floors[name].append(lines_per_second(floor, raw, seconds))
            figures[name].append(lines_per_second(read_attlog, raw, seconds))
    medians = {name: (statistics.median(figures[name]), statistics.median(floors[name])) for name in BODIES}
    rows = {
        name: {"figure": round(figure), "unit": "lines/s", "floor": round(least), "ratio": round(figure / least, 3)}
        for name, (figure, least) in medians.items()
    }
    return {"name": "parse", **rows["ten columns"], "others": rows}


if __name__ == "__main__":
    for form, row in run(short=False)["others"].items():
        print(f"{form:30} {row['figure']:>10,} {row['unit']}   floor {row['floor']:>10,}   ratio {row['ratio']}")

"""The table of a day, from what was written down of it."""

from __future__ import annotations

import math

from bench.day import Day, _rows


def test_a_day_that_leaves_the_quick_lines_alone_says_so_in_one_line() -> None:
    slow = "VIRT000001 00001 2026-03-02T09:00:00 0"
    day = Day(punched={slow: 10.0})

    rows = _rows(day, [(slow, 10.25)], 20.0, {}, {})

    shown = {row["name"]: (row["figure"], row["unit"]) for row in rows}
    assert shown["punch to webhook, a quick line: no punch to time"] == (0, "punches")
    assert shown["punch to webhook, a slow line, 150 ms each way: p99"] == (250.0, "ms")
    assert all(math.isfinite(figure) for figure, _ in shown.values())

"""The guards of pages for people: see tests/guards.py, which takes them away one by one."""

from __future__ import annotations

from tests.guards import Guard

PLAYGROUND = "app/web/playground.py"
AT_PLAYGROUND = "tests/app/web/test_playground.py::test_"

GUARDS: tuple[Guard, ...] = (
    Guard(
        "pages: a demo key does not leave the machine",
        PLAYGROUND,
        [("if near and not forwarded else None", "if not forwarded else None")],
        [AT_PLAYGROUND + "nobody_else_is_handed_a_key"],
    ),
    Guard(
        "pages: a proxy on this machine makes nobody near",
        PLAYGROUND,
        [("if near and not forwarded else None", "if near else None")],
        [AT_PLAYGROUND + "nobody_else_is_handed_a_key"],
    ),
)

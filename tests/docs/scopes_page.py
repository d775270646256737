"""docs/reference/scopes.md, out of what the tests of the schema know. `python -m tests.docs.scopes_page` writes it."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Final

from app.domain import keys
from tests.schema.operations import BELOW, CALLS, NODES, ROOTS

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "scopes.md"
_HEAD: Final = """# Scopes

What each scope of an API key opens. A key without it gets [`permission_denied`](errors/permission_denied.md), and
nothing happens. `python -m tests.docs.scopes_page` writes this page, from a table that the tests check field by field.

`viewer`, `rateLimit`, `node` and `nodes` are open to every key. What `node` finds asks for the scope of its type.
A punch brings its device and its employee along: with `punches:read` alone, their names can be read.
"""


def text() -> str:
    """The page."""
    return "\n".join([_HEAD, *(line for scope in keys.SCOPES for line in _section(scope))])


def _section(scope: str) -> list[str]:
    found: dict[str, set[str]] = defaultdict(set)
    for call in CALLS:
        parent, _, name = call.field.partition(".")
        if call.scope == scope and name not in ("node", "nodes"):
            found[parent if parent in ROOTS else "Field"].add(name if parent in ROOTS else call.field)
    found["Field"] |= {field for field, asked in BELOW.items() if asked == scope}
    found["Type"] = {kind for kind, (_, asked) in NODES.items() if asked == scope}
    plurals = {"Query": "queries", "Mutation": "mutations", "Subscription": "subscriptions", "Field": "fields"}
    lines = [
        f"| {plurals.get(kind, 'types by `node`')} | {', '.join(f'`{name}`' for name in sorted(found[kind]))} |"
        for kind in (*ROOTS, "Field", "Type")
        if found[kind]
    ]
    body = ["| | |", "|---|---|", *lines] if lines else ["Nothing yet."]
    return [f"## `{scope}`", "", *body, ""]


if __name__ == "__main__":
    PAGE.write_text(text())

"""An example of every query, mutation and subscription: docs/reference/examples/<kind>/<field>.graphql, with its
variables beside it as .json where it has some.

Where an id or a name of one's own belongs, the variables say so in words, `<device id>`: the reference shows them like
that, and the tests put in what a tenant of theirs has.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOM: Final = Path(__file__).parents[2] / "docs" / "reference" / "examples"
KINDS: Final = {"query": "Query", "mutation": "Mutation", "subscription": "Subscription"}


@dataclass(frozen=True, slots=True)
class Example:
    """One of them; `variables` as they are written."""

    kind: str
    field: str
    document: str
    variables: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.kind}/{self.field}"

    def filled(self, put: Callable[[str], str]) -> dict[str, Any]:
        """Its variables with each `<…>` replaced."""
        filled: dict[str, Any] = _fill(self.variables, put)
        return filled


def find(kind: str, field: str) -> Example | None:
    """The example of a root field."""
    path = ROOM / kind / f"{field}.graphql"
    if not path.exists():
        return None
    beside = path.with_suffix(".json")
    return Example(kind, field, path.read_text(), json.loads(beside.read_text()) if beside.exists() else {})


def every() -> list[Example]:
    """All that there are."""
    found = [find(path.parent.name, path.stem) for path in sorted(ROOM.glob("*/*.graphql"))]
    return [example for example in found if example is not None]


def _fill(value: Any, put: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {name: _fill(part, put) for name, part in value.items()}
    if isinstance(value, list):
        return [_fill(part, put) for part in value]
    return put(value[1:-1]) if isinstance(value, str) and value.startswith("<") and value.endswith(">") else value

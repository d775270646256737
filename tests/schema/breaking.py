"""What of the published schema a change takes away. `schema/published.graphql` is what clients were last given.

A change that breaks no client moves it forward by itself (`python -m tests.checks --write`). One that does has to be
allowed first, by a line in `schema/breaking_changes.txt`, and stays there: the file is also the history of what clients
had to bear.
"""

from __future__ import annotations

from pathlib import Path

from graphql import GraphQLInputObjectType, find_breaking_changes

from tests.schema.contract import load

ROOM = Path(__file__).parents[2] / "schema"
PUBLISHED = ROOM / "published.graphql"
ALLOWED = ROOM / "breaking_changes.txt"
#: Between a change, as it is reported, and why it may be.
BECAUSE = " -- "


def breaks(published: str, printed: str) -> list[str]:
    """A line for each thing that a client of the one could miss in the other, sorted."""
    old, new = load(published), load(printed)
    found = [
        f"{change.type.name}: {' '.join(change.description.split())}" for change in find_breaking_changes(old, new)
    ]
    for name, kind in new.type_map.items():
        before = old.type_map.get(name)
        if (
            isinstance(kind, GraphQLInputObjectType)
            and isinstance(before, GraphQLInputObjectType)
            and kind.is_one_of > before.is_one_of
        ):
            found.append(f"ONE_OF_ADDED: {name} takes one field only.")
    return sorted(found)


def allowed(text: str) -> dict[str, str]:
    """The changes that may be, each with its reason. ValueError for a line without one."""
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            change, because, reason = line.partition(BECAUSE)
            if not because or not reason.strip():
                raise ValueError(f"{ALLOWED.name}: say after `{BECAUSE.strip()}` why this may be: {line}")
            found[change.strip()] = reason.strip()
    return found


def unallowed(published: str, printed: str, text: str) -> list[str]:
    """The breaks that nobody has allowed."""
    may_be = allowed(text)
    return [change for change in breaks(published, printed) if change not in may_be]

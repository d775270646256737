"""What `make check` asks besides formatting, types and imports: does what is written down agree with what is built?

`python -m tests.checks` compares; with `--write` it first renews the printed schema and
the list of what the contract still misses, to be reviewed like code.
"""

from __future__ import annotations

import asyncio
import difflib
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from alembic.util import CommandError

from app import migrations
from app.embedded import EmbeddedPostgres
from schema import sdl
from tests import guards
from tests.docs import cli_page, events_page, graphql_pages, samples_page
from tests.schema.breaking import ALLOWED, PUBLISHED, unallowed
from tests.schema.contract import CONTRACT, MISSING, differences, load

REFERENCE = (graphql_pages, events_page, cli_page, samples_page)
SNAPSHOT = Path(__file__).parent.parent / "schema" / "schema.graphql"


def schema_is_printed() -> str:
    """Empty when `schema/schema.graphql` is the schema."""
    written, printed = SNAPSHOT.read_text().splitlines(), sdl().splitlines()
    lines = difflib.unified_diff(written, printed, str(SNAPSHOT), "the schema", lineterm="", n=1)
    return "\n".join(lines)


def contract_is_kept() -> str:
    """Empty when nothing of the contract is missing but what is known to be."""
    found = set(differences(load(CONTRACT.read_text()), load(sdl())))
    known = set(MISSING.read_text().splitlines())
    lines = [f"{line}: not in {MISSING.name}" for line in sorted(found - known)]
    return "\n".join(lines + [f"{line}: no longer so, take it out of {MISSING.name}" for line in sorted(known - found)])


def reference_is_written() -> str:
    """Empty when the pages of the reference that are made from the program are what it makes."""
    return "\n".join(
        f"{made.PAGE.name} is out of date: make it anew with --write"
        for made in REFERENCE
        if made.page() != _read(made.PAGE)
    )


def _read(page: Path) -> str:
    return page.read_text() if page.exists() else ""


def guards_stand() -> str:
    """Empty when each guard's lines and tests are where its table says; `make guards` shows the rest."""
    return "\n".join(guards.lost(guards.tables()))


def no_client_is_broken() -> str:
    """Empty when the schema takes nothing away from clients, unless that was allowed; and what it adds is promised."""
    published, printed = PUBLISHED.read_text(), sdl()
    if broken := unallowed(published, printed, ALLOWED.read_text()):
        told = "Deprecate instead; or allow it by a line in schema/breaking_changes.txt (docs/contributing.md)."
        return "\n".join([*broken, told])
    return "" if published == printed else f"{PUBLISHED.name} is out of date: make it anew with --write"


def migrations_match_tables() -> str:
    """Empty when the migrations build what the tables say."""
    with TemporaryDirectory(prefix="punchconnect-check-") as folder, EmbeddedPostgres(Path(folder)) as server:
        asyncio.run(migrations.upgrade(server.url))
        try:
            asyncio.run(migrations.check(server.url))
        except CommandError as exc:
            return str(exc)
    return ""


def main(arguments: list[str]) -> int:
    """Run every check; the exit code says whether all hold."""
    if arguments == ["--write"]:
        SNAPSHOT.write_text(sdl())
        for made in REFERENCE:
            made.PAGE.write_text(made.page())
        if not unallowed(PUBLISHED.read_text(), sdl(), ALLOWED.read_text()):
            PUBLISHED.write_text(sdl())
        MISSING.write_text("".join(f"{line}\n" for line in differences(load(CONTRACT.read_text()), load(sdl()))))
    elif arguments:
        print("usage: python -m tests.checks [--write]", file=sys.stderr)
        return 2
    failed = 0
    for check in (
        schema_is_printed,
        reference_is_written,
        contract_is_kept,
        no_client_is_broken,
        guards_stand,
        migrations_match_tables,
    ):
        told = check()
        failed += bool(told)
        print(f"{check.__name__.replace('_', ' ')}: {told or 'yes'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

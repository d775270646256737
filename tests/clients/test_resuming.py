"""The snippets of the page on the live feed, as they stand there, over a restart of the server."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from app.database import Database
from app.domain import tenants
from app.vault import Vault
from tests.clients.test_clients import HERE, PATIENCE, install, python
from tests.factories import make_device
from tests.schema.world import add_punches, make_view
from tests.server import Server

PAGE = HERE.parent.parent / "docs" / "reference" / "feed.md"
#: What the page leaves to its reader: where the server is, where the cursor is kept, what is done with a punch.
AROUND = """import { writeSync } from "node:fs";
import WebSocket from "ws";
globalThis.WebSocket = WebSocket;
const [url, key, last] = process.argv.slice(2);
const httpUrl = url.replace("ws", "http");
const query = `subscription ($after: String) { punches(after: $after, from: BEGINNING) { cursor punches { pin } } }`;
let kept = null;
const load = () => kept;
const save = (cursor) => { kept = cursor; };
const report = (error) => console.error(error);
const handle = (punches) => {
  for (const { pin } of punches) writeSync(1, `${pin}\\n`);
  if (punches.some(({ pin }) => pin === last)) process.exit(0);
};
"""


AROUND_PYTHON = """import sys
url, key, last = sys.argv[1:]
query = "subscription ($after: String) { punches(after: $after, from: BEGINNING) { cursor punches { pin } } }"
kept = [None]
load = lambda: kept[0]
save = lambda cursor: kept.__setitem__(0, cursor)
report = lambda trouble: print(trouble, file=sys.stderr)
def handle(punches):
    for punch in punches:
        print(punch["pin"], flush=True)
    if any(punch["pin"] == last for punch in punches):
        sys.exit(0)
"""


def snippet(heading: str, language: str) -> str:
    found = re.search(
        rf"^### {re.escape(heading)}\n.*?^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    assert found is not None
    return found[1]


@pytest.mark.parametrize("library", ["graphql-ws", "Apollo Client", "urql"])
async def test_a_client_goes_on_after_a_restart_without_a_gap_or_a_repeat(
    database_url: str, db: Database, vault: Vault, library: str
) -> None:
    await install(HERE)
    script = HERE / f"resuming-{library.split(maxsplit=1)[0].lower()}.tmp.mjs"
    script.write_text(AROUND + snippet(library, "js"))
    try:
        await over_a_restart(database_url, db, vault, "node", str(script))
    finally:
        script.unlink()


@pytest.mark.full
async def test_gql_goes_on_after_a_restart_without_a_gap_or_a_repeat(
    database_url: str, db: Database, vault: Vault, tmp_path: Path
) -> None:
    script = tmp_path / "resuming.py"
    script.write_text(AROUND_PYTHON + snippet("gql, in Python", "py"))

    await over_a_restart(database_url, db, vault, await python("gql"), str(script))


async def over_a_restart(database_url: str, db: Database, vault: Vault, *command: str) -> None:
    """Run it, with punches before, while and after the server is away. It prints each PIN and ends at the last."""
    async with db.across("operate") as connection:
        created = await tenants.create(connection, vault, "Clients")
    tenant_id = created.tenant.id
    device = await make_device(db, tenant_id)
    lines: list[str] = []

    async def punch(*numbers: int) -> None:
        await add_punches(db, tenant_id, device, [make_view(device.id, n, pin=f"{n:03}") for n in numbers])

    async def seen(count: int) -> None:
        while len(lines) < count:
            line = await process.stdout.readline()  # type: ignore[union-attr]
            assert line, "It ended."
            lines.append(line.decode().strip())

    try:
        await punch(1, 2)
        async with Server(database_url) as server:
            url = f"ws://127.0.0.1:{server.port}/graphql"
            process = await asyncio.create_subprocess_exec(
                *command, url, created.api_key, "007", cwd=HERE, stdout=asyncio.subprocess.PIPE
            )
            async with asyncio.timeout(PATIENCE):
                await seen(2)
                await punch(3)
                await seen(3)
        await punch(4, 5)
        async with Server(database_url, port=server.port), asyncio.timeout(PATIENCE):
            await seen(5)
            await punch(6)
            await seen(6)
            await punch(7)
            await seen(7)
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()

    assert lines == [f"{number:03}" for number in range(1, 8)]

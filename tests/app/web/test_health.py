"""Whether a process says that it can serve."""

from __future__ import annotations

import os
import signal

import asyncpg
import orjson

from tests.server import Server


async def test_a_database_that_says_nothing_is_as_good_as_away(fresh_database_url: str, database_url: str) -> None:
    """Nothing else ends the wait here before the test's own patience does."""
    async with Server(fresh_database_url, database_timeout_seconds=300) as server:
        before = await server.get("/readyz")
        watcher = await asyncpg.connect(database_url)
        try:
            name = fresh_database_url.rpartition("/")[2]
            found = await watcher.fetch("SELECT pid FROM pg_stat_activity WHERE datname = $1", name)
            for row in found:
                os.kill(row["pid"], signal.SIGSTOP)
            try:
                meanwhile, alive = await server.get("/readyz"), await server.get("/healthz")
            finally:
                for row in found:
                    os.kill(row["pid"], signal.SIGCONT)
            after = await server.get("/readyz")
        finally:
            await watcher.close()

    assert found
    assert (before.status, after.status, alive.status) == (200, 200, 200)
    assert (meanwhile.status, orjson.loads(meanwhile.body)) == (503, {"status": "unavailable", "database": "away"})

"""The demo tenant of `punchconnect dev`."""

from __future__ import annotations

from pathlib import Path

from app import dev, ids
from app.database import Database
from app.domain import tenants
from tests.conftest import SECRET_KEY


async def test_a_data_directory_that_is_older_than_a_trial_still_works(fresh_database_url: str, tmp_path: Path) -> None:
    here = dev.Installation(
        dev.Plan("127.0.0.1", 8080, tmp_path, devices=1, workers=0), SECRET_KEY, "token", "password"
    )
    here.owner_url = here.app_url = fresh_database_url
    db = Database(fresh_database_url, pool=2)

    async def plan() -> str:
        async with db.across("operate") as connection:
            return (await tenants.get_any(connection, ids.read("ten", here.tenant["tenant_id"]))).plan

    try:
        await dev._provide_tenant(here, tmp_path)
        key, first = here.tenant["api_key"], await plan()
        async with db.across("operate") as connection:  # as it was made by an earlier version, eight days ago
            await connection.execute(
                "UPDATE tenants SET plan = 'TRIAL', trial_ends_at = now() - interval '1 day', created_at = now()"
            )
        await dev._provide_tenant(here, tmp_path)
        again = await plan()
        async with db.across("operate") as connection:
            await tenants.suspend(connection, ids.read("ten", here.tenant["tenant_id"]))
        await dev._provide_tenant(here, tmp_path)

        assert (first, again) == ("ACTIVE", "ACTIVE")
        assert here.tenant["api_key"] == key
        assert await plan() == "SUSPENDED"  # for who tries out what that is like
    finally:
        await db.stop()

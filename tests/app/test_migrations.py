"""What stood in the database before a migration is still right after it."""

from __future__ import annotations

from datetime import UTC, datetime

import asyncpg
import orjson

from app import ids, migrations
from app.embedded import EmbeddedPostgres

NOW = datetime(2026, 3, 1, 7, tzinfo=UTC)


async def test_events_lose_their_cursor_and_people_gain_a_snapshot(postgres: EmbeddedPostgres) -> None:
    tenant_id, employee_id, event_id = ids.new(), ids.new(), ids.new()
    body = {"id": "evt_1", "type": "punch.created", "timestamp": "2026-03-01T07:00:00.000Z", "tenant_id": "ten_1"}
    data = {"pin": "17", "note": 'says "feed_cursor": no'}
    owner = await asyncpg.connect(postgres.url)
    await owner.execute("CREATE DATABASE before_0003")
    await owner.close()
    url = postgres.url.rsplit("/", 1)[0] + "/before_0003"
    await migrations.upgrade(url, "0002")
    owner = await asyncpg.connect(url)
    for table in ("tenants", "employees", "events"):
        await owner.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    await owner.execute(
        "INSERT INTO tenants (id, name, plan, created_at) VALUES ($1, 'Old', 'TRIAL', $2)", tenant_id, NOW
    )
    await owner.execute(
        "INSERT INTO employees (tenant_id, id, pin, name, privilege, created_at, updated_at) "
        "VALUES ($1, $2, '17', 'Zoë', 'USER', $3, $3)",
        tenant_id,
        employee_id,
        NOW,
    )
    await owner.execute(
        "INSERT INTO events (tenant_id, position, id, type, body, created_at) VALUES ($1, 1, $2, $3, $4, $5)",
        tenant_id,
        event_id,
        "punch.created",
        orjson.dumps({**body, "feed_cursor": "MDAw.abc", "data": data}).decode(),
        NOW,
    )

    await migrations.upgrade(url)

    for table in ("employees", "events"):
        await owner.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    snapshot = await owner.fetchval("SELECT snapshot FROM employees WHERE id = $1", employee_id)
    assert orjson.loads(snapshot) == {"id": ids.show("emp", employee_id), "name": "Zoë", "external_id": None}
    assert orjson.loads(await owner.fetchval("SELECT body FROM events WHERE id = $1", event_id)) == {
        **body,
        "data": data,
    }
    await owner.close()

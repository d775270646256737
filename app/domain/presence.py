"""Who is in touch. A contact brings a device online, a missed one takes it offline, and each change is announced once.

`devices.online` is what was announced last. It is looked at and turned under the row's lock, so of all processes that
notice a change the first announces it, and the others find it done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from app import ids
from app.database import Connection
from app.domain import bindings, outbox, reconciliations
from app.domain.bindings import Contact
from app.domain.devices import PATIENCE
from app.domain.events import EventType, Happening, Logged, timestamp
from app.domain.tables import now

_CAME: Final = """
UPDATE devices d SET online = true FROM (
    SELECT d.tenant_id, d.id FROM devices d
    JOIN unnest($1::uuid[], $2::uuid[]) AS c (tenant_id, id) USING (tenant_id, id)
    WHERE NOT d.online ORDER BY d.tenant_id, d.id FOR NO KEY UPDATE OF d
) AS came
WHERE d.tenant_id = came.tenant_id AND d.id = came.id AND NOT d.online
RETURNING d.tenant_id, d.id, d.serial_number, d.name, d.site_id, d.last_seen_at
"""

_MISSED: Final = """
UPDATE devices d SET online = false FROM (
    SELECT d.tenant_id, d.id FROM devices d
    WHERE d.tenant_id = $1 AND d.online AND d.status <> 'RETIRED' AND d.last_seen_at < now() - $2::interval
    ORDER BY d.id LIMIT $3 FOR NO KEY UPDATE SKIP LOCKED
) AS missed
WHERE d.tenant_id = missed.tenant_id AND d.id = missed.id AND d.online AND d.last_seen_at < now() - $2::interval
RETURNING d.tenant_id, d.id, d.serial_number, d.name, d.site_id, d.last_seen_at
"""


async def note(connection: Connection, contacts: Mapping[tuple[UUID, UUID], Contact]) -> list[Logged]:
    """Write down many contacts, and announce those who were away; ring with the events. Purpose "ingest"."""
    await bindings.note(connection, contacts)
    rows = await connection.fetch(
        _CAME, [tenant_id for tenant_id, _ in contacts], [device_id for _, device_id in contacts]
    )
    await reconciliations.hasten(connection, [(row[0], row[1]) for row in rows])
    return await outbox.announce(connection, [_changed(EventType.DEVICE_ONLINE, row) for row in rows])


async def tenants_with_missed(connection: Connection, delay: timedelta, limit: int) -> list[UUID]:
    """Tenants with devices that were not heard of, some of them, when each is to call every `delay`.

    Purpose "operate".
    """
    rows = await connection.fetch(
        "SELECT DISTINCT tenant_id FROM (SELECT tenant_id FROM devices WHERE online AND status <> 'RETIRED' "
        "AND last_seen_at < now() - $1::interval ORDER BY last_seen_at LIMIT $2) AS missed",
        delay + PATIENCE,
        limit,
    )
    return [row[0] for row in rows]


async def miss(connection: Connection, tenant_id: UUID, delay: timedelta, limit: int) -> list[Logged]:
    """Announce up to `limit` of the tenant's devices that were not heard of as offline. Purpose "ingest"."""
    rows: Sequence[tuple[UUID, UUID, str, str, UUID | None, datetime]] = await connection.fetch(
        _MISSED, tenant_id, delay + PATIENCE, limit
    )
    return await outbox.announce(connection, [_changed(EventType.DEVICE_OFFLINE, row) for row in rows])


def _changed(type: EventType, row: tuple[UUID, UUID, str, str, UUID | None, datetime]) -> Happening:
    tenant_id, device_id, serial_number, name, site_id, last_seen_at = row
    data = {
        "id": ids.show("dev", device_id),
        "serial_number": serial_number,
        "name": name,
        "site_id": ids.show("sit", site_id) if site_id else None,
        "last_seen_at": timestamp(last_seen_at),
    }
    return Happening(tenant_id, type, data, ids.new(), now())

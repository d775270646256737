"""What passed between one terminal and us, the latest first: when it came and went, what it was told, what it sent.

Nothing is kept for this; it is read together from what is kept anyway. Punches have lists of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from app import ids
from app.database import Session, driver

MOST: Final = 100


class ContactKind(StrEnum):
    """What happened."""

    BOUND = "device.bound"
    ONLINE = "device.online"
    OFFLINE = "device.offline"
    TOLD = "told"
    REPORTED = "reported"
    SENT = "sent"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Contact:
    """One moment. `what` is a command's kind, an upload's table, or why a line cannot be read."""

    at: datetime
    kind: ContactKind
    what: str | None = None
    #: A command's status, as it is now.
    outcome: str | None = None
    #: Records in an upload.
    count: int | None = None


# Each part by an index of its own, the latest first, so that a quiet terminal costs no more than a busy one.
_TIMELINE: Final = """
SELECT * FROM (
    (SELECT created_at AS at, type AS kind, NULL AS what, NULL AS outcome, NULL::integer AS count FROM events
     WHERE tenant_id = $1 AND body::jsonb #>> '{data,id}' = $3
       AND type IN ('device.bound', 'device.online', 'device.offline') ORDER BY position DESC LIMIT $4)
    UNION ALL
    (SELECT sent_at, 'told', kind, status, NULL FROM device_commands
     WHERE tenant_id = $1 AND device_id = $2 AND sent_at IS NOT NULL ORDER BY id DESC LIMIT $4)
    UNION ALL
    (SELECT completed_at, 'reported', kind, status, NULL FROM device_commands
     WHERE tenant_id = $1 AND device_id = $2 AND sent_at IS NOT NULL AND completed_at IS NOT NULL
     ORDER BY id DESC LIMIT $4)
    UNION ALL
    (SELECT received_at, 'sent', table_name, NULL, record_count FROM kept_uploads
     WHERE tenant_id = $1 AND device_id = $2 ORDER BY id DESC LIMIT $4)
    UNION ALL
    (SELECT received_at, 'unreadable', reason, NULL, NULL FROM rejected_records
     WHERE tenant_id = $1 AND device_id = $2 ORDER BY id DESC LIMIT $4)
) AS timeline ORDER BY at DESC LIMIT $4
"""


async def timeline(session: Session, tenant_id: UUID, device_id: UUID, limit: int = 30) -> list[Contact]:
    """The latest contacts of the tenant's device, at most `limit`; none of another tenant's."""
    connection = await driver(session)
    rows = await connection.fetch(_TIMELINE, tenant_id, device_id, ids.show("dev", device_id), min(limit, MOST))
    return [Contact(row[0], ContactKind(row[1]), row[2], row[3], row[4]) for row in rows]
